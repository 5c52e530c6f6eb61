//! The agent: loading objects, following a change, starting over what is there, and the memory of all that.
//!
//! No packet is sent. Invariant: what counts as done is what the agent says it wrote into the maps.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nodeport_tests::agent::{Agent, AgentSpec};
use serde_json::{Value, json};

use crate::objects::{Service, Shape, manifest, slice};
use crate::stage::Stage;
use crate::statistics::percentile;

/// Longest wait for a change to be in the maps.
const PATIENCE: Duration = Duration::from_secs(20);

/// What one life of an agent gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    /// Milliseconds from the start of the agent until all was in the maps.
    pub(crate) load: f64,
    /// The same for an agent that finds the maps filled.
    pub(crate) restart: f64,
    /// Microseconds from a change of one endpoint seen to written: half of the changes took less.
    pub(crate) change_p50: f64,
    /// 99 of 100 took less.
    pub(crate) change_p99: f64,
    /// MiB of all maps.
    pub(crate) kernel: f64,
    /// MiB of the agent that are resident.
    pub(crate) agent: f64,
}

/// One run.
pub(crate) fn run(shape: &Shape, changes: u32) -> Result<Life> {
    let stage = Stage::make()?;
    let services = shape.services();
    let objects = Objects::write(stage.spaces.record().dir(), &services)?;
    let spec = AgentSpec::new(std::slice::from_ref(&objects.directory)).arguments(&flags(shape));
    let mut agent = Agent::new(&stage.spaces.node("node")?, spec);
    let load = timed(|| agent.start_recorded(stage.spaces.record()))?;
    let (kernel, resident) = memory(&agent)?;
    let mut latencies = Vec::new();
    for number in 0..changes {
        latencies.push(change(&agent, &objects, number)?);
    }
    agent.kill()?;
    let restart = timed(|| agent.start_recorded(stage.spaces.record()))?;
    Ok(Life {
        load,
        restart,
        change_p50: percentile(&latencies, 0.5),
        change_p99: percentile(&latencies, 0.99),
        kernel,
        agent: resident,
    })
}

/// Tables of the agent that hold so many endpoints; the usual ones if they do.
pub(crate) fn flags(shape: &Shape) -> String {
    let endpoints = shape.services * shape.endpoints;
    if endpoints < 100_000 {
        return String::new();
    }
    // A set that changes has its old and its new slots for a while.
    format!("--backends-max {}", 2 * endpoints)
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// The files of an agent: all objects, and the slice of one Service in a file of its own.
struct Objects {
    directory: PathBuf,
    service: Service,
}

impl Objects {
    fn write(run_dir: &Path, services: &[Service]) -> Result<Self> {
        let directory = run_dir.join("objects");
        std::fs::create_dir_all(&directory)?;
        let (last, others) = services.split_last().context("a Service")?;
        let mut bare = last.clone();
        bare.endpoints = Vec::new();
        let mut all = others.to_vec();
        all.push(bare);
        std::fs::write(
            directory.join("all.json"),
            serde_json::to_vec(&manifest(&all))?,
        )?;
        let objects = Self {
            directory,
            service: last.clone(),
        };
        objects.write_slice(0)?;
        Ok(objects)
    }

    /// The slice of the last Service; its last endpoint is another one each time.
    fn write_slice(&self, number: u32) -> Result<()> {
        let mut endpoints = self.service.endpoints.clone();
        endpoints.truncate(100);
        if let Some(last) = endpoints.last_mut() {
            last.set_ip(std::net::Ipv4Addr::from(0x0aff_0001 + number % 2).into());
        }
        let list = json!({
            "apiVersion": "v1", "kind": "List", "items": [slice(&self.service, 0, &endpoints)],
        });
        let fresh = self.directory.join(".one.json.new");
        std::fs::write(&fresh, serde_json::to_vec(&list)?)?;
        std::fs::rename(&fresh, self.directory.join("one.json")).context("replace the slice")
    }
}

/// Changes one endpoint and waits until that is in the maps: microseconds that it took.
fn change(agent: &Agent, objects: &Objects, number: u32) -> Result<f64> {
    let syncs = |status: &Value| status.pointer("/sync/total").and_then(Value::as_u64);
    let before = syncs(&agent.status()?);
    objects.write_slice(number + 1)?;
    let limit = Instant::now() + PATIENCE;
    loop {
        std::thread::sleep(Duration::from_millis(10));
        let status = agent.status()?;
        let latency = status.pointer("/sync/latency_micros");
        if syncs(&status) > before
            && let Some(latency) = latency.and_then(Value::as_f64)
        {
            return Ok(latency);
        }
        if Instant::now() > limit {
            bail!("change {number} was not in the maps after {PATIENCE:?}");
        }
    }
}

/// MiB of the maps, as the kernel accounts for them, and of the agent.
fn memory(agent: &Agent) -> Result<(f64, f64)> {
    let pid = agent.status()?["pid"].as_u64().context("the agent's pid")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
        .context("the agent's VmRSS")?;
    Ok((map_bytes(agent)? / 1024.0 / 1024.0, resident / 1024.0))
}

fn map_bytes(agent: &Agent) -> Result<f64> {
    let maps = agent.map_path("CONTROL");
    let directory = maps.parent().context("the directory of the maps")?;
    let mut total = 0.0;
    for entry in std::fs::read_dir(directory)? {
        let mut command = std::process::Command::new("bpftool");
        command
            .args(["--json", "map", "show", "pinned"])
            .arg(entry?.path());
        let output = command.output().context("run bpftool")?;
        let map: Value = serde_json::from_slice(&output.stdout).context("bpftool's answer")?;
        total += map["bytes_memlock"]
            .as_f64()
            .context("bytes_memlock of a map")?;
    }
    Ok(total)
}
