//! The devices of this node: what they are, which programs they get, and how both follow the kernel.

pub mod advice;
pub mod classify;
pub mod cover;
mod events;
pub mod follow;
mod hops;
pub mod inventory;
pub mod neighbours;
mod netlink;
mod table;
mod xdp_features;

pub use classify::{Criteria, Role};
pub use cover::{Cover, DeviceState, HookState};
pub use follow::{Follower, Observed};
pub use hops::{Hop, UsedHops};
pub use table::DeviceTable;

use crate::datapath::DatapathError;
use inventory::Inventory;

/// The devices of this network namespace as they are now. Needs no privileges.
///
/// # Errors
/// [`DatapathError::Netlink`].
pub async fn inventory() -> Result<Inventory, DatapathError> {
    let (reader, answers) = netlink::Reader::open()?;
    let answers = tokio::spawn(answers);
    let inventory = reader.inventory().await;
    answers.abort();
    inventory
}
