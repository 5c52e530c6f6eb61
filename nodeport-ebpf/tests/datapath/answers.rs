//! What this node answers itself: no endpoint, too big, used up; and when it must not (edge-cases D6-D8, E12; behaviours 6.7-6.9).

use nodeport_common::{Outcome, device_flags, frontend_flags, protocol};
use nodeport_ebpf::path::Action;
use nodeport_ebpf::sim::Frame;

use crate::both;
use crate::packets::{ACK, Build, FIN, PSH, RST, SYN, Seen};
use crate::sums;
use crate::world::{
    FABRIC, NODE_PORT, POD1, PORT, Places, ROUTER_MAC, TARGET, Trip, UPLINK, UPLINK_MAC, World,
    frontend_key, node_port_key,
};

/// The front end refuses an outside client's datagram: port unreachable, from the front end's address, quoting what was sent.
#[track_caller]
fn is_port_unreachable<A: Places>(trip: &Trip<A>, sent: &Build<A>, device: u32) {
    trip.is(Outcome::RejectedNoEndpoint).left_by(device);
    let kind = if A::ICMP_NUMBER == protocol::ICMP {
        [3, 3]
    } else {
        [1, 4]
    };
    is_error(trip, sent, kind, [0; 4]);
}

/// An ICMP error about a packet, to its sender, from where it was going; it quotes the packet as it was.
#[track_caller]
fn is_error<A: Places>(trip: &Trip<A>, sent: &Build<A>, kind: [u8; 2], word: [u8; 4]) {
    let seen = trip.seen();
    assert_eq!((seen.from, seen.to), (sent.to.0, sent.from.0));
    assert_eq!((seen.protocol, seen.ttl), (A::ICMP_NUMBER, 64));
    assert_eq!(seen.behind[..2], kind);
    assert_eq!(seen.behind[4..8], word);
    let quote = &seen.behind[8..];
    assert!(
        quote.len() >= A::HEADER_LEN + 8,
        "at least eight bytes of the transport header"
    );
    assert_eq!(*quote, sent.packet()[..quote.len()]);
}

fn with_mtu<A: Places>(mtu: u16) -> World<A> {
    let mut world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
    for route in &mut world.tables_mut().routes {
        route.hop.mtu = mtu;
    }
    world
}

fn too_big<A: Places>() -> [u8; 2] {
    if A::ICMP_NUMBER == protocol::ICMP {
        [3, 4]
    } else {
        [2, 0]
    }
}

