//! `dump`: what is in the maps.

use anyhow::Result;

use super::{DumpArgs, DumpWhat, Output, print, print_json};
use crate::datapath::Pins;
use crate::maps::KernelStore;
use crate::observe::{contents, counters, text};

/// Prints one kind of entry. Needs no agent.
pub(super) fn dump(args: &DumpArgs) -> Result<()> {
    let store = KernelStore::open(&Pins::new(&args.places.pin_dir).maps())?;
    match args.what {
        DumpWhat::Outcomes => {
            let named = counters::named(&store.outcomes()?);
            show(args, &named, || text::outcomes(&named))
        }
        DumpWhat::Frontends => {
            let rows = contents::frontends(&store)?;
            show(args, &rows, || contents::frontends_text(&rows))
        }
        DumpWhat::Backends => {
            let rows = contents::backends(&store)?;
            show(args, &rows, || contents::backends_text(&rows))
        }
        DumpWhat::Flows => {
            let rows = contents::flows(&store)?;
            show(args, &rows, || contents::flows_text(&rows))
        }
    }
}

fn show(args: &DumpArgs, rows: &impl serde::Serialize, text: impl Fn() -> String) -> Result<()> {
    match args.output {
        Output::Json => print_json(rows),
        Output::Table => print(text().trim_end()),
    }
}
