//! The pages of docs/ that the agent's code says: `cargo xtask docs` writes them, and this compares them.
//!
//! Owns which pages there are. Invariant: with `NODEPORT_DOCS=write` the pages are written, and nothing fails; without it a page
//! that is out of step fails, with the remedy.

#[path = "docs/configuration.rs"]
mod configuration;
#[path = "docs/metrics.rs"]
mod metrics;

use std::fs;
use std::path::Path;

fn in_step(page: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(page);
    if std::env::var_os("NODEPORT_DOCS").is_some_and(|what| what == "write") {
        fs::write(&path, text).expect("the page is written");
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == text,
        "docs/{page} is not what the code says; run `cargo xtask docs`"
    );
}

#[test]
fn configuration() {
    in_step("configuration.md", &configuration::page());
}

#[test]
fn metrics() {
    in_step("metrics.md", &metrics::page());
}

/// differences.md is written by hand but for this table.
#[test]
fn differences() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/differences.md");
    let found = fs::read_to_string(&path).expect("the page");
    let (start, end) = ("<!-- metrics -->\n", "<!-- end of metrics -->\n");
    let before = found.split(start).next().expect("a beginning");
    let after = found.split(end).nth(1).expect("the marks of the table");
    let text = format!("{before}{start}{}{end}{after}", metrics::not_given());
    in_step("differences.md", &text);
}
