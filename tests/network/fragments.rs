//! Datagrams that do not fit: fragmented on the way there and on the way back (edge-cases E2, E5, E7).

use std::net::SocketAddr;
use std::time::Duration;

use nodeport_tests::addresses::CLIENT;
use nodeport_tests::echo::{ECHO_PORT, Echo, datagrams_from, receive};
use nodeport_tests::{Family, LabSpec};

use crate::world::World;

const PORT: u16 = 30007;

/// A world in which UDP node port 30007 leads to an echo server in n2-p1.
pub(crate) fn echo_world(spec: LabSpec, xdp: &str) -> (Echo, World) {
    let world = World::with(
        spec,
        |spec| spec.xdp(xdp),
        |lab, manifest| {
            let service = manifest.service("echo");
            service
                .udp_node_port(PORT, ECHO_PORT)
                .node_port(PORT, ECHO_PORT);
            service.endpoints(lab, [lab.pod("n2-p1")]);
        },
    );
    (
        Echo::in_pod(world.lab.pod("n2-p1")).expect("echo starts"),
        world,
    )
}

/// A datagram of this length goes there and comes back whole, from the address that was asked.
fn there_and_back(world: &World, to: SocketAddr, length: usize) {
    let from = SocketAddr::new(CLIENT[usize::from(to.is_ipv6())], 0);
    let socket = datagrams_from(&world.lab.client, from, Duration::from_secs(2)).expect("a socket");
    let sent: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
    socket.send_to(&sent, to).expect("sent");
    let mut buffer = vec![0; 65536];
    let received = receive(&socket, &mut buffer);
    let Ok((got, by)) = received else {
        panic!("{length} bytes to {to}: {received:?}\n{}", world.evidence())
    };
    assert_eq!(by, to, "the answer comes from the address that was asked");
    assert_eq!(&buffer[..got], sent.as_slice(), "every byte is there");
}

#[test]
fn fragmented_datagrams_pass_both_ways() {
    for xdp in ["auto", "off"] {
        let (_echo, world) = echo_world(LabSpec::nodes(2), xdp);
        for family in Family::BOTH {
            // n1 sends it on to n2; on n2 the backend is local.
            for node in ["n1", "n2"] {
                // Whole, two, three and many fragments; many flows, so that first fragments find no state.
                for length in [100, 1472, 1600, 4000, 4000, 4000, 9000, 20000] {
                    there_and_back(&world, world.node_port(node, family, PORT), length);
                }
            }
        }
    }
}

/// The first fragment that does not fit into the overlay is answered, not fragmented again (docs/differences.md): one datagram is
/// lost, and from then on the client sends fragments that fit.
#[test]
fn fragmented_datagrams_pass_through_an_overlay_once_its_size_is_known() {
    for xdp in ["auto", "off"] {
        let (_echo, world) = echo_world(LabSpec::nodes(2).vxlan(), xdp);
        for family in Family::BOTH {
            there_and_back(&world, world.node_port("n1", family, PORT), 100);
            lesson(&world, world.node_port("n1", family, PORT));
            if family == Family::V6 {
                // Here it is n2 itself that does not fragment on the way to its Pod: no router does in IPv6.
                lesson(&world, world.node_port("n2", family, PORT));
            }
            for node in ["n1", "n2"] {
                for length in [100, 1600, 4000, 9000] {
                    there_and_back(&world, world.node_port(node, family, PORT), length);
                }
            }
        }
    }
}

/// Sends one datagram that is too large and waits until the client has learnt so.
fn lesson(world: &World, to: SocketAddr) {
    let from = SocketAddr::new(CLIENT[usize::from(to.is_ipv6())], 0);
    let socket =
        datagrams_from(&world.lab.client, from, Duration::from_millis(300)).expect("a socket");
    socket.send_to(&[0; 1600], to).expect("sent");
    let lost = receive(&socket, &mut [0; 2048]);
    assert!(lost.is_err(), "1500 bytes fit into 1450: {lost:?}");
    let learnt = crate::mtu::learnt(&world.lab.client, to.ip());
    assert_eq!(learnt, Some(1450), "{}", world.evidence());
}
