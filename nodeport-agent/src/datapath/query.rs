//! Which programs are attached to a TCX hook, by their ids alone.
//!
//! aya's query opens each of them, which takes `CAP_SYS_ADMIN`, and an agent in a container has not that. Owns this one call of bpf(2).

use std::io;

use aya::programs::TcAttachType;

// From the kernel's include/uapi/linux/bpf.h.
const PROG_QUERY: libc::c_long = 16;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// The kernel's limit of programs on a hook (`BPF_MPROG_MAX`).
const MOST: usize = 64;

/// The operands, as far as the kernel needs them (`query` of `union bpf_attr`).
#[derive(Default)]
#[repr(C)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Ids of the programs on a hook of a device of this network namespace, in order.
///
/// # Errors
/// What the kernel says; before Linux 6.6 it knows no such hooks.
pub(super) fn tcx_programs(device: u32, direction: TcAttachType) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MOST];
    let mut query = Query {
        target_ifindex: device,
        attach_type: match direction {
            TcAttachType::Egress => TCX_EGRESS,
            _ => TCX_INGRESS,
        },
        prog_ids: ids.as_mut_ptr() as u64,
        count: MOST as u32,
        ..Query::default()
    };
    // SAFETY: the operands are laid out as `union bpf_attr` has them for this command, and the kernel is told their size. The one address in
    // them is that of `ids`, which lives until the call returns, and to which the kernel writes `count` numbers at most.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_QUERY,
            std::ptr::from_mut(&mut query),
            size_of::<Query>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ids.into_iter().take(query.count as usize).collect())
}
