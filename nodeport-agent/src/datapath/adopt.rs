//! Programs that an earlier agent left pinned: taken as they are if loading them again would give the same.
//!
//! The verifier takes a second and a half of a start, and packets wait for nothing meanwhile, but changes of Services do. Owns the pins of
//! programs, `programs/<fingerprint>/<name>`. Refuses to know what programs do. Invariant: a program is taken only if it is of this very
//! object with this very level of its log, and if it uses the very maps that are pinned.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::programs::{CgroupSock, CgroupSockAddr, Program, ProgramError, SchedClassifier, Xdp};
use aya_obj::ProgramSection;

use super::config::DatapathLog;
use super::error::{DatapathError, chain};
use super::handover;
use super::layout::PINNED;
use super::load::Programs;
use super::pins::Pins;

/// Programs by name.
pub(super) type Pinned = BTreeMap<String, Program>;

/// The programs of `object`, if an earlier agent left all of them. With log lines there are none to take: their buffer is not pinned.
pub(super) fn adopt(object: &[u8], pins: &Pins, log: DatapathLog) -> Option<Pinned> {
    if log != DatapathLog::Off {
        return None;
    }
    let directory = directory(object, pins);
    if !directory.exists() {
        return None;
    }
    match open_all(object, pins, &directory) {
        Ok(programs) => Some(programs),
        Err(reason) => {
            tracing::info!(%reason, "the programs of an earlier agent cannot be taken as they are");
            None
        }
    }
}

/// Pins the programs of `object`, in the place of all others, for the next agent. That it starts more slowly without is no fault.
pub(super) fn leave(object: &[u8], pins: &Pins, log: DatapathLog, programs: &mut Programs) {
    let left = handover::remove(&pins.programs()).and_then(|()| {
        let Programs::New(ebpf) = programs else {
            return Ok(());
        };
        if log != DatapathLog::Off {
            return Ok(());
        }
        let directory = directory(object, pins);
        fs::create_dir_all(&directory)
            .map_err(DatapathError::file("create directory", &directory))?;
        for (name, program) in ebpf.programs_mut() {
            let path = directory.join(name);
            let pinned = program.pin(&path).map_err(io::Error::other);
            pinned.map_err(DatapathError::file("pin program", &path))?;
        }
        Ok(())
    });
    if let Err(error) = left {
        tracing::warn!(error = %chain(&error), "the next start takes longer");
    }
}

/// Where the programs of an object are pinned: another object has another place.
fn directory(object: &[u8], pins: &Pins) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    object.hash(&mut hasher);
    pins.programs().join(format!("{:016x}", hasher.finish()))
}

/// All programs of the object; the reason why not, in words.
fn open_all(object: &[u8], pins: &Pins, directory: &Path) -> Result<Pinned, String> {
    let parsed = aya_obj::Object::parse(object).map_err(|error| chain(&error))?;
    let mut programs = Pinned::new();
    let mut used = BTreeSet::new();
    for (name, wanted) in &parsed.programs {
        let path = directory.join(name);
        let failed = |error: ProgramError| format!("{name}: {}", chain(&error));
        let program = open(&path, &wanted.section).map_err(failed)?;
        let info = program.info().map_err(failed)?;
        used.extend(info.map_ids().map_err(failed)?.unwrap_or_default());
        programs.insert(name.clone(), program);
    }
    for name in PINNED {
        let map = MapData::from_pin(pins.map(name)).and_then(|map| map.info());
        let id = map
            .map_err(|error| format!("{name}: {}", chain(&error)))?
            .id();
        if !used.contains(&id) {
            return Err(format!("{name}: they use another map of this name"));
        }
    }
    Ok(programs)
}

fn open(path: &Path, section: &ProgramSection) -> Result<Program, ProgramError> {
    Ok(match section {
        ProgramSection::Xdp { attach_type, .. } => Program::Xdp(Xdp::from_pin(path, *attach_type)?),
        ProgramSection::SchedClassifier => {
            Program::SchedClassifier(SchedClassifier::from_pin(path)?)
        }
        ProgramSection::CgroupSockAddr { attach_type } => {
            Program::CgroupSockAddr(CgroupSockAddr::from_pin(path, *attach_type)?)
        }
        ProgramSection::CgroupSock { attach_type } => {
            Program::CgroupSock(CgroupSock::from_pin(path, *attach_type)?)
        }
        _ => return Err(ProgramError::NotLoaded),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_object_has_another_place() {
        let pins = Pins::new("/sys/fs/bpf/nodeport");
        let one = directory(b"one", &pins);
        assert_eq!(one, directory(b"one", &pins));
        assert_ne!(one, directory(b"two", &pins));
        assert!(one.starts_with(pins.programs()));
    }

    #[test]
    fn what_is_not_there_is_not_taken_and_not_missed() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let pins = Pins::new(place.path());
        assert!(adopt(b"one", &pins, DatapathLog::Off).is_none());
        handover::remove(&pins.programs()).expect("nothing to remove");
        let directory = directory(b"one", &pins);
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("nodeport_xdp"), "no program").expect("a file");
        assert!(adopt(b"one", &pins, DatapathLog::Off).is_none());
        handover::remove(&pins.programs()).expect("removed");
        assert!(!pins.programs().exists());
    }
}
