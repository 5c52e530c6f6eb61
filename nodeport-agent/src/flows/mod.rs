//! The life of flows: when one is over, and how it is removed without harming a live one.

pub mod expiry;
pub mod pair;
pub mod pass;
pub mod snat;
mod table;
pub mod tally;
pub mod verdict;

pub use expiry::{Expiry, ExpiryError};
pub use pass::{FlowTable, Walked, Walker};
pub use snat::SnatPorts;
pub use tally::Tally;
pub use verdict::{Lifetimes, Now, Table, Verdict};
