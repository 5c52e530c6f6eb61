//! What is in the maps of one address family, as read, and how much fits.
//!
//! Owns the plain lists that a store gives and [`Installed`](super::Installed) is built from. It refuses to know what they
//! should be. Invariant: none; whatever is in the maps can be said here.

use nodeport_common::{Address, Backend, Frontend, FrontendKey, ServingKey, SourceRangeKey};

/// How many entries fit into each map: its `max_entries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Front ends.
    pub frontends: u32,
    /// Slots for backends.
    pub backends: u32,
    /// Addresses.
    pub addresses: u32,
    /// Endpoints that UDP flows may keep.
    pub serving: u32,
    /// Ranges of sources.
    #[serde(default)]
    pub sources: u32,
}

/// The maps of one family, in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents<A> {
    /// How much fits.
    pub limits: Limits,
    /// `FRONTENDS`.
    pub frontends: Vec<(FrontendKey<A>, Frontend)>,
    /// The beginning of `BACKENDS`, up to [`slots_named`] of the front ends or further.
    pub backends: Vec<Backend<A>>,
    /// `ADDRESSES`.
    pub addresses: Vec<(A, Address)>,
    /// The keys of `SERVING`.
    pub serving: Vec<ServingKey<A>>,
    /// The keys of `SOURCES`.
    pub sources: Vec<SourceRangeKey<A>>,
    /// `NOTED`.
    pub noted: Vec<u64>,
}

impl<A> Contents<A> {
    /// Empty maps.
    #[must_use]
    pub fn empty(limits: Limits) -> Self {
        Self {
            limits,
            frontends: Vec::new(),
            backends: Vec::new(),
            addresses: Vec::new(),
            serving: Vec::new(),
            sources: Vec::new(),
            noted: Vec::new(),
        }
    }
}

/// How many slots from the beginning of `BACKENDS` must be read to know every set that these front ends name.
#[must_use]
pub fn slots_named<A>(frontends: &[(FrontendKey<A>, Frontend)], capacity: u32) -> u32 {
    frontends
        .iter()
        .flat_map(|(_, value)| [(value.base, value.len), (value.local_base, value.local_len)])
        .filter(|&(_, len)| len > 0)
        .map(|(base, len)| base.saturating_add(len))
        .filter(|&end| end <= capacity)
        .max()
        .unwrap_or(0)
}
