//! `cargo xtask clean`: what a crashed lab or a killed `verify` left on this machine.
//!
//! The lab records what it makes and knows how to undo it; this verb calls it and reports. Invariant: what another run
//! is still using stays.

use crate::verify;
use anyhow::{Context as _, Result};

/// Undoes every recorded lab whose owner is gone.
pub(crate) fn main() -> Result<()> {
    let cleaned = nodeport_tests::clean_all().context("clean up labs")?;
    let verify_pins = verify::remove_left_pins()?;
    for lab in &cleaned.in_use {
        println!("lab {lab} is in use: left alone");
    }
    for lab in &cleaned.labs {
        println!("lab {lab} removed");
    }
    println!(
        "removed: {} labs, {} processes, {} network namespaces, {} pin directories, {} cgroups",
        cleaned.labs.len(),
        cleaned.processes,
        cleaned.namespaces,
        cleaned.pins + verify_pins,
        cleaned.cgroups
    );
    Ok(())
}
