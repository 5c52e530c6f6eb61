//! The line cache: what a packet of a busy flow needs, in one or two cache lines of this CPU's own, in front of the table of flows.
//!
//! Owns when a line is good. Refuses to know where lines lie. A lookup in the table of flows touches four cache lines and dirties one that
//! all CPUs share; a line is all there is to touch.
//!
//! Invariants: a line is made from an established flow of which no FIN and no RST was seen, and is good for a second at most, in the route
//! generation and (UDP) the endpoint generation in which the flow was judged. Whatever else ends a flow or changes what becomes of its
//! packets disturbs its tuple ([`Tables::disturb`]), after the change: a line is made with the tuple's epoch as it was before the flow was
//! looked up, so it either saw the change or is not good. FIN, SYN and RST always go to the flow.

use nodeport_common::{
    Control, FlowKey, Hook, NextHop, Outcome, device_flags, flow_flags, protocol, tcp_flags,
};

use super::known::outcome;
use super::{Action, Stop, Verdict, handover};
use crate::nat;
use crate::packet::Packet;
use crate::scratch::Scratch;
use crate::select;
use crate::tables::{Entry, LINE_PLACES, Line, LineOwner, Tables, Translation, line_flags};
use crate::wire::parse::Segment;
use crate::wire::{Family, Fragment, tcp};

/// Packets of one direction of a flow before it gets a line: what short flows sent is always in their counters.
const BUSY: u64 = 16;
/// Seconds without a packet after which a flow is not busy any more. Flows that idled for long may be expired at any moment, and then have
/// no line; the shortest lifetime is longer than this.
const PAUSE_SECS: u32 = 2;
/// What in a TCP header, or in a flow's state, only the flow itself can judge.
const JUDGED: u8 = tcp::FIN | tcp::SYN | tcp::RST;
const CLOSING: u8 = tcp_flags::CLOSED | tcp_flags::RST;

/// Carries the packet if there is a good line for it.
///
/// # Errors
/// The packet could not be rewritten, or is another hook's to carry.
#[inline(always)]
pub(super) fn carry<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch<A>,
) -> Result<Option<Verdict>, Stop> {
    let control = tables.control();
    scratch.hash = select::hash(&scratch.segment.key, control.seed);
    // Before the flow is looked up, see the invariants.
    scratch.epoch = tables.epoch(scratch.hash);
    let segment = &scratch.segment;
    let Some(line) = find(tables, scratch.hash, &segment.key) else {
        return Ok(None);
    };
    let owner = &line.owner;
    if line.epoch.get() != scratch.epoch
        || tables.now().wrapping_sub(line.made.get()) > control.hz
        || line.generations.get() != generations(owner, control)
        || !suits(tables, owner, segment)
        || line.counts.get() >= Line::<A>::FULL
        || !is_for_this_hook(tables, owner)
    {
        return Ok(None);
    }
    if T::HOOK != Hook::TcEgress && owner.has(flow_flags::AT_EGRESS) {
        return Err(Outcome::AwaitsEgress.into());
    }
    let is_tcs = T::HOOK == Hook::Xdp && !owner.has(line_flags::BY_XDP);
    if is_tcs && !handover::leave(packet, tables, line) {
        return Err(Outcome::LeftToTc.into());
    }
    let length = u64::from(segment.headers.length);
    let forwards = owner.has(flow_flags::REDIRECT);
    nat::translate(packet, segment, line.translation.get().ends(), forwards)
        .ok_or(Stop::Drop(Outcome::RewriteFailed))?;
    let counts = line.counts.get();
    line.counts.set(counts + Line::<A>::PACKET + length);
    if is_tcs {
        return Ok(Some(Verdict::pass(Outcome::LeftToTc)));
    }
    let outcome = outcome(owner.flags.get(), forwards);
    if !forwards {
        return Ok(Some(Verdict::pass(outcome)));
    }
    *packet
        .window::<12>(0)
        .ok_or(Stop::Drop(Outcome::RewriteFailed))? = line.macs.get();
    let action = if T::HOOK == Hook::TcIngress && owner.has(line_flags::TO_PEER) {
        Action::Deliver
    } else {
        Action::Transmit
    };
    Ok(Some(Verdict {
        outcome,
        action,
        device: line.device.get(),
    }))
}

/// Whether a packet's line says what becomes of it here. At egress only what is translated there is ours; XDP in generic mode does what it cannot
/// do in native mode.
#[inline(always)]
fn is_for_this_hook<A: Family, T: Tables<A>>(tables: &T, owner: &LineOwner<A>) -> bool {
    match T::HOOK {
        Hook::TcEgress => owner.has(flow_flags::AT_EGRESS),
        Hook::Xdp => {
            owner.has(line_flags::BY_XDP) || tables.device().flags & device_flags::XDP_GENERIC == 0
        }
        _ => true,
    }
}

/// The line of a tuple.
#[inline(always)]
fn find<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    hash: u32,
    key: &FlowKey<A>,
) -> Option<&'t Line<A>> {
    for place in 0..LINE_PLACES {
        let line = tables.line(hash, place)?;
        if line.owner.is(key) {
            return Some(line);
        }
    }
    None
}

