//! ICMP errors: the packet is turned into one, with its own headers as the quote.

use super::{Cause, pseudo_header, turn_round};
use crate::nat::icmp::ICMP_LEN;
use crate::packet::Packet;
use crate::wire::checksum::Sum;
use crate::wire::{Family, Headers};

/// Bytes of the transport header that are quoted: ports and TCP's sequence number.
const QUOTED_TRANSPORT: usize = 8;

/// Bytes of an extension that may stand between the network header and the transport header: above all IPv6's fragment header, without
/// which nobody would be told that a fragment is too big (edge-cases D8, E7).
pub(super) const EXTENSION: usize = 8;

/// Turns the packet into the error, addressed back to where it came from. `BETWEEN` bytes, 0 or [`EXTENSION`], are between its network header
/// and its transport header; a constant, because the verifier follows no offset that depends on them.
#[inline(never)]
pub(super) fn write<A: Family, P: Packet, const BETWEEN: usize>(
    packet: &mut P,
    headers: &Headers<A>,
    cause: Cause,
    mtu: u16,
) -> Option<()> {
    let network = headers.network as usize;
    let icmp = network + A::HEADER_LEN;
    let quote = icmp + ICMP_LEN;
    let quoted = A::HEADER_LEN + BETWEEN + QUOTED_TRANSPORT;
    let payload = ICMP_LEN + quoted;
    if !packet.resize(quote + quoted) || !packet.need(quote + quoted) {
        return None;
    }
    let [kind, code] = match cause {
        Cause::PortUnreachable => A::PORT_UNREACHABLE,
        Cause::TooBig => A::TOO_BIG,
        Cause::TimeExceeded => A::TIME_EXCEEDED,
    };
    let [m0, m1] = if cause == Cause::TooBig {
        mtu.to_be_bytes()
    } else {
        [0, 0]
    };
    let mut sum = Sum::new().double([kind, code, 0, 0]).double([0, 0, m0, m1]);
    // What is quoted ends where the quote begins, so it is copied before anything is overwritten; with an extension it reaches into the
    // quote, and that end is copied first.
    if BETWEEN > 0 {
        let end = *packet.window::<EXTENSION>(network + quoted - BETWEEN)?;
        *packet.window::<EXTENSION>(quote + quoted - BETWEEN)? = end;
        let [e0, e1, e2, e3, e4, e5, e6, e7] = end;
        sum = sum.double([e0, e1, e2, e3]).double([e4, e5, e6, e7]);
    }
    let mut at = 0;
    while at < quoted - BETWEEN {
        let four = *packet.window::<4>(network + at)?;
        *packet.window::<4>(quote + at)? = four;
        // Summed as it goes: LLVM would rather load all of the quote first, which a BPF stack has no room for.
        sum = core::hint::black_box(sum.double(four));
        at += 4;
    }
    if A::ICMP_PSEUDO {
        sum = pseudo_header(headers, A::ICMP, payload, sum);
    }
    let [c0, c1] = sum.checksum();
    *packet.window::<8>(icmp)? = [kind, code, c0, c1, 0, 0, m0, m1];
    A::write_header(
        packet,
        network,
        &headers.destination,
        &headers.source,
        A::ICMP,
        payload as u16,
    )?;
    turn_round(packet, network)
}
