//! kubectl, run in a namespace of the lab.
//!
//! Invariant: a command that fails is an error that has the command and what kubectl said.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::programs::Programs;
use crate::netns::Netns;

/// kubectl with a kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    netns: Netns,
}

impl Kubectl {
    /// With a kubeconfig, from a namespace.
    ///
    /// # Errors
    /// If kubectl was not built.
    pub fn new(programs: &Programs, netns: &Netns, kubeconfig: &Path) -> Result<Self> {
        Ok(Self {
            program: programs.find("kubectl")?,
            kubeconfig: kubeconfig.to_owned(),
            netns: netns.clone(),
        })
    }

    /// Runs it with words separated by blanks (no quoting), and returns what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(&self, words: &str) -> Result<String> {
        let words: Vec<_> = words.split_whitespace().collect();
        self.with_input(&words, "")
    }

    /// The same, with something on its standard input (`--filename -`).
    ///
    /// # Errors
    /// If it fails.
    pub fn run_with(&self, words: &str, input: &str) -> Result<String> {
        let words: Vec<_> = words.split_whitespace().collect();
        self.with_input(&words, input)
    }

    /// The process that [`Self::run`] would start, and the namespace to start it in: for one that goes on while others run.
    #[must_use]
    pub fn command(&self, words: &str) -> (Command, Netns) {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        // Discovery is kept in the home directory otherwise, where a cluster of yesterday may have the same address.
        let cache = self.kubeconfig.with_extension("cache");
        command.arg("--cache-dir").arg(cache);
        command.args(words.split_whitespace());
        (command, self.netns.clone())
    }

    /// `kubectl apply` of objects in YAML or JSON.
    ///
    /// # Errors
    /// If it fails.
    pub fn apply(&self, objects: &str) -> Result<String> {
        self.with_input(&["apply", "--filename", "-"], objects)
    }

    /// The command to type in a terminal, before its arguments.
    #[must_use]
    pub fn command_line(&self) -> String {
        format!(
            "nsenter --net={} {} --kubeconfig {}",
            self.netns.path().display(),
            self.program.display(),
            self.kubeconfig.display()
        )
    }

    fn with_input(&self, words: &[&str], input: &str) -> Result<String> {
        let (mut command, netns) = self.command("");
        command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = netns
            .run(|| command.spawn())?
            .with_context(|| format!("start {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("kubectl's standard input")?;
        // If it ends without reading, it says why.
        let written = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", words.join(" "), error.trim());
        }
        written.context("write to kubectl")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