/// The generations in which a line is good.
#[inline(always)]
fn generations<A: Family>(owner: &LineOwner<A>, control: &Control) -> u32 {
    both(owner, control.route_generation, control.endpoint_generation)
}

/// Their low halves in one word: a line does not live for 65,536 generations. Only datagrams of clients are judged by endpoints, and who goes
/// through the stack has no next hop.
#[inline(always)]
fn both<A: Family>(owner: &LineOwner<A>, routes: u32, endpoints: u32) -> u32 {
    let routes = if owner.has(flow_flags::REDIRECT) {
        routes & 0xffff
    } else {
        0
    };
    if owner.protocol.get() == protocol::UDP && !owner.has(flow_flags::REPLY) {
        routes | endpoints << 16
    } else {
        routes
    }
}

/// Whether the packet needs nothing but what a line says.
#[inline(always)]
fn suits<A: Family, T: Tables<A>>(tables: &T, owner: &LineOwner<A>, segment: &Segment<A>) -> bool {
    let headers = &segment.headers;
    // To XDP there is Ethernet everywhere, and no fragment came so far.
    let is_xdp = T::HOOK == Hook::Xdp;
    let is_whole = is_xdp || headers.fragment == Fragment::Whole;
    let has_ethernet = is_xdp || tables.device().flags & device_flags::NO_ETHERNET == 0;
    let fits = headers.ttl > 1 && headers.length <= u32::from(owner.mtu.get()) && has_ethernet;
    segment.tcp & JUDGED == 0 && is_whole && (fits || !owner.has(flow_flags::REDIRECT))
}

/// After a packet of an established flow was carried the long way: brings what its line counted to the flow, and makes it a line if it is
/// busy and the place is free. A live line of another flow stays: it is worth more than one that would change hands with each packet.
/// `seen` is when the flow knew of a packet before this one, `action` what becomes of this one.
#[inline(never)]
pub(super) fn refresh<A: Family, T: Tables<A>>(
    tables: &T,
    scratch: &mut Scratch<A>,
    entry: &Entry<A>,
    seen: u32,
    action: Action,
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
    for at in 0..LINE_PLACES {
        let Some(line) = tables.line(*hash, at) else {
            return;
        };
        if line.owner.is(&segment.key) {
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
    let owner = &line.owner;
    if owner.is(&segment.key) {
        // Of a datagram that XDP left to TC, a fragment: the others are to go on by XDP.
        if T::HOOK != Hook::Xdp && owner.has(line_flags::BY_XDP) && !is_free(line, now, hz) {
            return;
        }
        settle(line, entry);
        // Made again below, or not at all.
        owner.protocol.set(0);
    } else if line.counts.get() != 0 {
        owner.write(other);
        if let Some(owner) = tables.flow(other) {
            settle(line, owner);
        }
    }
    let is_busy =
        entry.packets.get() >= BUSY && now.wrapping_sub(seen) <= hz.wrapping_mul(PAUSE_SECS);
    if is_busy && entry.tcp.get() & CLOSING == 0 && may_have_line::<A, T>(entry.flags.get()) {
        line.epoch.set(*epoch);
        line.made.set(now);
        make(
            line,
            &segment.key,
            entry,
            flags::<A, T>(entry.flags.get(), action),
        );
    }
}

/// Whether what was done with a packet of a flow with these flags is what other programs of this hook would have done with it: in generic mode, XDP
/// sends to devices that take no such frames from an uplink in native mode.
#[inline(always)]
fn may_have_line<A: Copy, T: Tables<A>>(flags: u8) -> bool {
    T::HOOK != Hook::Xdp
        || flags & (flow_flags::REDIRECT | flow_flags::XDP_TARGET) != flow_flags::REDIRECT
}

/// [`line_flags`] for a line of a flow with these flags, after this became of a packet.
#[inline(always)]
fn flags<A: Copy, T: Tables<A>>(flow: u8, action: Action) -> u8 {
    let hook = if T::HOOK == Hook::Xdp {
        line_flags::BY_XDP
    } else {
        0
    };
    let peer = if action == Action::Deliver {
        line_flags::TO_PEER
    } else {
        0
    };
    flow & line_flags::OF_FLOW | hook | peer
}

/// Whether a line is nobody's any more.
#[inline(always)]
fn is_free<A: Family>(line: &Line<A>, now: u32, hz: u32) -> bool {
    line.owner.protocol.get() == 0 || now.wrapping_sub(line.made.get()) > hz
}

#[inline(always)]
fn make<A: Family>(line: &Line<A>, key: &FlowKey<A>, entry: &Entry<A>, flags: u8) {
    let NextHop {
        generation,
        device,
        mtu,
        destination_mac: [d0, d1, d2, d3, d4, d5],
        source_mac: [s0, s1, s2, s3, s4, s5],
        ..
    } = entry.next_hop.get();
    let owner = &line.owner;
    owner.set(key);
    owner.flags.set(flags);
    owner.mtu.set(mtu);
    // As the flow has them: it was judged by these.
    let endpoints = entry.endpoint_generation.get();
    line.generations.set(both(owner, generation, endpoints));
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
