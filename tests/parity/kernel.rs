//! The programs in the kernel, and their maps.
//!
//! Owns loading and running. Refuses to know what is right. Invariant: nothing is pinned, so that everything goes with this value.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData};
use aya::programs::{
    Program, SchedClassifier, TestRun as _, TestRunOptions, TestRunResult, Xdp, XdpMode,
};
use aya::{Ebpf, EbpfLoader};
use nodeport_agent::maps::{
    Addresses, Affinities, Backends, Controls, Devices, Flows, Frontends, IpBytes, KernelStore,
    NotedPlaces, Pending, Serving, SnatCursors, Sources, Store as _, StoreError,
};
use nodeport_agent::plan::{Ip, Noted};
use nodeport_common::{Counters, Hook, Outcome, maps, programs};
use nodeport_ebpf::path::Action;

use crate::stage::Text;
use crate::world::{FABRIC, UPLINK, World};

/// Bytes that a program can leave behind: the longest frame, and room for more.
const OUT: usize = 8192;

/// The object in the kernel.
pub struct Kernel {
    ebpf: Ebpf,
    pub store: KernelStore,
    counters: Vec<(Hook, Counters)>,
}

/// What a program did with a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    /// What was counted.
    pub outcome: Outcome,
    /// What the kernel would do. [`Action::Transmit`] stands for [`Action::Resolve`] too: both are redirections.
    pub action: Action,
    pub bytes: Vec<u8>,
}

/// The object's bytes; none if it was not built, which CI does not accept.
pub fn object() -> Option<Vec<u8>> {
    let path = std::env::var_os("NODEPORT_BPF_OBJECT").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../target/bpf/nodeport.o"
            ))
        },
        PathBuf::from,
    );
    let is_root = rustix::process::geteuid().is_root();
    match std::fs::read(&path) {
        Ok(bytes) if is_root => return Some(bytes),
        Ok(_) => eprintln!("skipped: loading programs needs root"),
        Err(error) => eprintln!(
            "skipped: {}: {error}; `cargo xtask build` makes it",
            path.display()
        ),
    }
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!in_ci, "parity may not be skipped in CI");
    None
}

