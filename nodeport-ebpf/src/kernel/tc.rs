//! TC: complete, at both ends of the host's stack.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC,
};
use aya_ebpf::helpers::generated;
use aya_ebpf::programs::TcContext;
use nodeport_common::{Hook, V4, V6, device_flags};
use nodeport_ebpf::packet::{ChecksumFix, MAX_OFFSET, Note, Packet};
use nodeport_ebpf::path::{
    Action, Verdict, egress::egress as leave, handover, ingress::ingress as enter,
};
use nodeport_ebpf::tables::{Services, Tables};
use nodeport_ebpf::wire::parse::{Carried, frame};

use super::family::{KernelFamily, scratch};
use super::log;
use super::outcomes::count;
use super::tables::{AtHook, KernelTables};
use super::window::{Bounds, Fields, note_at, window};

struct Ingress;
struct Egress;

impl AtHook for Ingress {
    const HOOK: Hook = Hook::TcIngress;
}

impl AtHook for Egress {
    const HOOK: Hook = Hook::TcEgress;
}

/// Decides on one packet that enters the host's stack.
#[inline(always)]
pub(crate) fn ingress(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: a context field.
    let index = unsafe { (*skb).ifindex };
    let Some(tables) = KernelTables::<Ingress>::new(skb.cast(), index) else {
        return TC_ACT_UNSPEC;
    };
    let mut packet = SkbPacket { skb };
    let control = Services::<V4>::control(&tables);
    if let Some(verdict) = handover::take(&mut packet, control, Tables::<V4>::device(&tables)) {
        return finish(Hook::TcIngress, verdict);
    }
    let has_ethernet = has_ethernet(&tables);
    match frame(&mut packet, has_ethernet) {
        Ok((network, Carried::V4)) => enter_family::<V4>(&mut packet, &tables, network),
        Ok((network, Carried::V6)) => enter_family::<V6>(&mut packet, &tables, network),
        Err(outcome) => finish(Hook::TcIngress, Verdict::pass(outcome)),
    }
}

/// Decides on one packet that leaves the host's stack.
#[inline(always)]
pub(crate) fn egress(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: a context field.
    let index = unsafe { (*skb).ifindex };
    let Some(tables) = KernelTables::<Egress>::new(skb.cast(), index) else {
        return TC_ACT_UNSPEC;
    };
    let mut packet = SkbPacket { skb };
    let has_ethernet = has_ethernet(&tables);
    match frame(&mut packet, has_ethernet) {
        Ok((network, Carried::V4)) => leave_family::<V4>(&mut packet, &tables, network),
        Ok((network, Carried::V6)) => leave_family::<V6>(&mut packet, &tables, network),
        Err(outcome) => finish(Hook::TcEgress, Verdict::pass(outcome)),
    }
}

/// One BPF function for each family: a function's stack is 512 bytes, and callers' frames count.
#[inline(never)]
fn enter_family<A: KernelFamily>(
    packet: &mut SkbPacket,
    tables: &KernelTables<Ingress>,
    network: usize,
) -> i32 {
    let Some(scratch) = scratch::<A>(Hook::TcIngress) else {
        return TC_ACT_UNSPEC;
    };
    let verdict = enter(packet, tables, scratch, network);
    if log::is_enabled(verdict.outcome) {
        log::line::<A>(Hook::TcIngress, verdict.outcome);
    }
    finish(Hook::TcIngress, verdict)
}

#[inline(never)]
fn leave_family<A: KernelFamily>(
    packet: &mut SkbPacket,
    tables: &KernelTables<Egress>,
    network: usize,
) -> i32 {
    let Some(scratch) = scratch::<A>(Hook::TcEgress) else {
        return TC_ACT_UNSPEC;
    };
    let verdict = leave(packet, tables, scratch, network);
    if log::is_enabled(verdict.outcome) {
        log::line::<A>(Hook::TcEgress, verdict.outcome);
    }
    finish(Hook::TcEgress, verdict)
}

#[inline(always)]
fn has_ethernet<H: AtHook>(tables: &KernelTables<H>) -> bool {
    Tables::<V4>::device(tables).flags & device_flags::NO_ETHERNET == 0
}

