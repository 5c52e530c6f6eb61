//! Scenarios: cluster objects and a node in, the desired front ends out, as plain text written by hand.
//!
//! The files are in `tests/scenarios`, one for each chapter of the behaviours. A file looks like this:
//!
//! ```text
//! # A comment. Settings before the first section hold for all cases.
//! node: n1
//! === common
//! (YAML documents that all cases have)
//! === case 4.1 what is shown
//! node-port-addresses: primary
//! host-addresses: 192.168.88.11 fd00:88::11
//! === objects
//! (YAML documents of this case; one of the same name replaces a common one)
//! === expect
//! tcp 10.96.0.1:80 d/web cluster-ip -> 10.244.1.2:8080(local)
//! === reports
//! Service d/web: spec.type: ...
//! ```
//!
//! A case without `=== reports` has none. Addresses on which NodePorts answer are shown where `host-addresses` is set.
//! Lines may be indented; a line that begins with `#` is a comment outside of YAML.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use nodeport_agent::model::{HostAddress, NodePortAddresses, Objects, Options, Snapshot, compile};
use nodeport_agent::source::manifests::document::{Syntax, read};

#[derive(Clone, Default)]
struct Settings {
    node: String,
    host_addresses: Vec<String>,
    node_port_addresses: Vec<String>,
}

#[derive(Default)]
struct Case {
    name: String,
    settings: Settings,
    objects: String,
    expect: Vec<String>,
    reports: Vec<String>,
}

struct Scenarios {
    common: String,
    cases: Vec<Case>,
}

#[test]
fn scenarios() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios");
    let entries = fs::read_dir(&directory).expect("tests/scenarios");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    let (mut count, mut wrong) = (0, Vec::new());
    for file in &files {
        let scenarios = parse(&fs::read_to_string(file).expect("scenario file"));
        assert!(!scenarios.cases.is_empty(), "{}: no case", file.display());
        for case in &scenarios.cases {
            count += 1;
            if let Err(difference) = case.run(&scenarios.common) {
                let name = file.file_name().expect("name").to_string_lossy();
                wrong.push(format!("{name}: {}\n{difference}", case.name));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {count} differ\n\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    eprintln!("{count} scenarios in {} files", files.len());
}

impl Case {
    fn run(&self, common: &str) -> Result<(), String> {
        let mut objects = Objects::default();
        for text in [common, &self.objects] {
            let reading = read("objects", text, Syntax::Yaml);
            objects.reports.extend(reading.refused);
            for object in reading.objects {
                objects.insert(object);
            }
        }
        let host = self.settings.host_addresses.iter();
        let host = host.map(|address| HostAddress {
            address: address.parse().expect("host address"),
            device: 2,
        });
        let option = NodePortAddresses::parse(&self.settings.node_port_addresses);
        let snapshot = Snapshot {
            objects: Arc::new(objects),
            node_name: self.settings.node.clone(),
            host_addresses: host.collect(),
            options: Options {
                node_port_addresses: option.expect("node-port-addresses"),
                ..Options::default()
            },
        };
        let (desired, reports) = compile(&snapshot);
        let text = desired.to_string();
        let shown = text
            .lines()
            .filter(|line| !line.starts_with("host-address "));
        let shown: Vec<String> = shown.map(ToOwned::to_owned).collect();
        // Where in the text an object stands is the source's story, not this one's.
        let told = reports.into_iter().map(|mut report| {
            report.origin = report.object.is_none().then_some(report.origin).flatten();
            report.to_string()
        });
        let mut told: Vec<String> = told.collect();
        if self.settings.host_addresses.is_empty() {
            told.retain(|report| !report.contains("no address of this node is accepted"));
        }
        differ("expect", &self.expect, &shown)?;
        differ("reports", &self.reports, &told)
    }
}

fn differ(section: &str, expected: &[String], found: &[String]) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    let missing = expected
        .iter()
        .filter(|line| !found.contains(line))
        .map(|line| format!("  - {line}\n"));
    let surplus = found
        .iter()
        .filter(|line| !expected.contains(line))
        .map(|line| format!("  + {line}\n"));
    let lines: String = missing.chain(surplus).collect();
    let order = if lines.is_empty() {
        "  the same lines in another order\n"
    } else {
        ""
    };
    Err(format!(
        "  {section} (- expected, + found):\n{lines}{order}"
    ))
}

fn parse(text: &str) -> Scenarios {
    let mut scenarios = Scenarios {
        common: String::new(),
        cases: Vec::new(),
    };
    let mut defaults = Settings::default();
    let mut section = "settings";
    for line in text.lines() {
        if let Some(header) = line.strip_prefix("=== ") {
            section = match header.split_once(' ') {
                Some(("case", name)) => {
                    scenarios.cases.push(Case {
                        name: name.to_owned(),
                        settings: defaults.clone(),
                        ..Case::default()
                    });
                    "settings"
                }
                _ => ["common", "objects", "expect", "reports"]
                    .into_iter()
                    .find(|known| *known == header)
                    .unwrap_or_else(|| panic!("section {header:?}")),
            };
            continue;
        }
        let yaml = matches!(section, "common" | "objects");
        if !yaml && (line.trim().is_empty() || line.starts_with('#')) {
            continue;
        }
        match (section, scenarios.cases.last_mut()) {
            ("common", None) => scenarios.common.extend([line, "\n"]),
            ("settings", case) => case
                .map_or(&mut defaults, |case| &mut case.settings)
                .set(line),
            ("objects", Some(case)) => case.objects.extend([line, "\n"]),
            ("expect", Some(case)) => case.expect.push(line.trim().to_owned()),
            ("reports", Some(case)) => case.reports.push(line.trim().to_owned()),
            (section, _) => panic!("section {section} in the wrong place"),
        }
    }
    scenarios
}

impl Settings {
    fn set(&mut self, line: &str) {
        let (key, value) = line
            .split_once(':')
            .unwrap_or_else(|| panic!("setting {line:?}"));
        let words = || value.split_whitespace().map(ToOwned::to_owned).collect();
        match key {
            "node" => value.trim().clone_into(&mut self.node),
            "host-addresses" => self.host_addresses = words(),
            "node-port-addresses" => self.node_port_addresses = words(),
            _ => panic!("setting {key:?}"),
        }
    }
}
