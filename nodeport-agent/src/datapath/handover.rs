//! What an agent with other map layouts left: its links become ours, so that each of its programs gives way to ours in one step.
//!
//! Owns the pins of other versions. Refuses to read their maps: connections that they hold end. Invariant: a link is never without
//! a pin, so nothing is detached on the way.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nodeport_common::ABI_VERSION;

use super::error::DatapathError;
use super::pins::{Pins, entries};

/// Makes the links of other versions ours, and removes whatever else these versions pinned. Returns how many links there were.
///
/// Attached programs hold their maps, so that the old ones go on until each link gets its new program.
///
/// # Errors
/// [`DatapathError::File`] if something cannot be read, moved or removed.
pub(super) fn take_over(pins: &Pins) -> Result<usize, DatapathError> {
    let mut links = 0;
    for version in others(pins.root())? {
        for link in entries(&version.join("links"))? {
            let Some(name) = link.file_name() else {
                continue;
            };
            let ours = pins.links().join(name);
            if !ours.exists() {
                fs::rename(&link, &ours).map_err(DatapathError::file("move", &link))?;
                links += 1;
            }
        }
        remove(&version)?;
    }
    Ok(links)
}

/// The directories of other versions.
///
/// # Errors
/// [`DatapathError::File`] if the directory that all versions share cannot be read.
pub(super) fn others(root: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let is_other = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let version = name.strip_prefix('v').and_then(|n| n.parse::<u32>().ok());
        version.is_some_and(|version| version != ABI_VERSION)
    };
    Ok(entries(root)?.into_iter().filter(is_other).collect())
}

/// Removes a directory and all that is pinned in it.
///
/// # Errors
/// [`DatapathError::File`] if something cannot be removed.
pub(super) fn remove(directory: &Path) -> Result<(), DatapathError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::file("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_other_versions_move_and_the_rest_goes() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let pins = Pins::new(place.path());
        let old = place.path().join("v0");
        for directory in [
            old.join("links"),
            old.join("maps"),
            old.join("programs/0"),
            pins.links(),
            place.path().join("vault"),
        ] {
            fs::create_dir_all(directory).expect("directory");
        }
        let write = |path: PathBuf, text: &str| fs::write(path, text).expect("file");
        write(old.join("links/2-xdp"), "old");
        write(old.join("links/3-xdp"), "old");
        write(pins.links().join("3-xdp"), "new");
        write(old.join("maps/FLOWS4"), "");
        write(old.join("programs/0/xdp"), "");

        assert_eq!(take_over(&pins).expect("taken over"), 1);
        let read = |name| fs::read_to_string(pins.links().join(name)).expect("a link");
        assert_eq!((read("2-xdp"), read("3-xdp")), ("old".into(), "new".into()));
        assert!(!old.exists() && place.path().join("vault").exists());
        assert_eq!(take_over(&pins).expect("nothing is left"), 0);
    }
}
