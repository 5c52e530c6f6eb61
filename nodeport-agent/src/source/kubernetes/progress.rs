//! How the source is doing: for `status`, health and metrics.
//!
//! Owns what is known of the API servers. It refuses to judge: an API server that is away is no fault of this node.
//! Invariant: a failure stays noted until a request of the same resource was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// How the source is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct SourceStatus {
    /// URL of the API server that is used, or the paths of manifests.
    pub server: String,
    /// Whether a complete set of objects was given.
    pub synced: bool,
    /// When something last came from an API server (an answer or a change), or files were read, in seconds since 1970.
    pub last_contact: Option<u64>,
    /// Resources whose last request was answered.
    pub answering: BTreeSet<String>,
    /// By resource: what fails, and since when.
    pub failing: BTreeMap<String, Failure>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Requests that fail.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// The last one.
    pub error: String,
}

/// A status that several tasks write.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<SourceStatus>>);

impl Progress {
    /// Of files, which need no server.
    pub(in crate::source) fn of_files(paths: &[PathBuf]) -> Self {
        let paths: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let progress = Self::default();
        progress.lock().server = paths.join(" ");
        progress
    }

    /// The files were all there, and read.
    pub(in crate::source) fn files_complete(&self) {
        let mut status = self.lock();
        status.synced = true;
        status.last_contact = Some(now());
    }

    /// As it is now.
    #[must_use]
    pub fn status(&self) -> SourceStatus {
        self.lock().clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SourceStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something came from the API server.
    pub(super) fn contact(&self) {
        self.lock().last_contact = Some(now());
    }

    /// A request of `resource` was answered by `server`.
    pub(super) fn answered(&self, resource: &str, server: &str) {
        let mut status = self.lock();
        status.last_contact = Some(now());
        if status.server != server {
            server.clone_into(&mut status.server);
        }
        let failure = status.failing.remove(resource);
        if !status.answering.contains(resource) {
            status.answering.insert(resource.to_owned());
        }
        drop(status);
        if let Some(failure) = failure {
            let secs = now().saturating_sub(failure.since);
            tracing::info!(resource, server, secs, "the API server answers again");
        }
    }

    /// A request of `resource` failed.
    pub(super) fn failed(&self, resource: &str, server: &str, error: &str) {
        let mut status = self.lock();
        status.answering.remove(resource);
        let known = status.failing.entry(resource.to_owned()).or_default();
        let first = known.error.is_empty();
        let news = known.error != error;
        if first {
            known.since = now();
        }
        error.clone_into(&mut known.error);
        drop(status);
        if first {
            tracing::warn!(
                resource,
                server,
                error,
                "no use of the API server; the last state stays in effect"
            );
        } else if news {
            tracing::warn!(resource, server, error, "still no use of the API server");
        } else {
            tracing::debug!(resource, server, error, "still no use of the API server");
        }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_lasts_until_the_same_resource_is_answered() {
        let progress = Progress::default();
        progress.failed("services", "https://a/", "refused");
        progress.failed("services", "https://b/", "timed out");
        progress.answered("nodes", "https://b/");
        let status = progress.status();
        assert_eq!(status.failing["services"].error, "timed out");
        assert_eq!(status.answering, ["nodes".to_owned()].into());
        assert!(status.last_contact.is_some());
        progress.answered("services", "https://b/");
        let status = progress.status();
        assert!(status.failing.is_empty());
        assert_eq!(status.server, "https://b/");
    }
}
