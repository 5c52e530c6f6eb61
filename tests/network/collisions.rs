//! Flows that would share a tuple, and ports that are used again (edge-cases A1, A3, B1, B3, B12, B13).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nodeport_tests::addresses::{CLIENT, SECOND_CLIENT};
use nodeport_tests::clients::{Options, Verdict};
use nodeport_tests::echo::{ECHO_PORT, Echo, PIECE, PIECES, Talk, datagrams_from, receive};
use nodeport_tests::stream::retransmissions;
use nodeport_tests::{Family, Lab, LabSpec, clients};

use crate::world::World;

/// Two node ports of two Services with one backend.
const A: u16 = 30007;
const B: u16 = 30008;

struct Story {
    _echoes: Vec<Echo>,
    world: World,
}

/// Both Services lead to `pods`; policy Local if so.
fn story(pods: &[&str], local: bool, xdp: &str) -> Story {
    let world = World::with(
        LabSpec::nodes(2),
        |spec| spec.xdp(xdp),
        |lab, manifest| {
            for (name, port) in [("a", A), ("b", B)] {
                let service = manifest.service(name);
                service
                    .node_port(port, ECHO_PORT)
                    .udp_node_port(port, ECHO_PORT);
                if local {
                    service.external_local();
                }
                service.endpoints(lab, pods.iter().map(|pod| lab.pod(pod)));
            }
        },
    );
    let echoes = world
        .lab
        .pods()
        .map(|pod| Echo::in_pod(pod).expect("echo starts"))
        .collect();
    Story {
        _echoes: echoes,
        world,
    }
}

fn both_talk(mut one: Talk, mut other: Talk) {
    for turn in 0..50 {
        one.say(&format!("one {turn}")).expect("the first talks");
        other
            .say(&format!("other {turn}"))
            .expect("the second talks");
    }
}

/// A1: two clients with one source port, one backend on another node.
#[test]
fn two_clients_with_one_source_port_do_not_meet() {
    for xdp in ["auto", "off"] {
        let story = story(&["n2-p1"], false, xdp);
        let lab = &story.world.lab;
        for family in Family::BOTH {
            let to = story.world.node_port("n1", family, A);
            let talk = |address| {
                Talk::connect(&lab.client, SocketAddr::new(address, 40001), to).expect("connected")
            };
            let (one, other) = (
                talk(CLIENT[family as usize]),
                talk(SECOND_CLIENT[family as usize]),
            );
            assert_ne!(one.seen, other.seen, "the backend sees two clients");
            both_talk(one, other);
        }
    }
}

/// A3: one client port, two front ends, one backend that would see the same client twice.
#[test]
fn two_front_ends_with_one_backend_do_not_meet() {
    for (pods, node) in [(["n1-p1"], "n1"), (["n2-p1"], "n1")] {
        for local in [true, false] {
            if local && pods[0] != "n1-p1" {
                continue;
            }
            let story = story(&pods, local, "auto");
            let lab = &story.world.lab;
            for family in Family::BOTH {
                let from = SocketAddr::new(CLIENT[family as usize], 40002);
                let to = [A, B].map(|port| story.world.node_port(node, family, port));
                let [one, other] =
                    to.map(|to| Talk::connect(&lab.client, from, to).expect("connected"));
                assert_ne!(one.seen, other.seen, "the backend sees two connections");
                both_talk(one, other);
                answers_come_from_where_they_were_asked(lab, from, to);
            }
        }
    }
}

fn answers_come_from_where_they_were_asked(lab: &Lab, from: SocketAddr, to: [SocketAddr; 2]) {
    let socket = datagrams_from(&lab.client, from, Duration::from_secs(2)).expect("a socket");
    for turn in 0..20 {
        for to in to {
            let text = format!("{turn} to {to}");
            socket.send_to(text.as_bytes(), to).expect("sent");
            let mut buffer = [0; 256];
            let (length, by) = receive(&socket, &mut buffer).expect("an answer");
            assert_eq!((by, &buffer[..length]), (to, text.as_bytes()));
        }
    }
}

