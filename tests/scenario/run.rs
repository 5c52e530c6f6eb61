//! A scenario is told: in each family, with and without XDP, with and without faults of the maps.
//!
//! Owns the order of things and the comparison. Refuses to know how the agent and the programs do them. Invariant: every variant has the same
//! expectations, but for the names that the family and a missing hook change.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nodeport_agent::maps::Faults;
use nodeport_common::{FlowKey, V4, V6};
use nodeport_ebpf::sim::{Node, SimFamily};

use crate::agent::{Agent, HZ};
use crate::calls;
use crate::dump;
use crate::expiry::Walkers;
use crate::family::to_v6;
use crate::file::{self, Kind, Line, Scenario, Section, Step, one_spaced};
use crate::journey::Way;
use crate::packet::{Body, Packet};
use crate::place::Place;
use crate::wire;

/// Seeds of the sequences by which one write in ten fails.
const SEEDS: [u64; 5] = [1 << 32, 2 << 32, 3 << 32, 4 << 32, 5 << 32];

/// Where the scenarios are.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/packets")
}

/// Tells one scenario in all variants.
///
/// # Panics
/// Something differs from what it says.
pub(crate) fn tell(name: &str) {
    let text = fs::read_to_string(directory().join(format!("{name}.txt"))).expect("the scenario");
    let scenario = file::read(&text);
    let place = fs::read_to_string(directory().join(&scenario.node)).expect("the node");
    let mut retries = 0;
    let families: &[bool] = if scenario.both_families {
        &[false, true]
    } else {
        &[false]
    };
    for v6 in families {
        for xdp in [true, false] {
            let faults = SEEDS.map(|seed| Faults::Percent { percent: 10, seed });
            for faults in [Faults::Never].into_iter().chain(faults) {
                let variant = Variant { v6: *v6, xdp };
                let mut story = Story::new(variant, &place, faults.clone());
                story.tell(&scenario);
                retries += story.agent.retries;
                assert!(
                    story.differences.is_empty(),
                    "\n{name}: {}\n({variant}, faults {faults:?})\n\n{}",
                    scenario.title,
                    story.differences
                );
            }
        }
    }
    assert!(retries > 0, "no write to a map has failed");
}

/// How a scenario is told.
#[derive(Clone, Copy)]
struct Variant {
    v6: bool,
    xdp: bool,
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.v6 { "in IPv6" } else { "as written" })?;
        f.write_str(if self.xdp { "" } else { ", without XDP" })
    }
}

/// One telling.
struct Story {
    variant: Variant,
    place: Place,
    agent: Agent,
    node: Node,
    walkers: Walkers,
    /// Objects changed, and the maps have not.
    is_due: bool,
    differences: String,
}

impl Story {
    fn new(variant: Variant, place: &str, faults: Faults) -> Self {
        let place = Place::parse(&variant.text(place, false));
        let agent = Agent::new(&place, faults);
        let mut node = Node::new(nodeport_common::Control::default());
        node.xdp = variant.xdp;
        node.jiffies = 0x4000_0000;
        place.equip(&mut node);
        Self {
            variant,
            place,
            agent,
            node,
            walkers: Walkers::new(),
            is_due: true,
            differences: String::new(),
        }
    }

    fn tell(&mut self, scenario: &Scenario) {
        for section in &scenario.sections {
            match section.kind {
                Kind::Objects | Kind::Delete => {
                    self.change(section);
                    continue;
                }
                _ if self.is_due => {
                    self.agent.write();
                    self.agent.load(&mut self.node);
                    self.is_due = false;
                }
                _ => {}
            }
            let found = match section.kind {
                Kind::Maps => dump::maps(&self.agent),
                Kind::Addresses => dump::addresses(&self.agent),
                Kind::Flows => dump::flows(&self.node),
                _ => {
                    for step in section.steps() {
                        self.step(&step);
                    }
                    continue;
                }
            };
            let expected = section.texts();
            self.compare(
                section.line,
                &format!("{:?}", section.kind),
                &expected,
                &found,
            );
        }
    }

    fn change(&mut self, section: &Section) {
        self.is_due = true;
        if section.kind == Kind::Delete {
            self.agent.delete(&section.lines);
            return;
        }
        let mut yaml = String::new();
        for Line { text, .. } in &section.lines {
            yaml.push_str(&self.variant.text(text, true));
            yaml.push('\n');
        }
        self.agent.take_up(&yaml);
    }

    fn step(&mut self, step: &Step) {
        let text = self.variant.text(&step.command.text, false);
        let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let way = Way {
            node: &self.node,
            place: &self.place,
        };
        let found = match verb {
            "in" => {
                let (device, packet) = at_device(rest);
                way.receive(device, &packet).lines
            }
            "host" => way.send(&Packet::parse(rest)).lines,
            "spread" => spread(way, rest),
            "socket" => {
                self.open_socket(&Packet::parse(rest));
                Vec::new()
            }
            "connect" | "send" | "peer" => calls::call(&self.node, verb, rest),
            "tick" => self.tick(rest),
            _ => panic!("line {}: {text}", step.command.number),
        };
        let expected = self.variant.lines(&step.expected);
        self.compare_all(step.command.number, &text, &expected, &found);
    }

