//! The two entries of a flow: finding one from the other, and making one from the other.
//!
//! Owns that relation. Pure. Invariant: the entry made here is the one that the programs would have made.

use nodeport_common::{Flow, FlowKey, NextHop, flow_flags};

/// Flags that both entries of a flow share.
const SHARED: u8 = flow_flags::REDIRECT | flow_flags::LOCAL_BACKEND | flow_flags::NODE_PORT;

/// Whether `other`, found where `flow` says its other half is, is that half.
#[must_use]
pub fn is_pair<A: Copy + PartialEq>(key: &FlowKey<A>, other: &Flow<A>) -> bool {
    other.pair(key.protocol) == *key
}

/// The missing half of a flow: its key and entry.
///
/// Replies are translated where they enter if they are redirected, and where they leave if the host's stack carries them; packets
/// of the client are always translated where they enter.
#[must_use]
pub fn mirror<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>) -> (FlowKey<A>, Flow<A>) {
    let was_reply = flow.flags & flow_flags::REPLY != 0;
    let redirected = flow.flags & flow_flags::REDIRECT != 0;
    let own = match (was_reply, redirected) {
        (true, _) => 0,
        (false, true) => flow_flags::REPLY,
        (false, false) => flow_flags::REPLY | flow_flags::AT_EGRESS,
    };
    let mirrored = Flow {
        packets: 0,
        bytes: 0,
        last_seen: flow.last_seen,
        endpoint_generation: flow.endpoint_generation,
        // It stands in the established table, hence packets of both directions were seen.
        flags: own | flow_flags::SEEN | flow.flags & SHARED,
        tcp: crossed(flow.tcp),
        source_port: key.destination_port,
        destination_port: key.source_port,
        pad: [0; 2],
        source: key.destination,
        destination: key.source,
        next_hop: NextHop::default(),
    };
    (flow.pair(key.protocol), mirrored)
}

/// TCP flags as the other direction notes them.
fn crossed(tcp: u8) -> u8 {
    use nodeport_common::tcp_flags::{FIN, PEER_FIN, RST, SYN};
    let mut other = tcp & (RST | SYN);
    if tcp & FIN != 0 {
        other |= PEER_FIN;
    }
    if tcp & PEER_FIN != 0 {
        other |= FIN;
    }
    other
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeport_common::{V4, protocol, tcp_flags};

    /// Client 198.51.100.7:40000 to node 192.0.2.1:30080, backend 10.244.2.5:8080, our source 192.0.2.1:1024.
    fn forward() -> (FlowKey<V4>, Flow<V4>) {
        let key = FlowKey {
            source: [198, 51, 100, 7],
            destination: [192, 0, 2, 1],
            source_port: 40000_u16.to_be_bytes(),
            destination_port: 30080_u16.to_be_bytes(),
            protocol: protocol::TCP,
            pad: [0; 3],
        };
        let flow = Flow {
            packets: 9,
            bytes: 900,
            last_seen: 77,
            endpoint_generation: 3,
            flags: flow_flags::SEEN | flow_flags::REDIRECT | flow_flags::NODE_PORT,
            tcp: tcp_flags::SYN | tcp_flags::FIN,
            source_port: 1024_u16.to_be_bytes(),
            destination_port: 8080_u16.to_be_bytes(),
            pad: [0; 2],
            source: [192, 0, 2, 1],
            destination: [10, 244, 2, 5],
            next_hop: NextHop {
                generation: 5,
                ..NextHop::default()
            },
        };
        (key, flow)
    }

    #[test]
    fn the_reply_of_a_redirected_flow_is_redirected() {
        let (key, flow) = forward();
        let (reply_key, reply) = mirror(&key, &flow);
        assert_eq!(reply_key.source, [10, 244, 2, 5]);
        assert_eq!(reply_key.source_port, 8080_u16.to_be_bytes());
        assert_eq!(reply_key.destination, [192, 0, 2, 1]);
        assert_eq!(reply_key.destination_port, 1024_u16.to_be_bytes());
        assert_eq!(reply.source, key.destination);
        assert_eq!(reply.source_port, key.destination_port);
        assert_eq!(reply.destination, key.source);
        assert_eq!(reply.destination_port, key.source_port);
        assert_eq!(
            reply.flags,
            flow_flags::REPLY | flow_flags::SEEN | flow_flags::REDIRECT | flow_flags::NODE_PORT
        );
        assert_eq!(reply.tcp, tcp_flags::SYN | tcp_flags::PEER_FIN);
        assert_eq!(reply.last_seen, 77);
        assert_eq!(reply.next_hop.generation, 0, "its own way is not known");
        assert!(is_pair(&key, &reply) && is_pair(&reply_key, &flow));
    }

    #[test]
    fn the_reply_of_a_flow_through_the_stack_is_translated_at_egress() {
        let (key, mut flow) = forward();
        flow.flags = flow_flags::SEEN | flow_flags::LOCAL_BACKEND;
        let (_, reply) = mirror(&key, &flow);
        let expected = flow_flags::REPLY
            | flow_flags::AT_EGRESS
            | flow_flags::SEEN
            | flow_flags::LOCAL_BACKEND;
        assert_eq!(reply.flags, expected);
    }

    #[test]
    fn twice_mirrored_is_the_same_translation() {
        let (key, mut flow) = forward();
        for flags in [flow_flags::REDIRECT, flow_flags::LOCAL_BACKEND] {
            flow.flags = flow_flags::SEEN | flags;
            let (reply_key, reply) = mirror(&key, &flow);
            let (again_key, again) = mirror(&reply_key, &reply);
            assert_eq!(again_key, key);
            assert_eq!(again.flags, flow.flags);
            assert_eq!(
                again.translated(key.protocol),
                flow.translated(key.protocol)
            );
            assert_eq!(again.tcp, flow.tcp);
        }
    }

    #[test]
    fn another_flow_at_the_same_place_is_no_pair() {
        let (key, flow) = forward();
        let (_, mut reply) = mirror(&key, &flow);
        reply.destination_port = 40001_u16.to_be_bytes();
        assert!(!is_pair(&key, &reply));
    }
}
