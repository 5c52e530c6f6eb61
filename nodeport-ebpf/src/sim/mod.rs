//! A node on the host: frames, tables, a clock and routes, so that the datapath runs without a kernel, in tests and in tools.
//!
//! Owns what the kernel does around the datapath, as far as the datapath can tell: which bytes of a frame are in reach, what a full
//! or LRU map does, what a routing lookup answers, and in which order the hooks see a frame. Refuses to know how a packet is judged.
//!
//! Invariant: whatever [`Node`] hands out stays readable after it was removed, as under RCU, because it is never freed.

mod frame;
mod map;
mod node;
mod routes;
mod tables;

pub use frame::{Checksum, Frame, Skb, XdpFrame};
pub use map::Map;
pub use node::{Interrupt, Journey, Moment, Node};
pub use routes::Route;
pub use tables::{FamilyTables, SimFamily, View};
