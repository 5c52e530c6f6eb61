//! What the agent shows of itself: `status`, `dump`, log lines.
//!
//! Owns the forms in which state is shown. Refuses to change anything.

pub mod counters;
pub mod logging;
pub mod server;
pub mod status;

pub use status::{Status, SyncStatus};
