//! Where the programs of Kubernetes are: `cargo xtask` builds them, and tells tests by an environment variable.
//!
//! Refuses to know how they are built.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::{Context, Result};

/// The environment variable: a list of directories.
pub const VARIABLE: &str = "NODEPORT_KUBERNETES";

/// Directories of programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs(Vec<PathBuf>);

impl Programs {
    /// A list of directories as `PATH` is one.
    #[must_use]
    pub fn new(list: &OsStr) -> Self {
        Self(std::env::split_paths(list).collect())
    }

    /// Those that the environment names.
    ///
    /// # Errors
    /// If it names none.
    pub fn from_environment() -> Result<Self> {
        let list = std::env::var_os(VARIABLE).with_context(|| {
            format!("{VARIABLE} is not set: `cargo xtask test cluster` builds the programs of Kubernetes and sets it")
        })?;
        Ok(Self::new(&list))
    }

    /// All directories, as `PATH` has them.
    ///
    /// # Errors
    /// If one has a colon in its name.
    pub fn list(&self) -> Result<OsString> {
        std::env::join_paths(&self.0).context("a directory of programs")
    }

    /// The path of a program.
    ///
    /// # Errors
    /// If it was not built.
    pub fn find(&self, program: &str) -> Result<PathBuf> {
        self.0
            .iter()
            .map(|directory| directory.join(program))
            .find(|path| path.is_file())
            .with_context(|| format!("{program} is in none of {:?}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_in_any_of_the_directories() {
        let (one, two) = (
            tempfile::tempdir().expect("a directory"),
            tempfile::tempdir().expect("a directory"),
        );
        std::fs::write(two.path().join("etcd"), "").expect("written");
        let list = std::env::join_paths([one.path(), two.path()]).expect("no colons");
        let programs = Programs::new(&list);
        assert_eq!(
            programs.find("etcd").expect("it is there"),
            two.path().join("etcd")
        );
        let error = programs
            .find("kubectl")
            .expect_err("it is not there")
            .to_string();
        assert!(error.contains("kubectl is in none of"), "{error}");
    }
}
