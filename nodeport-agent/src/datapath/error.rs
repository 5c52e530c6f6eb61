//! What can go wrong between the agent and the kernel, each with what to do about it.

use std::io;
use std::path::PathBuf;

use nodeport_common::ABI_VERSION;

use super::kernel::{OLDEST, Version};
use super::pins::Place;

/// An error of the datapath.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The pin directory is not on a BPF file system.
    #[error(
        "{path} is not on a BPF file system: mount one (mount -t bpf bpf /sys/fs/bpf) or name a directory on one with --pin-dir"
    )]
    NoBpfFs {
        /// The pin directory.
        path: PathBuf,
    },
    /// Capabilities are missing.
    #[error(
        "missing privileges ({missing}): run as root, or give the container CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or CAP_SYS_ADMIN)"
    )]
    NoPrivileges {
        /// The missing capabilities.
        missing: String,
    },
    /// The kernel is too old.
    #[error("kernel {found} is too old: nodeport needs {OLDEST} or later")]
    KernelTooOld {
        /// The running one.
        found: Version,
    },
    /// The agent was built without its programs.
    #[error("this agent was built without its BPF programs: build it with `cargo xtask build`")]
    NoObject,
    /// The object does not contain what it must.
    #[error(
        "the BPF object has no {what} named {name}: build agent and programs from one tree (`cargo xtask build`)"
    )]
    ObjectLacks {
        /// "map" or "program".
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The object cannot be parsed.
    #[error("the embedded BPF object cannot be read")]
    Object(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another agent uses the pin directory.
    #[error(
        "another nodeport-agent uses {path}: stop it first, or give this one a directory of its own with --pin-dir"
    )]
    Locked {
        /// The pin directory.
        path: PathBuf,
    },
    /// A file or directory operation failed.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A pinned map has another layout than this agent's programs.
    #[error(
        "pinned map {name} has {field} {found}, but this agent wants {wanted}: {remedy}",
        remedy = if *field == "max_entries" {
            "leave its flag out, or run `nodeport-agent clean` first, which ends live connections through this node".to_owned()
        } else {
            format!("it was made by another build with ABI version {ABI_VERSION}; run `nodeport-agent clean` first, which ends live connections through this node")
        }
    )]
    Layout {
        /// The map.
        name: String,
        /// Which property differs.
        field: &'static str,
        /// What it is.
        found: u32,
        /// What it should be.
        wanted: u32,
    },
    /// A map could not be used.
    #[error("cannot {operation} map {name}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// The map.
        name: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel refused the object or one of its maps.
    #[error("cannot load the BPF object")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The kernel refused a program.
    #[error("cannot load program {name}")]
    Program {
        /// The program.
        name: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A program could not be attached.
    #[error("cannot attach to {device} ({place}): {reason}")]
    Attach {
        /// Name of the device.
        device: String,
        /// Where.
        place: Place,
        /// Why, and what to do.
        reason: String,
    },
    /// A program could not be attached to a cgroup.
    #[error("cannot attach {hook} to the cgroup {path}: {reason}")]
    Cgroup {
        /// The cgroup.
        path: PathBuf,
        /// Which hook of it.
        hook: &'static str,
        /// Why.
        reason: String,
    },
    /// Netlink failed.
    #[error("cannot {operation} over netlink")]
    Netlink {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl DatapathError {
    /// A failed operation on a file, to be used with `map_err`.
    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            operation,
            path,
            source,
        }
    }

    /// A failed operation on a map, to be used with `map_err`.
    pub(crate) fn map<E>(operation: &'static str, name: &str) -> impl FnOnce(E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let name = name.to_owned();
        move |source| Self::Map {
            operation,
            name,
            source: Box::new(source),
        }
    }
}

/// An error with all its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors already print their cause.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
