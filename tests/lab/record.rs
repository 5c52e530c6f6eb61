//! What a lab has made, written down before it is made, and undoing it after a crash.
//!
//! `/run/nodeport-lab/<lab id>/` has the files `owner`, `netns`, `pids`, `pins` and `cgroups`, one thing a line.
//! Invariant: only what is recorded is removed, and a process only if it started when the record says so.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::netns::ip_batch;

/// Where labs are recorded.
pub const RUN_DIR: &str = "/run/nodeport-lab";

/// The record of one lab.
#[derive(Debug)]
pub struct Record {
    dir: PathBuf,
    lock: Mutex<()>,
}

/// What [`clean_all`] removed and what it left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Ids of the labs that were removed.
    pub labs: Vec<String>,
    /// Ids of the labs that are in use: their owner runs.
    pub in_use: Vec<String>,
    /// Processes killed.
    pub processes: usize,
    /// Network namespaces removed.
    pub namespaces: usize,
    /// Pin directories removed.
    pub pins: usize,
    /// Cgroups removed.
    pub cgroups: usize,
}

impl Record {
    /// Begins the record of a lab owned by this process.
    ///
    /// # Errors
    /// If the directory cannot be made (not root).
    pub fn create(id: &str) -> Result<Self> {
        let dir = Path::new(RUN_DIR).join(id);
        fs::create_dir_all(&dir)
            .with_context(|| format!("make {} (the lab needs root)", dir.display()))?;
        let record = Self {
            dir,
            lock: Mutex::new(()),
        };
        record.pid_line("owner", std::process::id())?;
        Ok(record)
    }

    /// The lab's run directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Records namespaces that will be made.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn netns(&self, names: &[String]) -> Result<()> {
        self.append("netns", &names.join("\n"))
    }

    /// Records a process that was just started.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn process(&self, pid: u32) -> Result<()> {
        self.pid_line("pids", pid)
    }

    /// Records a pin directory that an agent will make.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn pins(&self, dir: &Path) -> Result<()> {
        self.append("pins", &dir.to_string_lossy())
    }

    /// Records a cgroup that will be made.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn cgroup(&self, dir: &Path) -> Result<()> {
        self.append("cgroups", &dir.to_string_lossy())
    }

    fn pid_line(&self, file: &str, pid: u32) -> Result<()> {
        // A process that is gone already needs no record.
        start_time(pid).map_or(Ok(()), |start| self.append(file, &format!("{pid} {start}")))
    }

    fn append(&self, file: &str, line: &str) -> Result<()> {
        let _guard = self
            .lock
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let path = self.dir.join(file);
        let mut out = OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(out, "{line}").with_context(|| format!("write {}", path.display()))
    }
}

/// Removes every recorded lab whose owner does not run any more.
///
/// # Errors
/// If something that is recorded cannot be removed; the others are tried first.
pub fn clean_all() -> Result<Cleaned> {
    let mut cleaned = Cleaned::default();
    let mut first_error = None;
    let Ok(labs) = fs::read_dir(RUN_DIR) else {
        return Ok(cleaned);
    };
    for lab in labs.flatten().map(|e| e.path()).filter(|p| p.is_dir()) {
        let id = lab
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if lines(&lab, "owner")
            .iter()
            .any(|owner| running(owner).is_some())
        {
            cleaned.in_use.push(id);
            continue;
        }
        match undo(&lab, &mut cleaned) {
            Ok(()) => cleaned.labs.push(id),
            Err(error) => {
                first_error = first_error.or(Some(error.context(format!("remove lab {id}"))));
            }
        }
    }
    first_error.map_or(Ok(cleaned), Err)
}

/// Undoes one record and removes its directory.
pub(crate) fn undo(dir: &Path, cleaned: &mut Cleaned) -> Result<()> {
    for pid in lines(dir, "pids").iter().filter_map(|line| running(line)) {
        // It may end between the check and the signal.
        cleaned.processes += usize::from(kill_process(pid, Signal::KILL).is_ok());
    }
    let pins: Vec<_> = lines(dir, "pins")
        .into_iter()
        .map(PathBuf::from)
        .filter(|p| p.exists())
        .collect();
    for pin in &pins {
        fs::remove_dir_all(pin).with_context(|| format!("remove {}", pin.display()))?;
        cleaned.pins += 1;
    }
    let names: Vec<_> = lines(dir, "netns")
        .into_iter()
        .filter(|name| Path::new("/run/netns").join(name).exists())
        .collect();
    ip_batch(
        &names
            .iter()
            .map(|name| format!("netns delete {name}"))
            .collect::<Vec<_>>(),
    )?;
    cleaned.namespaces += names.len();
    // The deepest first: a cgroup with children cannot be removed.
    for cgroup in lines(dir, "cgroups")
        .iter()
        .rev()
        .map(Path::new)
        .filter(|p| p.exists())
    {
        remove_cgroup(cgroup)?;
        cleaned.cgroups += 1;
    }
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

/// Ends what still runs in a cgroup that the lab made, and removes it with those that a node's kubelet made below it.
///
/// It is busy until the killed processes are reaped, which takes a moment.
fn remove_cgroup(dir: &Path) -> Result<()> {
    // Children of programs that were killed are in no record, but in the cgroup (cgroup-v2.rst, "cgroup.kill").
    let _ = fs::write(dir.join("cgroup.kill"), "1");
    let mut result = remove_below(dir);
    for _ in 0..100 {
        if result.is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        result = remove_below(dir);
    }
    result.with_context(|| format!("remove cgroup {}", dir.display()))
}

/// A cgroup's files go with it and cannot be removed.
fn remove_below(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

fn lines(dir: &Path, file: &str) -> Vec<String> {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    text.lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The process of a line `pid starttime`, if it still runs.
fn running(line: &str) -> Option<Pid> {
    let (pid, start) = line.split_once(' ')?;
    let pid: u32 = pid.parse().ok()?;
    (start_time(pid)? == start.parse::<u64>().ok()?).then_some(())?;
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// When a process started, in clock ticks since boot: together with the pid it names the process for good.
/// `None` if there is none, or only its corpse.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks and parentheses: count fields behind the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (state != "Z").then_some(())?;
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let me = std::process::id();
        let start = start_time(me).expect("this process runs");
        assert!(running(&format!("{me} {start}")).is_some());
        assert!(
            running(&format!("{me} {}", start + 1)).is_none(),
            "another process with this pid"
        );
        assert!(running("garbage").is_none());
        assert!(running("1 x").is_none());
    }
}
