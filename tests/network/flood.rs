//! A flood of first packets (edge-cases B6, B7).

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;
use nodeport_tests::addresses::CLIENT;
use nodeport_tests::echo::{ECHO_PORT, Echo, Talk};
use nodeport_tests::raw::RawSender;
use nodeport_tests::{Family, LabSpec};

use crate::world::World;

const PORT: u16 = 30007;
/// Entries of the table of pending flows in this story; a flow is two.
const PENDING: u32 = 4096;

/// Ten times as many SYN from made-up sources as the table holds; connections that were there before live on, and afterwards
/// new ones are made as before.
#[test]
fn a_syn_flood_breaks_no_connection() {
    for xdp in ["auto", "off"] {
        let world = World::with(
            LabSpec::nodes(2),
            |spec| spec.xdp(xdp).arguments(&format!("--pending-max {PENDING}")),
            |lab, manifest| {
                manifest
                    .service("echo")
                    .node_port(PORT, ECHO_PORT)
                    .endpoints(lab, [lab.pod("n2-p1")]);
            },
        );
        let _echo = Echo::in_pod(world.lab.pod("n2-p1")).expect("echo starts");
        for family in Family::BOTH {
            let mut talks = Vec::new();
            for node in ["n1", "n2"] {
                let from = SocketAddr::new(CLIENT[family as usize], 0);
                let to = world.node_port(node, family, PORT);
                talks.extend(
                    (0..50).map(|_| Talk::connect(&world.lab.client, from, to).expect("connected")),
                );
            }
            for talk in &mut talks {
                talk.say("before").expect("it talks");
            }
            for node in ["n1", "n2"] {
                flood(&world, world.node_port(node, family, PORT));
            }
            for (number, talk) in talks.iter_mut().enumerate() {
                let said = talk.say("after the flood");
                assert!(
                    said.is_ok(),
                    "connection {number}, XDP {xdp}: {said:?}\n{}",
                    world.evidence()
                );
            }
            let from = SocketAddr::new(CLIENT[family as usize], 0);
            let mut new =
                Talk::connect(&world.lab.client, from, world.node_port("n1", family, PORT))
                    .expect("connected");
            new.say("a new one").expect("it talks");
        }
    }
}

fn flood(world: &World, to: SocketAddr) {
    let sender = RawSender::open(&world.lab.client, to.is_ipv6()).expect("a raw socket");
    let node = if world
        .lab
        .node("n1")
        .own_addresses()
        .any(|own| own == to.ip())
    {
        "n1"
    } else {
        "n2"
    };
    let (counted, ()) = world.counted(node, || {
        for number in 0..PENDING * 10 {
            // A full queue on the way is a lost SYN of the flood, nothing more.
            let _ = sender.send(&syn(number, to));
        }
    });
    let arrived: u64 = ["xdp", "tc_ingress"]
        .iter()
        .flat_map(|hook| {
            ["to_remote_backend", "to_local_backend"].map(|outcome| counted.get(hook, outcome))
        })
        .sum();
    assert!(
        arrived > u64::from(PENDING) * 5,
        "the flood did not arrive: {counted:?}"
    );
}

/// A SYN from a source that depends on the number.
fn syn(number: u32, to: SocketAddr) -> Vec<u8> {
    let [a, b, c, d] = number.to_be_bytes();
    let builder = match to.ip() {
        IpAddr::V4(to) => PacketBuilder::ipv4([198, 18, b ^ c, d], to.octets(), 64),
        IpAddr::V6(to) => {
            let mut from = [0; 16];
            from[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
            from[12..].copy_from_slice(&[a, b, c, d]);
            PacketBuilder::ipv6(from, to.octets(), 64)
        }
    };
    let port = 1024 + (number % 60000) as u16;
    let builder = builder.tcp(port, to.port(), number, 65535).syn();
    let mut packet = Vec::with_capacity(builder.size(0));
    builder.write(&mut packet, &[]).expect("a packet");
    packet
}
