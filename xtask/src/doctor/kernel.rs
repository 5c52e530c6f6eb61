//! What the kernel and our privileges allow.

use super::{Finding, State};
use crate::shell;
use std::{fs, path::Path, process::Command};

/// The oldest kernel that nodeport supports.
const OLDEST: (u32, u32) = (6, 1);

/// Capabilities that loading, attaching and making namespaces take, by number (linux/capability.h).
const CAPABILITIES: &[(u32, &str)] = &[
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (39, "CAP_BPF"),
];

/// Everything about the kernel.
pub(super) fn findings() -> Vec<Finding> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lacking = lacking_capabilities(&status);
    vec![
        version(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()),
        Finding::check(
            "BTF",
            Path::new("/sys/kernel/btf/vmlinux").exists(),
            "/sys/kernel/btf/vmlinux",
            "a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ),
        Finding::check(
            "privileges",
            lacking.is_empty(),
            "root, or the capabilities of root that are needed",
            &format!("run as root; lacking: {}", lacking.join(" ")),
        ),
        bpffs(&mounts, shell::is_root()),
        Finding::check(
            "cgroup v2",
            is_mounted(&mounts, "cgroup2", None),
            "mounted",
            "mount -t cgroup2 none /sys/fs/cgroup (beside v1: at another place)",
        ),
        in_namespace("network namespaces", "true", "CONFIG_NET_NS=y and root"),
        in_namespace(
            "veth devices",
            "ip link add try0 type veth peer name try1",
            "CONFIG_VETH (modprobe veth)",
        ),
        in_namespace(
            "VXLAN devices",
            "ip link add try0 type vxlan id 1 dstport 4789",
            "CONFIG_VXLAN (modprobe vxlan)",
        ),
    ]
}

/// The file system that pins lie on; `run`, `test` and `verify` mount it as root.
fn bpffs(mounts: &str, root: bool) -> Finding {
    const MOUNT: &str = "mount -t bpf bpf /sys/fs/bpf";
    if is_mounted(mounts, "bpf", Some("/sys/fs/bpf")) {
        Finding::fine("bpffs", "/sys/fs/bpf")
    } else if root {
        Finding::new(
            "bpffs",
            State::Installable,
            format!("will be mounted: {MOUNT}"),
        )
    } else {
        Finding::missing("bpffs", MOUNT)
    }
}

fn version(release: &str) -> Finding {
    let release = release.trim();
    let (major, minor) = OLDEST;
    match parse_release(release) {
        Some(found) if found >= OLDEST => Finding::fine("kernel", release),
        _ => Finding::missing(
            "kernel",
            format!("{release}: Linux {major}.{minor} or newer is needed"),
        ),
    }
}

/// Tries a command in a network namespace of its own, which ends with the command.
fn in_namespace(name: &str, command: &str, remedy: &str) -> Finding {
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--", "sh", "-c", command]);
    match shell::output(&mut unshare) {
        Ok(_) => Finding::fine(name, "can be made"),
        Err(_) if command.starts_with("ip ") && shell::find("ip").is_none() => {
            Finding::fine(name, "not tried: ip is not installed yet")
        }
        Err(error) => {
            let text = format!("{error:#}").replace('\n', "; ");
            Finding::missing(name, format!("{remedy} ({text})"))
        }
    }
}

/// Major and minor number of a kernel release such as `6.1.0-28-cloud-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether a file system of this type is mounted, at this place if one is given.
fn is_mounted(mounts: &str, kind: &str, place: Option<&str>) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let at = fields.next();
        fields.next() == Some(kind) && place.is_none_or(|place| at == Some(place))
    })
}

/// The needed capabilities that the `CapEff` line of a status file does not have.
fn lacking_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_read() {
        assert_eq!(parse_release("6.1.0-28-cloud-amd64"), Some((6, 1)));
        assert_eq!(parse_release("6.18.44-fc"), Some((6, 18)));
        assert_eq!(parse_release("5.15"), Some((5, 15)));
        assert_eq!(parse_release("linux"), None);
        assert!(parse_release("6.18.1") > Some(OLDEST));
        assert!(parse_release("5.19.0") < Some(OLDEST));
    }

    #[test]
    fn a_mount_is_recognised_by_type_and_place() {
        let mounts =
            "bpf /sys/fs/bpf bpf rw,nosuid 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert!(is_mounted(mounts, "bpf", Some("/sys/fs/bpf")));
        assert!(!is_mounted(mounts, "bpf", Some("/run/bpf")));
        assert!(is_mounted(mounts, "cgroup2", None));
        assert!(!is_mounted("bpf /mnt ext4 rw 0 0\n", "bpf", None));
    }

    #[test]
    fn a_bare_machine_lacks_no_bpffs_that_root_can_mount() {
        assert!(matches!(bpffs("", true).state, State::Installable));
        assert!(matches!(bpffs("", false).state, State::Missing));
        let mounts = "bpf /sys/fs/bpf bpf rw 0 0\n";
        assert!(matches!(bpffs(mounts, false).state, State::Fine));
    }

    #[test]
    fn capabilities_are_read_by_bit() {
        assert!(lacking_capabilities("CapEff:\t000001ffffffffff\n").is_empty());
        assert_eq!(
            lacking_capabilities("CapEff:\t0000000000001000\n"),
            ["CAP_SYS_ADMIN", "CAP_BPF"]
        );
        assert_eq!(lacking_capabilities("").len(), 3);
    }
}
