//! Rewriting packets: addresses and ports of a packet, the packet that an ICMP error quotes, and the choice of source ports.
//! Knows nothing of Services.

pub mod icmp;
pub mod ports;
mod rewrite;

pub use rewrite::{Ends, translate};
