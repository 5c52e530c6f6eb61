//! What the agent's own work costs by stages: reading, decoding, compiling, planning and writing many Services.
//!
//! `cargo run --release -p nodeport-agent --example scale -- [--services N] [--endpoints N] [--changes N] [--kernel] [--json]`
//!
//! Owns the objects that are made up and the clock. It refuses to know how a stage works: it calls what the agent calls. With
//! `--kernel`, as root, the maps are real ones, unpinned, so that they are gone when it ends.

mod cluster;
mod stages;
mod stores;

use clap::Parser;

/// What is measured.
#[derive(Clone, Debug, Parser)]
#[command(about = "What the agent's work costs by stages, over Services and endpoints")]
struct Args {
    /// Services, each with a ClusterIP and a NodePort.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Endpoints of each Service.
    #[arg(long, default_value_t = 3)]
    endpoints: usize,
    /// Changes of one endpoint each, one after the other.
    #[arg(long, default_value_t = 500)]
    changes: usize,
    /// Real maps instead of maps in memory.
    #[arg(long)]
    kernel: bool,
    /// Only changes, for so many seconds: for a profiler.
    #[arg(long)]
    profile_secs: Option<u64>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let results = if args.kernel {
        stages::measure(&args, stores::kernel(&args)?)?
    } else {
        stages::measure(&args, stores::memory())?
    };
    if args.json {
        let rows: serde_json::Map<_, _> = results.into_iter().collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        println!("{}", stages::table(&args, &results));
    }
    Ok(())
}
