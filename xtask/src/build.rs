//! `cargo xtask build`: the BPF object, then the agent that carries it.
//!
//! Invariant: the agent is built after the object and embeds exactly this one.

use crate::{
    agent::{self, Arch},
    shell,
    toolchain::{self, TARGET, Toolchain},
};
use anyhow::{Context as _, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What `cargo xtask build` is asked to do.
#[derive(clap::Args, Clone, Copy, Default)]
pub(crate) struct Args {
    /// Build the agent without optimisation (the BPF object always has it)
    #[arg(long)]
    pub(crate) debug: bool,
    /// Build only the BPF object
    #[arg(long)]
    pub(crate) object_only: bool,
}

/// What was built.
pub(crate) struct Built {
    /// The agent's executable.
    pub(crate) agent: PathBuf,
}

/// Builds the object and, unless told otherwise, the agent.
pub(crate) fn main(args: Args) -> Result<()> {
    if args.object_only {
        object()?;
        return Ok(());
    }
    let built = all(args.debug)?;
    eprintln!("{}", built.agent.display());
    Ok(())
}

/// Builds the object and the agent; `debug` leaves the agent unoptimised.
pub(crate) fn all(debug: bool) -> Result<Built> {
    object()?;
    if debug {
        shell::stage("build the agent (dev)", || {
            shell::run(shell::cargo().args(["build", "--package", "nodeport-agent"]))
        })?;
        let agent = target_directory().join("debug/nodeport-agent");
        return Ok(Built { agent });
    }
    let arch = Arch::of_this_machine()?;
    let built = shell::stage(&format!("build the agent ({arch})"), || agent::build(arch))?;
    // Where cargo has optimised programs for this machine if it is not told for which machine they are.
    let agent = release_directory().join("nodeport-agent");
    publish(&built.path, &agent)?;
    Ok(Built { agent })
}

/// Where the built object is found, whatever cargo's target directory: by the agent's build script, `verify` and the tests.
pub(crate) fn object_path() -> PathBuf {
    shell::root().join("target/bpf/nodeport.o")
}

/// Builds the BPF object, with a toolchain that is found or installed, and returns its path.
pub(crate) fn object() -> Result<PathBuf> {
    object_of("nodeport", "the BPF programs", object_path())
}

/// Builds the benchmark's own programs, likewise.
pub(crate) fn bench_object() -> Result<PathBuf> {
    let path = object_path().with_file_name("bench.o");
    object_of("bench", "the benchmark's BPF programs", path)
}

fn object_of(binary: &str, what: &str, path: PathBuf) -> Result<PathBuf> {
    let toolchain = toolchain::ensure()?;
    let title = format!("build {what} with {}", toolchain.compiler);
    shell::stage(&title, || {
        let mut command = toolchain.cargo("build");
        shell::run(of_the_rim(&mut command, binary).args(["--profile", "bpf"])).with_context(
            || {
                format!(
                    "{what} do not build with {} and {}",
                    toolchain.compiler, toolchain.linker
                )
            },
        )?;
        let made = build_directory().join(TARGET).join("bpf").join(binary);
        publish(&made, &path)
    })?;
    Ok(path)
}

/// Clippy over the library and the programs for the BPF target, if this toolchain has clippy.
pub(crate) fn clippy(toolchain: &Toolchain) -> Option<Command> {
    let mut command = toolchain.clippy()?;
    of_the_rim(&mut command, "nodeport").args([
        "--lib",
        "--profile",
        "bpf",
        "--",
        "-D",
        "warnings",
    ]);
    Some(command)
}

/// The same for the host's target. Its profile aborts on a panic, without which a program without std does not compile.
pub(crate) fn clippy_on_host() -> Command {
    let mut command = shell::cargo();
    command.arg("clippy");
    of_the_rim(&mut command, "nodeport").args([
        "--lib",
        "--profile",
        "bpf",
        "--",
        "-D",
        "warnings",
    ]);
    command
}

fn of_the_rim<'a>(command: &'a mut Command, binary: &str) -> &'a mut Command {
    command
        .args([
            "--package",
            "nodeport-ebpf",
            "--bin",
            binary,
            "--features",
            "kernel",
        ])
        .arg("--target-dir")
        .arg(build_directory())
}

/// Copies what was made where others look for it, leaving that (and its time) alone if it is the same: the time of the object decides
/// whether cargo builds the agent anew.
fn publish(made: &Path, place: &Path) -> Result<()> {
    let bytes = fs::read(made).with_context(|| format!("cannot read {}", made.display()))?;
    if fs::read(place).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(directory) = place.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    // By rename, so that an agent that is just being built never embeds half an object, and one that runs is left alone.
    let fresh = place.with_extension("new");
    fs::copy(made, &fresh).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, place).with_context(|| format!("cannot rename {}", fresh.display()))
}

/// Where optimised programs for this machine are.
pub(crate) fn release_directory() -> PathBuf {
    target_directory().join("release")
}

/// Cargo's target directory.
pub(crate) fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || shell::root().join("target"),
        |path| shell::root().join(path),
    )
}

/// The BPF build has a directory of its own, so that it and host builds do not wait for each other's lock.
fn build_directory() -> PathBuf {
    target_directory().join("bpf-build")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_keeps_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let (made, object) = (
            directory.path().join("made"),
            directory.path().join("bpf/nodeport.o"),
        );
        fs::write(&made, "one").unwrap();
        publish(&made, &object).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options()
            .write(true)
            .open(&object)
            .unwrap()
            .set_modified(old)
            .unwrap();
        publish(&made, &object).unwrap();
        assert_eq!(fs::metadata(&object).unwrap().modified().unwrap(), old);
        fs::write(&made, "two").unwrap();
        publish(&made, &object).unwrap();
        assert_eq!(fs::read_to_string(&object).unwrap(), "two");
        assert!(fs::metadata(&object).unwrap().modified().unwrap() > old);
    }
}
