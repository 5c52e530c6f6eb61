//! Attaches programs to devices by links that outlive the agent, and takes over the links of its predecessor.
//!
//! Owns links and their pins. Refuses to know which device deserves a program. Invariants: a link that is taken over gets the
//! new program by one atomic update, so no packet passes without one; a program that is not ours is never touched; dropping
//! anything here detaches nothing.

use std::fs;
use std::io;
use std::time::SystemTime;

use aya::programs::{ProgramError, TcAttachType};
use nodeport_common::{Hook, programs};

use super::clsact;
use super::config::{TcApi, XdpPolicy};
use super::error::{DatapathError, chain};
use super::links::{Adoption, adopt_tcx, adopt_xdp, new_tcx, new_xdp, pin};
use super::load::{Loaded, classifier, xdp};
use super::pins::{Pins, Place, entries};

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// XDP in the driver.
    Native,
    /// XDP in the stack, for drivers without it.
    Generic,
    /// A TCX link.
    Tcx,
    /// A filter of a clsact qdisc.
    Clsact,
}

/// An attached program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// How.
    pub mode: Mode,
    /// Since when; a link that was taken over counts from its first day.
    pub since: SystemTime,
    /// Whether the link was there before.
    pub taken_over: bool,
}

/// What netlink says of the XDP program of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpState {
    /// Id of the program in the driver.
    pub native: Option<u32>,
    /// Id of the program in the stack.
    pub generic: Option<u32>,
}

/// A device to attach to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: &'a str,
    /// Its XDP program as netlink last said.
    pub xdp: XdpState,
}

/// Attaches the programs of one loaded object.
#[derive(Clone, Debug)]
pub struct Attacher {
    pins: Pins,
    tc: TcApi,
}

impl Attacher {
    /// An attacher with links pinned in `pins`.
    #[must_use]
    pub fn new(pins: Pins, tc: TcApi) -> Self {
        Self { pins, tc }
    }

    /// Attaches the XDP program, or takes over the link that is there. `None` if policy says off.
    ///
    /// # Errors
    /// [`DatapathError::Attach`] with the reason, also where a program that is not ours is on the device.
    pub fn attach_xdp(
        &self,
        loaded: &mut Loaded,
        target: Target<'_>,
        policy: XdpPolicy,
    ) -> Result<Option<Attached>, DatapathError> {
        let place = Place {
            device: target.index,
            hook: Hook::Xdp,
        };
        let program = xdp(&mut loaded.programs, programs::XDP)?;
        let modes: &[Mode] = match policy {
            XdpPolicy::Off => {
                self.detach(place)?;
                return Ok(None);
            }
            XdpPolicy::Auto => &[Mode::Native, Mode::Generic],
            XdpPolicy::Native => &[Mode::Native],
            XdpPolicy::Generic => &[Mode::Generic],
        };
        let path = self.pins.link(place);
        let mut target = target;
        match adopt_xdp(program, &path, target, modes) {
            Adoption::Done(attached) => return Ok(Some(attached)),
            // Our own program in another mode: on its way out, not somebody else's.
            Adoption::Unfit => target.xdp = XdpState::default(),
            Adoption::Nothing => {}
        }
        self.detach(place)?;
        let mut reasons = Vec::new();
        for &mode in modes {
            match new_xdp(program, target, mode) {
                Ok(link) => {
                    for reason in reasons {
                        tracing::warn!(device = target.name, %reason, "generic XDP instead of native");
                    }
                    return pin(link, path, mode).map(Some);
                }
                Err(reason) => reasons.push(reason),
            }
        }
        Err(DatapathError::Attach {
            device: target.name.to_owned(),
            place,
            reason: {
                reasons.dedup();
                reasons.join("; ")
            },
        })
    }

    /// Attaches a TC program, or takes over the link that is there.
    ///
    /// # Errors
    /// [`DatapathError::Attach`] with the reason.
    pub fn attach_tc(
        &self,
        loaded: &mut Loaded,
        target: Target<'_>,
        hook: Hook,
    ) -> Result<Attached, DatapathError> {
        let place = Place {
            device: target.index,
            hook,
        };
        let (name, direction) = match hook {
            Hook::TcEgress => (programs::TC_EGRESS, TcAttachType::Egress),
            Hook::TcIngress | Hook::Xdp | Hook::Socket => {
                (programs::TC_INGRESS, TcAttachType::Ingress)
            }
        };
        let program = classifier(&mut loaded.programs, name)?;
        let failed = |error: ProgramError| DatapathError::Attach {
            device: target.name.to_owned(),
            place,
            reason: chain(&error),
        };
        if self.tc == TcApi::Clsact {
            return clsact::attach(program, target.name, direction).map_err(failed);
        }
        let path = self.pins.link(place);
        if let Adoption::Done(attached) = adopt_tcx(program, &path, target, direction) {
            return Ok(attached);
        }
        self.detach(place)?;
        let link = new_tcx(program, target, direction).map_err(failed)?;
        pin(link, path, Mode::Tcx)
    }

    /// Detaches what is pinned for a place. Nothing pinned is fine, and so is a device that is gone.
    ///
    /// # Errors
    /// [`DatapathError::File`] if the pin cannot be removed.
    pub fn detach(&self, place: Place) -> Result<(), DatapathError> {
        let path = self.pins.link(place);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(DatapathError::file("remove link", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The places for which a link is pinned.
    ///
    /// # Errors
    /// [`DatapathError::File`] if the directory of links cannot be read.
    pub fn pinned(&self) -> Result<Vec<Place>, DatapathError> {
        pinned_places(&self.pins)
    }
}

/// The places for which a link is pinned. Files with other names are not ours.
///
/// # Errors
/// [`DatapathError::File`] if the directory of links cannot be read.
pub fn pinned_places(pins: &Pins) -> Result<Vec<Place>, DatapathError> {
    let mut places: Vec<Place> = entries(&pins.links())?
        .iter()
        .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
        .collect();
    places.sort_unstable();
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_by_their_names_and_other_files_are_left_alone() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let pins = Pins::new(place.path());
        assert_eq!(pinned_places(&pins).expect("no directory yet"), []);
        fs::create_dir_all(pins.links()).expect("directory");
        for name in ["9-tc_egress", "2-xdp", "README", "3-cgroup"] {
            fs::write(pins.links().join(name), "").expect("file");
        }
        let found = pinned_places(&pins).expect("readable");
        assert_eq!(
            found,
            [
                Place {
                    device: 2,
                    hook: Hook::Xdp
                },
                Place {
                    device: 9,
                    hook: Hook::TcEgress
                }
            ]
        );
        let attacher = Attacher::new(pins.clone(), TcApi::Tcx);
        attacher.detach(found[0]).expect("removed");
        attacher.detach(found[0]).expect("twice is fine");
        assert_eq!(pinned_places(&pins).expect("readable"), found[1..]);
    }
}
