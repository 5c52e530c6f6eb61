//! Packets, bytes and connections of each Service and each of its endpoints, out of the counters of flows.
//!
//! Owns the sums. Refuses to read tables: walks show it what they see. Invariants: a sum only grows while its Service is there; there are
//! never more sums than the cap, and what exceeds it is counted under one name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use nodeport_common::{Flow, FlowKey, V4, V6, flow_flags};

use crate::maps::IpBytes;
use crate::model::desired::ServicePortName;
use crate::plan::socket_address;

/// How long a flow that is not seen any more is remembered, in seconds: longer than the time between two walks of its table and the
/// walk itself.
const FORGET_SECS: u32 = 150;
/// How long after the first walk what is seen for the first time may be an earlier agent's, in seconds.
const SETTLE_SECS: u32 = 32;
/// Most entries of a family that are remembered. More of them are not counted until others end. It is what fits into a hash table of
/// 2^20 places, whose size is a power of two and of which an eighth stays free.
const REMEMBERED: usize = 7 << 17;

/// A front end of a flow: address (unspecified for a NodePort), port and IANA protocol number.
pub type FrontendOf = (IpAddr, u16, u8);

/// Whose packets are counted: a service port, and one of its endpoints; `None` is all that exceeds the cap.
pub type Whose = Option<(Arc<ServicePortName>, SocketAddr)>;

/// What was counted of an endpoint, since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Packets from clients to it, and back.
    pub packets: [u64; 2],
    /// Bytes from clients to it, and back, from the network header on.
    pub bytes: [u64; 2],
    /// Connections (for UDP: flows) that began.
    pub connections: u64,
}

/// What an entry had counted when it was last seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    packets: u64,
    bytes: u64,
    at_secs: u32,
}

/// The entries of one family that were seen lately.
pub type SeenFlows<A> = HashMap<FlowKey<A>, Seen>;

/// An address family whose entries are remembered: [`V4`] or [`V6`].
pub trait Counted: IpBytes + Eq + std::hash::Hash {
    /// What a tally remembers of this family.
    fn seen(both: &mut (SeenFlows<V4>, SeenFlows<V6>)) -> &mut SeenFlows<Self>;
}

impl Counted for V4 {
    fn seen(both: &mut (SeenFlows<V4>, SeenFlows<V6>)) -> &mut SeenFlows<Self> {
        &mut both.0
    }
}

impl Counted for V6 {
    fn seen(both: &mut (SeenFlows<V4>, SeenFlows<V6>)) -> &mut SeenFlows<Self> {
        &mut both.1
    }
}

/// The sums.
#[derive(Debug)]
pub struct Tally {
    cap: usize,
    names: HashMap<FrontendOf, Arc<ServicePortName>>,
    /// How many front ends each service port has.
    frontends: HashMap<Arc<ServicePortName>, usize>,
    seen: (SeenFlows<V4>, SeenFlows<V6>),
    sums: BTreeMap<Whose, Sum>,
    /// Flows of an earlier agent are not new: of what the first walks see, only what comes on top counts.
    counting_since_secs: Option<u32>,
}

