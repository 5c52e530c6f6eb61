//! ICMP errors about a translated flow: the error and the packet that it quotes, both directions (RFC 5508 section 4.2;
//! edge-cases D1-D4).
//!
//! The quoted packet travelled the other way than the error does, so its tuple reversed is the tuple of packets that go the error's
//! way: that entry says how to translate both. As in netfilter, the outer source becomes what the flow's packets have as source.

use nodeport_common::{Hook, Outcome, protocol};

use super::rewrite::{changes, checksum_offset};
use crate::packet::{ChecksumFix, Packet};
use crate::path::{Stop, Verdict, way};
use crate::scratch::Scratch;
use crate::tables::{Entry, Tables};
use crate::wire::checksum::{self, Diff};
use crate::wire::parse::{Parse, Segment};
use crate::wire::{Family, Fragment, Headers};

/// Bytes of an ICMP header.
pub const ICMP_LEN: usize = 8;

/// An ICMP packet: an error about a flow of ours is translated, everything else goes on (D4).
///
/// # Errors
/// It is not about a flow, not for this hook, or could not be rewritten.
#[inline(always)]
pub fn packet<A: Parse, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch<A>,
) -> Result<Verdict, Stop> {
    let Scratch {
        segment,
        quoted: inner,
        ..
    } = scratch;
    let at = segment.headers.transport as usize;
    if segment.headers.fragment != Fragment::Whole || !packet.need(at + ICMP_LEN) {
        return Err(Outcome::Untouched.into());
    }
    let [kind, _] = *packet.window::<2>(at).ok_or(Outcome::Malformed)?;
    if !A::is_icmp_error(kind) {
        return Err(Outcome::Untouched.into());
    }
    if T::HOOK == Hook::Xdp {
        return Err(Outcome::LeftToTc.into());
    }
    let end = (segment.headers.network + segment.headers.length) as usize;
    parse_quote(packet, at + ICMP_LEN, end, inner)?;
    let [s0, s1, d0, d1] = *packet
        .window::<4>(inner.transport as usize)
        .ok_or(Outcome::Untouched)?;
    let key = &mut segment.key;
    key.source = inner.destination;
    key.destination = inner.source;
    key.source_port = [d0, d1];
    key.destination_port = [s0, s1];
    key.protocol = inner.protocol;
    key.pad = [0; 3];
    let entry = tables
        .flow(key)
        .or_else(|| tables.pending(key))
        .ok_or(Outcome::Untouched)?;
    let way = way::way(packet, tables, scratch, entry)?;
    let Scratch {
        segment,
        quoted: inner,
        ..
    } = scratch;
    translate(packet, segment, inner, entry, way.forwards())
        .ok_or(Stop::Drop(Outcome::RewriteFailed))?;
    way::send(
        packet,
        tables,
        entry,
        scratch.route.hop.device,
        way,
        Outcome::IcmpTranslated,
    )
}

/// Parses the quoted packet as far as its ports (D2: 8 bytes of the transport header are enough). It ends with the error, at `end`: what
/// follows there is padding.
#[inline(always)]
fn parse_quote<A: Parse, P: Packet>(
    packet: &mut P,
    at: usize,
    end: usize,
    inner: &mut Headers<A>,
) -> Result<(), Outcome> {
    if at + A::HEADER_LEN + 8 > end || !packet.need(at + A::HEADER_LEN + 8) {
        return Err(Outcome::Untouched);
    }
    A::quoted(packet, at, inner).map_err(|_| Outcome::Untouched)?;
    let has_ports = matches!(inner.protocol, protocol::TCP | protocol::UDP)
        && inner.fragment != Fragment::Later;
    let ports_end = inner.transport as usize + 8;
    if has_ports && ports_end <= end && packet.need(ports_end) {
        Ok(())
    } else {
        Err(Outcome::Untouched)
    }
}

/// Rewrites the quoted packet back to what its sender sent, and the error's own addresses as `entry` says. The segment's key is the quoted
/// tuple, reversed.
#[inline(always)]
fn translate<A: Family, P: Packet>(
    packet: &mut P,
    segment: &Segment<A>,
    inner: &Headers<A>,
    entry: &Entry<A>,
    forward: bool,
) -> Option<()> {
    // The quoted packet changes as one of the error's direction does, ends swapped: the same sums.
    let (pseudo, covered) = changes(&segment.key, entry.ends());
    let header_change = A::rewrite(
        packet,
        inner.network as usize,
        &entry.destination,
        &entry.source,
        pseudo,
        false,
    )?;
    let [s0, s1] = entry.destination_port;
    let [d0, d1] = entry.source_port;
    *packet.window::<4>(inner.transport as usize)? = [s0, s1, d0, d1];
    let mut quote_change = checksum::add(header_change, covered);

    let outer = &segment.headers;
    let end = outer.network as usize + outer.length as usize;
    let diff = checksum::add(pseudo, covered);
    quote_change = checksum::add(quote_change, fix_quoted_checksum(packet, inner, end, diff));

    let addresses = outer.destination.diff(
        &entry.destination,
        outer.source.diff(&entry.source, Diff::new()),
    );
    let change = addresses.fold();
    let uncovered = A::rewrite(
        packet,
        outer.network as usize,
        &entry.source,
        &entry.destination,
        change,
        forward,
    )?;
    let pseudo = if A::ICMP_PSEUDO { change } else { 0 };
    let fix = ChecksumFix {
        pseudo,
        covered: quote_change,
        uncovered,
    };
    packet
        .fix_checksum(outer.transport as usize + 2, fix, false)
        .then_some(())
}

/// Brings the quoted transport checksum in step, if the quote reaches that far (D2); returns the change of the field itself.
#[inline(always)]
fn fix_quoted_checksum<A: Family, P: Packet>(
    packet: &mut P,
    inner: &Headers<A>,
    end: usize,
    diff: u16,
) -> u16 {
    let at = inner.transport as usize + checksum_offset(inner.protocol);
    let is_udp = inner.protocol == protocol::UDP;
    if at + 2 > end || !packet.need(at + 2) {
        return 0;
    }
    match packet.window::<2>(at) {
        Some([0, 0]) if is_udp => 0,
        Some(field) => {
            let old = *field;
            *field = if is_udp {
                checksum::updated_nonzero(old, diff)
            } else {
                checksum::updated(old, diff)
            };
            Diff::new().word(old, *field).fold()
        }
        None => 0,
    }
}
