//! Packets that are too big, and ICMP errors about translated flows (edge-cases D1, D3, D8, F3, F8).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nodeport_tests::addresses::CLIENT;
use nodeport_tests::echo::datagrams_from;
use nodeport_tests::servers::{IPERF_PORT, iperf3};
use nodeport_tests::{Family, Lab, LabSpec, Netns};

use crate::world::World;

const PORT: u16 = 30201;

fn iperf_world(spec: LabSpec, xdp: &str) -> (nodeport_tests::process::Process, World) {
    let world = World::with(
        spec,
        |spec| spec.xdp(xdp),
        |lab, manifest| {
            manifest
                .service("iperf")
                .node_port(PORT, IPERF_PORT)
                .endpoints(lab, [lab.pod("n2-p1")]);
        },
    );
    let server = iperf3(&world.lab, &world.lab.pod("n2-p1").netns).expect("iperf3 starts");
    (server, world)
}

/// Megabits per second that arrived within a second and a half.
fn bulk(world: &World, to: IpAddr, more: &str) -> f64 {
    let line = format!(
        "iperf3 --client {to} --port {PORT} --time 1.5 --connect-timeout 2000 --json {more}"
    );
    let output = world.lab.client.sh(&line);
    let text = output.unwrap_or_else(|error| panic!("{line}: {error:#}\n{}", world.evidence()));
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON of iperf3");
    let bits = report
        .pointer("/end/sum_received/bits_per_second")
        .and_then(serde_json::Value::as_f64);
    bits.unwrap_or_else(|| panic!("{line}: {report}")) / 1e6
}

/// 20 Mbit/s is far below what the slowest machine does, and far above what a path does on which full packets vanish.
const PLENTY: f64 = 20.0;

#[test]
fn bulk_flows_in_both_directions() {
    for xdp in ["auto", "off"] {
        let (_server, world) = iperf_world(LabSpec::nodes(2), xdp);
        for family in Family::BOTH {
            for node in ["n1", "n2"] {
                for direction in ["", "--reverse"] {
                    let rate = bulk(&world, world.lab.node(node).address(family), direction);
                    assert!(
                        rate > PLENTY,
                        "{node} {family:?} {direction} XDP {xdp}: {rate} Mbit/s"
                    );
                }
            }
        }
    }
}

/// The path MTU that a namespace has learnt towards an address.
fn learnt(netns: &Netns, to: IpAddr) -> Option<u32> {
    let text = netns.sh(&format!("ip route get {to}")).expect("a route");
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "mtu")
        .skip(1);
    words.next().and_then(|mtu| mtu.parse().ok())
}

/// D8: the client sends full packets, 50 bytes of VXLAN do not fit any more: it must be told.
#[test]
fn a_client_learns_that_the_overlay_is_smaller() {
    for xdp in ["auto", "off"] {
        let (_server, world) = iperf_world(LabSpec::nodes(2).vxlan(), xdp);
        for family in Family::BOTH {
            let to = world.lab.node("n1").address(family);
            let told = told_and_bulk(&world, to);
            assert_eq!(told, Some(1450), "{family:?} XDP {xdp}");
        }
    }
}

fn told_and_bulk(world: &World, to: IpAddr) -> Option<u32> {
    let rate = bulk(world, to, "");
    assert!(
        rate > PLENTY,
        "{rate} Mbit/s to {to}; learnt: {:?}\n{}",
        learnt(&world.lab.client, to),
        world.evidence()
    );
    learnt(&world.lab.client, to)
}

/// D1: a link behind the backend's node is smaller: its node's error quotes the translated packet, and n1 translates it back.
#[test]
fn a_client_learns_of_a_small_link_at_the_backend() {
    for xdp in ["auto", "off"] {
        let (_server, world) = iperf_world(LabSpec::nodes(2), xdp);
        shrink(&world.lab.node("n2").netns, "vpod1");
        for family in Family::BOTH {
            for node in ["n1", "n2"] {
                let to = world.lab.node(node).address(family);
                assert_eq!(
                    told_and_bulk(&world, to),
                    Some(1400),
                    "{node} {family:?} XDP {xdp}"
                );
            }
        }
    }
}

/// D1 the other way: the link to the client is smaller; the router's error is about the reply.
#[test]
fn a_backend_learns_of_a_small_link_at_the_client() {
    for xdp in ["auto", "off"] {
        let (_server, world) = iperf_world(LabSpec::nodes(2), xdp);
        shrink(&world.lab.router, "client0");
        for family in Family::BOTH {
            for node in ["n1", "n2"] {
                let to = world.lab.node(node).address(family);
                let rate = bulk(&world, to, "--reverse");
                assert!(
                    rate > PLENTY,
                    "{node} {family:?} XDP {xdp}: {rate} Mbit/s\n{}",
                    world.evidence()
                );
            }
        }
    }
}

/// One end of a link only: the other end still sends what it did, as at a router in the middle of a path.
fn shrink(netns: &Netns, device: &str) {
    netns
        .sh(&format!("ip link set {device} mtu 1400"))
        .expect("the MTU is set");
}

/// D3: the backend's port is closed: its port unreachable reaches the client as an answer of the front end.
#[test]
fn a_closed_target_port_is_refused() {
    for xdp in ["auto", "off"] {
        let world = World::with(
            LabSpec::nodes(2),
            |spec| spec.xdp(xdp),
            |lab, manifest| {
                manifest
                    .service("closed")
                    .udp_node_port(PORT, 9)
                    .endpoints(lab, [lab.pod("n2-p1")]);
            },
        );
        for family in Family::BOTH {
            for node in ["n1", "n2"] {
                assert_refused(&world.lab, world.node_port(node, family, PORT));
            }
        }
    }
}

fn assert_refused(lab: &Lab, to: SocketAddr) {
    let from = SocketAddr::new(CLIENT[usize::from(to.is_ipv6())], 0);
    let socket = datagrams_from(&lab.client, from, Duration::from_secs(1)).expect("a socket");
    socket.connect(to).expect("connected");
    socket.send(b"anyone?").expect("sent");
    let error = socket.recv(&mut [0; 16]).expect_err("nobody listens");
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "{to}: {error}"
    );
}
