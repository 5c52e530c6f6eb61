//! A first packet: is it for a front end, which backend gets it, by which way, and the two entries of its flow.
//!
//! Invariant: entries are only made for packets that are then carried; a rejected, dropped or untouched packet leaves nothing behind
//! (edge-cases C3). The one exception is a packet that is too big: its sender is told so, and the smaller ones that follow find their flow.

use nodeport_common::{
    Backend, FlowKey, Frontend, FrontendKey, Hook, NextHop, Outcome, SourceRangeKey, address_flags,
    backend_flags, control_flags, device_flags, flow_flags, frontend_flags, protocol,
};

use super::{Stop, affinity, way};
use crate::nat::ports;
use crate::originate::Cause;
use crate::scratch::Scratch;
use crate::select;
use crate::tables::{Clients, Entry, InsertError, RouteStatus, Tables};
use crate::wire::parse::Segment;
use crate::wire::{Family, tcp};

/// The front end that a destination names: one with that very address first, then a NodePort (behaviours 2.9, 6.2).
#[inline(always)]
pub(super) fn find<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    key: &FlowKey<A>,
    wanted: &mut FrontendKey<A>,
) -> Option<&'t Frontend> {
    let flags = tables.address(&key.destination);
    wanted.address = key.destination;
    wanted.port = key.destination_port;
    wanted.protocol = key.protocol;
    wanted.pad = 0;
    if flags & address_flags::VIRTUAL != 0
        && let Some(frontend) = tables.frontend(wanted)
    {
        return Some(frontend);
    }
    if flags & address_flags::NODE_PORT == 0 {
        return None;
    }
    wanted.address = A::UNSPECIFIED;
    tables.frontend(wanted)
}

/// A packet without a flow: opens one, and returns the entry of the packet's direction.
///
/// # Errors
/// The packet is not for a front end, or ends here.
#[inline(always)]
pub(super) fn first<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    scratch: &mut Scratch<A>,
) -> Result<&'t Entry<A>, Stop> {
    let segment = &scratch.segment;
    let frontend = find(tables, &segment.key, &mut scratch.frontend).ok_or(Outcome::Untouched)?;
    admit(tables, segment)?;
    if frontend.flags & frontend_flags::SOURCE_RANGES != 0
        && !may_come(tables, frontend, &segment.key.source, &mut scratch.source)
    {
        return Err(Stop::Drop(Outcome::DroppedSourceRange));
    }
    let from_pod = tables.device().flags & device_flags::POD != 0;
    let (base, len, drop_flag) = if from_pod {
        (
            frontend.local_base,
            frontend.local_len,
            frontend_flags::LOCAL_DROP_IF_EMPTY,
        )
    } else {
        (frontend.base, frontend.len, frontend_flags::DROP_IF_EMPTY)
    };
    let backend = if len == 0 {
        None
    } else {
        choose(tables, scratch, frontend, base, len)
    };
    let Some(backend) = backend else {
        if T::HOOK == Hook::Xdp {
            return Err(Outcome::LeftToTc.into());
        }
        if frontend.flags & drop_flag != 0 {
            return Err(Stop::Drop(Outcome::DroppedNoLocalEndpoint));
        }
        return Err(Stop::Answer(Cause::PortUnreachable));
    };
    let flags = entry_flags(frontend, backend);
    let ours = needs_our_address(&scratch.segment, frontend, backend, from_pod);
    ask_route(tables, scratch, backend, ours, from_pod)?;
    let entry = open(tables, scratch, backend, flags)?;
    if frontend.affinity_secs != 0 {
        affinity::remember(tables, &scratch.client, backend, &mut scratch.sent);
    }
    Ok(entry)
}

/// The endpoint of a set that is not empty: any, or the client's.
#[inline(always)]
fn choose<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    scratch: &mut Scratch<A>,
    frontend: &Frontend,
    base: u32,
    len: u32,
) -> Option<&'t Backend<A>> {
    let Scratch {
        segment,
        other,
        client,
        ..
    } = scratch;
    let key = &segment.key;
    if frontend.affinity_secs == 0 {
        let seed = tables.control().seed;
        return tables.backend(base.wrapping_add(select::index(key, seed, len)));
    }
    key.source.copy_to(&mut client.client);
    client.service = frontend.service;
    affinity::choose(tables, frontend, client, key.protocol, (base, len), other)
}

