//! The same in real maps. Without root each test says that it is skipped.

use std::sync::Mutex;
use std::time::Instant;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::audit::AuditStore;
use super::build::{TestClock, desired, service};
use super::properties::histories;
use super::view::{View, seen, wanted};
use crate::maps::{Controls, KernelStore, Store, real_maps};
use crate::model::Desired;
use crate::reconcile::{GRACE, Reconciler};

/// Real maps, and the owner of the generation.
fn maps(entries: u32) -> Option<KernelStore> {
    let store = real_maps(entries)?;
    let owner = Mutex::new(store.clone());
    Some(store.raising(move || {
        let mut owner = owner.lock().map_err(|_| "poisoned".to_owned())?;
        let mut control = owner.control().map_err(|error| error.to_string())?;
        control.endpoint_generation += 1;
        owner
            .put::<Controls>(&[(0, control)])
            .map_err(|error| error.to_string())
    }))
}

#[test]
fn histories_in_real_maps_are_safe_at_every_entry_and_survive_restarts() {
    if maps(4).is_none() {
        return;
    }
    let config = ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let histories = histories();
    let result = TestRunner::new(config).run(&histories, |history| {
        let clock = TestClock::default();
        let mut store = AuditStore::new(maps(64).expect("root"), clock.clone());
        for (state, _) in &history {
            let mut reconciler = Reconciler::adopt(store, clock.clone()).expect("readable");
            reconciler.store_mut().expect(wanted(state));
            let report = reconciler.apply(state);
            prop_assert!(report.is_complete(), "{:?}", report);
            prop_assert_eq!(seen(reconciler.store()), wanted(state));
            prop_assert!(reconciler.plan(state).is_empty());
            // A new agent every time, which takes a moment to start.
            clock.advance(GRACE);
            store = reconciler.into_store();
        }
        let mut reconciler = Reconciler::adopt(store, clock).expect("readable");
        reconciler.store_mut().expect(View::default());
        prop_assert!(reconciler.apply(&Desired::default()).is_complete());
        prop_assert_eq!(seen(reconciler.store()), View::default());
        Ok(())
    });
    assert!(result.is_ok(), "{result:?}");
}

#[test]
fn a_thousand_services_in_real_maps() {
    let Some(store) = maps(8192) else {
        return;
    };
    let services: Vec<_> = (0..1000_u16)
        .map(|index| {
            let [high, low] = index.to_be_bytes();
            service(&format!("service-{index}"))
                .cluster_ip(&format!("10.96.{high}.{low}"))
                .node_port(30_000 + index)
                .endpoints(&[
                    &format!("10.1.{high}.{low}:80"),
                    &format!("+10.2.{high}.{low}:80"),
                    &format!("[fd01::{index:x}]:80"),
                ])
        })
        .collect();
    let state = desired(&services);
    let mut reconciler = Reconciler::adopt(store, TestClock::default()).expect("readable");
    let start = Instant::now();
    let report = reconciler.apply(&state);
    eprintln!("{} entries in {:?}", report.entries, start.elapsed());
    assert!(report.is_complete());
    let notes = reconciler.installed().v4().noted().words_used()
        + reconciler.installed().v6().noted().words_used();
    assert_eq!(report.entries, 1000 * (2 + 1 + 2 + 1 + 1) + notes);
    assert_eq!(seen(reconciler.store()), wanted(&state));
    let start = Instant::now();
    let again = Reconciler::adopt(reconciler.into_store(), TestClock::default());
    let mut again = again.expect("readable");
    eprintln!("adopted in {:?}", start.elapsed());
    // Only the generation, once.
    assert_eq!(
        (again.apply(&state).entries, again.apply(&state).entries),
        (1, 0)
    );
}
