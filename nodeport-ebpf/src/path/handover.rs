//! A frame that XDP translated and cannot send: it leaves a [`Note`] with it, by which TC sends it without another look.
//!
//! Owns what a note says. Invariants: a note is left before anything is changed, so what cannot be handed over is left to TC as it came; what
//! TC finds is ours if it bears the seed, and comes by an uplink, where our XDP program runs.

use nodeport_common::{Control, Device, Outcome, device_flags, flow_flags};

use super::known::outcome;
use super::{Action, Verdict};
use crate::packet::{Note, Packet};
use crate::tables::{Line, Tables, line_flags};
use crate::wire::Family;

/// Leaves a note of where packets of this line go, if XDP may translate them for TC here: a device that takes redirected frames carries whole
/// checksums; what another one may have left to hardware, only TC can mend.
#[inline(always)]
pub(super) fn leave<A: Family, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    line: &Line<A>,
) -> bool {
    let device = device_flags::XDP_TARGET | device_flags::XDP_GENERIC;
    line.owner.has(flow_flags::REDIRECT)
        && tables.device().flags & device == device_flags::XDP_TARGET
        && packet.leave(&Note {
            seed: tables.control().seed,
            device: line.device.get(),
            flags: line.owner.flags.get().into(),
            macs: line.macs.get(),
        })
}

/// What is to become of a packet at TC ingress that has a note; `None` if it has none.
#[inline(always)]
pub fn take<P: Packet>(packet: &mut P, control: &Control, device: &Device) -> Option<Verdict> {
    if device.flags & device_flags::UPLINK == 0 {
        return None;
    }
    let note = packet.note().filter(|note| note.seed == control.seed)?;
    let Some(macs) = packet.window::<12>(0) else {
        return Some(Verdict::drop(Outcome::RewriteFailed));
    };
    // Not before: a frame that is not addressed to its device is dropped in the Pod.
    *macs = note.macs;
    let flags = note.flags as u8;
    Some(Verdict {
        outcome: outcome(flags, true),
        action: if flags & line_flags::TO_PEER == 0 {
            Action::Transmit
        } else {
            Action::Deliver
        },
        device: note.device,
    })
}
