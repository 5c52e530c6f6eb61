//! `cargo xtask run`: a lab, one agent per node, example objects and real traffic.

use std::path::PathBuf;

/// What `cargo xtask run` is asked to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// End by itself; exit status 0 only if every row was right
    #[arg(long)]
    pub(crate) check: bool,
    /// Objects to use instead of the examples: a file or directory of YAML or JSON
    #[arg(long, value_name = "PATH")]
    pub(crate) manifests: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
///
/// Always, until the lab is there.
pub(crate) fn main(args: &Args) -> anyhow::Result<()> {
    anyhow::bail!(
        "the lab is not built yet (check: {}, manifests: {:?})",
        args.check,
        args.manifests
    )
}
