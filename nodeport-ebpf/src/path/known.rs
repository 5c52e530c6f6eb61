//! Packets of a flow that is known: is it still that flow, and does its third leg establish it?
//!
//! Invariant: nothing of the packet is changed before all that can fail without a change has been done, so that "goes on unmodified"
//! is always possible up to the rewrite.

use nodeport_common::{
    FlowKey, FragmentPorts, FrontendKey, Outcome, ServingKey, flow_flags, protocol,
};

use super::way::{send, way};
use super::{Action, Stop, Verdict, line, opening, state};
use crate::nat::{self, ports};
use crate::packet::Packet;
use crate::scratch::Scratch;
use crate::tables::{Entry, InsertError, Tables};
use crate::wire::parse::Segment;
use crate::wire::{Family, Fragment, tcp};

/// Removes both entries of a flow, which has closed or whose tuples are disturbed afterwards. `pair` is overwritten with the key of the other one.
#[inline(always)]
pub(crate) fn forget<A: Family, T: Tables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    pair: &mut FlowKey<A>,
    entry: &Entry<A>,
    established: bool,
) {
    entry.pair(key.protocol, pair);
    if established {
        tables.remove_flow(pair);
        tables.remove_flow(key);
    } else {
        // The other half may have been evicted, and its key be another flow's by now (B7).
        if tables
            .pending(pair)
            .is_some_and(|other| leads_to(other, key))
        {
            tables.remove_pending(pair);
        }
        tables.remove_pending(key);
    }
}

/// Makes sure that a packet from a backend, whose tuple has the entry of replies, is a reply.
///
/// # Errors
/// A SYN opens a connection of its own, whatever its tuple says (A10). A SYN with ACK after a connection is over answers a SYN that did not
/// pass by here: the client has gone on to talk to the backend itself, from the same port, and the flow is forgotten. Both go on unmodified.
#[inline(always)]
pub(super) fn replies<A: Family, T: Tables<A>>(
    tables: &T,
    scratch: &mut Scratch<A>,
    entry: &Entry<A>,
    established: bool,
) -> Result<(), Outcome> {
    let Scratch { segment, other, .. } = scratch;
    if segment.tcp & tcp::SYN == 0 {
        return Ok(());
    }
    if tcp::opens(segment.tcp) {
        return Err(Outcome::Untouched);
    }
    if tcp::answers(segment.tcp) && state::is_closed(entry.tcp.get()) {
        forget(tables, &segment.key, other, entry, established);
        return Err(Outcome::Untouched);
    }
    Ok(())
}

/// Whether the packet begins something new although its tuple has a flow; then the flow is forgotten. That is a new SYN on a closed
/// connection (B1), a retransmitted SYN without an answer after endpoints changed (B11), a datagram to an endpoint that no longer serves
/// (behaviours 17.3).
///
/// # Errors
/// What is no reply, see [`replies`], and a connection of kube-proxy's, which is not ours: both go on unmodified.
#[inline(always)]
pub(super) fn is_over<A: Family, T: Tables<A>>(
    tables: &T,
    scratch: &mut Scratch<A>,
    entry: &Entry<A>,
    established: bool,
) -> Result<bool, Outcome> {
    let flags = entry.flags.get();
    let opens = tcp::opens(scratch.segment.tcp);
    match flags & (flow_flags::REPLY | flow_flags::FOREIGN) {
        0 => {}
        flow_flags::REPLY => {
            return replies(tables, scratch, entry, established).map(|()| false);
        }
        // A client that begins anew with the ports of a connection of kube-proxy's.
        flow_flags::FOREIGN if opens => {
            tables.remove_flow(&scratch.segment.key);
            return Ok(true);
        }
        _ => return Err(Outcome::Untouched),
    }
    let Scratch {
        segment,
        other,
        frontend,
        serving,
        ..
    } = scratch;
    let generation = tables.control().endpoint_generation;
    let outdated = entry.endpoint_generation.get() != generation;
    let over = if opens {
        state::is_closed(entry.tcp.get())
            || !established && outdated && !is_answered(tables, segment, other, entry)
    } else if segment.key.protocol == protocol::UDP && outdated {
        entry.endpoint_generation.set(generation);
        is_stale(tables, &segment.key, frontend, serving, entry)
    } else {
        false
    };
    if over {
        forget(tables, &segment.key, other, entry, established);
        // A datagram's flow may have lines in the other direction.
        tables.disturb(&segment.key);
        tables.disturb(other);
    }
    Ok(over)
}

/// Whether a pending flow has seen a reply.
#[inline(always)]
fn is_answered<A: Family, T: Tables<A>>(
    tables: &T,
    segment: &Segment<A>,
    other: &mut FlowKey<A>,
    entry: &Entry<A>,
) -> bool {
    entry.pair(segment.key.protocol, other);
    tables
        .pending(other)
        .is_some_and(|pair| pair.is(flow_flags::SEEN))
}

