//! What a packet costs in instructions, on the host: a slower packet path is seen without a clock, the same on every machine.
//!
//! Owns the counting, by callgrind. Refuses to know the packets: they are `nodeport-ebpf/examples/packets.rs`. Invariant: what is compared is
//! the difference between two runs of different length, so that the start of the program does not count.

use crate::{budget::Budget, packages, shell};
use anyhow::{Context as _, Result, bail};
use std::{path::Path, process::Command};

/// The kinds of packets.
const KINDS: [&str; 3] = ["established", "new", "foreign"];
/// Packets of the shorter run; the longer one has twice as many.
const COUNT: u64 = 5_000;
/// Hundredths by which a count may exceed its bound: another compiler orders instructions otherwise.
const TOLERANCE_PERCENT: u64 = 3;

/// Counts, and compares with `xtask/budget.toml`.
pub(super) fn main() -> Result<()> {
    packages::ensure("valgrind")?;
    let counted = shell::stage("count a packet's instructions on the host", || {
        build()?;
        let program = shell::root().join("target/release/examples/packets");
        KINDS
            .iter()
            .map(|kind| Ok((*kind, per_packet(&program, kind)?)))
            .collect::<Result<Vec<_>>>()
    })?;
    for (kind, count) in &counted {
        println!("{kind:12}{count:>8} instructions a packet");
    }
    let over = over_budget(&counted, &Budget::read()?);
    if !over.is_empty() {
        bail!("over budget:\n{}", over.join("\n"));
    }
    Ok(())
}

fn build() -> Result<()> {
    let mut command = shell::cargo();
    command.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "nodeport-ebpf",
    ]);
    command.args(["--features", "sim", "--example", "packets"]);
    shell::run(
        command
            .arg("--target-dir")
            .arg(shell::root().join("target")),
    )
}

fn per_packet(program: &Path, kind: &str) -> Result<u64> {
    let short = instructions(program, kind, COUNT)?;
    let long = instructions(program, kind, 2 * COUNT)?;
    Ok(long.saturating_sub(short) / COUNT)
}

fn instructions(program: &Path, kind: &str, count: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([kind, &count.to_string()])
        .output()
        .context("cannot run valgrind")?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{} {kind} {count} failed:\n{report}", program.display());
    }
    collected(&report).with_context(|| format!("valgrind did not count:\n{report}"))
}

/// The number in callgrind's line `Collected : N`.
fn collected(report: &str) -> Option<u64> {
    let (_, count) = report.split_once("Collected :")?;
    count.split_whitespace().next()?.parse().ok()
}

fn over_budget(counted: &[(&str, u64)], budget: &Budget) -> Vec<String> {
    let over = counted.iter().filter_map(|(kind, count)| {
        let name = format!("packet.{kind}.instructions");
        match budget.get(&name) {
            Some(bound) if count * 100 <= bound * (100 + TOLERANCE_PERCENT) => None,
            Some(bound) => Some(format!(
                "{name}: {count}; {bound}, and {TOLERANCE_PERCENT} % more at most"
            )),
            None => Some(format!(
                "{name}: {count}, and no bound in xtask/budget.toml"
            )),
        }
    });
    over.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_callgrind_s_report() {
        let report = "==7== Events    : Ir\n==7== Collected : 1234567\n==7==\n";
        assert_eq!(collected(report), Some(1_234_567));
        assert_eq!(collected("==7== Command: packets"), None);
    }

    #[test]
    fn three_hundredths_more_pass_and_what_is_over_or_unbounded_is_named() {
        let budget = "packet.new.instructions = 1000".parse().unwrap();
        assert!(over_budget(&[("new", 1030)], &budget).is_empty());
        assert_eq!(
            over_budget(&[("new", 1031), ("foreign", 5)], &budget),
            [
                "packet.new.instructions: 1031; 1000, and 3 % more at most",
                "packet.foreign.instructions: 5, and no bound in xtask/budget.toml",
            ]
        );
    }
}
