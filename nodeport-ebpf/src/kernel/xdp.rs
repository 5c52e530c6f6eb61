//! XDP: the fast path on uplinks.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_xdp_adjust_meta};
use aya_ebpf::programs::XdpContext;
use nodeport_common::{Hook, V4, V6};
use nodeport_ebpf::packet::{ChecksumFix, Note, Packet, fix_complete_checksum};
use nodeport_ebpf::path::{Action, Verdict, ingress::ingress};
use nodeport_ebpf::wire::parse::{Carried, frame};

use super::family::{KernelFamily, scratch};
use super::log;
use super::outcomes::count;
use super::tables::{AtHook, KernelTables};
use super::window::{Bounds, Fields, note_at, window};

struct Xdp;

impl AtHook for Xdp {
    const HOOK: Hook = Hook::Xdp;
}

/// Decides on one frame.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> u32 {
    let Some(tables) = KernelTables::<Xdp>::new(ctx.ctx.cast(), ctx.ingress_ifindex() as u32)
    else {
        return XDP_PASS;
    };
    let mut packet = XdpPacket { ctx };
    match frame(&mut packet, true) {
        Ok((network, Carried::V4)) => enter_family::<V4>(&mut packet, &tables, network),
        Ok((network, Carried::V6)) => enter_family::<V6>(&mut packet, &tables, network),
        Err(outcome) => finish(Verdict::pass(outcome)),
    }
}

#[inline(always)]
fn finish(verdict: Verdict) -> u32 {
    count(Hook::Xdp, verdict.outcome);
    match verdict.action {
        Action::Pass | Action::Resolve | Action::Deliver => XDP_PASS,
        Action::Drop => XDP_DROP,
        Action::Transmit => {
            // SAFETY: no pointers. Devices that cannot receive such frames were sorted out by XDP_TARGET. The result is an action.
            let action = unsafe { bpf_redirect(verdict.device, 0) };
            action.unsigned_abs() as u32
        }
    }
}

/// One BPF function for each family: a function's stack is 512 bytes, and callers' frames count.
#[inline(never)]
fn enter_family<A: KernelFamily>(
    packet: &mut XdpPacket<'_>,
    tables: &KernelTables<Xdp>,
    network: usize,
) -> u32 {
    let Some(scratch) = scratch::<A>(Hook::Xdp) else {
        return XDP_PASS;
    };
    let verdict = ingress(packet, tables, scratch, network);
    if log::is_enabled(verdict.outcome) {
        log::line::<A>(Hook::Xdp, verdict.outcome);
    }
    finish(verdict)
}

struct XdpPacket<'a> {
    ctx: &'a XdpContext,
}

impl Bounds for XdpPacket<'_> {
    #[inline(always)]
    fn fields(&self) -> Fields {
        // SAFETY: addresses of context fields.
        unsafe {
            Fields {
                data_meta: &raw const (*self.ctx.ctx).data_meta,
                data: &raw const (*self.ctx.ctx).data,
                data_end: &raw const (*self.ctx.ctx).data_end,
            }
        }
    }
}

impl Packet for XdpPacket<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.data_end() - self.data()
    }

    #[inline(always)]
    fn need(&mut self, end: usize) -> bool {
        end <= self.len()
    }

    #[inline(always)]
    fn window<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        window(self, at)
    }

    #[inline(always)]
    fn segment_payload(&self) -> usize {
        0
    }

    #[inline(always)]
    fn addressed_to_us(&mut self, mac: &[u8; 6]) -> bool {
        self.window::<6>(0)
            .is_some_and(|destination| destination == mac)
    }

    #[inline(always)]
    fn has_offloaded_tag(&self) -> bool {
        false
    }

    #[inline(always)]
    fn fix_checksum(&mut self, at: usize, fix: ChecksumFix, zero_is_none: bool) -> bool {
        fix_complete_checksum(self, at, fix, zero_is_none)
    }

    #[inline(always)]
    fn note_uncovered(&mut self, _uncovered: u16) {}

    /// Notes are the frame's metadata. Not all drivers have room for that.
    #[inline(always)]
    fn leave(&mut self, note: &Note) -> bool {
        const LEN: i32 = 24;
        const _: () = assert!(size_of::<Note>() == LEN as usize);
        // SAFETY: `ctx` is this program's context. Windows of the packet are made anew after this.
        if unsafe { bpf_xdp_adjust_meta(self.ctx.ctx, -LEN) } != 0 {
            return false;
        }
        let Some(at) = note_at(self) else {
            return false;
        };
        // SAFETY: that many bytes were just compared with the start of the packet.
        unsafe { at.write_unaligned(*note) };
        true
    }

    #[inline(always)]
    fn note(&self) -> Option<Note> {
        None
    }

    #[inline(always)]
    fn resize(&mut self, _len: usize) -> bool {
        false
    }
}
