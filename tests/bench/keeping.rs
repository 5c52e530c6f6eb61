//! What it costs the agent to keep flows, and to remove those that are over.
//!
//! Invariant: all flows were there while they were kept, and none is left when the removal ends.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nodeport_tests::agent::Agent;
use serde_json::Value;

use crate::candidate::Candidate;
use crate::packets::{Ready, Traffic};

/// How long an answered flow of UDP lives without a packet: longer than setting up all flows and watching them.
const LIFETIME: Duration = Duration::from_secs(90);
/// How long flows are watched that are all there: two walks of the agent and more.
const KEPT: Duration = Duration::from_secs(40);
/// Longest wait after their lifetime until all flows are gone.
const PATIENCE: Duration = Duration::from_mins(2);
/// Of so many flows one may be missing: two may share a port.
const ONE_IN: u64 = 1000;

/// What one run gave, in percent of a core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    /// While all flows are there.
    pub(crate) kept: f64,
    /// From then on until none is.
    pub(crate) expired: f64,
}

/// One run.
pub(crate) fn run(candidate: Candidate, traffic: &Traffic) -> Result<Costs> {
    let seconds = LIFETIME.as_secs();
    let lifetime = format!("--conntrack-udp-timeout-stream {seconds}s");
    let mut ready = Ready::make(candidate, traffic, &lifetime)?;
    ready.establish()?;
    let established = Instant::now();
    let agent = ready.agent().context("a candidate with an agent")?;
    let pid = agent.status()?["pid"].as_u64().context("the agent's pid")?;

    let (start, before) = (Instant::now(), cpu_time(pid)?);
    std::thread::sleep(KEPT);
    let kept = share(cpu_time(pid)?.saturating_sub(before), start.elapsed());
    let flows = held(agent)?;
    let expected = u64::from(traffic.flows);
    ensure!(
        flows + expected / ONE_IN >= expected,
        "{flows} of {expected} flows were there"
    );

    let (start, before) = (Instant::now(), cpu_time(pid)?);
    while held(agent)? > 0 {
        if established.elapsed() > LIFETIME + PATIENCE {
            bail!("{} flows are left of {expected}", held(agent)?);
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    let expired = share(cpu_time(pid)?.saturating_sub(before), start.elapsed());
    Ok(Costs { kept, expired })
}

/// Percent of a core.
fn share(cpu: Duration, of: Duration) -> f64 {
    100.0 * cpu.as_secs_f64() / of.as_secs_f64()
}

/// Flows that the agent's last walk saw: each of this measure holds a source port, as its backend is on another node.
fn held(agent: &Agent) -> Result<u64> {
    let status = agent.status()?;
    let tables = status["snat"].as_object().context("snat in the status")?;
    Ok(tables
        .values()
        .filter_map(|table| table.get("in_use").and_then(Value::as_u64))
        .sum())
}

/// Time that a process has run, all its threads together.
fn cpu_time(pid: u64) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let ticks = parse(&text).with_context(|| format!("{path}: no times"))?;
    // Times are told in hundredths of a second, whatever the kernel's own clock (proc(5), USER_HZ).
    Ok(Duration::from_millis(10 * ticks))
}

/// `utime` and `stime`: the 14th and 15th field; the name in parentheses may contain blanks.
fn parse(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn times_are_found_behind_a_name_with_blanks() {
        let stat = "77 (node) port agent) S 1 2 3 4 5 6 7 8 9 10 250 50 7 8";
        assert_eq!(parse(stat), Some(300));
        assert_eq!(parse("77 (agent) S 1 2"), None);
    }
}
