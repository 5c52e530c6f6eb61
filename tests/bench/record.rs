//! One measurement, as `--json` writes it.
//!
//! Invariant: fields are added, never renamed: scripts read them.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The file of `--json`. What was measured is in it at once: the whole benchmark takes an hour, and may be interrupted.
pub(crate) struct Records(File);

impl Records {
    /// An empty one, in place of what was there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path);
        Ok(Self(
            file.with_context(|| format!("write {}", path.display()))?,
        ))
    }

    /// A line for each measurement.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&mut self, measured: &[Measurement]) -> Result<()> {
        for measurement in measured {
            writeln!(self.0, "{}", serde_json::to_string(measurement)?)?;
        }
        Ok(())
    }
}

/// What was measured, of whom, and what came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Measurement {
    /// Name of the measure, see docs/performance.md.
    pub(crate) measure: String,
    /// Who was measured.
    pub(crate) candidate: String,
    /// 4 or 6.
    pub(crate) family: u8,
    /// Flows among which packets were spread; 0 where there are none.
    pub(crate) flows: u32,
    /// Services that were there.
    pub(crate) services: u32,
    /// Endpoints that were there, of all Services together.
    pub(crate) endpoints: u32,
    /// Median over the rounds.
    pub(crate) median: f64,
    /// Smallest and largest of the rounds.
    pub(crate) spread: [f64; 2],
    /// Number of rounds.
    pub(crate) rounds: usize,
    /// Runs that failed, and were made again.
    pub(crate) again: usize,
    /// Of the numbers above.
    pub(crate) unit: String,
    /// Median over that of plain routing, in the same rounds.
    pub(crate) ratio_to_routing: Option<f64>,
    /// Median over that of the bare redirect, in the same rounds.
    pub(crate) ratio_to_limit: Option<f64>,
    /// Why there is no result, if so: then the median is 0.
    pub(crate) failed: Option<String>,
}
