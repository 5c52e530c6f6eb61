//! `takeover`: removes kube-proxy's rules from a node whose Services an agent carries.
//!
//! Owns the conditions and the words. Invariant: nothing is removed while it is needed: while kube-proxy runs, and before an agent has everything
//! written and attached.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nodeport_common::control_flags;

use super::{PlaceArgs, print};
use crate::datapath::Pins;
use crate::maps::{KernelStore, Store as _};
use crate::observe::Status;
use crate::observe::server::{self, Question};
use crate::takeover::{self, Leftovers};

/// How long the agent may take to notice that kube-proxy is gone, and to note its connections.
const NOTICE: Duration = Duration::from_secs(30);

/// Why nothing is done.
const RUNNING: &str = "kube-proxy runs on this node, and would write its rules again: stop it first, its connections will go on. Nothing was removed";

/// `takeover`.
#[derive(Clone, Debug, clap::Args)]
pub struct TakeoverArgs {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Places.
    #[command(flatten)]
    pub places: PlaceArgs,
}

/// Says what there is, and removes it.
pub(super) fn takeover(args: &TakeoverArgs) -> Result<()> {
    let leftovers = Leftovers::read()?;
    let lines = leftovers.describe();
    if lines.is_empty() {
        return print("nothing of kube-proxy's is on this node");
    }
    print(&lines.join("\n"))?;
    // What is in use but cannot be read cannot be removed either.
    if args.dry_run || leftovers.is_empty() {
        return Ok(());
    }
    let status: Option<Status> = server::ask(&args.places.run_dir, Question::Status)?;
    match status {
        Some(status)
            if status
                .warnings
                .iter()
                .any(|one| one.starts_with(takeover::RUNS)) =>
        {
            bail!("{RUNNING}")
        }
        Some(status) if status.ready => {}
        Some(_) => {
            bail!("the agent of this node has not written everything yet: nothing was removed")
        }
        None if takeover::listener().is_some() => bail!("{RUNNING}"),
        None => bail!(
            "no agent answers at {}: start one first, or nobody would carry Services; nothing was removed",
            args.places.run_dir.display()
        ),
    }
    until_ours(&Pins::new(&args.places.pin_dir))?;
    leftovers.remove()?;
    print("removed; connections that kube-proxy's rules began go on")
}

/// Waits until new connections are the agent's.
fn until_ours(pins: &Pins) -> Result<()> {
    let store = KernelStore::open(&pins.maps())?;
    let end = Instant::now() + NOTICE;
    while store.control()?.flags & control_flags::YIELDING != 0 {
        if Instant::now() > end {
            bail!(
                "the agent still leaves new connections to kube-proxy after {} s: `nodeport-agent status` says why; nothing was removed",
                NOTICE.as_secs()
            );
        }
        sleep(Duration::from_millis(200));
    }
    Ok(())
}
