//! Counting what became of packets.

use nodeport_common::{Counters, Hook, Outcome};

use super::maps::OUTCOMES;

/// Counts one packet on this CPU.
#[inline(always)]
pub(crate) fn count(hook: Hook, outcome: Outcome) {
    if let Some(counters) = OUTCOMES.get_ptr_mut(hook as u32) {
        let index = outcome as usize;
        if index < size_of::<Counters>() / size_of::<u64>() {
            // SAFETY: `Counters` is `repr(C)` with one u64 for each outcome in order, so `index` is inside it; the slot is this
            // CPU's own, and BPF programs of one CPU and hook do not interrupt each other.
            unsafe {
                let counter = counters.cast::<u64>().add(index);
                *counter += 1;
            }
        }
    }
}
