//! Stories of maps that are full (edge-cases I6).

use nodeport_common::V4;

use super::build::{desired, service};
use super::stories::{apply, reconciler};
use super::view::{seen, wanted};
use crate::maps::MemoryStore;
use crate::plan::{Limits, Reason};
use crate::reconcile::GRACE;

#[test]
fn a_full_array_keeps_the_old_state_of_one_service_and_heals() {
    // edge-cases I6
    let limits = Limits {
        frontends: 16,
        backends: 8,
        addresses: 16,
        serving: 16,
        sources: 16,
    };
    let (mut reconciler, clock) = reconciler(MemoryStore::new().with_limits::<V4>(limits));
    let a = |endpoints: &[&str]| service("a").node_port(30001).endpoints(endpoints);
    let b = |endpoints: &[&str]| service("b").node_port(30002).endpoints(endpoints);
    let five = [
        "10.1.0.1:80",
        "10.1.0.2:80",
        "10.1.0.3:80",
        "10.1.0.4:80",
        "10.1.0.5:80",
    ];
    apply(&mut reconciler, &[a(&five), b(&["10.2.0.1:80"])]);
    // Two slots are free. `a` changes and needs four; `b` changes and needs two.
    let both = desired(&[a(&five[1..]), b(&["10.2.0.1:80", "10.2.0.2:80"])]);
    reconciler.store_mut().expect(wanted(&desired(&[
        a(&five),
        b(&["10.2.0.1:80", "10.2.0.2:80"]),
    ])));
    let report = reconciler.apply(&both);
    assert_eq!(report.failed, []);
    assert_eq!(report.refused.len(), 1);
    assert_eq!(report.refused[0].service_port, Some(a(&[]).name()));
    assert_eq!(
        report.refused[0].reason.to_string(),
        "BACKENDS4: no run of 4 free slots (2 free, 0 about to be, of 8)"
    );
    // The set of `b` rests; with it and what is left there is still no room for four. `a` shrinks further instead.
    clock.advance(GRACE);
    let written = apply(
        &mut reconciler,
        &[a(&five[4..]), b(&["10.2.0.1:80", "10.2.0.2:80"])],
    );
    assert_eq!(written, ["BACKENDS4", "FRONTENDS4", "CONTROL"]);
}

#[test]
fn slots_that_rest_are_waited_for() {
    let limits = Limits {
        frontends: 16,
        backends: 3,
        addresses: 16,
        serving: 16,
        sources: 16,
    };
    let (mut reconciler, clock) = reconciler(MemoryStore::new().with_limits::<V4>(limits));
    let a = |endpoints: &[&str]| service("a").node_port(30001).endpoints(endpoints);
    apply(&mut reconciler, &[a(&["10.1.0.1:80", "10.1.0.2:80"])]);
    apply(&mut reconciler, &[a(&["10.1.0.1:80"])]);
    let state = desired(&[a(&["10.1.0.3:80"])]);
    reconciler.store_mut().expect(wanted(&state));
    let report = reconciler.apply(&state);
    assert_eq!(report.refused.len(), 1);
    assert_eq!(report.retry_after, Some(GRACE));
    clock.advance(GRACE);
    let report = reconciler.apply(&state);
    assert!(report.is_complete());
    assert_eq!(report.retry_after, None);
}

#[test]
fn a_full_table_of_front_ends_refuses_the_new_service_and_takes_it_when_there_is_room() {
    let limits = Limits {
        frontends: 2,
        backends: 64,
        addresses: 16,
        serving: 16,
        sources: 16,
    };
    let (mut reconciler, _) = reconciler(MemoryStore::new().with_limits::<V4>(limits));
    let small = |name: &str, ip: &str| service(name).cluster_ip(ip).endpoints(&["10.1.0.1:80"]);
    let (a, b) = (small("a", "10.96.0.1"), small("b", "10.96.0.2"));
    apply(&mut reconciler, &[a.clone(), b.clone()]);
    // `c` wants two front ends and only one becomes free: it gets neither.
    let c = || small("c", "10.96.0.3").cluster_ip("10.96.0.4");
    let state = desired(&[a.clone(), c()]);
    reconciler
        .store_mut()
        .expect(wanted(&desired(std::slice::from_ref(&a))));
    let report = reconciler.apply(&state);
    assert_eq!(
        report.refused[0].reason,
        Reason::TableFull {
            map: "FRONTENDS4",
            wanted: 2,
            available: 1,
            capacity: 2
        }
    );
    assert_eq!(seen(reconciler.store()), wanted(&desired(&[a])));
    // Room for both after `a` is gone; and the front end of a deleted service makes room in the same pass.
    apply(&mut reconciler, &[c()]);
    // A service that moves in a full table gives up its old front end first.
    apply(
        &mut reconciler,
        &[small("c", "10.96.0.5").cluster_ip("10.96.0.6")],
    );
}

#[test]
fn a_refused_service_does_not_keep_a_front_end_that_now_belongs_to_another() {
    let limits = Limits {
        frontends: 16,
        backends: 4,
        addresses: 16,
        serving: 16,
        sources: 16,
    };
    let (mut reconciler, _) = reconciler(MemoryStore::new().with_limits::<V4>(limits));
    let a = |port: u16, endpoints: &[&str]| service("a").node_port(port).endpoints(endpoints);
    let b = |port: u16| service("b").node_port(port).endpoints(&["10.2.0.1:80"]);
    apply(&mut reconciler, &[a(30001, &["10.1.0.1:80"]), b(30002)]);
    // They swap, and `a` now has more endpoints than fit. `b` moves; the port that it left is not answered by it any more.
    let many = ["10.1.0.2:80", "10.1.0.3:80", "10.1.0.4:80"];
    let state = desired(&[a(30002, &many), b(30001)]);
    let mut expected = wanted(&state);
    expected.frontends.remove("v4 node:30002/TCP");
    let v6_only: &str = "v6 node:30002/TCP";
    assert!(expected.frontends.contains_key(v6_only));
    reconciler.store_mut().expect(expected.clone());
    let report = reconciler.apply(&state);
    assert_eq!(report.refused.len(), 1);
    assert_eq!(seen(reconciler.store()).frontends, expected.frontends);
}
