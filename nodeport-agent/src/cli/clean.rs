//! `clean`: detaches and removes everything.

use anyhow::Result;

use super::{CleanArgs, print};
use crate::datapath;
use crate::datapath::devices;
use crate::run::Ends;
use crate::takeover;

/// Removes programs, links and maps, and what a take-over left to end, and says what was removed.
pub(super) fn clean(args: &CleanArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let inventory = runtime.block_on(devices::inventory())?;
    let names: Vec<String> = inventory
        .links
        .into_values()
        .map(|link| link.name)
        .collect();
    let removed = datapath::clean(&args.places.pin_dir, &names)?;
    takeover::remove_keepers()?;
    print(&format!(
        "removed {} attached programs and {} maps of {}",
        removed.programs,
        removed.maps,
        args.places.pin_dir.display()
    ))?;
    if args.stay {
        runtime.block_on(async {
            Ends::new()?.next().await;
            anyhow::Ok(())
        })?;
    }
    Ok(())
}
