//! Packets of unusual shape, made by hand, through real devices to a real server and back (edge-cases B5, B9, C1, E1, E6, E7).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use nodeport_tests::addresses::CLIENT;
use nodeport_tests::echo::{Talk, datagrams_from, receive};
use nodeport_tests::raw::RawSender;
use nodeport_tests::{Family, LabSpec};

use crate::fragments::echo_world;
use crate::world::World;

const PORT: u16 = 30007;
/// The client's port for packets that are made by hand; a socket has it, so that answers can be received.
const FROM: u16 = 41000;

/// Sends packets whose shape `shape` changed, and expects the echo.
fn echoed(world: &World, name: &str, to: SocketAddr, shape: impl Fn(Vec<u8>, Vec<u8>) -> Vec<u8>) {
    let from = CLIENT[usize::from(to.is_ipv6())];
    let socket = SocketAddr::new(from, FROM);
    let socket =
        datagrams_from(&world.lab.client, socket, Duration::from_secs(2)).expect("a socket");
    let text = format!("{name} to {to}");
    let builder = match (from, to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => panic!("two families"),
    };
    let mut packet = Vec::new();
    builder
        .udp(FROM, to.port())
        .write(&mut packet, text.as_bytes())
        .expect("a packet");
    let header = if to.is_ipv6() { 40 } else { 20 };
    let rest = packet.split_off(header);
    let sender = RawSender::open(&world.lab.client, to.is_ipv6()).expect("a raw socket");
    sender.send(&shape(packet, rest)).expect("sent");
    let mut buffer = [0; 2048];
    let received = receive(&socket, &mut buffer);
    let Ok((length, by)) = received else {
        panic!("{text}: {received:?}\n{}", world.evidence())
    };
    assert_eq!((by, &buffer[..length]), (to, text.as_bytes()));
}

