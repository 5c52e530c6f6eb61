//! The agent of a lab node: started in the node's namespace, asked through its own command line.
//!
//! Invariant: everything it makes lies in the pin and run directories of that node, so the lab removes it too.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nodeport_common::ABI_VERSION;
use rustix::process::Signal;
use serde_json::Value;

use crate::lab::{Lab, Node};
use crate::netns::Netns;
use crate::outcomes::Outcomes;
use crate::process::Process;
use crate::record::Record;

/// How long an agent may take until its first complete state is written.
const START: Duration = Duration::from_secs(20);

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// The program.
    pub binary: PathBuf,
    /// `--manifests`; not given if there are none.
    pub manifests: Vec<PathBuf>,
    /// `--xdp`.
    pub xdp: String,
    /// Further arguments.
    pub arguments: Vec<String>,
}

/// The agent of one node.
#[derive(Debug)]
pub struct Agent {
    /// Its node's name.
    pub node: String,
    spec: AgentSpec,
    netns: Netns,
    pin_dir: PathBuf,
    run_dir: PathBuf,
    cgroup: Option<PathBuf>,
    process: Option<Process>,
}

impl AgentSpec {
    /// With these objects, XDP as the device allows.
    #[must_use]
    pub fn new(manifests: &[PathBuf]) -> Self {
        Self {
            binary: binary(),
            manifests: manifests.to_vec(),
            xdp: "auto".to_owned(),
            arguments: Vec::new(),
        }
    }

    /// `--xdp MODE`.
    #[must_use]
    pub fn xdp(mut self, mode: &str) -> Self {
        mode.clone_into(&mut self.xdp);
        self
    }

    /// More arguments, separated by blanks.
    #[must_use]
    pub fn arguments(mut self, words: &str) -> Self {
        self.arguments
            .extend(words.split_whitespace().map(str::to_owned));
        self
    }
}

/// The agent's binary: `NODEPORT_AGENT`, or the release build of this workspace.
#[must_use]
pub fn binary() -> PathBuf {
    std::env::var_os("NODEPORT_AGENT").map_or_else(
        || {
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let target = std::env::var_os("CARGO_TARGET_DIR")
                .map_or_else(|| workspace.join("target"), PathBuf::from);
            target.join("release/nodeport-agent")
        },
        PathBuf::from,
    )
}

/// Starts an agent on every node and waits until each has written its first complete state.
///
/// # Errors
/// If one does not start; the error has the end of its log.
pub fn start_all(lab: &Lab, spec: &AgentSpec) -> Result<Vec<Agent>> {
    let mut agents: Vec<_> = lab
        .nodes
        .iter()
        .map(|node| Agent::new(node, spec.clone()))
        .collect();
    for agent in &mut agents {
        agent.spawn(lab)?;
    }
    agents.iter_mut().try_for_each(Agent::wait_ready)?;
    Ok(agents)
}

impl Agent {
    /// Not started yet.
    #[must_use]
    pub fn new(node: &Node, spec: AgentSpec) -> Self {
        Self {
            node: node.name.clone(),
            spec,
            netns: node.netns.clone(),
            pin_dir: node.pin_dir.clone(),
            run_dir: node.run_dir.clone(),
            cgroup: node.cgroup.clone(),
            process: None,
        }
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(&mut self, lab: &Lab) -> Result<()> {
        self.spawn(lab)?;
        self.wait_ready()
    }

    /// Starts it outside of a lab, in the namespace of its node, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_recorded(&mut self, record: &Record) -> Result<()> {
        self.spawn_recorded(record)?;
        self.wait_ready()
    }

    /// Starts it.
    ///
    /// # Errors
    /// If the binary is missing.
    pub fn spawn(&mut self, lab: &Lab) -> Result<()> {
        self.spawn_recorded(lab.record())
    }

    fn spawn_recorded(&mut self, record: &Record) -> Result<()> {
        let binary = &self.spec.binary;
        if !binary.exists() {
            bail!(
                "{} is missing: `cargo xtask build` makes it",
                binary.display()
            );
        }
        let mut command = Command::new(binary);
        command.args(["run", "--node-name", &self.node, "--xdp", &self.spec.xdp]);
        if !self.spec.manifests.is_empty() {
            command.arg("--manifests").args(&self.spec.manifests);
        }
        // Never the machine's own.
        match &self.cgroup {
            Some(cgroup) => command.arg("--cgroup-root").arg(cgroup),
            None => command.arg("--socket-lb=off"),
        };
        self.places(&mut command).args(&self.spec.arguments);
        let log = self.log_path();
        self.process = Some(Process::start(record, &self.netns, &mut command, &log)?);
        Ok(())
    }

