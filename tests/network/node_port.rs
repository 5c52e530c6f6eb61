//! A NodePort from outside: who answers, whom the server sees, and which hook carried it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nodeport_tests::addresses::CLIENT;
use nodeport_tests::clients::{self, Options, Verdict};
use nodeport_tests::objects::Protocol;
use nodeport_tests::{Family, LabSpec, Netns, simple};

use crate::world::{DNS, WEB, World, seen};

/// Backends on n2 only, the client asks n1: forward and reply are carried by `hook` alone, and the server sees n1.
fn remote_backend(world: &World, hook: &str) {
    world.warm_up("n1");
    for family in Family::BOTH {
        let own = world.lab.node("n1").own_addresses().collect::<Vec<_>>();
        let (counted, answer) = world.counted("n1", || {
            world.http(&world.lab.client, world.node_port("n1", family, WEB))
        });
        assert!(answer.name.starts_with("n2-"), "{answer:?}");
        assert!(
            own.contains(&seen(&answer)),
            "the server saw {:?}, not n1",
            answer.client
        );
        assert_eq!(counted.carried_by(), hook, "{family:?} TCP: {counted:?}");

        let (counted, answer) = world.counted("n1", || {
            world.dns(&world.lab.client, world.node_port("n1", family, DNS))
        });
        assert!(answer.name.starts_with("n2-"), "{answer:?}");
        assert!(
            own.contains(&seen(&answer)),
            "the server saw {:?}, not n1",
            answer.client
        );
        assert_eq!(counted.carried_by(), hook, "{family:?} UDP: {counted:?}");
    }
}

/// Backends on n2, the client asks n2: the first packets are handed to the stack by TC, later ones by XDP in native mode, and the server sees the
/// client.
fn local_backend(world: &World, hooks: &str) {
    for family in Family::BOTH {
        let client = CLIENT[family as usize];
        let (counted, answer) = world.counted("n2", || {
            world.http(&world.lab.client, world.node_port("n2", family, WEB))
        });
        assert_eq!(seen(&answer), client, "the client's address is kept");
        assert_eq!(counted.carried_by(), hooks, "{family:?} TCP: {counted:?}");
        let answer = world.dns(&world.lab.client, world.node_port("n2", family, DNS));
        assert_eq!(seen(&answer), client, "the client's address is kept");
    }
}

#[test]
fn xdp_carries_both_directions_to_another_node() {
    let world = World::new(LabSpec::nodes(2), &["n2-p1", "n2-p2"], "native");
    remote_backend(&world, "xdp");
    local_backend(&world, "xdp+tc");
}

#[test]
fn generic_xdp_does_the_same() {
    let world = World::new(LabSpec::nodes(2), &["n2-p1", "n2-p2"], "generic");
    remote_backend(&world, "xdp");
    local_backend(&world, "tc");
}

#[test]
fn tc_alone_does_the_same() {
    let world = World::new(LabSpec::nodes(2), &["n2-p1", "n2-p2"], "off");
    remote_backend(&world, "tc");
    local_backend(&world, "tc");
}

#[test]
fn it_works_with_strict_source_validation() {
    for xdp in ["auto", "off"] {
        let world = World::new(LabSpec::nodes(2).strict_reverse_path(), &["n2-p1"], xdp);
        let (remote, local) = match xdp {
            "off" => ("tc", "tc"),
            _ => ("xdp", "xdp+tc"),
        };
        remote_backend(&world, remote);
        local_backend(&world, local);
    }
}

#[test]
fn pods_behind_a_bridge_are_backends_and_clients() {
    let world = World::new(
        LabSpec::nodes(2).bridge().pods(3),
        &["n2-p1", "n2-p2"],
        "auto",
    );
    remote_backend(&world, "xdp");
    local_backend(&world, "xdp+tc");
    for family in Family::BOTH {
        let pod = world.lab.pod("n2-p3");
        let cluster_ip = world.manifest.cluster_ip("web", family == Family::V6);
        let answer = world.http(&pod.netns, SocketAddr::new(cluster_ip, 8080));
        // The reply would go from Pod to Pod over the bridge, past the node, if it went to the client's own address.
        assert_eq!(
            Some(seen(&answer)),
            world.lab.bridge(1, family),
            "the bridge's address stands for a client on the same bridge"
        );
    }
}

