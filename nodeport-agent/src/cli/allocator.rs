//! What the C library's allocator keeps of memory that was given back.
//!
//! Objects are read in large pieces that are gone a moment later, by several threads. By default each thread has a heap of its own, and holes in
//! them stay with the process: of 10,000 Services from files, 16 MiB in 74. Invariant: nothing but the allocator's habits changes.

/// Sizes from which on an allocation is a mapping of its own, and goes back to the kernel as soon as it is freed: of texts and lists, not of
/// objects. Said once, it no longer grows with what is allocated.
const OF_ITS_OWN: libc::c_int = 64 * 1024;
/// Heaps of all threads together.
const HEAPS: libc::c_int = 2;

/// Has it keep little. To be called before there are threads.
pub(super) fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in [
        (libc::M_MMAP_THRESHOLD, OF_ITS_OWN),
        (libc::M_ARENA_MAX, HEAPS),
    ] {
        // SAFETY: two numbers; the only thread calls it, before it has made others.
        let taken = unsafe { libc::mallopt(setting, value) };
        debug_assert_eq!(taken, 1, "mallopt(3) knows the setting");
    }
}