    /// Waits until the first complete state is written.
    ///
    /// # Errors
    /// If it ends before or takes too long.
    pub fn wait_ready(&mut self) -> Result<()> {
        let status = self.command(&["status", "-o", "json"]);
        let netns = self.netns.clone();
        let process = self.process.as_mut().context("the agent was not started")?;
        let (program, arguments) = status.split_first().context("a command")?;
        process.wait_until(START, || {
            let output = netns.output(Command::new(program).args(arguments));
            output.is_ok_and(|output| is_ready(&output.stdout))
        })
    }

    /// Stops it as a service manager does (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// If it does not end, or with an error.
    pub fn stop(&mut self) -> Result<()> {
        let process = self.process.as_ref().context("the agent does not run")?;
        process.signal(Signal::TERM)?;
        self.wait_end(Duration::from_secs(10))
    }

    /// Waits for its own end.
    ///
    /// # Errors
    /// If it goes on, or ended with an error: the error has its log.
    pub fn wait_end(&mut self, limit: Duration) -> Result<()> {
        let mut process = self.process.take().context("the agent does not run")?;
        let status = process.wait(limit)?;
        if !status.success() {
            bail!(
                "the agent of {} ended with {status}:\n{}",
                self.node,
                process.log()
            );
        }
        Ok(())
    }

    /// Kills it as a crash does (SIGKILL).
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .context("the agent does not run")?
            .kill()
    }

    /// Everything that it logged so far, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Where it logs.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.run_dir.join("agent.log")
    }

    /// Where a map is pinned.
    #[must_use]
    pub fn map_path(&self, map: &str) -> PathBuf {
        self.pin_dir.join(format!("v{ABI_VERSION}/maps")).join(map)
    }

    /// Where links are pinned.
    #[must_use]
    pub fn link_dir(&self) -> PathBuf {
        self.pin_dir.join(format!("v{ABI_VERSION}/links"))
    }

    /// The command line of another verb, to be typed on the machine that the lab is on.
    #[must_use]
    pub fn command_line(&self, words: &[&str]) -> String {
        let words: Vec<_> = self
            .command(words)
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        format!(
            "nsenter --net={} {}",
            self.netns.path().display(),
            words.join(" ")
        )
    }

    /// Whether it was started and neither stopped nor killed.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Process id.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> Result<u32> {
        let process = self.process.as_ref().context("the agent does not run")?;
        Ok(process.id())
    }

    /// `status -o json`.
    ///
    /// # Errors
    /// If it fails.
    pub fn status(&self) -> Result<Value> {
        self.ask(&["status", "-o", "json"])
    }

    /// `dump WHAT -o json`; works without a running agent.
    ///
    /// # Errors
    /// If it fails.
    pub fn dump(&self, what: &str) -> Result<Value> {
        self.ask(&["dump", what, "-o", "json"])
    }

    /// `plan -o json` against its maps: what would bring them in step with the objects that its source has now, read anew.
    ///
    /// # Errors
    /// If it fails.
    pub fn plan(&self) -> Result<Value> {
        let mut words = vec!["plan", "-o", "json", "--node-name", &self.node];
        words.extend(self.spec.arguments.iter().map(String::as_str));
        let mut command = Command::new(&self.spec.binary);
        command.args(&words).arg("--pin-dir").arg(&self.pin_dir);
        let text = self.output(&mut command, &words)?;
        serde_json::from_str(&text).context("the plan")
    }

    /// The counters of packets.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn outcomes(&self) -> Result<Outcomes> {
        Outcomes::parse(&self.dump("outcomes")?)
    }

    /// `clean`: detaches and removes everything.
    ///
    /// # Errors
    /// If it fails.
    pub fn clean(&self) -> Result<()> {
        self.run(&["clean"]).map(drop)
    }

    fn ask(&self, words: &[&str]) -> Result<Value> {
        let text = self.run(words)?;
        serde_json::from_str(&text)
            .with_context(|| format!("the agent's answer to {}", words.join(" ")))
    }

    /// Another verb of this agent, and what it prints.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let command = self.command(words);
        let (program, arguments) = command.split_first().context("a command")?;
        self.output(Command::new(program).args(arguments), words)
    }

    fn output(&self, command: &mut Command, words: &[&str]) -> Result<String> {
        let output = self.netns.output(command)?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!(
                "on {}: nodeport-agent {}: {}",
                self.node,
                words.join(" "),
                error.trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The command line of another verb for this agent.
    fn command(&self, words: &[&str]) -> Vec<std::ffi::OsString> {
        let mut command = Command::new(&self.spec.binary);
        self.places(command.args(words));
        std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(ToOwned::to_owned)
            .collect()
    }

    fn places<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .arg("--pin-dir")
            .arg(&self.pin_dir)
            .arg("--run-dir")
            .arg(&self.run_dir)
    }
}

fn is_ready(status: &[u8]) -> bool {
    let status: Result<Value, _> = serde_json::from_slice(status);
    status.is_ok_and(|status| status.pointer("/ready") == Some(&Value::Bool(true)))
}
