//! ICMP errors that this node sends in place of a packet: port unreachable, too big, time exceeded (RFC 792, RFC 4443).
//!
//! Invariant: an error is never sent about an ICMP error, a later fragment, or to a source that is not one host (RFC 1122 3.2.2,
//! RFC 4443 2.4; edge-cases D6), and never more often than the budget allows.

use nodeport_common::{Control, Outcome, TokenBucket, protocol};

use crate::nat::icmp::ICMP_LEN;
use crate::packet::Packet;
use crate::path::{Action, Verdict};
use crate::tables::Tables;
use crate::wire::checksum::Sum;
use crate::wire::{ETHERNET_LEN, Family, Fragment, Headers};

/// What the error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Cause {
    /// No endpoint.
    PortUnreachable,
    /// Does not fit the next link.
    TooBig,
    /// TTL or hop limit used up.
    TimeExceeded,
}

impl Cause {
    const fn outcomes(self) -> (Outcome, Outcome) {
        match self {
            Self::PortUnreachable => (Outcome::RejectedNoEndpoint, Outcome::RejectSuppressed),
            Self::TooBig => (Outcome::TooBig, Outcome::TooBigSuppressed),
            Self::TimeExceeded => (Outcome::TtlExpired, Outcome::TtlExpired),
        }
    }
}

/// Bytes of the transport header that are quoted: ports and TCP's sequence number.
const QUOTED_TRANSPORT: usize = 8;

/// Pays for one error out of a CPU's budget at a time in jiffies; false if it is used up. No more than one second's worth comes in at
/// once.
#[inline(always)]
pub fn pay(bucket: &mut TokenBucket, control: &Control, now: u32) -> bool {
    let elapsed = now.wrapping_sub(bucket.refilled).min(control.hz);
    let full = control.reject_burst.saturating_mul(control.hz);
    let tokens = bucket
        .tokens
        .saturating_add(elapsed.saturating_mul(control.rejects_per_second))
        .min(full);
    bucket.refilled = now;
    let enough = tokens >= control.hz;
    bucket.tokens = if enough { tokens - control.hz } else { tokens };
    enough
}

/// Answers with an ICMP error in place of the packet, or drops it if no answer may be sent. `mtu`, in bytes, is that of the next link.
#[inline(always)]
pub fn answer<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
    cause: Cause,
    mtu: u16,
) -> Verdict {
    let (sent, suppressed) = cause.outcomes();
    let may_answer = matches!(headers.protocol, protocol::TCP | protocol::UDP)
        && headers.fragment != Fragment::Later
        && headers.transport as usize == headers.network as usize + A::HEADER_LEN
        && headers.source.can_be_source()
        && tables.take_reject();
    if may_answer && write(packet, headers, cause, mtu).is_some() {
        Verdict {
            outcome: sent,
            action: Action::Transmit,
            device: tables.device_index(),
        }
    } else {
        Verdict::drop(suppressed)
    }
}

/// Turns the packet into the error, addressed back to where it came from.
#[inline(never)]
fn write<A: Family, P: Packet>(
    packet: &mut P,
    headers: &Headers<A>,
    cause: Cause,
    mtu: u16,
) -> Option<()> {
    let network = headers.network as usize;
    let icmp = network + A::HEADER_LEN;
    let quote = icmp + ICMP_LEN;
    let quoted = A::HEADER_LEN + QUOTED_TRANSPORT;
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
    // What is quoted ends where the quote begins, so it is copied before anything is overwritten.
    let mut at = 0;
    while at < quoted {
        let four = *packet.window::<4>(network + at)?;
        *packet.window::<4>(quote + at)? = four;
        // Summed as it goes: LLVM would rather load all of the quote first, which a BPF stack has no room for.
        sum = core::hint::black_box(sum.double(four));
        at += 4;
    }
    if A::ICMP_PSEUDO {
        let [p0, p1] = (payload as u16).to_be_bytes();
        sum = headers
            .destination
            .sum(
                headers
                    .source
                    .sum(sum.double([0, 0, p0, p1]).double([0, 0, 0, A::ICMP])),
            );
    }
    let [c0, c1] = sum.checksum();
    *packet.window::<8>(icmp)? = [kind, code, c0, c1, 0, 0, m0, m1];
    A::write_header(
        packet,
        network,
        &headers.destination,
        &headers.source,
        payload as u16,
    )?;
    if network == ETHERNET_LEN {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *packet.window::<12>(0)?;
        *packet.window::<12>(0)? = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
    }
    Some(())
}
