//! What may stand in front of the ports, and what must be kept (edge-cases E1, E6, E8, E9, E11-E14; F1).

use nodeport_common::{Outcome, V4, V6, protocol};
use nodeport_ebpf::sim::{Checksum, Frame};

use crate::both;
use crate::packets::{ACK, Build, PSH, SYN, Seen, icmp};
use crate::sums;
use crate::world::{
    FABRIC, FABRIC_MAC, NODE_PORT, PEER_MAC, POD1, Places, TARGET, UPLINK, UPLINK_MAC, World,
};

fn node_port<A: Places>() -> World<A> {
    World::<A>::new().node_port(&[(A::remote(7), TARGET)])
}

fn syn<A: Places>() -> Build<A> {
    Build::tcp((A::client(1), 40000), (A::NODE, NODE_PORT), SYN)
}

/// IPv6 options (hop-by-hop or destination) of so many bytes, all of them padding.
fn options(len: usize) -> Vec<u8> {
    let mut content = vec![(len / 8 - 1) as u8, 1, (len - 4) as u8];
    content.resize(len - 1, 0);
    content
}

/// E1: IPv4 options of any length, at XDP and at TC, both ways.
#[test]
fn ipv4_options_are_stepped_over() {
    for world in [node_port::<V4>(), node_port::<V4>().without_xdp()] {
        for words in 1..=10 {
            let mut options = vec![1; words * 4]; // no operation
            options[0] = 148; // router alert
            options[1..4].copy_from_slice(&[4, 0, 0]);
            let client = (V4::client(1), 40000 + words as u16);
            let syn = Build {
                options: options.clone(),
                from: client,
                ..syn::<V4>()
            };
            let trip = world.enters(UPLINK, &syn);
            trip.is(Outcome::ToRemoteBackend).left_by(FABRIC);
            let (source, backend) = trip.seen().ends();
            assert_eq!(backend, (V4::remote(7), TARGET));
            assert_eq!(trip.frame.bytes[34..34 + words * 4], options);
            let answer = Build {
                options,
                ..Build::tcp(backend, source, SYN | ACK)
            };
            let trip = world.enters(FABRIC, &answer);
            trip.is(Outcome::ReplyRedirected);
            assert_eq!(trip.seen().destination(), client);
        }
    }
}

/// E6: hop-by-hop options, destination options, routing (used up), and several of them.
#[test]
fn ipv6_extension_headers_are_stepped_over() {
    let used_up_routing = vec![0, 4, 0, 0, 0, 0, 0];
    for world in [node_port::<V6>(), node_port::<V6>().without_xdp()] {
        for extensions in [
            vec![(0, options(8))],
            vec![(60, options(8))],
            vec![(60, options(88))],
            vec![(43, used_up_routing.clone())],
            vec![
                (0, options(8)),
                (43, used_up_routing.clone()),
                (60, options(24)),
            ],
            vec![(60, options(8)); 6],
        ] {
            let syn = Build {
                extensions: extensions.clone(),
                ..syn::<V6>()
            };
            let trip = world.enters(UPLINK, &syn);
            trip.is(Outcome::ToRemoteBackend).left_by(FABRIC);
            assert_eq!(
                trip.seen().destination(),
                (V6::remote(7), TARGET),
                "{extensions:?}"
            );
        }
    }
}

/// E6: too many, too long, unknown, not at its destination yet: the kernel's.
#[test]
fn other_ipv6_extension_headers_are_left_to_the_kernel() {
    let to_be_routed = vec![0, 4, 1, 0, 0, 0, 0];
    for (extensions, outcome) in [
        (vec![(60, options(8)); 8], Outcome::UnknownHeaders),
        (vec![(60, options(96))], Outcome::UnknownHeaders),
        (vec![(135, options(8))], Outcome::UnknownHeaders), // mobility
        (vec![(43, to_be_routed)], Outcome::UnknownHeaders),
    ] {
        let world = node_port::<V6>();
        let syn = Build {
            extensions: extensions.clone(),
            ..syn::<V6>()
        };
        let trip = world.enters(UPLINK, &syn);
        trip.passed_untouched(outcome);
    }
}

