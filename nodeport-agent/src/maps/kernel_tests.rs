//! The store of real maps. They need root; elsewhere each test says that it is skipped.

use std::collections::BTreeSet;
use std::ops::Range;

use nodeport_common::{
    Address, Backend, Control, Flow, FlowKey, Frontend, FrontendKey, NextHop, ServingKey, V4, V6,
};

use super::*;
use crate::maps::{Addresses, Backends, Controls, Flows, Frontends, MemoryStore, Pending, Serving};

fn kind_number(kind: Kind) -> u32 {
    match kind {
        Kind::Hash => 1,
        Kind::Array => 2,
        Kind::PerCpuArray => 6,
        Kind::LruHash => 9,
        Kind::LpmTrie => 11,
    }
}

fn create(layout: &Layout, entries: u32) -> MapData {
    let map = aya_obj::Map::new_from_params(
        kind_number(layout.kind),
        layout.key_size,
        layout.value_size,
        layout.max_entries.unwrap_or(entries),
        // BPF_F_NO_PREALLOC, which a trie demands.
        u32::from(layout.kind == Kind::LpmTrie),
    );
    MapData::create(map, layout.map, None).expect("a map can be created")
}

/// Real maps, unpinned, of so many entries each; none without root.
pub(crate) fn store(entries: u32) -> Option<KernelStore> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: creating BPF maps needs root");
        return None;
    }
    let layouts = layouts();
    let named = |name| layouts.iter().find(|layout| layout.map == name);
    let store = KernelStore::from_maps(|map| {
        let layout = named(map).ok_or(StoreError::Absent { map })?;
        Ok(create(layout, entries))
    });
    Some(store.expect("the layouts are those of the ABI"))
}

fn key(port: u16) -> FrontendKey<V6> {
    FrontendKey {
        address: [0xfd; 16],
        port: port.to_be_bytes(),
        protocol: 6,
        pad: 0,
    }
}

fn value(service: u32) -> Frontend {
    Frontend {
        service,
        base: service * 3,
        ..Frontend::default()
    }
}

#[test]
fn ten_thousand_front_ends_go_in_and_come_out_in_batches() {
    let Some(mut store) = store(16384) else {
        return;
    };
    let entries: Vec<_> = (1..=10_000_u16)
        .map(|port| (key(port), value(u32::from(port))))
        .collect();
    store.put::<Frontends<V6>>(&entries).expect("they fit");
    let found = store.entries::<Frontends<V6>>().expect("readable");
    let found: BTreeMap<_, _> = found.into_iter().collect();
    assert_eq!(found, entries.iter().copied().collect());
    let get = store.get::<Frontends<V6>>(&key(7)).expect("readable");
    assert_eq!(get, Some(value(7)));

    // A portion that is broken off, and keys that are not there among those that are.
    let mut portions = 0;
    store
        .scan::<Frontends<V6>>(&mut |_| {
            portions += 1;
            ControlFlow::Break(())
        })
        .expect("readable");
    assert_eq!(portions, 1);
    let gone: Vec<_> = (5000..15_000).map(key).collect();
    store.delete::<Frontends<V6>>(&gone).expect("deleted");
    let left = store.entries::<Frontends<V6>>().expect("readable");
    assert_eq!(left.len(), 4999);
    assert!(left.iter().all(|(_, value)| value.service < 5000));
}

#[test]
fn a_full_map_says_how_much_was_written() {
    let Some(mut store) = store(8) else {
        return;
    };
    let entries: Vec<_> = (0..10_u8)
        .map(|last| ([10, 0, 0, last], Address { flags: 1 }))
        .collect();
    let error = store.put::<Addresses<V4>>(&entries).expect_err("eight fit");
    assert_eq!(error.done, 8);
    assert_eq!(
        error.to_string(),
        "map ADDRESSES4 is full (after 8 entries)"
    );
    let error = store
        .put::<Addresses<V4>>(&entries[9..])
        .expect_err("one more does not");
    assert!(matches!(
        error.error,
        StoreError::Full { map: "ADDRESSES4" }
    ));
    assert_eq!(store.limit::<Addresses<V4>>().expect("known"), 8);
}

#[test]
fn the_head_of_an_array_is_read_and_its_end_is_known() {
    let Some(mut store) = store(20_000) else {
        return;
    };
    let slot = |index: u32| Backend::<V4> {
        address: index.to_be_bytes(),
        port: [0, 80],
        flags: 1,
    };
    let slots: Vec<_> = (0..20_000).map(|index| (index, slot(index))).collect();
    store.put::<Backends<V4>>(&slots).expect("in range");
    for len in [0, 1, 4096, 4097, 20_000] {
        let head = store.head::<Backends<V4>>(len).expect("readable");
        let wanted: Vec<_> = (0..len).map(slot).collect();
        assert_eq!(head, wanted, "{len} slots");
    }
    assert!(store.head::<Backends<V4>>(20_001).is_err());
    let error = store
        .put::<Backends<V4>>(&[(19_999, slot(1)), (20_000, slot(1))])
        .expect_err("out of range");
    assert_eq!(error.done, 1);
    assert!(matches!(error.error, StoreError::Full { map: "BACKENDS4" }));
}

