//! `status` for people.
//!
//! Owns the text form. Refuses to know where the status comes from. Invariant: what is wrong comes first.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::{Table, presets};

use super::status::Status;
use crate::datapath::devices::{DeviceState, HookState};
use crate::datapath::{SocketScope, SocketState};

/// A table in the look that all verbs share: columns, no lines.
#[must_use]
pub fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().copied());
    table
}

/// A status as text.
#[must_use]
pub fn status(status: &Status) -> String {
    let mut text = headline(status);
    for problem in &status.problems {
        let _ = writeln!(text, "! {problem}");
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "? {warning}");
    }
    for ignored in &status.not_honoured {
        let _ = writeln!(text, "? {ignored}");
    }
    if !status.devices.is_empty() {
        let _ = write!(text, "\n{}", devices(&status.devices));
    }
    if status.running || !status.sockets.hooks.is_empty() {
        let _ = write!(text, "\n{}", sockets(&status.sockets));
    }
    if !status.counts.is_empty() {
        let mut counts = table(&["COUNT", ""]);
        for (name, count) in &status.counts {
            counts.add_row([name.clone(), count.to_string()]);
        }
        let _ = write!(text, "\n{}\n", trimmed(&counts));
    }
    if !status.rejected.is_empty() {
        text.push_str("\nREPORTS ON OBJECTS\n");
        for report in &status.rejected {
            let _ = writeln!(text, "{}", rejected(report));
        }
    }
    if status.outcomes.values().any(|hook| !hook.is_empty()) {
        let _ = write!(text, "\n{}", outcomes(&status.outcomes));
    }
    text.truncate(text.trim_end().len());
    text
}

fn headline(status: &Status) -> String {
    if !status.running {
        return format!("not running, pins in {}\n", status.pin_dir);
    }
    let state = match (status.ready, status.healthy) {
        (false, _) => "not ready",
        (true, false) => "ready, not healthy",
        (true, true) => "ready, healthy",
    };
    let up = status.started.map_or_else(String::new, |started| {
        format!(", up {}", ago(started, SystemTime::now()))
    });
    let sync = status.sync.as_ref().map_or_else(String::new, |sync| {
        format!(
            "updates {}, the last {} ago with {} steps in {} ms\n",
            sync.total,
            ago(sync.at, SystemTime::now()),
            sync.steps,
            sync.millis
        )
    });
    format!(
        "{state}: nodeport-agent {} of node {}, process {}{up}, pins in {}\n{sync}",
        status.version,
        status.node,
        status.pid.unwrap_or_default(),
        status.pin_dir
    )
}

/// Whose sockets are translated, and where that hangs.
fn sockets(state: &SocketState) -> String {
    let mut rows = table(&["SOCKETS", "CGROUP", "HOOKS"]);
    let whose = match (state.scope, state.hooks.is_empty()) {
        (_, false) if state.cgroup.is_none() => "pinned",
        (SocketScope::Off, _) => "off",
        (_, true) => "none",
        (SocketScope::All, _) => "all",
        (SocketScope::Host, _) => "host",
    };
    let cgroup = state
        .cgroup
        .as_ref()
        .map_or_else(|| "-".to_owned(), |cgroup| cgroup.display().to_string());
    let hooks = match state.hooks.as_slice() {
        [] => "-".to_owned(),
        hooks => hooks.join(" "),
    };
    rows.add_row([whose.to_owned(), cgroup, hooks]);
    format!("{}\n", trimmed(&rows))
}

/// One line for each device, and one for each program that is missing.
fn devices(devices: &[DeviceState]) -> String {
    let mut rows = table(&["DEVICE", "INDEX", "ROLE", "XDP", "INGRESS", "EGRESS"]);
    let mut errors = String::new();
    for device in devices {
        let hooks = [
            ("xdp", device.xdp.as_ref()),
            ("tc ingress", Some(&device.tc_ingress)),
            ("tc egress", Some(&device.tc_egress)),
        ];
        let [xdp, ingress, egress] = hooks.map(|(_, state)| cell(state));
        let role = format!("{:?}", device.role).to_lowercase();
        let index = device.index.to_string();
        rows.add_row([device.name.clone(), index, role, xdp, ingress, egress]);
        for (hook, state) in hooks {
            if let Some(error) = state.and_then(|state| state.error.as_ref()) {
                let _ = writeln!(errors, "  {} {hook}: {error}", device.name);
            }
        }
    }
    format!("{}\n{errors}", trimmed(&rows))
}

/// Mode and age of one program.
fn cell(state: Option<&HookState>) -> String {
    let Some(state) = state else {
        return "-".to_owned();
    };
    let Some(mode) = state.mode else {
        return "off".to_owned();
    };
    let mode = format!("{mode:?}").to_lowercase();
    match state.since {
        Some(since) => format!("{mode} {}", ago(since, SystemTime::now())),
        None => mode,
    }
}

