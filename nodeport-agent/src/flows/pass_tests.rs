//! Walks over a table in memory, with a clock that tests set, and with packets that arrive in the middle of a walk.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use nodeport_common::{NextHop, V4, protocol, tcp_flags};

use super::*;

const HZ: u32 = 250;

type Key = FlowKey<V4>;
type Event = Box<dyn FnOnce(&mut BTreeMap<Key, Flow<V4>>)>;

/// A table in memory. `before_remove` happens just before the next removal: a packet that the walk races with.
#[derive(Default)]
struct Memory {
    entries: RefCell<BTreeMap<Key, Flow<V4>>>,
    on_read: RefCell<Option<(Key, Event)>>,
    removed: RefCell<Vec<Key>>,
    reads: Cell<usize>,
    full: Cell<bool>,
}

impl FlowTable<V4> for Memory {
    type Error = &'static str;

    fn scan(
        &self,
        visit: &mut dyn FnMut(&Entries<V4>) -> ControlFlow<()>,
    ) -> Result<(), &'static str> {
        let all: Vec<_> = self
            .entries
            .borrow()
            .iter()
            .map(|(k, f)| (*k, *f))
            .collect();
        for portion in all.chunks(2) {
            if visit(portion).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn get(&self, key: &Key) -> Result<Option<Flow<V4>>, &'static str> {
        self.reads.set(self.reads.get() + 1);
        let found = self.entries.borrow().get(key).copied();
        let due = self
            .on_read
            .borrow()
            .as_ref()
            .is_some_and(|(at, _)| at == key);
        if let Some((_, event)) = due.then(|| self.on_read.take()).flatten() {
            event(&mut self.entries.borrow_mut());
        }
        Ok(found)
    }

    fn remove(&self, key: &Key) -> Result<(), &'static str> {
        self.entries.borrow_mut().remove(key);
        self.removed.borrow_mut().push(*key);
        Ok(())
    }

    fn add(&self, key: &Key, flow: &Flow<V4>) -> Result<bool, &'static str> {
        if self.full.get() {
            return Err("full");
        }
        let mut entries = self.entries.borrow_mut();
        if entries.contains_key(key) {
            return Ok(false);
        }
        entries.insert(*key, *flow);
        Ok(true)
    }
}

/// The flow of a client with this source port, last seen then (in seconds).
fn flow(client_port: u16, protocol: u8, seen_at: u32, tcp: u8) -> [(Key, Flow<V4>); 2] {
    let key = FlowKey {
        source: [198, 51, 100, 7],
        destination: [192, 0, 2, 1],
        source_port: client_port.to_be_bytes(),
        destination_port: 30080_u16.to_be_bytes(),
        protocol,
        pad: [0; 3],
    };
    let forward = Flow {
        packets: 2,
        bytes: 120,
        last_seen: seen_at * HZ,
        endpoint_generation: 1,
        flags: flow_flags::SEEN | flow_flags::REDIRECT,
        tcp,
        source_port: client_port.wrapping_add(10000).to_be_bytes(),
        destination_port: 8080_u16.to_be_bytes(),
        pad: [0; 2],
        source: [192, 0, 2, 1],
        destination: [10, 244, 2, 5],
        next_hop: NextHop::default(),
    };
    let (reply_key, reply) = mirror(&key, &forward);
    [(key, forward), (reply_key, reply)]
}

fn table(flows: impl IntoIterator<Item = (Key, Flow<V4>)>) -> Memory {
    let memory = Memory::default();
    memory.entries.borrow_mut().extend(flows);
    memory
}

fn walk(walker: &mut Walker<V4>, memory: &Memory, at: u32) -> Walked {
    let now = Now {
        jiffies: at * HZ,
        hz: HZ,
    };
    walker
        .walk(
            memory,
            &Lifetimes::default(),
            &mut || Ok::<_, &str>(now),
            &mut || (),
        )
        .expect("walked")
}

fn established() -> Walker<V4> {
    Walker::new(Table::Established)
}

