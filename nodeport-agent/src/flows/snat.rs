//! How many source ports translated flows hold.
//!
//! Owns the count of one walk. Refuses to give ports away: the reply entry of a flow is its port's allocation. Invariant: what counts is the
//! backend with the most of them, because each backend has all ports of an address of ours to itself.

use std::collections::HashMap;
use std::hash::Hash;

use nodeport_common::{Flow, FlowKey, flow_flags};

/// Ports that the flows of a table hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct SnatPorts {
    /// All of them.
    pub in_use: u64,
    /// The most that are held towards one backend from one address of ours.
    pub busiest: u64,
}

/// A backend (address, port, protocol), and the address of ours that it sees.
type Towards<A> = (A, [u8; 2], u8, A);

/// Counts while a walk goes on.
#[derive(Debug)]
pub(super) struct SnatCount<A>(HashMap<Towards<A>, u64>);

impl<A> Default for SnatCount<A> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<A: Copy + Eq + Hash> SnatCount<A> {
    /// A walk saw an entry.
    pub(super) fn see(&mut self, key: &FlowKey<A>, flow: &Flow<A>) {
        let ours = flow_flags::REPLY | flow_flags::REDIRECT;
        // A client that the backend sees itself holds no port of ours.
        let is_client_s = flow.destination == key.destination;
        if flow.flags & ours == ours && !is_client_s {
            let towards = (key.source, key.source_port, key.protocol, key.destination);
            *self.0.entry(towards).or_default() += 1;
        }
    }

    /// What the walk found.
    pub(super) fn found(&self) -> SnatPorts {
        SnatPorts {
            in_use: self.0.values().sum(),
            busiest: self.0.values().max().copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeport_common::{NextHop, V4, protocol};

    fn entry(backend: u8, port: u16, flags: u8) -> (FlowKey<V4>, Flow<V4>) {
        let key = FlowKey {
            source: [10, 244, 0, backend],
            destination: [192, 0, 2, 1],
            source_port: [0, 80],
            destination_port: port.to_be_bytes(),
            protocol: protocol::TCP,
            pad: [0; 3],
        };
        let flow = Flow {
            packets: 1,
            bytes: 60,
            last_seen: 0,
            endpoint_generation: 1,
            flags,
            tcp: 0,
            source_port: [0; 2],
            destination_port: [0; 2],
            pad: [0; 2],
            source: [0; 4],
            destination: [0; 4],
            next_hop: NextHop::default(),
        };
        (key, flow)
    }

    #[test]
    fn only_replies_to_our_own_address_hold_a_port_and_the_busiest_backend_counts() {
        let ours = flow_flags::REPLY | flow_flags::REDIRECT | flow_flags::SEEN;
        let mut count = SnatCount::default();
        let (key, mut client_s) = entry(2, 1028, ours);
        client_s.destination = key.destination;
        for (key, flow) in [
            (key, client_s),
            entry(1, 1024, ours),
            entry(2, 1024, ours),
            entry(2, 1025, ours),
            entry(2, 1026, flow_flags::REDIRECT),
            entry(2, 1027, flow_flags::REPLY | flow_flags::AT_EGRESS),
        ] {
            count.see(&key, &flow);
        }
        let wanted = SnatPorts {
            in_use: 3,
            busiest: 2,
        };
        assert_eq!(count.found(), wanted);
        assert_eq!(SnatCount::<V4>::default().found(), SnatPorts::default());
    }
}
