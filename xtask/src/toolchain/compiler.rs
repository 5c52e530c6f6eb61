//! Rust compilers that might build for the BPF target: rustup's and the system's.
//!
//! Owns where they are looked for and how they are started. Invariant: looking never installs nor changes anything.

use crate::shell;
use std::{fmt, path::Path, process::Command};

/// Where a compiler comes from, and so how it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A toolchain of rustup, by name.
    Rustup(String),
    /// `/usr/bin/rustc` and `/usr/bin/cargo`, from the distribution.
    System,
}

/// A compiler that was found.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    /// Where it comes from.
    pub(crate) origin: Origin,
    /// Its release, as `rustc -vV` says it: `1.96.0`, `1.97.0-nightly`.
    pub(crate) release: String,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
    /// Whether the standard library's source is there, to build `core` from.
    pub(crate) has_source: bool,
}

impl Compiler {
    /// Why it cannot build for the BPF target, with the remedy.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let needed = env!("CARGO_PKG_RUST_VERSION");
        if version(&self.release) < version(needed) {
            return Some(format!("older than {needed}, which nodeport needs"));
        }
        if self.has_source {
            return None;
        }
        Some(match &self.origin {
            Origin::Rustup(name) => {
                format!(
                    "without the library's source: rustup component add rust-src --toolchain {name}"
                )
            }
            Origin::System => {
                "without the library's source: apt-get install rust-web-src".to_owned()
            }
        })
    }

    /// `cargo VERB` with this compiler, unstable options allowed.
    pub(crate) fn cargo(&self, verb: &str) -> Command {
        let mut command = match &self.origin {
            Origin::Rustup(name) => rustup_run(name, "cargo"),
            Origin::System => {
                let mut command = Command::new("/usr/bin/cargo");
                // Without this, cargo takes rustup's rustc from the path.
                command
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTDOC", "/usr/bin/rustdoc");
                command
            }
        };
        command.arg(verb).env("RUSTC_BOOTSTRAP", "1");
        command
    }

    /// `cargo clippy` with this compiler, if it has clippy.
    pub(crate) fn clippy(&self) -> Option<Command> {
        match &self.origin {
            Origin::Rustup(name) => {
                shell::output(rustup_run(name, "cargo").args(["clippy", "--version"])).ok()?;
                Some(self.cargo("clippy"))
            }
            Origin::System => {
                let program = Path::new("/usr/bin/cargo-clippy");
                if !program.is_file() {
                    return None;
                }
                // `cargo clippy` would start rustup's cargo-clippy; the system's own takes its cargo from CARGO.
                let mut command = Command::new(program);
                command
                    .arg("clippy")
                    .env("CARGO", "/usr/bin/cargo")
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTC_BOOTSTRAP", "1");
                Some(command)
            }
        }
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Rustup(name) => write!(f, "rustup's {name}")?,
            Origin::System => f.write_str("/usr/bin/rustc")?,
        }
        write!(f, " ({}, LLVM {})", self.release, self.llvm)
    }
}

/// Every compiler on this machine: rustup's nightly, rustup's active toolchain, the system's.
pub(crate) fn survey() -> Vec<Compiler> {
    let mut found = Vec::new();
    if shell::find("rustup").is_some() {
        for name in ["nightly".to_owned()].into_iter().chain(active_toolchain()) {
            found.extend(examine(
                &rustup_run(&name, "rustc"),
                Origin::Rustup(name.clone()),
            ));
        }
    }
    if Path::new("/usr/bin/cargo").is_file() && Path::new("/usr/bin/rustc").is_file() {
        found.extend(examine(&Command::new("/usr/bin/rustc"), Origin::System));
    }
    found
}

fn active_toolchain() -> Option<String> {
    let text = shell::output(Command::new("rustup").args(["show", "active-toolchain"])).ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

fn rustup_run(toolchain: &str, program: &str) -> Command {
    let mut command = Command::new("rustup");
    // Never fetch a toolchain as a side effect, and do not let the one that runs us choose for us.
    command
        .args(["run", toolchain, program])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env_remove("RUSTC");
    command
}

fn examine(rustc: &Command, origin: Origin) -> Option<Compiler> {
    let program = rustc.get_program().to_owned();
    let prefix: Vec<_> = rustc.get_args().map(ToOwned::to_owned).collect();
    let ask = |question: &[&str]| {
        let mut command = Command::new(&program);
        command
            .args(&prefix)
            .args(question)
            .env("RUSTUP_AUTO_INSTALL", "0");
        shell::output(&mut command).ok()
    };
    let (release, llvm) = parse_version(&ask(&["-vV"])?)?;
    let sysroot = ask(&["--print", "sysroot"])?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    Some(Compiler {
        origin,
        release,
        llvm,
        has_source: source.is_file(),
    })
}

/// Release and LLVM's major version, from what `rustc -vV` prints.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((field("release:")?.to_owned(), llvm))
}

/// Major and minor number of a release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHTLY: &str = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
        commit-hash: e50aa6fba4e63ab34c72bf9acfd2c307c1155d1a\ncommit-date: 2026-05-19\n\
        host: x86_64-unknown-linux-gnu\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";

    #[test]
    fn release_and_llvm_are_read_from_the_verbose_version() {
        assert_eq!(
            parse_version(NIGHTLY),
            Some(("1.97.0-nightly".to_owned(), 22))
        );
    }

    #[test]
    fn a_compiler_that_does_not_name_its_llvm_is_not_one() {
        assert_eq!(parse_version("mrustc 0.11\nrelease: 1.90.0\n"), None);
        assert_eq!(
            parse_version("release: 1.96.0\nLLVM version: unknown\n"),
            None
        );
    }

    #[test]
    fn releases_compare_by_number() {
        assert!(version("1.100.0") > version("1.97.0-nightly"));
        assert!(version("1.63.0") < version("1.95"));
    }

    #[test]
    fn an_old_system_compiler_is_refused_before_its_source_is_asked_for() {
        let old = Compiler {
            origin: Origin::System,
            release: "1.63.0".to_owned(),
            llvm: 14,
            has_source: false,
        };
        let obstacle = old.obstacle().expect("1.63 is too old");
        assert!(obstacle.starts_with("older than"), "{obstacle}");
    }
}
