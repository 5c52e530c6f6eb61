//! Which way a translated packet leaves: through the host's stack, or redirected to a next hop that its flow remembers.
//!
//! Invariant: TTL and size are checked before a packet is changed. A next hop of an older route generation is never used.

use nodeport_common::{Hook, NextHop, Outcome, device_flags, flow_flags, protocol};

use super::{Action, Stop, Verdict};
use crate::originate::Cause;
use crate::packet::Packet;
use crate::scratch::Scratch;
use crate::tables::{Entry, Route, RouteStatus, Tables};
use crate::wire::{Family, Headers};

/// How a translated packet leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// Through the host's stack.
    Stack,
    /// To the next hop that the entry remembers.
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
        return if T::HOOK == Hook::Xdp && !xdp_can_pass(tables, scratch, entry) {
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

/// Whether XDP may translate a packet that then goes through the stack to a backend of this node: nothing on its further way may take it for one
/// that asks for a front end. A device that takes redirected frames carries whole checksums; what another one may have left to hardware, only
/// TC can mend.
#[inline(always)]
fn xdp_can_pass<A: Family, T: Tables<A>>(
    tables: &T,
    scratch: &mut Scratch<A>,
    entry: &Entry<A>,
) -> bool {
    let device = device_flags::XDP_TARGET | device_flags::XDP_GENERIC;
    let Scratch {
        other,
        is_established,
        ..
    } = scratch;
    other.destination = entry.destination;
    other.destination_port = entry.destination_port;
    *is_established
        && entry.is(flow_flags::LOCAL_BACKEND)
        && tables.device().flags & device == device_flags::XDP_TARGET
        && !tables.may_be_frontend(other)
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
    let NextHop {
        generation,
        mtu,
        looked_up,
        ..
    } = entry.next_hop.get();
    let is_fresh = generation == control.route_generation
        && u32::from(now.wrapping_sub(looked_up)) <= control.next_hop_max_age;
    if is_fresh {
        if T::HOOK == Hook::Xdp && !entry.is(flow_flags::XDP_TARGET) && !is_generic(tables) {
            return Err(Outcome::LeftToTc.into());
        }
        scratch.route.hop.mtu = mtu;
        return Ok((Way::Hop, mtu));
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
    if T::HOOK == Hook::Xdp && !xdp_can_send(tables, route) {
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

/// Whether XDP may redirect along a route: the device takes such frames, or our program runs in generic mode, where they are sent like any other.
#[inline(always)]
pub(super) fn xdp_can_send<A: Family, T: Tables<A>>(tables: &T, route: &Route<A>) -> bool {
    route.status == RouteStatus::Known && (route.xdp_target || is_generic(tables))
}

#[inline(always)]
fn is_generic<A: Family, T: Tables<A>>(tables: &T) -> bool {
    tables.device().flags & device_flags::XDP_GENERIC != 0
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

/// Writes the link-layer header where there is one to write, and says what the hook is to do. `found` is the device that
/// [`Way::Neighbour`] leads to.
#[inline(always)]
pub(crate) fn send<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    entry: &Entry<A>,
    found: u32,
    way: Way,
    outcome: Outcome,
) -> Result<Verdict, Stop> {
    let has_ethernet = tables.device().flags & device_flags::NO_ETHERNET == 0;
    let (action, device) = match way {
        Way::Stack => (Action::Pass, 0),
        Way::Hop if has_ethernet => {
            let addresses = packet
                .window::<12>(0)
                .ok_or(Stop::Drop(Outcome::RewriteFailed))?;
            // From the entry's memory right into the packet: a copy in between costs a call of `memmove`.
            let hop = entry.next_hop.get();
            let [d0, d1, d2, d3, d4, d5] = hop.destination_mac;
            let [s0, s1, s2, s3, s4, s5] = hop.source_mac;
            *addresses = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5];
            let is_there = T::HOOK == Hook::TcIngress
                && entry.flags.get() & (flow_flags::LOCAL_BACKEND | flow_flags::REPLY)
                    == flow_flags::LOCAL_BACKEND
                && tables.has_peer(hop.device);
            let action = if is_there {
                Action::Deliver
            } else {
                Action::Transmit
            };
            (action, hop.device)
        }
        Way::Hop => (Action::Resolve, entry.next_hop.get().device),
        Way::Neighbour => (Action::Resolve, found),
    };
    Ok(Verdict {
        outcome,
        action,
        device,
    })
}
