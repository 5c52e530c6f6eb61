//! `bpf-linker`: which ones there are, which LLVM each was built with, and how one is built.
//!
//! Invariant: a linker that we build goes to the cache, never over one that the user installed.

use crate::{packages, shell};
use anyhow::{Context as _, Result, bail};
use std::{fmt, fs, path::Path, path::PathBuf, process::Command};

/// The version that we build where there is none.
const VERSION: &str = "0.13.0";

/// The LLVM versions that this version can be built with.
const LLVM_VERSIONS: std::ops::RangeInclusive<u32> = 21..=23;

/// A linker that was found.
#[derive(Clone, Debug)]
pub(crate) struct Linker {
    /// The executable.
    pub(crate) path: PathBuf,
    /// As `--version` says it.
    pub(crate) version: String,
    /// Major version of its LLVM, if that can be seen.
    pub(crate) llvm: Option<u32>,
}

impl Linker {
    /// Whether it reads the bitcode of a compiler with this LLVM. Where we cannot see its LLVM, the build will tell.
    pub(crate) fn reads(&self, compiler_llvm: u32) -> bool {
        self.llvm.is_none_or(|llvm| llvm >= compiler_llvm)
    }
}

impl fmt::Display for Linker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.display(), self.version)?;
        match self.llvm {
            Some(llvm) => write!(f, " (LLVM {llvm})"),
            None => f.write_str(" (LLVM unknown)"),
        }
    }
}

/// The linker on the path, and the one in the cache.
pub(crate) fn survey() -> Vec<Linker> {
    let cached = shell::cache()
        .ok()
        .map(|cache| cache.join("bin/bpf-linker"));
    let mut paths: Vec<_> = shell::find("bpf-linker")
        .into_iter()
        .chain(cached)
        .collect();
    paths.dedup();
    paths.iter().filter_map(|path| examine(path)).collect()
}

fn examine(path: &Path) -> Option<Linker> {
    let text = shell::output(Command::new(path).arg("--version")).ok()?;
    let llvm = shell::output(Command::new("ldd").arg(path))
        .ok()
        .and_then(|text| llvm_of_libraries(&text))
        .or_else(|| llvm_of_bytes(&fs::read(path).ok()?));
    Some(Linker {
        path: path.to_path_buf(),
        version: text.split_whitespace().nth(1)?.to_owned(),
        llvm,
    })
}

/// LLVM's major version from what `ldd` prints: `libLLVM.so.22.1 => ...`, `libLLVM-18.so.1 => ...`.
fn llvm_of_libraries(text: &str) -> Option<u32> {
    text.split_whitespace().find_map(|word| {
        let rest = word.strip_prefix("libLLVM")?;
        let digits = rest
            .strip_prefix(".so.")
            .or_else(|| rest.strip_prefix('-'))?;
        leading_number(digits.as_bytes())
    })
}

/// LLVM's major version from a statically linked executable: LLVM signs its bitcode with `LLVM22.1.8`.
fn llvm_of_bytes(bytes: &[u8]) -> Option<u32> {
    bytes.windows(8).enumerate().find_map(|(at, window)| {
        let digits = window.strip_prefix(b"LLVM")?;
        let number = leading_number(digits)?;
        let after = bytes.get(at + 4 + number.to_string().len()..)?;
        (after.first() == Some(&b'.') && after.get(1)?.is_ascii_digit()).then_some(number)
    })
}

fn leading_number(bytes: &[u8]) -> Option<u32> {
    let len = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    std::str::from_utf8(&bytes[..len]).ok()?.parse().ok()
}

/// What Debian has to bring before a linker with this LLVM can be built.
pub(crate) fn debian_packages(llvm: u32) -> Vec<String> {
    let mut names = vec![format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    names.extend(["libzstd-dev", "zlib1g-dev", "gcc", "libc6-dev"].map(str::to_owned));
    names
}

/// The command that builds a linker with this LLVM, for people.
pub(crate) fn by_hand(llvm: u32) -> String {
    format!(
        "LLVM_PREFIX=/usr/lib/llvm-{llvm} cargo install bpf-linker --version {VERSION} --no-default-features --features llvm-{llvm} --locked"
    )
}

/// Builds a linker with the given LLVM into the cache.
pub(crate) fn install(llvm: u32) -> Result<()> {
    if !LLVM_VERSIONS.contains(&llvm) {
        bail!("bpf-linker {VERSION} cannot be built with LLVM {llvm}, which the compiler has");
    }
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let names = debian_packages(llvm);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    packages::install(&names).context("bpf-linker needs LLVM's libraries to be built")?;
    let cache = shell::cache()?;
    shell::stage(
        &format!("build bpf-linker {VERSION} into {}", cache.display()),
        || {
            shell::run(
                shell::cargo()
                    .args(["install", "bpf-linker", "--version", VERSION, "--locked"])
                    .args([
                        "--no-default-features",
                        "--features",
                        &format!("llvm-{llvm}"),
                    ])
                    .arg("--root")
                    .arg(&cache)
                    .env("LLVM_PREFIX", &prefix),
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_is_read_from_the_shared_library() {
        let debian = "\tlinux-vdso.so.1 (0x1)\n\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x2)\n";
        assert_eq!(llvm_of_libraries(debian), Some(22));
        let older = "\tlibLLVM-18.so.1 => /lib/libLLVM-18.so.1 (0x2)\n";
        assert_eq!(llvm_of_libraries(older), Some(18));
        assert_eq!(llvm_of_libraries("\tstatically linked\n"), None);
    }

    #[test]
    fn llvm_is_read_from_a_static_executable() {
        assert_eq!(
            llvm_of_bytes(b"\0see LLVM IR; LLVM1 \0LLVM22.1.8-rust\0"),
            Some(22)
        );
        assert_eq!(llvm_of_bytes(b"LLVM_PREFIX LLVM Polly LLVM22"), None);
    }

    #[test]
    fn bitcode_of_a_newer_llvm_is_not_read() {
        let linker = |llvm| Linker {
            path: "/bpf-linker".into(),
            version: VERSION.to_owned(),
            llvm,
        };
        assert!(!linker(Some(21)).reads(22));
        assert!(linker(Some(22)).reads(22));
        assert!(linker(Some(23)).reads(22));
        assert!(linker(None).reads(22));
    }
}
