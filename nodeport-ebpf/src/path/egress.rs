//! A packet leaves the host's stack by TC egress: replies of flows that the stack carries get the front end's address back.
//!
//! Here, and not where the backend's reply enters, because netfilter must see both directions of such a flow alike, and because a
//! packet with a source address of this node is a martian to the stack (edge-cases H3; ARCHITECTURE, invariants).

use nodeport_common::{Outcome, flow_flags, protocol};

use super::{Stop, Verdict, conclude, ingress, known, line};
use crate::nat::icmp;
use crate::packet::Packet;
use crate::scratch::Scratch;
use crate::tables::Tables;
use crate::wire::parse::Parse;

/// Decides on a packet whose network header, of family `A`, is at `network`.
#[inline(always)]
pub fn egress<A: Parse, P: Packet, T: Tables<A>>(
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
    let transport = scratch.segment.headers.protocol;
    if transport == A::ICMP {
        return icmp::packet(packet, tables, scratch);
    }
    if !matches!(transport, protocol::TCP | protocol::UDP) {
        return Err(Outcome::OtherProtocol.into());
    }
    ingress::read_segment(packet, tables, scratch)?;
    let key = &scratch.segment.key;
    // Most packets that leave are no replies, those on their way to a Pod among them.
    if !tables.may_be_reply(key) {
        return Err(Outcome::Untouched.into());
    }
    if let Some(verdict) = line::carry(packet, tables, scratch)? {
        return Ok(verdict);
    }
    let key = &scratch.segment.key;
    let established = tables.flow(key);
    scratch.is_established = established.is_some();
    let entry = established
        .or_else(|| tables.pending(key))
        .filter(|entry| entry.is(flow_flags::AT_EGRESS))
        .ok_or(Outcome::Untouched)?;
    known::replies(tables, scratch, entry, established.is_some())?;
    known::carry(packet, tables, scratch, entry)
}