both! {
    /// E8: Ethernet's padding stays behind the packet, and is not counted with it.
    fn padding_is_kept_and_not_counted<A>() {
        for world in [node_port::<A>(), node_port::<A>().without_xdp()] {
            let question = Build {
                padding: 12,
                ..Build::udp((A::client(1), 40000), (A::NODE, NODE_PORT), b"?")
            };
            let trip = world.enters(UPLINK, &question);
            trip.is(Outcome::ToRemoteBackend);
            trip.seen();
            let len = question.packet().len();
            assert_eq!(trip.frame.bytes[14 + len..], [0xee; 12]);
            let flow = world.flow(17, (A::client(1), 40000), (A::NODE, NODE_PORT)).unwrap();
            assert_eq!(flow.bytes, len as u64);
        }
    }

    /// E8: lengths that contradict each other are the kernel's business.
    fn contradictions_are_left_to_the_kernel<A>() {
        let world = node_port::<A>();
        let good = world.addressed(UPLINK, &syn::<A>().with_payload(20)).frame();
        let length_at = if A::HEADER_LEN == 20 { 16 } else { 18 };
        let total = good.len() - 14;
        let fixed = if A::HEADER_LEN == 20 { 0 } else { 40 };
        // Longer than the frame, shorter than the transport header, shorter than its own header.
        for claimed in [total + 1, 0xffff, A::HEADER_LEN + 19, A::HEADER_LEN, 19] {
            let mut bytes = good.clone();
            let claimed = (claimed.saturating_sub(fixed) as u16).to_be_bytes();
            bytes[length_at..length_at + 2].copy_from_slice(&claimed);
            world.enters_as(UPLINK, Frame::new(bytes)).passed_untouched(Outcome::Malformed);
        }
        for len in 12..good.len() {
            let trip = world.enters_as(UPLINK, Frame::new(good[..len].to_vec()));
            let outcome = trip.verdict().outcome;
            trip.passed_untouched(outcome);
            assert_eq!(outcome, Outcome::Malformed, "{len} bytes");
        }
        let mut wrong_version = good.clone();
        wrong_version[14] ^= 0x90;
        let trip = world.enters_as(UPLINK, Frame::new(wrong_version));
        trip.passed_untouched(Outcome::Malformed);
        assert_eq!(world.sizes(), (0, 0));
    }

    /// E9: tagged frames are for the VLAN's own device, with one tag or two, at XDP and at TC; as are tags beside the bytes.
    fn tagged_frames_go_on<A>() {
        let world = node_port::<A>();
        let frame = world.addressed(UPLINK, &syn::<A>()).frame();
        for tag in [&[0x81, 0, 0, 100][..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 100], &[0x81, 0, 0, 0]] {
            let tagged = [&frame[..12], tag, &frame[12..]].concat();
            let trip = world.enters_as(UPLINK, Frame::new(tagged));
            assert_eq!(trip.xdp.unwrap().outcome, Outcome::Tagged);
            trip.is(Outcome::Tagged);
        }
        let trip = world.node.tc_ingress(UPLINK, &mut Frame { has_tag: true, ..Frame::new(frame) });
        assert_eq!(trip.unwrap().outcome, Outcome::Tagged);
        assert_eq!(world.sizes(), (0, 0));
    }

    /// E11: everything that has no reason to change is kept: traffic class, flow label, identification, flags, TCP options, payload; only
    /// TTL goes down. In other words, the frame is the one that would have been built with the new ends.
    fn everything_else_is_kept<A>() {
        for world in [node_port::<A>(), node_port::<A>().without_xdp()] {
            let sent = Build {
                traffic_class: 0xb9,
                flow_label: 0x9_8765,
                id: 0xbeef,
                ttl: 17,
                ..syn::<A>().with_payload(333)
            };
            let trip = world.enters(UPLINK, &sent);
            let expected = Build {
                to_mac: PEER_MAC,
                from_mac: FABRIC_MAC,
                from: (A::FABRIC_ADDRESS, 1024),
                to: (A::remote(7), TARGET),
                ttl: 16,
                ..sent
            };
            assert_eq!(trip.frame.bytes, expected.frame());
        }
    }

    /// E11 through the stack, which will decrement TTL itself.
    fn everything_else_is_kept_through_the_stack<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let sent = Build { traffic_class: 0x2e, ttl: 17, ..syn::<A>().with_payload(33) };
        let trip = world.enters(UPLINK, &sent);
        let expected = Build { to: (A::local(1), TARGET), ..world.addressed(UPLINK, &sent) };
        assert_eq!(trip.frame.bytes, expected.frame());
    }

    /// E12: the last hop's packet reaches a backend on this node (the stack decides), and no further.
    fn the_last_hop_is_this_node<A>() {
        let world = World::<A>::new().node_port(&[(A::NODE, TARGET)]);
        let last = Build { ttl: 1, ..syn::<A>() };
        world.enters(UPLINK, &last).is(Outcome::ToLocalBackend);
        let world = node_port::<A>();
        world.enters(UPLINK, &Build { ttl: 2, ..syn::<A>() }).is(Outcome::ToRemoteBackend);
        world.enters(UPLINK, &last).is(Outcome::TtlExpired);
    }

    /// E13: frames for somebody else, flooded or overheard, are not ours.
    fn frames_for_another_host_are_not_translated<A>() {
        let world = node_port::<A>();
        for to_mac in [[2, 0, 0, 0, 7, 7], [0xff; 6]] {
            let frame = Build { to_mac, ..world.addressed(UPLINK, &syn::<A>()) }.frame();
            let trip = world.enters_as(UPLINK, Frame::new(frame));
            assert_eq!(trip.xdp.unwrap().outcome, Outcome::NotToUs);
            trip.passed_untouched(Outcome::NotToUs);
        }
        assert_eq!(world.sizes(), (0, 0));
    }

    /// E14: an address of this node cannot be out there.
    fn our_own_addresses_do_not_come_from_outside<A>() {
        let world = node_port::<A>();
        for source in [A::NODE, A::NODE_ALIAS, A::FABRIC_ADDRESS, A::GATEWAY] {
            let spoofed = Build { from: (source, 40000), ..syn::<A>() };
            world.enters(UPLINK, &spoofed).passed_untouched(Outcome::MartianSource);
        }
        assert_eq!(world.sizes(), (0, 0));
    }

    /// F1: a Pod's packet holds the sum of its pseudo header only. After translation it holds that of the new one, and the device that
    /// completes it gets the right sum.
    fn a_partial_checksum_stays_one<A>() {
        let to_remote = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let to_local = World::<A>::new().node_port(&[(A::local(2), TARGET)]);
        for world in [to_remote, to_local] {
            for build in [
                Build::tcp((A::local(1), 40000), (A::NODE, NODE_PORT), SYN | PSH).with_payload(77),
                Build::udp((A::local(1), 40000), (A::NODE, NODE_PORT), &[]).with_payload(77),
            ] {
                let mut frame = Frame::new(world.addressed(POD1, &build).frame());
                make_partial(&mut frame.bytes, &build);
                frame.checksum = Checksum::Partial;
                let trip = world.enters_as(POD1, frame);
                assert_eq!(trip.frame.checksum, Checksum::Partial);
                let mut bytes = trip.frame.bytes.clone();
                let at = 14 + A::HEADER_LEN;
                let sum = !sums::sum(&bytes[at..]);
                let field = at + if build.tcp.is_some() { 16 } else { 6 };
                bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
                assert_eq!(sums::wrong(&bytes), Vec::<&str>::new());
                assert_eq!(Seen::<A>::read(&bytes).destination().1, TARGET);
            }
        }
    }

    /// Where the device summed the whole packet, that sum is right after translation, too: of datagrams, segments, fragments and errors.
    fn a_sum_of_the_whole_packet_follows<A>() {
        let to_remote = World::<A>::new().node_port(&[(A::remote(7), TARGET)]).without_xdp();
        let to_local = World::<A>::new().node_port(&[(A::local(1), TARGET)]).without_xdp();
        for world in [to_remote, to_local] {
            let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
            let question = Build::udp(client, front_end, &[]);
            let reply = Build::udp(front_end, client, &[]).with_payload(99).packet();
            let kind = if A::ICMP_NUMBER == protocol::ICMP { [3, 1] } else { [1, 0] };
            let error = icmp(A::client(250), A::NODE, kind, [0; 4], &reply);
            let at_uplink = |build: &Build<A>| world.addressed(UPLINK, build);
            let mut frames = vec![
                at_uplink(&question.clone().with_payload(77)).frame(),
                at_uplink(&syn::<A>().with_payload(78)).frame(),
                at_uplink(&error).icmp_frame(),
            ];
            frames.extend(at_uplink(&question.with_payload(555)).fragments(&[256]));
            for bytes in frames {
                let checksum = Checksum::Complete(sums::sum(&bytes[14..]));
                let trip = world.enters_as(UPLINK, Frame { checksum, ..Frame::new(bytes.clone()) });
                assert_ne!(trip.frame.bytes, bytes, "{trip:?}");
                let Checksum::Complete(sum) = trip.frame.checksum else { panic!("{trip:?}") };
                // Both zeros of one's complement are one.
                let expected = sums::sum(&trip.frame.bytes[14..]);
                assert_eq!(sum % 0xffff, expected % 0xffff, "{trip:?}");
            }
        }
    }

    /// Only what is asked for is pulled into linear memory: a frame of which the device left but the link-layer header there.
    fn a_frame_may_lie_in_pages<A>() {
        let world = node_port::<A>().without_xdp();
        let frame = world.addressed(UPLINK, &syn::<A>().with_payload(1000)).frame();
        let trip = world.enters_as(UPLINK, Frame { linear: 14, ..Frame::new(frame) });
        trip.is(Outcome::ToRemoteBackend).left_by(FABRIC);
        assert_eq!(trip.seen().destination(), (A::remote(7), TARGET));
    }
}

/// Replaces the checksum by the sum of the pseudo header, as a local stack leaves it to its device.
fn make_partial<A: Places>(frame: &mut [u8], build: &Build<A>) {
    let len = build.segment().len() as u16;
    let pseudo = [
        build.from.0.as_ref(),
        build.to.0.as_ref(),
        &[0, build.protocol()],
        &len.to_be_bytes(),
    ];
    let sum = sums::sum(&pseudo.concat());
    let at = 14 + A::HEADER_LEN + if build.tcp.is_some() { 16 } else { 6 };
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// A VLAN device has no tag in its frames, and is a device like any other.
#[test]
fn the_device_of_a_vlan_sees_frames_without_tag() {
    let mut world = node_port::<V4>();
    let device = world.node.devices[&UPLINK];
    world.node.devices.insert(20, device);
    let trip = world.node.receive(
        20,
        &mut Frame::new(
            Build {
                to_mac: UPLINK_MAC,
                ..syn::<V4>()
            }
            .frame(),
        ),
    );
    assert_eq!(trip.xdp.unwrap().outcome, Outcome::ToRemoteBackend);
}
