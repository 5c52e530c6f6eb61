//! What a CPU keeps of a busy flow's direction. When it is good, `path/line.rs` says.
//!
//! Invariant: a line is a cache line for IPv4 and two for IPv6, and only its own CPU reads or writes it.

use core::cell::Cell;

use nodeport_common::FlowKey;
#[cfg(doc)]
use nodeport_common::{Flow, NextHop};

#[cfg(doc)]
use super::Tables;
use crate::nat::Ends;
use crate::wire::Family;

/// Bits of [`LineOwner::flags`]: those of [`Flow::flags`] that say what becomes of packets, and others where the rest would stand.
pub mod line_flags {
    use nodeport_common::flow_flags;

    /// What a line has of its flow.
    pub const OF_FLOW: u8 = flow_flags::REPLY
        | flow_flags::AT_EGRESS
        | flow_flags::REDIRECT
        | flow_flags::LOCAL_BACKEND;
    /// XDP carried the packet of which the line was made. Without it: TC did, and XDP leaves the others to it as well.
    pub const BY_XDP: u8 = flow_flags::SEEN;
    /// Packets are handed to the other end of [`Line::device`](super::Line::device), see [`Action::Deliver`](crate::path::Action::Deliver).
    pub const TO_PEER: u8 = flow_flags::NODE_PORT;
}

/// What a CPU keeps of a busy flow's direction, see `path/line.rs`: a cache line for IPv4, two for IPv6.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Line<A: Copy> {
    /// Whose it is.
    pub owner: LineOwner<A>,
    /// Packets that the flow does not know of yet, in units of [`Line::PACKET`], and their bytes below.
    pub counts: Cell<u64>,
    /// The tuple's epoch ([`Tables::epoch`]) before its flow was looked up.
    pub epoch: Cell<u32>,
    /// Low 32 bits of jiffies when it was made.
    pub made: Cell<u32>,
    /// The generations that it is good for: the low half of that of routes, and above it that of endpoints, or zero if its flow stays with
    /// its endpoint.
    pub generations: Cell<u32>,
    /// See [`NextHop::device`].
    pub device: Cell<u32>,
    /// How its packets are rewritten.
    pub translation: Cell<Translation<A>>,
    /// See [`NextHop::destination_mac`] and [`NextHop::source_mac`].
    pub macs: Cell<[u8; 12]>,
}

impl<A: Copy> Line<A> {
    /// One packet in [`Line::counts`].
    pub const PACKET: u64 = 1 << 40;
    /// From here on, [`Line::counts`] is to be brought home before another packet is counted: 2^23 packets, of 64 KiB at most.
    pub const FULL: u64 = 1 << 63;
}

/// Places at which a tuple may have its line: the one that its hash names, and those beside it.
pub const LINE_PLACES: u32 = 4;

/// The ends that packets of a [`Line`] get. 12 bytes for IPv4, 36 for IPv6.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(4))]
pub struct Translation<A> {
    /// See [`Flow::source`].
    pub source: A,
    /// See [`Flow::destination`].
    pub destination: A,
    /// See [`Flow::source_port`].
    pub source_port: [u8; 2],
    /// See [`Flow::destination_port`].
    pub destination_port: [u8; 2],
}

impl<A> Translation<A> {
    /// How packets are rewritten.
    #[inline(always)]
    pub const fn ends(&self) -> Ends<'_, A> {
        Ends {
            source: &self.source,
            destination: &self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
        }
    }
}

/// The tuple of a [`Line`], and what there is room for beside it. 16 bytes for IPv4, 40 for IPv6.
#[derive(Debug, Default)]
#[repr(C, align(8))]
pub struct LineOwner<A: Copy> {
    /// See [`FlowKey::source`].
    pub source: Cell<A>,
    /// See [`FlowKey::destination`].
    pub destination: Cell<A>,
    /// See [`FlowKey::source_port`].
    pub source_port: Cell<[u8; 2]>,
    /// See [`FlowKey::destination_port`].
    pub destination_port: Cell<[u8; 2]>,
    /// See [`FlowKey::protocol`]; 0 in a line of no flow.
    pub protocol: Cell<u8>,
    /// Bits of [`line_flags`].
    pub flags: Cell<u8>,
    /// See [`NextHop::mtu`].
    pub mtu: Cell<u16>,
}

impl<A: Family> LineOwner<A> {
    /// Whether this is its tuple.
    #[inline(always)]
    pub fn is(&self, key: &FlowKey<A>) -> bool {
        self.source.get() == key.source
            && self.destination.get() == key.destination
            && self.source_port.get() == key.source_port
            && self.destination_port.get() == key.destination_port
            && self.protocol.get() == key.protocol
    }

    /// Makes this its tuple.
    #[inline(always)]
    pub fn set(&self, key: &FlowKey<A>) {
        self.source.set(key.source);
        self.destination.set(key.destination);
        self.source_port.set(key.source_port);
        self.destination_port.set(key.destination_port);
        self.protocol.set(key.protocol);
    }

    /// Writes its tuple.
    #[inline(always)]
    pub fn write(&self, key: &mut FlowKey<A>) {
        self.source.get().copy_to(&mut key.source);
        self.destination.get().copy_to(&mut key.destination);
        key.source_port = self.source_port.get();
        key.destination_port = self.destination_port.get();
        key.protocol = self.protocol.get();
        key.pad = [0; 3];
    }

    /// Whether all of `bits` of [`line_flags`] are set.
    #[inline(always)]
    pub fn has(&self, bits: u8) -> bool {
        self.flags.get() & bits == bits
    }
}

const _: () = {
    assert!(size_of::<Line<nodeport_common::V4>>() == 64);
    assert!(size_of::<Line<nodeport_common::V6>>() == 128);
};
