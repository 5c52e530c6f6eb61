//! The helper object: the generators and the ends, loaded, attached and asked.
//!
//! Invariant: what it attached is detached when it is dropped.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{
    LinkOrder, Program, SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs, TestRunOptions,
    Xdp, XdpMode,
};
use aya::{Ebpf, EbpfLoader};
use nodeport_tests::Netns;

use crate::abi::{BACK, FORTH};
use crate::frames::{Frames, PLAN, frame_len};
use crate::napi::{END_CORE, pin_thread};

/// A direction: from the client, or back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client.
    Forth,
    /// Answers.
    Back,
}

/// The loaded object.
pub(crate) struct Helper {
    object: Ebpf,
    plans: Array<MapData, [u8; PLAN]>,
    arrived: PerCpuArray<MapData, [u64; 5]>,
    links: Vec<FdLink>,
}

/// What arrived so far at one end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrivals {
    /// Packets.
    pub(crate) packets: u64,
    /// Of those, checked.
    pub(crate) sampled: u64,
    /// Of those, wrong.
    pub(crate) wrong: u64,
    /// Flows seen for the first time in a pass.
    pub(crate) fresh: u64,
}

impl Way {
    fn index(self) -> u32 {
        match self {
            Self::Forth => FORTH,
            Self::Back => BACK,
        }
    }
}

/// Where `cargo xtask bench` puts the object.
fn object_path() -> PathBuf {
    std::env::var_os("NODEPORT_BENCH_OBJECT").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/bench.o"),
        PathBuf::from,
    )
}

fn attach_xdp(xdp: &mut Xdp, netns: &Netns, device: &str) -> Result<FdLink> {
    let link = netns.run(|| xdp.attach(device, XdpMode::Driver))??;
    Ok(xdp.take_link(link)?.try_into()?)
}

fn attach_tc(tc: &mut SchedClassifier, netns: &Netns, device: &str) -> Result<FdLink> {
    let options = || TcAttachOptions::TcxOrder(LinkOrder::default());
    let link = netns.run(|| tc.attach_with_options(device, TcAttachType::Ingress, options()))??;
    Ok(tc.take_link(link)?.try_into()?)
}

impl Helper {
    /// Loads the object with room for this many flows; `redirect`: the devices that the bare redirect sends to, forth and back.
    pub(crate) fn load(flows: u32, redirect: [u32; 2]) -> Result<Self> {
        let path = object_path();
        let mut object = EbpfLoader::new()
            .map_max_entries("SEEN", flows)
            .override_global("DEVICE_FORTH", &redirect[0], true)
            .override_global("DEVICE_BACK", &redirect[1], true)
            .load_file(&path)
            .with_context(|| format!("load {}", path.display()))?;
        for (name, program) in object.programs_mut() {
            let loaded = match program {
                Program::Xdp(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                other => bail!("{name}: {other:?}"),
            };
            loaded.with_context(|| format!("load {name}"))?;
        }
        let mut map = |name: &str| {
            object
                .take_map(name)
                .with_context(|| format!("no map {name}"))
        };
        Ok(Self {
            plans: map("PLANS")?.try_into()?,
            arrived: map("ARRIVED")?.try_into()?,
            object,
            links: Vec::new(),
        })
    }

    /// Attaches one of the programs to a device: those of XDP natively, those of TC to packets that come in.
    pub(crate) fn attach(&mut self, program: &str, netns: &Netns, device: &str) -> Result<()> {
        let found = self.object.program_mut(program);
        let link = match found.with_context(|| format!("no program {program}"))? {
            Program::SchedClassifier(tc) => attach_tc(tc, netns, device),
            other => attach_xdp(other.try_into()?, netns, device),
        };
        let link = link.with_context(|| format!("attach {program} to {device}"))?;
        self.links.push(link);
        Ok(())
    }

    /// Says what frames of one direction look like, from now on.
    pub(crate) fn plan(&mut self, way: Way, frames: &Frames) -> Result<()> {
        self.plans.set(way.index(), frames.plan(), 0)?;
        Ok(())
    }

    /// What arrived so far.
    pub(crate) fn arrived(&self, way: Way) -> Result<Arrivals> {
        let mut sum = Arrivals::default();
        for cpu in self.arrived.get(&way.index(), 0)?.iter() {
            sum.packets += cpu[0];
            sum.sampled += cpu[1];
            sum.wrong += cpu[2];
            sum.fresh += cpu[3];
        }
        Ok(sum)
    }

    /// A generator of one direction.
    pub(crate) fn generator(&self, way: Way, v6: bool) -> Result<Generator<'_>> {
        let name = match way {
            Way::Forth => "bench_emit_forth",
            Way::Back => "bench_emit_back",
        };
        let program = self.object.program(name).context("no generator")?;
        Ok(Generator {
            program: program.try_into()?,
            frame: vec![0; frame_len(v6)],
        })
    }
}

/// Sends frames from the namespace of the thread that runs it.
pub(crate) struct Generator<'a> {
    program: &'a Xdp,
    frame: Vec<u8>,
}

impl Generator<'_> {
    /// Sends this many frames, as fast as it can.
    pub(crate) fn send(&self, frames: u32) -> Result<()> {
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(64),
            ..TestRunOptions::default()
        };
        self.program.test_run(options).context("send live frames")?;
        Ok(())
    }

    /// Sends until told to stop, on the core of the ends.
    pub(crate) fn send_until(&self, netns: &Netns, stop: &AtomicBool, burst: u32) -> Result<()> {
        netns.enter()?;
        pin_thread(None, END_CORE)?;
        while !stop.load(Ordering::Relaxed) {
            self.send(burst)?;
        }
        Ok(())
    }
}
