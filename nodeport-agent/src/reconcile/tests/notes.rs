//! Destinations of front ends are noted before programs must find them: after failures, and when what is adopted was not noted.
//! That it holds after every written entry is for the audit to see.

use nodeport_common::{NOTED_LEN, NOTED_TRUST, NOTED_TRUSTED, V4, V6};

use super::audit::AuditStore;
use super::build::{Service, TestClock, desired, service};
use super::stories::{apply, reconciler};
use super::view::{seen, wanted};
use crate::maps::{Faults, FaultyStore, IpBytes, MemoryStore, NotedPlaces, Store};
use crate::reconcile::Reconciler;

fn web(port: u16) -> Service {
    service(&format!("web-{port}"))
        .cluster_ip(&format!("10.96.0.{}", port % 100))
        .node_port(port)
        .endpoints(&["10.1.0.1:8080"])
}

/// A node that an earlier agent left, of which nothing is noted.
fn unnoted(services: &[Service]) -> MemoryStore {
    let (mut reconciler, _) = reconciler(MemoryStore::new());
    apply(&mut reconciler, services);
    let mut store = reconciler.into_store().inner;
    let zeros: Vec<_> = (0..NOTED_LEN).map(|word| (word, 0)).collect();
    store.put::<NotedPlaces<V4>>(&zeros).expect("in range");
    store.put::<NotedPlaces<V6>>(&zeros).expect("in range");
    store
}

fn is_trusted<A: IpBytes>(store: &impl Store) -> bool {
    store.get::<NotedPlaces<A>>(&NOTED_TRUST).expect("readable") == Some(NOTED_TRUSTED)
}

#[test]
fn what_is_adopted_is_noted_before_the_notes_are_trusted() {
    let services = [web(30001), web(30002)];
    let (mut reconciler, _) = reconciler(unnoted(&services));
    assert!(!is_trusted::<V4>(reconciler.store()));
    let written = apply(&mut reconciler, &services);
    assert!(is_trusted::<V4>(reconciler.store()) && is_trusted::<V6>(reconciler.store()));
    assert!(reconciler.installed().v4().is_noted() && reconciler.installed().v6().is_noted());
    let others: Vec<_> = written
        .iter()
        .filter(|map| !map.starts_with("NOTED"))
        .collect();
    assert_eq!(others, [&"CONTROL"]);
    assert!(apply(&mut reconciler, &services).is_empty());
}

#[test]
fn each_failure_on_the_way_leaves_what_programs_can_find() {
    let services = [web(30001), web(30002)];
    let state = desired(&[web(30001), web(30002), web(30003)]);
    for fault in 0..20 {
        let clock = TestClock::default();
        let mut audit = AuditStore::new(unnoted(&services), clock.clone());
        audit.lenient = true;
        audit.expect(wanted(&state));
        let faulty = FaultyStore::new(audit, Faults::At([fault].into()));
        let mut reconciler = Reconciler::adopt(faulty, clock).expect("readable");
        let first = reconciler.apply(&state);
        let trusted = is_trusted::<V4>(reconciler.store());
        assert!(!trusted || reconciler.installed().v4().is_noted());
        assert_eq!(first.is_complete(), reconciler.store().count() <= fault);
        assert!(reconciler.apply(&state).is_complete(), "fault {fault}");
        assert_eq!(seen(reconciler.store()), wanted(&state));
        assert!(is_trusted::<V4>(reconciler.store()) && is_trusted::<V6>(reconciler.store()));
    }
}

#[test]
fn a_front_end_whose_destination_could_not_be_noted_is_not_written() {
    let store = FaultyStore::new(MemoryStore::new(), Faults::At([0].into()));
    let mut reconciler = Reconciler::adopt(store, TestClock::default()).expect("readable");
    let report = reconciler.apply(&desired(&[web(30001)]));
    let errors: Vec<_> = report
        .failed
        .iter()
        .map(|failed| failed.error.as_str())
        .collect();
    assert_eq!(errors[0], "map NOTED4: put: injected");
    assert!(
        errors[1..].contains(&"what it needs could not be noted"),
        "{errors:?}"
    );
    assert!(seen(reconciler.store()).addresses.is_empty());
    assert!(reconciler.apply(&desired(&[web(30001)])).is_complete());
}
