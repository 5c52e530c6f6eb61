//! Maps in the kernel, by their pins.
//!
//! Owns open maps. It refuses to know who pinned them and when they go. Invariant: a map is used only if its kind and the sizes
//! of its keys and values are those of the ABI.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use aya::maps::MapData;
use nodeport_common::{Counters, Hook, Outcome, maps};

use super::bytes::{Bytes, encode};
use super::kind::{ArrayMap, HashMap, Kind, Map, Outcomes, layouts};
use super::layout::Layout;
use super::store::{Entry, Partial, Store, StoreError};
use super::sys::{ANY, NO_EXIST, Position, RawMap, io_error};

/// Entries that are read or written with one system call.
const PORTION: usize = 4096;

/// Raises the endpoint generation in `CONTROL`, which has an owner of its own.
type Raise = dyn Fn() -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync;

/// All maps of the ABI. Clones share the open maps.
#[derive(Clone)]
pub struct KernelStore {
    maps: Arc<BTreeMap<&'static str, Arc<RawMap>>>,
    raise: Option<Arc<Raise>>,
}

/// One map, to be used from any thread.
#[derive(Debug)]
pub struct KernelMap<M> {
    raw: Arc<RawMap>,
    map: PhantomData<fn() -> M>,
}

impl KernelStore {
    /// Opens the maps that are pinned in a directory under their names.
    ///
    /// # Errors
    /// The first map that is not there, cannot be opened, or is laid out otherwise.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::from_maps(|map| {
            let path = directory.join(map);
            MapData::from_pin(&path).map_err(|error| StoreError::Open {
                map,
                path,
                source: io_error(error),
            })
        })
    }

    /// Takes maps from wherever they are, by name.
    ///
    /// # Errors
    /// The first map that `open` does not give, or that is laid out otherwise.
    pub fn from_maps(
        mut open: impl FnMut(&'static str) -> Result<MapData, StoreError>,
    ) -> Result<Self, StoreError> {
        let maps = layouts()
            .into_iter()
            .map(|layout| Ok((layout.map, Arc::new(take(&layout, open(layout.map)?)?))))
            .collect::<Result<_, StoreError>>()?;
        Ok(Self {
            maps: Arc::new(maps),
            raise: None,
        })
    }

    /// Says how the endpoint generation is raised. Without it the store can only be read as far as plans are concerned.
    #[must_use]
    pub fn raising<E: Into<Box<dyn Error + Send + Sync>>>(
        mut self,
        raise: impl Fn() -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.raise = Some(Arc::new(move || raise().map_err(Into::into)));
        self
    }

    /// One map.
    ///
    /// # Errors
    /// It is a per-CPU map, which has several values for a key.
    pub fn map<M: Map>(&self) -> Result<KernelMap<M>, StoreError> {
        let absent = StoreError::Absent { map: M::NAME };
        if M::KIND == Kind::PerCpuArray {
            return Err(absent);
        }
        let raw = self.maps.get(M::NAME).ok_or(absent)?.clone();
        Ok(KernelMap {
            raw,
            map: PhantomData,
        })
    }

    /// How many entries fit into each map.
    pub fn capacities(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.maps.iter().map(|(name, raw)| (*name, raw.max_entries))
    }

    /// Packets by outcome at each hook, over all CPUs.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn outcomes(&self) -> Result<Vec<(Hook, Counters)>, StoreError> {
        let map = Outcomes::NAME;
        let raw = self.maps.get(map).ok_or(StoreError::Absent { map })?;
        let sum = |hook: &Hook| {
            let key = (*hook as u32).to_ne_bytes();
            let values = raw.lookup(&key).map_err(read_error(map))?;
            let mut total = Counters::default();
            for cpu in values.unwrap_or_default().chunks_exact(Counters::SIZE) {
                let counters = <Counters as Bytes>::get(cpu);
                for outcome in Outcome::ALL {
                    let sum = total.get_mut(*outcome);
                    *sum = sum.wrapping_add(counters.get(*outcome));
                }
            }
            Ok((*hook, total))
        };
        Hook::ALL.iter().map(sum).collect()
    }
}

impl fmt::Debug for KernelStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.maps.keys();
        f.debug_struct("KernelStore")
            .field("maps", &names)
            .finish_non_exhaustive()
    }
}

