//! Packets of a flow that is known: is it still that flow, which way does it go, and what is to be remembered of it.
//!
//! Invariant: nothing of the packet is changed before all that can fail without a change has been done, so that "goes on unmodified"
//! is always possible up to the rewrite.

use nodeport_common::{
    FlowKey, FragmentPorts, FrontendKey, Hook, NextHop, Outcome, ServingKey, flow_flags, protocol,
    tcp_flags,
};

use super::{Action, Stop, Verdict, opening};
use crate::nat::{self, ports};
use crate::originate::Cause;
use crate::packet::Packet;
use crate::scratch::Scratch;
use crate::tables::{Entry, InsertError, RouteStatus, Tables};
use crate::wire::parse::Segment;
use crate::wire::{Family, Fragment, Headers, tcp};

/// How a translated packet leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// Through the host's stack.
    Stack,
    /// To the next hop in the scratch memory's route.
    Hop,
    /// By the device in the scratch memory's route; the kernel finds the neighbour.
    Neighbour,
}

impl Way {
    /// Whether this node forwards the packet itself, instead of its stack.
    #[inline(always)]
    pub(crate) const fn forwards(self) -> bool {
        !matches!(self, Self::Stack)
    }
}

/// Whether a connection is over: both FINs, or a RST after which nothing came.
#[inline(always)]
pub(crate) const fn is_closed(tcp: u8) -> bool {
    tcp & tcp_flags::CLOSED == tcp_flags::CLOSED || tcp & tcp_flags::RST != 0
}

/// Removes both entries of a flow. `pair` is overwritten with the key of the other one.
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
        tables.remove_pending(pair);
        tables.remove_pending(key);
    }
}

