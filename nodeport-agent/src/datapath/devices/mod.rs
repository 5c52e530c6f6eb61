//! The devices of this node: what they are, which programs they get, and how both follow the kernel.

pub mod classify;
pub mod cover;
pub mod follow;
pub mod inventory;
pub mod neighbours;
mod netlink;
mod table;

pub use classify::{Criteria, Role};
pub use cover::{Cover, DeviceState, HookState};
pub use follow::{Follower, Observed};
pub use table::DeviceTable;
