//! The agent as one static executable, the same that a container image carries.
//!
//! Owns the compiler's flags. Invariant: what is returned needs no file beside it, no loader and no library, and is a function of
//! the sources and the compilers, wherever they are.

mod arch;
mod elf;

use crate::{build, remap, shell};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub(crate) use arch::Arch;

/// What was built.
pub(crate) struct Agent {
    /// The executable.
    pub(crate) path: PathBuf,
    /// Cargo's identifiers of the packages that are linked into it.
    pub(crate) packages: BTreeSet<String>,
}

/// Builds the agent for `arch`, optimised.
pub(crate) fn build(arch: Arch) -> Result<Agent> {
    arch::ensure(arch)?;
    let target = arch.target();
    let upper = target.replace('-', "_").to_uppercase();
    let mut command = shell::cargo();
    command
        .args(["build", "--locked", "--package", "nodeport-agent"])
        .args(["--bin", "nodeport-agent", "--release"])
        .args(["--target", target])
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
    let (path, packages) = read_messages(&messages, &build::target_directory().join(target));
    let path = path.context("cargo named no executable")?;
    elf::check_static(&read(&path)?, arch)
        .with_context(|| format!("{} cannot stand alone", path.display()))?;
    Ok(Agent { path, packages })
}

impl Agent {
    /// The executable without line tables; names of functions stay for backtraces.
    pub(crate) fn stripped(&self, arch: Arch) -> Result<Vec<u8>> {
        let small = self.path.with_extension("stripped");
        let mut strip = Command::new(arch.strip());
        shell::run(
            strip
                .arg("--strip-debug")
                .arg("-o")
                .arg(&small)
                .arg(&self.path),
        )?;
        read(&small)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
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
