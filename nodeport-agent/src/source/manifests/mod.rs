//! Objects from files: `--manifests PATH`.
//!
//! Owns when files are looked at: after each event of the file system, once it has been quiet for a moment, and every so
//! often without one. It refuses to know what objects mean.
//! Invariant: nothing is given before every given path was there and was read once (behaviours 22.1): a path that is
//! mistyped or not yet mounted must not look like a cluster without Services.

pub mod document;
mod files;
mod list;
mod merged;
mod watch;
pub(crate) mod yaml;

#[cfg(test)]
mod tests;

pub use files::Files;
pub use watch::{Manifests, ManifestsError, Timing};

use std::path::{Path, PathBuf};

use crate::model::objects::Objects;

/// Reads the paths once, as `plan` does.
///
/// # Errors
///
/// The first path that is not there or cannot be looked at. A file in a directory that cannot be read is a report.
pub fn read_once(paths: Vec<PathBuf>) -> Result<Objects, ManifestsError> {
    let mut files = Files::new(paths);
    files.refresh();
    let first = files.unreachable().next();
    match first.map(|(path, error): (&Path, &str)| (path.to_owned(), error.to_owned())) {
        Some((path, reason)) => Err(ManifestsError::Unreachable { path, reason }),
        None => Ok(files.objects()),
    }
}
