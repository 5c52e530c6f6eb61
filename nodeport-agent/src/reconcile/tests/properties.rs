//! Properties over generated histories of desired states.

use std::time::Duration;

use nodeport_common::{V4, V6};
use proptest::prelude::*;

use super::audit::AuditStore;
use super::build::{Service, TestClock, desired, service};
use super::view::{View, seen, wanted};
use crate::maps::{Controls, Faults, FaultyStore, MemoryStore, Store};
use crate::model::desired::Desired;
use crate::plan::{Ip, Limits, Slots, Tables, diff};
use crate::reconcile::{GRACE, Reconciler, Report};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const CLUSTER_IPS: [&str; 5] = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "fd00::1", "fd00::2"];
const ENDPOINTS: [&str; 7] = [
    "10.1.0.1:80",
    "+10.1.0.2:80",
    "10.1.0.3:81",
    "+10.1.0.4:80",
    "[fd01::1]:80",
    "+[fd01::2]:80",
    "[fd01::3]:80",
];

/// Ranges within ranges, in both families.
const SOURCES: [&str; 4] = ["192.0.2.0/24", "192.0.2.7/32", "0.0.0.0/0", "2001:db8::/32"];

/// A node's services: some of four, with addresses and ports from small pools, so that they collide and move.
fn states() -> impl Strategy<Value = Desired> {
    let one = (
        any::<bool>(),
        any::<bool>(),
        prop::sample::subsequence(CLUSTER_IPS.to_vec(), 0..3),
        prop::sample::select(vec![0_u16, 30001, 30002, 30003]),
        prop::sample::subsequence(ENDPOINTS.to_vec(), 0..6),
        prop::sample::subsequence(SOURCES.to_vec(), 0..3),
        prop::sample::select(vec![0_u32, 0, 10, 10_800]),
    );
    let services = prop::collection::vec(prop::option::weighted(0.8, one), NAMES.len());
    let addresses = prop::sample::subsequence(
        vec!["192.0.2.1", "192.0.2.2", "2001:db8::1", "10.96.0.3"],
        0..4,
    );
    (services, addresses, any::<bool>()).prop_map(|(services, addresses, turned)| {
        let mut services: Vec<Service> = NAMES
            .iter()
            .zip(services)
            .filter_map(|(name, shape)| Some((name, shape?)))
            .map(
                |(name, (udp, local, ips, port, endpoints, sources, affinity))| {
                    let mut made = service(name).node_port(port).endpoints(&endpoints);
                    made = made.sources(&sources).affinity(affinity);
                    made = ips.iter().fold(made, |made, ip| made.cluster_ip(ip));
                    made = if udp { made.udp() } else { made };
                    if local { made.local_policy() } else { made }
                },
            )
            .collect();
        if turned {
            services.reverse();
        }
        let mut state = desired(&services);
        for ip in addresses {
            let ip = ip.parse().expect("an address");
            state.host_addresses.insert(ip);
            state.node_port_addresses.insert(ip);
        }
        state
    })
}

pub(super) fn histories() -> impl Strategy<Value = Vec<(Desired, u64)>> {
    prop::collection::vec((states(), 0..1500_u64), 2..6)
}

/// A pass; and passes until nothing waits or fails any more.
fn settle<S: Store>(
    reconciler: &mut Reconciler<S, TestClock>,
    clock: &TestClock,
    state: &Desired,
) -> Report {
    for _ in 0..100 {
        let report = reconciler.apply(state);
        let Some(after) = report.retry_after else {
            return report;
        };
        // Something else may change before that.
        clock.advance(after / 10);
    }
    panic!("does not settle");
}

/// Every slot is in use by exactly one set, or resting, or free; and after the grace period only what is named is in use.
fn no_slot_is_lost<S: Store>(
    reconciler: &mut Reconciler<S, TestClock>,
    clock: &TestClock,
    state: &Desired,
) {
    clock.advance(GRACE);
    assert!(reconciler.apply(state).is_complete());
    let (v4, v6) = (reconciler.installed().v4(), reconciler.installed().v6());
    let slots = |free: &Slots| free.capacity() - free.available() - free.resting();
    assert_eq!(slots(v4.sets().slots()), used(v4));
    assert_eq!(slots(v6.sets().slots()), used(v6));
    assert_eq!(v4.sets().slots().resting() + v6.sets().slots().resting(), 0);
}

