//! What is known of the device that a packet came by, without a look into a hash for each packet.
//!
//! Each CPU remembers what `DEVICES` said, by the low bits of the interface index. Invariant: what is remembered is of the current route
//! generation. The agent raises that after it wrote `DEVICES`, so an old value never outlives the raise.

use nodeport_common::{Control, Device};

use super::maps::{DEVICE_COPIES, DEVICE_COPIES_LEN, DEVICES};

/// What `DEVICES` said of one device. 48 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct DeviceCopy {
    /// Interface index.
    index: u32,
    /// Route generation at which it was read; never 0 but in a slot that was not used yet.
    generation: u32,
    device: Device,
}

/// What is known of a device. `None` if the agent has not set it up (yet): then nothing may be done to its packets.
#[inline(always)]
pub(crate) fn known(index: u32, control: &Control) -> Option<&'static Device> {
    let generation = control.route_generation;
    let slot = DEVICE_COPIES.get_ptr_mut(index & (DEVICE_COPIES_LEN - 1))?;
    // SAFETY: this CPU's own slot. Our programs do not interrupt each other on a CPU (they run with bottom halves off), and none keeps the
    // reference beyond its packet. All integers, so whatever is there is valid.
    let copy = unsafe { &mut *slot };
    if generation == 0 {
        return None;
    }
    if copy.index != index || copy.generation != generation {
        // SAFETY: the entry stays readable for the packet's life (RCU); the agent replaces entries, and never writes into one.
        copy.device = *unsafe { DEVICES.get(index) }?;
        copy.index = index;
        copy.generation = generation;
    }
    Some(&copy.device)
}
