//! A bounded map, as a BPF hash or LRU hash is.
//!
//! Invariant: values are shared and outlive their removal. They are leaked: a grace period that never ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::tables::InsertError;

/// A hash (refuses when full) or an LRU hash (evicts when full).
#[derive(Debug)]
pub struct Map<K, V: 'static> {
    /// Entries that it holds at most; 0 refuses all.
    pub capacity: usize,
    evicts: bool,
    inner: RefCell<Inner<K, V>>,
}

#[derive(Debug)]
struct Inner<K, V: 'static> {
    entries: BTreeMap<K, (u64, &'static V)>,
    /// When each key was last used, oldest first.
    uses: BTreeMap<u64, K>,
    clock: u64,
}

impl<K: Ord + Copy, V: 'static> Map<K, V> {
    /// An empty hash: full is full.
    #[must_use]
    pub const fn hash(capacity: usize) -> Self {
        Self::new(capacity, false)
    }

    /// An empty LRU hash: a new entry pushes out the one that was not used for longest.
    #[must_use]
    pub const fn lru(capacity: usize) -> Self {
        Self::new(capacity, true)
    }

    const fn new(capacity: usize, evicts: bool) -> Self {
        Self {
            capacity,
            evicts,
            inner: RefCell::new(Inner {
                entries: BTreeMap::new(),
                uses: BTreeMap::new(),
                clock: 0,
            }),
        }
    }

    /// The value of a key, which thereby is used.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&'static V> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let (used, value) = inner.entries.get_mut(key)?;
        if self.evicts {
            inner.uses.remove(used);
            inner.clock += 1;
            *used = inner.clock;
            inner.uses.insert(inner.clock, *key);
        }
        Some(value)
    }

    /// Inserts unless there is an entry with this key (`BPF_NOEXIST`).
    ///
    /// # Errors
    /// See [`InsertError`].
    pub fn add(&self, key: K, value: V) -> Result<(), InsertError> {
        if self.inner.borrow().entries.contains_key(&key) {
            return Err(InsertError::Exists);
        }
        self.put(key, value)
    }

    /// Inserts or replaces (`BPF_ANY`).
    ///
    /// # Errors
    /// [`InsertError::Full`].
    pub fn put(&self, key: K, value: V) -> Result<(), InsertError> {
        self.remove(&key);
        let mut inner = self.inner.borrow_mut();
        if inner.entries.len() >= self.capacity {
            let oldest = inner
                .uses
                .first_key_value()
                .map(|(used, key)| (*used, *key));
            let Some((used, oldest)) = oldest.filter(|_| self.evicts && self.capacity > 0) else {
                return Err(InsertError::Full);
            };
            inner.uses.remove(&used);
            inner.entries.remove(&oldest);
        }
        inner.clock += 1;
        let now = inner.clock;
        inner.uses.insert(now, key);
        inner.entries.insert(key, (now, Box::leak(Box::new(value))));
        Ok(())
    }

    /// Removes an entry; whoever holds its value may go on reading it.
    pub fn remove(&self, key: &K) {
        let mut inner = self.inner.borrow_mut();
        if let Some((used, _)) = inner.entries.remove(key) {
            inner.uses.remove(&used);
        }
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.borrow().entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All entries, by key.
    #[must_use]
    pub fn entries(&self) -> Vec<(K, &'static V)> {
        let inner = self.inner.borrow();
        inner
            .entries
            .iter()
            .map(|(key, (_, value))| (*key, *value))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_hash_refuses_and_keeps_what_it_has() {
        let map = Map::hash(2);
        assert_eq!(map.add(1, 'a'), Ok(()));
        assert_eq!(map.add(1, 'z'), Err(InsertError::Exists));
        assert_eq!(map.add(2, 'b'), Ok(()));
        assert_eq!(map.add(3, 'c'), Err(InsertError::Full));
        assert_eq!(map.put(2, 'y'), Ok(()));
        assert_eq!(map.entries(), [(1, &'a'), (2, &'y')]);
    }

    #[test]
    fn a_full_lru_pushes_out_what_was_not_used_for_longest() {
        let map = Map::lru(2);
        map.add(1, 'a').unwrap();
        map.add(2, 'b').unwrap();
        assert_eq!(map.get(&1), Some(&'a'));
        map.add(3, 'c').unwrap();
        assert_eq!(map.entries(), [(1, &'a'), (3, &'c')]);
    }

    #[test]
    fn no_capacity_refuses_even_in_an_lru() {
        assert_eq!(Map::lru(0).add(1, 'a'), Err(InsertError::Full));
    }

    #[test]
    fn a_removed_value_stays_readable() {
        let map = Map::hash(1);
        map.add(1, 'a').unwrap();
        let held = map.get(&1).unwrap();
        map.remove(&1);
        assert_eq!(map.get(&1), None);
        assert_eq!(*held, 'a');
        assert!(map.is_empty());
    }
}
