//! Neighbours, hops and uplinks (edge-cases A9, E12, F6, F7, H1).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use nodeport_tests::addresses::CLIENT;
use nodeport_tests::raw::{RawReceiver, RawSender};
use nodeport_tests::stream::retransmissions;
use nodeport_tests::{Family, LabSpec};
use rustix::net::ipproto;

use crate::world::{DNS, WEB, World, seen};

/// F6: nobody is known, neither the next node nor the router: not one packet is lost, so nothing is sent again.
#[test]
fn an_unknown_neighbour_does_not_lose_the_first_packet() {
    for xdp in ["auto", "off"] {
        for overlay in [false, true] {
            let spec = if overlay {
                LabSpec::nodes(2).vxlan()
            } else {
                LabSpec::nodes(2)
            };
            let world = World::new(spec, &["n2-p1"], xdp);
            for family in Family::BOTH {
                for node in ["n1", "n2"] {
                    for _ in 0..2 {
                        // Fixed entries (Pods, the overlay's) stay.
                        world
                            .lab
                            .node("n1")
                            .netns
                            .sh("ip neigh flush dev eth0")
                            .expect("forgotten");
                        world
                            .lab
                            .node("n2")
                            .netns
                            .sh("ip neigh flush dev eth0")
                            .expect("forgotten");
                        let before = retransmissions(&world.lab.client).expect("counters");
                        let start = Instant::now();
                        world.http(&world.lab.client, world.node_port(node, family, WEB));
                        let again = retransmissions(&world.lab.client).expect("counters") - before;
                        assert_eq!(
                            again,
                            0,
                            "{node} {family:?} XDP {xdp}: {}",
                            world.evidence()
                        );
                        assert!(
                            start.elapsed() < Duration::from_millis(900),
                            "a packet was lost on the way back"
                        );
                        world.dns(&world.lab.client, world.node_port(node, family, DNS));
                    }
                }
            }
        }
    }
}

/// F7: the router is replaced by another machine, which says so (gratuitous ARP, unsolicited advertisement).
#[test]
fn a_next_hop_that_changes_its_hardware_address_is_followed() {
    let world = World::new(LabSpec::nodes(2), &["n2-p1"], "auto");
    world.warm_up("n1");
    let router = &world.lab.router;
    router
        .sh("ip link set fabric0 address 02:4e:50:ff:ff:01")
        .expect("another address");
    for node in &world.lab.nodes {
        for family in Family::BOTH {
            // What the announcement does at the node: the entry is overwritten.
            let gateway = gateway(&node.netns, family);
            node.netns
                .sh(&format!(
                    "ip neigh replace {gateway} lladdr 02:4e:50:ff:ff:01 dev eth0 nud reachable"
                ))
                .expect("the neighbour is overwritten");
        }
    }
    let changed = Instant::now();
    for family in Family::BOTH {
        world.http(&world.lab.client, world.node_port("n1", family, WEB));
    }
    assert!(
        changed.elapsed() < Duration::from_secs(1),
        "took {:?}",
        changed.elapsed()
    );
}

fn gateway(netns: &nodeport_tests::Netns, family: Family) -> IpAddr {
    let flag = if family == Family::V6 { "-6" } else { "-4" };
    let text = netns
        .sh(&format!("ip {flag} route show default"))
        .expect("a default route");
    let gateway = text.split_whitespace().nth(2).expect("its gateway");
    gateway.parse().expect("an address")
}

/// E12: the node is a hop of its own on the way to a backend, as it is with kube-proxy.
#[test]
fn a_packet_whose_time_is_over_is_answered_with_time_exceeded() {
    for xdp in ["auto", "off"] {
        let world = World::new(LabSpec::nodes(2), &["n2-p1"], xdp);
        world.warm_up("n1");
        for family in Family::BOTH {
            let to = world.node_port("n1", family, DNS);
            // Two hops: the router, and n1 itself, where no hop is left to forward it.
            assert_eq!(
                who_says_time_exceeded(&world, to, 2),
                Some(to.ip()),
                "{family:?} XDP {xdp}"
            );
            // Four reach the backend: router, n1, n2.
            assert_eq!(
                who_says_time_exceeded(&world, to, 4),
                None,
                "{family:?} XDP {xdp}"
            );
        }
    }
}

