//! One address family's tables, and a hook's view of them: the library's [`Tables`] without a kernel.
//!
//! Owns the answers; refuses to know what they are used for. Invariant: a view answers as the kernel would at its hook, from what the
//! [`Node`] has at that moment.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use nodeport_common::{
    Address, Affinity, AffinityKey, Backend, Control, Device, FlowKey, FragmentKey, FragmentPorts,
    Frontend, FrontendKey, Hook, LINES_LEN, NextHop, ServingKey, Socket, SocketKey, SourceRangeKey,
    V4, V6, address_flags, device_flags,
};

use super::map::Map;
use super::node::{Moment, Node};
use super::routes::{Route, common_bits, longest};
use crate::scratch::Scratch;
use crate::tables::{
    self, Clients, Entry, InsertError, Line, RouteQuery, RouteStatus, Services, Sockets, Tables,
};
use crate::wire::parse::Parse;
use crate::{originate, select};

/// A family that a node has tables for.
pub trait SimFamily: Parse + Ord + AsRef<[u8]> {
    /// Its tables.
    fn of(node: &Node) -> &FamilyTables<Self>;
    /// Its tables, to be filled.
    fn of_mut(node: &mut Node) -> &mut FamilyTables<Self>;
}

impl SimFamily for V4 {
    fn of(node: &Node) -> &FamilyTables<V4> {
        &node.v4
    }
    fn of_mut(node: &mut Node) -> &mut FamilyTables<V4> {
        &mut node.v4
    }
}

impl SimFamily for V6 {
    fn of(node: &Node) -> &FamilyTables<V6> {
        &node.v6
    }
    fn of_mut(node: &mut Node) -> &mut FamilyTables<V6> {
        &mut node.v6
    }
}

/// The maps of one family, and what the kernel knows of it.
#[derive(Debug)]
pub struct FamilyTables<A: SimFamily> {
    /// `ADDRESSES`.
    pub addresses: BTreeMap<A, Address>,
    /// `FRONTENDS`.
    pub frontends: BTreeMap<FrontendKey<A>, Frontend>,
    /// `BACKENDS`.
    pub backends: Vec<Backend<A>>,
    /// `SERVING`.
    pub serving: BTreeSet<ServingKey<A>>,
    /// `AFFINITY`.
    pub affinity: Map<AffinityKey<A>, Affinity<A>>,
    /// `SOURCES`.
    pub sources: BTreeSet<SourceRangeKey<A>>,
    /// `FLOWS`.
    pub flows: Map<FlowKey<A>, Entry<A>>,
    /// `DESTINATIONS`: addresses, without those that share a place with them.
    pub addresses_noted: RefCell<BTreeSet<A>>,
    /// `DESTINATIONS`: ports, network order.
    pub ports_noted: RefCell<BTreeSet<[u8; 2]>>,
    /// `DESTINATIONS`: addresses and ports of backends whose replies are translated at egress.
    pub replies_noted: RefCell<BTreeSet<(A, [u8; 2])>>,
    /// `SOCKETS`.
    pub sockets_known: Map<SocketKey<A>, Socket<A>>,
    /// `PENDING`.
    pub pending: Map<FlowKey<A>, Entry<A>>,
    /// `LINES` of the only CPU, as far as they were used.
    pub lines: Map<u32, Line<A>>,
    /// `EPOCHS`, as far as they were raised.
    pub epochs: RefCell<BTreeMap<u32, u32>>,
    /// `FRAGMENTS`.
    pub fragments: Map<FragmentKey<A>, FragmentPorts>,
    /// The routing tables; the longest prefix wins.
    pub routes: Vec<Route<A>>,
    /// Connected sockets of this host, by the tuple of packets that they receive.
    pub sockets: BTreeSet<FlowKey<A>>,
    /// Working memory by hook, as the last packet left it.
    pub(super) scratch: [RefCell<Option<Box<Scratch<A>>>>; Hook::ALL.len()],
}