impl<M: Map> KernelMap<M> {
    /// One entry.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn get(&self, key: &M::Key) -> Result<Option<M::Value>, StoreError> {
        let value = self.raw.lookup(&encode([*key].iter()));
        let value = value.map_err(read_error(M::NAME))?;
        Ok(value.map(|bytes| M::Value::get(&bytes)))
    }

    /// Adds an entry, unless there is one with this key. Returns whether it was added.
    ///
    /// # Errors
    /// The map is full or cannot be written.
    pub fn add(&self, key: &M::Key, value: &M::Value) -> Result<bool, StoreError> {
        let (key, value) = (encode([*key].iter()), encode([*value].iter()));
        self.raw
            .update(&key, &value, NO_EXIST)
            .map_err(write_error(M::NAME, "add"))
    }

    /// Removes an entry. Returns whether it was there.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn remove(&self, key: &M::Key) -> Result<bool, StoreError> {
        self.raw
            .delete(&encode([*key].iter()))
            .map_err(write_error(M::NAME, "delete"))
    }

    /// Visits the entries in portions, until the visitor breaks off; see [`Store::scan`].
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn scan(
        &self,
        visit: &mut dyn FnMut(&[Entry<M>]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut portion = PORTION;
        let mut position = Position::default();
        let mut entries = Vec::new();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        loop {
            keys.resize(portion * M::Key::SIZE, 0);
            values.resize(portion * M::Value::SIZE, 0);
            let read = self
                .raw
                .lookup_batch(&mut position, &mut keys, &mut values)
                .map_err(read_error(M::NAME))?;
            let Some((count, last)) = read else {
                // One bucket of the hash table has more entries than that.
                portion *= 2;
                continue;
            };
            entries.clear();
            let read = keys.chunks_exact(M::Key::SIZE).map(M::Key::get);
            let read = read.zip(values.chunks_exact(M::Value::SIZE).map(M::Value::get));
            entries.extend(read.take(count));
            if (!entries.is_empty() && visit(&entries).is_break()) || last {
                return Ok(());
            }
        }
    }

    fn put(&self, entries: &[Entry<M>]) -> Result<(), Partial> {
        if let [(key, value)] = entries {
            let (key, value) = (encode([*key].iter()), encode([*value].iter()));
            let written = self.raw.update(&key, &value, ANY);
            return written.map(drop).map_err(|error| Partial {
                done: 0,
                error: write_error(M::NAME, "put")(error),
            });
        }
        for (index, portion) in entries.chunks(PORTION).enumerate() {
            let keys = encode(portion.iter().map(|entry| &entry.0));
            let values = encode(portion.iter().map(|entry| &entry.1));
            let written = self.raw.update_batch(&keys, &values);
            written.map_err(|(done, error)| Partial {
                done: index * PORTION + done,
                error: write_error(M::NAME, "put")(error),
            })?;
        }
        Ok(())
    }

    fn delete(&self, keys: &[M::Key]) -> Result<(), Partial> {
        let mut start = 0;
        while start < keys.len() {
            let portion = &keys[start..keys.len().min(start + PORTION)];
            match self.raw.delete_batch(&encode(portion.iter())) {
                Ok(()) => start += portion.len(),
                // One that is not there: pass it over.
                Err((done, error)) if error.raw_os_error() == Some(libc::ENOENT) => {
                    start += done + 1;
                }
                Err((done, error)) => {
                    return Err(Partial {
                        done: start + done,
                        error: write_error(M::NAME, "delete")(error),
                    });
                }
            }
        }
        Ok(())
    }
}

impl Store for KernelStore {
    fn limit<M: Map>(&self) -> Result<u32, StoreError> {
        Ok(self.map::<M>()?.raw.max_entries)
    }

    fn get<M: Map>(&self, key: &M::Key) -> Result<Option<M::Value>, StoreError> {
        self.map::<M>()?.get(key)
    }

    fn head<M: ArrayMap>(&self, len: u32) -> Result<Vec<M::Value>, StoreError> {
        let map = self.map::<M>()?;
        if len > map.raw.max_entries {
            return Err(StoreError::Full { map: M::NAME });
        }
        let mut head: Vec<M::Value> = Vec::with_capacity(len as usize);
        let wanted = len as usize;
        if wanted > 0 {
            map.scan(&mut |entries| {
                let missing = wanted - head.len();
                head.extend(entries.iter().take(missing).map(|entry| entry.1));
                if head.len() < wanted {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        }
        Ok(head)
    }

    fn scan<M: HashMap>(
        &self,
        visit: &mut dyn FnMut(&[Entry<M>]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.map::<M>()?.scan(visit)
    }

    fn put<M: Map>(&mut self, entries: &[Entry<M>]) -> Result<(), Partial> {
        let map = self.map::<M>();
        map.map_err(|error| Partial { done: 0, error })?
            .put(entries)
    }

    fn delete<M: HashMap>(&mut self, keys: &[M::Key]) -> Result<(), Partial> {
        let map = self.map::<M>();
        map.map_err(|error| Partial { done: 0, error })?
            .delete(keys)
    }

    fn raise_endpoint_generation(&mut self) -> Result<(), StoreError> {
        let raised = match &self.raise {
            Some(raise) => raise(),
            None => Err("the maps were opened for reading".into()),
        };
        raised.map_err(|error| StoreError::Write {
            map: maps::CONTROL,
            operation: "raise the endpoint generation",
            source: io::Error::other(error),
        })
    }
}

/// Takes a map if it is laid out as the ABI says.
fn take(layout: &Layout, data: MapData) -> Result<RawMap, StoreError> {
    let info = data
        .info()
        .map_err(|error| read_error(layout.map)(io_error(error)))?;
    layout.check(&info)?;
    RawMap::new(data, layout.kind, &info).map_err(read_error(layout.map))
}

fn read_error(map: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Read { map, source }
}

fn write_error(map: &'static str, operation: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    move |source| match source.raw_os_error() {
        // Hash tables say the first, tries the second.
        Some(libc::E2BIG | libc::ENOSPC) => StoreError::Full { map },
        _ => StoreError::Write {
            map,
            operation,
            source,
        },
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
pub(crate) mod tests;
