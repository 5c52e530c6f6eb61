//! Programs on the sockets of a cgroup, by links that outlive the agent.
//!
//! Owns their links and pins, `links/cgroup-<id>-<hook>`. Refuses to know whose sockets deserve it: the programs ask `CONTROL`. Invariants: a
//! link of an earlier agent goes only when the new one is in its place, so that no call is without a program (of two, the second finds
//! nothing left to do); a program that is not ours is never touched; the name of a link says which cgroup it is for.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, Program, ProgramError};
use nodeport_common::programs;

use super::config::{SocketArgs, SocketScope};
use super::error::{DatapathError, chain};
use super::load::Loaded;
use super::pins::{Pins, entries};

/// The programs, each with the name of its hook.
const HOOKS: [(&str, &str); 8] = [
    (programs::CONNECT4, "connect4"),
    (programs::CONNECT6, "connect6"),
    (programs::SENDMSG4, "sendmsg4"),
    (programs::SENDMSG6, "sendmsg6"),
    (programs::RECVMSG4, "recvmsg4"),
    (programs::RECVMSG6, "recvmsg6"),
    (programs::GETPEERNAME4, "getpeername4"),
    (programs::GETPEERNAME6, "getpeername6"),
];

/// The same, of those that keep live NodePorts from processes of the node.
const HOLDING: [(&str, &str); 2] = [
    (programs::POST_BIND4, "post_bind4"),
    (programs::POST_BIND6, "post_bind6"),
];

/// What names of our links to cgroups begin with.
const PREFIX: &str = "cgroup-";

/// Sockets as `status` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct SocketState {
    /// Whose are translated.
    pub scope: SocketScope,
    /// The cgroup that has the programs.
    pub cgroup: Option<PathBuf>,
    /// The hooks that have one.
    pub hooks: Vec<String>,
    /// Why no socket is translated although none was asked to be left out.
    pub warning: Option<String>,
    /// What failed.
    pub error: Option<String>,
}

/// Brings the programs to the cgroup, or takes them away, as the operator wants it.
#[must_use]
pub fn cover_sockets(loaded: &mut Loaded, pins: &Pins, args: &SocketArgs) -> SocketState {
    let mut state = SocketState {
        scope: args.socket_lb,
        ..SocketState::default()
    };
    let hooks = wanted(args);
    let root = match &args.cgroup_root {
        _ if hooks.is_empty() => None,
        Some(given) => Some(given.clone()),
        None => match unified_hierarchy() {
            Ok(found) => Some(found),
            Err(reason) => {
                state.warning = Some(format!(
                    "{reason}: connections of the node's own processes to Services are not translated, those of Pods are by TC; \
                     name a cgroup with --cgroup-root, or silence this with --socket-lb=off"
                ));
                None
            }
        },
    };
    let result = match &root {
        Some(root) => attach(loaded, pins, root, &hooks),
        None => remove_other(pins, &[]),
    };
    match result {
        Ok(()) => {
            if root.is_some() {
                state.hooks = hooks.iter().map(|(_, hook)| (*hook).to_owned()).collect();
            }
            state.cgroup = root;
        }
        Err(error) => state.error = Some(chain(&error)),
    }
    state
}

/// The programs that are asked for.
fn wanted(args: &SocketArgs) -> Vec<(&'static str, &'static str)> {
    let aiming = HOOKS.iter().filter(|_| args.socket_lb != SocketScope::Off);
    let holding = HOLDING.iter().filter(|_| args.hold_node_ports);
    aiming.chain(holding).copied().collect()
}

/// Attaches programs to a cgroup, and then removes other links of ours.
fn attach(
    loaded: &mut Loaded,
    pins: &Pins,
    root: &Path,
    hooks: &[(&'static str, &'static str)],
) -> Result<(), DatapathError> {
    let cgroup = File::open(root).map_err(DatapathError::file("open cgroup", root))?;
    let id = cgroup
        .metadata()
        .map_err(DatapathError::file("inspect cgroup", root))?
        .ino();
    let mut kept = Vec::new();
    for &(name, hook) in hooks {
        let program = (loaded.programs.get_mut(name)).ok_or(DatapathError::ObjectLacks {
            what: "program of sockets",
            name,
        })?;
        let link = link(program, &cgroup).map_err(|error| DatapathError::Cgroup {
            path: root.to_owned(),
            hook,
            reason: chain(&error),
        })?;
        let path = pins.links().join(format!("{PREFIX}{id}-{hook}"));
        replace(link, &path)?;
        kept.push(path);
    }
    remove_other(pins, &kept)
}

