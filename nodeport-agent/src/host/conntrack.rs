//! The kernel's conntrack: flows that the host's stack carries are in it, ours to Pods of this node among them, and everything that a
//! CNI masquerades (behaviours 17.10).
//!
//! Owns which of its settings are written. Invariant: the limit is raised, never lowered, and nothing is written that has its value.

use super::Proc;
use crate::config::GoDuration;
use crate::config::kube_proxy::Conntrack;

/// Where conntrack's settings are.
const DIR: &str = "sys/net/netfilter";

/// Writes the settings. Returns what could not be done, in words.
pub(super) fn apply(proc: &Proc, conntrack: &Conntrack, cpus: usize) -> Vec<String> {
    let file = |name: &str| format!("{DIR}/nf_conntrack_{name}");
    let Some(limit) = proc.read(&file("max")) else {
        return vec![
            "--conntrack-sysctls: the kernel's conntrack is not loaded, so nothing was written"
                .to_owned(),
        ];
    };
    let mut problems = Vec::new();
    let mut write = |name: &str, value: String| {
        if proc.read(&file(name)).as_deref() != Some(&value) {
            problems.extend(
                proc.write(&file(name), &value)
                    .err()
                    .map(|error| error.to_string()),
            );
        }
    };
    if let Some(wanted) = limit_for(conntrack, cpus)
        && limit.parse::<u64>().is_ok_and(|limit| limit < wanted)
    {
        write("max", wanted.to_string());
    }
    for (name, timeout) in [
        (
            "tcp_timeout_established",
            conntrack.tcp_established_timeout.unwrap_or_default(),
        ),
        (
            "tcp_timeout_close_wait",
            conntrack.tcp_close_wait_timeout.unwrap_or_default(),
        ),
        ("udp_timeout", conntrack.udp_timeout),
        ("udp_timeout_stream", conntrack.udp_stream_timeout),
    ] {
        if let Some(seconds) = seconds(timeout) {
            write(name, seconds.to_string());
        }
    }
    if conntrack.tcp_be_liberal {
        write("tcp_be_liberal", "1".to_owned());
    }
    problems
}

/// The least limit; `None` leaves it as it is.
fn limit_for(conntrack: &Conntrack, cpus: usize) -> Option<u64> {
    let positive = |value: Option<i32>| {
        value
            .and_then(|value| u64::try_from(value).ok())
            .filter(|value| *value > 0)
    };
    let per_core = positive(conntrack.max_per_core)?;
    let of_cores = per_core.saturating_mul(cpus as u64);
    Some(of_cores.max(positive(conntrack.min).unwrap_or(0)))
}

/// Whole seconds; 0 leaves a timeout as it is.
fn seconds(timeout: GoDuration) -> Option<u64> {
    timeout
        .get()
        .map(|timeout| timeout.as_secs())
        .filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn file(root: &Path, name: &str) -> std::path::PathBuf {
        root.join(DIR).join(format!("nf_conntrack_{name}"))
    }

    fn kernel(max: &str) -> tempfile::TempDir {
        let place = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(place.path().join(DIR)).expect("a directory");
        for (name, value) in [
            ("max", max),
            ("tcp_timeout_established", "432000"),
            ("tcp_timeout_close_wait", "60"),
            ("udp_timeout", "30"),
            ("udp_timeout_stream", "120"),
        ] {
            fs::write(file(place.path(), name), format!("{value}\n")).expect("written");
        }
        place
    }

    fn defaults() -> Conntrack {
        crate::config::KubeProxyConfiguration::default()
            .defaulted()
            .conntrack
    }

    fn read(place: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(file(place.path(), name))
            .expect("read")
            .trim()
            .to_owned()
    }

    #[test]
    fn the_defaults_are_what_kube_proxy_writes_17_10() {
        let place = kernel("65536");
        assert!(apply(&Proc::at(place.path()), &defaults(), 8).is_empty());
        assert_eq!(read(&place, "max"), "262144", "8 times 32768");
        assert_eq!(read(&place, "tcp_timeout_established"), "86400");
        assert_eq!(read(&place, "tcp_timeout_close_wait"), "3600");
        assert_eq!(read(&place, "udp_timeout"), "30", "left as it was");
    }

    #[test]
    fn a_limit_is_never_lowered_and_0_leaves_it() {
        let place = kernel("999999");
        apply(&Proc::at(place.path()), &defaults(), 1);
        assert_eq!(read(&place, "max"), "999999");
        let place = kernel("10");
        let unlimited = Conntrack {
            max_per_core: Some(0),
            ..defaults()
        };
        apply(&Proc::at(place.path()), &unlimited, 8);
        assert_eq!(read(&place, "max"), "10");
        apply(&Proc::at(place.path()), &defaults(), 1);
        assert_eq!(
            read(&place, "max"),
            "131072",
            "the least one, whatever the cores"
        );
    }

    #[test]
    fn what_cannot_be_written_is_told_and_the_rest_is_written() {
        let place = kernel("10");
        fs::remove_file(file(place.path(), "tcp_timeout_established")).expect("removed");
        let problems = apply(&Proc::at(place.path()), &defaults(), 1);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("tcp_timeout_established"));
        assert_eq!(read(&place, "tcp_timeout_close_wait"), "3600");
        let nowhere = tempfile::tempdir().expect("a temporary directory");
        assert!(apply(&Proc::at(nowhere.path()), &defaults(), 1)[0].contains("not loaded"));
    }
}
