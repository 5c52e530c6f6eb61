//! The tables that the datapath follows, and the entries that it writes.
//!
//! Owns the contract between the safe library and the maps. All methods take `&self`: entries live in memory that other CPUs
//! write too, so a flow is handed out as an [`Entry`] of cells, never as an exclusive reference.
//! Invariant: an entry stays readable until the packet is done, even if it is deleted meanwhile (RCU in the kernel).

mod line;

use core::cell::Cell;

use nodeport_common::{
    Affinity, AffinityKey, Backend, Control, Device, Flow, FlowKey, FragmentKey, FragmentPorts,
    Frontend, FrontendKey, Hook, NextHop, ServingKey, Socket, SocketKey, SourceRangeKey,
};

pub use self::line::{LINE_PLACES, Line, LineOwner, Translation, line_flags};
use crate::nat::Ends;
use crate::wire::Family;

/// A [`Flow`] in shared memory: the same layout, the fields that change as cells.
#[derive(Debug, Default)]
#[repr(C, align(8))]
pub struct Entry<A> {
    /// See [`Flow::packets`].
    pub packets: Cell<u64>,
    /// See [`Flow::bytes`].
    pub bytes: Cell<u64>,
    /// See [`Flow::last_seen`].
    pub last_seen: Cell<u32>,
    /// See [`Flow::endpoint_generation`].
    pub endpoint_generation: Cell<u32>,
    /// See [`Flow::flags`].
    pub flags: Cell<u8>,
    /// See [`Flow::tcp`].
    pub tcp: Cell<u8>,
    /// See [`Flow::source_port`].
    pub source_port: [u8; 2],
    /// See [`Flow::destination_port`].
    pub destination_port: [u8; 2],
    /// Zero.
    pub pad: [u8; 2],
    /// See [`Flow::source`].
    pub source: A,
    /// See [`Flow::destination`].
    pub destination: A,
    /// See [`Flow::next_hop`].
    pub next_hop: Cell<NextHop>,
}

const _: () = {
    use core::mem::offset_of;
    use nodeport_common::{V4, V6};
    assert!(
        size_of::<Entry<V4>>() == size_of::<Flow<V4>>()
            && size_of::<Entry<V6>>() == size_of::<Flow<V6>>()
    );
    assert!(offset_of!(Entry<V4>, next_hop) == offset_of!(Flow<V4>, next_hop));
    assert!(offset_of!(Entry<V6>, next_hop) == offset_of!(Flow<V6>, next_hop));
    assert!(offset_of!(Entry<V6>, tcp) == offset_of!(Flow<V6>, tcp));
    assert!(offset_of!(Entry<V6>, source) == offset_of!(Flow<V6>, source));
};

impl<A: Copy> Entry<A> {
    /// An entry that holds `flow`.
    #[inline(always)]
    pub fn new(flow: &Flow<A>) -> Self {
        Self {
            packets: Cell::new(flow.packets),
            bytes: Cell::new(flow.bytes),
            last_seen: Cell::new(flow.last_seen),
            endpoint_generation: Cell::new(flow.endpoint_generation),
            flags: Cell::new(flow.flags),
            tcp: Cell::new(flow.tcp),
            source_port: flow.source_port,
            destination_port: flow.destination_port,
            pad: [0; 2],
            source: flow.source,
            destination: flow.destination,
            next_hop: Cell::new(flow.next_hop),
        }
    }

    /// What the entry holds now.
    pub fn get(&self) -> Flow<A> {
        Flow {
            packets: self.packets.get(),
            bytes: self.bytes.get(),
            last_seen: self.last_seen.get(),
            endpoint_generation: self.endpoint_generation.get(),
            flags: self.flags.get(),
            tcp: self.tcp.get(),
            source_port: self.source_port,
            destination_port: self.destination_port,
            pad: [0; 2],
            source: self.source,
            destination: self.destination,
            next_hop: self.next_hop.get(),
        }
    }

