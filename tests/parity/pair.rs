//! A node on the host and the programs in the kernel, side by side: what one does, the other must do.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use nodeport_agent::maps::{
    Affinities, Flows, HashMap, IpBytes, KernelStore, Pending, SnatCursors, Store as _,
};
use nodeport_agent::plan::Ip;
use nodeport_common::{
    Affinity, Flow, FlowKey, FragmentPorts, Hook, NextHop, Outcome, SNAT_CURSORS_LEN,
};
use nodeport_ebpf::path::{Action, Verdict};
use nodeport_ebpf::sim::{Frame, Map};
use nodeport_ebpf::tables::Entry;

use crate::kernel::{Kernel, Ran};
use crate::packets::Build;
use crate::stage::{Stage, Text};
use crate::world::World;

/// The two.
pub struct Pair<'k, A: Text + Ip + IpBytes> {
    pub world: World<A>,
    kernel: &'k mut Kernel,
}

/// Runs stories in a namespace of their own; `stories` gets the programs. Does nothing if there is no object.
pub fn on_stage<A: Text>(world: &World<A>, stories: impl FnOnce(&mut Kernel) -> Result<()> + Send) {
    let Some(object) = crate::kernel::object() else {
        return;
    };
    let stage = Stage::new(world).expect("the namespace is made");
    let result = stage.netns.run(|| {
        let mut kernel = Kernel::new(&object)?;
        stories(&mut kernel)
    });
    result.expect("the namespace can be entered").unwrap();
}

impl<'k, A: Text + Ip + IpBytes> Pair<'k, A> {
    /// Tells the kernel what the world's tables say.
    pub fn new(mut world: World<A>, kernel: &'k mut Kernel) -> Result<Self> {
        world.node.jiffies = kernel.jiffies()?;
        kernel.fill(&world).context("fill the maps")?;
        Ok(Self { world, kernel })
    }

    /// Tells the kernel again, after the world's tables were changed; flows stay.
    pub fn tell(&mut self) -> Result<()> {
        self.kernel.program(&self.world)
    }

    /// The kernel's maps.
    pub fn store(&mut self) -> &mut KernelStore {
        &mut self.kernel.store
    }

    /// A packet at a hook of a device, addressed to it; see [`Self::frame`].
    pub fn packet(&mut self, hook: Hook, device: u32, build: &Build<A>) -> Result<Ran> {
        let bytes = self.world.addressed(device, build).frame();
        self.frame(hook, device, &bytes)
    }

    /// A frame at a hook of a device: both do the same with it, and remember the same.
    pub fn frame(&mut self, hook: Hook, device: u32, bytes: &[u8]) -> Result<Ran> {
        self.super_frame(hook, device, bytes, 0)
    }

    /// A frame that will be cut into segments, or one that will not (0).
    pub fn super_frame(
        &mut self,
        hook: Hook,
        device: u32,
        bytes: &[u8],
        gso_size: u32,
    ) -> Result<Ran> {
        self.world.node.jiffies = self.kernel.jiffies()?;
        let mut frame = Frame {
            gso_size: gso_size as usize,
            is_to_host: bytes.starts_with(&self.world.node.devices[&device].mac),
            ..Frame::new(bytes.to_vec())
        };
        let node = &self.world.node;
        let verdict = match hook {
            Hook::Xdp => node.xdp_ingress(device, &mut frame),
            Hook::TcIngress => node.tc_ingress(device, &mut frame),
            Hook::TcEgress => node.tc_egress(device, &mut frame),
            Hook::Socket => None,
        };
        let verdict = verdict.context("the device is set up")?;
        let told = || {
            format!(
                "{hook:?} on device {device}, {} bytes: {}",
                bytes.len(),
                hex(bytes)
            )
        };
        let ran = self
            .kernel
            .run(hook, device, bytes, gso_size)
            .with_context(told)?;
        let expected = Ran {
            outcome: verdict.outcome,
            action: redirected(verdict),
            bytes: frame.bytes,
        };
        same(&expected, &ran).with_context(told)?;
        self.remember_the_same().with_context(told)?;
        Ok(ran)
    }