    /// Time goes by, and the agent walks over the flows.
    fn tick(&mut self, words: &str) -> Vec<String> {
        let (number, unit) = words.split_once(' ').expect("a time");
        let seconds = match unit {
            "secs" => 1,
            "mins" => 60,
            "hours" => 3600,
            _ => panic!("{unit:?}: secs, mins, hours"),
        };
        let seconds = number.parse::<u32>().expect("a number") * seconds;
        self.node.jiffies = self.node.jiffies.wrapping_add(seconds * HZ);
        self.agent.wait(Duration::from_secs(seconds.into()));
        self.walkers.walk(&self.node);
        Vec::new()
    }

    /// A process of the node has a connection: this is the tuple of the packets that it gets.
    fn open_socket(&mut self, packet: &Packet) {
        let (Body::Tcp { ports, .. } | Body::Udp { ports, .. }) = &packet.body else {
            panic!("{packet}: no ports");
        };
        let protocol = if matches!(packet.body, Body::Tcp { .. }) {
            nodeport_common::protocol::TCP
        } else {
            nodeport_common::protocol::UDP
        };
        match (packet.from, packet.to) {
            (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
                let key = key::<V4>(from.octets(), to.octets(), *ports, protocol);
                V4::of_mut(&mut self.node).sockets.insert(key);
            }
            (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
                let key = key::<V6>(from.octets(), to.octets(), *ports, protocol);
                V6::of_mut(&mut self.node).sockets.insert(key);
            }
            _ => panic!("{packet}: two families"),
        }
    }

    /// Compares lists in which the order means nothing.
    fn compare(&mut self, line: usize, what: &str, expected: &[String], found: &[String]) {
        let map = |text: &String| self.variant.text(text, false);
        let mut expected: Vec<String> = expected.iter().map(map).collect();
        let mut found = found.to_vec();
        expected.sort();
        found.sort();
        self.compare_all(line, what, &expected, &found);
    }

    fn compare_all(&mut self, line: usize, what: &str, expected: &[String], found: &[String]) {
        let found: Vec<String> = found.iter().map(|text| one_spaced(text)).collect();
        if expected != found {
            let sides = side_by_side(expected, &found);
            let _ = writeln!(self.differences, "line {line}: {what}\n{sides}");
        }
    }
}

impl Variant {
    fn text(self, text: &str, is_yaml: bool) -> String {
        if self.v6 {
            to_v6(text, is_yaml)
        } else {
            text.to_owned()
        }
    }

    /// What a step's lines are in this variant: without XDP, TC does what XDP did, and needs nothing left to it.
    fn lines(self, lines: &[String]) -> Vec<String> {
        let mut told = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            let line = self.text(line, false);
            let next = lines.get(index + 1);
            match line.strip_prefix("xdp ") {
                Some(_) if !self.xdp && next.is_some_and(|next| next.starts_with("tc ")) => {}
                Some(outcome) if !self.xdp => told.push(format!("tc {outcome}")),
                _ => told.push(line),
            }
        }
        told
    }
}

fn key<A>(source: A, destination: A, ports: (u16, u16), protocol: u8) -> FlowKey<A> {
    FlowKey {
        source,
        destination,
        source_port: ports.0.to_be_bytes(),
        destination_port: ports.1.to_be_bytes(),
        protocol,
        pad: [0; 3],
    }
}

fn at_device(text: &str) -> (&str, Packet) {
    let (device, packet) = text.trim_start().split_once(' ').expect("a device");
    (device, Packet::parse(packet))
}

/// Many packets, each from the next port: the backends that got a fair share of them, which is at least half of an equal one.
fn spread(way: Way<'_>, text: &str) -> Vec<String> {
    let (number, rest) = text.split_once(" in ").expect("spread N in DEVICE PACKET");
    let number: u16 = number.trim().parse().expect("a number");
    let (device, mut packet) = at_device(rest);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..number {
        let trip = way.receive(device, &packet);
        let end = trip.end.last().and_then(|bytes| wire::read(bytes));
        let text = end.map_or_else(|| trip.lines.join(", "), |end| end.to_string());
        let backend = text
            .split_whitespace()
            .skip_while(|word| *word != ">")
            .nth(1);
        *counts
            .entry(backend.unwrap_or(&text).to_owned())
            .or_default() += 1;
        let (Body::Tcp { ports, .. } | Body::Udp { ports, .. }) = &mut packet.body else {
            panic!("{packet}: no ports");
        };
        ports.0 += 1;
    }
    let share = usize::from(number) / counts.len().max(1);
    let seldom = counts.values().any(|count| *count < share / 2);
    let names: Vec<String> = counts
        .iter()
        .map(|(name, count)| {
            if seldom {
                format!("{name}({count})")
            } else {
                name.clone()
            }
        })
        .collect();
    vec![format!("over {}", names.join(" "))]
}

/// Two columns: what was expected, what was found; `!` marks lines that differ.
fn side_by_side(expected: &[String], found: &[String]) -> String {
    let width = expected.iter().map(String::len).max().unwrap_or(0).max(8);
    let mut text = format!("    {:width$}   found\n", "expected");
    let empty = String::new();
    for index in 0..expected.len().max(found.len()) {
        let left = expected.get(index).unwrap_or(&empty);
        let right = found.get(index).unwrap_or(&empty);
        let mark = if left == right { ' ' } else { '!' };
        let _ = writeln!(text, "  {mark} {left:width$} | {right}");
    }
    text
}
