//! The maps that are written to.
//!
//! Owns their sizes, which are the agent's defaults. It refuses to know what is written.

use std::io;

use anyhow::{Result, bail};
use aya::maps::MapData;
use nodeport_agent::maps::{KernelStore, Kind, Layout, MemoryStore, StoreError, layouts};
use nodeport_agent::plan::Limits;
use nodeport_common::{V4, V6};

use crate::Args;

/// `BPF_F_NO_PREALLOC`: the hash maps of the agent grow as they are used.
const NO_PREALLOC: u32 = 1;

const LIMITS: Limits = Limits {
    frontends: 65_536,
    backends: 524_288,
    addresses: 65_536,
    serving: 524_288,
    sources: 65_536,
};

/// Maps in memory.
pub(crate) fn memory() -> MemoryStore {
    MemoryStore::new()
        .with_limits::<V4>(LIMITS)
        .with_limits::<V6>(LIMITS)
}

/// Real maps, unpinned.
pub(crate) fn kernel(args: &Args) -> Result<KernelStore> {
    if !rustix::process::geteuid().is_root() {
        bail!("creating BPF maps needs root");
    }
    let slots = (args.services * args.endpoints * 2).clamp(262_144, 1 << 20);
    let layouts = layouts();
    let store = KernelStore::from_maps(|map| {
        let layout = layouts.iter().find(|layout| layout.map == map);
        create(layout.ok_or(StoreError::Absent { map })?, slots as u32)
    })?;
    // There are no programs that would look at it.
    Ok(store.raising(|| Ok::<(), io::Error>(())))
}

fn create(layout: &Layout, slots: u32) -> Result<MapData, StoreError> {
    let (number, flags) = match layout.kind {
        Kind::Hash => (1, NO_PREALLOC),
        Kind::Array => (2, 0),
        Kind::PerCpuArray => (6, 0),
        Kind::LruHash => (9, 0),
        Kind::LpmTrie => (11, NO_PREALLOC),
    };
    let entries = match layout.map {
        map if map.starts_with("BACKENDS") || map.starts_with("SERVING") => slots,
        map if map.starts_with("FLOWS") => 262_144,
        _ => 65_536,
    };
    let entries = layout.max_entries.unwrap_or(entries);
    let (key_size, value_size) = (layout.key_size, layout.value_size);
    let map = aya_obj::Map::new_from_params(number, key_size, value_size, entries, flags);
    MapData::create(map, layout.map, None).map_err(|error| StoreError::Write {
        map: layout.map,
        operation: "create",
        source: io::Error::other(error),
    })
}
