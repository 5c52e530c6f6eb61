//! ICMP errors about translated flows: both directions, both ways of carrying (edge-cases D1-D4; behaviours 10.1).

use nodeport_common::{Outcome, V4, V6, protocol};
use nodeport_ebpf::path::Action;

use crate::both;
use crate::packets::{ACK, Build, End, PSH, SYN, Seen, icmp};
use crate::world::{FABRIC, NODE_PORT, POD1, Places, TARGET, Trip, UPLINK, World};

/// What an ICMP error tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    v4: [u8; 2],
    v6: [u8; 2],
    /// The second word of the header.
    word: [u8; 4],
}

const TOO_BIG: Kind = Kind {
    v4: [3, 4],
    v6: [2, 0],
    word: [0, 0, 0x05, 0x78],
};
const PORT_UNREACHABLE: Kind = Kind {
    v4: [3, 3],
    v6: [1, 4],
    word: [0; 4],
};
const HOST_UNREACHABLE: Kind = Kind {
    v4: [3, 1],
    v6: [1, 3],
    word: [0; 4],
};
const TIME_EXCEEDED: Kind = Kind {
    v4: [11, 0],
    v6: [3, 0],
    word: [0; 4],
};

impl Kind {
    fn of<A: Places>(self) -> [u8; 2] {
        if A::ICMP_NUMBER == protocol::ICMP {
            self.v4
        } else {
            self.v6
        }
    }
}

/// A frame with an ICMP error, at a device.
fn error<A: Places>(
    world: &World<A>,
    device: u32,
    (from, to): (A, A),
    kind: Kind,
    quote: &[u8],
) -> Build<A> {
    world.addressed(device, &icmp(from, to, kind.of::<A>(), kind.word, quote))
}

fn receive<A: Places>(world: &World<A>, device: u32, error: &Build<A>) -> Trip<A> {
    world.enters_as(device, nodeport_ebpf::sim::Frame::new(error.icmp_frame()))
}

/// Asserts that a trip's ICMP error says `kind` from one host to another, and quotes exactly this.
#[track_caller]
fn says<A: Places>(trip: &Trip<A>, (from, to): (A, A), kind: Kind, quote: &[u8]) {
    trip.is(Outcome::IcmpTranslated);
    let seen = trip.seen();
    assert_eq!((seen.from, seen.to), (from, to));
    assert_eq!(seen.behind[..2], kind.of::<A>());
    assert_eq!(seen.behind[4..8], kind.word);
    assert_eq!(seen.behind[8..], *quote);
}

/// One hop later: the packet as a router behind this node quotes it.
fn later<A: Places>(build: &Build<A>) -> Vec<u8> {
    Build {
        ttl: build.ttl - 1,
        ..build.clone()
    }
    .packet()
}

/// What is to become of a quote of `len` bytes of a packet that was sent so and left so: what was sent. Half a checksum cannot be brought
/// in step, and stays.
fn original<A: Places>(sent: &Build<A>, left: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = later(sent)[..len].to_vec();
    let checksum = A::HEADER_LEN + if sent.tcp.is_some() { 16 } else { 6 };
    if len == checksum + 1 {
        bytes[checksum] = left[checksum];
    }
    bytes
}

/// A client's connection to a remote backend: what was sent, what left, in both directions.
struct Remote<A: Places> {
    world: World<A>,
    /// What the client and the backend sent.
    request: Build<A>,
    reply: Build<A>,
    /// What became of it, from the network header on.
    request_left: Vec<u8>,
    reply_left: Vec<u8>,
}

impl<A: Places> Remote<A> {
    fn new(tcp: bool) -> Self {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let make = |from: End<A>, to: End<A>, flags| {
            if tcp {
                Build::tcp(from, to, flags)
            } else {
                Build::udp(from, to, &[])
            }
            .with_payload(70)
        };
        world.enters(UPLINK, &make(client, front_end, SYN));
        let source = (A::FABRIC_ADDRESS, 1024);
        let reply = make((A::remote(7), TARGET), source, ACK | PSH);
        let reply_left = world.enters(FABRIC, &reply).frame.bytes[14..].to_vec();
        let request = make(client, front_end, ACK | PSH);
        let request_left = world.enters(UPLINK, &request).frame.bytes[14..].to_vec();
        Self {
            world,
            request,
            reply,
            request_left,
            reply_left,
        }
    }
}

