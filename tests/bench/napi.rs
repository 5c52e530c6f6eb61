//! Which core does what: NAPI threads of devices on cores, and how busy they were.
//!
//! A veth's NAPI runs in a kernel thread of its own if its device is told so; attaching XDP or switching GRO makes that thread anew, without
//! its core. Invariant: threads are found by their device's name, which is one that only the benchmark uses.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nodeport_tests::Netns;
use rustix::process::{Pid, setpriority_process};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The core of the node.
pub(crate) const NODE_CORE: usize = 1;
/// The core of the generator, and of clients and servers.
pub(crate) const END_CORE: usize = 0;

/// Has a device's NAPI run in a thread.
pub(crate) fn make_threaded(netns: &Netns, device: &str) -> Result<()> {
    // `/sys` shows the devices of the namespace in which it was mounted; `ip netns exec` mounts it anew.
    let script = format!("echo 1 > /sys/class/net/{device}/threaded");
    let name = netns.name();
    let mut command = std::process::Command::new("ip");
    command.args(["netns", "exec", name, "sh", "-c", &script]);
    let output = command.output().context("run ip netns exec")?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("threaded NAPI of {device}: {}", error.trim());
    }
    Ok(())
}

/// The NAPI threads of a device of this name, in whatever namespace it is.
pub(crate) fn threads(device: &str) -> Vec<Pid> {
    let prefix = format!("napi/{device}-");
    named(|comm| comm.starts_with(&prefix))
}

/// Threads by what they are called.
fn named(matches: impl Fn(&str) -> bool) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| matches(&comm))
    })
    .filter_map(Pid::from_raw)
    .collect()
}

/// The thread that takes over when packets keep a core's softirqs busy.
pub(crate) fn softirq_thread(core: usize) -> Result<Pid> {
    let name = format!("ksoftirqd/{core}");
    named(|comm| comm.trim_end() == name)
        .pop()
        .with_context(|| format!("there is no {name}"))
}

/// Puts a device's NAPI threads on a core.
pub(crate) fn pin(device: &str, core: usize) -> Result<Vec<Pid>> {
    let threads = threads(device);
    if threads.is_empty() {
        bail!("{device} has no NAPI thread");
    }
    for thread in &threads {
        pin_thread(Some(*thread), core)?;
    }
    Ok(threads)
}

/// Puts a thread on a core, ahead of whatever else runs on the machine; the calling one if none is named.
pub(crate) fn pin_thread(thread: Option<Pid>, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(thread, &set).with_context(|| format!("pin to core {core}"))?;
    setpriority_process(thread, -20).context("raise a thread's priority")
}

/// How long a core has had nothing to do.
pub(crate) fn idle_time(core: usize) -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    idle(&text, core).with_context(|| format!("/proc/stat: no core {core}"))
}

/// Time idle and time waiting for a disk: the fourth and fifth number, in hundredths of a second (proc(5), `USER_HZ`).
fn idle(stat: &str, core: usize) -> Option<Duration> {
    let prefix = format!("cpu{core} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&prefix))?;
    let mut numbers = line.split_whitespace().skip(3);
    let mut next = || numbers.next()?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (next()? + next()?)))
}

/// Nanoseconds that threads have run so far.
pub(crate) fn run_time(threads: &[Pid]) -> Result<u64> {
    let mut total = 0;
    for thread in threads {
        let path = format!("/proc/{}/schedstat", thread.as_raw_nonzero());
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let field = text.split_whitespace().next();
        total += field
            .and_then(|field| field.parse::<u64>().ok())
            .with_context(|| format!("{path}: no time"))?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_a_core_was_idle_is_that_of_no_other() {
        let stat = "cpu  9 9 9 9 9 0 0 0 0 0\ncpu1 1 0 2 300 5 0 7 0 0 0\ncpu10 1 1 1 1 1 0\n";
        assert_eq!(idle(stat, 1), Some(Duration::from_millis(3050)));
        assert_eq!(idle(stat, 2), None);
    }
}
