//! What a walk over many established flows costs: `cargo run --release -p nodeport-agent --example flows -- [--flows N]`, as root.
//!
//! Owns the flows that are made up. It refuses to know how a walk works. The map is a real one, unpinned, so that it is gone in the end.

use std::cell::RefCell;
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, bail};
use aya::maps::MapData;
use clap::Parser;
use nodeport_agent::flows::pair::mirror;
use nodeport_agent::flows::{FlowTable, Lifetimes, Now, Table, Tally, Walker};
use nodeport_agent::maps::{Flows, KernelMap, KernelStore, Kind, Store as _, StoreError, layouts};
use nodeport_agent::model::desired::{Protocol, ServicePortName};
use nodeport_common::{Flow, FlowKey, NextHop, V4, flow_flags, protocol, tcp_flags};
use rustix::time::{ClockId, clock_gettime};

/// `BPF_F_NO_PREALLOC`, as `FLOWS4` has it.
const NO_PREALLOC: u32 = 1;
const HZ: u32 = 250;
const NOW: u32 = 1 << 30;

/// How many flows.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Flows, each of which is two entries.
    #[arg(long, default_value_t = 1_000_000)]
    flows: u32,
    /// Endpoints that have sums of their own; 0 counts nothing.
    #[arg(long, default_value_t = 10_000)]
    endpoints: usize,
}

/// The table, each of whose entries is shown to a tally.
struct Tallied<'a> {
    map: &'a KernelMap<Flows<V4>>,
    tally: RefCell<&'a mut Tally>,
    at_secs: u32,
}

impl FlowTable<V4> for Tallied<'_> {
    type Error = StoreError;

    fn scan(
        &self,
        visit: &mut dyn FnMut(&[(FlowKey<V4>, Flow<V4>)]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.map.scan(&mut |entries| {
            let mut tally = self.tally.borrow_mut();
            for (key, flow) in entries {
                tally.see(key, flow, self.at_secs);
            }
            visit(entries)
        })
    }

    fn get(&self, key: &FlowKey<V4>) -> Result<Option<Flow<V4>>, StoreError> {
        self.map.get(key)
    }

    fn remove(&self, key: &FlowKey<V4>) -> Result<(), StoreError> {
        self.map.remove(key).map(drop)
    }

    fn add(&self, key: &FlowKey<V4>, flow: &Flow<V4>) -> Result<bool, StoreError> {
        self.map.add(key, flow)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    if !rustix::process::geteuid().is_root() {
        bail!("creating BPF maps needs root");
    }
    let mut store = store(args.flows * 2)?;
    let entries: Vec<_> = (0..args.flows).flat_map(flow).collect();
    for portion in entries.chunks(4096) {
        store.put::<Flows<V4>>(portion)?;
    }
    drop(entries);
    let map = store.map::<Flows<V4>>()?;
    let mut tally = Tally::new(args.endpoints);
    let any = [0, 0, 0, 0].into();
    tally.rename([((any, 30080, protocol::TCP), Some(name()))]);
    let mut walker = Walker::new(Table::Established);
    for (what, at_secs) in [
        ("first, thorough", 0),
        ("usual", 60),
        ("usual", 70),
        ("usual", 80),
    ] {
        let table = Tallied {
            map: &map,
            tally: RefCell::new(&mut tally),
            at_secs,
        };
        let mut clock = || {
            Ok::<_, StoreError>(Now {
                jiffies: NOW,
                hz: HZ,
            })
        };
        let before = thread_time();
        let walked = walker.walk(&table, &Lifetimes::default(), &mut clock, &mut || ())?;
        tally.forget(at_secs);
        let took = thread_time().saturating_sub(before);
        println!(
            "{what}: {} entries, {took:?} of a core, {:?} each",
            walked.seen,
            took / u32::try_from(walked.seen)?.max(1)
        );
    }
    Ok(())
}

fn store(entries: u32) -> Result<KernelStore> {
    let layouts = layouts();
    let store = KernelStore::from_maps(|name| {
        let layout = layouts.iter().find(|layout| layout.map == name);
        let layout = layout.ok_or(StoreError::Absent { map: name })?;
        let (number, flags) = match layout.kind {
            Kind::Hash => (1, NO_PREALLOC),
            Kind::Array => (2, 0),
            Kind::PerCpuArray => (6, 0),
            Kind::LruHash => (9, 0),
            Kind::LpmTrie => (11, NO_PREALLOC),
        };
        let entries = if name == "FLOWS4" { entries } else { 1024 };
        let entries = layout.max_entries.unwrap_or(entries);
        let (key, value) = (layout.key_size, layout.value_size);
        let map = aya_obj::Map::new_from_params(number, key, value, entries, flags);
        MapData::create(map, name, None).map_err(|error| StoreError::Write {
            map: name,
            operation: "create",
            source: io::Error::other(error),
        })
    });
    Ok(store?)
}

/// Both entries of a client's flow, idle for a minute.
fn flow(client: u32) -> [(FlowKey<V4>, Flow<V4>); 2] {
    let [_, a, b, c] = client.to_be_bytes();
    let key = FlowKey {
        source: [198, a, b, c],
        destination: [192, 0, 2, 1],
        source_port: 40_000_u16.to_be_bytes(),
        destination_port: 30_080_u16.to_be_bytes(),
        protocol: protocol::TCP,
        pad: [0; 3],
    };
    let forward = Flow {
        packets: 9,
        bytes: 540,
        last_seen: NOW - 60 * HZ,
        endpoint_generation: 1,
        flags: flow_flags::SEEN | flow_flags::NODE_PORT,
        tcp: tcp_flags::SYN,
        source_port: [client.to_be_bytes()[2] | 0x80, c],
        destination_port: 8080_u16.to_be_bytes(),
        pad: [0; 2],
        source: [10, 0, a, 1],
        destination: [10, 244, b, 1],
        next_hop: NextHop::default(),
    };
    [(key, forward), mirror(&key, &forward)]
}

fn name() -> ServicePortName {
    ServicePortName {
        namespace: "example".into(),
        name: "web".into(),
        port: "http".into(),
        protocol: Protocol::Tcp,
    }
}

/// What this thread took of a core so far.
fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
