//! One function that finds a toolchain for the BPF target, and installs what it can.
//!
//! A toolchain is a compiler that can build `core` for `bpfel-unknown-none` (it has the standard library's source and takes
//! `-Z build-std`) and a `bpf-linker` that reads what this compiler writes. Refuses to know what is built with it.
//! Invariant: the linker's LLVM is at least as new as the compiler's, because LLVM reads bitcode of older versions only.

mod compiler;
mod linker;

use compiler::{Compiler, Origin};
use linker::Linker;

use crate::{packages, remap, shell};
use anyhow::{Context as _, Result, anyhow, bail};
use std::process::Command;

/// The target of the programs: little-endian BPF.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Debian's compiler, cargo and library source.
const DEBIAN_COMPILER: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// Clippy for that compiler.
const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// A compiler and a linker that fit together.
pub(crate) struct Toolchain {
    /// What compiles.
    pub(crate) compiler: Compiler,
    /// What links.
    pub(crate) linker: Linker,
}

impl Toolchain {
    /// `cargo VERB`, set up for the BPF target; the caller adds what to build.
    pub(crate) fn cargo(&self, verb: &str) -> Command {
        let mut command = self.compiler.cargo(verb);
        self.set_up(&mut command);
        command
    }

    /// `cargo clippy` for the BPF target, if this compiler has it.
    pub(crate) fn clippy(&self) -> Option<Command> {
        let mut command = self.compiler.clippy()?;
        self.set_up(&mut command);
        Some(command)
    }

    fn set_up(&self, command: &mut Command) {
        // v3: the newest instruction set that kernel 6.1 loads. Misaligned access turns a window of the packet into plain
        // loads instead of byte by byte; it is safe where the kernel's BPF allows it, which is what the verifier checks.
        let mut flags = [
            "-Ctarget-cpu=v3",
            "-Cdebuginfo=2",
            "-Clink-arg=--btf",
            "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
        ]
        .map(str::to_owned)
        .to_vec();
        // The object names its sources, for the verifier's messages.
        flags.extend(remap::rust_flags());
        command
            .current_dir(shell::root())
            .args(["-Z", "build-std=core", "--target", TARGET])
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker.path)
            .env_remove("RUSTFLAGS");
    }
}

/// What there is on this machine, usable or not.
pub(crate) struct Survey {
    /// Every compiler that was found, in order of preference.
    pub(crate) compilers: Vec<Compiler>,
    /// Every linker that was found, in order of preference.
    pub(crate) linkers: Vec<Linker>,
}

/// Looks at the machine and changes nothing.
pub(crate) fn survey() -> Survey {
    Survey {
        compilers: compiler::survey(),
        linkers: linker::survey(),
    }
}

impl Survey {
    /// The first usable compiler that has a linker.
    pub(crate) fn choose(&self) -> Option<Toolchain> {
        self.usable_compilers()
            .find_map(|compiler| self.linker_for(compiler).map(|linker| (compiler, linker)))
            .map(|(compiler, linker)| Toolchain {
                compiler: compiler.clone(),
                linker: linker.clone(),
            })
    }

    /// The first linker that reads what this compiler writes.
    pub(crate) fn linker_for(&self, compiler: &Compiler) -> Option<&Linker> {
        self.linkers
            .iter()
            .find(|linker| linker.reads(compiler.llvm))
    }

    fn usable_compilers(&self) -> impl Iterator<Item = &Compiler> {
        self.compilers
            .iter()
            .filter(|compiler| compiler.obstacle().is_none())
    }

    /// The compiler for which a linker is most easily built: the one with the oldest LLVM.
    fn easiest_compiler(&self) -> Option<&Compiler> {
        self.usable_compilers().min_by_key(|compiler| compiler.llvm)
    }
}

/// Finds a toolchain, and installs what is missing where that is possible.
///
/// # Errors
///
/// Says what to install, by name and by command.
pub(crate) fn ensure() -> Result<Toolchain> {
    if let Some(toolchain) = survey().choose() {
        return Ok(toolchain);
    }
    shell::stage("find or install a BPF toolchain", install)
}

fn install() -> Result<Toolchain> {
    complete().map_err(|reason| anyhow!("no BPF toolchain: {reason:#}\n{}", advice(&survey())))
}

