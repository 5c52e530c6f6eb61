//! Where the lines of busy flows lie, and the epochs of tuples.
//!
//! Owns both arrays, and which part of the lines is whose. Refuses to know when a line is good: that is the library's `path/line.rs`.
//! Invariant: a CPU looks at its own lines only, and no epoch of a cell ever comes back.

use core::cell::Cell;

use aya_ebpf::helpers::generated;
use nodeport_common::Control;
use nodeport_ebpf::tables::Line;

use super::family::KernelFamily;
use super::maps::{DISTURBED, EPOCHS, EPOCHS_LEN};

/// Bits of an epoch that say which CPU wrote it.
const CPU_BITS: u32 = 10;

/// Which CPU this is.
#[inline(always)]
fn cpu() -> u32 {
    // SAFETY: the helper has no arguments and no effects.
    unsafe { generated::bpf_get_smp_processor_id() }
}

/// Where the epoch of a hash is; not by the bits that choose its line.
#[inline(always)]
fn place(hash: u32) -> u32 {
    hash >> 16 & (EPOCHS_LEN - 1)
}

/// One of this CPU's lines for a hash.
#[inline(always)]
pub(super) fn line<A: KernelFamily>(
    control: &Control,
    hash: u32,
    place: u32,
) -> Option<&'static Line<A>> {
    let mask = control.lines_per_cpu.checked_sub(1)?;
    A::lines().get(cpu() * (mask + 1) + ((hash ^ place) & mask))
}

/// See [`nodeport_ebpf::tables::Tables::epoch`].
#[inline(always)]
pub(super) fn epoch(hash: u32) -> u32 {
    EPOCHS.get(place(hash)).map_or(0, Cell::get)
}

/// See [`nodeport_ebpf::tables::Tables::disturb`].
#[inline(always)]
pub(super) fn disturb(hash: u32) {
    let Some(count) = DISTURBED.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own slot; programs of one CPU do not interrupt each other (they run with bottom halves off).
    let number = unsafe {
        *count = (*count).wrapping_add(1);
        *count
    };
    // Of each CPU its own numbers: what two of them write at once is not what was there before, nor what the other writes.
    let epoch = number << CPU_BITS | cpu() & ((1 << CPU_BITS) - 1);
    if let Some(cell) = EPOCHS.get(place(hash)) {
        cell.set(epoch);
    }
}