/// Whether a client is in one of a service port's source ranges. `blank` is working memory.
#[inline(always)]
pub(super) fn may_come<A: Family, T: Clients<A>>(
    tables: &T,
    frontend: &Frontend,
    client: &A,
    blank: &mut SourceRangeKey<A>,
) -> bool {
    blank.prefix_len = 32 + 8 * size_of::<A>() as u32;
    blank.service = frontend.service.to_be_bytes();
    client.copy_to(&mut blank.address);
    tables.is_in_source_ranges(blank)
}

/// Whether a packet for a front end may open a flow.
#[inline(always)]
fn admit<A: Family, T: Tables<A>>(tables: &T, segment: &Segment<A>) -> Result<(), Outcome> {
    let key = &segment.key;
    let yielding = tables.control().flags & control_flags::YIELDING;
    if yielding & control_flags::YIELD != 0 {
        return Err(Outcome::Untouched);
    }
    // E14: what the kernel would call a martian is left to the kernel.
    if !key.source.can_be_source() || tables.address(&key.source) & address_flags::HOST != 0 {
        return Err(Outcome::MartianSource);
    }
    let is_tcp = key.protocol == protocol::TCP;
    if is_tcp && tcp::opens(segment.tcp) {
        return Ok(());
    }
    if yielding != 0 {
        return Err(Outcome::Untouched);
    }
    if T::HOOK == Hook::Xdp && is_tcp {
        return Err(Outcome::LeftToTc);
    }
    // A reply to a connection of this host whose local port happens to be a NodePort (J2, J3; behaviours 18.4), a SYN with ACK that answers
    // somebody else's (A7), or a RST that belongs to nothing. What remains is picked up, as netfilter does (B9).
    if segment.tcp & (tcp::SYN | tcp::RST) != 0 || tables.host_owns(key) {
        return Err(Outcome::Untouched);
    }
    Ok(())
}

/// Behaviours 9: whether the backend must see an address of this node. Never for a backend on this node (its replies come by here anyway;
/// docs/differences.md), but for a Pod that reaches itself (9.9).
#[inline(always)]
fn needs_our_address<A: Family>(
    segment: &Segment<A>,
    frontend: &Frontend,
    backend: &Backend<A>,
    from_pod: bool,
) -> bool {
    if segment.key.source == backend.address {
        return true;
    }
    if backend.flags & backend_flags::LOCAL != 0 {
        return false;
    }
    // Replies to a Pod of this node come by here in any case; so a ClusterIP keeps its address (9.6), as does policy Local (9.4).
    !(from_pod && frontend.flags & (frontend_flags::CLUSTER_IP | frontend_flags::POLICY_LOCAL) != 0)
}

#[inline(always)]
fn entry_flags<A>(frontend: &Frontend, backend: &Backend<A>) -> u8 {
    let mut flags = 0;
    if backend.flags & backend_flags::LOCAL != 0 {
        flags |= flow_flags::LOCAL_BACKEND;
    }
    if frontend.flags & frontend_flags::NODE_PORT != 0 {
        flags |= flow_flags::NODE_PORT;
    }
    flags
}

/// Writes the entry of the reply direction that goes with the forward entry of `key` and its flags.
#[inline(always)]
pub(super) fn write_reply<A: Family, T: Tables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    flags: u8,
    entry: &mut Entry<A>,
) {
    let way = if flags & flow_flags::REDIRECT != 0 {
        flow_flags::REDIRECT
    } else {
        flow_flags::AT_EGRESS
    };
    let kept = flags & (flow_flags::LOCAL_BACKEND | flow_flags::NODE_PORT);
    start(tables, flow_flags::REPLY | way | kept, entry);
    entry.source = key.destination;
    entry.destination = key.source;
    entry.source_port = key.destination_port;
    entry.destination_port = key.source_port;
}

/// Makes an entry that has seen nothing; its translation is still to be written.
#[inline(always)]
fn start<A: Family, T: Tables<A>>(tables: &T, flags: u8, entry: &mut Entry<A>) {
    entry.packets.set(0);
    entry.bytes.set(0);
    entry.last_seen.set(tables.now());
    entry
        .endpoint_generation
        .set(tables.control().endpoint_generation);
    entry.flags.set(flags);
    entry.tcp.set(0);
    entry.pad = [0; 2];
    entry.next_hop.set(NextHop::default());
}

