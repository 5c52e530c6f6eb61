//! What the agent shows of itself: `status`, `dump`, health, metrics, log lines.
//!
//! Owns the forms in which state is shown. Refuses to change anything.

pub mod contents;
pub mod counters;
pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod server;
pub mod service_health;
pub mod status;
pub mod surface;
pub mod text;

pub use status::{Status, SyncStatus};
