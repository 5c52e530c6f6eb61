//! A store whose writes fail when a test says so.
//!
//! Owns the choice of the entries that fail. It refuses to know what they mean. Invariant: reads never fail, and every entry
//! written is counted once.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;

use super::kind::{ArrayMap, Controls, HashMap, Map};
use super::store::{Entry, Partial, Store, StoreError};

/// Which written entries fail. Entries are counted from 0 over all maps, deletions included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Faults {
    /// None.
    #[default]
    Never,
    /// These.
    At(BTreeSet<u64>),
    /// This one and all after it, as if the process had been killed there.
    From(u64),
    /// So many in a hundred, by a sequence that the seed determines.
    Percent {
        /// How many in a hundred.
        percent: u8,
        /// Seed.
        seed: u64,
    },
}

/// Passes reads and writes on to another store, and fails some of the writes.
#[derive(Clone, Debug)]
pub struct FaultyStore<S> {
    inner: S,
    faults: Faults,
    /// Every second failing entry is written and reported as failed all the same.
    lies: bool,
    count: u64,
}

impl<S> FaultyStore<S> {
    /// A store that fails as `faults` say, each time before anything was written.
    pub fn new(inner: S, faults: Faults) -> Self {
        Self {
            inner,
            faults,
            lies: false,
            count: 0,
        }
    }

    /// Lets every second failing entry be written before it is reported as failed.
    #[must_use]
    pub fn lying(mut self) -> Self {
        self.lies = true;
        self
    }

    /// Chooses anew which writes fail. The count goes on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// How many entries were written or failed.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The store behind.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The store behind, past the faults.
    pub fn inner_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The store behind, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Counts entries up to the first that fails; `None` if all succeed.
    fn first_fault(&mut self, len: usize) -> Option<usize> {
        for index in 0..len {
            let number = self.count;
            self.count += 1;
            let fails = match &self.faults {
                Faults::Never => false,
                Faults::At(numbers) => numbers.contains(&number),
                Faults::From(first) => number >= *first,
                Faults::Percent { percent, seed } => mix(seed ^ number) % 100 < u64::from(*percent),
            };
            if fails {
                return Some(index);
            }
        }
        None
    }

    /// Runs a write of `len` entries, up to the one that fails.
    fn write(
        &mut self,
        map: &'static str,
        operation: &'static str,
        len: usize,
        write: impl Fn(&mut S, usize) -> Result<(), Partial>,
    ) -> Result<(), Partial> {
        let Some(done) = self.first_fault(len) else {
            return write(&mut self.inner, len);
        };
        let lie = self.lies
            && !matches!(self.faults, Faults::From(_))
            && mix(self.count).is_multiple_of(2);
        write(&mut self.inner, done + usize::from(lie))?;
        let source = io::Error::other("injected");
        Err(Partial {
            done,
            error: StoreError::Write {
                map,
                operation,
                source,
            },
        })
    }
}

/// The finaliser of `SplitMix64` (Steele, Lea, Flood 2014): spreads consecutive numbers over all bits.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl<S: Store> Store for FaultyStore<S> {
    fn limit<M: Map>(&self) -> Result<u32, StoreError> {
        self.inner.limit::<M>()
    }

    fn get<M: Map>(&self, key: &M::Key) -> Result<Option<M::Value>, StoreError> {
        self.inner.get::<M>(key)
    }

    fn head<M: ArrayMap>(&self, len: u32) -> Result<Vec<M::Value>, StoreError> {
        self.inner.head::<M>(len)
    }

    fn scan<M: HashMap>(
        &self,
        visit: &mut dyn FnMut(&[Entry<M>]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.scan::<M>(visit)
    }

    fn put<M: Map>(&mut self, entries: &[Entry<M>]) -> Result<(), Partial> {
        self.write(M::NAME, "put", entries.len(), |inner, len| {
            inner.put::<M>(&entries[..len])
        })
    }

    fn delete<M: HashMap>(&mut self, keys: &[M::Key]) -> Result<(), Partial> {
        self.write(M::NAME, "delete", keys.len(), |inner, len| {
            inner.delete::<M>(&keys[..len])
        })
    }

    fn raise_endpoint_generation(&mut self) -> Result<(), StoreError> {
        let raise = |inner: &mut S, len| {
            let raised = (0..len).try_for_each(|_| inner.raise_endpoint_generation());
            raised.map_err(|error| Partial { done: 0, error })
        };
        self.write(Controls::NAME, "raise the endpoint generation", 1, raise)
            .map_err(|partial| partial.error)
    }
}

#[cfg(test)]
mod tests {
    use nodeport_common::{Address, V4};

    use super::*;
    use crate::maps::{Addresses, MemoryStore};

    fn entries(count: u8) -> Vec<Entry<Addresses<V4>>> {
        (0..count)
            .map(|last| ([10, 0, 0, last], Address { flags: 1 }))
            .collect()
    }

    fn written(store: &FaultyStore<MemoryStore>) -> usize {
        let entries = store.entries::<Addresses<V4>>();
        entries.expect("reads do not fail").len()
    }

    #[test]
    fn the_chosen_entry_fails_and_those_before_it_are_written() {
        let faults = Faults::At([2, 3].into());
        let mut store = FaultyStore::new(MemoryStore::new(), faults);
        let error = store
            .put::<Addresses<V4>>(&entries(5))
            .expect_err("entry 2 fails");
        assert_eq!((error.done, written(&store)), (2, 2));
        let error = store
            .delete::<Addresses<V4>>(&[[10, 0, 0, 0]])
            .expect_err("so does 3");
        assert_eq!((error.done, written(&store)), (0, 2));
        store
            .put::<Addresses<V4>>(&entries(5))
            .expect("the rest succeeds");
        assert_eq!((written(&store), store.count()), (5, 9));
    }

    #[test]
    fn ten_percent_are_about_ten_percent() {
        let faults = Faults::Percent {
            percent: 10,
            seed: 7,
        };
        let mut store = FaultyStore::new(MemoryStore::new(), faults);
        let failed = (0..10_000)
            .filter(|_| store.put::<Addresses<V4>>(&entries(1)).is_err())
            .count();
        assert!((900..1100).contains(&failed), "{failed} of 10000");
    }

    #[test]
    fn a_liar_sometimes_writes_what_it_reports_as_failed() {
        let faults = Faults::Percent {
            percent: 100,
            seed: 0,
        };
        let mut store = FaultyStore::new(MemoryStore::new(), faults).lying();
        for entry in entries(100) {
            assert!(store.put::<Addresses<V4>>(&[entry]).is_err());
        }
        assert!((20..80).contains(&written(&store)), "{}", written(&store));
    }
}