    /// Whether all of `bits` are set in the entry's flags.
    #[inline(always)]
    pub fn is(&self, bits: u8) -> bool {
        self.flags.get() & bits == bits
    }

    /// Sets `bits` in the entry's flags, writing only if that changes something (the line may be shared between CPUs).
    #[inline(always)]
    pub fn set(&self, bits: u8) {
        let flags = self.flags.get();
        if flags & bits != bits {
            self.flags.set(flags | bits);
        }
    }

    /// How its packets are rewritten.
    #[inline(always)]
    pub const fn ends(&self) -> Ends<'_, A> {
        Ends {
            source: &self.source,
            destination: &self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
        }
    }

    /// Writes the key of the entry of the other direction.
    #[inline(always)]
    pub fn pair(&self, protocol: u8, key: &mut FlowKey<A>)
    where
        A: Family,
    {
        self.destination.copy_to(&mut key.source);
        self.source.copy_to(&mut key.destination);
        key.source_port = self.destination_port;
        key.destination_port = self.source_port;
        key.protocol = protocol;
        key.pad = [0; 3];
    }
}

/// Why an entry was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// There is one with this key.
    Exists,
    /// The table is full, or the kernel refused for another reason.
    Full,
}

/// What a routing lookup is about. Addresses and ports as the packet will carry them after translation.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteQuery<A> {
    /// Source, or zero where the route is to choose it.
    pub source: A,
    /// Destination.
    pub destination: A,
    /// IANA protocol number.
    pub protocol: u8,
}

/// What the kernel's routing tables say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RouteStatus {
    /// The next hop is known with its link-layer addresses.
    Known,
    /// The route is known, the neighbour is not (or the device has no link-layer addresses).
    NeedsNeighbour,
    /// Not a route by which we can send: local, blackhole, unreachable, forwarding off.
    #[default]
    None,
}

/// The answer to a [`RouteQuery`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Route<A> {
    /// Which of the following fields count.
    pub status: RouteStatus,
    /// Whether `XDP_REDIRECT` may send to the device.
    pub xdp_target: bool,
    /// Device, MTU and (if known) link-layer addresses; its generation is the current one.
    pub hop: NextHop,
    /// The address that this node uses as source on that route; zero if it has none of this family.
    pub source: A,
}

/// What the agent wrote: settings, front ends and their endpoints, for one address family.
pub trait Services<A: Copy> {
    /// Settings and generations.
    fn control(&self) -> &Control;
    /// [`nodeport_common::address_flags`] of an address, 0 if it is none of ours.
    fn address(&self, address: &A) -> u32;
    /// The front end with this key.
    fn frontend(&self, key: &FrontendKey<A>) -> Option<&Frontend>;
    /// One slot of the backend sets.
    fn backend(&self, slot: u32) -> Option<&Backend<A>>;
    /// Whether an existing UDP flow may keep this endpoint.
    fn serves(&self, key: &ServingKey<A>) -> bool;
}

/// What is known of the clients of Services, and the clock.
pub trait Clients<A: Copy>: Services<A> {
    /// Low 32 bits of jiffies.
    fn now(&self) -> u32;
    /// Where a client of a service port was last sent.
    fn affinity(&self, key: &AffinityKey<A>) -> Option<&Affinity<A>>;
    /// Remembers where a client of a service port was sent; may forget another client.
    fn remember_affinity(&self, key: &AffinityKey<A>, sent: &Affinity<A>);
    /// Whether a service port and an address, all bits of both counting, are in one of the source ranges.
    fn is_in_source_ranges(&self, source: &SourceRangeKey<A>) -> bool;
}

/// The table of sockets whose destinations were translated.
pub trait Sockets<A: Copy>: Clients<A> {
    /// What is known of a socket.
    fn socket(&self, key: &SocketKey<A>) -> Option<&Socket<A>>;
    /// Remembers it; may forget another one. False if the table refuses.
    fn remember(&self, key: &SocketKey<A>, socket: &Socket<A>) -> bool;
}

