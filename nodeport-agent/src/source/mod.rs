//! Where cluster objects come from.
//!
//! Every source gives complete sets of [`Objects`](crate::model::Objects), the latest one, and none before its first
//! complete reading (behaviours 22.1). What is made of them is the model's business.

pub mod kubernetes;
mod mailbox;
pub mod manifests;

use std::path::PathBuf;

use crate::model::{Reports, Snapshot};
use kubernetes::{Access, AccessError, Kubernetes, Progress, SourceStatus};
pub use mailbox::Update;
use manifests::{Manifests, ManifestsError, Timing};

/// Which source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Files.
    Manifests(Vec<PathBuf>),
    /// API servers.
    Kubernetes(Access),
}

/// Why there is no source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Files.
    #[error(transparent)]
    Manifests(#[from] ManifestsError),
    /// API servers.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// A source at work. It ends when it is dropped.
#[derive(Debug)]
pub enum Source {
    /// Files.
    Manifests(Manifests),
    /// API servers.
    Kubernetes(Box<Kubernetes>),
}

impl Source {
    /// Starts it. What it has not yet is waited for.
    ///
    /// # Errors
    /// What will never work: see the kinds of errors.
    pub async fn follow(choice: Choice, node_name: &str) -> Result<Self, SourceError> {
        Ok(match choice {
            Choice::Manifests(paths) => {
                Self::Manifests(Manifests::follow(paths, Timing::default())?)
            }
            Choice::Kubernetes(access) => {
                Self::Kubernetes(Box::new(Kubernetes::follow(access, node_name).await?))
            }
        })
    }

    /// Waits for a set that was not given yet: the first time the first complete one, then the latest after each change.
    /// `None` if the source has ended.
    pub async fn next(&mut self) -> Option<Update> {
        match self {
            Self::Manifests(manifests) => manifests.next().await,
            Self::Kubernetes(kubernetes) => kubernetes.next().await,
        }
    }

    /// Tells the authors of objects what could not be used of them, where the source has a way. Never waits.
    pub fn tell(&mut self, snapshot: &Snapshot, reports: &Reports) {
        if let Self::Kubernetes(kubernetes) = self {
            kubernetes.tell(snapshot, reports);
        }
    }

    /// How it is doing; of files there is nothing to say.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match self {
            Self::Manifests(_) => Progress::default(),
            Self::Kubernetes(kubernetes) => kubernetes.progress(),
        }
    }
}

/// How a source is doing, in words, for whoever looks after the node. An API server that is away is no fault of the node.
#[must_use]
pub fn warnings(status: &SourceStatus) -> Vec<String> {
    let failing = status.failing.iter().map(|(resource, failure)| {
        format!(
            "{resource}: {} (since {}; the last state stays in effect)",
            failure.error, failure.since
        )
    });
    failing.chain(status.warnings.iter().cloned()).collect()
}