#[test]
fn flows_are_added_once_and_removed_once() {
    let Some(store) = store(64) else {
        return;
    };
    let key = FlowKey::<V4> {
        source: [192, 0, 2, 1],
        destination: [192, 0, 2, 11],
        source_port: [0x9c, 0x40],
        destination_port: [0x75, 0x80],
        protocol: 6,
        pad: [0; 3],
    };
    let flow = Flow::<V4> {
        packets: 1 << 40,
        bytes: 5,
        last_seen: 6,
        endpoint_generation: 7,
        flags: 1,
        tcp: 2,
        source_port: [1, 2],
        destination_port: [3, 4],
        pad: [0; 2],
        source: [10, 0, 0, 1],
        destination: [10, 0, 0, 2],
        next_hop: NextHop {
            mtu: 1500,
            ..NextHop::default()
        },
    };
    let flows = store.map::<Flows<V4>>().expect("a hash map");
    assert!(flows.add(&key, &flow).expect("there is room"));
    assert!(!flows.add(&key, &flow).expect("there is room"));
    assert_eq!(flows.get(&key).expect("readable"), Some(flow));
    let mut seen = Vec::new();
    flows
        .scan(&mut |entries| {
            seen.extend_from_slice(entries);
            ControlFlow::Continue(())
        })
        .expect("readable");
    assert_eq!(seen, [(key, flow)]);
    assert!(flows.remove(&key).expect("writable"));
    assert!(!flows.remove(&key).expect("writable"));
    assert_eq!(flows.get(&key).expect("readable"), None);
    // An LRU table is read the same way.
    let pending = store.map::<Pending<V4>>().expect("an LRU map");
    assert!(pending.add(&key, &flow).expect("there is room"));
    assert_eq!(store.entries::<Pending<V4>>().expect("readable").len(), 1);
}

#[test]
fn a_bucket_with_more_entries_than_a_portion_is_no_obstacle() {
    // With room for one entry at a time, two in one bucket must make the portion grow: ask the raw call.
    let Some(mut store) = store(4) else {
        return;
    };
    let entries: Vec<_> = (0..4).map(|port| (key(port), value(1))).collect();
    store.put::<Frontends<V6>>(&entries).expect("they fit");
    let raw = &store.maps["FRONTENDS6"];
    let (mut found, mut grown) = (BTreeSet::new(), 0);
    let (mut position, mut portion) = (Position::default(), 1);
    loop {
        let (mut keys, mut values) = (vec![0; portion * 20], vec![0; portion * 32]);
        let read = raw.lookup_batch(&mut position, &mut keys, &mut values);
        let Some((count, last)) = read.expect("readable") else {
            (portion, grown) = (portion * 2, grown + 1);
            continue;
        };
        found.extend(keys.chunks(20).take(count).map(<[u8]>::to_vec));
        if last {
            break;
        }
    }
    assert_eq!(found.len(), 4);
    // Four keys in four buckets collide more often than not; both ways are fine.
    eprintln!("the portion grew {grown} times");
}

#[test]
fn wrong_lengths_never_reach_the_kernel() {
    let Some(store) = store(4) else {
        return;
    };
    let raw = &store.maps["FRONTENDS6"];
    assert!(raw.lookup(&[0; 19]).is_err());
    assert!(raw.update(&[0; 20], &[0; 31], ANY).is_err());
    assert!(raw.delete(&[0; 21]).is_err());
    assert!(raw.update_batch(&[0; 40], &[0; 32]).is_err());
    assert!(raw.delete_batch(&[0; 39]).is_err());
    let mut position = Position::default();
    let read = raw.lookup_batch(&mut position, &mut [0; 40], &mut [0; 63]);
    assert!(read.is_err());
}

#[test]
fn outcomes_are_summed_over_cpus_and_cannot_be_read_as_one_value() {
    let Some(store) = store(4) else {
        return;
    };
    let raw = &store.maps["OUTCOMES"];
    let cpus = aya::util::nr_cpus().expect("known");
    let mut values = vec![0; cpus * Counters::SIZE];
    for (cpu, bytes) in values.chunks_mut(Counters::SIZE).enumerate() {
        let mut counters = Counters::default();
        *counters.get_mut(Outcome::Untouched) = 100;
        *counters.get_mut(Outcome::NoRoute) = cpu as u64 + 1;
        counters.put(bytes);
    }
    raw.update(&1_u32.to_ne_bytes(), &values, ANY)
        .expect("writable");
    let outcomes = store.outcomes().expect("readable");
    let (hook, counters) = outcomes[1];
    assert_eq!(hook, Hook::TcIngress);
    let cpus = cpus as u64;
    assert_eq!(counters.get(Outcome::Untouched), 100 * cpus);
    assert_eq!(counters.get(Outcome::NoRoute), cpus * (cpus + 1) / 2);
    assert_eq!(outcomes[0], (Hook::Xdp, Counters::default()));
    let error = store.map::<Outcomes>().expect_err("several values");
    assert_eq!(error.to_string(), "map OUTCOMES is not part of this store");
}

