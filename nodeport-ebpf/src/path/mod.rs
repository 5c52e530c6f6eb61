//! The two ways a packet can come by: into the node ([`ingress`]) and out of its stack ([`egress`]). Read these first. Sockets of the node's
//! own processes are aimed before there is a packet ([`socket`]).

mod affinity;
mod call;
pub mod egress;
pub mod handover;
pub mod ingress;
pub(crate) mod known;
mod line;
mod opening;
pub mod socket;
pub(crate) mod state;
pub(crate) mod way;

use nodeport_common::Outcome;

use crate::originate::{self, Cause};
use crate::packet::Packet;
use crate::scratch::Scratch;
use crate::tables::Tables;
use crate::wire::Family;

/// What the hook does with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// Goes on where it would have gone.
    Pass,
    /// Goes nowhere.
    Drop,
    /// Leaves by the verdict's device as it is, link-layer header included.
    Transmit,
    /// The same, by the device at the other end of the verdict's device (TC ingress only): it has arrived in its Pod then, without having
    /// waited for this CPU once more.
    Deliver,
    /// Leaves by the verdict's device; the kernel finds the neighbour and writes the link-layer header (TC only).
    Resolve,
}

/// What became of a packet, and what the hook does with it.
///
/// Like [`Stop`], it has no variant with unused bytes: LLVM may store those without ever having set them, and the verifier refuses that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// For the counters.
    pub outcome: Outcome,
    /// For the kernel.
    pub action: Action,
    /// Index of the device by which it leaves, 0 if [`Action::Pass`] or [`Action::Drop`].
    pub device: u32,
}

impl Verdict {
    /// The packet goes on.
    #[must_use]
    #[inline(always)]
    pub const fn pass(outcome: Outcome) -> Self {
        Self {
            outcome,
            action: Action::Pass,
            device: 0,
        }
    }

    /// The packet ends here.
    #[must_use]
    #[inline(always)]
    pub const fn drop(outcome: Outcome) -> Self {
        Self {
            outcome,
            action: Action::Drop,
            device: 0,
        }
    }
}

/// Why a packet is not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It goes on unmodified.
    Pass(Outcome),
    /// It ends here.
    Drop(Outcome),
    /// Its sender gets an ICMP error.
    Answer(Cause),
}

/// An outcome, and nothing else, means that the packet goes on unmodified.
impl From<Outcome> for Stop {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        Self::Pass(outcome)
    }
}

/// Ends the look at a packet. An ICMP error is made here, after everything else has left the stack.
#[inline(always)]
fn conclude<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    scratch: &Scratch<A>,
    result: Result<Verdict, Stop>,
) -> Verdict {
    match result {
        Ok(verdict) => verdict,
        Err(Stop::Pass(outcome)) => Verdict::pass(outcome),
        Err(Stop::Drop(outcome)) => Verdict::drop(outcome),
        Err(Stop::Answer(cause)) => originate::answer(
            packet,
            tables,
            &scratch.segment.headers,
            cause,
            scratch.route.hop.mtu,
        ),
    }
}
