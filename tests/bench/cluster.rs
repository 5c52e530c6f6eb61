//! The agent and a real API server: what it takes to start with thousands of Services, and to follow a thousand changed endpoints a second.
//!
//! API server, etcd and the agent share the machine, so that the agent waits for a core at times. Invariant: all changes are in the maps when
//! a run ends.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nodeport_tests::LabSpec;
use nodeport_tests::agent;
use nodeport_tests::k8s::programs::Programs;
use nodeport_tests::k8s::scale::{Figures, Scale, latencies};
use nodeport_tests::k8s::{Kubernetes, eventually};

use crate::control::flags;
use crate::objects::Shape;
use crate::statistics::percentile;

/// For how long endpoints change, and how many in a second.
const CHANGES: Duration = Duration::from_secs(30);
const RATE: u32 = 1000;

/// What one run gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Followed {
    /// Milliseconds from the start of the agent until all was in the maps.
    pub(crate) load: f64,
    /// Milliseconds from an event received to the maps written: half of the updates took less.
    pub(crate) change_p50: f64,
    /// 99 of 100 took less.
    pub(crate) change_p99: f64,
    /// Percent of a core while endpoints changed.
    pub(crate) cpu: f64,
    /// Endpoints that changed in a second.
    pub(crate) rate: f64,
    /// MiB of the agent that are resident, at the end.
    pub(crate) memory: f64,
}

/// One run.
pub(crate) fn run(programs: &Programs, shape: &Shape) -> Result<Followed> {
    let cluster = Kubernetes::start(LabSpec::nodes(1).pods(1), programs)?;
    let scale = Scale::create(&cluster.api, shape.services, shape.endpoints)?;
    let spec = cluster
        .agent()?
        .arguments(&format!("--log-level debug {}", flags(shape)));
    let start = Instant::now();
    let agents = agent::start_all(&cluster.lab, &spec)?;
    let load = start.elapsed().as_secs_f64() * 1e3;
    let agent = agents.first().context("an agent")?;
    let netns = &cluster.lab.node("n1").netns;
    let before = Figures::of(agent, netns)?;
    let told = latencies(&agent.log()).len();
    let changes = scale.change(CHANGES, RATE)?;
    let slices = f64::from(changes.slices);
    let mut after = Figures::of(agent, netns)?;
    eventually("all changes are in the maps", || {
        after = Figures::of(agent, netns)?;
        let heard = after.slices - before.slices;
        ensure!(heard >= slices, "{heard} of {slices} slices");
        Ok(())
    })?;
    let all = latencies(&agent.log()).split_off(told);
    let took = changes.took.as_secs_f64();
    Ok(Followed {
        load,
        change_p50: percentile(&all, 0.5),
        change_p99: percentile(&all, 0.99),
        cpu: 100.0 * (after.cpu_seconds - before.cpu_seconds) / took,
        rate: f64::from(changes.endpoints) / took,
        memory: after.memory_mib,
    })
}