impl<A: SimFamily> Default for FamilyTables<A> {
    fn default() -> Self {
        Self {
            addresses: BTreeMap::new(),
            frontends: BTreeMap::new(),
            backends: Vec::new(),
            serving: BTreeSet::new(),
            affinity: Map::lru(16384),
            sources: BTreeSet::new(),
            flows: Map::hash(262_144),
            addresses_noted: RefCell::default(),
            ports_noted: RefCell::default(),
            replies_noted: RefCell::default(),
            sockets_known: Map::lru(65536),
            pending: Map::lru(65536),
            lines: Map::hash(LINES_LEN as usize),
            epochs: RefCell::default(),
            fragments: Map::lru(8192),
            routes: Vec::new(),
            sockets: BTreeSet::new(),
            scratch: Default::default(),
        }
    }
}

impl<A: SimFamily> FamilyTables<A> {
    /// The flow's entry for packets of this tuple, wherever it is.
    #[must_use]
    pub fn entry(&self, key: &FlowKey<A>) -> Option<&'static Entry<A>> {
        self.flows.get(key).or_else(|| self.pending.get(key))
    }
}

/// The tables as the program at a hook (an index into [`Hook::ALL`]) sees them while it has a packet of one device.
#[derive(Clone, Copy, Debug)]
pub struct View<'n, A: SimFamily, const HOOK: usize> {
    pub(super) node: &'n Node,
    pub(super) tables: &'n FamilyTables<A>,
    pub(super) device_index: u32,
    pub(super) device: &'n Device,
}

impl<A: SimFamily, const HOOK: usize> Services<A> for View<'_, A, HOOK> {
    fn control(&self) -> &Control {
        &self.node.control
    }

    fn address(&self, address: &A) -> u32 {
        self.tables
            .addresses
            .get(address)
            .map_or(0, |known| known.flags)
    }

    fn frontend(&self, key: &FrontendKey<A>) -> Option<&Frontend> {
        self.tables.frontends.get(key)
    }

    fn backend(&self, slot: u32) -> Option<&Backend<A>> {
        self.tables.backends.get(slot as usize)
    }

    fn serves(&self, key: &ServingKey<A>) -> bool {
        self.tables.serving.contains(key)
    }
}

impl<A: SimFamily, const HOOK: usize> Sockets<A> for View<'_, A, HOOK> {
    fn socket(&self, key: &SocketKey<A>) -> Option<&Socket<A>> {
        self.tables.sockets_known.get(key)
    }

    fn remember(&self, key: &SocketKey<A>, socket: &Socket<A>) -> bool {
        self.tables.sockets_known.put(*key, *socket).is_ok()
    }
}

impl<A: SimFamily, const HOOK: usize> Clients<A> for View<'_, A, HOOK> {
    fn now(&self) -> u32 {
        self.node.jiffies
    }

    fn affinity(&self, key: &AffinityKey<A>) -> Option<&Affinity<A>> {
        self.tables.affinity.get(key)
    }

    fn remember_affinity(&self, key: &AffinityKey<A>, sent: &Affinity<A>) {
        // As in the kernel: whoever cannot be remembered is sent anywhere next time.
        let _ = self.tables.affinity.put(*key, *sent);
    }

    fn is_in_source_ranges(&self, source: &SourceRangeKey<A>) -> bool {
        let mut ranges = self.tables.sources.iter();
        ranges.any(|range| {
            let prefix = range.prefix_len as usize - 32;
            range.service == source.service
                && common_bits(&range.address, &source.address) >= prefix
        })
    }
}