/// Behaviours 6.7, 6.8: no endpoint at all means port unreachable, at once; edge-cases D6, D7.
#[test]
fn without_endpoints_it_is_refused_at_once() {
    for xdp in ["auto", "off"] {
        let world = World::new(LabSpec::nodes(2), &[], xdp);
        for family in Family::BOTH {
            for node in ["n1", "n2"] {
                for (port, protocol) in [(WEB, Protocol::Tcp), (DNS, Protocol::Udp)] {
                    let to = world.node_port(node, family, port);
                    let took = (0..5)
                        .map(|_| refused_after(&world.lab.client, protocol, to))
                        .min();
                    // Ten milliseconds are promised (D7); the best of five has them on a busy machine, too.
                    let took = took.expect("five times");
                    assert!(
                        took < Duration::from_millis(10),
                        "{to} {protocol:?} XDP {xdp}: {took:?}"
                    );
                }
                let real = clients::http(
                    &world.lab.client,
                    world.node_port(node, family, WEB),
                    Options::default(),
                );
                assert_eq!(real.expect("curl runs"), Verdict::Refused);
            }
        }
    }
}

fn refused_after(from: &Netns, protocol: Protocol, to: SocketAddr) -> Duration {
    let start = Instant::now();
    let verdict = simple::ask(from, protocol, to, Duration::from_secs(2)).expect("a client");
    assert_eq!(verdict, Verdict::Refused, "{to} {protocol:?}");
    start.elapsed()
}

/// Behaviours 6.7, 9.2: policy Local keeps the client's address, and is silent where no endpoint is.
#[test]
fn policy_local_keeps_the_address_and_is_silent_elsewhere() {
    let world = World::with(
        LabSpec::nodes(2).pods(3),
        |spec| spec,
        |lab, manifest| {
            manifest
                .service("local")
                .node_port(30081, 8080)
                .external_local()
                .endpoints(lab, [lab.pod("n1-p1")]);
        },
    );
    for family in Family::BOTH {
        let answer = world.http(&world.lab.client, world.node_port("n1", family, 30081));
        assert_eq!(seen(&answer), CLIENT[family as usize]);
        let limit = Options {
            limit: Some(Duration::from_secs(1)),
            ..Options::default()
        };
        let (counted, verdict) = world.counted("n2", || {
            clients::http(
                &world.lab.client,
                world.node_port("n2", family, 30081),
                limit,
            )
            .expect("curl runs")
        });
        assert_eq!(verdict, Verdict::Silent, "n2 has no endpoint");
        let dropped: u64 = ["xdp", "tc_ingress"]
            .iter()
            .map(|hook| counted.get(hook, "dropped_no_local_endpoint"))
            .sum();
        assert!(dropped > 0, "{counted:?}");
        // A Pod of n2 that asks its own node gets the cluster-wide set (7.1).
        let pod = world.lab.pod("n2-p3");
        let answer = world.http(&pod.netns, world.node_port("n2", family, 30081));
        assert_eq!(answer.name, "n1-p1");
    }
}

/// Every endpoint is chosen, about as often as the others (8.1). 120 connections to 4 endpoints: 30 each; below 12 would be
/// chance in one run of a million.
#[test]
fn all_endpoints_are_chosen() {
    let world = World::new(
        LabSpec::nodes(2),
        &["n1-p1", "n1-p2", "n2-p1", "n2-p2"],
        "auto",
    );
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..120 {
        *counts
            .entry(
                world
                    .http(&world.lab.client, world.node_port("n1", Family::V4, WEB))
                    .name,
            )
            .or_default() += 1;
    }
    assert_eq!(counts.len(), 4, "{counts:?}");
    assert!(counts.values().all(|count| *count >= 12), "{counts:?}");
}
