//! Stories with the expected writes written out.

use std::time::Duration;

use nodeport_common::{Frontend, FrontendKey, V4, frontend_flags};

use super::audit::AuditStore;
use super::build::{Service, TestClock, desired, service};
use super::view::{seen, wanted};
use crate::maps::{
    Addresses, Backends, Controls, Faults, FaultyStore, Frontends, MemoryStore, Serving, Store,
};
use crate::reconcile::{GRACE, Reconciler};

pub(super) type Audited = Reconciler<AuditStore<MemoryStore>, TestClock>;

pub(super) fn reconciler(store: MemoryStore) -> (Audited, TestClock) {
    let clock = TestClock::default();
    let store = AuditStore::new(store, clock.clone());
    let reconciler = Reconciler::adopt(store, clock.clone()).expect("readable");
    (reconciler, clock)
}

/// Applies a state that fits, looking at every step; returns the maps written, in order.
pub(super) fn apply(reconciler: &mut Audited, services: &[Service]) -> Vec<&'static str> {
    let desired = desired(services);
    reconciler.store_mut().expect(wanted(&desired));
    let report = reconciler.apply(&desired);
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(seen(reconciler.store()), wanted(&desired));
    reconciler.store().written.clone()
}

fn web() -> Service {
    service("web")
        .cluster_ip("10.96.0.1")
        .node_port(30080)
        .endpoints(&["10.1.0.1:8080", "+10.1.0.2:8080"])
}

fn node_port(reconciler: &Audited, port: u16) -> Option<Frontend> {
    let key = FrontendKey {
        address: [0; 4],
        port: port.to_be_bytes(),
        protocol: 6,
        pad: 0,
    };
    reconciler
        .store()
        .get::<Frontends<V4>>(&key)
        .expect("readable")
}

#[test]
fn a_new_service_is_written_slots_first_and_its_address_last() {
    let (mut reconciler, _) = reconciler(MemoryStore::new());
    let written = apply(&mut reconciler, &[web()]);
    // The ClusterIP and both ports are noted, and that this is all. ClusterIP and NodePort share one set of two slots. The NodePort of the
    // other family has no endpoints.
    assert_eq!(
        written,
        [
            "NOTED4",
            "NOTED4",
            "NOTED4",
            "NOTED4",
            "NOTED6",
            "NOTED6",
            "BACKENDS4",
            "BACKENDS4",
            "FRONTENDS4",
            "FRONTENDS4",
            "FRONTENDS6",
            "ADDRESSES4"
        ]
    );
    let value = node_port(&reconciler, 30080).expect("installed");
    assert_eq!((value.base, value.len), (0, 2));
    assert_eq!((value.local_base, value.local_len), (0, 2));
    assert_eq!(value.flags, frontend_flags::NODE_PORT);
    assert_eq!(value.service, 1);
}

#[test]
fn the_same_state_again_writes_nothing() {
    // behaviours 22.5
    let (mut reconciler, _) = reconciler(MemoryStore::new());
    apply(&mut reconciler, &[web()]);
    assert_eq!(apply(&mut reconciler, &[web()]), Vec::<&str>::new());
    assert!(reconciler.plan(&desired(&[web()])).is_empty());
    // The same after a restart, but for the generation: the former life may have ended just before it was raised.
    let store = reconciler.into_store().inner;
    let (mut reconciler, _) = self::reconciler(store);
    assert_eq!(apply(&mut reconciler, &[web()]), ["CONTROL"]);
    assert_eq!(apply(&mut reconciler, &[web()]), Vec::<&str>::new());
}

#[test]
fn a_new_set_is_written_beside_the_old_one_and_the_old_slots_rest() {
    let (mut reconciler, clock) = reconciler(MemoryStore::new());
    apply(&mut reconciler, &[web()]);
    let one = || web().endpoints(&["10.1.0.1:8080"]);
    let written = apply(&mut reconciler, &[one()]);
    // An endpoint is gone: clients that wait for its first answer look again (edge-cases B11).
    assert_eq!(
        written,
        ["BACKENDS4", "FRONTENDS4", "FRONTENDS4", "CONTROL"]
    );
    let value = node_port(&reconciler, 30080).expect("installed");
    assert_eq!((value.base, value.len), (2, 1));
    // Within the grace period the first two slots are not used again, after it they are.
    apply(&mut reconciler, &[web().endpoints(&["10.1.0.3:8080"])]);
    assert_eq!(
        node_port(&reconciler, 30080).map(|value| value.base),
        Some(3)
    );
    clock.advance(GRACE);
    apply(&mut reconciler, &[one()]);
    assert_eq!(
        node_port(&reconciler, 30080).map(|value| value.base),
        Some(0)
    );
}