both! {
    /// Behaviours 6.8: a datagram to a Service without endpoints; from outside, and from a Pod of this node.
    fn a_datagram_is_refused_with_port_unreachable<A>() {
        let world = World::<A>::new().node_port(&[]).cluster_ip(&[]);
        for (device, client, front_end) in [
            (UPLINK, A::client(1), (A::NODE, NODE_PORT)),
            (POD1, A::local(1), (A::NODE, NODE_PORT)),
            (POD1, A::local(1), (A::CLUSTER_IP, PORT)),
        ] {
            let question = Build::udp((client, 40000), front_end, &[]).with_payload(100);
            let trip = world.enters(device, &question);
            is_port_unreachable(&trip, &question, device);
            let sent = world.addressed(device, &question);
            assert_eq!((trip.seen().to_mac, trip.seen().from_mac), (sent.from_mac, sent.to_mac));
        }
        assert_eq!(world.sizes(), (0, 0));
    }

    /// D7: a connection is refused with a reset that its sender must believe: the acknowledgement covers SYN and data.
    fn a_connection_is_refused_with_a_reset<A>() {
        let world = World::<A>::new().node_port(&[]);
        for (flags, payload, sequence, acknowledgement, answer) in [
            (SYN, 0, [0; 4], [1, 2, 3, 5], RST | ACK),
            (SYN, 16, [0; 4], [1, 2, 3, 0x15], RST | ACK),
            (ACK | PSH, 9, [0x0a, 0x0b, 0x0c, 0x0d], [0; 4], RST),
            (FIN | ACK, 0, [0x0a, 0x0b, 0x0c, 0x0d], [0; 4], RST),
        ] {
            let syn = Build::tcp((A::client(1), 40000), (A::NODE, NODE_PORT), flags);
            let trip = world.enters(UPLINK, &syn.with_payload(payload));
            trip.is(Outcome::RejectedNoEndpoint).left_by(UPLINK);
            let seen = trip.seen();
            assert_eq!(seen.ends(), ((A::NODE, NODE_PORT), (A::client(1), 40000)));
            assert_eq!((seen.to_mac, seen.from_mac), (ROUTER_MAC, UPLINK_MAC));
            assert_eq!(seen.behind.len(), 20);
            assert_eq!(seen.behind[4..8], sequence);
            assert_eq!(seen.behind[8..12], acknowledgement);
            assert_eq!(seen.behind[13], answer);
        }
    }

    /// D7: a reset is not answered, least of all with a reset.
    fn a_reset_is_not_answered<A>() {
        let world = World::<A>::new().node_port(&[]);
        for flags in [RST, RST | ACK, RST | SYN] {
            let reset = Build::tcp((A::client(1), 40000), (A::NODE, NODE_PORT), flags);
            world.enters(UPLINK, &reset).passed_untouched(Outcome::Untouched);
        }
    }

    /// Behaviours 6.7: who gets what from a Service whose policy leaves nothing here.
    fn the_table_of_verdicts_without_endpoints<A>() {
        use frontend_flags::{CLUSTER_IP, DROP_IF_EMPTY, LOCAL_DROP_IF_EMPTY, NODE_PORT as NODE};
        const REJECT: Outcome = Outcome::RejectedNoEndpoint;
        const DROP: Outcome = Outcome::DroppedNoLocalEndpoint;
        const FORWARD: Outcome = Outcome::ToRemoteBackend;
        let here = [(A::remote(7), TARGET)];
        let none = [];
        for (name, flags, outside, pods, from_outside, from_pod) in [
            ("none anywhere", NODE, &none[..], &none[..], REJECT, REJECT),
            ("externalTrafficPolicy Local, elsewhere only", NODE | DROP_IF_EMPTY, &none, &here, DROP, FORWARD),
            ("usable", NODE, &here, &here, FORWARD, FORWARD),
            ("ClusterIP, none anywhere", CLUSTER_IP, &none, &none, REJECT, REJECT),
            (
                "internalTrafficPolicy Local, elsewhere only",
                CLUSTER_IP | DROP_IF_EMPTY | LOCAL_DROP_IF_EMPTY, &none, &none, DROP, DROP,
            ),
        ] {
            let mut world = World::<A>::new();
            let (address, key) = if flags & NODE != 0 {
                ((A::NODE, PORT), node_port_key(PORT, protocol::UDP))
            } else {
                let key = frontend_key(A::CLUSTER_IP, PORT, protocol::UDP);
                ((A::CLUSTER_IP, PORT), key)
            };
            world.front_end(key, flags, outside, pods);
            let outcome = |device, client| {
                let trip = world.enters(device, &Build::udp((client, 4000), address, b"?"));
                if trip.verdict().outcome == DROP {
                    assert_eq!(trip.verdict().action, Action::Drop, "{name}");
                }
                trip.verdict().outcome
            };
            assert_eq!(outcome(UPLINK, A::client(1)), from_outside, "{name}: outside");
            assert_eq!(outcome(POD1, A::local(1)), from_pod, "{name}: Pod");
        }
    }

    /// D6: answers have a budget: a burst, then a rate.
    fn a_flood_is_answered_at_a_bounded_rate<A>() {
        let mut world = World::<A>::new().node_port(&[]);
        world.node.control.rejects_per_second = 100;
        let question = Build::udp((A::client(1), 40000), (A::NODE, NODE_PORT), b"?");
        let flood = |world: &World<A>| {
            let mut answers = 0;
            for _ in 0..500 {
                let trip = world.enters(UPLINK, &question);
                match trip.verdict().outcome {
                    Outcome::RejectedNoEndpoint => answers += 1,
                    _ => trip.was_dropped(Outcome::RejectSuppressed),
                }
            }
            answers
        };
        assert_eq!(flood(&world), 50);
        assert_eq!(flood(&world), 0);
        world.node.jiffies += 25; // a tenth of a second
        assert_eq!(flood(&world), 10);
        world.wait(100_000);
        assert_eq!(flood(&world), 50);
    }

    /// D6: what must not be answered: frames that were not meant for one host, sources that are none, later fragments.
    fn what_must_not_be_answered<A>() {
        let world = World::<A>::new().node_port(&[]);
        let question = Build::udp((A::client(1), 40000), (A::NODE, NODE_PORT), &[]).with_payload(64);
        let question = world.addressed(UPLINK, &question);

        for to_mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            let frame = Build { to_mac, ..question.clone() }.frame();
            world.enters_as(UPLINK, Frame::new(frame)).passed_untouched(Outcome::NotToUs);
        }
        for source in never_a_source::<A>() {
            let frame = Build { from: (source, 40000), ..question.clone() }.frame();
            world.enters_as(UPLINK, Frame::new(frame)).passed_untouched(Outcome::MartianSource);
        }
        let fragments = question.fragments(&[32]);
        let later = world.enters_as(UPLINK, Frame::new(fragments[1].clone()));
        later.passed_untouched(Outcome::FragmentUnknown);
        let first = world.enters_as(UPLINK, Frame::new(fragments[0].clone()));
        first.is(Outcome::RejectedNoEndpoint);
        assert_eq!(world.sizes(), (0, 0));
    }

    /// D8, F8: a packet that does not fit behind this node is answered with the size that does; the flow stays and smaller ones pass.
    fn too_big_for_the_backend_s_link<A>() {
        for tcp in [true, false] {
            let world = with_mtu::<A>(1400);
            let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
            let make = |len| {
                let build = if tcp {
                    Build::tcp(client, front_end, SYN)
                } else {
                    Build::udp(client, front_end, &[])
                };
                let header = A::HEADER_LEN + if tcp { 20 } else { 8 };
                build.with_payload(len - header)
            };
            let trip = world.enters(UPLINK, &make(1401));
            assert_eq!(trip.xdp.unwrap().outcome, Outcome::LeftToTc);
            trip.is(Outcome::TooBig).left_by(UPLINK);
            is_error(&trip, &make(1401), too_big::<A>(), [0, 0, 0x05, 0x78]);
            world.enters(UPLINK, &make(1400)).is(Outcome::ToRemoteBackend).left_by(FABRIC);
        }
    }

    /// D8, the other way: a reply that does not fit on the client's side; the backend hears it from the address that it talks to.
    fn too_big_for_the_client_s_link<A>() {
        let mut world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        world.tables_mut().routes[0].hop.mtu = 1300;
        let (source, backend) = world.connect((A::client(1), 40000), (A::NODE, NODE_PORT));
        let data = Build::tcp(backend, source, ACK).with_payload(1400);
        let trip = world.enters(FABRIC, &data);
        trip.is(Outcome::TooBig).left_by(FABRIC);
        is_error(&trip, &data, too_big::<A>(), [0, 0, 0x05, 0x14]);
    }

    /// F3: a super-packet is as large as its segments, whatever its length.
    fn the_size_of_a_super_packet_is_that_of_its_segments<A>() {
        let world = with_mtu::<A>(1400).without_xdp();
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        world.connect(client, front_end);
        let fits = 1400 - A::HEADER_LEN - 20;
        for (gso_size, outcome) in [(fits, Outcome::ToRemoteBackend), (fits + 1, Outcome::TooBig)] {
            let data = Build::tcp(client, front_end, ACK | PSH).with_payload(30_000);
            let data = world.addressed(UPLINK, &data);
            let trip = world.enters_as(UPLINK, Frame { gso_size, ..Frame::new(data.frame()) });
            trip.is(outcome);
            assert_eq!(trip.frame.gso_size, if outcome == Outcome::TooBig { 0 } else { gso_size });
        }
    }

    /// D6: too big and used up are answered out of the same budget, and dropped without it.
    fn without_budget_there_is_no_answer<A>() {
        let mut world = with_mtu::<A>(1400);
        world.node.control.reject_burst = 0;
        let syn = Build::tcp((A::client(1), 40000), (A::NODE, NODE_PORT), SYN).with_payload(1400);
        world.enters(UPLINK, &syn).was_dropped(Outcome::TooBigSuppressed);
        let dying = Build { ttl: 1, ..syn };
        world.enters(UPLINK, &dying).was_dropped(Outcome::TtlExpired);
    }

    /// E12: a packet that may not go further is answered with time exceeded, so that traceroute shows this node.
    fn used_up_is_answered_with_time_exceeded<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        for ttl in [1, 0] {
            let syn = Build { ttl, ..Build::tcp((A::client(1), 40000), (A::NODE, NODE_PORT), SYN) };
            let trip = world.enters(UPLINK, &syn);
            assert_eq!(trip.xdp.unwrap().outcome, Outcome::LeftToTc);
            trip.is(Outcome::TtlExpired).left_by(UPLINK);
            let kind = if A::ICMP_NUMBER == protocol::ICMP { [11, 0] } else { [3, 0] };
            is_error(&trip, &syn, kind, [0; 4]);
            assert_eq!(world.sizes(), (0, 0), "a probe leaves nothing behind");
        }
    }

    /// On a device without Ethernet, the answer starts with its network header as well.
    fn an_answer_without_ethernet<A>() {
        let mut world = World::<A>::new().node_port(&[]);
        world.node.xdp = false;
        world.node.devices.get_mut(&UPLINK).unwrap().flags |= device_flags::NO_ETHERNET;
        let question = Build::udp((A::client(1), 40000), (A::NODE, NODE_PORT), &[]).with_payload(64);
        let trip = world.enters_as(UPLINK, Frame::new(question.packet()));
        trip.is(Outcome::RejectedNoEndpoint).left_by(UPLINK);
        let framed = [&[0; 12], &A::ETHERTYPE[..], &trip.frame.bytes].concat();
        let seen = Seen::<A>::read(&framed);
        assert_eq!((seen.from, seen.to), (A::NODE, A::client(1)));
        assert_eq!(sums::wrong(&framed), Vec::<&str>::new());
    }
}

/// Nobody, everybody, oneself, and the node.
fn never_a_source<A: Places>() -> [A; 4] {
    let (multicast, loopback) = if A::HEADER_LEN == 20 {
        (vec![224, 0, 0, 1], vec![127, 0, 0, 1])
    } else {
        let mut loopback = vec![0; 16];
        loopback[15] = 1;
        (vec![0xff; 16], loopback)
    };
    [
        A::UNSPECIFIED,
        A::from_octets(&multicast),
        A::from_octets(&loopback),
        A::NODE,
    ]
}
