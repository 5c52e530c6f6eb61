//! What became of one pass.
//!
//! Owns the words for it. It refuses to know how they are shown. Invariant: whatever is not as desired after the pass is in
//! `refused` or in `failed`.

use std::time::Duration;

use crate::model::desired::ServicePortName;
use crate::plan::Refused;

/// What one pass did and what it left undone.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize)]
pub struct Report {
    /// Steps carried out.
    pub steps: usize,
    /// Map entries written or deleted by them.
    pub entries: usize,
    /// What does not fit or cannot be carried; it stays as it was.
    pub refused: Vec<Refused>,
    /// Steps that failed; the next pass reads the maps and tries again.
    pub failed: Vec<Failed>,
    /// When to pass again at the latest, if nothing changes before: something waits for slots, or failed.
    pub retry_after: Option<Duration>,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Failed {
    /// Whose step it was, if it was a service port's and the name is known.
    pub service_port: Option<ServicePortName>,
    /// Name of the map.
    pub map: &'static str,
    /// The step in words; empty if the maps could not be read.
    pub step: String,
    /// The error in words.
    pub error: String,
}

impl Report {
    /// Whether the maps now say what was desired.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.failed.is_empty()
    }
}