impl Kernel {
    /// Loads the object. Must be called in the namespace of the stage, as must everything else here.
    pub fn new(object: &[u8]) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let no_log = 0_u8;
        loader.override_global("AYA_LOG_LEVEL", &no_log, false);
        // Small tables are quick to read; an LRU table needs room for its per-CPU lists.
        for name in [maps::FLOWS4, maps::FLOWS6, maps::PENDING4, maps::PENDING6] {
            loader.map_max_entries(name, 8192);
        }
        let mut ebpf = loader.load(object).context("load the object")?;
        for name in [programs::XDP, programs::CLOCK] {
            xdp(&mut ebpf, name)?.load().context(name)?;
        }
        for name in [programs::TC_INGRESS, programs::TC_EGRESS] {
            classifier(&mut ebpf, name)?.load().context(name)?;
        }
        // A veth has receive queues for XDP only while a program is attached.
        for device in [UPLINK, FABRIC] {
            let program = xdp(&mut ebpf, programs::XDP)?;
            program.attach_to_if_index(device, XdpMode::Driver)?;
        }
        let store = KernelStore::from_maps(|map| {
            let absent = StoreError::Absent { map };
            ebpf.take_map(map).and_then(data).ok_or(absent)
        })?;
        let counters = store.outcomes()?;
        Ok(Self {
            ebpf,
            store,
            counters,
        })
    }

    /// The low 32 bits of jiffies, as the programs read them.
    pub fn jiffies(&mut self) -> Result<u32> {
        let options = TestRunOptions {
            data_in: Some(&[0; 64]),
            ..TestRunOptions::default()
        };
        Ok(xdp(&mut self.ebpf, programs::CLOCK)?
            .test_run(options)?
            .return_value)
    }

    /// Fills the maps with what a world's tables hold, and forgets all flows.
    pub fn fill<A: Text + Ip + IpBytes>(&mut self, world: &World<A>) -> Result<()> {
        self.forget::<A>()?;
        self.program(world)
    }

    /// Writes what the agent would write.
    pub fn program<A: Text + Ip + IpBytes>(&mut self, world: &World<A>) -> Result<()> {
        let (node, tables) = (&world.node, world.tables());
        let devices: Vec<_> = node
            .devices
            .iter()
            .map(|(index, device)| (*index, *device))
            .collect();
        let addresses: Vec<_> = tables
            .addresses
            .iter()
            .map(|(key, value)| (*key, *value))
            .collect();
        let frontends: Vec<_> = tables
            .frontends
            .iter()
            .map(|(key, value)| (*key, *value))
            .collect();
        let backends: Vec<_> = (0..).zip(tables.backends.iter().copied()).collect();
        let serving: Vec<_> = tables.serving.iter().map(|key| (*key, 1)).collect();
        let sources: Vec<_> = tables.sources.iter().map(|key| (*key, 1)).collect();
        let store = &mut self.store;
        let old: Vec<_> = store
            .entries::<Frontends<A>>()?
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        store.delete::<Frontends<A>>(&old)?;
        let old: Vec<_> = store
            .entries::<Serving<A>>()?
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        store.delete::<Serving<A>>(&old)?;
        let old = store
            .entries::<Sources<A>>()?
            .into_iter()
            .map(|(key, _)| key);
        let old: Vec<_> = old.collect();
        store.delete::<Sources<A>>(&old)?;
        store.put::<Controls>(&[(0, node.control)])?;
        store.put::<Devices>(&devices)?;
        store.put::<Addresses<A>>(&addresses)?;
        store.put::<Frontends<A>>(&frontends)?;
        store.put::<Backends<A>>(&backends)?;
        store.put::<Serving<A>>(&serving)?;
        store.put::<Sources<A>>(&sources)?;
        let mut noted = Noted::adopt(&[]);
        for (key, _) in &frontends {
            noted.frontend(key);
        }
        for (address, value) in &addresses {
            noted.address(*address, value.flags);
        }
        noted.trust();
        let words: Vec<_> = (0..).zip(noted.words().iter().copied()).collect();
        store.put::<NotedPlaces<A>>(&words)?;
        Ok(())
    }

    /// Removes all flows, and starts the cursors anew.
    fn forget<A: Text + Ip + IpBytes>(&mut self) -> Result<()> {
        let store = &mut self.store;
        let flows: Vec<_> = store
            .entries::<Flows<A>>()?
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        store.delete::<Flows<A>>(&flows)?;
        let pending: Vec<_> = store
            .entries::<Pending<A>>()?
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        store.delete::<Pending<A>>(&pending)?;
        let clients = store
            .entries::<Affinities<A>>()?
            .into_iter()
            .map(|(key, _)| key);
        let clients: Vec<_> = clients.collect();
        store.delete::<Affinities<A>>(&clients)?;
        A::forget_fragments(store)?;
        let used = store.head::<SnatCursors>(nodeport_common::SNAT_CURSORS_LEN)?;
        let used = (0..).zip(used).filter(|(_, cursor)| *cursor != 0);
        let zeros: Vec<_> = used.map(|(bucket, _)| (bucket, 0)).collect();
        store.put::<SnatCursors>(&zeros)?;
        Ok(())
    }

    /// Runs a hook's program on a frame of a device.
    pub fn run(&mut self, hook: Hook, device: u32, frame: &[u8], gso_size: u32) -> Result<Ran> {
        let mut out = vec![0; OUT];
        let context = match hook {
            Hook::Xdp => xdp_context(device, frame.len()),
            Hook::TcIngress | Hook::TcEgress => skb_context(device, gso_size),
            Hook::Socket => bail!("sockets see no frame"),
        };
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = match hook {
            Hook::Xdp => xdp(&mut self.ebpf, programs::XDP)?.test_run(options)?,
            Hook::TcIngress => {
                classifier(&mut self.ebpf, programs::TC_INGRESS)?.test_run(options)?
            }
            Hook::TcEgress => classifier(&mut self.ebpf, programs::TC_EGRESS)?.test_run(options)?,
            Hook::Socket => bail!("sockets see no frame"),
        };
        out.truncate(result.data_size_out as usize);
        Ok(Ran {
            outcome: self.counted(hook)?,
            action: action(hook, &result)?,
            bytes: out,
        })
    }

    /// The outcome that was counted since the last look: exactly one, once, at this hook.
    fn counted(&mut self, hook: Hook) -> Result<Outcome> {
        let now = self.store.outcomes()?;
        let mut counted = Vec::new();
        for ((at, before), (_, after)) in self.counters.iter().zip(&now) {
            for outcome in Outcome::ALL {
                let times = after.get(*outcome) - before.get(*outcome);
                counted.extend((0..times).map(|_| (*at, *outcome)));
            }
        }
        self.counters = now;
        match counted[..] {
            [(at, outcome)] if at == hook => Ok(outcome),
            _ => bail!("one packet at {hook:?} was counted as {counted:?}"),
        }
    }
}

fn xdp<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
    match ebpf.program_mut(name) {
        Some(Program::Xdp(program)) => Ok(program),
        _ => bail!("the object has no XDP program {name}"),
    }
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut SchedClassifier> {
    match ebpf.program_mut(name) {
        Some(Program::SchedClassifier(program)) => Ok(program),
        _ => bail!("the object has no TC program {name}"),
    }
}

fn data(map: Map) -> Option<MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data) => Some(data),
        _ => None,
    }
}

fn action(hook: Hook, result: &TestRunResult) -> Result<Action> {
    let code = result.return_value.cast_signed();
    Ok(match (hook, code) {
        (Hook::Xdp, 1) | (Hook::TcIngress | Hook::TcEgress, 2) => Action::Drop, // XDP_DROP, TC_ACT_SHOT
        (Hook::Xdp, 2) | (Hook::TcIngress | Hook::TcEgress, -1) => Action::Pass, // XDP_PASS, TC_ACT_UNSPEC
        (Hook::Xdp, 4) | (Hook::TcIngress | Hook::TcEgress, 7) => Action::Transmit, // XDP_REDIRECT, TC_ACT_REDIRECT
        _ => bail!("{hook:?} returned {code}"),
    })
}

/// `struct xdp_md`: a frame of this length, received by a device's first queue.
fn xdp_context(device: u32, len: usize) -> Vec<u8> {
    let (data, data_end, data_meta, rx_queue, egress) = (0, len as u32, 0, 0, 0);
    [data, data_end, data_meta, device, rx_queue, egress]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect()
}

/// `struct __sk_buff`: the device, and the segment size of a super-packet. The kernel takes the rest from the frame.
fn skb_context(device: u32, gso_size: u32) -> Vec<u8> {
    const IFINDEX: usize = 40;
    const GSO_SIZE: usize = 176;
    const LEN: usize = 192;
    let mut context = vec![0; LEN];
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&device.to_ne_bytes());
    context[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&gso_size.to_ne_bytes());
    context
}
