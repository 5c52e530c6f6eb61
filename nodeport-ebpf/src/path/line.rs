//! The line cache: what a packet of a busy flow needs, in one or two cache lines of this CPU's own, in front of the table of flows.
//!
//! Owns when a line is good. Refuses to know where lines lie. A lookup in the table of flows touches four cache lines and dirties one that
//! all CPUs share; a line is all there is to touch.
//!
//! Invariants: a line is made from an established flow of which no FIN and no RST was seen, and is good for a second at most, in the route
//! generation and (UDP) the endpoint generation in which the flow was judged. Whatever else ends a flow or changes what becomes of its
//! packets disturbs its tuple ([`Tables::disturb`]), after the change: a line is made with the tuple's epoch as it was before the flow was
//! looked up, so it either saw the change or is not good. FIN, SYN and RST always go to the flow.

use nodeport_common::{Control, FlowKey, Hook, NextHop, Outcome, flow_flags, protocol, tcp_flags};

use super::known::outcome;
use super::{Action, Stop, Verdict};
use crate::nat;
use crate::packet::Packet;
use crate::scratch::Scratch;
use crate::select;
use crate::tables::{Entry, Line, LineOwner, Tables, Translation, Which};
use crate::wire::parse::Segment;
use crate::wire::{Family, tcp};

/// Packets of one direction of a flow before it gets a line: what short flows sent is always in their counters.
const BUSY: u64 = 16;
/// Seconds without a packet after which a flow is not busy any more. Flows that idled for long may be expired at any moment, and then have
/// no line; the shortest lifetime is longer than this.
const PAUSE_SECS: u32 = 2;
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
    let Some((line, owner)) = find(tables, scratch.hash, &segment.key) else {
        return Ok(None);
    };
    if line.epoch.get() != scratch.epoch
        || tables.now().wrapping_sub(line.made.get()) > control.hz
        || line.generations.get() != generations(&owner, control)
        || !suits(&owner, segment)
        || line.counts.get() >= Line::<A>::FULL
    {
        return Ok(None);
    }
    let length = u64::from(segment.headers.length);
    let forwards = owner.flags & flow_flags::REDIRECT != 0;
    nat::translate(packet, segment, line.translation.get().ends(), forwards)
        .ok_or(Stop::Drop(Outcome::RewriteFailed))?;
    let counts = line.counts.get();
    line.counts.set(counts + Line::<A>::PACKET + length);
    let outcome = outcome(owner.flags, forwards);
    if !forwards {
        return Ok(Some(Verdict::pass(outcome)));
    }
    *packet
        .window::<12>(0)
        .ok_or(Stop::Drop(Outcome::RewriteFailed))? = line.macs.get();
    Ok(Some(Verdict {
        outcome,
        action: Action::Transmit,
        device: line.device.get(),
    }))
}

/// The line of a tuple, and what it says of its owner.
#[inline(always)]
fn find<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    hash: u32,
    key: &FlowKey<A>,
) -> Option<(&'t Line<A>, LineOwner<A>)> {
    let line = tables.line(hash, Which::Own)?;
    let owner = line.owner.get();
    if owner.is(key) {
        return Some((line, owner));
    }
    let line = tables.line(hash, Which::Other)?;
    let owner = line.owner.get();
    owner.is(key).then_some((line, owner))
}

/// The generations in which a line is good.
#[inline(always)]
fn generations<A>(owner: &LineOwner<A>, control: &Control) -> u32 {
    both(owner, control.route_generation, control.endpoint_generation)
}

/// Their low halves in one word: a line does not live for 65,536 generations. Only datagrams of clients are judged by endpoints, and who goes
/// through the stack has no next hop.
#[inline(always)]
const fn both<A>(owner: &LineOwner<A>, routes: u32, endpoints: u32) -> u32 {
    let routes = if owner.flags & flow_flags::REDIRECT == 0 {
        0
    } else {
        routes & 0xffff
    };
    if owner.protocol == protocol::UDP && owner.flags & flow_flags::REPLY == 0 {
        routes | endpoints << 16
    } else {
        routes
    }
}