    /// Compares flows, and where searches for source ports go on.
    fn remember_the_same(&self) -> Result<()> {
        let tables = self.world.tables();
        self.same_flows::<Flows<A>>("established", &tables.flows)?;
        self.same_flows::<Pending<A>>("pending", &tables.pending)?;
        let timeless = |(key, ports)| (key, FragmentPorts { seen: 0, ..ports });
        let theirs = A::fragments(&self.kernel.store)?.into_iter();
        let theirs: BTreeMap<_, _> = theirs.map(timeless).collect();
        let ours = tables.fragments.entries().into_iter();
        let ours: BTreeMap<_, _> = ours.map(|(key, ports)| timeless((key, *ports))).collect();
        ensure!(
            ours == theirs,
            "fragments: host {ours:x?}, kernel {theirs:x?}"
        );
        let timeless = |(key, sent)| (key, Affinity { used: 0, ..sent });
        let theirs = self.kernel.store.entries::<Affinities<A>>()?.into_iter();
        let theirs: BTreeMap<_, _> = theirs.map(timeless).collect();
        let ours = tables.affinity.entries().into_iter();
        let ours: BTreeMap<_, _> = ours.map(|(key, sent)| timeless((key, *sent))).collect();
        ensure!(
            ours == theirs,
            "clients: host {ours:x?}, kernel {theirs:x?}"
        );
        let theirs = self.kernel.store.head::<SnatCursors>(SNAT_CURSORS_LEN)?;
        let theirs: BTreeMap<_, _> = (0..)
            .zip(theirs)
            .filter(|(_, cursor)| *cursor != 0)
            .collect();
        let ours = self.world.node.cursors.borrow();
        ensure!(*ours == theirs, "cursors: host {ours:?}, kernel {theirs:?}");
        Ok(())
    }

    fn same_flows<M>(&self, table: &str, ours: &Map<FlowKey<A>, Entry<A>>) -> Result<()>
    where
        M: HashMap<Key = FlowKey<A>, Value = Flow<A>>,
    {
        let theirs = self.kernel.store.entries::<M>()?.into_iter();
        let theirs: BTreeMap<_, _> = theirs.map(|(key, flow)| (key, timeless(flow))).collect();
        let ours = ours.entries().into_iter();
        let ours: BTreeMap<_, _> = ours
            .map(|(key, entry)| (key, timeless(entry.get())))
            .collect();
        ensure!(
            ours == theirs,
            "{table} flows:\n  host   {ours:x?}\n  kernel {theirs:x?}"
        );
        Ok(())
    }
}

/// What a redirection to a next hop and one to a neighbour have in common: the kernel returns one code for both.
fn redirected(verdict: Verdict) -> Action {
    match verdict.action {
        Action::Resolve | Action::Deliver => Action::Transmit,
        other => other,
    }
}

fn same(host: &Ran, kernel: &Ran) -> Result<()> {
    let outcomes = (host.outcome, host.action, kernel.outcome, kernel.action);
    ensure!(
        (host.outcome, host.action) == (kernel.outcome, kernel.action),
        "host {:?} {:?}, kernel {:?} {:?}",
        outcomes.0,
        outcomes.1,
        outcomes.2,
        outcomes.3
    );
    ensure!(
        host.bytes == kernel.bytes,
        "{:?}:\n  host   {}\n  kernel {}",
        host.outcome,
        hex(&host.bytes),
        hex(&kernel.bytes)
    );
    Ok(())
}

/// A flow without the times in it: the kernel's clock does not stand still.
fn timeless<A>(flow: Flow<A>) -> Flow<A> {
    Flow {
        last_seen: 0,
        next_hop: NextHop {
            looked_up: 0,
            ..flow.next_hop
        },
        ..flow
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

impl Ran {
    /// Asserts the outcome, so that a story which agrees for the wrong reason is noticed.
    #[track_caller]
    pub fn is(self, outcome: Outcome) -> Self {
        assert_eq!(self.outcome, outcome);
        self
    }
}
