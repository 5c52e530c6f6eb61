//! Reading and writing maps, whatever they are kept in.
//!
//! Owns the operations and their errors. It refuses to know why something is written. Invariant: a write of many entries
//! that fails says how many were written before, in the order given.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;

use nodeport_common::Control;

use super::kind::{ArrayMap, Controls, HashMap, Map};
use super::layout::LayoutError;

/// An operation on a map that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The map is not there or cannot be opened.
    #[error("map {map}: cannot open {}: {source}", path.display())]
    Open {
        /// Name of the map.
        map: &'static str,
        /// Where it is pinned.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The map is laid out otherwise.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The store has no such map.
    #[error("map {map} is not part of this store")]
    Absent {
        /// Name of the map.
        map: &'static str,
    },
    /// There is no room for another entry, or no such index.
    #[error("map {map} is full")]
    Full {
        /// Name of the map.
        map: &'static str,
    },
    /// Reading failed.
    #[error("map {map}: read: {source}")]
    Read {
        /// Name of the map.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Writing failed.
    #[error("map {map}: {operation}: {source}")]
    Write {
        /// Name of the map.
        map: &'static str,
        /// `put` or `delete`.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl StoreError {
    /// Name of the map.
    #[must_use]
    pub fn map(&self) -> &'static str {
        match self {
            Self::Open { map, .. }
            | Self::Absent { map }
            | Self::Full { map }
            | Self::Read { map, .. }
            | Self::Write { map, .. } => map,
            Self::Layout(error) => error.map,
        }
    }
}

/// A write of many entries that stopped.
#[derive(Debug, thiserror::Error)]
#[error("{error} (after {done} entries)")]
pub struct Partial {
    /// How many entries, from the first on, were written before.
    pub done: usize,
    /// Why the next one was not.
    #[source]
    pub error: StoreError,
}

/// An entry of a map.
pub type Entry<M> = (<M as Map>::Key, <M as Map>::Value);

/// Somewhere that maps are kept in.
pub trait Store {
    /// How many entries fit into a map.
    ///
    /// # Errors
    /// The map is not there.
    fn limit<M: Map>(&self) -> Result<u32, StoreError>;

    /// One entry. Entries of arrays are always there.
    ///
    /// # Errors
    /// The map is not there or cannot be read.
    fn get<M: Map>(&self, key: &M::Key) -> Result<Option<M::Value>, StoreError>;

    /// The first `len` entries of an array.
    ///
    /// # Errors
    /// The map is not there, is shorter, or cannot be read.
    fn head<M: ArrayMap>(&self, len: u32) -> Result<Vec<M::Value>, StoreError>;

    /// Visits the entries of a map in portions, until the visitor breaks off. Entries that come or go meanwhile may be seen
    /// or not; those that stay are seen at least once.
    ///
    /// # Errors
    /// The map is not there or cannot be read.
    fn scan<M: HashMap>(
        &self,
        visit: &mut dyn FnMut(&[Entry<M>]) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Writes entries, whether they exist or not.
    ///
    /// # Errors
    /// The first entry that could not be written.
    fn put<M: Map>(&mut self, entries: &[Entry<M>]) -> Result<(), Partial>;

    /// Removes entries; those that do not exist are passed over.
    ///
    /// # Errors
    /// The first entry that could not be removed.
    fn delete<M: HashMap>(&mut self, keys: &[M::Key]) -> Result<(), Partial>;

    /// All entries of a map.
    ///
    /// # Errors
    /// As [`Store::scan`].
    fn entries<M: HashMap>(&self) -> Result<Vec<Entry<M>>, StoreError> {
        let mut all = Vec::new();
        self.scan::<M>(&mut |entries| {
            all.extend_from_slice(entries);
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }

    /// What the programs are told.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn control(&self) -> Result<Control, StoreError> {
        Ok(self.get::<Controls>(&0)?.unwrap_or_default())
    }

    /// Makes flows look again at their endpoint: UDP whether it still serves (behaviours 17.8), TCP that waits for an answer
    /// whether it is still there (edge-cases B11).
    ///
    /// # Errors
    /// `CONTROL` is not there or cannot be written.
    fn raise_endpoint_generation(&mut self) -> Result<(), StoreError>;
}
