//! `cargo xtask docs`: the tables in docs/ that are written from the code.
//!
//! Invariant: `lint` compares each of them with what this would write, so that code and docs cannot part.

use crate::shell;
use anyhow::{Context as _, Result};
use nodeport_common::Outcome;
use std::{fmt::Write as _, fs};

/// A generated page: where it lies, and its text.
struct Page {
    path: &'static str,
    text: String,
}

fn pages() -> Vec<Page> {
    vec![Page {
        path: "docs/outcomes.md",
        text: outcomes(),
    }]
}

/// Writes every page.
pub(crate) fn main() -> Result<()> {
    for page in pages() {
        let path = shell::root().join(page.path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        fs::write(&path, page.text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("wrote {}", page.path);
    }
    Ok(())
}

/// Every page that is not what the code says.
pub(crate) fn stale() -> Vec<String> {
    pages()
        .into_iter()
        .filter(|page| {
            fs::read_to_string(shell::root().join(page.path))
                .ok()
                .as_ref()
                != Some(&page.text)
        })
        .map(|page| {
            format!(
                "{}: not in step with the code; run `cargo xtask docs`",
                page.path
            )
        })
        .collect()
}

fn outcomes() -> String {
    let mut text = String::from(
        "# What can become of a packet\n\n\
         <!-- Written by `cargo xtask docs` from nodeport-common/src/outcome.rs; do not edit. -->\n\n\
         Every packet that one of nodeport's programs sees ends in exactly one of these. The names are those of the counters\n\
         (`bpftool map dump name OUTCOMES`, one set for each hook and CPU) and of `nodeport-agent dump outcomes`.\n\n\
         | outcome | meaning |\n|---|---|\n",
    );
    for outcome in Outcome::ALL {
        let _ = writeln!(text, "| `{}` | {} |", outcome.name(), outcome.description());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_line_with_its_meaning() {
        let text = outcomes();
        assert!(text.contains(
            "| `untouched` | No front end and no flow matches; the packet goes on unmodified. |\n"
        ));
        assert_eq!(
            text.lines().filter(|line| line.starts_with("| `")).count(),
            Outcome::ALL.len()
        );
    }

    #[test]
    fn no_meaning_breaks_the_table() {
        assert!(
            Outcome::ALL
                .iter()
                .all(|outcome| !outcome.description().contains(['|', '\n']))
        );
    }
}