impl Tally {
    /// At most `cap` endpoints have sums of their own; with 0 nothing is counted.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        Self {
            cap,
            names: HashMap::new(),
            frontends: HashMap::new(),
            seen: Default::default(),
            sums: BTreeMap::new(),
            counting_since_secs: None,
        }
    }

    /// Which service port front ends belong to, from now on; `None` if one is gone. Sums of service ports that are gone go.
    pub fn rename(
        &mut self,
        changes: impl IntoIterator<Item = (FrontendOf, Option<ServicePortName>)>,
    ) {
        let mut without = HashSet::new();
        for (frontend, name) in changes {
            let now = name.map(|name| match self.frontends.get_key_value(&name) {
                Some((known, _)) => Arc::clone(known),
                None => Arc::new(name),
            });
            if let Some(name) = &now {
                *self.frontends.entry(Arc::clone(name)).or_default() += 1;
            }
            let before = match now {
                Some(name) => self.names.insert(frontend, name),
                None => self.names.remove(&frontend),
            };
            if let Some(before) = before
                && let Some(count) = self.frontends.get_mut(&before)
            {
                *count -= 1;
                if *count == 0 {
                    self.frontends.remove(&before);
                    without.insert(before);
                }
            }
        }
        without.retain(|name| !self.frontends.contains_key(name));
        for name in without {
            self.drop_sums(&name);
        }
    }

    fn drop_sums(&mut self, name: &Arc<ServicePortName>) {
        let first = SocketAddr::from(([0; 4], 0));
        let of_it = self.sums.range(Some((Arc::clone(name), first))..);
        let of_it = of_it.map(|(whose, _)| whose.clone());
        let of_it =
            of_it.take_while(|whose| whose.as_ref().is_some_and(|(other, _)| other == name));
        for whose in of_it.collect::<Vec<_>>() {
            self.sums.remove(&whose);
        }
    }

    /// A walk saw an entry.
    pub fn see<A: Counted>(&mut self, key: &FlowKey<A>, flow: &Flow<A>, now_secs: u32) {
        if self.cap == 0 {
            return;
        }
        let since = *self.counting_since_secs.get_or_insert(now_secs);
        let is = Seen {
            packets: flow.packets,
            bytes: flow.bytes,
            at_secs: now_secs,
        };
        let seen = A::seen(&mut self.seen);
        let was = if let Some(known) = seen.get_mut(key) {
            let was = std::mem::replace(known, is);
            if (was.packets, was.bytes) == (is.packets, is.bytes) {
                return;
            }
            Some(was)
        } else if seen.len() < REMEMBERED {
            seen.insert(*key, is)
        } else {
            return;
        };
        // Counters that went down belong to another connection between the same two ends.
        let was = was.filter(|was| was.packets <= is.packets && was.bytes <= is.bytes);
        let before_us = was.is_none() && now_secs < since + SETTLE_SECS;
        if before_us {
            return;
        }
        let source = socket_address(key.source, key.source_port);
        let destination = socket_address(key.destination, key.destination_port);
        let reply = flow.flags & flow_flags::REPLY != 0;
        let (frontend, backend) = if reply {
            (socket_address(flow.source, flow.source_port), source)
        } else {
            (
                destination,
                socket_address(flow.destination, flow.destination_port),
            )
        };
        let node_port = flow.flags & flow_flags::NODE_PORT != 0;
        let Some(name) = self.name(frontend, key.protocol, node_port) else {
            return;
        };
        let sum = self.sum(name, backend);
        let direction = usize::from(reply);
        let (packets, bytes) = was.map_or((0, 0), |was| (was.packets, was.bytes));
        sum.packets[direction] += is.packets - packets;
        sum.bytes[direction] += is.bytes - bytes;
        sum.connections += u64::from(was.is_none() && !reply);
    }

    fn name(
        &self,
        frontend: SocketAddr,
        protocol: u8,
        node_port: bool,
    ) -> Option<Arc<ServicePortName>> {
        let any: IpAddr = if frontend.is_ipv4() {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        };
        let address = if node_port { any } else { frontend.ip() };
        self.names
            .get(&(address, frontend.port(), protocol))
            .cloned()
    }

    fn sum(&mut self, name: Arc<ServicePortName>, backend: SocketAddr) -> &mut Sum {
        let whose = Some((name, backend));
        let has_room = self.sums.len() < self.cap || self.sums.contains_key(&whose);
        self.sums
            .entry(if has_room { whose } else { None })
            .or_default()
    }

    /// A walk ended: flows that were not seen for long are forgotten.
    pub fn forget(&mut self, now_secs: u32) {
        let lately = |seen: &Seen| seen.at_secs + FORGET_SECS > now_secs;
        self.seen.0.retain(|_, seen| lately(seen));
        self.seen.1.retain(|_, seen| lately(seen));
    }

    /// The sums of the moment.
    #[must_use]
    pub fn sums(&self) -> BTreeMap<Whose, Sum> {
        self.sums.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeport_common::{NextHop, protocol};

    fn web() -> Arc<ServicePortName> {
        Arc::new(ServicePortName {
            namespace: "shop".into(),
            name: "web".into(),
            port: "http".into(),
            protocol: crate::model::desired::Protocol::Tcp,
        })
    }

    fn pair(client_port: u16, backend: u8, packets: u64) -> [(FlowKey<V4>, Flow<V4>); 2] {
        let key = FlowKey {
            source: [198, 51, 100, 7],
            destination: [192, 0, 2, 1],
            source_port: client_port.to_be_bytes(),
            destination_port: 30080_u16.to_be_bytes(),
            protocol: protocol::TCP,
            pad: [0; 3],
        };
        let forward = Flow {
            packets,
            bytes: packets * 100,
            last_seen: 0,
            endpoint_generation: 1,
            flags: flow_flags::NODE_PORT,
            tcp: 0,
            source_port: client_port.to_be_bytes(),
            destination_port: 8080_u16.to_be_bytes(),
            pad: [0; 2],
            source: [192, 0, 2, 1],
            destination: [10, 244, 2, backend],
            next_hop: NextHop::default(),
        };
        let reply_key = forward.pair(protocol::TCP);
        let reply = Flow {
            packets: packets / 2,
            bytes: packets * 1000,
            flags: flow_flags::NODE_PORT | flow_flags::REPLY,
            source: key.destination,
            destination: key.source,
            source_port: key.destination_port,
            destination_port: key.source_port,
            ..forward
        };
        [(key, forward), (reply_key, reply)]
    }

    fn tally(cap: usize) -> Tally {
        let mut tally = Tally::new(cap);
        let any = IpAddr::from([0, 0, 0, 0]);
        tally.rename([((any, 30080, protocol::TCP), Some((*web()).clone()))]);
        tally
    }

    fn walk(tally: &mut Tally, flows: &[[(FlowKey<V4>, Flow<V4>); 2]], at: u32) {
        for (key, flow) in flows.iter().flatten() {
            tally.see(key, flow, at);
        }
        tally.forget(at);
    }

    fn of(tally: &Tally, backend: u8) -> Sum {
        let address = SocketAddr::from(([10, 244, 2, backend], 8080));
        let whose = Some((web(), address));
        tally.sums().get(&whose).copied().unwrap_or_default()
    }

    #[test]
    fn flows_of_an_earlier_agent_count_from_now_on_and_new_ones_as_a_whole() {
        let mut tally = tally(10);
        walk(&mut tally, &[pair(1, 5, 100)], 1000);
        assert_eq!(of(&tally, 5), Sum::default());
        walk(&mut tally, &[pair(1, 5, 104), pair(2, 5, 10)], 1040);
        let sum = Sum {
            packets: [14, 7],
            bytes: [1400, 14000],
            connections: 1,
        };
        assert_eq!(of(&tally, 5), sum);
        walk(&mut tally, &[pair(1, 5, 104), pair(2, 5, 10)], 1050);
        assert_eq!(of(&tally, 5), sum, "nothing new");
    }

    #[test]
    fn counters_that_went_down_are_another_connections() {
        let mut tally = tally(10);
        walk(&mut tally, &[pair(1, 5, 100)], 1000);
        walk(&mut tally, &[pair(1, 5, 4)], 1010);
        // So soon after the start it cannot be told from an earlier agent's.
        assert_eq!(of(&tally, 5).connections, 0);
        walk(&mut tally, &[pair(1, 5, 2)], 1040);
        assert_eq!(
            of(&tally, 5),
            Sum {
                packets: [2, 1],
                bytes: [200, 2000],
                connections: 1
            }
        );
    }

    #[test]
    fn beyond_the_cap_everything_is_counted_under_one_name() {
        let mut tally = tally(2);
        walk(&mut tally, &[], 1000);
        walk(&mut tally, &[pair(9, 9, 1)], 1000);
        let flows: Vec<_> = (1..=5).map(|n| pair(u16::from(n), n, 10)).collect();
        walk(&mut tally, &flows, 1050);
        assert_eq!(tally.sums().len(), 3, "two and the rest");
        assert_eq!(tally.sums()[&None].connections, 3);
        let mut off = Tally::new(0);
        walk(&mut off, &flows, 1);
        assert!(off.sums().is_empty() && off.seen.0.is_empty());
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut tally = tally(10);
        walk(&mut tally, &[pair(9, 9, 1)], 1000);
        walk(&mut tally, &[pair(1, 5, 10)], 1050);
        walk(&mut tally, &[], 1050 + FORGET_SECS);
        assert!(tally.seen.0.is_empty());
        assert_eq!(of(&tally, 5).connections, 1, "its sum stays");
        tally.rename([((IpAddr::from([0; 4]), 30080, protocol::TCP), None)]);
        assert!(tally.sums().is_empty(), "until its Service goes");
        walk(&mut tally, &[pair(2, 5, 10)], 1200);
        assert!(
            tally.sums().is_empty(),
            "a flow without a Service has no name"
        );
    }
}
