//! Hosts with a firewall of their own (edge-cases H3).

use nodeport_tests::{Family, LabSpec, Netns};

use crate::world::{DNS, WEB, World};

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