#[test]
fn a_map_of_another_layout_is_named() {
    let Some(_) = store(4) else {
        return;
    };
    let differs = |change: fn(&mut Layout)| {
        let layouts = layouts();
        let store = KernelStore::from_maps(|name| {
            let found = layouts.iter().find(|layout| layout.map == name);
            let mut layout = *found.ok_or(StoreError::Absent { map: name })?;
            if name == "FRONTENDS4" || (name == "CONTROL" && layout.max_entries == Some(1)) {
                change(&mut layout);
            }
            Ok(create(&layout, 4))
        });
        store.expect_err("another layout").to_string()
    };
    assert_eq!(
        differs(|layout| layout.value_size = 40),
        "map CONTROL: value size is 40, wanted 80"
    );
    assert_eq!(
        differs(|layout| {
            layout.max_entries = layout.max_entries.map(|_| 2);
        }),
        "map CONTROL: max_entries is 2, wanted 1"
    );
    assert_eq!(
        differs(|layout| {
            layout.key_size += u32::from(layout.kind == Kind::Hash);
        }),
        "map FRONTENDS4: key size is 9, wanted 8"
    );
    assert_eq!(
        differs(|layout| {
            layout.kind = if layout.kind == Kind::Hash {
                Kind::LruHash
            } else {
                layout.kind
            };
        }),
        "map FRONTENDS4: type is lru_hash, wanted hash"
    );
    let missing = KernelStore::open(Path::new("/nowhere")).expect_err("no such pin");
    assert!(
        missing
            .to_string()
            .starts_with("map CONTROL: cannot open /nowhere/CONTROL: "),
        "{missing}"
    );
}

#[test]
fn the_generation_is_raised_by_its_owner_only() {
    let Some(mut store) = store(4) else {
        return;
    };
    let error = store.raise_endpoint_generation().expect_err("no owner");
    assert_eq!(
        error.to_string(),
        "map CONTROL: raise the endpoint generation: the maps were opened for reading"
    );
    let mut owner = store.clone();
    let control = Control {
        endpoint_generation: 41,
        ..Control::default()
    };
    owner.put::<Controls>(&[(0, control)]).expect("writable");
    let reader = store.clone();
    let shared = std::sync::Mutex::new(owner);
    let mut store = store.raising(move || {
        let mut owner = shared.lock().map_err(|_| "poisoned")?;
        let mut control = owner.control().map_err(|_| "unreadable")?;
        control.endpoint_generation += 1;
        owner
            .put::<Controls>(&[(0, control)])
            .map_err(|_| "unwritable")
    });
    store.raise_endpoint_generation().expect("raised");
    assert_eq!(reader.control().expect("readable").endpoint_generation, 42);
}

/// The same operations on both stores end in the same contents, and fail at the same entry.
#[test]
fn memory_and_kernel_agree() {
    fn run(store: &mut impl Store) -> ([Option<usize>; 4], BTreeSet<u32>) {
        let serving = |service: u32| ServingKey::<V4> {
            service,
            address: [10, 0, 0, 1],
            port: [0, 53],
            pad: [0; 2],
        };
        let entries = |ids: Range<u32>| -> Vec<_> { ids.map(|id| (serving(id), 1)).collect() };
        let gone = [1, 3, 30, 5].map(serving);
        let failed = [
            store.put::<Serving<V4>>(&entries(0..6)),
            store.put::<Serving<V4>>(&entries(4..12)),
            store.delete::<Serving<V4>>(&gone),
            store.put::<Serving<V4>>(&entries(4..12)),
        ];
        let left = store.entries::<Serving<V4>>().expect("readable");
        let done = failed.map(|result| result.err().map(|partial| partial.done));
        (done, left.iter().map(|entry| entry.0.service).collect())
    }
    let Some(mut kernel) = store(8) else {
        return;
    };
    let mut memory = MemoryStore::new().with_limit::<Serving<V4>>(8);
    let expected = (
        [None, Some(4), None, Some(6)],
        [0, 2, 4, 5, 6, 7, 8, 9].into(),
    );
    assert_eq!(run(&mut memory), expected);
    assert_eq!(run(&mut kernel), expected);
}