/// A3, B15: a connection that is over leaves its backend waiting for late packets. Another front end must not lead the same client port into that:
/// the backend would take the new connection for the old one, answer with that one's numbers, and be asked again.
#[test]
fn two_front_ends_in_turn_need_no_second_try() {
    for pod in ["n1-p1", "n2-p1"] {
        let story = story(&[pod], false, "auto");
        let lab = &story.world.lab;
        for family in Family::BOTH {
            let from = SocketAddr::new(CLIENT[family as usize], 40004);
            let to = [A, B].map(|port| story.world.node_port("n1", family, port));
            let before = retransmissions(&lab.client).expect("counters");
            for to in to.into_iter().cycle().take(20) {
                let talk = Talk::connect(&lab.client, from, to);
                let talk = talk.unwrap_or_else(|e| panic!("{e:#}\n{}", story.world.evidence()));
                talk.bye().expect("closed");
            }
            let again = retransmissions(&lab.client).expect("counters") - before;
            // One that was only late, on a machine that stood still, is sent again as well.
            assert!(again <= 2, "{again} of 20: {pod}, {family:?}");
        }
    }
}

/// B1: the client uses its port again at once, and the backend is another one by now.
#[test]
fn a_port_used_again_is_a_new_connection() {
    for xdp in ["auto", "off"] {
        let mut story = story(&["n2-p1"], false, xdp);
        for family in Family::BOTH {
            let from = SocketAddr::new(CLIENT[family as usize], 40003);
            let to = story.world.node_port("n1", family, A);
            point_to(&mut story.world, "n2-p1", to);
            let talk = Talk::connect(&story.world.lab.client, from, to).expect("connected");
            assert_eq!(talk.server, "n2-p1");
            talk.bye().expect("closed");
            // At once, to the same backend.
            let talk = Talk::connect(&story.world.lab.client, from, to).expect("connected again");
            talk.bye().expect("closed");
            point_to(&mut story.world, "n2-p2", to);
            let talk =
                Talk::connect(&story.world.lab.client, from, to).expect("connected a third time");
            assert_eq!(
                talk.server, "n2-p2",
                "the old backend is no endpoint any more"
            );
        }
    }
}

/// Makes a Pod the only endpoint of Service `a` and waits until the node that `to` belongs to says so.
fn point_to(world: &mut World, pod: &str, to: SocketAddr) {
    let lab = &world.lab;
    let service = world.manifest.service("a");
    service
        .node_port(A, ECHO_PORT)
        .udp_node_port(A, ECHO_PORT)
        .endpoints(lab, [lab.pod(pod)]);
    world.manifest.write().expect("written");
    let end = Instant::now() + Duration::from_secs(5);
    let any = SocketAddr::new(CLIENT[usize::from(to.is_ipv6())], 0);
    while Talk::connect(&lab.client, any, to)
        .expect("connected")
        .server
        != pod
    {
        assert!(Instant::now() < end, "{to} does not lead to {pod}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// B3: the client has closed its half; the server's half still flows, for longer than short timers.
#[test]
fn a_half_closed_connection_flows_on() {
    for xdp in ["auto", "off"] {
        let story = story(&["n2-p1"], false, xdp);
        for family in Family::BOTH {
            for node in ["n1", "n2"] {
                let from = SocketAddr::new(CLIENT[family as usize], 0);
                let to = story.world.node_port(node, family, A);
                let talk = Talk::connect(&story.world.lab.client, from, to).expect("connected");
                assert_eq!(
                    talk.half_close_and_read().expect("it flows"),
                    PIECE * PIECES
                );
            }
        }
    }
}

/// B12, B13: a connection outlives its endpoint and its Service; new ones do not reach it.
#[test]
fn a_connection_outlives_its_endpoint_and_its_service() {
    let mut story = story(&["n2-p1"], false, "auto");
    let mut talks: Vec<Talk> = Vec::new();
    for family in Family::BOTH {
        for node in ["n1", "n2"] {
            let from = SocketAddr::new(CLIENT[family as usize], 0);
            let to = story.world.node_port(node, family, A);
            talks.push(Talk::connect(&story.world.lab.client, from, to).expect("connected"));
        }
    }
    for node in ["n1", "n2"] {
        let to = story.world.node_port(node, Family::V4, A);
        point_to(&mut story.world, "n2-p2", to);
    }
    for talk in &mut talks {
        talk.say("my endpoint is gone").expect("it flows on");
    }
    // A manifest without Services.
    nodeport_tests::manifest::Manifest::new(&story.world.lab)
        .write()
        .expect("written");
    let to = story.world.node_port("n1", Family::V4, A);
    let end = Instant::now() + Duration::from_secs(5);
    while clients::http(&story.world.lab.client, to, Options::default()).expect("curl runs")
        != Verdict::Refused
    {
        assert!(Instant::now() < end, "the Service is still served");
        std::thread::sleep(Duration::from_millis(50));
    }
    for talk in &mut talks {
        talk.say("my Service is gone").expect("it flows on");
    }
}