/// Adds a compiler if there is none, then a linker for it.
fn complete() -> Result<Toolchain> {
    if survey().easiest_compiler().is_none() {
        packages::install(DEBIAN_COMPILER)?;
    }
    let found = survey();
    let compiler = found
        .easiest_compiler()
        .context("the compiler that was installed cannot build for the BPF target")?;
    if found.linker_for(compiler).is_none() {
        linker::install(compiler.llvm)?;
    }
    survey()
        .choose()
        .context("what was installed does not fit together")
}

/// A toolchain that has clippy, which is installed where that is possible.
///
/// # Errors
///
/// Says how to get clippy for this compiler.
pub(crate) fn ensure_clippy() -> Result<Toolchain> {
    let toolchain = ensure()?;
    if toolchain.clippy().is_some() {
        return Ok(toolchain);
    }
    match toolchain.compiler.origin {
        Origin::Rustup(_) => bail!("{}", clippy_remedy(&toolchain)),
        Origin::System => packages::install(&[DEBIAN_CLIPPY])?,
    }
    Ok(toolchain)
}

/// How to get clippy for the compiler of a toolchain.
pub(crate) fn clippy_remedy(toolchain: &Toolchain) -> String {
    match &toolchain.compiler.origin {
        Origin::Rustup(name) => format!("rustup component add clippy --toolchain {name}"),
        Origin::System => packages::remedy(&[DEBIAN_CLIPPY]),
    }
}

/// What was found, what is wrong with it, and the ways to a toolchain.
pub(crate) fn advice(found: &Survey) -> String {
    let mut lines = Vec::new();
    for compiler in &found.compilers {
        let state = compiler.obstacle().unwrap_or_else(|| "usable".to_owned());
        lines.push(format!("  compiler: {compiler}: {state}"));
    }
    for linker in &found.linkers {
        lines.push(format!("  linker: {linker}"));
    }
    if lines.is_empty() {
        lines.push("  nothing".to_owned());
    }
    lines.insert(0, "found:".to_owned());
    lines.push("one of these makes a toolchain:".to_owned());
    lines.push("  rustup toolchain install nightly --component rust-src,clippy; and a bpf-linker whose LLVM is as new, from".to_owned());
    lines.push(
        "    https://github.com/aya-rs/bpf-linker/releases or by `cargo binstall bpf-linker`"
            .to_owned(),
    );
    lines.push(format!(
        "  on Debian, as root: apt-get install {} {DEBIAN_CLIPPY} {}",
        DEBIAN_COMPILER.join(" "),
        linker::debian_packages(22).join(" ")
    ));
    lines.push(format!("    and {}", linker::by_hand(22)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(origin: Origin, llvm: u32, has_source: bool) -> Compiler {
        Compiler {
            origin,
            release: "1.96.0".to_owned(),
            llvm,
            has_source,
        }
    }

    fn linker(path: &str, llvm: Option<u32>) -> Linker {
        Linker {
            path: path.into(),
            version: "0.13.0".to_owned(),
            llvm,
        }
    }

    #[test]
    fn a_nightly_with_source_comes_before_debian() {
        let found = Survey {
            compilers: vec![
                compiler(Origin::Rustup("nightly".to_owned()), 22, true),
                compiler(Origin::System, 22, true),
            ],
            linkers: vec![linker("/a", Some(22))],
        };
        assert_eq!(
            found.choose().map(|toolchain| toolchain.compiler.origin),
            Some(Origin::Rustup("nightly".to_owned()))
        );
    }

    #[test]
    fn a_nightly_newer_than_the_linker_is_passed_over() {
        let found = Survey {
            compilers: vec![
                compiler(Origin::Rustup("nightly".to_owned()), 23, true),
                compiler(Origin::System, 22, true),
            ],
            linkers: vec![linker("/old", Some(21)), linker("/fits", Some(22))],
        };
        let toolchain = found
            .choose()
            .expect("Debian's compiler and the second linker");
        assert_eq!(toolchain.compiler.origin, Origin::System);
        assert_eq!(toolchain.linker.path.to_str(), Some("/fits"));
    }

    #[test]
    fn a_compiler_without_source_is_no_toolchain() {
        let found = Survey {
            compilers: vec![compiler(Origin::Rustup("nightly".to_owned()), 22, false)],
            linkers: vec![linker("/a", Some(22))],
        };
        assert!(found.choose().is_none());
        let advice = advice(&found);
        assert!(advice.contains("rust-src"), "{advice}");
        assert!(
            advice.contains("rustc-web") && advice.contains("bpf-linker"),
            "{advice}"
        );
    }
}
