//! Hosts with a firewall of their own (edge-cases H3).

use nodeport_tests::clients::{self, Options, Verdict};
use nodeport_tests::{Family, LabSpec, Netns};

use crate::world::{DNS, WEB, World, seen, web_and_dns};

/// What docker (policy drop), kube-proxy and many administrators (drop of invalid), and CNIs (accept Pods, masquerade what
/// Pods send out of the cluster) leave on a node.
const RULES: &str = "
table inet host {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state invalid counter drop
    ct state established,related accept
    ip saddr 10.244.0.0/16 accept
    ip daddr 10.244.0.0/16 accept
    ip6 saddr fd00:10:244::/48 accept
    ip6 daddr fd00:10:244::/48 accept
    counter
  }
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade
    ip6 saddr fd00:10:244::/48 ip6 daddr != fd00:10:244::/48 masquerade
  }
  chain input {
    type filter hook input priority filter;
    ct state invalid counter drop
  }
}
";

/// The same without any word for Pods: what passes there never meets netfilter.
const DROP_ALL: &str = "
table inet host {
  chain forward { type filter hook forward priority filter; policy drop; }
}
";

fn load(netns: &Netns, rules: &str) {
    let path = std::env::temp_dir().join(format!("{}.nft", netns.name()));
    std::fs::write(&path, rules).expect("written");
    netns
        .sh(&format!("nft -f {}", path.display()))
        .expect("the rules are loaded");
    std::fs::remove_file(&path).expect("removed");
}

fn all_flows_work(world: &World, nodes: &[&str]) {
    for family in Family::BOTH {
        for node in nodes {
            for _ in 0..6 {
                world.http(&world.lab.client, world.node_port(node, family, WEB));
                world.dns(&world.lab.client, world.node_port(node, family, DNS));
            }
        }
    }
}

#[test]
fn a_host_firewall_with_masquerading_lets_everything_work() {
    for xdp in ["auto", "off"] {
        let world = World::new(LabSpec::nodes(2), &["n1-p1", "n2-p1"], xdp);
        for node in &world.lab.nodes {
            load(&node.netns, RULES);
        }
        all_flows_work(&world, &["n1", "n2"]);
        for family in Family::BOTH {
            for pod in ["n1-p2", "n2-p2"] {
                let pod = &world.lab.pod(pod).netns;
                let cluster_ip = world.manifest.cluster_ip("web", family == Family::V6);
                for _ in 0..6 {
                    world.http(pod, std::net::SocketAddr::new(cluster_ip, 8080));
                    world.http(pod, world.node_port("n1", family, WEB));
                }
            }
        }
    }
}

/// Remote backends are reached without the stack in both directions: a forward chain that drops all does not matter.
#[test]
fn redirected_flows_do_not_meet_the_forward_chain() {
    for xdp in ["auto", "off"] {
        let world = World::new(LabSpec::nodes(2), &["n2-p1"], xdp);
        world.warm_up("n1");
        load(&world.lab.node("n1").netns, DROP_ALL);
        all_flows_work(&world, &["n1"]);
    }
}

/// Neighbours must be found even where the stack may not forward (F6 with H3).
#[test]
fn unknown_neighbours_are_found_behind_a_firewall() {
    for xdp in ["auto", "off"] {
        let world = World::new(LabSpec::nodes(2), &["n2-p1"], xdp);
        load(&world.lab.node("n1").netns, DROP_ALL);
        world
            .lab
            .node("n1")
            .netns
            .sh("ip neigh flush all")
            .expect("neighbours are forgotten");
        all_flows_work(&world, &["n1"]);
    }
}

/// With `--redirect-local` packets of clients outside and of Pods to this node's Pods, and their replies, go from device to device, so that no
/// rule of the host sees them; without it the same firewall stops them. The Pod sees its client either way.
#[test]
fn redirect_local_passes_the_hosts_firewall_by() {
    for (xdp, arguments, passes) in [
        ("native", "--redirect-local --socket-lb=off", true),
        ("off", "--redirect-local --socket-lb=off", true),
        ("native", "--socket-lb=off", false),
    ] {
        let world = World::with(
            LabSpec::nodes(1),
            |spec| spec.xdp(xdp).arguments(arguments),
            |lab, manifest| web_and_dns(lab, manifest, &["n1-p1"]),
        );
        world.warm_up("n1");
        let node = world.lab.node("n1");
        load(&node.netns, DROP_ALL);
        let pod = node.inside(&node.pod(2).netns);
        for family in Family::BOTH {
            for from in [&world.lab.client, &pod] {
                let to = world.node_port("n1", family, WEB);
                if !passes {
                    let verdict = clients::http(from, to, Options::default()).expect("curl runs");
                    assert_eq!(verdict, Verdict::Silent, "{arguments} {xdp}");
                    continue;
                }
                let (counted, answer) = world.counted("n1", || world.http(from, to));
                assert_eq!(answer.name, "n1-p1");
                let total = |outcome| {
                    let hooks = ["xdp", "tc_ingress", "tc_egress"];
                    hooks
                        .map(|hook| counted.get(hook, outcome))
                        .iter()
                        .sum::<u64>()
                };
                assert!(total("to_local_backend") > 0, "{counted:?}");
                assert!(total("reply_redirected") > 0, "{counted:?}");
                assert_eq!(total("reply_from_stack"), 0, "{counted:?}");
                let client = seen(&answer);
                assert!(node.own_addresses().all(|own| own != client), "{answer:?}");
            }
        }
    }
}
