//! Packets that go in circles die (edge-cases E12, G7).

use std::net::SocketAddr;
use std::time::Duration;

use nodeport_tests::addresses::CLIENT;
use nodeport_tests::agent::{Agent, AgentSpec};
use nodeport_tests::echo::{datagrams_from, receive};
use nodeport_tests::manifest::{Manifest, write_whole};
use nodeport_tests::{Family, Lab, LabSpec};
use serde_json::json;

const PORT: u16 = 30070;

/// Each node holds the other one's node port for the only endpoint, as after a change that reached neither.
fn agent(lab: &Lab, node: &str, other: &str, xdp: &str) -> Agent {
    let mut manifest = Manifest::new(lab);
    let addresses: Vec<_> = lab.node(other).own_addresses().collect();
    let service = manifest.service("circle").udp_node_port(PORT, PORT);
    service.endpoint(&addresses, other, &json!({"ready": true}));
    let all = std::fs::read(manifest.write().expect("written")).expect("read");
    let path = lab.dir().join(format!("{node}.json"));
    write_whole(&path, &serde_json::from_slice(&all).expect("JSON")).expect("written");
    let mut agent = Agent::new(lab.node(node), AgentSpec::new(&[path]).xdp(xdp));
    agent.start(lab).expect("the agent starts");
    agent
}

#[test]
fn a_circle_of_two_nodes_ends_with_the_hops() {
    for xdp in ["auto", "off"] {
        let lab = LabSpec::nodes(2).start().expect("the lab starts");
        let agents = [agent(&lab, "n1", "n2", xdp), agent(&lab, "n2", "n1", xdp)];
        let forwarded = || -> u64 {
            let counted = agents
                .iter()
                .map(|agent| agent.outcomes().expect("counters"));
            counted
                .map(|o| {
                    o.get("xdp", "to_remote_backend") + o.get("tc_ingress", "to_remote_backend")
                })
                .sum()
        };
        for family in Family::BOTH {
            let before = forwarded();
            let from = SocketAddr::new(CLIENT[family as usize], 0);
            let socket =
                datagrams_from(&lab.client, from, Duration::from_millis(500)).expect("a socket");
            let to = SocketAddr::new(lab.node("n1").address(family), PORT);
            socket.send_to(b"round and round", to).expect("sent");
            assert!(receive(&socket, &mut [0; 64]).is_err(), "nobody is there");
            let hops = forwarded() - before;
            // The client sends with 64 hops, one of which the router takes.
            assert!(
                (2..=64).contains(&hops),
                "{hops} hops, {family:?} XDP {xdp}"
            );
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(forwarded() - before, hops, "it still goes in circles");
        }
    }
}