#[test]
fn local_policy_has_two_sets_and_drops_where_there_is_no_local_endpoint() {
    // behaviours 6.7, 7.1
    let (mut reconciler, _) = reconciler(MemoryStore::new());
    apply(&mut reconciler, &[web().local_policy()]);
    let value = node_port(&reconciler, 30080).expect("installed");
    assert_eq!((value.len, value.local_len), (1, 2));
    assert_ne!(value.base, value.local_base);
    let remote = web().local_policy().endpoints(&["10.1.0.1:8080"]);
    apply(&mut reconciler, &[remote]);
    let value = node_port(&reconciler, 30080).expect("installed");
    assert_eq!((value.base, value.len, value.local_len), (0, 0, 1));
    let flags =
        frontend_flags::NODE_PORT | frontend_flags::POLICY_LOCAL | frontend_flags::DROP_IF_EMPTY;
    assert_eq!(value.flags, flags);
}

#[test]
fn two_services_swap_their_node_ports_in_either_order() {
    // edge-cases I5
    for turned in [false, true] {
        let (mut reconciler, _) = reconciler(MemoryStore::new());
        let mut services = [
            service("a").node_port(30001).endpoints(&["10.1.0.1:80"]),
            service("b").node_port(30002).endpoints(&["10.1.0.2:80"]),
        ];
        if turned {
            services.reverse();
        }
        apply(&mut reconciler, &services);
        let before = node_port(&reconciler, 30001);
        let (first, second) = (services[0].node_port, services[1].node_port);
        (services[0].node_port, services[1].node_port) = (second, first);
        // Two values in each family, no slot; nothing is deleted.
        let written = apply(&mut reconciler, &services);
        assert_eq!(
            written,
            [
                "FRONTENDS4",
                "FRONTENDS4",
                "FRONTENDS6",
                "FRONTENDS6",
                "CONTROL"
            ]
        );
        assert_eq!(node_port(&reconciler, 30002), before);
    }
}

#[test]
fn a_service_takes_over_the_front_ends_of_a_deleted_one_without_a_gap() {
    let (mut reconciler, _) = reconciler(MemoryStore::new());
    apply(&mut reconciler, &[web()]);
    let mut other = web().endpoints(&["10.1.0.9:8080"]);
    other.name = "other".to_owned();
    let written = apply(&mut reconciler, &[other]);
    assert_eq!(
        written,
        [
            "BACKENDS4",
            "FRONTENDS4",
            "FRONTENDS4",
            "FRONTENDS6",
            "CONTROL"
        ]
    );
    assert_eq!(
        node_port(&reconciler, 30080).map(|value| value.service),
        Some(2)
    );
}

#[test]
fn numbers_survive_a_restart_and_are_not_given_again_soon() {
    let (mut reconciler, _) = reconciler(MemoryStore::new());
    let a = || service("a").node_port(30001);
    let b = || service("b").node_port(30002);
    apply(&mut reconciler, &[a(), b()]);
    apply(&mut reconciler, &[b()]);
    let (mut reconciler, _) = self::reconciler(reconciler.into_store().inner);
    apply(&mut reconciler, &[b(), service("c").node_port(30003)]);
    assert_eq!(
        node_port(&reconciler, 30002).map(|value| value.service),
        Some(2)
    );
    assert_eq!(
        node_port(&reconciler, 30003).map(|value| value.service),
        Some(3)
    );
}

#[test]
fn nothing_is_written_before_the_first_desired_state() {
    // behaviours 22.1, 22.2
    let (mut reconciler, _) = reconciler(MemoryStore::new());
    apply(&mut reconciler, &[web()]);
    let store = reconciler.into_store().inner;
    let faulty = FaultyStore::new(store.clone(), Faults::From(0));
    let reconciler = Reconciler::adopt(faulty, TestClock::default()).expect("readable");
    assert_eq!(reconciler.installed().v4().frontends().len(), 2);
    let faulty = reconciler.into_store();
    assert_eq!((faulty.count(), faulty.inner()), (0, &store));
}

#[test]
fn a_udp_endpoint_that_goes_raises_the_generation_last() {
    // behaviours 17.3, 17.8
    let dns = |endpoints: &[&str]| {
        [service("dns")
            .udp()
            .cluster_ip("10.96.0.10")
            .endpoints(endpoints)]
    };
    let (mut reconciler, _) = reconciler(MemoryStore::new());
    let generation = |reconciler: &Audited| {
        let control = reconciler.store().get::<Controls>(&0);
        control
            .expect("readable")
            .map(|value| value.endpoint_generation)
    };
    let written = apply(&mut reconciler, &dns(&["10.1.0.1:53", "10.1.0.2:53"]));
    assert_eq!(written.last(), Some(&"CONTROL"));
    assert_eq!(generation(&reconciler), Some(1));
    // One more endpoint: no flow is stale.
    let three = ["10.1.0.1:53", "10.1.0.2:53", "10.1.0.3:53"];
    let written = apply(&mut reconciler, &dns(&three));
    assert_eq!(
        written,
        [
            "BACKENDS4",
            "BACKENDS4",
            "BACKENDS4",
            "SERVING4",
            "FRONTENDS4"
        ]
    );
    // One endpoint less: the new set, then the entry, then the generation.
    let written = apply(&mut reconciler, &dns(&three[1..]));
    assert_eq!(
        written,
        [
            "BACKENDS4",
            "BACKENDS4",
            "FRONTENDS4",
            "SERVING4",
            "CONTROL"
        ]
    );
    assert_eq!(generation(&reconciler), Some(2));
    // None left: old flows stay where they are (17.5), so nothing is raised ...
    let written = apply(&mut reconciler, &dns(&[]));
    assert_eq!(written, ["FRONTENDS4", "SERVING4", "SERVING4"]);
    // ... until there is an endpoint that they can move to (17.3, 17.6).
    let written = apply(&mut reconciler, &dns(&["10.1.0.9:53"]));
    assert_eq!(written, ["BACKENDS4", "SERVING4", "FRONTENDS4", "CONTROL"]);
    assert_eq!(generation(&reconciler), Some(3));
    let serving = reconciler.store().entries::<Serving<V4>>();
    assert_eq!(serving.expect("readable").len(), 1);
}