#[test]
fn what_is_over_goes_as_a_pair_client_side_first() {
    let live = flow(1, protocol::TCP, 1000, 0);
    let closed = flow(2, protocol::TCP, 1000, tcp_flags::CLOSED);
    let memory = table(live.into_iter().chain(closed));
    let did = walk(&mut established(), &memory, 1121);
    assert_eq!((did.seen, did.expired), (4, 1));
    assert_eq!(*memory.removed.borrow(), [closed[0].0, closed[1].0]);
    assert_eq!(memory.entries.borrow().len(), 2);
}

#[test]
fn a_flow_that_only_one_side_uses_stays_b8() {
    let mut one_way = flow(1, protocol::UDP, 1000, 0);
    one_way[1].1.last_seen = 2000 * HZ;
    let memory = table(one_way);
    let did = walk(&mut established(), &memory, 2100);
    assert_eq!(did.expired, 0);
    assert_eq!(memory.entries.borrow().len(), 2);
    assert_eq!(walk(&mut established(), &memory, 2121).expired, 1);
}

#[test]
fn a_packet_between_reading_and_deleting_saves_the_flow_i13() {
    let idle = flow(1, protocol::UDP, 1000, 0);
    let [(forward_key, _), (reply_key, _)] = idle;
    // The first reading is that of the pair; the packet comes right after it, before the second one.
    for saved_by in [forward_key, reply_key] {
        let memory = table(idle);
        let event: Event = Box::new(move |entries| {
            if let Some(entry) = entries.get_mut(&saved_by) {
                entry.last_seen = 1200 * HZ;
            }
        });
        memory.on_read.replace(Some((reply_key, event)));
        let did = walk(&mut established(), &memory, 1200);
        assert_eq!(did.expired, 0);
        assert_eq!(memory.entries.borrow().len(), 2);
    }
}

#[test]
fn a_new_flow_in_the_place_of_an_old_one_is_not_deleted() {
    let old = flow(1, protocol::TCP, 1000, tcp_flags::CLOSED);
    let [(forward_key, _), (reply_key, _)] = old;
    let memory = table(old);
    // The client reconnects from the same port (B1): the programs replace both entries.
    let event: Event = Box::new(move |entries| {
        entries.remove(&reply_key);
        let mut fresh = flow(1, protocol::TCP, 1200, 0);
        fresh[0].1.destination = [10, 244, 3, 9];
        let (new_key, new_reply) = mirror(&forward_key, &fresh[0].1);
        entries.insert(forward_key, fresh[0].1);
        entries.insert(new_key, new_reply);
    });
    memory.on_read.replace(Some((reply_key, event)));
    walk(&mut established(), &memory, 1200);
    assert_eq!(memory.entries.borrow().len(), 2);
    assert!(memory.removed.borrow().is_empty());
}

#[test]
fn a_live_entry_without_its_other_half_gets_it_back_after_a_grace() {
    for missing in [0, 1] {
        let whole = flow(1, protocol::TCP, 1000, 0);
        let memory = table([whole[1 - missing]]);
        let mut walker = established();
        // The first walk is thorough: the entry's own life is not in doubt.
        assert_eq!(walk(&mut walker, &memory, 1010).mended, 0);
        assert_eq!(walk(&mut walker, &memory, 1015).mended, 0, "not yet");
        assert_eq!(walk(&mut walker, &memory, 1020).mended, 1);
        let entries = memory.entries.borrow();
        let mended = entries.get(&whole[missing].0).expect("it is back");
        assert_eq!(
            mended.translated(protocol::TCP),
            whole[missing].1.translated(protocol::TCP)
        );
        assert_eq!(mended.flags, whole[missing].1.flags);
    }
}