/// Behaviours 17.3-17.5: stale if the front end has serving endpoints and this flow's is none of them.
#[inline(always)]
fn is_stale<A: Family, T: Tables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    wanted: &mut FrontendKey<A>,
    serving: &mut ServingKey<A>,
    entry: &Entry<A>,
) -> bool {
    opening::find(tables, key, wanted).is_some_and(|frontend| {
        serving.service = frontend.service;
        serving.address = entry.destination;
        serving.port = entry.destination_port;
        serving.pad = [0; 2];
        frontend.serving > 0 && !tables.serves(serving)
    })
}

/// A packet of a pending flow: its third leg (the client speaks again after a reply) moves it to the established table. `None` if the
/// flow's source port went to another flow meanwhile: then this is a new flow.
///
/// # Errors
/// The established table is full: the packet is dropped, and the flow stays pending.
#[inline(always)]
pub(super) fn advance<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    scratch: &mut Scratch<A>,
    entry: &'t Entry<A>,
) -> Result<Option<&'t Entry<A>>, Stop> {
    let Scratch {
        segment,
        other: pair_key,
        entry: blank,
        ..
    } = scratch;
    if entry.is(flow_flags::REPLY) {
        return Ok(Some(entry));
    }
    let key = &segment.key;
    entry.pair(key.protocol, pair_key);
    let Some(pair) = tables.pending(pair_key) else {
        // Promoted by another CPU just now, or evicted on its own (B7): then it is made again.
        if let Some(entry) = tables.flow(key) {
            return Ok(Some(entry));
        }
        opening::write_reply(tables, key, entry.flags.get(), blank);
        if ports::claim(tables, pair_key, blank, false).is_ok() {
            return Ok(Some(entry));
        }
        tables.remove_pending(key);
        return Ok(None);
    };
    if !leads_to(pair, key) {
        tables.remove_pending(key);
        return Ok(None);
    }
    if tcp::opens(segment.tcp) || !pair.is(flow_flags::SEEN) {
        return Ok(Some(entry));
    }
    let is_full = tables.add_flow(pair_key, pair) == Err(InsertError::Full);
    if is_full || tables.add_flow(key, entry) == Err(InsertError::Full) {
        if !is_full {
            tables.remove_flow(pair_key);
            tables.disturb(pair_key);
        }
        return Err(Stop::Drop(Outcome::FlowTableFull));
    }
    tables.remove_pending(key);
    tables.remove_pending(pair_key);
    tables
        .flow(key)
        .map(Some)
        .ok_or(Stop::Drop(Outcome::FlowConflict))
}

/// Whether an entry, found where `key`'s says its other half is, translates to the reverse of `key`: whether it is that half.
#[inline(always)]
fn leads_to<A: Family>(other: &Entry<A>, key: &FlowKey<A>) -> bool {
    other.destination == key.source
        && other.source == key.destination
        && other.destination_port == key.source_port
        && other.source_port == key.destination_port
}

/// What becomes of a packet of a flow with these flags.
#[inline(always)]
pub(super) const fn outcome(flags: u8, forwards: bool) -> Outcome {
    match (flags & flow_flags::REPLY != 0, forwards) {
        (true, true) => Outcome::ReplyRedirected,
        (true, false) => Outcome::ReplyFromStack,
        (false, _) if flags & flow_flags::LOCAL_BACKEND != 0 => Outcome::ToLocalBackend,
        (false, true) => Outcome::ToRemoteBackend,
        (false, false) => Outcome::ToRoutedBackend,
    }
}

/// Carries a packet of a flow: rewrites it, notes what was seen, and sends it on its way. One of an established flow may leave a line.
#[inline(always)]
pub(super) fn carry<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch<A>,
    entry: &Entry<A>,
) -> Result<Verdict, Stop> {
    let way = way(packet, tables, scratch, entry)?;
    let Scratch {
        segment,
        other,
        fragment,
        ..
    } = &mut *scratch;
    let headers = &segment.headers;
    if headers.fragment == Fragment::First {
        let ports = FragmentPorts {
            source_port: segment.key.source_port,
            destination_port: segment.key.destination_port,
            seen: tables.now(),
        };
        headers.fragment_key(fragment);
        tables.remember_fragment(fragment, &ports);
    }
    nat::translate(packet, segment, entry.ends(), way.forwards())
        .ok_or(Stop::Drop(Outcome::RewriteFailed))?;
    let seen = entry.last_seen.get();
    state::account(tables, segment, other, entry);
    let outcome = outcome(entry.flags.get(), way.forwards());
    let found = scratch.route.hop.device;
    let verdict = send(packet, tables, entry, found, way, outcome)?;
    if scratch.is_established && verdict.action != Action::Resolve {
        line::refresh(tables, scratch, entry, seen, verdict.action);
    }
    Ok(verdict)
}
