//! `cargo xtask bench`: what a packet, a connection and a change cost, against the limit of the machine and against what others do.
//!
//! Owns the command line and the list of measures; each family of measures is a module. docs/performance.md says what each measure is.
//! Invariant: a run that does not meet the conditions of its measure is shown as failed, and never becomes a number.

#[path = "../../nodeport-ebpf/bench/abi.rs"]
#[expect(dead_code, reason = "some of it only the helper's programs use")]
mod abi;
mod bulk;
mod candidate;
mod cluster;
mod control;
mod counters;
mod frames;
mod helper;
mod keeping;
mod kube_proxy;
mod measures;
mod napi;
mod objects;
mod opening;
mod packets;
mod plot;
mod programs;
mod real;
mod record;
mod rounds;
mod stage;
mod statistics;
mod table;
mod window;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;

use measures::Asked;
use record::Records;

/// Measure the datapath and the agent, in network namespaces of this machine.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
pub(crate) struct Args {
    /// Three short rounds of the first measures only
    #[arg(long)]
    quick: bool,
    /// Only measures (or `measure/candidate`) whose name contains this; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Write one record a measurement, a line each
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the measures that grow, a picture (SVG) each, into this directory
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// Rounds; every candidate runs once in each
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Print the names of all measures, and end
    #[arg(long)]
    list: bool,
}

impl Args {
    /// Whether a measure of a candidate was asked for.
    pub(crate) fn wants(&self, measure: &str, candidate: &str, quick: bool) -> bool {
        if self.only.is_empty() {
            return quick || !self.quick;
        }
        let name = format!("{measure}/{candidate}");
        let (first, last) = (format!("={name}"), format!("={measure}"));
        self.only
            .iter()
            .any(|part| name.contains(part.as_str()) || *part == first || *part == last)
    }

    /// How long one run measures.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_millis(if self.quick { 300 } else { 700 })
    }

    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 })
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if args.list {
        for name in measures::names() {
            println!("{name}");
        }
        return Ok(());
    }
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        bail!("this machine has {cores} core: client and node need one each");
    }
    let mut records = args.json.as_deref().map(Records::create).transpose()?;
    let Asked { measured, left_out } = measures::run(args, |measured| {
        let records = records.as_mut();
        records.map_or(Ok(()), |records| records.write(measured))
    })?;
    if measured.is_empty() && left_out == 0 {
        bail!(
            "no measure has a name with {}; --list prints them",
            args.only.join(" or ")
        );
    }
    if measured.is_empty() {
        bail!("nothing was measured: {left_out} left out, see above");
    }
    println!("{}", table::full(&measured));
    if let Some(directory) = &args.plot {
        let written = plot::write(&measured, directory)?;
        eprintln!("{written} pictures in {}", directory.display());
    }
    let failed = measured.iter().filter(|m| m.failed.is_some()).count();
    if failed > 0 {
        bail!("{failed} of {} measurements failed", measured.len());
    }
    Ok(())
}
