//! Settings of the host that kube-proxy makes and that still matter: conntrack's limits, reserved ports, the OOM score.
//!
//! Owns which are written, and when: only if the operator asks. Refuses to know the datapath. Invariants: a limit is raised, never
//! lowered; what cannot be written is told and stops nothing.

pub mod conntrack;
pub mod listeners;
pub mod reserved_ports;
mod sysctl;

pub use sysctl::{Proc, Sysctl};

use std::thread;

use crate::config::Settings;
use crate::config::kube_proxy::Conntrack;
use crate::datapath::PortRange;

/// What the operator asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `--conntrack-sysctls`.
    pub conntrack: bool,
    /// `--reserve-ports`: the range of NodePorts, and the source ports of translated flows.
    pub reserve: Vec<PortRange>,
}

/// Writes what is asked for. Returns what could not be done, in words.
pub fn prepare(proc: &Proc, settings: &Settings, asked: &Asked) -> Vec<String> {
    let mut problems = Vec::new();
    let conntrack = &settings.kube_proxy.conntrack;
    if asked.conntrack {
        let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        problems.extend(conntrack::apply(proc, conntrack, cpus));
    } else {
        problems.extend(in_vain(&settings.given.conntrack));
    }
    for range in &asked.reserve {
        problems.extend(reserved_ports::reserve(proc, *range).err());
    }
    problems
}

/// Settings of the kernel's conntrack that are given, but not asked to be written.
fn in_vain(given: &Conntrack) -> Vec<String> {
    let usual = |value: Option<i32>, usual: i32| value.is_none_or(|value| value == usual);
    [
        (
            "conntrack.maxPerCore",
            !usual(given.max_per_core, 32 * 1024),
        ),
        ("conntrack.min", !usual(given.min, 128 * 1024)),
        ("conntrack.tcpBeLiberal", given.tcp_be_liberal),
    ]
    .into_iter()
    .filter(|(_, given)| *given)
    .map(|(field, _)| {
        format!("{field} is not written to the kernel's conntrack: that takes --conntrack-sysctls")
    })
    .collect()
}

/// Tells the kernel how readily the agent may be killed when memory runs out. Returns what is wrong, if that was asked for.
#[must_use]
pub fn set_oom_score(proc: &Proc, settings: &Settings) -> Option<String> {
    let score = settings.kube_proxy.oom_score_adj?;
    let error = proc.write("self/oom_score_adj", &score.to_string()).err()?;
    // Without privileges a score cannot be lowered; few containers may, and nobody misses the default.
    settings
        .given
        .oom_score_adj
        .map(|_| format!("oomScoreAdj: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KubeProxyFlags;

    fn settings(flags: &[(&'static str, &str)]) -> Settings {
        let flags = flags
            .iter()
            .map(|(flag, value)| (*flag, vec![(*value).to_owned()]));
        Settings::resolve(&KubeProxyFlags(flags.collect()), None).expect("valid")
    }

    const NOTHING: Asked = Asked {
        conntrack: false,
        reserve: Vec::new(),
    };

    #[test]
    fn nothing_is_written_unless_asked_for_and_who_asks_in_vain_is_told() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let proc = Proc::at(place.path());
        assert!(prepare(&proc, &settings(&[]), &NOTHING).is_empty());
        let told = prepare(
            &proc,
            &settings(&[("conntrack-min", "7"), ("conntrack-tcp-be-liberal", "true")]),
            &NOTHING,
        );
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("conntrack.min ") && told[1].starts_with("conntrack.tcpBeLiberal ")
        );
        assert_eq!(
            std::fs::read_dir(place.path())
                .expect("a directory")
                .count(),
            0
        );
    }

    #[test]
    fn the_oom_score_is_written_and_only_a_given_one_is_missed() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let proc = Proc::at(place.path());
        assert_eq!(set_oom_score(&proc, &settings(&[])), None);
        assert!(set_oom_score(&proc, &settings(&[("oom-score-adj", "-5")])).is_some());
        std::fs::create_dir(place.path().join("self")).expect("a directory");
        std::fs::write(place.path().join("self/oom_score_adj"), "0").expect("written");
        assert_eq!(set_oom_score(&proc, &settings(&[])), None);
        let written = std::fs::read_to_string(place.path().join("self/oom_score_adj"));
        assert_eq!(written.expect("read"), "-999");
    }
}
