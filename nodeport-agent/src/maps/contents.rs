//! Reading what the plan needs from a store.
//!
//! Owns which maps are read and how far. It refuses to know what they should hold. Invariant: it only reads.

use nodeport_common::NOTED_LEN;

use super::bytes::IpBytes;
use super::kind::{Addresses, Backends, Frontends, NotedPlaces, Serving, Sources};
use super::store::{Store, StoreError};
use crate::plan::{Contents, Limits, slots_named};

/// The maps of one address family as they are.
///
/// # Errors
/// A map that is not there or cannot be read.
pub fn read_contents<A: IpBytes>(store: &impl Store) -> Result<Contents<A>, StoreError> {
    let limits = Limits {
        frontends: store.limit::<Frontends<A>>()?,
        backends: store.limit::<Backends<A>>()?,
        addresses: store.limit::<Addresses<A>>()?,
        serving: store.limit::<Serving<A>>()?,
        sources: store.limit::<Sources<A>>()?,
    };
    let frontends = store.entries::<Frontends<A>>()?;
    let slots = slots_named(&frontends, limits.backends);
    let serving = store.entries::<Serving<A>>()?;
    let sources = store.entries::<Sources<A>>()?;
    Ok(Contents {
        limits,
        backends: store.head::<Backends<A>>(slots)?,
        frontends,
        addresses: store.entries::<Addresses<A>>()?,
        serving: serving.into_iter().map(|(key, _)| key).collect(),
        sources: sources.into_iter().map(|(key, _)| key).collect(),
        noted: store.head::<NotedPlaces<A>>(NOTED_LEN)?,
    })
}