/// A new link of a program to a cgroup. Programs of others stay where they are: links to one hook are a list.
fn link(program: &mut Program, cgroup: &File) -> Result<FdLink, ProgramError> {
    let mode = CgroupAttachMode::Single;
    let link = match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(cgroup, mode)?;
            FdLink::try_from(program.take_link(id)?)
        }
        Program::CgroupSock(program) => {
            let id = program.attach(cgroup, mode)?;
            FdLink::try_from(program.take_link(id)?)
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    };
    link.map_err(|_| ProgramError::NotAttached)
}

/// Pins a link in the place of one that may be there.
fn replace(link: FdLink, path: &Path) -> Result<(), DatapathError> {
    let mut new = path.as_os_str().to_owned();
    new.push("-new");
    let new = PathBuf::from(new);
    remove(&new)?;
    link.pin(&new).map_err(|error| DatapathError::File {
        operation: "pin link",
        path: new.clone(),
        source: io::Error::other(error),
    })?;
    fs::rename(&new, path).map_err(DatapathError::file("replace link", path))
}

/// Removes our links to cgroups, but for those of `kept`.
fn remove_other(pins: &Pins, kept: &[PathBuf]) -> Result<(), DatapathError> {
    for path in pinned_sockets(pins)? {
        if !kept.contains(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::file("remove link", path)(error))
        }
        _ => Ok(()),
    }
}

/// The pins of our links to cgroups.
///
/// # Errors
/// [`DatapathError::File`] if the directory of links cannot be read.
pub(super) fn pinned_sockets(pins: &Pins) -> Result<Vec<PathBuf>, DatapathError> {
    let name = |path: &PathBuf| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let mut paths = entries(&pins.links())?;
    paths.retain(|path| name(path).starts_with(PREFIX));
    paths.sort_unstable();
    Ok(paths)
}

/// The hooks of which links are pinned.
///
/// # Errors
/// See `pinned_sockets`.
pub fn pinned_hooks(pins: &Pins) -> Result<Vec<String>, DatapathError> {
    let hook = |path: PathBuf| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        let (_, hook) = name.strip_prefix(PREFIX)?.split_once('-')?;
        (!hook.contains('-')).then(|| hook.to_owned())
    };
    Ok(pinned_sockets(pins)?.into_iter().filter_map(hook).collect())
}

/// Where cgroup v2 is mounted, if that is the hierarchy of this node. An agent in a network namespace that is not that of process 1
/// stands for a node that is a part of a machine only: which processes are that node's cannot be known.
///
/// # Errors
/// The reason why there is none, in words.
fn unified_hierarchy() -> Result<PathBuf, String> {
    let namespace = |path: &str| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    let own = namespace("/proc/self/ns/net");
    if own.is_none() || own != namespace("/proc/1/ns/net") {
        return Err(
            "this agent's network namespace is not that of process 1, so that it is not known which processes are this node's"
                .to_owned(),
        );
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounted_at(&mounts).ok_or_else(|| "cgroup v2 is not mounted".to_owned())
}

/// The first mount of cgroup v2 in the form of `/proc/self/mounts`.
fn mounted_at(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_among_others() {
        let mounts = "proc /proc proc rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(
            mounted_at(mounts),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(mounted_at("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn ports_can_be_held_without_aiming_sockets() {
        let args = |socket_lb, hold_node_ports| SocketArgs {
            socket_lb,
            hold_node_ports,
            ..SocketArgs::default()
        };
        assert!(wanted(&args(SocketScope::Off, false)).is_empty());
        assert_eq!(wanted(&args(SocketScope::Off, true)), HOLDING);
        assert_eq!(wanted(&args(SocketScope::Host, false)), HOOKS);
        assert_eq!(wanted(&args(SocketScope::All, true)).len(), 10);
    }

    #[test]
    fn links_of_sockets_are_told_from_those_of_devices() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let pins = Pins::new(place.path());
        assert_eq!(pinned_sockets(&pins).expect("no directory yet").len(), 0);
        fs::create_dir_all(pins.links()).expect("directory");
        for name in [
            "7-xdp",
            "cgroup-42-connect4",
            "cgroup-42-connect6-new",
            "cgroup-9-recvmsg6",
        ] {
            fs::write(pins.links().join(name), "").expect("file");
        }
        assert_eq!(
            pinned_hooks(&pins).expect("readable"),
            ["connect4", "recvmsg6"]
        );
        let kept = [pins.links().join("cgroup-42-connect4")];
        remove_other(&pins, &kept).expect("removed");
        assert_eq!(pinned_sockets(&pins).expect("readable"), kept);
        assert!(pins.links().join("7-xdp").exists());
    }
}
