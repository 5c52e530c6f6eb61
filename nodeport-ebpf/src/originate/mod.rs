//! What this node answers in place of a packet: ICMP errors (RFC 792, RFC 4443), and resets of TCP connections that nobody serves (RFC 9293).
//!
//! TCP is reset rather than told "port unreachable" because Linux forgets an ICMP error that comes while the socket's owner is still inside
//! `connect` (`LockDroppedIcmps`): the client would hang until it sends again. Invariant: an answer is never sent about an ICMP error, a later fragment, or to a source that is not one host (RFC 1122 3.2.2,
//! RFC 4443 2.4; edge-cases D6), and never more often than the budget allows.

mod icmp;
mod reset;

use nodeport_common::{Control, Outcome, TokenBucket, protocol};

use crate::packet::Packet;
use crate::path::{Action, Verdict};
use crate::tables::Tables;
use crate::wire::checksum::Sum;
use crate::wire::{ETHERNET_LEN, Family, Fragment, Headers};

/// What the answer is about.
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

/// Answers in place of the packet, or drops it if no answer may be sent. `mtu`, in bytes, is that of the next link.
#[inline(always)]
pub fn answer<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    headers: &Headers<A>,
    cause: Cause,
    mtu: u16,
) -> Verdict {
    let (sent, suppressed) = cause.outcomes();
    let is_reset = cause == Cause::PortUnreachable && headers.protocol == protocol::TCP;
    let between = (headers.transport - headers.network) as usize - A::HEADER_LEN;
    let is_plain = between == 0;
    let is_extended = A::HAS_EXTENSIONS && between == icmp::EXTENSION;
    let may_answer = matches!(headers.protocol, protocol::TCP | protocol::UDP)
        && headers.fragment != Fragment::Later
        && (is_plain || is_extended && !is_reset)
        && headers.source.can_be_source()
        && tables.take_reject();
    let written = if !may_answer {
        None
    } else if is_reset {
        reset::write(packet, headers)
    } else if is_extended {
        icmp::write::<A, P, { icmp::EXTENSION }>(packet, headers, cause, mtu)
    } else {
        icmp::write::<A, P, 0>(packet, headers, cause, mtu)
    };
    if written.is_some() {
        Verdict {
            outcome: sent,
            action: Action::Transmit,
            device: tables.device_index(),
        }
    } else {
        Verdict::drop(suppressed)
    }
}

/// Swaps the link-layer addresses, if there are any: the answer goes back where the packet came from.
#[inline(always)]
fn turn_round<P: Packet>(packet: &mut P, network: usize) -> Option<()> {
    if network == ETHERNET_LEN {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *packet.window::<12>(0)?;
        *packet.window::<12>(0)? = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
    }
    Some(())
}

/// The sum of a pseudo header between the packet's destination and source (RFC 9293 3.1, RFC 8200 8.1).
#[inline(always)]
fn pseudo_header<A: Family>(headers: &Headers<A>, transport: u8, len: usize, sum: Sum) -> Sum {
    let [l0, l1] = (len as u16).to_be_bytes();
    let sum = sum.double([0, 0, l0, l1]).double([0, 0, 0, transport]);
    headers.destination.sum(headers.source.sum(sum))
}