#[test]
fn one_change_among_many_services_writes_only_that_set_and_its_front_ends() {
    let (mut reconciler, _) = reconciler(MemoryStore::new());
    let mut services: Vec<Service> = (0..200_u8)
        .map(|index| {
            service(&format!("s{index:03}"))
                .cluster_ip(&format!("10.96.0.{index}"))
                .endpoints(&[&format!("10.1.0.{index}:80"), &format!("10.2.0.{index}:80")])
        })
        .collect();
    let desired = desired(&services);
    // The audit is for small states; here only the last change matters.
    assert!(
        reconciler
            .store_mut()
            .inner
            .clone()
            .limit::<Backends<V4>>()
            .is_ok()
    );
    let mut plain = Reconciler::adopt(MemoryStore::new(), TestClock::default()).expect("readable");
    assert!(plain.apply(&desired).is_complete());
    let (mut reconciler, _) = self::reconciler(plain.into_store());
    services[77].endpoints.pop();
    let written = apply(&mut reconciler, &services);
    assert_eq!(written, ["BACKENDS4", "FRONTENDS4", "CONTROL"]);
}

#[test]
fn a_failed_write_stops_only_its_service_and_the_next_pass_goes_on() {
    let mut reconciler = Reconciler::adopt(
        FaultyStore::new(MemoryStore::new(), Faults::At([7].into())),
        TestClock::default(),
    )
    .expect("readable");
    let a = service("a")
        .cluster_ip("10.96.0.1")
        .endpoints(&["10.1.0.1:80"]);
    let b = service("b")
        .cluster_ip("10.96.0.2")
        .endpoints(&["10.1.0.2:80"]);
    let c = service("c")
        .cluster_ip("10.96.0.3")
        .endpoints(&["10.1.0.3:80"]);
    let state = desired(&[a.clone(), b.clone(), c.clone()]);
    let report = reconciler.apply(&state);
    assert_eq!(report.failed.len(), 1);
    let failed = &report.failed[0];
    assert_eq!(failed.service_port, Some(b.name()));
    assert_eq!(failed.map, "BACKENDS4");
    assert_eq!(failed.step, "BACKENDS4: write slots 1: 10.1.0.2:80");
    assert_eq!(failed.error, "map BACKENDS4: put: injected");
    assert_eq!(report.retry_after, Some(Duration::from_secs(1)));
    assert_eq!(seen(reconciler.store()), wanted(&desired(&[a, c])));
    let report = reconciler.apply(&state);
    assert!(report.is_complete());
    assert_eq!(seen(reconciler.store()), wanted(&state));
}

#[test]
fn the_check_repairs_what_someone_else_changed() {
    // behaviours 22.8
    let (mut reconciler, _) = reconciler(MemoryStore::new());
    apply(&mut reconciler, &[web()]);
    let state = desired(&[web()]);
    let report = reconciler.check(&state);
    assert_eq!((report.steps, report.is_complete()), (0, true));
    // A front end is gone, a slot and an address are other than they were, and a stranger is there.
    let inner = &mut reconciler.store_mut().inner;
    let all = inner.entries::<Frontends<V4>>().expect("readable");
    let (key, value) = all[1];
    inner.delete::<Frontends<V4>>(&[key]).expect("written");
    let mut slot = inner.head::<Backends<V4>>(1).expect("readable")[0];
    slot.address = [6, 6, 6, 6];
    inner.put::<Backends<V4>>(&[(0, slot)]).expect("written");
    inner
        .delete::<Addresses<V4>>(&[[10, 96, 0, 1]])
        .expect("written");
    let mut stranger = value;
    (stranger.base, stranger.len) = (0, u32::MAX);
    let mut key = key;
    key.port = [9, 9];
    inner
        .put::<Frontends<V4>>(&[(key, stranger)])
        .expect("written");
    let mut plain = Reconciler::adopt(inner.clone(), TestClock::default()).expect("readable");
    let report = plain.check(&state);
    assert!(report.is_complete() && report.steps > 0, "{report:?}");
    assert_eq!(seen(plain.store()), wanted(&state));
}
