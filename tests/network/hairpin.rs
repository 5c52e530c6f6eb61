//! A Pod that reaches itself through a Service (edge-cases G1, G2, G3; behaviours 9.9), and endpoints in the host network (G6, G7).

use std::net::SocketAddr;

use nodeport_tests::addresses::CLIENT;
use nodeport_tests::servers::{self, HTTP_PORT};
use nodeport_tests::{Family, LabSpec};
use serde_json::json;

use crate::world::{DNS, WEB, World, seen};

/// G1, G3: the only endpoint asks the cluster address and the node port of its own node; it sees an address of the node, not its own.
#[test]
fn a_pod_reaches_itself() {
    for (network, spec) in [
        ("routed", LabSpec::nodes(2)),
        ("bridge", LabSpec::nodes(2).bridge()),
    ] {
        let world = World::new(spec, &["n1-p1"], "auto");
        let pod = world.lab.pod("n1-p1");
        for family in Family::BOTH {
            let cluster_ip = world.manifest.cluster_ip("web", family == Family::V6);
            for to in [
                SocketAddr::new(cluster_ip, HTTP_PORT),
                world.node_port("n1", family, WEB),
            ] {
                for _ in 0..3 {
                    let answer = world.http(&pod.netns, to);
                    assert_eq!(answer.name, "n1-p1", "{network} {to}");
                    assert_ne!(seen(&answer), pod.address(family), "{network} {to}");
                }
            }
            world.dns(&pod.netns, world.node_port("n1", family, DNS));
        }
    }
}

/// G6, G7, behaviours 9.12: an endpoint in the host network of n1 (a server of the node itself).
#[test]
fn endpoints_in_the_host_network_answer() {
    for xdp in ["auto", "off"] {
        let world = World::with(
            LabSpec::nodes(2),
            |spec| spec.xdp(xdp),
            |lab, manifest| {
                let addresses: Vec<_> = lab.node("n1").own_addresses().collect();
                let service = manifest.service("web").node_port(WEB, 9100);
                service.endpoint(&addresses, "n1", &json!({"ready": true}));
            },
        );
        let node = world.lab.node("n1");
        let listen: Vec<_> = node
            .own_addresses()
            .map(|a| SocketAddr::new(a, 9100))
            .collect();
        let _server =
            servers::nginx(&world.lab, &node.netns, "host", &listen).expect("nginx starts");
        for family in Family::BOTH {
            for _ in 0..3 {
                let answer = world.http(&world.lab.client, world.node_port("n1", family, WEB));
                assert_eq!(
                    (answer.name.as_str(), seen(&answer)),
                    ("host", CLIENT[family as usize])
                );
                let answer = world.http(&world.lab.client, world.node_port("n2", family, WEB));
                assert_eq!(answer.name, "host", "through n2");
                let cluster_ip = world.manifest.cluster_ip("web", family == Family::V6);
                for pod in ["n1-p1", "n2-p1"] {
                    let to = SocketAddr::new(cluster_ip, 9100);
                    assert_eq!(
                        world.http(&world.lab.pod(pod).netns, to).name,
                        "host",
                        "from {pod}"
                    );
                }
            }
        }
    }
}
