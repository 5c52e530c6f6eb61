//! Packets that are too big, and ICMP errors about translated flows (edge-cases D1, D3, D8, F3, F8).

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use nodeport_tests::addresses::CLIENT;
use nodeport_tests::echo::{datagrams_from, receive};
use nodeport_tests::servers::{IPERF_PORT, iperf3};
use nodeport_tests::{Family, Lab, LabSpec, Netns};

use rustix::net::sockopt;

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

/// Megabits per second that arrived within a second: the best of up to three times, as a busy machine can stall one of them.
fn bulk(world: &World, to: IpAddr, more: &str) -> f64 {
    let line =
        format!("iperf3 --client {to} --port {PORT} --time 1 --connect-timeout 2000 --json {more}");
    let mut best = 0.0;
    for _ in 0..3 {
        let mut report = iperf3_report(world, &line);
        // Between two clients the server is busy for a moment, and then does not listen while it sets itself up again. A path
        // that is broken stays so.
        for _ in 0..50 {
            let error = report["error"].as_str().unwrap_or_default();
            if !["busy", "Connection refused"]
                .iter()
                .any(|passing| error.contains(passing))
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            report = iperf3_report(world, &line);
        }
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
        let bits = bits.unwrap_or_else(|| panic!("{line}: {report}\n{}", world.evidence()));
        best = f64::max(best, bits / 1e6);
        if best > PLENTY {
            break;
        }
    }
    best
}

/// What iperf3 says, whatever its exit status.
fn iperf3_report(world: &World, line: &str) -> serde_json::Value {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    let output = world
        .lab
        .client
        .output(command.args(words.filter(|word| !word.is_empty())));
    serde_json::from_slice(&output.expect("iperf3 runs").stdout).expect("JSON of iperf3")
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
pub(crate) fn learnt(netns: &Netns, to: IpAddr) -> Option<u32> {
    let text = netns.sh(&format!("ip route get {to}")).expect("a route");
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "mtu")
        .skip(1);
    words.next().and_then(|mtu| mtu.parse().ok())
}

/// D8: the client sends full packets, 50 bytes of VXLAN do not fit any more: it must be told. The backend's own devices are not
/// smaller here, else the segment size that it announces would keep the client's packets small.
#[test]
fn a_client_learns_that_the_overlay_is_smaller() {
    for xdp in ["auto", "off"] {
        let (_server, world) = iperf_world(LabSpec::nodes(2).vxlan(), xdp);
        set_mtu(&world.lab.node("n2").netns, "vpod1", 1500);
        set_mtu(&world.lab.pod("n2-p1").netns, "eth0", 1500);
        for family in Family::BOTH {
            let to = world.lab.node("n1").address(family);
            assert_eq!(
                told_and_bulk(&world, to),
                Some(1450),
                "{family:?} XDP {xdp}"
            );
            let rate = bulk(&world, to, "--reverse");
            assert!(rate > PLENTY, "{family:?} XDP {xdp}: {rate} Mbit/s");
        }
    }
}

/// D8 for datagrams that must not be fragmented: the sender is told, and what fits then passes.
#[test]
fn a_sender_of_whole_datagrams_learns_that_the_overlay_is_smaller() {
    for xdp in ["auto", "off"] {
        let (_echo, world) = crate::fragments::echo_world(LabSpec::nodes(2).vxlan(), xdp);
        for family in Family::BOTH {
            let to = world.node_port("n1", family, 30007);
            let from = SocketAddr::new(CLIENT[family as usize], 0);
            let limit = Duration::from_secs(1);
            let socket = datagrams_from(&world.lab.client, from, limit).expect("a socket");
            never_fragment(&socket, family);
            socket.connect(to).expect("connected");
            let full = vec![0; if family == Family::V6 { 1452 } else { 1472 }];
            socket
                .send(&full)
                .expect("the client's own link is large enough");
            let error = receive(&socket, &mut [0; 2048]).expect_err("it does not fit");
            assert_eq!(error.raw_os_error(), Some(90), "EMSGSIZE: {error}");
            assert_eq!(learnt(&world.lab.client, to.ip()), Some(1450), "XDP {xdp}");
            let fits = vec![0; full.len() - 50];
            socket.send(&fits).expect("this fits");
            let (back, _) = receive(&socket, &mut [0; 2048]).expect("it comes back");
            assert_eq!(back, fits.len());
        }
    }
}

fn never_fragment(socket: &std::net::UdpSocket, family: Family) {
    let result = match family {
        Family::V4 => sockopt::set_ip_mtu_discover(socket, sockopt::Ipv4PathMtuDiscovery::DO),
        Family::V6 => sockopt::set_ipv6_mtu_discover(socket, sockopt::Ipv6PathMtuDiscovery::DO),
    };
    result.expect("the option is set");
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
        set_mtu(&world.lab.node("n2").netns, "vpod1", 1400);
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
        set_mtu(&world.lab.router, "client0", 1400);
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
fn set_mtu(netns: &Netns, device: &str, mtu: u16) {
    netns
        .sh(&format!("ip link set {device} mtu {mtu}"))
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
    let error = receive(&socket, &mut [0; 16]).expect_err("nobody listens");
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "{to}: {error}"
    );
}
