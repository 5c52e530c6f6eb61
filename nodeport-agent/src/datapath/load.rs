//! Brings the object into the kernel, its maps pinned, its programs verified but not attached.
//!
//! Owns the order: check what is pinned, then create what is missing, then load the programs, unless they are there. Refuses to know devices.
//! Invariant: when it fails, no program was attached or replaced, so that what ran before goes on.

use std::fs;
use std::panic::resume_unwind;
use std::thread;

use aya::programs::{Program, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use nodeport_common::programs;

use super::adopt;
use super::config::{Config, DatapathLog};
use super::error::DatapathError;
use super::handover;
use super::layout;
use super::pins::Pins;

/// The loaded object: its programs are in the kernel, its maps pinned.
#[derive(Debug)]
pub struct Loaded {
    pub(super) programs: Programs,
}

/// Where the programs come from.
#[derive(Debug)]
pub(super) enum Programs {
    /// The verifier has just seen them.
    New(Box<Ebpf>),
    /// An earlier agent left them.
    Adopted(adopt::Pinned),
}

impl Programs {
    /// A program by its name.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Program> {
        match self {
            Self::New(ebpf) => ebpf.program_mut(name),
            Self::Adopted(programs) => programs.get_mut(name),
        }
    }
}

impl Loaded {
    /// Whether the programs are those of an earlier agent.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        matches!(self.programs, Programs::Adopted(_))
    }
}

/// Loads `object`, unless an earlier agent left the same.
///
/// # Errors
/// A pinned map of another layout, or whatever the kernel refused; see [`DatapathError`].
pub fn load(object: &[u8], pins: &Pins, config: &Config) -> Result<Loaded, DatapathError> {
    let wanted = layout::wanted(object, &config.sizes)?;
    layout::check_pinned(pins, &wanted)?;
    for directory in [pins.maps(), pins.links()] {
        fs::create_dir_all(&directory)
            .map_err(DatapathError::file("create directory", &directory))?;
    }
    if let Some(programs) = adopt::adopt(object, pins, config.log) {
        tracing::info!("the programs of the earlier agent are the same and stay");
        let programs = Programs::Adopted(programs);
        return Ok(Loaded { programs });
    }
    let log_level = level(config.log);
    let mut loader = EbpfLoader::new();
    for &name in layout::PINNED {
        loader.map_pin_path(name, pins.map(name));
    }
    for (name, entries) in layout::overrides(config.sizes) {
        loader.map_max_entries(name, entries);
    }
    // The object has this variable only if it was built with log lines.
    loader.override_global(aya_log::LEVEL, &log_level, false);
    let ebpf = loader.load(object).map_err(load_error)?;
    let mut programs = Programs::New(Box::new(ebpf));
    verify(&mut programs)?;
    let links = handover::take_over(pins)?;
    if links > 0 {
        tracing::warn!(
            links,
            "the maps of the earlier agent have another layout: its connections end, and Services answer once they are known"
        );
    }
    adopt::leave(object, pins, config.log, &mut programs);
    Ok(Loaded { programs })
}

/// Loads all programs at once: the kernel's verifier takes most of a start, and one core for each program.
fn verify(programs: &mut Programs) -> Result<(), DatapathError> {
    for name in [programs::XDP, programs::CLOCK] {
        xdp(programs, name)?;
    }
    for name in [programs::TC_INGRESS, programs::TC_EGRESS] {
        classifier(programs, name)?;
    }
    let Programs::New(ebpf) = programs else {
        return Ok(());
    };
    thread::scope(|scope| {
        let loading: Vec<_> = ebpf
            .programs_mut()
            .map(|(name, program)| {
                let name = name.to_owned();
                scope.spawn(move || {
                    let loaded = match program {
                        Program::Xdp(program) => program.load(),
                        Program::SchedClassifier(program) => program.load(),
                        Program::CgroupSockAddr(program) => program.load(),
                        Program::CgroupSock(program) => program.load(),
                        // Not ours to use, hence not to load either.
                        _ => Ok(()),
                    };
                    loaded.map_err(|error| DatapathError::Program {
                        name,
                        source: Box::new(error),
                    })
                })
            })
            .collect();
        loading.into_iter().try_for_each(|one| match one.join() {
            Ok(loaded) => loaded,
            Err(panic) => resume_unwind(panic),
        })
    })
}

/// An XDP program of the object.
pub(super) fn xdp<'a>(
    programs: &'a mut Programs,
    name: &'static str,
) -> Result<&'a mut Xdp, DatapathError> {
    let what = "XDP program";
    let program = programs.get_mut(name).and_then(as_xdp);
    program.ok_or(DatapathError::ObjectLacks { what, name })
}

/// A TC program of the object.
pub(super) fn classifier<'a>(
    programs: &'a mut Programs,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let what = "TC program";
    let program = programs.get_mut(name).and_then(as_classifier);
    program.ok_or(DatapathError::ObjectLacks { what, name })
}

fn as_xdp(program: &mut Program) -> Option<&mut Xdp> {
    match program {
        Program::Xdp(program) => Some(program),
        _ => None,
    }
}

fn as_classifier(program: &mut Program) -> Option<&mut SchedClassifier> {
    match program {
        Program::SchedClassifier(program) => Some(program),
        _ => None,
    }
}

fn load_error(error: EbpfError) -> DatapathError {
    DatapathError::Load(Box::new(error))
}

/// `aya_log_common::Level` as the programs compare it; 0 is below all.
fn level(log: DatapathLog) -> u8 {
    match log {
        DatapathLog::Off => 0,
        DatapathLog::Error => aya_log::Level::Error as u8,
        DatapathLog::Warn => aya_log::Level::Warn as u8,
        DatapathLog::Info => aya_log::Level::Info as u8,
        DatapathLog::Debug => aya_log::Level::Debug as u8,
        DatapathLog::Trace => aya_log::Level::Trace as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered_as_the_programs_compare_them() {
        let levels = [
            DatapathLog::Off,
            DatapathLog::Error,
            DatapathLog::Warn,
            DatapathLog::Info,
            DatapathLog::Debug,
            DatapathLog::Trace,
        ]
        .map(level);
        assert_eq!(levels, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_is_no_object_is_refused_by_name() {
        let config = Config {
            pin_dir: "/nowhere".into(),
            xdp: super::super::XdpPolicy::Off,
            tc: None,
            sizes: super::super::Sizes::default(),
            redirect_local: false,
            sockets: super::super::SocketArgs::default(),
            node_ports: super::super::ports::PortRange {
                first: 30000,
                last: 32767,
            },
            log: DatapathLog::Off,
        };
        let error = load(b"not an object", &Pins::new("/nowhere"), &config);
        assert!(matches!(error, Err(DatapathError::Object(_))));
    }
}
