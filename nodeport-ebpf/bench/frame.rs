//! Direct access to a frame, and sums over it.
//!
//! Invariant: the only place where pointers into a packet are made; each after a comparison of its own with the packet's end.

use aya_ebpf::programs::{TcContext, XdpContext};

/// Where a frame lies.
pub(crate) trait Bounds {
    /// The context's fields with the addresses of its first byte and of the end.
    fn fields(&self) -> (*const u32, *const u32);
}

impl Bounds for XdpContext {
    #[inline(always)]
    fn fields(&self) -> (*const u32, *const u32) {
        // SAFETY: addresses of fields of the context that the kernel gave.
        unsafe { (&raw const (*self.ctx).data, &raw const (*self.ctx).data_end) }
    }
}

impl Bounds for TcContext {
    #[inline(always)]
    fn fields(&self) -> (*const u32, *const u32) {
        let skb = self.skb.skb;
        // SAFETY: as above.
        unsafe { (&raw const (*skb).data, &raw const (*skb).data_end) }
    }
}

/// The `N` bytes at `at`.
#[inline(always)]
pub(crate) fn window<const N: usize>(ctx: &impl Bounds, at: usize) -> Option<&mut [u8; N]> {
    let (start, end) = ctx.fields();
    // SAFETY: fields of the context, read anew for each window: see the datapath's `kernel/window.rs`.
    let (start, end) = unsafe {
        (
            start.read_volatile() as usize + at,
            end.read_volatile() as usize,
        )
    };
    if start + N > end {
        return None;
    }
    // SAFETY: `start..start + N` was just compared with the end; any bytes are valid; windows that are alive together do not overlap.
    Some(unsafe { &mut *(start as *mut [u8; N]) })
}

/// Sum of 16-bit words in network order, not folded.
#[inline(always)]
pub(crate) fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut sum = 0;
    let mut at = 0;
    while at + 1 < N {
        sum += u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        at += 2;
    }
    sum
}

/// Folds a sum to 16 bits.
#[inline(always)]
pub(crate) fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}
