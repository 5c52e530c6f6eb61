//! Removes everything that an agent put into the kernel: attached programs, links, maps.
//!
//! Owns the way back. Refuses to touch what is not ours. Invariant: programs go first, so that none runs without its maps'
//! contents being meant; and it is safe to be repeated.

use std::fs;
use std::io;
use std::path::Path;

use aya::programs::TcAttachType;
use nodeport_common::programs;

use super::attach::pinned_places;
use super::clsact;
use super::error::DatapathError;
use super::handover;
use super::lock::Lock;
use super::pins::{Pins, entries};
use super::preflight;
use super::sockets::pinned_sockets;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Links, and filters of clsact qdiscs.
    pub programs: usize,
    /// Maps.
    pub maps: usize,
}

/// Removes everything under `pin_dir`, and our filters from the devices with these names. Takes the lock: a running agent is not
/// pulled the rug from under.
///
/// # Errors
/// [`DatapathError::Locked`] if an agent runs; [`DatapathError::File`] if something cannot be removed.
pub fn clean(pin_dir: &Path, devices: &[String]) -> Result<Removed, DatapathError> {
    preflight::check_clean(pin_dir)?;
    if !pin_dir.exists() {
        return Ok(Removed::default());
    }
    let _lock = Lock::take(pin_dir)?;
    let pins = Pins::new(pin_dir);
    let mut removed = Removed::default();
    for place in pinned_places(&pins)? {
        removed.programs += usize::from(remove_file(&pins.link(place))?);
    }
    for path in pinned_sockets(&pins)? {
        removed.programs += usize::from(remove_file(&path)?);
    }
    for device in devices {
        for (direction, name) in [
            (TcAttachType::Ingress, programs::TC_INGRESS),
            (TcAttachType::Egress, programs::TC_EGRESS),
        ] {
            removed.programs += usize::from(clsact::detach(device, direction, name));
        }
    }
    for &name in super::layout::PINNED {
        removed.maps += usize::from(remove_file(&pins.map(name))?);
    }
    handover::remove(&pins.programs())?;
    for directory in [pins.links(), pins.maps(), pins.version()] {
        remove_directory(&directory)?;
    }
    for version in handover::others(pins.root())? {
        removed.programs += entries(&version.join("links"))?.len();
        removed.maps += entries(&version.join("maps"))?.len();
        handover::remove(&version)?;
    }
    // Somebody else may have put something beside ours.
    if let Err(error) = remove_directory(pins.root()) {
        tracing::info!(error = %super::chain(&error), "the pin directory stays");
    }
    Ok(removed)
}

/// Whether there was such a file.
fn remove_file(path: &Path) -> Result<bool, DatapathError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(DatapathError::file("remove", path)(error)),
    }
}

fn remove_directory(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::file("remove directory", path)(error))
        }
        _ => Ok(()),
    }
}
