//! The maps: in the kernel, in memory, and with faults.
//!
//! Owns how entries are read and written. It refuses to know why: that is the plan's. Invariant: keys and values are those of
//! `nodeport-common`, byte for byte, whichever store holds them.

mod bytes;
mod contents;
mod faulty;
mod kernel;
mod kind;
mod layout;
mod memory;
mod store;
mod sys;

pub use bytes::{Bytes, IpBytes};
pub use contents::read_contents;
pub use faulty::{Faults, FaultyStore};
pub use kernel::{KernelMap, KernelStore};
pub use kind::{
    Addresses, Affinities, ArrayMap, Backends, Controls, Devices, Flows, Fragments4, Fragments6,
    Frontends, HashMap, Kind, Map, NotedPlaces, Outcomes, Pending, Rejects, Serving, SnatCursors,
    Sockets4, Sockets6, Sources, layouts,
};
pub use layout::{Layout, LayoutError};
pub use memory::MemoryStore;
pub use store::{Entry, Partial, Store, StoreError};

#[cfg(test)]
mod trie_tests;

#[cfg(test)]
pub(crate) use kernel::tests::store as real_maps;
