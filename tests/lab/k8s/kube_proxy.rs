//! The real kube-proxy, as a process of a node of the lab.
//!
//! Owns its command line. Invariant: it has the node's network alone, and writes no setting of the machine.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use super::Kubernetes;
use super::programs::Programs;
use crate::lab::Node;
use crate::process::Process;

/// Where its rules go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Tables of its own.
    Nftables,
    /// Chains in the tables of `iptables`.
    Iptables,
}

impl Mode {
    /// As `--proxy-mode` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// A running kube-proxy. Its rules stay when it ends.
#[derive(Debug)]
pub struct KubeProxy(Process);

impl KubeProxy {
    /// Starts it, and waits until it has written its rules.
    ///
    /// # Errors
    /// If it was not built, or does not become healthy.
    pub fn start(
        cluster: &Kubernetes,
        programs: &Programs,
        node: &Node,
        mode: Mode,
    ) -> Result<Self> {
        let kubeconfig = cluster.control.kubeconfig("system:kube-proxy", None)?;
        let mut command = Command::new(programs.find("kube-proxy")?);
        command
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--hostname-override={}", node.name))
            .arg(format!("--proxy-mode={}", mode.name()))
            .arg("--cluster-cidr=10.244.0.0/16,fd00:10:244::/48")
            // Settings of the machine.
            .args(["--conntrack-max-per-core=0", "--oom-score-adj=0"]);
        let log = node.run_dir.join("kube-proxy.log");
        let mut process = Process::start(cluster.lab.record(), &node.netns, &mut command, &log)?;
        let healthy = "curl --silent --fail --max-time 2 http://127.0.0.1:10256/healthz";
        // An agent beside it may be who answers that it is healthy.
        process.wait_until(Duration::from_mins(1), || {
            has_rules(node).unwrap_or(false) && node.netns.sh(healthy).is_ok()
        })?;
        Ok(Self(process))
    }

    /// Ends it as kubelet does.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(mut self) -> Result<()> {
        self.0.signal(Signal::TERM)?;
        self.0.wait(Duration::from_secs(10)).map(drop)
    }
}

/// Whether rules of kube-proxy's are on a node.
///
/// # Errors
/// If they cannot be listed.
pub fn has_rules(node: &Node) -> Result<bool> {
    let rules = node.netns.sh("nft list ruleset")?;
    Ok(rules.contains("kube-proxy") || rules.contains("KUBE-SERVICES"))
}
