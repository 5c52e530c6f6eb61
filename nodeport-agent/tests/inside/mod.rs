//! Stories that need namespaces of their own. Each test executable starts itself again under `unshare`, so that nothing of a story
//! outlives it. Says so where root or the BPF object is missing.

use std::process::Command;

use nodeport_agent::object::OBJECT;

const INSIDE: &str = "NODEPORT_TEST_INSIDE";

/// Runs a story in namespaces of its own, with a BPF file system at its usual place.
pub(crate) fn isolated(name: &str, story: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        sh("mount -t bpf bpf /sys/fs/bpf");
        sh("ip link set lo up");
        story();
        return;
    }
    if OBJECT.is_empty() || !rustix::process::geteuid().is_root() {
        println!("skipped: needs root and the BPF object (cargo xtask build)");
        return;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().expect("this executable"))
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare");
    assert!(status.success(), "{name}");
}

/// Runs a command line; it must succeed.
pub(crate) fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().expect("sh");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
