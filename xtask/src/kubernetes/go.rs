//! The Go toolchain: the one on the path if it is new enough, else one of our own from the Go module proxy.
//!
//! Owns the version and how it is fetched. Invariant: what was fetched is used only if its checksum is the one written here.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{packages, shell};

/// The oldest that can build the modules: their `go` lines say the same.
pub(crate) const OLDEST: (u32, u32) = (1, 26);

/// The toolchain that is fetched, as the module proxy has it, and the SHA-256 of its archive.
const FETCHED: (&str, &str) = (
    "v0.0.1-go1.26.8.linux-amd64",
    "30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7",
);

/// A Go toolchain.
pub(crate) struct Go {
    program: PathBuf,
    version: String,
}

impl Go {
    /// Finds one, or fetches one.
    pub(crate) fn find() -> Result<Self> {
        match Self::on_path() {
            Some(go) => Ok(go),
            None => Self::own(),
        }
    }

    /// The one on the path, if it is new enough.
    pub(crate) fn on_path() -> Option<Self> {
        // Where Go's own archive puts it, the path often lacks.
        let program = shell::find("go").or_else(|| {
            Some(PathBuf::from("/usr/local/go/bin/go")).filter(|program| program.is_file())
        })?;
        let go = Self::at(program).ok()?;
        is_new_enough(&go.version).then_some(go)
    }

    fn at(program: PathBuf) -> Result<Self> {
        let version = shell::output(Command::new(&program).args(["env", "GOVERSION"]))?;
        Ok(Self {
            program,
            version: version.trim().to_owned(),
        })
    }

    /// Why none can be fetched, if so.
    pub(crate) fn obstacle() -> Option<String> {
        let (major, minor) = OLDEST;
        let remedy = format!("install Go {major}.{minor} or newer: https://go.dev/dl/");
        (!cfg!(target_arch = "x86_64")).then_some(remedy)
    }

    fn own() -> Result<Self> {
        let (version, _) = FETCHED;
        let directory = shell::cache()?.join("go").join(version);
        let program = directory.join(format!("golang.org/toolchain@{version}/bin/go"));
        if !program.is_file() {
            if let Some(remedy) = Self::obstacle() {
                bail!("there is no Go: {remedy}");
            }
            shell::stage(&format!("fetch the Go toolchain {version}"), || {
                fetch(&directory)
            })?;
        }
        Self::at(program)
    }

    /// A call of Go in the directory of a module.
    pub(crate) fn command(&self, source: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(source);
        // The programs have to run on any node: no C library.
        command.env("CGO_ENABLED", "0");
        command
    }
}

impl fmt::Display for Go {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.version)
    }
}

/// Puts the toolchain into a directory, which is there afterwards as a whole or not at all.
fn fetch(directory: &Path) -> Result<()> {
    let (version, sum) = FETCHED;
    packages::ensure("curl")?;
    packages::ensure("unzip")?;
    let unfinished = directory.with_extension(format!("{}.part", std::process::id()));
    std::fs::create_dir_all(&unfinished)
        .with_context(|| format!("make {}", unfinished.display()))?;
    let archive = unfinished.join("archive.zip");
    let url = format!("https://proxy.golang.org/golang.org/toolchain/@v/{version}.zip");
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--silent", "--show-error", "--location"]);
    curl.args(["--retry", "3", "--output"]);
    shell::run(curl.arg(&archive).arg(&url))?;
    let found = shell::output(Command::new("sha256sum").arg(&archive))?;
    if !found.starts_with(sum) {
        bail!("{url} is not what it was: its SHA-256 is {found}");
    }
    let mut unzip = Command::new("unzip");
    unzip.args(["-q", "-d"]).arg(&unfinished).arg(&archive);
    shell::run(&mut unzip)?;
    std::fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
    // An archive of a module has no permissions.
    let toolchain = unfinished.join(format!("golang.org/toolchain@{version}"));
    make_executable(&toolchain.join("pkg/tool/linux_amd64"))?;
    make_executable(&toolchain.join("bin"))?;
    std::fs::rename(&unfinished, directory)
        .with_context(|| format!("rename {}", unfinished.display()))
}

fn make_executable(directory: &Path) -> Result<()> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} executable", path.display()))?;
    }
    Ok(())
}

/// Whether a version like `go1.26.8` or `go1.27rc1` can build the modules.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version
        .trim_start_matches("go")
        .split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    matches!((number(), number()), (Some(major), Some(minor)) if (major, minor) >= OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for new in ["go1.26", "go1.26.8", "go1.100.1", "go2.0", "go1.27rc1"] {
            assert!(is_new_enough(new), "{new}");
        }
        for old in ["go1.19.8", "go1.25.12", "go1.3", "devel", ""] {
            assert!(!is_new_enough(old), "{old}");
        }
    }

    #[test]
    fn the_modules_ask_for_no_newer_go() {
        let modules = std::fs::read_dir(shell::root().join("tests/kubernetes")).unwrap();
        for module in modules.map(|entry| entry.unwrap().path()) {
            let Ok(text) = std::fs::read_to_string(module.join("go.mod")) else {
                continue;
            };
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("go "))
                .unwrap();
            let (major, minor) = OLDEST;
            assert_eq!(line, format!("{major}.{minor}.0"), "{}", module.display());
            assert!(!text.contains("\ntoolchain "), "{}", module.display());
        }
    }
}
