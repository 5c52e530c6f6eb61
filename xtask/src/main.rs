//! The developer verbs of nodeport: `cargo xtask <verb>`.
//!
//! Owns the command line only; each verb is a module. Invariant: a verb that fails says what to do about it and exits
//! with a status other than 0.

mod build;
mod packages;
mod run;
mod shell;
mod toolchain;

use clap::{Parser, Subcommand};

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
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Run(args) => run::main(&args),
        Verb::Build(args) => build::main(args),
    }
}
