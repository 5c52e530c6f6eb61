//! `cargo xtask doctor`: what this machine has and lacks, each line with its remedy.
//!
//! Changes nothing. Invariant: exit status 0 means that `run` and `test` can work here: nothing is missing but what they
//! install by themselves.

mod kernel;

use crate::{
    kubernetes::Go,
    packages::{self, TOOLS},
    shell, toolchain,
};
use anyhow::{Result, bail};
use std::fmt;

/// What was found out about one thing.
pub(crate) struct Finding {
    name: String,
    state: State,
    detail: String,
}

enum State {
    /// It is there.
    Fine,
    /// It is not there, and `run` and `test` install it.
    Installable,
    /// It is not there; some verb does less without it.
    Wanted,
    /// It is not there, and `run` and `test` cannot work without it.
    Missing,
}

impl Finding {
    fn fine(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(name, State::Fine, detail)
    }

    fn missing(name: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(name, State::Missing, remedy)
    }

    fn new(name: impl Into<String>, state: State, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state,
            detail: detail.into(),
        }
    }

    /// One thing that is there if `present` holds, with what to say in either case.
    fn check(name: &str, present: bool, detail: &str, remedy: &str) -> Self {
        if present {
            Self::fine(name, detail)
        } else {
            Self::missing(name, remedy)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.state {
            State::Fine => "ok",
            State::Installable => "install",
            State::Wanted => "wanted",
            State::Missing => "MISSING",
        };
        let detail = self.detail.replace('\n', "\n          ");
        write!(f, "{word:8}{:22}{detail}", self.name)
    }
}

/// Prints every finding, and fails if something is missing.
pub(crate) fn main() -> Result<()> {
    let mut missing = 0;
    for (title, findings) in [
        ("kernel", kernel::findings()),
        ("programs", programs()),
        ("toolchain", toolchains()),
    ] {
        println!("{title}");
        for finding in &findings {
            println!("  {finding}");
            missing += usize::from(matches!(finding.state, State::Missing));
        }
    }
    if missing > 0 {
        bail!(
            "{missing} things are missing; `cargo xtask run` and `cargo xtask test` cannot work here"
        );
    }
    println!("`cargo xtask run` and `cargo xtask test` can work here");
    Ok(())
}

fn programs() -> Vec<Finding> {
    TOOLS
        .iter()
        .map(|tool| match shell::find(tool.program) {
            Some(path) => Finding::fine(tool.program, path.display().to_string()),
            None => absent(tool.program, tool.purpose, &[tool.package]),
        })
        .chain([go()])
        .collect()
}

/// What builds the cluster tier's programs.
fn go() -> Finding {
    let purpose = "builds Kubernetes for `cargo xtask test cluster`";
    match (Go::on_path(), Go::obstacle()) {
        (Some(go), _) => Finding::fine("go", format!("{go}")),
        (None, None) => Finding::new(
            "go",
            State::Installable,
            format!("{purpose}; will be fetched from the Go module proxy"),
        ),
        (None, Some(remedy)) => Finding::new("go", State::Wanted, format!("{purpose}; {remedy}")),
    }
}

/// Something that packages bring.
fn absent(name: &str, purpose: &str, packages: &[&str]) -> Finding {
    let remedy = packages::remedy(packages);
    match packages::obstacle() {
        None => Finding::new(
            name,
            State::Installable,
            format!("{purpose}; will be installed: {remedy}"),
        ),
        Some(obstacle) => Finding::missing(name, format!("{purpose}; {remedy} ({obstacle})")),
    }
}

fn toolchains() -> Vec<Finding> {
    let found = toolchain::survey();
    let mut findings = Vec::new();
    for compiler in &found.compilers {
        findings.push(match (compiler.obstacle(), found.linker_for(compiler)) {
            (Some(obstacle), _) => {
                Finding::new("compiler", State::Wanted, format!("{compiler}: {obstacle}"))
            }
            (None, Some(linker)) => Finding::fine(
                "compiler",
                format!("{compiler}, with {}", linker.path.display()),
            ),
            (None, None) => Finding::new(
                "compiler",
                State::Wanted,
                format!(
                    "{compiler}: no bpf-linker with LLVM {} or newer",
                    compiler.llvm
                ),
            ),
        });
    }
    for linker in &found.linkers {
        findings.push(Finding::fine("linker", linker.to_string()));
    }
    findings.push(match (found.choose(), packages::obstacle()) {
        (Some(chosen), _) => Finding::fine("BPF toolchain", format!("{} is used", chosen.compiler)),
        (None, None) => Finding::new(
            "BPF toolchain",
            State::Installable,
            toolchain::advice(&found),
        ),
        (None, Some(_)) => Finding::missing("BPF toolchain", toolchain::advice(&found)),
    });
    if let Some(chosen) = found.choose() {
        findings.push(match chosen.clippy() {
            Some(_) => Finding::fine("BPF clippy", "lints the programs for the BPF target"),
            None => Finding::new(
                "BPF clippy",
                State::Wanted,
                format!(
                    "for `cargo xtask lint`: {}",
                    toolchain::clippy_remedy(&chosen)
                ),
            ),
        });
    }
    findings
}