/// Whether the packet needs nothing but what a line says.
#[inline(always)]
fn suits<A: Family>(owner: &LineOwner<A>, segment: &Segment<A>) -> bool {
    let headers = &segment.headers;
    let fits = headers.ttl > 1 && headers.length <= u32::from(owner.mtu);
    segment.tcp & JUDGED == 0 && (fits || owner.flags & flow_flags::REDIRECT == 0)
}

/// After a packet of an established flow was carried the long way: brings what its line counted to the flow, and makes it a line if it is
/// busy and the place is free. A live line of another flow stays: it is worth more than one that would change hands with each packet.
/// `seen` is when the flow knew of a packet before this one.
#[inline(always)]
pub(super) fn refresh<A: Family, T: Tables<A>>(
    tables: &T,
    scratch: &mut Scratch<A>,
    entry: &Entry<A>,
    seen: u32,
) {
    let Scratch {
        segment,
        other,
        hash,
        epoch,
        ..
    } = scratch;
    let (now, hz) = (tables.now(), tables.control().hz);
    let mut place = None;
    for which in [Which::Own, Which::Other] {
        let Some(line) = tables.line(*hash, which) else {
            return;
        };
        if line.owner.get().is(&segment.key) {
            place = Some(line);
            break;
        }
        if place.is_none() && is_free(line, now, hz) {
            place = Some(line);
        }
    }
    let Some(line) = place else {
        return;
    };
    let owner = line.owner.get();
    if owner.is(&segment.key) {
        settle(line, entry);
        // Made again below, or not at all.
        line.owner.set(LineOwner::default());
    } else if line.counts.get() != 0 {
        owner.write(other);
        if let Some(owner) = tables.flow(other) {
            settle(line, owner);
        }
    }
    let is_busy =
        entry.packets.get() >= BUSY && now.wrapping_sub(seen) <= hz.wrapping_mul(PAUSE_SECS);
    // In generic mode, a flow may lead to a device that takes no such frames from an uplink in native mode.
    let flags = entry.flags.get() & (flow_flags::REDIRECT | flow_flags::XDP_TARGET);
    let is_xdps = flags != flow_flags::REDIRECT;
    if is_busy && entry.tcp.get() & CLOSING == 0 && is_xdps {
        line.epoch.set(*epoch);
        line.made.set(now);
        make(line, &segment.key, entry);
    }
}

/// Whether a line is nobody's any more.
#[inline(always)]
fn is_free<A: Family>(line: &Line<A>, now: u32, hz: u32) -> bool {
    line.owner.get().protocol == 0 || now.wrapping_sub(line.made.get()) > hz
}

#[inline(always)]
fn make<A: Family>(line: &Line<A>, key: &FlowKey<A>, entry: &Entry<A>) {
    let NextHop {
        generation,
        device,
        mtu,
        destination_mac: [d0, d1, d2, d3, d4, d5],
        source_mac: [s0, s1, s2, s3, s4, s5],
        ..
    } = entry.next_hop.get();
    let owner = LineOwner {
        source: key.source,
        destination: key.destination,
        source_port: key.source_port,
        destination_port: key.destination_port,
        protocol: key.protocol,
        flags: entry.flags.get(),
        mtu,
    };
    // As the flow has them: it was judged by these.
    let endpoints = entry.endpoint_generation.get();
    line.generations.set(both(&owner, generation, endpoints));
    line.counts.set(0);
    line.device.set(device);
    line.translation.set(Translation {
        source: entry.source,
        destination: entry.destination,
        source_port: entry.source_port,
        destination_port: entry.destination_port,
    });
    line.macs
        .set([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]);
    line.owner.set(owner);
}

/// Brings a line's counts to its flow.
#[inline(always)]
fn settle<A: Family>(line: &Line<A>, entry: &Entry<A>) {
    let counts = line.counts.take();
    let bytes = counts & (Line::<A>::PACKET - 1);
    entry
        .packets
        .set(entry.packets.get() + counts / Line::<A>::PACKET);
    entry.bytes.set(entry.bytes.get() + bytes);
}
