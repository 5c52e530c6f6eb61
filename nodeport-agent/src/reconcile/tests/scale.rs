//! 10,000 Services with three endpoints each: what is written when one of them changes.

use super::build::{Service, TestClock, desired, service};
use crate::maps::MemoryStore;
use crate::plan::{Action, diff};
use crate::reconcile::Reconciler;

const SERVICES: u16 = 10_000;

/// A ClusterIP and a NodePort, and three endpoints.
fn numbered(index: u16) -> Service {
    let [high, low] = index.to_be_bytes();
    let endpoint = |node: u8| format!("10.{node}.{high}.{low}:8080");
    let endpoints = [1, 2, 3].map(endpoint);
    service(&format!("service-{index:05}"))
        .cluster_ip(&format!("10.96.{high}.{low}"))
        .node_port(20_000 + index)
        .endpoints(&endpoints.each_ref().map(String::as_str))
}

#[test]
fn one_change_among_ten_thousand_services_is_five_entries() {
    let mut services: Vec<Service> = (0..SERVICES).map(numbered).collect();
    let before = desired(&services);
    let mut reconciler =
        Reconciler::adopt(MemoryStore::new(), TestClock::default()).expect("readable");
    let report = reconciler.apply(&before);
    assert!(report.is_complete());
    // A set of three slots, a NodePort in each family and a ClusterIP, and its address; and what is noted of them.
    let notes = reconciler.installed().v4().noted().words_used()
        + reconciler.installed().v6().noted().words_used();
    assert!(notes < 2000, "{notes} words");
    assert_eq!(report.entries, usize::from(SERVICES) * (3 + 3 + 1) + notes);

    assert!(diff(&before, reconciler.installed()).is_empty());

    services[4711].endpoints.pop();
    let after = desired(&services);
    let plan = diff(&after, reconciler.installed());
    let actions: Vec<_> = plan.steps.iter().map(|step| step.step.action()).collect();
    assert_eq!(
        actions,
        [
            Action::WriteSet,
            Action::PutFrontend,
            Action::PutFrontend,
            Action::RaiseEndpointGeneration
        ]
    );
    assert_eq!(plan.entries(), 5);
    assert_eq!(reconciler.apply(&after).entries, 5);
}