both! {
    /// D1, D3: a router between this node and the backend complains. The client hears it as if its own packet were meant, from the front
    /// end; quotes of any length, down to eight bytes of the transport header (D2).
    fn a_complaint_about_a_request_reaches_the_client<A>() {
        for (tcp, kind) in [(true, TOO_BIG), (false, HOST_UNREACHABLE), (true, TIME_EXCEEDED)] {
            let it = Remote::<A>::new(tcp);
            for len in A::HEADER_LEN + 8..=it.request_left.len() {
                let quote = &it.request_left[..len];
                let path = (A::remote(250), A::FABRIC_ADDRESS);
                let error = error(&it.world, FABRIC, path, kind, quote);
                let trip = receive(&it.world, FABRIC, &error);
                trip.left_by(UPLINK);
                let expected = original(&it.request, &it.request_left, len);
                says(&trip, (A::NODE, A::client(1)), kind, &expected);
                assert_eq!(trip.seen().ttl, 63);
            }
        }
    }

    /// D1, D3: a router between this node and the client complains. The backend hears it as if its own packet were meant.
    fn a_complaint_about_a_reply_reaches_the_backend<A>() {
        for (tcp, kind) in [(true, TOO_BIG), (false, PORT_UNREACHABLE), (false, TIME_EXCEEDED)] {
            let it = Remote::<A>::new(tcp);
            for len in A::HEADER_LEN + 8..=it.reply_left.len() {
                let quote = &it.reply_left[..len];
                let error = error(&it.world, UPLINK, (A::client(250), A::NODE), kind, quote);
                let trip = receive(&it.world, UPLINK, &error);
                trip.left_by(FABRIC);
                let expected = original(&it.reply, &it.reply_left, len);
                says(&trip, (A::FABRIC_ADDRESS, A::remote(7)), kind, &expected);
            }
        }
    }

    /// The same for a backend on this node: the error comes in from the client's side, and the stack delivers it.
    fn a_complaint_about_a_local_backend_s_reply_reaches_it<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let client = (A::client(1), 40000);
        world.enters(UPLINK, &Build::tcp(client, (A::NODE, NODE_PORT), SYN));
        let reply = Build::tcp((A::local(1), TARGET), client, ACK).with_payload(70);
        let left = world.leaves(UPLINK, &reply);
        let quote = &left.frame.bytes[14..];
        let error = error(&world, UPLINK, (A::client(250), A::NODE), TOO_BIG, quote);
        let trip = receive(&world, UPLINK, &error);
        assert_eq!(trip.verdict().action, Action::Pass);
        says(&trip, (A::client(1), A::local(1)), TOO_BIG, &reply.packet());
    }

    /// D3: a Pod of this node has no socket there. Its error is translated where it leaves the stack; the client's attempt fails at once.
    fn a_local_backend_s_complaint_reaches_the_client<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let client = (A::client(1), 40000);
        let question = Build::udp(client, (A::NODE, NODE_PORT), &[]).with_payload(70);
        let entered = world.enters(UPLINK, &question);
        let quote = &entered.frame.bytes[14..];
        let path = (A::local(1), A::client(1));
        let error = error(&world, POD1, path, PORT_UNREACHABLE, quote);
        receive(&world, POD1, &error).passed_untouched(Outcome::AwaitsEgress);
        let mut frame = nodeport_ebpf::sim::Frame::new(error.icmp_frame());
        let sent = frame.clone();
        let verdict = world.node.tc_egress(UPLINK, &mut frame);
        let trip = Trip::<A>::new(None, verdict, frame, sent);
        assert_eq!(trip.verdict().action, Action::Pass);
        says(&trip, (A::NODE, A::client(1)), PORT_UNREACHABLE, &question.packet());
    }

    /// D1 at XDP: errors are TC's.
    fn xdp_leaves_errors_to_tc<A>() {
        let it = Remote::<A>::new(true);
        let path = (A::remote(250), A::FABRIC_ADDRESS);
        let error = error(&it.world, FABRIC, path, TOO_BIG, &it.request_left);
        let trip = receive(&it.world, FABRIC, &error);
        assert_eq!(trip.xdp.unwrap().outcome, Outcome::LeftToTc);
    }

    /// D4: echo requests and replies, and errors about other people's packets, are nobody's business.
    fn other_icmp_goes_on<A>() {
        let it = Remote::<A>::new(true);
        let (request, reply) = if A::ICMP_NUMBER == protocol::ICMP { (8, 0) } else { (128, 129) };
        for kind in [request, reply] {
            for to in [A::NODE, A::FABRIC_ADDRESS, A::CLUSTER_IP] {
                let echo = icmp(A::client(1), to, [kind, 0], [0, 7, 0, 1], b"ping");
                let trip = receive(&it.world, UPLINK, &it.world.addressed(UPLINK, &echo));
                trip.passed_untouched(Outcome::Untouched);
            }
        }
        let foreign = Build::tcp((A::FABRIC_ADDRESS, 1024), (A::remote(8), TARGET), SYN).packet();
        let path = (A::remote(250), A::FABRIC_ADDRESS);
        let error = error(&it.world, FABRIC, path, TOO_BIG, &foreign);
        receive(&it.world, FABRIC, &error).passed_untouched(Outcome::Untouched);
    }

    /// D2: a quote without ports is of no use, even where Ethernet's padding looks like some.
    fn a_quote_ends_where_the_packet_ends<A>() {
        let it = Remote::<A>::new(true);
        for len in 0..A::HEADER_LEN + 8 {
            let path = (A::remote(250), A::FABRIC_ADDRESS);
            let mut bytes =
                error(&it.world, FABRIC, path, TOO_BIG, &it.request_left[..len]).icmp_frame();
            bytes.extend(&it.request_left[len..]);
            let trip = it.world.enters_as(FABRIC, nodeport_ebpf::sim::Frame::new(bytes));
            assert_eq!(trip.verdict().action, Action::Pass);
            trip.passed_untouched(trip.verdict().outcome);
            assert_ne!(trip.verdict().outcome, Outcome::IcmpTranslated, "{len} bytes");
        }
    }

    /// D6: an error that cannot be forwarded causes no other error.
    fn an_error_about_an_error_is_not_sent<A>() {
        let it = Remote::<A>::new(true);
        let path = (A::remote(250), A::FABRIC_ADDRESS);
        let error = error(&it.world, FABRIC, path, TOO_BIG, &it.request_left);
        let dying = Build { ttl: 1, ..error.clone() };
        receive(&it.world, FABRIC, &dying).was_dropped(Outcome::TtlExpired);
        let long = [&it.request_left[..], &[0; 2000]].concat();
        let big = icmp(path.0, path.1, TOO_BIG.of::<A>(), TOO_BIG.word, &long);
        let trip = receive(&it.world, FABRIC, &it.world.addressed(FABRIC, &big));
        trip.was_dropped(Outcome::TooBigSuppressed);
    }
}

