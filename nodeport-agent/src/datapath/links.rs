//! BPF links: new ones, and those that an earlier agent left pinned.
//!
//! Owns the calls that make, update and pin them, and the words for what the kernel refuses. Refuses to know which modes are tried in
//! which order. Invariant: a link is updated in place, so no packet passes without a program; a program that is not ours is never
//! touched.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};

use super::attach::{Attached, Mode, Target};
use super::error::{DatapathError, chain};
use super::query::tcx_programs;

/// How often and after which pause a busy XDP hook is tried again.
const BUSY_ATTEMPTS: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

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
pub(super) enum Adoption {
    /// It runs the new program.
    Done(Attached),
    /// There is none of this device.
    Nothing,
    /// There is one of this device, but in a mode that is not wanted, or dead.
    Unfit,
}

/// Gives the link that is pinned at `path` the new program, if it is one of this very device: interface indexes repeat in other
/// network namespaces and after a reboot.
pub(super) fn adopt_xdp(
    program: &mut Xdp,
    path: &Path,
    target: Target<'_>,
    modes: &[Mode],
) -> Adoption {
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
pub(super) fn adopt_tcx(
    program: &mut SchedClassifier,
    path: &Path,
    target: Target<'_>,
    direction: TcAttachType,
) -> Adoption {
    let Some((link, old)) = open(path) else {
        return Adoption::Nothing;
    };
    let ours = tcx_programs(target.index, direction).is_ok_and(|programs| programs.contains(&old));
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
pub(super) fn new_xdp(program: &mut Xdp, target: Target<'_>, mode: Mode) -> Result<FdLink, String> {
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
pub(super) fn new_tcx(
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
pub(super) fn pin(link: FdLink, path: PathBuf, mode: Mode) -> Result<Attached, DatapathError> {
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
    fn a_foreign_program_is_named_and_left_alone() {
        let text = foreign(Some(17));
        assert!(
            text.contains("(id 17)") && text.contains("left alone"),
            "{text}"
        );
    }
}
