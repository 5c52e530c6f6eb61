//! Who is measured: the ways of carrying a packet from the wire to a backend and back.
//!
//! Invariant: a candidate changes nothing but the node's namespace, and what it did there ends with the stage.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nodeport_tests::Netns;
use nodeport_tests::agent::{Agent, AgentSpec};
use nodeport_tests::k8s::kube_proxy::Mode;

use crate::helper::Helper;
use crate::kube_proxy;
use crate::objects::{Shape, manifest};
use crate::real;
use crate::stage::{FABRIC, Stage, UPLINK};
use crate::statistics::{LIMIT, ROUTING};

/// A way of carrying packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// XDP sends every packet from one device to the other: the limit of the machine.
    Redirect,
    /// The same, each packet rewritten as by a translation of which nothing has to be looked up.
    Rewrite,
    /// The kernel routes; no netfilter, no NAT.
    Routing,
    /// kube-proxy's rules for nftables.
    Nftables,
    /// kube-proxy's rules for iptables.
    Iptables,
    /// nodeport with XDP.
    Xdp,
    /// nodeport with TC alone.
    Tc,
    /// nodeport with XDP and `--redirect-local`.
    Straight,
    /// A program that drops every packet: what of a run time is due to the readings of the clock.
    Empty,
}

impl Candidate {
    /// Its name in tables and records.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redirect => LIMIT,
            Self::Rewrite => "redirect, rewritten",
            Self::Routing => ROUTING,
            Self::Nftables => "kube-proxy nftables",
            Self::Iptables => "kube-proxy iptables",
            Self::Xdp => "nodeport xdp",
            Self::Tc => "nodeport tc",
            Self::Straight => "nodeport redirect-local",
            Self::Empty => "empty",
        }
    }

    /// Whether it translates: then the client asks the front end, otherwise the backend itself.
    pub(crate) fn translates(self) -> bool {
        !matches!(
            self,
            Self::Redirect | Self::Rewrite | Self::Routing | Self::Empty
        )
    }

    /// Sets it up on a stage. `arguments`: more flags for the agent, which is returned if there is one: it ends when dropped.
    pub(crate) fn set_up(
        self,
        stage: &Stage,
        helper: &mut Helper,
        shape: &Shape,
        arguments: &str,
    ) -> Result<Option<Agent>> {
        let node = stage.spaces.get("node");
        match self {
            Self::Redirect => {
                helper.attach("bench_redirect_f", node, UPLINK.name)?;
                helper.attach("bench_redirect_b", node, FABRIC.name)?;
            }
            Self::Rewrite => {
                helper.attach("bench_rewrite_f", node, UPLINK.name)?;
                helper.attach("bench_rewrite_b", node, FABRIC.name)?;
            }
            Self::Routing => {}
            Self::Empty => helper.attach("bench_empty", node, UPLINK.name)?,
            Self::Nftables => {
                let real = real::rules(Mode::Nftables, shape)?;
                let rules = real.unwrap_or_else(|| kube_proxy::nftables(&shape.services()));
                feed(node, &["nft", "-f", "-"], &rules)?;
            }
            Self::Iptables => {
                let program = if shape.v6 {
                    "ip6tables-restore"
                } else {
                    "iptables-restore"
                };
                let real = real::rules(Mode::Iptables, shape)?;
                let rules = real.unwrap_or_else(|| kube_proxy::iptables(&shape.services()));
                feed(node, &[program], &rules)?;
            }
            Self::Xdp => return agent(stage, shape, "native", arguments),
            Self::Tc => return agent(stage, shape, "off", arguments),
            Self::Straight => {
                let arguments = format!("--redirect-local {arguments}");
                return agent(stage, shape, "native", &arguments);
            }
        }
        Ok(None)
    }
}

fn agent(stage: &Stage, shape: &Shape, xdp: &str, arguments: &str) -> Result<Option<Agent>> {
    let path = stage.spaces.record().dir().join("objects.json");
    std::fs::write(&path, serde_json::to_vec(&manifest(&shape.services()))?)
        .with_context(|| format!("write {}", path.display()))?;
    let spec = AgentSpec::new(&[path]).xdp(xdp).arguments(arguments);
    let mut agent = Agent::new(&stage.spaces.node("node")?, spec);
    agent.start_recorded(stage.spaces.record())?;
    Ok(Some(agent))
}

/// Runs a program inside a namespace and feeds it a text.
pub(crate) fn feed(netns: &Netns, words: &[&str], text: &str) -> Result<()> {
    let (program, arguments) = words.split_first().context("a command")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = netns
        .run(|| command.spawn())?
        .with_context(|| format!("run {program}"))?;
    // A program that fails closes its end early: its own message says more than the broken pipe.
    let written = child
        .stdin
        .take()
        .context("standard input")?
        .write_all(text.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    written.with_context(|| format!("write to {program}"))
}