/// A report on an object as one line.
fn rejected(report: &serde_json::Value) -> String {
    let field = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
    let object = &report["object"];
    let object = match (object["kind"].as_str(), object["namespace"].as_str()) {
        (Some(kind), Some("")) => format!("{kind} {} ", object["name"].as_str().unwrap_or("")),
        (Some(kind), Some(namespace)) => {
            let name = object["name"].as_str().unwrap_or("");
            format!("{kind} {namespace}/{name} ")
        }
        _ => String::new(),
    };
    let origin = Some(field("origin")).filter(|origin| !origin.is_empty());
    let origin = origin.map_or_else(String::new, |origin| format!(" ({origin})"));
    let (severity, path, reason) = (field("severity"), field("field"), field("reason"));
    format!("{severity:<7} {object}{path} {reason}{origin}")
}

/// Packets by outcome, a column for each hook.
#[must_use]
pub fn outcomes(by_hook: &super::counters::Named) -> String {
    let hooks: Vec<&String> = by_hook.keys().collect();
    let mut header = vec!["OUTCOME".to_owned()];
    header.extend(hooks.iter().map(|hook| hook.to_uppercase()));
    let mut rows = table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for outcome in nodeport_common::Outcome::ALL {
        let counts = hooks.iter().map(|hook| by_hook[*hook].get(outcome.name()));
        let counts: Vec<Option<&u64>> = counts.collect();
        if counts.iter().all(Option::is_none) {
            continue;
        }
        let mut row = vec![outcome.name().to_owned()];
        row.extend(
            counts
                .into_iter()
                .map(|n| n.copied().unwrap_or(0).to_string()),
        );
        rows.add_row(row);
    }
    format!("{}\n", trimmed(&rows))
}

/// A table without blanks at the ends of its lines.
#[must_use]
pub fn trimmed(table: &Table) -> String {
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

/// How long ago a second since 1970 was: its two largest units at most.
fn ago(second: u64, now: SystemTime) -> String {
    let then = UNIX_EPOCH + Duration::from_secs(second);
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::Mode;
    use crate::datapath::devices::Role;

    #[test]
    fn problems_come_first_and_devices_say_what_they_lack() {
        let hook = |mode, error: Option<&str>| HookState {
            mode,
            since: None,
            error: error.map(ToOwned::to_owned),
        };
        let status_of_node = Status {
            running: true,
            ready: true,
            problems: vec!["eth0 xdp: taken".to_owned()],
            node: "n1".to_owned(),
            devices: vec![DeviceState {
                index: 2,
                name: "eth0".to_owned(),
                role: Role::Uplink,
                xdp: Some(hook(None, Some("taken"))),
                tc_ingress: hook(Some(Mode::Tcx), None),
                tc_egress: hook(Some(Mode::Tcx), None),
            }],
            ..Status::default()
        };
        let text = status(&status_of_node);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("ready, not healthy: nodeport-agent"),
            "{text}"
        );
        assert_eq!(lines[1], "! eth0 xdp: taken");
        let words: Vec<&str> = lines[4].split_whitespace().collect();
        assert_eq!(words, ["eth0", "2", "uplink", "off", "tcx", "tcx"]);
        assert_eq!(lines[5], "  eth0 xdp: taken");
    }

    #[test]
    fn a_report_is_one_line() {
        let report = serde_json::json!({
            "severity": "error", "origin": "a.yaml, document 2", "field": "spec.ports[0].port", "reason": "0 is not a port number",
            "object": {"kind": "Service", "namespace": "shop", "name": "web"},
        });
        assert_eq!(
            rejected(&report),
            "error   Service shop/web spec.ports[0].port 0 is not a port number (a.yaml, document 2)"
        );
    }

    #[test]
    fn ages_have_two_units_at_most() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let age = |seconds: u64| ago(1_000_000 - seconds, now);
        assert_eq!(age(0), "0s");
        assert_eq!(age(61), "1m1s");
        assert_eq!(age(3_660), "1h1m");
        assert_eq!(age(90_000), "1d1h");
        assert_eq!(ago(2_000_000, now), "0s", "a clock that was set back");
    }

    #[test]
    fn outcomes_have_a_column_for_each_hook() {
        let counted = [("xdp", "no_route", 3), ("tc_ingress", "untouched", 12)];
        let mut by_hook = super::super::counters::Named::new();
        for (hook, outcome, packets) in counted {
            let hook = by_hook.entry(hook.to_owned()).or_default();
            hook.insert(outcome.to_owned(), packets);
        }
        let text = outcomes(&by_hook);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            rows,
            [
                vec!["OUTCOME", "TC_INGRESS", "XDP"],
                vec!["untouched", "12", "0"],
                vec!["no_route", "0", "3"],
            ]
        );
    }
}
