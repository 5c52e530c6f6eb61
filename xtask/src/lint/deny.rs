//! Licences, sources, duplicates and advisories of the dependencies, by cargo-deny.
//!
//! Invariant: when the advisories were not checked, the output says so; in that case nothing was found out about them.

use crate::shell;
use anyhow::{Context as _, Result};
use std::{path::PathBuf, process::Command};

/// The version that is built where there is none.
const VERSION: &str = "0.20.2";

/// Checks what can be checked offline, and the advisories if their database can be had.
pub(super) fn check() -> Result<()> {
    let program = ensure()?;
    let deny = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(shell::root()).args(arguments);
        command
    };
    shell::run(&mut deny(&[
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))?;
    if let Err(error) = shell::output(&mut deny(&["fetch", "db"])) {
        let reason = format!("{error:#}");
        println!(
            "advisories: NOT CHECKED: their database cannot be fetched (checked: licenses, bans, sources): {}",
            reason.lines().last().unwrap_or_default()
        );
        return Ok(());
    }
    shell::run(&mut deny(&[
        "check",
        "--hide-inclusion-graph",
        "--disable-fetch",
        "advisories",
    ]))
}

/// cargo-deny from the path or the cache, built if it is in neither.
fn ensure() -> Result<PathBuf> {
    let cached = shell::cache()?.join("bin/cargo-deny");
    if let Some(found) =
        shell::find("cargo-deny").or_else(|| cached.is_file().then(|| cached.clone()))
    {
        return Ok(found);
    }
    shell::stage(
        &format!("build cargo-deny {VERSION} into {}", cached.display()),
        || {
            shell::run(
                shell::cargo()
                    .args([
                        "install",
                        "cargo-deny",
                        "--version",
                        VERSION,
                        "--locked",
                        "--root",
                    ])
                    .arg(shell::cache()?),
            )
            .context("lint needs cargo-deny")
        },
    )?;
    Ok(cached)
}
