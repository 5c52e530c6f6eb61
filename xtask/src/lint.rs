//! `cargo xtask lint`: everything about the tree that can be checked without running it.
//!
//! Owns which checks there are and in which order: the quick ones first. Invariant: all checks run, and all that is wrong
//! is printed, before the verb fails.

mod deny;
mod layering;
mod paths;
mod tidy;
mod tokens;
mod unsafety;

use crate::{budget::Budget, build, docs, shell, toolchain};
use anyhow::{Context as _, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A Rust file of the project.
struct Source {
    /// Path from the top of the work tree, with `/`.
    path: String,
    text: String,
}

/// A check: its title, and what it does.
type Check = (&'static str, fn() -> Result<()>);

/// Runs every check.
pub(crate) fn main() -> Result<()> {
    let checks: &[Check] = &[
        ("rustfmt", format),
        ("sizes and file docs", || refuse(&tidy::check(&sources()?))),
        ("layering", || refuse(&layering::check(&sources()?))),
        ("unsafe", unsafety),
        ("docs in step with the code", || refuse(&docs::stale())),
        ("links between pages", || refuse(&docs::dead_links()?)),
        ("dependencies (cargo-deny)", deny::check),
        ("clippy for the host", clippy),
        ("clippy for the BPF target", clippy_bpf),
        ("links in the docs of the code", rustdoc),
    ];
    let mut failed = Vec::new();
    for (title, check) in checks {
        if let Err(error) = shell::stage(title, check) {
            eprintln!("{error:#}");
            failed.push(*title);
        }
    }
    if !failed.is_empty() {
        bail!("lint found something: {}", failed.join(", "));
    }
    Ok(())
}

/// An error that lists what is wrong, if anything is.
fn refuse(breaches: &[String]) -> Result<()> {
    if !breaches.is_empty() {
        bail!("{}", breaches.join("\n"));
    }
    Ok(())
}

fn format() -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))
}

fn unsafety() -> Result<()> {
    let (counted, breaches) = unsafety::check(&sources()?, &Budget::read()?);
    for line in counted {
        println!("{line}");
    }
    refuse(&breaches)
}

fn clippy() -> Result<()> {
    shell::run(shell::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

fn rustdoc() -> Result<()> {
    let mut command = shell::cargo();
    command
        .args(["doc", "--quiet", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    shell::run(&mut command)
}

/// With the compiler that builds the programs; where it has no clippy, with the host's and for the host.
fn clippy_bpf() -> Result<()> {
    match toolchain::ensure_clippy() {
        Ok(toolchain) => {
            let mut command =
                build::clippy(&toolchain).context("the clippy that was installed is not found")?;
            shell::run(&mut command)
        }
        Err(error) => {
            println!(
                "the compiler for the BPF target has no clippy; the host's checks the programs instead ({error:#})"
            );
            shell::run(&mut build::clippy_on_host())
        }
    }
}

/// Every Rust file of the project, in order of path.
fn sources() -> Result<Vec<Source>> {
    let root = shell::root();
    let mut files = Vec::new();
    for directory in [
        "nodeport-common",
        "nodeport-ebpf",
        "nodeport-agent",
        "xtask",
        "tests",
    ] {
        collect(&root.join(directory), &mut files)?;
    }
    files.sort();
    files
        .iter()
        .map(|file| {
            let text = fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let path = file
                .strip_prefix(&root)
                .unwrap_or(file)
                .to_string_lossy()
                .into_owned();
            Ok(Source { path, text })
        })
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