/// IPv4: the header with these options (a multiple of four bytes).
fn with_options(mut header: Vec<u8>, rest: Vec<u8>, options: &[u8]) -> Vec<u8> {
    header[0] += (options.len() / 4) as u8;
    let total = (header.len() + options.len() + rest.len()) as u16;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[10..12].fill(0);
    header.extend_from_slice(options);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [header, rest].concat()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// IPv6: the packet with these extension headers (number and bytes, the first byte being the next header) before UDP.
fn with_extensions(mut header: Vec<u8>, rest: Vec<u8>, extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let mut chain = Vec::new();
    for (index, (_, bytes)) in extensions.iter().enumerate() {
        let next = extensions.get(index + 1).map_or(17, |(number, _)| *number);
        chain.push(next);
        chain.extend_from_slice(&bytes[1..]);
    }
    header[6] = extensions[0].0;
    let payload = (chain.len() + rest.len()) as u16;
    header[4..6].copy_from_slice(&payload.to_be_bytes());
    [header, chain, rest].concat()
}

const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;
const FRAGMENT: u8 = 44;
/// Eight bytes of options: `PadN` with four.
const PADDING: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
/// A fragment header with offset 0 and no more fragments: an atomic fragment (RFC 6946).
const ATOMIC: &[u8] = &[0, 0, 0, 0, 1, 2, 3, 4];

#[test]
fn packets_of_unusual_shape_reach_the_backend_and_are_answered() {
    for xdp in ["auto", "off"] {
        let (_echo, world) = echo_world(LabSpec::nodes(2), xdp);
        for node in ["n1", "n2"] {
            let to = world.node_port(node, Family::V4, PORT);
            let plain = |header: Vec<u8>, rest: Vec<u8>| [header, rest].concat();
            echoed(&world, "a plain packet", to, plain);
            echoed(&world, "no checksum (C1)", to, |header, mut rest| {
                rest[6..8].fill(0);
                plain(header, rest)
            });
            echoed(&world, "no-operation options (E1)", to, |h, r| {
                with_options(h, r, &[1, 1, 1, 0])
            });
            echoed(&world, "record route (E1)", to, |h, r| {
                with_options(h, r, &[7, 7, 4, 0, 0, 0, 0, 0])
            });

            let to = world.node_port(node, Family::V6, PORT);
            echoed(&world, "a plain packet", to, plain);
            echoed(&world, "hop-by-hop options (E6)", to, |h, r| {
                with_extensions(h, r, &[(HOP_BY_HOP, PADDING)])
            });
            echoed(&world, "destination options (E6)", to, |h, r| {
                with_extensions(h, r, &[(DESTINATION, PADDING)])
            });
            echoed(&world, "both (E6)", to, |h, r| {
                with_extensions(h, r, &[(HOP_BY_HOP, PADDING), (DESTINATION, PADDING)])
            });
            echoed(&world, "an atomic fragment (E7)", to, |h, r| {
                with_extensions(h, r, &[(FRAGMENT, ATOMIC)])
            });
        }
    }
}

fn talk(world: &World, node: &str, family: Family, port: u16) -> Talk {
    let from = SocketAddr::new(CLIENT[family as usize], port);
    Talk::connect(&world.lab.client, from, world.node_port(node, family, PORT)).expect("connected")
}

/// B5: a reset with sequence numbers out of the window: the backend ignores it, and so must the flow, also after the few seconds
/// that a closed one is kept.
#[test]
fn a_blind_reset_kills_no_flow() {
    let (_echo, world) = echo_world(LabSpec::nodes(2), "auto");
    let mut talks = Vec::new();
    for family in Family::BOTH {
        for node in ["n1", "n2"] {
            let mut talk = talk(&world, node, family, 41001);
            talk.say("before").expect("it talks");
            let to = world.node_port(node, family, PORT);
            let builder = match (CLIENT[family as usize], to.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    PacketBuilder::ipv4(from.octets(), to.octets(), 64)
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    PacketBuilder::ipv6(from.octets(), to.octets(), 64)
                }
                _ => panic!("two families"),
            };
            let mut packet = Vec::new();
            builder
                .tcp(41001, to.port(), 12345, 0)
                .rst()
                .write(&mut packet, &[])
                .expect("a packet");
            RawSender::open(&world.lab.client, family == Family::V6)
                .expect("a raw socket")
                .send(&packet)
                .expect("sent");
            talks.push(talk);
        }
    }
    for second in 0..15 {
        for talk in &mut talks {
            // The first is said after a pause in which nothing takes the reset back.
            std::thread::sleep(Duration::from_millis(if second == 0 { 1000 } else { 200 }));
            talk.say(&format!("turn {second}")).expect("it lives");
        }
    }
}

/// B9: all state is lost in the middle of connections. With one endpoint they may be picked up where they were; those that are
/// not end soon, and none hangs.
#[test]
fn a_connection_whose_state_is_lost_fails_soon() {
    let (_echo, mut world) = echo_world(LabSpec::nodes(2), "auto");
    let mut talks: Vec<_> = Family::BOTH
        .into_iter()
        .flat_map(|family| ["n1", "n2"].map(|node| (node, family)))
        .map(|(node, family)| talk(&world, node, family, 41002))
        .collect();
    for index in 0..world.agents.len() {
        world.agents[index].stop().expect("it stops");
        world.agents[index].clean().expect("all state is gone");
        world.agents[index].start(&world.lab).expect("it starts");
    }
    for talk in &mut talks {
        let start = Instant::now();
        let said = talk.say("anyone there?");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "{said:?} after {took:?}");
    }
}

/// A5: the node's own connections to the backend live beside many translated ones to the same address and port.
#[test]
fn the_nodes_own_connections_to_a_backend_are_left_alone() {
    let (_echo, world) = echo_world(LabSpec::nodes(2), "auto");
    let node = world.lab.node("n1");
    for family in Family::BOTH {
        let direct = SocketAddr::new(
            world.lab.pod("n2-p1").address(family),
            nodeport_tests::echo::ECHO_PORT,
        );
        let from = SocketAddr::new(node.address(family), 0);
        let mut own: Vec<_> = (0..50)
            .map(|_| Talk::connect(&node.netns, from, direct).expect("connected"))
            .collect();
        let mut translated: Vec<_> = (0..300).map(|_| talk(&world, "n1", family, 0)).collect();
        for talk in own.iter_mut().chain(&mut translated) {
            talk.say("still here").expect("it talks");
        }
    }
}
