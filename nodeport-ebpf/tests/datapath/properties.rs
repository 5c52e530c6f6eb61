//! What holds for all packets: checksums, round trips, and that what is not translated is not touched.

use nodeport_common::{Outcome, protocol};
use nodeport_ebpf::path::Action;
use nodeport_ebpf::sim::{Checksum, Frame};
use nodeport_ebpf::wire::checksum::{Diff, add, updated, updated_nonzero};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::both;
use crate::packets::{ACK, Build, SYN, Wire, icmp};
use crate::sums;
use crate::world::{
    FABRIC, FABRIC_MAC, NODE_PORT, PEER_MAC, POD1, Places, ROUTER_MAC, TARGET, UPLINK, UPLINK_MAC,
    World,
};

/// Checks a property on so many random values, and shrinks what breaks it.
fn holds<S: Strategy>(cases: u32, strategy: &S, property: impl Fn(S::Value)) {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let result = runner.run(strategy, |value| {
        property(value);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// IPv4 options, or IPv6 extension headers, that are stepped over.
fn extras<A: Wire>() -> impl Strategy<Value = (Vec<u8>, Vec<(u8, Vec<u8>)>)> {
    let options = (0..=10_usize).prop_map(|words| vec![1; words * 4]);
    let extension = (prop_oneof![Just(0), Just(60)], 1..4_usize).prop_map(|(number, eights)| {
        let len = eights * 8;
        let mut content = vec![(eights - 1) as u8, 1, (len - 4) as u8];
        content.resize(len - 1, 0);
        (number, content)
    });
    (options, vec(extension, 0..3)).prop_map(|(options, extensions)| {
        if A::HEADER_LEN == 20 {
            (options, Vec::new())
        } else {
            (Vec::new(), extensions)
        }
    })
}

/// Packets between two ends, with everything random that may be.
fn packets<A: Places>() -> impl Strategy<Value = Build<A>> {
    let header = (
        2..=255_u8,
        any::<u8>(),
        0..0x10_0000_u32,
        any::<u32>(),
        any::<bool>(),
    );
    let transport = (any::<Option<u8>>(), vec(any::<u8>(), 0..600), any::<bool>());
    let ports = (any::<u16>(), 0..20_usize);
    (header, transport, ports, extras::<A>()).prop_map(|(header, transport, ports, extras)| {
        let (ttl, traffic_class, flow_label, id, dont_fragment) = header;
        let (tcp, payload, without_checksum) = transport;
        Build {
            ttl,
            traffic_class,
            flow_label,
            id,
            dont_fragment,
            tcp,
            payload,
            without_checksum: without_checksum && A::HEADER_LEN == 20,
            padding: ports.1,
            options: extras.0,
            extensions: extras.1,
            ..Build::tcp((A::client(1), ports.0), (A::NODE, NODE_PORT), 0)
        }
    })
}

/// A first packet of this one's connection, so that it has a flow whatever its flags are.
fn opener<A: Places>(build: &Build<A>) -> Build<A> {
    match build.tcp {
        Some(_) => Build::tcp(build.from, build.to, SYN),
        None => Build::udp(build.from, build.to, b"first"),
    }
}

both! {
    /// A translated frame is, byte for byte, the one that would have been built for the new ends: checksums and all.
    fn a_translated_frame_is_as_if_built_so<A>() {
        for with_xdp in [true, false] {
            holds(400, &packets::<A>(), |sent| {
                let mut world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
                world.node.xdp = with_xdp;
                world.enters(UPLINK, &opener(&sent)).is(Outcome::ToRemoteBackend);
                let there = world.enters(UPLINK, &sent);
                there.is(Outcome::ToRemoteBackend);
                let (source, backend) = ((A::FABRIC_ADDRESS, 1024), (A::remote(7), TARGET));
                let translated = Build {
                    to_mac: PEER_MAC,
                    from_mac: FABRIC_MAC,
                    from: source,
                    to: backend,
                    ttl: sent.ttl - 1,
                    ..sent.clone()
                };
                assert_eq!(there.frame.bytes, translated.frame());

                // The reply, with the same content: back to the front end's tuple.
                let reply = Build { from: backend, to: source, ..sent.clone() };
                if sent.tcp.is_some_and(nodeport_ebpf::wire::tcp::opens) {
                    world.enters(FABRIC, &reply).passed_untouched(Outcome::Untouched);
                    return;
                }
                let back = world.enters(FABRIC, &reply);
                back.is(Outcome::ReplyRedirected);
                let translated = Build {
                    to_mac: ROUTER_MAC,
                    from_mac: UPLINK_MAC,
                    from: sent.to,
                    to: sent.from,
                    ttl: sent.ttl - 1,
                    ..sent
                };
                assert_eq!(back.frame.bytes, translated.frame());
            });
        }
    }

    /// The same through the stack: in at ingress, out at egress.
    fn through_the_stack_it_is_as_if_built_so<A>() {
        holds(400, &packets::<A>(), |sent| {
            let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
            world.enters(UPLINK, &opener(&sent)).is(Outcome::ToLocalBackend);
            let backend = (A::local(1), TARGET);
            let there = world.enters(UPLINK, &sent);
            let expected = Build { to: backend, ..world.addressed(UPLINK, &sent) };
            assert_eq!(there.frame.bytes, expected.frame());
            if sent.tcp.is_some_and(nodeport_ebpf::wire::tcp::opens) {
                return;
            }
            let reply = Build { from: backend, to: sent.from, ..sent.clone() };
            let back = world.leaves(UPLINK, &reply);
            let expected = Build { from: sent.to, to: sent.from, ..world.addressed(UPLINK, &sent) };
            assert_eq!(back.frame.bytes, expected.frame());
        });
    }

    /// An ICMP error that quotes so much of a translated packet becomes one that quotes so much of what was sent.
    fn a_quote_is_as_if_sent_so<A>() {
        holds(400, &(packets::<A>(), any::<prop::sample::Index>()), |(sent, len)| {
            let plain = Build { options: Vec::new(), extensions: Vec::new(), padding: 0, ..sent };
            let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
            world.enters(UPLINK, &opener(&plain));
            let left = world.enters(UPLINK, &plain);
            let quoted = &left.frame.bytes[14..];
            let shortest = A::HEADER_LEN + 8;
            let mut len = shortest + len.index(quoted.len() - shortest + 1);
            let checksum_at = A::HEADER_LEN + if plain.tcp.is_some() { 16 } else { 6 };
            if len == checksum_at + 1 {
                len -= 1; // half a checksum cannot be brought in step
            }
            let kind = if A::ICMP_NUMBER == protocol::ICMP { [3, 1] } else { [1, 0] };
            let error = icmp(A::remote(250), A::FABRIC_ADDRESS, kind, [0; 4], &quoted[..len]);
            let error = world.addressed(FABRIC, &error);
            let trip = world.enters_as(FABRIC, Frame::new(error.icmp_frame()));
            trip.is(Outcome::IcmpTranslated);
            let as_sent = Build { ttl: plain.ttl - 1, ..plain }.packet();
            assert_eq!(trip.seen().behind[8..], as_sent[..len]);
        });
    }

    /// Whatever comes, nothing panics, and what goes on is as it came; on every device, at every hook.
    fn noise_is_survived<A>() {
        let noise = vec(any::<u8>(), 0..200);
        holds(2000, &(noise, any::<bool>()), |(mut bytes, is_ip)| {
            if is_ip && bytes.len() > 14 {
                bytes[..6].copy_from_slice(&UPLINK_MAC);
                bytes[12..14].copy_from_slice(&A::ETHERTYPE);
                bytes[14] = if A::HEADER_LEN == 20 { 0x45 } else { 0x60 };
            }
            passes_or_is_translated::<A>(&bytes);
        });
    }

    /// The same with packets of a flow in which a few bytes, or the end, are wrong.
    fn damaged_packets_are_survived<A>() {
        let damage = vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
        let cut = any::<Option<prop::sample::Index>>();
        holds(2000, &(packets::<A>(), damage, cut), |(sent, damage, cut)| {
            let world = World::<A>::new();
            let mut bytes = world.addressed(UPLINK, &sent).frame();
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            passes_or_is_translated::<A>(&bytes);
        });
    }
}

/// Sends a frame through every device and hook of a node with flows; whatever passes through the stack without a translation is unmodified.
fn passes_or_is_translated<A: Places>(bytes: &[u8]) {
    let world = World::<A>::new().node_port(&[(A::remote(7), TARGET), (A::local(1), TARGET)]);
    for port in [1, 40000, 50000, 65535] {
        let syn = Build::tcp((A::client(1), port), (A::NODE, NODE_PORT), SYN);
        world.enters(UPLINK, &syn);
    }
    for device in [UPLINK, FABRIC, POD1] {
        let frame = Frame {
            linear: bytes.len().min(14),
            ..Frame::new(bytes.to_vec())
        };
        let trip = world.enters_as(device, frame);
        let translated = [
            Outcome::ToRemoteBackend,
            Outcome::ToLocalBackend,
            Outcome::ToRoutedBackend,
            Outcome::ReplyRedirected,
            Outcome::IcmpTranslated,
        ];
        let verdict = trip.verdict();
        if verdict.action == Action::Pass && !translated.contains(&verdict.outcome) {
            let is_tagged = verdict.outcome == Outcome::Tagged;
            assert!(is_tagged || trip.frame.bytes == bytes, "{trip:?}");
        }
        let mut frame = Frame::new(bytes.to_vec());
        let verdict = world.node.tc_egress(device, &mut frame).unwrap();
        if !matches!(
            verdict.outcome,
            Outcome::ReplyFromStack | Outcome::IcmpTranslated
        ) {
            assert_eq!((verdict.action, &frame.bytes[..]), (Action::Pass, bytes));
        }
        assert_eq!(frame.checksum, Checksum::InPacket);
    }
}

/// RFC 1624: an updated checksum is the recomputed one, whatever changes, wherever.
#[test]
fn an_updated_checksum_is_the_recomputed_one() {
    let words = vec(any::<[u8; 4]>(), 1..20);
    let change = (any::<prop::sample::Index>(), any::<[u8; 4]>());
    holds(5000, &(words, change), |(mut words, (at, new))| {
        let checksum = (!sums::sum(&words.concat())).to_be_bytes();
        let at = at.index(words.len());
        let old = std::mem::replace(&mut words[at], new);
        let expected = !sums::sum(&words.concat());
        let whole = Diff::new().double(old, new).fold();
        let (old, new) = (old.as_chunks::<2>().0, new.as_chunks::<2>().0);
        let word = |n: usize| Diff::new().word(old[n], new[n]);
        let halves = word(0).word(old[1], new[1]).fold();
        let added = add(word(0).fold(), word(1).fold());
        for diff in [whole, halves, added] {
            let got = u16::from_be_bytes(updated(checksum, diff));
            // All words zero is the one case in which the two zeros of one's complement differ (RFC 1624, section 3).
            assert_eq!(got % 0xffff, expected % 0xffff);
            assert!(got == expected || words.concat().iter().all(|byte| *byte == 0));
            let never_zero = u16::from_be_bytes(updated_nonzero(checksum, diff));
            assert_eq!(never_zero, if got == 0 { 0xffff } else { got });
        }
    });
}

both! {
    /// A connection's third leg finds its flow whatever the handshake carried.
    fn handshakes_of_any_content_are_promoted<A>() {
        holds(100, &packets::<A>(), |sent| {
            let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
            let step = |from, to, flags| Build { from, to, tcp: sent.tcp.map(|_| flags), ..sent.clone() };
            let (source, backend) = ((A::FABRIC_ADDRESS, 1024), (A::remote(7), TARGET));
            world.enters(UPLINK, &step(sent.from, sent.to, SYN)).is(Outcome::ToRemoteBackend);
            world.enters(FABRIC, &step(backend, source, SYN | ACK)).is(Outcome::ReplyRedirected);
            world.enters(UPLINK, &step(sent.from, sent.to, ACK)).is(Outcome::ToRemoteBackend);
            assert_eq!(world.sizes(), (2, 0));
        });
    }
}
