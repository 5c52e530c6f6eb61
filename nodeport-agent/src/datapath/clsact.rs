//! TC programs on kernels without TCX (before 6.6): filters of a clsact qdisc.
//!
//! Owns our filter's place: one priority and one handle. Refuses to touch other filters. Invariant: a filter that is there is
//! replaced in one step, and dropping anything here detaches nothing.

use std::mem;
use std::time::SystemTime;

use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::attach::{Attached, Mode};

/// Low numbers run first. 1 is what others take when they must be first at any price; we need not.
const PRIORITY: u16 = 7;
/// "np", so that `tc filter show` tells whose it is.
const HANDLE: TcHandle = TcHandle::new(0, 0x6e70);

/// Attaches `program`, or replaces the one that our predecessor left in the same place.
pub(super) fn attach(
    program: &mut SchedClassifier,
    device: &str,
    direction: TcAttachType,
) -> Result<Attached, ProgramError> {
    // An error here means that the qdisc is there already; any other reason shows in the next call.
    let _exists: Result<(), TcError> = tc::qdisc_add_clsact(device);
    let old = SchedClassifierLink::attached(device, direction, PRIORITY, HANDLE, None)?;
    let (id, taken_over) = match program.attach_to_link(old) {
        Ok(id) => (id, true),
        Err(_) => (
            program.attach_with_options(
                device,
                direction,
                TcAttachOptions::Netlink(NlOptions {
                    priority: PRIORITY,
                    handle: HANDLE,
                    classid: None,
                }),
            )?,
            false,
        ),
    };
    // Dropping the link would remove the filter, which must outlive us.
    mem::forget(program.take_link(id)?);
    Ok(Attached {
        mode: Mode::Clsact,
        since: SystemTime::now(),
        taken_over,
    })
}

/// Removes our filters of one device. Returns whether there was one.
pub(super) fn detach(device: &str, direction: TcAttachType, program: &str) -> bool {
    tc::qdisc_detach_program(device, direction, program).is_ok()
}