/// Sends one datagram with so many hops; returns who says that its time is over, if its quote is what the client sent.
fn who_says_time_exceeded(world: &World, to: SocketAddr, hops: u8) -> Option<IpAddr> {
    let v6 = to.is_ipv6();
    let protocol = if v6 { ipproto::ICMPV6 } else { ipproto::ICMP };
    let limit = Duration::from_millis(700);
    let receiver = RawReceiver::open(&world.lab.client, v6, protocol, limit).expect("a raw socket");
    let sender = RawSender::open(&world.lab.client, v6).expect("a raw socket");
    let from = CLIENT[usize::from(v6)];
    let port = 50000 + u16::from(hops);
    let builder = match (from, to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), hops),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), hops),
        _ => panic!("two families"),
    };
    let mut packet = Vec::new();
    builder
        .udp(port, to.port())
        .write(&mut packet, b"how far?")
        .expect("a packet");
    sender.send(&packet).expect("sent");
    let end = Instant::now() + limit;
    while Instant::now() < end {
        let Some(received) = receiver.receive() else {
            break;
        };
        // IPv4 comes with its header of 20 bytes; type 11 (3 for IPv6) is time exceeded.
        let icmp = if v6 { &received[..] } else { &received[20..] };
        if icmp[0] != if v6 { 3 } else { 11 } {
            continue;
        }
        let quote = &icmp[8..];
        let ports = if v6 { &quote[40..44] } else { &quote[20..24] };
        let expected = [port.to_be_bytes(), to.port().to_be_bytes()].concat();
        assert_eq!(ports, expected, "the quote is what the client sent");
        // Without the IPv6 header the sender is not known here: the quote's destination says whom the client asked.
        return Some(if v6 {
            IpAddr::from(<[u8; 16]>::try_from(&quote[24..40]).expect("16 bytes"))
        } else {
            IpAddr::from(<[u8; 4]>::try_from(&received[12..16]).expect("4 bytes"))
        });
    }
    None
}

/// H1: replies leave by another uplink than the one the request came by.
#[test]
fn replies_by_another_uplink_are_translated() {
    for xdp in ["auto", "off"] {
        for local in [false, true] {
            let endpoint = if local { "n1-p1" } else { "n2-p1" };
            let world = World::new(LabSpec::nodes(2).two_uplinks(), &[endpoint], xdp);
            let node = &world.lab.node("n1").netns;
            let back = [
                "203.0.113.0/24 via 192.168.89.1",
                "2001:db8:113::/64 via fd00:89::1",
            ];
            for route in back {
                node.sh(&format!("ip route replace {route} dev eth1"))
                    .expect("another way back");
            }
            for family in Family::BOTH {
                for address in world
                    .lab
                    .node("n1")
                    .own_addresses()
                    .filter(|a| Family::of(*a) == family)
                {
                    for _ in 0..3 {
                        world.http(&world.lab.client, SocketAddr::new(address, WEB));
                        world.dns(&world.lab.client, SocketAddr::new(address, DNS));
                    }
                }
            }
        }
    }
}

/// A9: the backend is reached by the second uplink: it sees that uplink's address.
#[test]
fn the_source_address_is_that_of_the_uplink_towards_the_backend() {
    for xdp in ["auto", "off"] {
        let world = World::new(LabSpec::nodes(2).two_uplinks(), &["n2-p1"], xdp);
        let node = &world.lab.node("n1").netns;
        for route in [
            "10.244.2.0/24 via 192.168.89.12",
            "fd00:10:244:2::/64 via fd00:89::12",
        ] {
            node.sh(&format!("ip route replace {route} dev eth1"))
                .expect("the other way");
        }
        for family in Family::BOTH {
            // The change of routes is followed within a second.
            std::thread::sleep(Duration::from_millis(500));
            let answer = world.http(&world.lab.client, world.node_port("n1", family, WEB));
            let second =
                world.lab.node("n1").second_addresses[family as usize].expect("an address");
            assert_eq!(seen(&answer), second, "XDP {xdp}");
        }
    }
}
