//! The processors that the agent can be built for, and what building for each takes.

use crate::{packages, shell};
use anyhow::{Result, bail};
use std::{env::consts::ARCH, fmt, fs, path::Path, process::Command};

/// A processor, by the name that container images and Kubernetes use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    /// `x86_64` of Rust and uname.
    Amd64,
    /// `aarch64` of Rust and uname.
    Arm64,
}

impl Arch {
    /// The one that this program runs on.
    pub(crate) fn of_this_machine() -> Result<Self> {
        match ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!(
                "the agent is not built for {other}: its XDP and TC programs were tried on x86_64 and aarch64 only"
            ),
        }
    }

    /// The name in image manifests.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Rust's target.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The C compiler that makes and links code for it.
    pub(crate) fn compiler(self) -> &'static str {
        if Self::of_this_machine().is_ok_and(|here| here == self) {
            return "cc";
        }
        match self {
            Self::Amd64 => "x86_64-linux-gnu-gcc",
            Self::Arm64 => "aarch64-linux-gnu-gcc",
        }
    }

    /// The program that takes debug information out of an executable; it comes with the compiler.
    pub(crate) fn strip(self) -> String {
        self.compiler()
            .strip_suffix("gcc")
            .map_or_else(|| "strip".to_owned(), |prefix| format!("{prefix}strip"))
    }

    /// The machine type in an ELF header (`EM_X86_64`, `EM_AARCH64`).
    pub(crate) fn elf_machine(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }

    /// Debian's packages of the cross compiler and of the C library for it.
    fn packages(self) -> [&'static str; 2] {
        match self {
            Self::Amd64 => ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
            Self::Arm64 => ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Sees to it that code for `arch` can be built, by installing what can be installed.
///
/// # Errors
///
/// Everything that is still missing, each with how to get it.
pub(crate) fn ensure(arch: Arch) -> Result<()> {
    let mut missing = Vec::new();
    if !has_library(arch) {
        let added = Command::new("rustup")
            .args(["target", "add", arch.target()])
            .current_dir(shell::root())
            .status();
        if !added.is_ok_and(|status| status.success()) || !has_library(arch) {
            missing.push(format!(
                "Rust's standard library for {0}: `rustup target add {0}`",
                arch.target()
            ));
        }
    }
    if shell::find(arch.compiler()).is_none()
        && let Err(error) = packages::install(&arch.packages())
    {
        missing.push(format!("the C compiler {}: {error:#}", arch.compiler()));
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("cannot build for {arch}; missing: {}", missing.join("; "))
}

/// Whether the active compiler has the standard library for this target.
fn has_library(arch: Arch) -> bool {
    let mut query = Command::new("rustc");
    query
        .args(["--print", "target-libdir", "--target", arch.target()])
        .current_dir(shell::root());
    shell::output(&mut query).is_ok_and(|path| holds_std(Path::new(path.trim())))
}

fn holds_std(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libstd-") && name.ends_with(".rlib")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_own_compiler_is_used_for_it() {
        let here = Arch::of_this_machine().unwrap();
        assert_eq!(here.compiler(), "cc");
        assert_eq!(here.strip(), "strip");
        assert!(here.target().starts_with(ARCH));
        assert!(has_library(here));
    }

    #[test]
    fn a_library_is_there_if_its_archive_is() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!holds_std(directory.path()) && !holds_std(Path::new("/nowhere")));
        fs::write(directory.path().join("libstd-0123.rlib"), "").unwrap();
        assert!(holds_std(directory.path()));
    }
}
