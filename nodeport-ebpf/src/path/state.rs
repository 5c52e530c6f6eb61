//! What is remembered of a packet that was carried: counts, time, and the state of a TCP connection in each direction.
//!
//! Invariant: a closed connection's late packets do not prolong its life (edge-cases B2), and a RST alone ends nothing (B5).

use nodeport_common::{FlowKey, flow_flags, tcp_flags};

use crate::tables::{Entry, Tables};
use crate::wire::parse::Segment;
use crate::wire::{Family, tcp};

/// Whether a connection is over: both FINs, or a RST after which nothing came.
#[inline(always)]
pub(crate) const fn is_closed(tcp: u8) -> bool {
    tcp & tcp_flags::CLOSED == tcp_flags::CLOSED || tcp & tcp_flags::RST != 0
}

/// Counts the packet and notes what it says about the connection's state.
#[inline(always)]
pub(super) fn account<A: Family, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    other: &mut FlowKey<A>,
    entry: &Entry<A>,
) {
    entry.packets.set(entry.packets.get() + 1);
    entry
        .bytes
        .set(entry.bytes.get() + u64::from(segment.headers.length));
    entry.set(flow_flags::SEEN);
    let before = entry.tcp.get();
    let changes_state = segment.tcp & (tcp::FIN | tcp::SYN | tcp::RST) != 0
        || before & tcp_flags::RST != 0 && segment.tcp != 0;
    let state = if changes_state {
        observe(tables, segment, other, entry)
    } else {
        before
    };
    // A closed connection's late packets do not prolong its life (B2).
    if state & tcp_flags::CLOSED != tcp_flags::CLOSED {
        let now = tables.now();
        if entry.last_seen.get() != now {
            entry.last_seen.set(now);
        }
    }
}

/// FIN, SYN, RST, and the first packet after a RST: rare, so they may look up the other entry to keep both in step.
#[inline(always)]
fn observe<A: Family, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    other: &mut FlowKey<A>,
    entry: &Entry<A>,
) -> u8 {
    let mut own = entry.tcp.get() & !tcp_flags::RST;
    let mut peer = 0;
    if segment.tcp & tcp::RST != 0 {
        own |= tcp_flags::RST;
        peer |= tcp_flags::RST;
    }
    if segment.tcp & tcp::FIN != 0 {
        own |= tcp_flags::FIN;
        peer |= tcp_flags::PEER_FIN;
    }
    if segment.tcp & tcp::SYN != 0 {
        own |= tcp_flags::SYN;
    }
    entry.tcp.set(own);
    entry.pair(segment.key.protocol, other);
    if let Some(pair) = tables.flow(other).or_else(|| tables.pending(other)) {
        pair.tcp.set(pair.tcp.get() & !tcp_flags::RST | peer);
    }
    // A line would hide from the flow what follows, on whatever CPU.
    if segment.tcp & (tcp::FIN | tcp::RST) != 0 {
        tables.disturb(&segment.key);
        tables.disturb(other);
    }
    own
}
