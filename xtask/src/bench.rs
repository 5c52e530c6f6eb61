//! `cargo xtask bench`: builds what is measured and the benchmark, and runs it.
//!
//! Refuses to know any measure: the benchmark is `tests/bench`, and takes the arguments. Invariant: what is measured is optimised, whatever
//! the caller built before.

use crate::{build, kubernetes, packages, shell};
use anyhow::{Result, bail};
use nodeport_tests::k8s::programs::VARIABLE;
use std::{ffi::OsString, process::Command};

/// What `cargo xtask bench` is asked to do.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Arguments of the benchmark; `--help` lists them
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARG"
    )]
    arguments: Vec<OsString>,
}

/// Builds and runs.
pub(crate) fn main(args: &Args) -> Result<()> {
    let asks = ["--help", "-h", "--list"];
    if args
        .arguments
        .iter()
        .any(|argument| asks.iter().any(|ask| argument == ask))
    {
        return run(args);
    }
    if !shell::is_root() {
        bail!("the benchmark makes network namespaces and loads programs: it needs root");
    }
    packages::ensure_tools()?;
    let object = build::bench_object()?;
    let agent = build::all(false)?.agent;
    let mut command = benchmark(args)?;
    command
        .env("NODEPORT_BENCH_OBJECT", object)
        .env("NODEPORT_AGENT", agent);
    match kubernetes::built()? {
        Some(programs) => drop(command.env(VARIABLE, programs)),
        None => eprintln!(
            "no programs of Kubernetes: kube-proxy's rules are those that the benchmark writes, and nothing is measured beside an API server; \
             `cargo xtask test cluster` builds them"
        ),
    }
    shell::run(&mut command)
}

fn run(args: &Args) -> Result<()> {
    shell::run(&mut benchmark(args)?)
}

fn benchmark(args: &Args) -> Result<Command> {
    let mut build = shell::cargo();
    build.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "nodeport-tests",
        "--bin",
        "nodeport-bench",
    ]);
    shell::stage("build the benchmark", || shell::run(&mut build))?;
    let mut command = Command::new(build::release_directory().join("nodeport-bench"));
    command.current_dir(shell::root()).args(&args.arguments);
    Ok(command)
}