/// The maps, the clock and the kernel's own tables, for one address family and one hook.
pub trait Tables<A: Copy>: Clients<A> {
    /// Where this program runs. XDP passes on, unmodified, whatever it cannot finish; TC is complete.
    const HOOK: Hook;

    /// Index of the device that the packet came in by (ingress) or leaves by (egress).
    fn device_index(&self) -> u32;
    /// What is known of that device.
    fn device(&self) -> &Device;
    /// Whether packets to this destination may have a flow: [`Tables::note_destination`] was called for it once, or for others that
    /// together look like it. Cheaper than a lookup.
    fn may_have_flows(&self, key: &FlowKey<A>) -> bool;
    /// Notes, for ever, that packets to this destination may have a flow.
    fn note_destination(&self, key: &FlowKey<A>);
    /// What lies at one of the [`LINE_PLACES`] of this CPU for a tuple with this [`hash`](crate::select::hash); `None` if there are no lines.
    fn line(&self, hash: u32, place: u32) -> Option<&Line<A>>;
    /// The epoch of tuples with this hash: another one after each [`Tables::disturb`] of one of them, on any CPU.
    fn epoch(&self, hash: u32) -> u32;
    /// Makes all lines of a tuple useless, on all CPUs.
    fn disturb(&self, key: &FlowKey<A>);
    /// Whether packets to this destination may be for a front end: its address and its port, or others that together look like them, are
    /// noted. Cheaper than a lookup.
    fn may_be_frontend(&self, key: &FlowKey<A>) -> bool;
    /// Whether packets from this source may be replies that are translated at egress: [`Tables::note_reply`] was called for it once, or for
    /// others that together look like it. Cheaper than a lookup.
    fn may_be_reply(&self, key: &FlowKey<A>) -> bool;
    /// Notes, for ever, how replies are told: those that go past the stack by their destination, as others; those that are translated at
    /// egress by their source, a backend.
    fn note_reply(&self, key: &FlowKey<A>, at_egress: bool);
    /// An established flow's entry.
    fn flow(&self, key: &FlowKey<A>) -> Option<&Entry<A>>;
    /// A pending flow's entry.
    fn pending(&self, key: &FlowKey<A>) -> Option<&Entry<A>>;
    /// Inserts an established entry unless there is one.
    ///
    /// # Errors
    /// See [`InsertError`].
    fn add_flow(&self, key: &FlowKey<A>, entry: &Entry<A>) -> Result<(), InsertError>;
    /// Inserts a pending entry unless there is one; may evict another pending entry.
    ///
    /// # Errors
    /// See [`InsertError`].
    fn add_pending(&self, key: &FlowKey<A>, entry: &Entry<A>) -> Result<(), InsertError>;
    /// Removes an established entry. If it was not closed, its tuple has to be disturbed afterwards.
    fn remove_flow(&self, key: &FlowKey<A>);
    /// Removes a pending entry.
    fn remove_pending(&self, key: &FlowKey<A>);
    /// The ports of a fragmented datagram.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentPorts>;
    /// Remembers the ports of a fragmented datagram.
    fn remember_fragment(&self, key: &FragmentKey<A>, ports: &FragmentPorts);
    /// The next number of the sequence in which source ports towards a backend are tried.
    fn next_port_cursor(&self, bucket: u32) -> u32;
    /// Takes so many steps, as long as each says that there is to be another one. The verifier walks through one of them only.
    fn repeat(&self, times: u32, step: impl FnMut(u32) -> bool);
    /// Takes one ICMP error from this CPU's budget; false if it is used up.
    fn take_reject(&self) -> bool;
    /// Whether a connected socket of this host owns packets with this tuple (edge-cases J2, J3).
    fn host_owns(&self, key: &FlowKey<A>) -> bool;
    /// Whether packets can be handed to the other end of a device.
    fn has_peer(&self, device: u32) -> bool;
    /// Asks the kernel's routing tables.
    fn route(&self, query: &RouteQuery<A>, answer: &mut Route<A>);
}
