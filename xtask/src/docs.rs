//! `cargo xtask docs`: the tables in docs/ that are written from the code.
//!
//! Owns these pages (those of the agent are in nodeport-agent/tests/docs.rs), and the check that links between pages lead somewhere. Invariant: `lint` compares each page with what this would
//! write, so that code and docs cannot part.

use crate::shell;
use anyhow::{Context as _, Result};
use nodeport_common::Outcome;
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

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
    // Those that the agent's code says are written by the test that compares them otherwise.
    shell::run(
        shell::cargo()
            .args(["test", "--quiet", "-p", "nodeport-agent", "--test", "docs"])
            .env("NODEPORT_DOCS", "write"),
    )
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

/// Links of our pages to files that are not there.
///
/// # Errors
/// A page cannot be read.
pub(crate) fn dead_links() -> Result<Vec<String>> {
    let root = shell::root();
    let mut dead = Vec::new();
    for directory in ["", "docs", "docs/adr"] {
        let directory = root.join(directory);
        for page in markdown(&directory)? {
            let text = fs::read_to_string(&page)
                .with_context(|| format!("cannot read {}", page.display()))?;
            let lost = targets(&text).filter(|target| !directory.join(target).exists());
            let page = page.strip_prefix(&root).unwrap_or(&page).display();
            dead.extend(lost.map(|target| format!("{page}: there is no {target}")));
        }
    }
    Ok(dead)
}

/// The pages that lie in a directory, in order.
fn markdown(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut pages = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    Ok(pages)
}

/// The files that a page links to, without the place in them.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|target| !target.is_empty() && !target.contains("://"))
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
            "| `untouched` | No front end and no flow of ours matches, or the connection is kube-proxy's; the packet goes on unmodified. |\n"
        ));
        assert_eq!(
            text.lines().filter(|line| line.starts_with("| `")).count(),
            Outcome::ALL.len()
        );
    }

    #[test]
    fn links_to_files_are_found_and_others_are_not() {
        let text =
            "[a](docs/a.md) and [b](b.md#part), [here](#part), [web](https://example.com/x.md)";
        assert_eq!(targets(text).collect::<Vec<_>>(), ["docs/a.md", "b.md"]);
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
