//! YAML into JSON values, one document at a time.
//!
//! Owns where a document ends and which spelling means what. It refuses to know objects.
//! Invariant: a document's cost is bounded by its length: aliases cannot blow up.
//!
//! Numbers are read as `kubectl` reads them (YAML 1.1: `010` is eight). Words are not: YAML 1.1 takes `on`, `no` and `y` for
//! booleans, which makes a Service called `y` an error there; here they are words, and the model takes them for booleans
//! where a boolean is asked for (`ready: no`). Keys of maps stay as written. A key given twice is an error, as for the API
//! server's strict validation.

use std::borrow::Cow;

use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Localizer, Location, UserMessageFormatter};

/// A document of a YAML stream.
pub(crate) struct Chunk<'a> {
    text: &'a str,
    /// Number of lines of the file before it.
    line: usize,
}

/// Splits a YAML stream. YAML allows `---` and `...` at the start of a line nowhere but between documents, not even in a
/// quoted or block scalar, so that this needs no parser, and a broken document cannot swallow the next one.
pub(crate) fn split(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let mut start = (0, 0);
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let after = line.get(3..).unwrap_or_default();
        let marker = (line.starts_with("---") || line.starts_with("..."))
            && (after.is_empty() || after.starts_with([' ', '\t', '\r', '\n']));
        if marker {
            chunks.push((start, at));
            let behind = if line.starts_with('.') {
                at + line.len()
            } else {
                at
            };
            start = (behind, number + usize::from(behind > at));
        }
        at += line.len();
    }
    chunks.push((start, at));
    chunks
        .into_iter()
        .map(|((from, line), to)| Chunk {
            text: &text[from..to],
            line,
        })
        .filter(Chunk::has_content)
        .collect()
}

impl Chunk<'_> {
    /// The text of the document.
    pub(super) fn text(&self) -> &str {
        self.text
    }

    /// Whether there is more than blank lines, comments, a directive and the marker.
    fn has_content(&self) -> bool {
        self.text.lines().any(|line| {
            let content = line.strip_prefix("---").unwrap_or(line).trim_start();
            !content.is_empty() && !content.starts_with('#') && !line.starts_with('%')
        })
    }
}

/// Parses one document; an error names the line in the file.
pub(crate) fn parse(chunk: &Chunk<'_>) -> Result<Value, String> {
    parse_with(chunk, DuplicateKeyPolicy::Error)
}

/// Parses one document; of a key that is given twice, the last one counts.
pub(crate) fn parse_lenient(chunk: &Chunk<'_>) -> Result<Value, String> {
    parse_with(chunk, DuplicateKeyPolicy::LastWins)
}

fn parse_with(chunk: &Chunk<'_>, duplicate_keys: DuplicateKeyPolicy) -> Result<Value, String> {
    // As many nodes as the text can spell out, so that a large file is no error, while aliases cannot blow up a small one.
    let limit = chunk.text.len().max(1024);
    let options = serde_saphyr::options! {
        duplicate_keys: duplicate_keys,
        legacy_octal_numbers: true,
        strict_booleans: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_events: 4 * limit,
            max_nodes: 2 * limit,
            max_total_scalar_bytes: 2 * limit,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
        },
    };
    serde_saphyr::from_str_with_options(chunk.text, options).map_err(|error| {
        let lines = FileLines { before: chunk.line };
        error.render_with_formatter(&UserMessageFormatter.with_localizer(&lines))
    })
}

/// Counts lines from the start of the file, where the parser counts them from the start of the document.
struct FileLines {
    before: usize,
}

impl Localizer for FileLines {
    fn attach_location<'a>(&self, base: Cow<'a, str>, location: Location) -> Cow<'a, str> {
        if location == Location::UNKNOWN {
            return base;
        }
        let line = location.line() + self.before as u64;
        Cow::Owned(format!("line {line}, column {}: {base}", location.column()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_kubectl_and_words_stay_words() {
        let text = "{a: true, b: False, c: 010, d: 10.96.0.011, e: 2026-11-23T04:23:31Z, f: 0x10, g: 8080, on: y, h: no, i: '010'}";
        let expected = serde_json::json!({
            "a": true, "b": false, "c": 8, "d": "10.96.0.011", "e": "2026-11-23T04:23:31Z", "f": 16, "g": 8080,
            "on": "y", "h": "no", "i": "010",
        });
        assert_eq!(parse(&Chunk { text, line: 0 }), Ok(expected));
    }
}
