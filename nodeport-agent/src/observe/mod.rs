//! What the agent shows of itself: `status`, `dump`, log lines.
//!
//! Owns the forms in which state is shown. Refuses to change anything.

pub mod contents;
pub mod counters;
pub mod logging;
pub mod server;
pub mod status;
pub mod text;

pub use status::{Status, SyncStatus};
