//! The agent as one static executable.
//!
//! Owns the compiler's flags and a target directory of its own, so that other builds are left alone. Invariant: what is
//! returned needs no file beside it: no loader, no library.

use super::{
    arch::{self, Arch},
    elf,
};
use crate::{build, remap, shell};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

/// What was built.
pub(crate) struct Binary {
    /// The executable.
    pub(crate) bytes: Vec<u8>,
    /// Cargo's identifiers of the packages that are linked into it.
    pub(crate) packages: BTreeSet<String>,
}

/// Builds the agent for `arch`.
pub(crate) fn build(arch: Arch) -> Result<Binary> {
    arch::ensure(arch)?;
    let target = arch.target();
    let upper = target.replace('-', "_").to_uppercase();
    let mut command = shell::cargo();
    command
        .args(["build", "--locked", "--package", "nodeport-agent"])
        .args(["--bin", "nodeport-agent", "--profile", "image"])
        .args(["--target", target, "--target-dir"])
        .arg(directory())
        .args(["--message-format", "json-render-diagnostics"])
        // `--target` keeps these flags from build scripts and macros, which run here and now.
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags().join("\u{1f}"))
        .env_remove("RUSTFLAGS")
        .env(format!("CARGO_TARGET_{upper}_LINKER"), arch.compiler())
        .env(format!("CC_{}", target.replace('-', "_")), arch.compiler())
        .env(
            format!("CFLAGS_{}", target.replace('-', "_")),
            remap::c_flags(),
        )
        .stderr(Stdio::inherit());
    let output = command
        .output()
        .with_context(|| format!("cannot start `{}`", shell::describe(&command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", shell::describe(&command), output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let (executable, packages) = read_messages(&messages, &directory().join(target));
    let executable = executable.context("cargo named no executable")?;
    let bytes =
        fs::read(&executable).with_context(|| format!("cannot read {}", executable.display()))?;
    elf::check_static(&bytes, arch)
        .with_context(|| format!("{} cannot stand alone", executable.display()))?;
    Ok(Binary { bytes, packages })
}

fn directory() -> PathBuf {
    build::target_directory().join("image")
}

fn rust_flags() -> Vec<String> {
    let mut flags = vec![
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Clink-arg=-Wl,--build-id=none".to_owned(),
    ];
    flags.extend(remap::rust_flags());
    flags
}

/// From cargo's messages: the executable, and the packages whose code was compiled for the target. Build scripts and macros
/// were not: what they are compiled to lies elsewhere.
fn read_messages(text: &str, of_the_target: &Path) -> (Option<PathBuf>, BTreeSet<String>) {
    let mut executable = None;
    let mut packages = BTreeSet::new();
    for message in text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        if message["reason"] != "compiler-artifact" {
            continue;
        }
        if let Some(path) = message["executable"].as_str() {
            executable = Some(PathBuf::from(path));
        }
        let files = message["filenames"].as_array().into_iter().flatten();
        let is_in = files
            .filter_map(Value::as_str)
            .any(|file| Path::new(file).starts_with(of_the_target));
        if let Some(package) = message["package_id"].as_str().filter(|_| is_in) {
            packages.insert(package.to_owned());
        }
    }
    (executable, packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_compiled_for_the_target_is_part_of_it() {
        let text = r#"{"reason":"compiler-artifact","package_id":"a#1","filenames":["/t/image/x/release/liba.rlib"],"executable":null}
not JSON
{"reason":"compiler-artifact","package_id":"macro#1","filenames":["/t/image/release/libm.so"],"executable":null}
{"reason":"build-script-executed","package_id":"script#1"}
{"reason":"compiler-artifact","package_id":"agent#1","filenames":["/t/image/x/image/agent"],"executable":"/t/image/x/image/agent"}"#;
        let (executable, packages) = read_messages(text, Path::new("/t/image/x"));
        assert_eq!(executable, Some(PathBuf::from("/t/image/x/image/agent")));
        assert_eq!(packages.into_iter().collect::<Vec<_>>(), ["a#1", "agent#1"]);
    }
}
