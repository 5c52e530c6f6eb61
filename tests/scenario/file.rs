//! A scenario's text, cut into sections and steps.
//!
//! Owns the outer form of the files. Refuses to know what a packet, an object or a map is. Invariant: every line of a file belongs to
//! exactly one section, and keeps its number.

/// A scenario.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scenario {
    /// Its first line.
    pub(crate) title: String,
    /// Whether it is also told in IPv6, with every IPv4 address mapped.
    pub(crate) both_families: bool,
    /// Name of the file that describes the node.
    pub(crate) node: String,
    /// What happens, in order.
    pub(crate) sections: Vec<Section>,
}

/// A section.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    /// Number of its heading's line.
    pub(crate) line: usize,
    /// What it is.
    pub(crate) kind: Kind,
    /// Its lines.
    pub(crate) lines: Vec<Line>,
}

/// What a section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Objects that are added, or take the place of those with the same name; all that are given before the first packet are the first state.
    Objects,
    /// Objects that go.
    Delete,
    /// Front ends and serving endpoints as they are in the maps now.
    Maps,
    /// Addresses as they are in the maps now.
    Addresses,
    /// Packets, time, and what becomes of them.
    Packets,
    /// All flows as they are now.
    Flows,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its number in the file.
    pub(crate) number: usize,
    /// Its text.
    pub(crate) text: String,
}

/// A command, and the lines that tell what comes of it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// The command.
    pub(crate) command: Line,
    /// What is expected, without indentation.
    pub(crate) expected: Vec<String>,
}

/// Reads a scenario.
///
/// # Panics
/// The text has no such form; the message says where.
pub(crate) fn read(text: &str) -> Scenario {
    let mut scenario = Scenario {
        both_families: true,
        node: "n1.node".to_owned(),
        ..Scenario::default()
    };
    for (index, text) in text.lines().enumerate() {
        let number = index + 1;
        if let Some(heading) = text.strip_prefix("=== ") {
            scenario.sections.push(Section {
                line: number,
                kind: kind(heading, number),
                lines: Vec::new(),
            });
        } else if let Some(section) = scenario.sections.last_mut() {
            // A line that begins with `#` is a comment in YAML, too.
            if !text.trim().is_empty() && !text.trim_start().starts_with('#') {
                let text = text.to_owned();
                section.lines.push(Line { number, text });
            }
        } else {
            scenario.heading(text, number);
        }
    }
    assert!(!scenario.title.is_empty(), "line 1: no title");
    scenario
}

impl Scenario {
    fn heading(&mut self, text: &str, number: usize) {
        if let Some(comment) = text.strip_prefix('#') {
            if self.title.is_empty() {
                comment.trim().clone_into(&mut self.title);
            }
            return;
        }
        match text.split_once(':').map(|(key, value)| (key, value.trim())) {
            None if text.trim().is_empty() => {}
            Some(("node", file)) => file.clone_into(&mut self.node),
            Some(("families", "both")) => self.both_families = true,
            Some(("families", "as written")) => self.both_families = false,
            _ => panic!("line {number}: setting {text:?}"),
        }
    }
}

/// The first word of a heading is the section's kind, the rest is for the reader.
fn kind(heading: &str, number: usize) -> Kind {
    match heading.split_whitespace().next() {
        Some("objects" | "change") => Kind::Objects,
        Some("delete") => Kind::Delete,
        Some("maps") => Kind::Maps,
        Some("addresses") => Kind::Addresses,
        Some("packets") => Kind::Packets,
        Some("flows") => Kind::Flows,
        _ => panic!("line {number}: section {heading:?}"),
    }
}

impl Section {
    /// The steps of a section: what is indented belongs to the command above it.
    ///
    /// # Panics
    /// It begins with an indented line.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for line in &self.lines {
            if line.text.starts_with(' ') {
                let step = steps.last_mut();
                let step = step.unwrap_or_else(|| panic!("line {}: no command", line.number));
                step.expected.push(one_spaced(&line.text));
            } else {
                steps.push(Step {
                    command: line.clone(),
                    expected: Vec::new(),
                });
            }
        }
        steps
    }

    /// The lines as they are to be compared.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.lines
            .iter()
            .map(|line| one_spaced(&line.text))
            .collect()
    }
}

/// A text whose words are one space apart.
pub(crate) fn one_spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
