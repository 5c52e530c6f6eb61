//! Maps kept in memory, with the limits of real ones.
//!
//! Owns bytes by map name, as the kernel does. It refuses to know types beyond their bytes. Invariant: an entry that does not
//! fit is refused and changes nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::bytes::{Bytes, encode};
use super::kind::{ArrayMap, Controls, HashMap, Kind, Map};
use super::store::{Entry, Partial, Store, StoreError};
use crate::plan::{Ip, Limits};

/// Maps in memory: every map of the ABI is there, of a size that can be chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStore {
    maps: BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>,
    limits: BTreeMap<&'static str, u32>,
}

/// Size of a map for which none was chosen.
const LIMIT: u32 = 65536;

impl MemoryStore {
    /// Empty maps of one size.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the size of one map.
    #[must_use]
    pub fn with_limit<M: Map>(mut self, limit: u32) -> Self {
        self.limits.insert(M::NAME, limit);
        self
    }

    /// Chooses the sizes of the maps of one family.
    #[must_use]
    pub fn with_limits<A: Ip>(mut self, limits: Limits) -> Self {
        self.limits.extend([
            (A::FRONTENDS, limits.frontends),
            (A::BACKENDS, limits.backends),
            (A::ADDRESSES, limits.addresses),
            (A::SERVING, limits.serving),
            (A::SOURCES, limits.sources),
        ]);
        self
    }

    fn limit_of<M: Map>(&self) -> u32 {
        let chosen = M::LEN.or_else(|| self.limits.get(M::NAME).copied());
        chosen.unwrap_or(LIMIT)
    }

    fn put_one<M: Map>(&mut self, (key, value): &Entry<M>) -> Result<(), StoreError> {
        let limit = self.limit_of::<M>();
        let map = self.maps.entry(M::NAME).or_default();
        let key = encode([*key].iter());
        let fits = match M::KIND {
            Kind::Array | Kind::PerCpuArray => u32::get(&key) < limit,
            // An LRU map would push out another entry; here it grows.
            Kind::LruHash => true,
            Kind::Hash | Kind::LpmTrie => map.contains_key(&key) || map.len() < limit as usize,
        };
        if !fits {
            return Err(StoreError::Full { map: M::NAME });
        }
        map.insert(key, encode([*value].iter()));
        Ok(())
    }
}

impl Store for MemoryStore {
    fn limit<M: Map>(&self) -> Result<u32, StoreError> {
        Ok(self.limit_of::<M>())
    }

    fn get<M: Map>(&self, key: &M::Key) -> Result<Option<M::Value>, StoreError> {
        let key = encode([*key].iter());
        let map = self.maps.get(M::NAME);
        let value = map.and_then(|map| map.get(&key));
        let zero = match M::KIND {
            Kind::Array | Kind::PerCpuArray if u32::get(&key) < self.limit_of::<M>() => {
                Some(vec![0; M::Value::SIZE])
            }
            _ => None,
        };
        Ok(value.or(zero.as_ref()).map(|bytes| M::Value::get(bytes)))
    }

    fn head<M: ArrayMap>(&self, len: u32) -> Result<Vec<M::Value>, StoreError> {
        if len > self.limit_of::<M>() {
            return Err(StoreError::Full { map: M::NAME });
        }
        let mut values = vec![M::Value::get(&vec![0; M::Value::SIZE]); len as usize];
        for (key, value) in self.maps.get(M::NAME).into_iter().flatten() {
            if let Some(own) = values.get_mut(u32::get(key) as usize) {
                *own = M::Value::get(value);
            }
        }
        Ok(values)
    }

    fn scan<M: HashMap>(
        &self,
        visit: &mut dyn FnMut(&[Entry<M>]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let entries = self.maps.get(M::NAME).into_iter().flatten();
        let entries: Vec<Entry<M>> = entries
            .map(|(key, value)| (M::Key::get(key), M::Value::get(value)))
            .collect();
        for portion in entries.chunks(256) {
            if visit(portion).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn put<M: Map>(&mut self, entries: &[Entry<M>]) -> Result<(), Partial> {
        for (done, entry) in entries.iter().enumerate() {
            self.put_one::<M>(entry)
                .map_err(|error| Partial { done, error })?;
        }
        Ok(())
    }

    fn delete<M: HashMap>(&mut self, keys: &[M::Key]) -> Result<(), Partial> {
        let map = self.maps.entry(M::NAME).or_default();
        for key in keys {
            map.remove(&encode([*key].iter()));
        }
        Ok(())
    }

    fn raise_endpoint_generation(&mut self) -> Result<(), StoreError> {
        let mut control = self.control()?;
        control.endpoint_generation = control.endpoint_generation.checked_add(1).unwrap_or(1);
        self.put_one::<Controls>(&(0, control))
    }
}

#[cfg(test)]
mod tests {
    use nodeport_common::{Address, Backend, V4};

    use super::*;
    use crate::maps::{Addresses, Backends};

    #[test]
    fn a_full_map_takes_changes_but_nothing_new() {
        let mut store = MemoryStore::new().with_limit::<Addresses<V4>>(2);
        let entry = |last: u8, flags: u32| ([10, 0, 0, last], Address { flags });
        let error = store
            .put::<Addresses<V4>>(&[entry(1, 1), entry(2, 1), entry(3, 1)])
            .expect_err("two fit");
        assert_eq!(error.done, 2);
        assert!(matches!(
            error.error,
            StoreError::Full { map: "ADDRESSES4" }
        ));
        store
            .put::<Addresses<V4>>(&[entry(1, 4)])
            .expect("a change needs no room");
        store
            .delete::<Addresses<V4>>(&[[10, 0, 0, 2], [10, 0, 0, 9]])
            .expect("what is absent is passed over");
        store
            .put::<Addresses<V4>>(&[entry(3, 1)])
            .expect("room again");
        let entries = store.entries::<Addresses<V4>>().expect("readable");
        assert_eq!(entries, [entry(1, 4), entry(3, 1)]);
    }

    #[test]
    fn an_array_is_zero_at_first_and_has_an_end() {
        let mut store = MemoryStore::new().with_limit::<Backends<V4>>(3);
        let slot = Backend {
            address: [10, 0, 0, 1],
            port: [0, 80],
            flags: 1,
        };
        store.put::<Backends<V4>>(&[(2, slot)]).expect("in range");
        let head = store.head::<Backends<V4>>(3).expect("in range");
        assert_eq!((head[0].address, head[2]), ([0; 4], slot));
        assert!(store.head::<Backends<V4>>(4).is_err());
        assert!(store.put::<Backends<V4>>(&[(3, slot)]).is_err());
    }
}
