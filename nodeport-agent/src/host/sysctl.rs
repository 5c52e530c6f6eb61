//! Reading and writing files below `/proc`.
//!
//! Owns the place. Refuses to know what is written. Invariant: a file that is not there is not made.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// `/proc`, or a directory that stands for it in tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proc(PathBuf);

/// A file that cannot be written, or not to this value.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {value} to {path}: {source}")]
pub struct Sysctl {
    path: PathBuf,
    value: String,
    source: io::Error,
}

impl Default for Proc {
    fn default() -> Self {
        Self(PathBuf::from("/proc"))
    }
}

impl Proc {
    /// Another directory.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// A file's text without surrounding blanks, if it is there.
    #[must_use]
    pub fn read(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.0.join(name)).ok()?;
        Some(text.trim().to_owned())
    }

    /// A file's path.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file that is there.
    ///
    /// # Errors
    /// [`Sysctl`] names the file and the value.
    pub fn write(&self, name: &str, value: &str) -> Result<(), Sysctl> {
        let path = self.0.join(name);
        let file = OpenOptions::new().write(true).truncate(true).open(&path);
        file.and_then(|mut file| file.write_all(value.as_bytes()))
            .map_err(|source| Sysctl {
                path,
                value: value.to_owned(),
                source,
            })
    }
}
