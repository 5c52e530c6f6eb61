//! `dump`: what is in the maps.

use std::path::Path;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{Output, PlaceArgs, print, print_json};
use crate::datapath::Pins;
use crate::maps::KernelStore;
use crate::observe::contents::Names;
use crate::observe::server::{self, Question};
use crate::observe::{contents, counters, text};

/// What to dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DumpWhat {
    /// Front ends and how many backends each has.
    Frontends,
    /// Front ends with each of their backends.
    Backends,
    /// Flows, established and pending.
    Flows,
    /// Counters of packets by outcome and hook.
    Outcomes,
    /// Everything that `plan --against` needs, as JSON.
    State,
}

/// `dump`.
#[derive(Clone, Debug, Args)]
pub struct DumpArgs {
    /// What to print
    pub what: DumpWhat,
    /// Places.
    #[command(flatten)]
    pub places: PlaceArgs,
    /// Form of the output
    #[arg(short, long, default_value = "table", value_name = "FORM")]
    pub output: Output,
}

/// Prints one kind of entry. Needs no agent.
pub(super) fn dump(args: &DumpArgs) -> Result<()> {
    let store = KernelStore::open(&Pins::new(&args.places.pin_dir).maps())?;
    match args.what {
        DumpWhat::Outcomes => {
            let named = counters::named(&store.outcomes()?);
            show(args, &named, || text::outcomes(&named))
        }
        DumpWhat::Frontends => {
            let names = names(&args.places.run_dir);
            let rows = contents::frontends(contents::state(&store)?, &names);
            show(args, &rows, || contents::frontends_text(&rows))
        }
        DumpWhat::Backends => {
            let rows = contents::backends(&contents::state(&store)?);
            show(args, &rows, || contents::backends_text(&rows))
        }
        DumpWhat::State => print_json(&contents::state(&store)?),
        DumpWhat::Flows => {
            let rows = contents::flows(&store)?;
            show(args, &rows, || contents::flows_text(&rows))
        }
    }
}

/// Names of service ports, which only a running agent knows: the maps have numbers.
fn names(run_dir: &Path) -> Names {
    server::ask(run_dir, Question::Names)
        .ok()
        .flatten()
        .unwrap_or_default()
}

fn show(args: &DumpArgs, rows: &impl serde::Serialize, text: impl Fn() -> String) -> Result<()> {
    match args.output {
        Output::Json => print_json(rows),
        Output::Table => print(text().trim_end()),
    }
}
