//! Checks before anything is touched, each with a message that says what to do.
//!
//! Owns the conditions under which the datapath can work. Refuses to change the machine. Invariant: a check that fails leaves
//! nothing behind.

use std::path::Path;

use rustix::thread::CapabilitySet;

use super::config::Config;
use super::error::DatapathError;
use super::kernel::{self, OLDEST, Version};
use super::ports;
use super::ports::PortRange;

/// Magic number of a BPF file system (`BPF_FS_MAGIC`).
const BPF_FS: i64 = 0xcafe_4a11;

/// Whether the datapath can be loaded here.
///
/// # Errors
/// The first condition that does not hold.
pub fn check(config: &Config, object: &[u8]) -> Result<(), DatapathError> {
    if object.is_empty() {
        return Err(DatapathError::NoObject);
    }
    check_version(Version::running())?;
    check_privileges()?;
    check_bpf_fs(&config.pin_dir)
}

/// Whether what an agent left behind can be removed here: as [`check`], without what only loading needs.
///
/// # Errors
/// The first condition that does not hold.
pub fn check_clean(pin_dir: &Path) -> Result<(), DatapathError> {
    check_privileges()?;
    check_bpf_fs(pin_dir)
}

/// An unreadable version passes: the kernel itself will refuse what it does not know.
fn check_version(running: Option<Version>) -> Result<(), DatapathError> {
    match running {
        Some(found) if found < OLDEST => Err(DatapathError::KernelTooOld { found }),
        _ => Ok(()),
    }
}

/// `CAP_SYS_ADMIN` stands for `CAP_BPF` and `CAP_PERFMON`, as in the kernel.
fn missing_capabilities(effective: CapabilitySet) -> Vec<&'static str> {
    let has = |capability| effective.contains(capability);
    let admin = has(CapabilitySet::SYS_ADMIN);
    [
        (admin || has(CapabilitySet::BPF), "CAP_BPF"),
        (has(CapabilitySet::NET_ADMIN), "CAP_NET_ADMIN"),
        (admin || has(CapabilitySet::PERFMON), "CAP_PERFMON"),
    ]
    .into_iter()
    .filter_map(|(present, name)| (!present).then_some(name))
    .collect()
}

fn check_privileges() -> Result<(), DatapathError> {
    let Ok(sets) = rustix::thread::capabilities(None) else {
        return Ok(());
    };
    let missing = missing_capabilities(sets.effective);
    if missing.is_empty() {
        return Ok(());
    }
    Err(DatapathError::NoPrivileges {
        missing: missing.join(", "),
    })
}

/// The pin directory itself need not exist yet: its nearest ancestor that does decides.
fn check_bpf_fs(pin_dir: &Path) -> Result<(), DatapathError> {
    let existing = pin_dir.ancestors().find_map(|path| {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        rustix::fs::statfs(path).ok()
    });
    match existing {
        Some(found) if found.f_type == BPF_FS => Ok(()),
        _ => Err(DatapathError::NoBpfFs {
            path: pin_dir.to_owned(),
        }),
    }
}

/// Conditions that the datapath survives, but the operator should know of.
#[must_use]
pub fn warnings(node_ports: PortRange) -> Vec<String> {
    let mut found = Vec::new();
    if kernel::net_setting("ipv4/ip_forward").as_deref() == Some("0") {
        found.push(
            "net.ipv4.ip_forward is 0: packets cannot be forwarded to Pods; set it to 1 (sysctl -w net.ipv4.ip_forward=1)"
                .to_owned(),
        );
    }
    let reserved = kernel::net_setting("ipv4/ip_local_reserved_ports").unwrap_or_default();
    found.extend(port_warnings(
        node_ports,
        kernel::local_port_range(),
        &reserved,
    ));
    found
}

/// Whether a list of reserved ports has this range as a part.
fn is_reserved(list: &str, range: PortRange) -> bool {
    let mut ranges = list
        .split(',')
        .filter_map(|part| part.trim().parse::<PortRange>().ok());
    ranges.any(|one| one.first <= range.first && range.last <= one.last)
}

