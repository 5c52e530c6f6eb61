//! The tables of flows in the kernel, as a walk needs them.
//!
//! Owns reading and writing single entries, and notes on the way which next hops are in use, how many
//! source ports are held and what is to be summed up. Refuses to judge flows.

use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::Hash;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use nodeport_common::{Flow, FlowKey, flow_flags};

use super::pass::{Entries, FlowTable};
use super::snat::{SnatCount, SnatPorts};
use super::tally::{Counted, Tally};
use super::verdict::Now;
use crate::datapath::devices::Hop;
use crate::maps::{KernelMap, Map, StoreError};

/// How long after its last packet a flow's next hop counts as used.
const USED_SECS: u32 = 60;

/// A table that notes the next hops of the flows that are visited.
pub(super) struct Watched<'a, A, M> {
    map: &'a KernelMap<M>,
    now: Now,
    hops: RefCell<HashSet<Hop>>,
    snat: RefCell<SnatCount<A>>,
    tally: &'a Mutex<Tally>,
    now_secs: u32,
}

impl<'a, A: Copy + Eq + Hash, M> Watched<'a, A, M> {
    /// Watches a table, from this moment.
    pub(super) fn new(
        map: &'a KernelMap<M>,
        now: Now,
        tally: &'a Mutex<Tally>,
        now_secs: u32,
    ) -> Self {
        Self {
            map,
            now,
            hops: RefCell::default(),
            snat: RefCell::default(),
            tally,
            now_secs,
        }
    }

    /// The source ports that were counted.
    pub(super) fn snat(&self) -> SnatPorts {
        self.snat.borrow().found()
    }

    /// The next hops that were noted.
    pub(super) fn hops(self) -> HashSet<Hop> {
        self.hops.into_inner()
    }
}

/// The next hop of a flow that had a packet lately.
fn hop<A>(flow: &Flow<A>, now: Now) -> Option<Hop> {
    let hop = &flow.next_hop;
    let used = flow.flags & flow_flags::REDIRECT != 0
        && hop.generation != 0
        && now.age(flow.last_seen) <= now.jiffies_of(USED_SECS);
    used.then_some((hop.device, hop.destination_mac))
}

/// `FLOWS` and `PENDING` have the same keys and values.
impl<A, M> FlowTable<A> for Watched<'_, A, M>
where
    A: Counted,
    M: Map<Key = FlowKey<A>, Value = Flow<A>>,
{
    type Error = StoreError;

    fn scan(
        &self,
        visit: &mut dyn FnMut(&Entries<A>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.map.scan(&mut |entries| {
            let hops = entries.iter().filter_map(|(_, flow)| hop(flow, self.now));
            self.hops.borrow_mut().extend(hops);
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, flow) in entries
                .iter()
                .filter(|(_, flow)| flow.flags & flow_flags::FOREIGN == 0)
            {
                tally.see(key, flow, self.now_secs);
            }
            drop(tally);
            let mut snat = self.snat.borrow_mut();
            for (key, flow) in entries {
                snat.see(key, flow);
            }
            drop(snat);
            visit(entries)
        })
    }

    fn get(&self, key: &FlowKey<A>) -> Result<Option<Flow<A>>, StoreError> {
        self.map.get(key)
    }

    fn remove(&self, key: &FlowKey<A>) -> Result<(), StoreError> {
        self.map.remove(key).map(drop)
    }

    fn add(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<bool, StoreError> {
        self.map.add(key, flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeport_common::{NextHop, V4};

    #[test]
    fn only_flows_that_are_redirected_and_alive_use_a_next_hop() {
        let now = Now {
            jiffies: 100_000,
            hz: 250,
        };
        let flow = Flow::<V4> {
            packets: 1,
            bytes: 60,
            last_seen: now.jiffies - 60 * 250,
            endpoint_generation: 1,
            flags: flow_flags::SEEN | flow_flags::REDIRECT,
            tcp: 0,
            source_port: [0; 2],
            destination_port: [0; 2],
            pad: [0; 2],
            source: [0; 4],
            destination: [0; 4],
            next_hop: NextHop {
                generation: 1,
                device: 3,
                destination_mac: [2, 0, 0, 0, 0, 1],
                ..NextHop::default()
            },
        };
        assert_eq!(hop(&flow, now), Some((3, [2, 0, 0, 0, 0, 1])));
        let mut idle = flow;
        idle.last_seen -= 1;
        assert_eq!(hop(&idle, now), None);
        let mut routed = flow;
        routed.flags = flow_flags::SEEN;
        assert_eq!(hop(&routed, now), None);
        let mut unknown = flow;
        unknown.next_hop.generation = 0;
        assert_eq!(hop(&unknown, now), None);
    }
}
