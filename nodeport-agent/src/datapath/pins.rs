//! Names of pinned objects: `<pin-dir>/v<ABI>/maps/NAME`, `<pin-dir>/v<ABI>/programs/<fingerprint>/NAME` and `<pin-dir>/v<ABI>/links/<interface index>-<hook>`.
//!
//! Owns these paths. Refuses to know what is behind them. Invariant: the name of a link says which device and hook it is for.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nodeport_common::{ABI_VERSION, Hook};

use super::error::DatapathError;

/// The directory tree of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// The tree under `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory that all versions share.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of this version.
    #[must_use]
    pub fn version(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    /// The directory of maps.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    /// The directory of links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    /// The directory of programs.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.version().join("programs")
    }

    /// One map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// One link.
    #[must_use]
    pub fn link(&self, place: Place) -> PathBuf {
        self.links().join(place.to_string())
    }
}

/// What is in a directory; nothing if there is none.
///
/// # Errors
/// [`DatapathError::File`] if it cannot be read.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(DatapathError::file("read directory", directory)(error)),
    };
    Ok(entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect())
}

/// Where a program is attached: a device and a hook of it. Written `7-tc_ingress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Interface index.
    pub device: u32,
    /// Hook.
    pub hook: Hook,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.device, self.hook.name())
    }
}

/// A file name that is not that of a link.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a link")]
pub struct NotAPlace(String);

impl FromStr for Place {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        let wrong = || NotAPlace(text.to_owned());
        let (device, hook) = text.split_once('-').ok_or_else(wrong)?;
        Ok(Self {
            device: device.parse().map_err(|_| wrong())?,
            hook: *Hook::ON_DEVICES
                .iter()
                .find(|known| known.name() == hook)
                .ok_or_else(wrong)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_carry_the_version_of_the_abi() {
        let pins = Pins::new("/sys/fs/bpf/nodeport");
        let version = format!("/sys/fs/bpf/nodeport/v{ABI_VERSION}");
        assert_eq!(pins.map("FLOWS4"), Path::new(&version).join("maps/FLOWS4"));
        let place = Place {
            device: 7,
            hook: Hook::TcIngress,
        };
        assert_eq!(
            pins.link(place),
            Path::new(&version).join("links/7-tc_ingress")
        );
    }

    #[test]
    fn the_name_of_a_link_is_read_back() {
        for &hook in Hook::ON_DEVICES {
            let place = Place { device: 12, hook };
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for wrong in [
            "", "7", "7-", "-xdp", "eth0-xdp", "7-xdp2", "7-xdp-1", "7-socket",
        ] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
