//! Steady load from anywhere: `pod load` of `tests/kubernetes`, run by a process of the lab or inside a Pod.
//!
//! Owns how it is started, ended and read. Invariant: a load that nobody ended, or that ended by itself, is an error.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::kubectl::Kubectl;
use super::programs::Programs;
use crate::netns::Netns;

/// A running load.
#[derive(Debug)]
pub struct Load {
    child: Option<Child>,
    place: String,
}

/// What became of its requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// Requests on a connection of their own that were answered.
    pub new: u64,
    /// Requests that were answered on a connection that was kept from the beginning, one for each address.
    pub kept: u64,
    /// How many were not, by address and error; a kept connection that had to be made anew is one.
    pub failed: BTreeMap<String, u64>,
    /// How many were answered by whom.
    pub names: BTreeMap<String, u64>,
    /// The longest that a request took.
    pub longest_millis: u64,
}

impl Load {
    /// Begins in a namespace (and its cgroup, if it has one).
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn from(netns: &Netns, programs: &Programs, addresses: &[String]) -> Result<Self> {
        let mut command = Command::new(programs.find("pod")?);
        command.arg("load").args(addresses);
        let mut inside = netns.wrapped(&command);
        Self::start(inside.as_mut().unwrap_or(&mut command), netns, netns.name())
    }

    /// Begins in a Pod, which is named as `kubectl exec` wants it.
    ///
    /// # Errors
    /// If kubectl cannot be started.
    pub fn in_pod(kubectl: &Kubectl, pod: &str, addresses: &[String]) -> Result<Self> {
        let words = format!(
            "exec --stdin {pod} -- /bin/pod load {}",
            addresses.join(" ")
        );
        let (mut command, netns) = kubectl.command(&words);
        Self::start(&mut command, &netns, pod)
    }

    fn start(command: &mut Command, netns: &Netns, place: &str) -> Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = netns
            .run(|| command.spawn())?
            .with_context(|| format!("start a load from {place}"))?;
        Ok(Self {
            child: Some(child),
            place: place.to_owned(),
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// If it had ended before, or did not say what became of its requests.
    pub fn finish(mut self) -> Result<Answers> {
        let mut child = self.child.take().context("it is finished once")?;
        let early = child.try_wait()?;
        // Its standard input ends: so does it.
        drop(child.stdin.take());
        let output = child.wait_with_output()?;
        let (said, error) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        ensure!(
            early.is_none() && output.status.success(),
            "the load from {} ended with {}: {said}{error}",
            self.place,
            output.status
        );
        serde_json::from_str(&said).with_context(|| format!("what the load says: {said}{error}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself; nothing is lost.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let text = r#"{"new": 3, "kept": 2, "failed": {"192.0.2.1:80 after 0.1 s, not connected: refused": 1}, "names": {"web-1": 5}, "longest_millis": 7}"#;
        let answers: Answers = serde_json::from_str(text).expect("JSON");
        assert_eq!((answers.new, answers.kept), (3, 2));
        assert_eq!(
            answers.failed["192.0.2.1:80 after 0.1 s, not connected: refused"],
            1
        );
        assert!(serde_json::from_str::<Answers>("{}").is_err());
    }
}