/// Makes both entries of a flow to `backend`, by the route that was found: none means through the host's stack.
///
/// With our own source address, packets are redirected past the stack, which would take that source for a martian; with the client's, the
/// stack carries them. Then the client's port is kept, unless another flow of the same client to the same backend has the same reply tuple
/// (A3).
#[inline(always)]
fn open<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    scratch: &mut Scratch<A>,
    backend: &Backend<A>,
    flags: u8,
) -> Result<&'t Entry<A>, Stop> {
    let Scratch {
        segment,
        other: reply_key,
        entry: blank,
        route,
        ..
    } = scratch;
    let key = &segment.key;
    // No route (blackhole, unreachable, forwarding off, an address of our own): the stack says what becomes of it (F9).
    let redirect = route.status != RouteStatus::None;
    let (source, way) = if redirect {
        (&route.source, flow_flags::REDIRECT)
    } else {
        (&key.source, 0)
    };
    if *source == A::UNSPECIFIED {
        return Err(Stop::Drop(Outcome::NoRoute));
    }
    reply_key.source = backend.address;
    reply_key.destination = *source;
    reply_key.source_port = backend.port;
    reply_key.destination_port = key.source_port;
    reply_key.protocol = key.protocol;
    reply_key.pad = [0; 3];
    // Noted before the first packet goes on, so that no other of the flow can come before.
    tables.note_destination(key);
    write_reply(tables, key, flags | way, blank);
    // Who keeps its address keeps its port.
    let keeps = reply_key.destination == key.source;
    let port = ports::take(tables, reply_key, blank, keeps).map_err(Stop::Drop)?;

    tables.note_reply(reply_key, !redirect);
    start(tables, flags | way, blank);
    blank.source = *source;
    blank.source_port = port;
    blank.destination = backend.address;
    blank.destination_port = backend.port;
    if route.status == RouteStatus::Known {
        way::remember_hop(tables, blank, &route.hop, route.xdp_target);
    }
    insert(tables, key, blank, reply_key)
}

/// Asks for the route to `backend`, if packets are to leave with our own address, or past the stack to a backend of this node.
///
/// With our own address they leave, whatever else holds, if they would leave by the Pod device that they came in by: behind it is a bridge,
/// which would hand the reply to the client without passing by here, from an address that the client never asked. Otherwise a backend of this
/// node sees its client, and the stack carries both directions, unless it is told to be passed by.
///
/// # Errors
/// XDP cannot send there, and leaves the packet to TC; or the packet may not go further. Nothing was made yet.
#[inline(always)]
fn ask_route<A: Family, T: Tables<A>>(
    tables: &T,
    scratch: &mut Scratch<A>,
    backend: &Backend<A>,
    ours: bool,
    from_pod: bool,
) -> Result<(), Stop> {
    let Scratch {
        segment,
        query,
        route,
        ..
    } = scratch;
    route.status = RouteStatus::None;
    route.source = A::UNSPECIFIED;
    let straight = !ours && goes_straight(tables, backend);
    if ours || from_pod || straight {
        query.source = A::UNSPECIFIED;
        query.destination = backend.address;
        query.protocol = segment.key.protocol;
        tables.route(query, route);
    }
    if !ours && route.hop.device != tables.device_index() {
        // Whoever has no neighbour yet is found by the stack.
        if straight && route.status == RouteStatus::Known {
            route.source = segment.key.source;
        } else {
            route.status = RouteStatus::None;
        }
    }
    if T::HOOK == Hook::Xdp && !(way::xdp_can_send(tables, route) && segment.headers.ttl > 1) {
        return Err(Outcome::LeftToTc.into());
    }
    if route.status != RouteStatus::None && segment.headers.ttl <= 1 {
        return Err(Stop::Answer(Cause::TimeExceeded));
    }
    Ok(())
}

/// Whether packets for a backend go to its device without the host's stack: that of a Pod of this node, if so configured.
#[inline(always)]
fn goes_straight<A: Family, T: Tables<A>>(tables: &T, backend: &Backend<A>) -> bool {
    tables.control().flags & control_flags::REDIRECT_LOCAL != 0
        && backend.flags & backend_flags::LOCAL != 0
}

/// Inserts the forward entry. If another CPU was first with the same tuple, its flow is used (B10) and ours taken back. It may have moved it
/// to the established table just between our looks at the two.
#[inline(always)]
fn insert<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    key: &FlowKey<A>,
    forward: &Entry<A>,
    reply_key: &FlowKey<A>,
) -> Result<&'t Entry<A>, Stop> {
    let inserted = tables.add_pending(key, forward);
    let established = tables.flow(key);
    if inserted.is_err() || established.is_some() {
        tables.remove_pending(reply_key);
    }
    if inserted.is_ok() && established.is_some() {
        tables.remove_pending(key);
    }
    if inserted == Err(InsertError::Full) {
        return Err(Stop::Drop(Outcome::PendingTableFailed));
    }
    established
        .or_else(|| tables.pending(key))
        .ok_or(Stop::Drop(Outcome::FlowConflict))
}
