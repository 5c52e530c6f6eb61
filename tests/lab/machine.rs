//! What the lab needs of the machine's own file systems: cgroup v2 and a bpffs.
//!
//! Invariant: programs are never attached to, and nothing is changed in, a cgroup that the lab did not make.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::lab::Node;
use crate::netns::Netns;
use crate::record::Record;

/// A cgroup of its own under the unified hierarchy; nothing is attached to it here.
pub(crate) fn make_cgroup(id: &str, node: &str, record: &Record) -> Result<Option<PathBuf>> {
    let Some(root) = unified_hierarchy() else {
        return Ok(None);
    };
    let lab = root.join(format!("nodeport-lab-{id}"));
    let node = lab.join(node);
    for dir in [&lab, &node] {
        if !dir.exists() {
            record.cgroup(dir)?;
            fs::create_dir(dir).with_context(|| format!("make cgroup {}", dir.display()))?;
        }
    }
    Ok(Some(node))
}

impl Node {
    /// A namespace of this node, its own or a Pod's, with commands in the node's cgroup, as processes of a real node are.
    #[must_use]
    pub fn inside(&self, netns: &Netns) -> Netns {
        let cgroup = self.cgroup.as_deref();
        netns.in_cgroup(cgroup.unwrap_or(Path::new("cgroup v2 is not mounted")))
    }
}

/// Mounts a bpffs on `/sys/fs/bpf` if nothing is mounted there: pinned maps need it, and a bare machine may lack it.
///
/// # Errors
///
/// If it cannot be mounted, above all without root.
pub fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    if mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf"))
    {
        return Ok(());
    }
    let output = Command::new("mount")
        .args(["-t", "bpf", "bpf", "/sys/fs/bpf"])
        .output();
    let output = output.context("run mount")?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!(
            "mount a bpffs on /sys/fs/bpf: {} (this needs root)",
            error.trim()
        );
    }
    Ok(())
}

/// Where cgroup v2 is mounted.
fn unified_hierarchy() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mut fields = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .find(|f| f.get(2) == Some(&"cgroup2"))
        .map(|f| Path::new(f[1]).to_owned())
}
