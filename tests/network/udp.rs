//! Long-lived UDP flows when endpoints come and go (edge-cases C2, C3; behaviours 17.3 to 17.8).

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nodeport_tests::addresses::CLIENT;
use nodeport_tests::clients::Answer;
use nodeport_tests::echo::{datagrams_from, receive};
use nodeport_tests::objects::Protocol;
use nodeport_tests::standin::StandIns;
use nodeport_tests::{Family, LabSpec};

use crate::world::World;

pub(crate) const PORT: u16 = 30060;
const TARGET: u16 = 6000;

/// A Service with these Pods as endpoints; stand-ins in all Pods, and agents with these arguments.
pub(crate) fn world(pods: &[&str], xdp: &str, arguments: &str) -> (StandIns, World) {
    let world = World::with(
        LabSpec::nodes(2),
        |spec| spec.xdp(xdp).arguments(arguments),
        |lab, manifest| {
            manifest
                .service("udp")
                .udp_node_port(PORT, TARGET)
                .endpoints(lab, pods.iter().map(|pod| lab.pod(pod)));
        },
    );
    let mut stand_ins = StandIns::new();
    for pod in world.lab.pods() {
        let listen: Vec<_> = pod
            .addresses()
            .map(|address| (SocketAddr::new(address, TARGET), Protocol::Udp))
            .collect();
        stand_ins.serve(&pod.netns, &listen).expect("it listens");
    }
    (stand_ins, world)
}

/// Asks once from a socket that stays the same; `None` if nothing comes within a fifth of a second.
fn ask(socket: &UdpSocket, to: SocketAddr) -> Option<SocketAddr> {
    socket.send_to(b"who?", to).ok()?;
    let mut buffer = [0; 512];
    let (length, _) = receive(socket, &mut buffer).ok()?;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    nodeport_tests::clients::parse_http(&text).and_then(|answer: Answer| answer.server)
}

fn point_to(world: &mut World, pods: &[&str]) {
    let lab = &world.lab;
    let service = world.manifest.service("udp");
    service
        .udp_node_port(PORT, TARGET)
        .endpoints(lab, pods.iter().map(|pod| lab.pod(pod)));
    world.manifest.write().expect("written");
}

/// C2: the flow's endpoint is gone, another one serves: the same socket reaches it soon, without a pause of its own.
#[test]
fn a_flow_moves_when_its_endpoint_is_gone() {
    for xdp in ["auto", "off"] {
        for (node, first, second) in [
            ("n1", "n2-p1", "n2-p2"),
            ("n2", "n2-p1", "n2-p2"),
            ("n1", "n1-p1", "n2-p2"),
            ("n1", "n2-p1", "n1-p1"),
        ] {
            let (_stand_ins, mut world) = world(&[first], xdp, "");
            for family in Family::BOTH {
                point_to(&mut world, &[first]);
                let to = world.node_port(node, family, PORT);
                let from = SocketAddr::new(CLIENT[family as usize], 0);
                let socket = datagrams_from(&world.lab.client, from, Duration::from_millis(200))
                    .expect("a socket");
                let [first, second_at] = [first, second]
                    .map(|pod| SocketAddr::new(world.lab.pod(pod).address(family), TARGET));
                moves_to(&socket, to, first, &world);
                point_to(&mut world, &[second]);
                moves_to(&socket, to, second_at, &world);
            }
        }
    }
}

/// The flow reaches this endpoint within two seconds, and then stays.
fn moves_to(socket: &UdpSocket, to: SocketAddr, endpoint: SocketAddr, world: &World) {
    let end = Instant::now() + Duration::from_secs(2);
    while ask(socket, to) != Some(endpoint) {
        assert!(
            Instant::now() < end,
            "{to} does not reach {endpoint}\n{}",
            world.evidence()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    for _ in 0..10 {
        assert_eq!(ask(socket, to), Some(endpoint), "it stays there");
    }
}

/// C3: a steady sender begins before there is an endpoint; it is answered soon after one appears.
#[test]
fn a_sender_that_began_too_early_is_answered() {
    let (_stand_ins, mut world) = world(&[], "auto", "");
    for family in Family::BOTH {
        point_to(&mut world, &[]);
        let to = world.node_port("n1", family, PORT);
        let from = SocketAddr::new(CLIENT[family as usize], 0);
        let socket = || {
            datagrams_from(&world.lab.client, from, Duration::from_millis(100)).expect("a socket")
        };
        let end = Instant::now() + Duration::from_secs(3);
        // Another flow each time: a flow that was translated once may stay where it is (17.5). Three times: an answer may only be late.
        while (0..3).any(|_| ask(&socket(), to).is_some()) {
            assert!(
                Instant::now() < end,
                "the endpoints of the last round are still used"
            );
        }
        let socket = socket();
        for _ in 0..5 {
            assert_eq!(ask(&socket, to), None, "there is no endpoint");
        }
        point_to(&mut world, &["n2-p1"]);
        let endpoint = SocketAddr::new(world.lab.pod("n2-p1").address(family), TARGET);
        moves_to(&socket, to, endpoint, &world);
    }
}
