//! Real nodes: containerd and kubelet in the lab's nodes, each in namespaces and cgroups of its own.
//!
//! Owns the cgroups, the CNI configuration and the command line; `node.sh` is what runs inside. Invariant: everything that runs on a
//! node ends with one process, which is recorded, and so are its cgroups.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::control::{ControlPlane, DNS};
use super::pki::write;
use super::programs::Programs;
use crate::lab::{Lab, Node};
use crate::process::Process;
use crate::spec::NodeSpec;

/// What the first process runs.
const SCRIPT: &str = include_str!("node.sh");

/// A running node.
#[derive(Debug)]
pub struct RealNode {
    /// Its name.
    pub name: String,
    process: Process,
}

impl RealNode {
    /// Starts the node with this index.
    ///
    /// # Errors
    /// If a program was not built, or a cgroup cannot be made.
    pub fn start(
        lab: &Lab,
        control: &ControlPlane,
        programs: &Programs,
        images: &Path,
        index: usize,
    ) -> Result<Self> {
        let (spec, node) = (&lab.spec.nodes[index], &lab.nodes[index]);
        let dir = node.run_dir.join("machine");
        fs::create_dir_all(dir.join("cni")).with_context(|| format!("make {}", dir.display()))?;
        write(&dir.join("cni/10-lab.conflist"), &cni(spec))?;
        let kubeconfig =
            control.kubeconfig(&format!("system:node:{}", node.name), Some("system:nodes"))?;
        let cgroups = make_cgroups(lab, node)?;
        let addresses: Vec<_> = node
            .addresses
            .iter()
            .flatten()
            .map(ToString::to_string)
            .collect();
        // The shell moves itself into the cgroups and becomes `unshare`, whose end ends all of it.
        let script = "for cgroup in $CGROUPS; do echo $$ >$cgroup/cgroup.procs; done; exec unshare --cgroup --mount --uts --ipc --pid --fork \
            --kill-child --propagation private --mount-proc sh -c \"$SCRIPT\"";
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .env("SCRIPT", SCRIPT)
            .env("CGROUPS", join(&cgroups))
            .env("NODE", &node.name)
            .env("LAB", lab.dir())
            .env("DIR", &dir)
            .env("ADDRESSES", addresses.join(","))
            .env("KUBECONFIG", kubeconfig)
            .env("AUTHORITY", control.pki().authority())
            .env("DNS", DNS.to_string())
            .env("PROGRAMS", programs.list()?)
            .env("IMAGES", images)
            .env("RUNC", "/usr/sbin/runc");
        let log = dir.join("node.log");
        Ok(Self {
            name: node.name.clone(),
            process: Process::start(lab.record(), &node.netns, &mut command, &log)?,
        })
    }

    /// Ends it as a power failure does.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// What went wrong, for people: the last lines of its log.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// Cgroups for a node: the one of the lab in the unified hierarchy, and one in each hierarchy of version 1.
fn make_cgroups(lab: &Lab, node: &Node) -> Result<Vec<PathBuf>> {
    let mut cgroups: Vec<_> = node.cgroup.iter().cloned().collect();
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    for line in mounts.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let [_, mount, "cgroup", ..] = fields.as_slice() else {
            continue;
        };
        let dir = Path::new(mount).join(format!("nodeport-lab-{}-{}", lab.id, node.name));
        if !dir.exists() {
            lab.record().cgroup(&dir)?;
            fs::create_dir(&dir).with_context(|| format!("make cgroup {}", dir.display()))?;
        }
        // A new cgroup of cpuset has no processors, and nothing can be in it.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(text) = fs::read_to_string(Path::new(mount).join(file)) {
                fs::write(dir.join(file), text).with_context(|| format!("write {file}"))?;
            }
        }
        cgroups.push(dir);
    }
    Ok(cgroups)
}

fn join(paths: &[PathBuf]) -> OsString {
    let words: Vec<_> = paths
        .iter()
        .map(|path| path.as_os_str().to_owned())
        .collect();
    words.join(" ".as_ref())
}

/// CNI's configuration: a veth for each Pod, addresses of the node's Pod networks, host ports.
fn cni(spec: &NodeSpec) -> String {
    let ranges: Vec<_> = spec
        .pod_cidrs
        .iter()
        .map(|cidr| json!([{"subnet": cidr}]))
        .collect();
    let routes: Vec<_> = spec
        .pod_cidrs
        .iter()
        .map(|cidr| json!({"dst": if cidr.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" }}))
        .collect();
    json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [
            {
                "type": "ptp", "mtu": 1500, "ipMasq": false,
                "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": ranges, "routes": routes},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_an_address_of_each_family() {
        let text = cni(&NodeSpec::numbered(2));
        let conf: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let ipam = &conf["plugins"][0]["ipam"];
        assert_eq!(ipam["ranges"][0][0]["subnet"], "10.244.2.0/24");
        assert_eq!(ipam["ranges"][1][0]["subnet"], "fd00:10:244:2::/64");
        assert_eq!(ipam["routes"][1]["dst"], "::/0");
    }
}
