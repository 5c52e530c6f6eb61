//! Loops whose body the verifier walks through a few times, and not once for each step.

use core::ffi::c_void;

use aya_ebpf::helpers::generated;

/// `bpf_loop` (Linux 5.17) with a closure.
#[inline(always)]
pub(super) fn repeat<F: FnMut(u32) -> bool>(times: u32, step: &mut F) {
    /// What the kernel calls: 0 goes on, 1 ends.
    unsafe extern "C" fn call<F: FnMut(u32) -> bool>(index: u32, step: *mut c_void) -> i64 {
        // SAFETY: what `repeat` gave to the kernel, which is the closure, borrowed by nobody else meanwhile.
        let step = unsafe { &mut *step.cast::<F>() };
        i64::from(!step(index))
    }
    let step = core::ptr::from_mut(step).cast();
    // SAFETY: the kernel calls the function before it returns, with the pointer that goes with it.
    unsafe { generated::bpf_loop(times, call::<F> as *mut c_void, step, 0) };
}
