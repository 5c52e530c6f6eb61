//! Direct packet access: the one place that turns packet offsets into references.
//!
//! Invariant: every access is preceded by a comparison of its own with the end of the packet. The verifier demands that on each pointer that it
//! sees, so the compiler must not conclude one comparison from another: callers read the end of the packet anew (volatile) for each window.

use nodeport_ebpf::packet::{MAX_OFFSET, Note};

/// Words of a program's context.
pub(super) struct Fields {
    pub(super) data_meta: *const u32,
    pub(super) data: *const u32,
    pub(super) data_end: *const u32,
}

/// Where a packet begins and ends, and what was left with it.
pub(super) trait Bounds {
    /// The context's fields.
    fn fields(&self) -> Fields;

    /// First byte of what was left with the packet, which ends where the packet begins.
    #[inline(always)]
    fn data_meta(&self) -> usize {
        // SAFETY: a context field.
        unsafe { self.fields().data_meta.read_volatile() as usize }
    }

    /// First byte. Read where it is used: carried over a branch, LLVM may cut it to 32 bits there, and the verifier loses the pointer.
    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: a context field.
        unsafe { self.fields().data.read_volatile() as usize }
    }

    /// Byte after the last.
    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: a context field.
        unsafe { self.fields().data_end.read_volatile() as usize }
    }
}

/// The `N` bytes at `at` of a packet.
#[inline(always)]
pub(super) fn window<const N: usize>(packet: &mut impl Bounds, at: usize) -> Option<&mut [u8; N]> {
    // Of one byte at a variable offset, LLVM makes a comparison from which the verifier learns nothing.
    const { assert!(N >= 2) };
    if at > MAX_OFFSET {
        return None;
    }
    let end = packet.data_end();
    let start = packet.data() + at;
    if start + N > end {
        return None;
    }
    // SAFETY: `start..start + N` was just compared with the end of the packet, any bytes are a valid `[u8; N]`, and a program is the only
    // one to touch its packet. The window borrows the packet.
    Some(unsafe { &mut *(start as *mut [u8; N]) })
}

/// Where the note of a packet is, if that much was left with it.
#[inline(always)]
pub(super) fn note_at(packet: &impl Bounds) -> Option<*mut Note> {
    let start = packet.data_meta();
    (start + size_of::<Note>() <= packet.data()).then_some(start as *mut Note)
}
