//! A packet comes in: by XDP on an uplink, or by TC on any covered device. A packet's way, in this order:
//!
//! 1. Parse. What is not plain IP to us goes on unmodified, with an outcome that says why.
//! 2. ICMP errors about our flows are translated with what they quote.
//! 3. A destination that no flow ever had and that no front end has: the packet goes on untouched, without a lookup.
//! 4. An established flow: one lookup, rewrite, next hop, done. By XDP, a busy one's from a line of this CPU, without a lookup.
//! 5. A pending flow: the same; its third leg moves it to the established table.
//! 6. Neither: is the destination a front end? Then a flow is opened.
//!
//! The lookup of flows comes before that of front ends, so that a reply to a translated packet can never be taken for a request
//! (edge-cases A4); step 3 comes to the same, because there is neither. XDP runs the same code and leaves to TC whatever it cannot finish.

use nodeport_common::{FlowKey, Hook, Outcome, device_flags, protocol};

use super::{Stop, Verdict, conclude, known, line, opening};
use crate::nat::icmp;
use crate::packet::Packet;
use crate::scratch::Scratch;
use crate::tables::{Entry, Tables};
use crate::wire::parse::Parse;
use crate::wire::{Family, Fragment};

/// Decides on a packet whose network header, of family `A`, is at `network`.
#[inline(always)]
pub fn ingress<A: Parse, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch<A>,
    network: usize,
) -> Verdict {
    let result = run(packet, tables, scratch, network);
    conclude(packet, tables, scratch, result)
}

#[inline(always)]
fn run<A: Parse, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch<A>,
    network: usize,
) -> Result<Verdict, Stop> {
    A::headers(packet, network, &mut scratch.segment.headers)?;
    if !packet.addressed_to_us(&tables.device().mac) {
        return Err(Outcome::NotToUs.into());
    }
    let transport = scratch.segment.headers.protocol;
    if transport == A::ICMP {
        return icmp::packet(packet, tables, scratch);
    }
    if !matches!(transport, protocol::TCP | protocol::UDP) {
        return Err(Outcome::OtherProtocol.into());
    }
    read_segment(packet, tables, scratch)?;
    if is_foreign(tables, &scratch.segment.key) {
        return Err(Outcome::Untouched.into());
    }
    if let Some(verdict) = line::carry(packet, tables, scratch)? {
        return Ok(verdict);
    }
    let entry = match known_flow(tables, scratch)? {
        Some(entry) => entry,
        None => opening::first(tables, scratch)?,
    };
    known::carry(packet, tables, scratch, entry)
}

/// Whether the packet is none of ours, as far as can be told cheaply: most packets of a node. They come by uplinks; elsewhere, replies that
/// await egress are told from them.
#[inline(always)]
fn is_foreign<A: Family, T: Tables<A>>(tables: &T, key: &FlowKey<A>) -> bool {
    tables.device().flags & device_flags::UPLINK != 0
        && !tables.may_have_flows(key)
        && !tables.may_be_frontend(key)
}

/// The entry of the packet's flow, if it has one that is not over.
#[inline(always)]
fn known_flow<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    scratch: &mut Scratch<A>,
) -> Result<Option<&'t Entry<A>>, Stop> {
    let key = &scratch.segment.key;
    let established = tables.flow(key);
    scratch.is_established = established.is_some();
    let Some(entry) = established.or_else(|| tables.pending(key)) else {
        return Ok(None);
    };
    if known::is_over(tables, scratch, entry, established.is_some())? {
        return Ok(None);
    }
    if established.is_some() {
        Ok(established)
    } else {
        known::advance(tables, scratch, entry)
    }
}

/// The packet with its ports; those of a later fragment come from what the first one left behind (edge-cases E2-E7). All
/// fragments take the TC path, so that those of one datagram stay together (E5).
#[inline(always)]
pub(super) fn read_segment<A: Parse, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch<A>,
) -> Result<(), Outcome> {
    let Scratch {
        segment, fragment, ..
    } = scratch;
    if segment.headers.fragment != Fragment::Whole && T::HOOK == Hook::Xdp {
        return Err(Outcome::LeftToTc);
    }
    if segment.headers.fragment != Fragment::Later {
        return segment.read_ports(packet);
    }
    segment.headers.fragment_key(fragment);
    let ports = tables.fragment(fragment).ok_or(Outcome::FragmentUnknown)?;
    let control = tables.control();
    if tables.now().wrapping_sub(ports.seen)
        > control.fragment_max_age_secs.wrapping_mul(control.hz)
    {
        return Err(Outcome::FragmentUnknown);
    }
    let [s0, s1] = ports.source_port;
    let [d0, d1] = ports.destination_port;
    segment.tcp = 0;
    segment.headers.tuple([s0, s1, d0, d1], &mut segment.key);
    Ok(())
}