/// Whether the packet begins something new although its tuple has a flow; then the flow is forgotten. That is a new SYN on a closed
/// connection (B1), a retransmitted SYN without an answer after endpoints changed (B11), a datagram to an endpoint that no longer serves
/// (behaviours 17.3).
///
/// # Errors
/// A SYN from a backend is no reply, whatever its tuple says (A10): it goes on unmodified.
#[inline(always)]
pub(super) fn is_over<A: Family, T: Tables<A>>(
    tables: &T,
    scratch: &mut Scratch<A>,
    entry: &Entry<A>,
    established: bool,
) -> Result<bool, Outcome> {
    let Scratch {
        segment,
        other,
        frontend,
        serving,
        ..
    } = scratch;
    let opens = tcp::opens(segment.tcp);
    if entry.is(flow_flags::REPLY) {
        return if opens {
            Err(Outcome::Untouched)
        } else {
            Ok(false)
        };
    }
    let generation = tables.control().endpoint_generation;
    let outdated = entry.endpoint_generation.get() != generation;
    let over = if opens {
        is_closed(entry.tcp.get())
            || !established && outdated && !is_answered(tables, segment, other, entry)
    } else if segment.key.protocol == protocol::UDP && outdated {
        entry.endpoint_generation.set(generation);
        is_stale(tables, &segment.key, frontend, serving, entry)
    } else {
        false
    };
    if over {
        forget(tables, &segment.key, other, entry, established);
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
    if entry.is(flow_flags::REPLY) || tcp::opens(segment.tcp) {
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
    if !pair.is(flow_flags::SEEN) {
        return Ok(Some(entry));
    }
    let is_full = tables.add_flow(pair_key, pair) == Err(InsertError::Full);
    if is_full || tables.add_flow(key, entry) == Err(InsertError::Full) {
        if !is_full {
            tables.remove_flow(pair_key);
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

/// Whether a reply entry translates to the reverse of `key`: whether it is the other half of `key`'s flow.
#[inline(always)]
fn leads_to<A: Family>(reply: &Entry<A>, key: &FlowKey<A>) -> bool {
    reply.destination == key.source
        && reply.source == key.destination
        && reply.destination_port == key.source_port
        && reply.source_port == key.destination_port
}

/// Carries a packet of a flow: rewrites it, notes what was seen, and sends it on its way.
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
    nat::translate(packet, segment, entry, way.forwards())
        .ok_or(Stop::Drop(Outcome::RewriteFailed))?;
    account(tables, segment, other, entry);
    let flags = entry.flags.get();
    let outcome = match (flags & flow_flags::REPLY != 0, way.forwards()) {
        (true, true) => Outcome::ReplyRedirected,
        (true, false) => Outcome::ReplyFromStack,
        (false, true) => Outcome::ToRemoteBackend,
        (false, false) if flags & flow_flags::LOCAL_BACKEND != 0 => Outcome::ToLocalBackend,
        (false, false) => Outcome::ToRoutedBackend,
    };
    send(packet, tables, &scratch.route.hop, way, outcome)
}

/// Which way packets of an entry go from this hook, if they do. TTL and size are checked here, before anything is changed.
///
/// # Errors
/// The packet is not for this hook, cannot be finished here, or was turned into an ICMP error to its sender.
#[inline(always)]
pub(crate) fn way<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch<A>,
    entry: &Entry<A>,
) -> Result<Way, Stop> {
    let at_egress = entry.is(flow_flags::AT_EGRESS);
    if at_egress != (T::HOOK == Hook::TcEgress) {
        return Err(if at_egress {
            Outcome::AwaitsEgress
        } else {
            Outcome::Untouched
        }
        .into());
    }
    if !entry.is(flow_flags::REDIRECT) {
        return if T::HOOK == Hook::Xdp {
            Err(Outcome::LeftToTc.into())
        } else {
            Ok(Way::Stack)
        };
    }
    if T::HOOK == Hook::TcEgress {
        return Err(Outcome::Untouched.into());
    }
    let mut cause = Cause::TimeExceeded;
    if scratch.segment.headers.ttl > 1 {
        let (way, mtu) = next_hop(tables, scratch, entry)?;
        if wire_length(packet, &scratch.segment.headers) <= usize::from(mtu) {
            return Ok(way);
        }
        cause = Cause::TooBig;
    }
    Err(if T::HOOK == Hook::Xdp {
        Outcome::LeftToTc.into()
    } else {
        Stop::Answer(cause)
    })
}

/// The next hop that the entry remembers, or a new one from the kernel's routing tables.
#[inline(always)]
fn next_hop<A: Family, T: Tables<A>>(
    tables: &T,
    scratch: &mut Scratch<A>,
    entry: &Entry<A>,
) -> Result<(Way, u16), Stop> {
    let control = tables.control();
    let now = (tables.now() >> 10) as u16;
    let hop = entry.next_hop.get();
    let is_fresh = hop.generation == control.route_generation
        && u32::from(now.wrapping_sub(hop.looked_up)) <= control.next_hop_max_age;
    if is_fresh {
        if T::HOOK == Hook::Xdp && !entry.is(flow_flags::XDP_TARGET) {
            return Err(Outcome::LeftToTc.into());
        }
        scratch.route.hop = hop;
        return Ok((Way::Hop, hop.mtu));
    }
    let Scratch {
        query,
        route,
        segment,
        ..
    } = scratch;
    query.source = entry.source;
    query.destination = entry.destination;
    query.protocol = segment.headers.protocol;
    tables.route(query, route);
    if T::HOOK == Hook::Xdp && !(route.status == RouteStatus::Known && route.xdp_target) {
        return Err(Outcome::LeftToTc.into());
    }
    match route.status {
        RouteStatus::Known => {
            remember_hop(tables, entry, &route.hop, route.xdp_target);
            Ok((Way::Hop, route.hop.mtu))
        }
        RouteStatus::NeedsNeighbour => Ok((Way::Neighbour, route.hop.mtu)),
        RouteStatus::None => Err(Stop::Drop(Outcome::NoRoute)),
    }
}

/// Keeps a next hop with the flow, stamped with the route generation and the time.
#[inline(always)]
pub(super) fn remember_hop<A: Family, T: Tables<A>>(
    tables: &T,
    entry: &Entry<A>,
    hop: &NextHop,
    xdp_target: bool,
) {
    entry.next_hop.set(NextHop {
        generation: tables.control().route_generation,
        looked_up: (tables.now() >> 10) as u16,
        ..*hop
    });
    let flags = entry.flags.get() & !flow_flags::XDP_TARGET;
    entry.flags.set(if xdp_target {
        flags | flow_flags::XDP_TARGET
    } else {
        flags
    });
}

/// Bytes from the network header of the largest packet that this frame becomes on the wire (edge-cases F3).
#[inline(always)]
fn wire_length<A: Family, P: Packet>(packet: &mut P, headers: &Headers<A>) -> usize {
    let payload = packet.segment_payload();
    if payload == 0 {
        return headers.length as usize;
    }
    let transport_len = match packet.window::<2>(headers.transport as usize + 12) {
        Some([offset, _]) if headers.protocol == protocol::TCP => usize::from(*offset >> 4) * 4,
        _ => 8,
    };
    (headers.transport - headers.network) as usize + transport_len + payload
}

/// Writes the link-layer header where there is one to write, and says what the hook is to do.
#[inline(always)]
pub(crate) fn send<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    hop: &NextHop,
    way: Way,
    outcome: Outcome,
) -> Result<Verdict, Stop> {
    let has_ethernet = tables.device().flags & nodeport_common::device_flags::NO_ETHERNET == 0;
    let (action, device) = match way {
        Way::Stack => (Action::Pass, 0),
        Way::Hop if has_ethernet => {
            let addresses = packet
                .window::<12>(0)
                .ok_or(Stop::Drop(Outcome::RewriteFailed))?;
            let [d0, d1, d2, d3, d4, d5] = hop.destination_mac;
            let [s0, s1, s2, s3, s4, s5] = hop.source_mac;
            *addresses = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5];
            (Action::Transmit, hop.device)
        }
        Way::Hop | Way::Neighbour => (Action::Resolve, hop.device),
    };
    Ok(Verdict {
        outcome,
        action,
        device,
    })
}

/// Counts the packet and notes what it says about the connection's state.
#[inline(always)]
fn account<A: Family, T: Tables<A>>(
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
    own
}
