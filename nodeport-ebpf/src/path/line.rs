//! The line cache: what a packet of a busy flow needs, in one or two cache lines of this CPU's own, in front of the table of flows.
//!
//! Owns when a line is good. Refuses to know where lines lie. A lookup in the table of flows touches four cache lines and dirties one that
//! all CPUs share; a line is all there is to touch.
//!
//! Invariants: a line is made from an established flow of which no FIN and no RST was seen, and is good for a second at most, in the route
//! generation and (UDP) the endpoint generation it was made in. Whatever else ends a flow or changes what becomes of its packets disturbs
//! its tuple ([`Tables::disturb`]), after the change: a line is made with the tuple's epoch as it was before the flow was looked up, so it
//! either saw the change or is not good. FIN, SYN and RST always go to the flow.

use nodeport_common::{Control, FlowKey, Hook, Outcome, flow_flags, protocol, tcp_flags};

use super::{Action, Stop, Verdict};
use crate::nat;
use crate::packet::Packet;
use crate::scratch::Scratch;
use crate::select;
use crate::tables::{Entry, Line, Tables};
use crate::wire::parse::Segment;
use crate::wire::{Family, tcp};

/// Packets of one direction of a flow before it gets a line: what short flows sent is always in their counters.
const BUSY: u64 = 64;
/// Bytes of a line that are brought to its flow at the latest. A packet has less than as many again.
const BYTES_MAX: u32 = 1 << 31;
/// What in a TCP header, or in a flow's state, only the flow itself can judge.
const JUDGED: u8 = tcp::FIN | tcp::SYN | tcp::RST;
const CLOSING: u8 = tcp_flags::CLOSED | tcp_flags::RST;

/// Carries the packet if there is a good line for it. XDP only: elsewhere the packet costs many times more.
///
/// # Errors
/// The packet could not be rewritten.
#[inline(always)]
pub(super) fn carry<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch<A>,
) -> Result<Option<Verdict>, Stop> {
    if T::HOOK != Hook::Xdp {
        return Ok(None);
    }
    let control = tables.control();
    scratch.hash = select::hash(&scratch.segment.key, control.seed);
    // Before the flow is looked up, see the invariants.
    scratch.epoch = tables.epoch(scratch.hash);
    let segment = &scratch.segment;
    let Some(line) = tables.line(scratch.hash) else {
        return Ok(None);
    };
    if !line.is_of(&segment.key)
        || line.epoch.get() != scratch.epoch
        || !is_good(line, control, tables.now(), segment)
    {
        return Ok(None);
    }
    let length = segment.headers.length;
    nat::translate(packet, segment, &line.translation(), true)
        .ok_or(Stop::Drop(Outcome::RewriteFailed))?;
    line.packets.set(line.packets.get() + 1);
    line.bytes.set(line.bytes.get() + length);
    let addresses = packet
        .window::<12>(0)
        .ok_or(Stop::Drop(Outcome::RewriteFailed))?;
    let [d0, d1, d2, d3, d4, d5] = line.destination_mac.get();
    let [s0, s1, s2, s3, s4, s5] = line.source_mac.get();
    *addresses = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5];
    let is_reply = line.flags.get() & flow_flags::REPLY != 0;
    Ok(Some(Verdict {
        outcome: if is_reply {
            Outcome::ReplyRedirected
        } else {
            Outcome::ToRemoteBackend
        },
        action: Action::Transmit,
        device: line.device.get(),
    }))
}

/// Whether a line is of these generations and of this second, and the packet needs nothing but what it says.
#[inline(always)]
fn is_good<A: Family>(line: &Line<A>, control: &Control, now: u32, segment: &Segment<A>) -> bool {
    let headers = &segment.headers;
    now.wrapping_sub(line.made.get()) <= control.hz
        && line.route_generation.get() == control.route_generation as u16
        && (headers.protocol == protocol::TCP
            || line.endpoint_generation.get() == control.endpoint_generation as u16)
        && segment.tcp & JUDGED == 0
        && headers.ttl > 1
        && headers.length <= u32::from(line.mtu.get())
        && line.bytes.get() < BYTES_MAX
}

/// After a packet of an established flow was carried the long way: brings what its line counted to the flow, and makes it a line if it is
/// busy and the place is free. A live line of another flow stays: it is worth more than one that would change hands with each packet.
#[inline(always)]
pub(super) fn refresh<A: Family, T: Tables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    other: &mut FlowKey<A>,
    hash: u32,
    epoch: u32,
    entry: &Entry<A>,
) {
    let Some(line) = tables.line(hash) else {
        return;
    };
    let now = tables.now();
    if line.is_of(key) {
        settle(line, entry);
        // Made again below, or not at all.
        line.protocol.set(0);
    } else if line.protocol.get() != 0 {
        if now.wrapping_sub(line.made.get()) <= tables.control().hz {
            return;
        }
        line.write_key(other);
        if let Some(owner) = tables.flow(other) {
            settle(line, owner);
        }
    }
    if entry.packets.get() >= BUSY && entry.tcp.get() & CLOSING == 0 {
        make(line, key, epoch, now, entry);
    }
}

#[inline(always)]
fn make<A: Family>(line: &Line<A>, key: &FlowKey<A>, epoch: u32, now: u32, entry: &Entry<A>) {
    let hop = entry.next_hop.get();
    line.set_key(key);
    line.flags.set(entry.flags.get());
    line.mtu.set(hop.mtu);
    line.epoch.set(epoch);
    line.made.set(now);
    // As the flow has them: it was judged by these.
    line.route_generation.set(hop.generation as u16);
    line.endpoint_generation
        .set(entry.endpoint_generation.get() as u16);
    line.device.set(hop.device);
    line.packets.set(0);
    line.bytes.set(0);
    line.new_source.set(entry.source);
    line.new_destination.set(entry.destination);
    line.new_source_port.set(entry.source_port);
    line.new_destination_port.set(entry.destination_port);
    line.destination_mac.set(hop.destination_mac);
    line.source_mac.set(hop.source_mac);
}

/// Brings a line's counts to its flow.
#[inline(always)]
fn settle<A: Family>(line: &Line<A>, entry: &Entry<A>) {
    let (packets, bytes) = (line.packets.take(), line.bytes.take());
    entry.packets.set(entry.packets.get() + u64::from(packets));
    entry.bytes.set(entry.bytes.get() + u64::from(bytes));
}