/// D3 for traceroute: the hop behind this node answers, and the client sees what it sent.
#[test]
fn a_traceroute_through_the_node_sees_its_own_probe() {
    let world = World::<V4>::new().node_port(&[(V4::remote(7), TARGET)]);
    let probe = Build {
        ttl: 2,
        ..Build::tcp((V4::client(1), 40000), (V4::NODE, NODE_PORT), SYN)
    };
    let left = world.enters(UPLINK, &probe);
    let path = (V4::remote(250), V4::FABRIC_ADDRESS);
    let quote = &left.frame.bytes[14..14 + 28];
    let answer = error(&world, FABRIC, path, TIME_EXCEEDED, quote);
    let trip = receive(&world, FABRIC, &answer);
    let seen: Seen<V4> = trip.seen();
    assert_eq!((seen.from, seen.to), (V4::NODE, V4::client(1)));
    assert_eq!(
        seen.behind[8 + 12..8 + 20],
        [198, 51, 100, 1, 192, 0, 2, 11]
    );
    assert_eq!(seen.behind[8 + 20..8 + 24], [0x9c, 0x40, 0x75, 0x80]);
}

/// A datagram without a checksum is quoted without one.
#[test]
fn a_quoted_datagram_without_a_checksum_stays_so() {
    let world = World::<V4>::new().node_port(&[(V4::remote(7), TARGET)]);
    let question = Build {
        without_checksum: true,
        ..Build::udp((V4::client(1), 40000), (V4::NODE, NODE_PORT), b"question")
    };
    let left = world.enters(UPLINK, &question);
    let path = (V4::remote(7), V4::FABRIC_ADDRESS);
    let answer = error(
        &world,
        FABRIC,
        path,
        PORT_UNREACHABLE,
        &left.frame.bytes[14..],
    );
    let trip = receive(&world, FABRIC, &answer);
    says(
        &trip,
        (V4::NODE, V4::client(1)),
        PORT_UNREACHABLE,
        &later(&question),
    );
}

/// E7, D1: a datagram that we carried in fragments is quoted with its fragment header.
#[test]
fn a_quoted_fragment_is_translated() {
    let world = World::<V6>::new().node_port(&[(V6::remote(7), TARGET)]);
    let question =
        Build::udp((V6::client(1), 40000), (V6::NODE, NODE_PORT), &[]).with_payload(1000);
    let fragments = world.addressed(UPLINK, &question).fragments(&[504]);
    let frame = nodeport_ebpf::sim::Frame::new(fragments[0].clone());
    let left = world.enters_as(UPLINK, frame);
    left.is(Outcome::ToRemoteBackend);
    let path = (V6::remote(250), V6::FABRIC_ADDRESS);
    let answer = error(&world, FABRIC, path, TOO_BIG, &left.frame.bytes[14..]);
    let trip = receive(&world, FABRIC, &answer);
    let mut expected = fragments[0][14..].to_vec();
    expected[7] = 63;
    says(&trip, (V6::NODE, V6::client(1)), TOO_BIG, &expected);
}