/// How many slots the front ends name.
fn used<A: Ip>(tables: &Tables<A>) -> u32 {
    let mut ranges: Vec<(u32, u32)> = tables
        .frontends()
        .values()
        .flat_map(|value| [(value.base, value.len), (value.local_base, value.local_len)])
        .filter(|range| range.1 > 0)
        .collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges.iter().map(|range| range.1).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// After each written entry every front end has its old or its new sets, a front end of both states is never absent, and
    /// no slot is written that a program may still read. In the end the maps say what is desired.
    #[test]
    fn every_step_is_safe(history in histories()) {
        let clock = TestClock::default();
        let store = AuditStore::new(MemoryStore::new(), clock.clone());
        let mut reconciler = Reconciler::adopt(store, clock.clone()).expect("readable");
        for (state, pause) in &history {
            reconciler.store_mut().expect(wanted(state));
            // What is found by looking at the changes alone is what a look at everything finds, step by step.
            let plan = reconciler.plan(state);
            prop_assert_eq!(plan, diff(state, reconciler.installed()));
            let report = reconciler.apply(state);
            prop_assert!(report.is_complete(), "{:?}", report);
            prop_assert_eq!(seen(reconciler.store()), wanted(state));
            prop_assert!(reconciler.plan(state).is_empty());
            prop_assert!(diff(state, reconciler.installed()).is_empty());
            clock.advance(Duration::from_millis(*pause));
        }
        let last = &history[history.len() - 1].0;
        no_slot_is_lost(&mut reconciler, &clock, last);
    }

    /// Killed at any written entry of any transition, a new agent ends in the desired state (edge-cases I2), and the audit
    /// sees every entry that it writes.
    #[test]
    fn every_crash_is_survived(history in histories()) {
        let clock = TestClock::default();
        let mut store = MemoryStore::new();
        for (state, pause) in &history {
            let faulty = FaultyStore::new(store.clone(), Faults::Never);
            let mut whole = Reconciler::adopt(faulty, clock.clone()).expect("readable");
            whole.apply(state);
            let writes = whole.into_store().count();
            for stop in 0..writes {
                let faulty = FaultyStore::new(store.clone(), Faults::From(stop));
                let mut killed = Reconciler::adopt(faulty, clock.clone()).expect("readable");
                prop_assert!(!killed.apply(state).is_complete());
                let left = killed.into_store().into_inner();
                let generation = left.control().expect("readable").endpoint_generation;
                let serves = !seen(&left).frontends.is_empty();

                let mut audited = AuditStore::new(left, clock.clone());
                audited.expect(wanted(state));
                let mut next = Reconciler::adopt(audited, clock.clone()).expect("readable");
                prop_assert!(next.apply(state).is_complete());
                prop_assert_eq!(seen(next.store()), wanted(state));
                prop_assert!(next.plan(state).is_empty());
                // Endpoints may have gone before the crash: the generation is raised by the next life (17.8).
                let view = wanted(state);
                if serves && view.frontends.values().any(|seen| !seen.inside.is_empty()) {
                    let control = next.store().get::<Controls>(&0).expect("readable");
                    prop_assert!(control.expect("an array").endpoint_generation > generation);
                }
            }
            let mut reconciler = Reconciler::adopt(store, clock.clone()).expect("readable");
            prop_assert!(reconciler.apply(state).is_complete());
            store = reconciler.into_store();
            clock.advance(Duration::from_millis(*pause));
        }
    }

    /// One write in ten fails, some of them only as reported: every step is still safe, and passes end in the desired state.
    #[test]
    fn faults_are_survived(history in histories(), seed in any::<u64>(), lies in any::<bool>()) {
        let clock = TestClock::default();
        let faults = Faults::Percent { percent: 10, seed };
        let mut audit = AuditStore::new(MemoryStore::new(), clock.clone());
        audit.lenient = true;
        let mut faulty = FaultyStore::new(audit, faults);
        if lies {
            faulty = faulty.lying();
        }
        let mut reconciler = Reconciler::adopt(faulty, clock.clone()).expect("readable");
        for (state, pause) in &history {
            reconciler.store_mut().inner_mut().expect(wanted(state));
            let report = settle(&mut reconciler, &clock, state);
            prop_assert!(report.is_complete(), "{:?}", report);
            prop_assert_eq!(seen(reconciler.store()), wanted(state));
            clock.advance(Duration::from_millis(*pause));
        }
        reconciler.store_mut().set_faults(Faults::Never);
        let last = &history[history.len() - 1].0;
        no_slot_is_lost(&mut reconciler, &clock, last);
    }

    /// In maps that are too small every step is still safe, nothing fails, and what is refused is refused as a whole; with
    /// room again the maps say what is desired.
    #[test]
    fn small_maps_refuse_but_never_fail(history in histories(), frontends in 2..9_u32, backends in 4..16_u32, addresses in 2..6_u32, serving in 2..8_u32, sources in 1..4_u32) {
        let limits = Limits { frontends, backends, addresses, serving, sources };
        let clock = TestClock::default();
        let small = MemoryStore::new().with_limits::<V4>(limits).with_limits::<V6>(limits);
        let store = AuditStore::new(small, clock.clone());
        let mut reconciler = Reconciler::adopt(store, clock.clone()).expect("readable");
        for (state, pause) in &history {
            let mut view = wanted(state);
            // A front end may stay away, or go, when its service port is refused.
            let before = seen(reconciler.store());
            let refused: Vec<_> = reconciler.plan(state).refused;
            if refused.is_empty() {
                reconciler.store_mut().expect(view);
            } else {
                view.frontends.retain(|name, _| !before.frontends.contains_key(name));
                reconciler.store_mut().expect(view);
                reconciler.store_mut().allow(wanted(state).frontends);
            }
            let report = reconciler.apply(state);
            prop_assert_eq!(&report.failed, &[]);
            prop_assert_eq!(report.refused.len(), refused.len());
            if refused.is_empty() {
                prop_assert_eq!(seen(reconciler.store()), wanted(state));
            }
            clock.advance(Duration::from_millis(*pause));
        }
        reconciler.store_mut().expect(View::default());
        prop_assert!(reconciler.apply(&Desired::default()).is_complete());
        prop_assert_eq!(seen(reconciler.store()), View::default());
    }
}