#[test]
fn an_entry_without_its_other_half_that_is_over_goes_after_a_grace() {
    let closed = flow(1, protocol::TCP, 1000, tcp_flags::CLOSED);
    let memory = table([closed[1]]);
    let mut walker = established();
    assert_eq!(walk(&mut walker, &memory, 1130).orphans, 0);
    assert_eq!(walk(&mut walker, &memory, 1139).orphans, 0);
    assert_eq!(walk(&mut walker, &memory, 1140).orphans, 1);
    assert!(memory.entries.borrow().is_empty());
}

#[test]
fn an_entry_whose_other_half_came_back_is_forgotten_as_an_orphan() {
    let closed = flow(1, protocol::TCP, 1000, tcp_flags::FIN);
    let memory = table([closed[1]]);
    let mut walker = established();
    walk(&mut walker, &memory, 4700);
    memory.entries.borrow_mut().insert(closed[0].0, {
        let mut fresh = closed[0].1;
        fresh.last_seen = 4705 * HZ;
        fresh
    });
    let did = walk(&mut walker, &memory, 4711);
    assert_eq!((did.orphans, did.expired), (0, 0));
    assert_eq!(memory.entries.borrow().len(), 2);
    assert!(walker.orphans.is_empty());
}

#[test]
fn a_reply_entry_whose_client_entry_leads_elsewhere_goes() {
    let old = flow(1, protocol::UDP, 1000, 0);
    let mut fresh = flow(1, protocol::UDP, 1200, 0);
    fresh[0].1.destination = [10, 244, 3, 9];
    let (new_key, new_reply) = mirror(&fresh[0].0, &fresh[0].1);
    let memory = table([old[1], fresh[0], (new_key, new_reply)]);
    let mut walker = established();
    walk(&mut walker, &memory, 1205);
    let did = walk(&mut walker, &memory, 1216);
    assert_eq!(did.orphans, 1);
    assert!(!memory.entries.borrow().contains_key(&old[1].0));
    assert_eq!(memory.entries.borrow().len(), 2);
}

#[test]
fn pending_entries_without_their_other_half_wait_for_their_time() {
    let syn = flow(1, protocol::TCP, 1000, tcp_flags::SYN);
    let memory = table([syn[0]]);
    let mut walker = Walker::new(Table::Pending);
    for second in [1100, 1111, 1120] {
        let did = walk(&mut walker, &memory, second);
        assert_eq!((did.orphans, did.mended), (0, 0));
    }
    walk(&mut walker, &memory, 1121);
    assert_eq!(walk(&mut walker, &memory, 1131).orphans, 1);
}

#[test]
fn live_flows_cost_no_reading_but_the_walk_and_now_and_then_one_look() {
    let flows = (1..100).flat_map(|port| flow(port, protocol::TCP, 1000, 0));
    let memory = table(flows);
    let mut walker = established();
    let mut reads = Vec::new();
    for _ in 0..7 {
        memory.reads.set(0);
        assert_eq!(walk(&mut walker, &memory, 1000 + 80_000).seen, 198);
        reads.push(memory.reads.get());
    }
    assert_eq!(reads, [198, 0, 0, 0, 0, 0, 198]);
}

#[test]
fn a_failure_ends_the_walk_and_is_told() {
    let memory = table(flow(1, protocol::TCP, 1000, 0));
    let mut failing = || Err("no clock");
    let result = established().walk(&memory, &Lifetimes::default(), &mut failing, &mut || ());
    assert_eq!(result, Err("no clock"));
}

#[test]
fn a_full_table_keeps_what_cannot_be_mended_and_loses_what_is_over() {
    let half = flow(1, protocol::TCP, 1000, 0)[0];
    let closed = flow(2, protocol::TCP, 1000, tcp_flags::CLOSED);
    let memory = table([half].into_iter().chain(closed));
    memory.full.set(true);
    let mut walker = established();
    assert_eq!(walk(&mut walker, &memory, 1100).expired, 0);
    let did = walk(&mut walker, &memory, 1121);
    assert_eq!((did.expired, did.mended, did.orphans), (1, 0, 0));
    assert_eq!(memory.entries.borrow().len(), 1);
}
