//! Attaches programs to devices by links that outlive the agent, and takes over the links of its predecessor.
//!
//! Owns links and their pins. Refuses to know which device deserves a program. Invariants: a link that is taken over gets the
//! new program by one atomic update, so no packet passes without one; a program that is not ours is never touched; dropping
//! anything here detaches nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use nodeport_common::{Hook, programs};

use super::clsact;
use super::config::{TcApi, XdpPolicy};
use super::error::{DatapathError, chain};
use super::load::{Loaded, classifier, xdp};
use super::pins::{Pins, Place};

/// How often and after which pause a busy XDP hook is tried again.
const BUSY_ATTEMPTS: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

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
        let program = xdp(&mut loaded.ebpf, programs::XDP)?;
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
            Hook::TcIngress | Hook::Xdp => (programs::TC_INGRESS, TcAttachType::Ingress),
        };
        let program = classifier(&mut loaded.ebpf, name)?;
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
    let directory = pins.links();
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(DatapathError::file("read directory", directory)(error)),
    };
    let mut places: Vec<Place> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    places.sort_unstable();
    Ok(places)
}

/// A pinned link and the id of its program; `None` if nothing usable is pinned there.
fn open(path: &Path) -> Option<(FdLink, u32)> {
    let link = match PinnedLink::from_pin(path) {
        Ok(link) => FdLink::from(link),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            return None;
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a pinned link cannot be opened and is replaced");
            return None;
        }
    };
    let program = link.info().ok()?.program_id();
    Some((link, program))
}

/// What came of taking over a link.
enum Adoption {
    /// It runs the new program.
    Done(Attached),
    /// There is none of this device.
    Nothing,
    /// There is one of this device, but in a mode that is not wanted, or dead.
    Unfit,
}

/// Gives the link that is pinned at `path` the new program, if it is one of this very device: interface indexes repeat in other
/// network namespaces and after a reboot.
fn adopt_xdp(program: &mut Xdp, path: &Path, target: Target<'_>, modes: &[Mode]) -> Adoption {
    let Some((link, old)) = open(path) else {
        return Adoption::Nothing;
    };
    let mode = if target.xdp.native == Some(old) {
        Mode::Native
    } else if target.xdp.generic == Some(old) {
        Mode::Generic
    } else {
        return Adoption::Nothing;
    };
    let Some(link) = XdpLink::try_from(link)
        .ok()
        .filter(|_| modes.contains(&mode))
    else {
        return Adoption::Unfit;
    };
    let updated = program
        .attach_to_link(link)
        .and_then(|id| program.take_link(id));
    adopted(updated.map(FdLink::try_from), path, target, mode)
}

/// As [`adopt_xdp`], for a TCX link.
fn adopt_tcx(
    program: &mut SchedClassifier,
    path: &Path,
    target: Target<'_>,
    direction: TcAttachType,
) -> Adoption {
    let Some((link, old)) = open(path) else {
        return Adoption::Nothing;
    };
    let ours = SchedClassifier::query_tcx(target.name, direction)
        .is_ok_and(|(_, programs)| programs.iter().any(|info| info.id() == old));
    let Some(link) = SchedClassifierLink::try_from(link).ok().filter(|_| ours) else {
        return Adoption::Nothing;
    };
    let updated = program
        .attach_to_link(link)
        .and_then(|id| program.take_link(id));
    adopted(updated.map(FdLink::try_from), path, target, Mode::Tcx)
}

/// The end of a take-over. The descriptor of the link may close: its pin holds it.
fn adopted<T>(
    updated: Result<T, ProgramError>,
    path: &Path,
    target: Target<'_>,
    mode: Mode,
) -> Adoption {
    match updated {
        Ok(_link) => Adoption::Done(Attached {
            mode,
            since: pinned_since(path),
            taken_over: true,
        }),
        Err(error) => {
            tracing::info!(device = target.name, error = %chain(&error), "the old link is dead and is replaced");
            Adoption::Unfit
        }
    }
}

/// A new XDP link, or the reason why there is none.
fn new_xdp(program: &mut Xdp, target: Target<'_>, mode: Mode) -> Result<FdLink, String> {
    if let Some(other) = target.xdp.native.or(target.xdp.generic) {
        return Err(foreign(Some(other)));
    }
    let flags = match mode {
        Mode::Native => XdpMode::Driver,
        _ => XdpMode::Skb,
    };
    let mut attempts = 0;
    let id = loop {
        match program.attach_to_if_index(target.index, flags) {
            Ok(id) => break id,
            // The kernel lets go of an unpinned link a moment after its pin is gone.
            Err(error) if is_busy(&error) && attempts < BUSY_ATTEMPTS => {
                attempts += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            Err(error) => return Err(xdp_reason(&error, mode)),
        }
    };
    let link = program.take_link(id).map_err(|error| chain(&error))?;
    FdLink::try_from(link).map_err(|error| chain(&error))
}

/// The error number behind a refusal.
fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// Whether the hook is taken.
fn is_busy(error: &ProgramError) -> bool {
    matches!(errno(error), Some(libc::EBUSY | libc::EEXIST))
}

/// Why the kernel refused an XDP program, in words.
fn xdp_reason(error: &ProgramError, mode: Mode) -> String {
    match errno(error) {
        _ if is_busy(error) => foreign(None),
        Some(libc::EOPNOTSUPP) if mode == Mode::Native => {
            "the driver has no native XDP (use --xdp=generic or auto)".to_owned()
        }
        _ => chain(error),
    }
}

/// The message for a device that carries somebody else's XDP program (edge-cases F12).
fn foreign(id: Option<u32>) -> String {
    let which = id.map_or_else(String::new, |id| format!(" (id {id})"));
    format!(
        "another XDP program{which} is attached and is left alone; TC carries this device's traffic. \
         Detach it, or use --xdp=off to silence this"
    )
}

/// A new TCX link. First in its list: a program before ours that ends the list would hide packets from us, while ours lets
/// every packet that it does not translate go on to the next one.
fn new_tcx(
    program: &mut SchedClassifier,
    target: Target<'_>,
    direction: TcAttachType,
) -> Result<FdLink, ProgramError> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(target.name, direction, options)?;
    let link = program.take_link(id)?;
    FdLink::try_from(link).map_err(|_| ProgramError::NotAttached)
}

/// Pins a new link: from here on the program stays attached without us.
fn pin(link: FdLink, path: PathBuf, mode: Mode) -> Result<Attached, DatapathError> {
    link.pin(&path).map_err(|error| DatapathError::File {
        operation: "pin link",
        path,
        source: io::Error::other(error),
    })?;
    Ok(Attached {
        mode,
        since: SystemTime::now(),
        taken_over: false,
    })
}

/// When a link was pinned.
fn pinned_since(path: &Path) -> SystemTime {
    fs::metadata(path)
        .and_then(|meta| meta.modified())
        .unwrap_or_else(|_| SystemTime::now())
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

    #[test]
    fn a_foreign_program_is_named_and_left_alone() {
        let text = foreign(Some(17));
        assert!(
            text.contains("(id 17)") && text.contains("left alone"),
            "{text}"
        );
    }
}
