//! Nanoseconds of one run of a program, under live traffic.
//!
//! The kernel's own account of run times (`kernel.bpf_stats_enabled`) contains two readings of the clock; how much they cost is measured in the
//! same run with a program that does nothing. Invariant: a run counts as one of packets per second does.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use crate::candidate::Candidate;
use crate::packets::{Ready, Traffic};

/// Which packets the program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of established flows.
    Established,
    /// The first of a flow.
    New,
    /// Of no Service.
    Foreign,
}

/// One run: nanoseconds of a program a packet, less the readings of the clock.
pub(crate) fn run(candidate: Candidate, traffic: &Traffic, kind: Kind) -> Result<f64> {
    let clock = nanoseconds(Candidate::Empty, traffic, Kind::Foreign, "bench_empty")
        .context("an empty program")?;
    let program = match candidate {
        Candidate::Tc => "nodeport_in",
        _ => "nodeport_xdp",
    };
    let whole = nanoseconds(candidate, traffic, kind, program)?;
    Ok(whole - clock)
}

fn nanoseconds(candidate: Candidate, traffic: &Traffic, kind: Kind, program: &str) -> Result<f64> {
    let traffic = Traffic {
        foreign: kind == Kind::Foreign,
        ..*traffic
    };
    let mut ready = Ready::make(candidate, &traffic, "")?;
    if kind == Kind::Established {
        ready.establish()?;
    }
    let _counting = enable_stats(Stats::RunTime).context("count run times")?;
    let window = traffic.window;
    let (run, (time, runs)) = ready.drive(|| {
        let before = totals(program);
        std::thread::sleep(window);
        let after = totals(program);
        Ok((after.0.saturating_sub(before.0), after.1 - before.1))
    })?;
    // A program that drops is faster than the generator.
    if candidate != Candidate::Empty {
        run.check()?;
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let each = time.as_nanos() as f64 / runs.max(1) as f64;
    anyhow::ensure!(runs > 0, "{program} did not run");
    Ok(each)
}

/// Run time and runs of all programs of this name: those of others on the machine see no packets.
fn totals(name: &str) -> (Duration, u64) {
    let mut sum = (Duration::ZERO, 0);
    for program in loaded_programs() {
        // A program may go while we look.
        let Ok(program) = program else { continue };
        if program.name_as_str() == Some(name) {
            sum.0 += program.run_time();
            sum.1 += program.run_count();
        }
    }
    sum
}