impl<A: SimFamily, const HOOK: usize> Tables<A> for View<'_, A, HOOK> {
    const HOOK: Hook = Hook::ALL[HOOK];

    fn device_index(&self) -> u32 {
        self.device_index
    }

    fn device(&self) -> &Device {
        self.device
    }

    fn may_have_flows(&self, key: &FlowKey<A>) -> bool {
        let addresses = self.tables.addresses_noted.borrow();
        let ports = self.tables.ports_noted.borrow();
        addresses.contains(&key.destination) && ports.contains(&key.destination_port)
    }

    fn note_destination(&self, key: &FlowKey<A>) {
        let tables = self.tables;
        tables.addresses_noted.borrow_mut().insert(key.destination);
        tables.ports_noted.borrow_mut().insert(key.destination_port);
    }

    fn line(&self, hash: u32, place: u32) -> Option<&Line<A>> {
        let mask = self.node.control.lines_per_cpu.checked_sub(1)?;
        let place = (hash ^ place) & mask;
        // There is one, or it is made here.
        let _ = self.tables.lines.add(place, Line::default());
        self.tables.lines.get(&place)
    }

    fn epoch(&self, hash: u32) -> u32 {
        let epochs = self.tables.epochs.borrow();
        epochs.get(&(hash >> 16)).copied().unwrap_or_default()
    }

    fn disturb(&self, key: &FlowKey<A>) {
        let place = select::hash(key, self.node.control.seed) >> 16;
        *self.tables.epochs.borrow_mut().entry(place).or_default() += 1;
    }

    fn may_be_frontend(&self, key: &FlowKey<A>) -> bool {
        let mut ports = self.tables.frontends.keys().map(|frontend| frontend.port);
        let flags = self.address(&key.destination);
        flags & (address_flags::NODE_PORT | address_flags::VIRTUAL) != 0
            && ports.any(|port| port == key.destination_port)
    }

    fn may_be_reply(&self, key: &FlowKey<A>) -> bool {
        let source = (key.source, key.source_port);
        self.tables.replies_noted.borrow().contains(&source)
    }

    fn note_reply(&self, key: &FlowKey<A>, at_egress: bool) {
        if !at_egress {
            return self.note_destination(key);
        }
        let source = (key.source, key.source_port);
        self.tables.replies_noted.borrow_mut().insert(source);
    }

    fn flow(&self, key: &FlowKey<A>) -> Option<&Entry<A>> {
        self.tables.flows.get(key)
    }

    fn pending(&self, key: &FlowKey<A>) -> Option<&Entry<A>> {
        self.node.at(Moment::Pending);
        self.tables.pending.get(key)
    }

    fn add_flow(&self, key: &FlowKey<A>, entry: &Entry<A>) -> Result<(), InsertError> {
        self.node.at(Moment::AddFlow);
        self.tables.flows.add(*key, Entry::new(&entry.get()))
    }

    fn add_pending(&self, key: &FlowKey<A>, entry: &Entry<A>) -> Result<(), InsertError> {
        self.node.at(Moment::AddPending);
        self.tables.pending.add(*key, Entry::new(&entry.get()))
    }

    fn remove_flow(&self, key: &FlowKey<A>) {
        self.node.at(Moment::RemoveFlow);
        self.tables.flows.remove(key);
    }

    fn remove_pending(&self, key: &FlowKey<A>) {
        self.node.at(Moment::RemovePending);
        self.tables.pending.remove(key);
    }

    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentPorts> {
        self.tables.fragments.get(key).copied()
    }

    fn remember_fragment(&self, key: &FragmentKey<A>, ports: &FragmentPorts) {
        // As in the kernel: a fragment that cannot be remembered is carried all the same.
        let _ = self.tables.fragments.put(*key, *ports);
    }

    fn next_port_cursor(&self, bucket: u32) -> u32 {
        self.node.next_port_cursor(bucket)
    }

    fn repeat(&self, times: u32, step: impl FnMut(u32) -> bool) {
        let _to_the_end = (0..times).all(step);
    }

    fn take_reject(&self) -> bool {
        let mut bucket = self.node.budget.get();
        let paid = originate::pay(&mut bucket, &self.node.control, self.node.jiffies);
        self.node.budget.set(bucket);
        paid
    }

    fn host_owns(&self, key: &FlowKey<A>) -> bool {
        self.tables.sockets.contains(key)
    }

    fn has_peer(&self, device: u32) -> bool {
        self.node.device_is(device, device_flags::PEER)
    }

    fn route(&self, query: &RouteQuery<A>, answer: &mut tables::Route<A>) {
        answer.status = RouteStatus::None;
        let Some(route) = longest(&self.tables.routes, &query.destination) else {
            return;
        };
        answer.status = route.status;
        answer.hop = NextHop {
            generation: self.node.control.route_generation,
            looked_up: 0,
            ..route.hop
        };
        answer.xdp_target = self
            .node
            .device_is(route.hop.device, device_flags::XDP_TARGET);
        answer.source = if query.source == A::UNSPECIFIED {
            route.source
        } else {
            query.source
        };
    }
}
