//! The programs of other people that nodeport's verbs use: one table, for the installer and for `doctor`.
//!
//! Owns which Debian package brings which program, and how packages are installed. Invariant: an install starts no
//! service (nginx, dnsmasq) on the machine, and the guard that prevents it is gone when the install ends, however it ends.

use crate::shell;
use anyhow::{Result, bail};
use std::{path::Path, process::Command};

/// A program that some verb runs.
pub(crate) struct Tool {
    /// Name of the executable.
    pub(crate) program: &'static str,
    /// The Debian package that brings it.
    pub(crate) package: &'static str,
    /// What we use it for.
    pub(crate) purpose: &'static str,
}

/// What the lab and the tests run, beside the Rust toolchains.
pub(crate) const TOOLS: &[Tool] = &[
    tool(
        "ip",
        "iproute2",
        "makes the lab's network namespaces, devices and routes",
    ),
    tool("tc", "iproute2", "shows filters on kernels without TCX"),
    tool("bpftool", "bpftool", "lists maps and programs for people"),
    tool("nsenter", "util-linux", "runs a program in a lab node"),
    tool("nginx", "nginx", "the lab's HTTP server"),
    tool("dnsmasq", "dnsmasq-base", "the lab's UDP server"),
    tool("unzip", "unzip", "unpacks a Go toolchain, if there is none"),
    tool("dig", "bind9-dnsutils", "the lab's UDP client"),
    tool("curl", "curl", "the lab's HTTP client"),
    tool("iperf3", "iperf3", "steady streams, to count losses"),
    tool("nft", "nftables", "drops and counters in tests"),
    tool(
        "iptables-restore",
        "iptables",
        "kube-proxy's rules in `cargo xtask bench`",
    ),
    tool(
        "tcpdump",
        "tcpdump",
        "what was on the wire when a test failed",
    ),
    tool(
        "ethtool",
        "ethtool",
        "checksum offloads of the lab's devices",
    ),
    tool(
        "valgrind",
        "valgrind",
        "counts a packet's instructions for `cargo xtask verify`",
    ),
];

const fn tool(program: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool {
        program,
        package,
        purpose,
    }
}

/// Runs `apt-get` with services kept from starting.
///
/// Debian's maintainer scripts ask `/usr/sbin/policy-rc.d`; exit status 101 means "do not start". The trap undoes it when
/// apt-get fails and when the user interrupts it; a guard that a killed run left is recognised by its text. A policy that
/// the machine has of its own is put aside and back.
const GUARDED: &str = r#"
policy=$1
aside=$1.nodeport-saved
shift
undo() {
    if grep -qs 'nodeport xtask' $policy; then rm -f $policy; fi
    if [ -e $aside ]; then mv -f $aside $policy; fi
}
undo
trap 'undo' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
if [ -e $policy ]; then mv $policy $aside; fi
printf '#!/bin/sh\n# nodeport xtask: no service starts while packages are installed\nexit 101\n' >$policy
chmod 755 $policy
"$@"
"#;

/// Where Debian's maintainer scripts look.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The packages of the tools that are not on this machine.
pub(crate) fn missing_tools() -> Vec<&'static str> {
    let mut packages: Vec<_> = TOOLS
        .iter()
        .filter(|tool| shell::find(tool.program).is_none())
        .map(|tool| tool.package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Makes one program of [`TOOLS`] available, by installing its package if it is missing.
pub(crate) fn ensure(program: &str) -> Result<()> {
    if shell::find(program).is_some() {
        return Ok(());
    }
    let packages: Vec<_> = TOOLS
        .iter()
        .filter(|tool| tool.program == program)
        .map(|tool| tool.package)
        .collect();
    shell::stage(&format!("install {}", packages.join(" ")), || {
        install(&packages)
    })
}

/// Makes every tool of [`TOOLS`] available, by installing what is missing.
pub(crate) fn ensure_tools() -> Result<()> {
    let missing = missing_tools();
    if missing.is_empty() {
        return Ok(());
    }
    shell::stage(&format!("install {}", missing.join(" ")), || {
        install(&missing)
    })?;
    match missing_tools().as_slice() {
        [] => Ok(()),
        left => bail!(
            "these packages are installed, but their programs are not found: {}",
            left.join(" ")
        ),
    }
}

/// Installs those of these Debian packages that are missing, or says what to install where that is not possible.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let packages: Vec<_> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    if let Some(obstacle) = obstacle() {
        bail!("{obstacle}; install by hand: {}", remedy(&packages));
    }
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(&packages);
    apt(&arguments)
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Status}", package]);
    shell::output(&mut query).is_ok_and(|status| status == "installed")
}

/// Why packages cannot be installed by us, if so.
pub(crate) fn obstacle() -> Option<&'static str> {
    if !Path::new("/etc/debian_version").exists() || shell::find("apt-get").is_none() {
        Some("this is not a Debian system")
    } else if !shell::is_root() {
        Some("only root can install packages")
    } else {
        None
    }
}

/// The command that installs packages; on other systems than Debian, the names say what is meant.
pub(crate) fn remedy(packages: &[&str]) -> String {
    let names = packages.join(" ");
    if Path::new("/etc/debian_version").exists() {
        format!("apt-get install --no-install-recommends {names}")
    } else {
        format!("what Debian calls {names}")
    }
}

fn apt(arguments: &[&str]) -> Result<()> {
    shell::run(guarded(Path::new(POLICY), "apt-get").args(arguments))
}

fn guarded(policy: &Path, program: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", GUARDED, "install-packages"])
        .arg(policy)
        .arg(program)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_table_names_each_program_once() {
        let mut programs: Vec<_> = TOOLS.iter().map(|tool| tool.program).collect();
        programs.sort_unstable();
        let all = programs.len();
        programs.dedup();
        assert_eq!(programs.len(), all);
    }

    /// Runs the guard around a shell command that sees the policy's path as `$0`.
    fn under_guard(policy: &Path, script: &str) -> Option<i32> {
        let mut command = guarded(policy, "sh");
        command.args(["-c", script]).arg(policy);
        command.status().unwrap().code()
    }

    #[test]
    fn no_service_starts_while_packages_are_installed() {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("policy-rc.d");
        assert_eq!(under_guard(&policy, "\"$0\" nginx start"), Some(101));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_guard_is_gone_after_a_failed_and_after_an_interrupted_install() {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("policy-rc.d");
        assert_eq!(under_guard(&policy, "exit 100"), Some(100));
        assert_eq!(under_guard(&policy, "kill -TERM $PPID; exit 1"), Some(143));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_machine_keeps_a_policy_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("policy-rc.d");
        fs::write(&policy, "its own").unwrap();
        assert_eq!(under_guard(&policy, "grep -q nodeport \"$0\""), Some(0));
        assert_eq!(fs::read_to_string(&policy).unwrap(), "its own");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_guard_left_by_a_killed_run_is_not_taken_for_the_machines_own() {
        let directory = tempfile::tempdir().unwrap();
        let policy = directory.path().join("policy-rc.d");
        assert_eq!(under_guard(&policy, "cp \"$0\" \"$0.left\""), Some(0));
        fs::rename(policy.with_extension("d.left"), &policy).unwrap();
        assert_eq!(under_guard(&policy, "true"), Some(0));
        assert!(!policy.exists());
    }
}
