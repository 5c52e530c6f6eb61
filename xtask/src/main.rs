//! The developer verbs of nodeport: `cargo xtask <verb>`.
//!
//! Owns the command line only; each verb is a module. Invariant: a verb that fails says what to do about it and exits
//! with a status other than 0.

#[macro_use]
mod say;

mod agent;
mod bench;
mod budget;
mod build;
mod chart;
mod clean;
mod docs;
mod doctor;
mod image;
mod kubernetes;
mod lint;
mod packages;
mod remap;
mod run;
mod shell;
mod test;
mod toolchain;
mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Developer verbs of nodeport.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a lab of network namespaces, start an agent on each node and drive real traffic
    Run(run::Args),
    /// Build the BPF programs and the agent, installing a BPF toolchain if there is none
    Build(build::Args),
    /// Say what this machine has and lacks, each line with its remedy
    Doctor,
    /// Check formatting, sizes, layering, unsafe, docs, dependencies and clippy
    Lint,
    /// Write the tables in docs/ that come from the code
    Docs,
    /// Load every program on this kernel and compare what the verifier counted with the budget
    Verify,
    /// Run the tests, tier by tier
    Test(test::Args),
    /// Measure packets, connections and changes, against plain routing and kube-proxy's rules
    Bench(bench::Args),
    /// Write deploy/nodeport.yaml from the chart, by the real Helm
    Chart(chart::Args),
    /// Pack the agent as an OCI image, with a list of its parts
    Image(image::Args),
    /// Remove what a crashed lab left: processes, namespaces, pins, cgroups
    Clean,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Run(args) => run::main(&args),
        Verb::Build(args) => build::main(args),
        Verb::Doctor => doctor::main(),
        Verb::Lint => lint::main(),
        Verb::Docs => docs::main(),
        Verb::Verify => verify::main(),
        Verb::Test(args) => test::main(&args),
        Verb::Bench(args) => bench::main(&args),
        Verb::Chart(args) => chart::main(&args),
        Verb::Image(args) => image::main(&args),
        Verb::Clean => clean::main(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
