//! Programs in the kernel: loading, attaching, pinning, and the devices they are attached to.
//!
//! The only place that names `aya::programs`. Invariant: nothing here detaches a program because the agent ends.

mod adopt;
mod attach;
mod binds;
mod clean;
mod clock;
mod clsact;
mod config;
mod control;
pub mod devices;
mod error;
mod handover;
pub mod kernel;
mod layout;
mod lines;
mod links;
mod load;
mod lock;
mod netns;
mod pins;
mod ports;
pub mod preflight;
mod query;
mod sockets;

pub use attach::{Attached, Attacher, Mode, Target, XdpState, pinned_places};
pub use binds::Refusals;
pub use clean::{Removed, clean};
pub use config::{Config, DatapathLog, Sizes, SocketArgs, SocketScope, TcApi, XdpPolicy};
pub use control::{ControlMap, snat_ranges};
pub use error::{DatapathError, chain};
pub use layout::PINNED;
pub use lines::LogLines;
pub use load::{Loaded, load};
pub use lock::Lock;
pub use pins::{Pins, Place};
pub use ports::{NotAPortRange, PortRange, snat_segments};
pub use sockets::{SocketState, cover_sockets, pinned_hooks};