/// Overlaps of port ranges (behaviours 18.3, edge-cases A5, J2).
fn port_warnings(node_ports: PortRange, local: Option<PortRange>, reserved: &str) -> Vec<String> {
    let mut found = Vec::new();
    let taken: Vec<PortRange> = [Some(node_ports), local].into_iter().flatten().collect();
    // The host's own sockets do not take what is reserved.
    let free = |local: &PortRange| {
        ports::overlap(*local, node_ports) && !is_reserved(reserved, node_ports)
    };
    if let Some(local) = local.filter(free) {
        found.push(format!(
            "the NodePort range {node_ports} overlaps net.ipv4.ip_local_port_range {local}: connections of this host may take the number of a NodePort; \
             move the one or the other, or reserve the NodePorts (--reserve-ports, or net.ipv4.ip_local_reserved_ports={node_ports})"
        ));
    }
    if ports::snat_segments(&taken)[0].count == 0 {
        found.push(
            "no source port is left for translated flows: every port from 1024 on is a NodePort or in net.ipv4.ip_local_port_range; \
             backends on other nodes cannot be reached until the latter is made smaller"
                .to_owned(),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE_PORTS: PortRange = PortRange {
        first: 30000,
        last: 32767,
    };

    #[test]
    fn an_old_kernel_is_named_with_what_is_needed() {
        assert!(check_version(Some(Version(6, 1))).is_ok());
        assert!(check_version(None).is_ok());
        let error = check_version(Some(Version(5, 15))).expect_err("too old");
        assert_eq!(
            error.to_string(),
            "kernel 5.15 is too old: nodeport needs 6.1 or later"
        );
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon_but_not_for_net_admin() {
        let all = CapabilitySet::BPF | CapabilitySet::NET_ADMIN | CapabilitySet::PERFMON;
        assert!(missing_capabilities(all).is_empty());
        assert_eq!(
            missing_capabilities(CapabilitySet::SYS_ADMIN),
            ["CAP_NET_ADMIN"]
        );
        assert_eq!(
            missing_capabilities(CapabilitySet::empty()),
            ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]
        );
    }

    #[test]
    fn a_directory_on_another_file_system_is_refused_with_the_remedy() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let error = check_bpf_fs(&place.path().join("a/b")).expect_err("not a BPF file system");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
    }

    #[test]
    fn an_object_that_was_not_built_is_refused_first() {
        let config = Config {
            pin_dir: "/nowhere".into(),
            xdp: super::super::XdpPolicy::Off,
            tc: None,
            sizes: super::super::Sizes::default(),
            redirect_local: false,
            sockets: super::super::SocketArgs::default(),
            node_ports: NODE_PORTS,
            log: super::super::DatapathLog::Off,
        };
        let error = check(&config, &[]).expect_err("no object");
        assert!(error.to_string().contains("cargo xtask build"), "{error}");
    }

    #[test]
    fn a_reserved_range_is_found_in_the_list() {
        assert!(is_reserved("8080,30000-32767", NODE_PORTS));
        assert!(is_reserved("20000-40000", NODE_PORTS));
        assert!(!is_reserved("", NODE_PORTS) && !is_reserved("30000-30010,32767", NODE_PORTS));
    }

    #[test]
    fn overlapping_ports_are_warned_of() {
        let local = |first, last| Some(PortRange { first, last });
        assert!(port_warnings(NODE_PORTS, local(32768, 60999), "").is_empty());
        assert!(port_warnings(NODE_PORTS, None, "").is_empty());
        assert_eq!(port_warnings(NODE_PORTS, local(32000, 60999), "").len(), 1);
        assert!(port_warnings(NODE_PORTS, local(32000, 60999), "1,30000-32767").is_empty());
        assert_eq!(port_warnings(NODE_PORTS, local(1024, 65535), "").len(), 2);
    }
}