#[inline(always)]
fn finish(hook: Hook, verdict: Verdict) -> i32 {
    count(hook, verdict.outcome);
    match verdict.action {
        // The next program on the device may look at it too.
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
        // SAFETY: no pointers.
        Action::Transmit => (unsafe { generated::bpf_redirect(verdict.device, 0) }) as i32,
        // SAFETY: no pointers. The kernel would drop the packet if the other end were in this namespace, see PEER.
        Action::Deliver => (unsafe { generated::bpf_redirect_peer(verdict.device, 0) }) as i32,
        Action::Resolve => {
            // SAFETY: without parameters the kernel looks up route and neighbour itself.
            let action = unsafe {
                generated::bpf_redirect_neigh(verdict.device, core::ptr::null_mut(), 0, 0)
            };
            action as i32
        }
    }
}

struct SkbPacket {
    skb: *mut __sk_buff,
}

impl Bounds for SkbPacket {
    #[inline(always)]
    fn fields(&self) -> Fields {
        // SAFETY: addresses of context fields.
        unsafe {
            Fields {
                data_meta: &raw const (*self.skb).data_meta,
                data: &raw const (*self.skb).data,
                data_end: &raw const (*self.skb).data_end,
            }
        }
    }
}

impl SkbPacket {
    /// Brings linear data up to `end` bytes.
    #[inline(always)]
    fn pull(&self, end: usize) -> bool {
        // SAFETY: `skb` is this program's context.
        unsafe { generated::bpf_skb_pull_data(self.skb, end as u32) == 0 }
    }
}

/// A folded big-endian one's complement sum as the kernel's native-endian one.
#[inline(always)]
fn native(sum: u16) -> u64 {
    u64::from(sum.to_be())
}

/// Whether a folded sum of changes says that nothing changed: one's complement has two zeros.
#[inline(always)]
const fn is_zero(sum: u16) -> bool {
    sum == 0 || sum == 0xffff
}

impl Packet for SkbPacket {
    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: a context field.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn need(&mut self, end: usize) -> bool {
        if end > MAX_OFFSET {
            return false;
        }
        if self.data() + end <= self.data_end() {
            return true;
        }
        end <= self.len() && self.pull(end)
    }

    #[inline(always)]
    fn window<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        window(self, at)
    }

    #[inline(always)]
    fn segment_payload(&self) -> usize {
        // SAFETY: a context field.
        unsafe { (*self.skb).gso_size as usize }
    }

    #[inline(always)]
    fn addressed_to_us(&mut self, _mac: &[u8; 6]) -> bool {
        /// `PACKET_HOST`.
        const HOST: u32 = 0;
        // SAFETY: a context field.
        unsafe { (*self.skb).pkt_type == HOST }
    }

    #[inline(always)]
    fn has_offloaded_tag(&self) -> bool {
        // SAFETY: a context field.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    /// The kernel's helper knows whether the field holds a complete sum, that of a pseudo header only (edge-cases F1), or is shadowed by a
    /// sum of the whole packet.
    #[inline(always)]
    fn fix_checksum(&mut self, at: usize, fix: ChecksumFix, zero_is_none: bool) -> bool {
        let mangled = if zero_is_none {
            u64::from(BPF_F_MARK_MANGLED_0)
        } else {
            0
        };
        let mut done = true;
        if !is_zero(fix.pseudo) {
            let flags = mangled | u64::from(BPF_F_PSEUDO_HDR);
            // SAFETY: `skb` is this program's context; a size of 0 in the flags makes the last value a difference.
            done = unsafe {
                generated::bpf_l4_csum_replace(self.skb, at as u32, 0, native(fix.pseudo), flags)
            } == 0;
        }
        if !is_zero(fix.covered) {
            // SAFETY: as above.
            done &= unsafe {
                generated::bpf_l4_csum_replace(self.skb, at as u32, 0, native(fix.covered), mangled)
            } == 0;
        }
        self.note_uncovered(fix.uncovered);
        done
    }

    #[inline(always)]
    fn note_uncovered(&mut self, uncovered: u16) {
        if !is_zero(uncovered) {
            // SAFETY: `skb` is this program's context. The call fails, as it should, where the kernel keeps no sum.
            let _ = unsafe { generated::bpf_csum_update(self.skb, native(uncovered) as u32) };
        }
    }

    #[inline(always)]
    fn leave(&mut self, _note: &Note) -> bool {
        false
    }

    #[inline(always)]
    fn note(&self) -> Option<Note> {
        let at = note_at(self)?;
        // SAFETY: that many bytes were just compared with the start of the packet.
        Some(unsafe { at.read_unaligned() })
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> bool {
        // SAFETY: `skb` is this program's context.
        unsafe { generated::bpf_skb_change_tail(self.skb, len as u32, 0) == 0 }
    }
}
