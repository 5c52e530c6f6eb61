//! Where cluster objects come from.
//!
//! Every source gives complete sets of [`Objects`], the latest one, and none before its first
//! complete reading (behaviours 22.1). What is made of them is the model's business.

pub mod kubernetes;
mod mailbox;
pub mod manifests;
mod news;

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::model::objects::ObjectKey;
use crate::model::{Objects, Reports, Snapshot};
use kubernetes::{Access, AccessError, Kubernetes, Progress, SourceStatus, Voice};
pub use mailbox::Update;
use manifests::{Manifests, ManifestsError, Timing};
pub use news::News;

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
    Manifests(FromFiles),
    /// API servers.
    Kubernetes(Box<Kubernetes>),
}

/// Files being followed, and what they last said.
#[derive(Debug)]
pub struct FromFiles {
    manifests: Manifests,
    last: Arc<Objects>,
    started: Timestamp,
    progress: Progress,
}

impl FromFiles {
    async fn next(&mut self) -> Option<Update> {
        let mut update = self.manifests.next().await?;
        self.progress.files_complete();
        update.news = News::between(&self.last, &update.objects, self.started);
        self.last = Arc::clone(&update.objects);
        Some(update)
    }
}

impl Source {
    /// Starts it. What it has not yet is waited for.
    ///
    /// # Errors
    /// What will never work: see the kinds of errors.
    pub async fn follow(choice: Choice, node_name: &str) -> Result<Self, SourceError> {
        Ok(match choice {
            Choice::Manifests(paths) => Self::Manifests(FromFiles {
                progress: Progress::of_files(&paths),
                manifests: Manifests::follow(paths, Timing::default())?,
                last: Arc::default(),
                started: Timestamp::now(),
            }),
            Choice::Kubernetes(access) => {
                Self::Kubernetes(Box::new(Kubernetes::follow(access, node_name).await?))
            }
        })
    }

    /// Waits for a set that was not given yet: the first time the first complete one, then the latest after each change.
    /// `None` if the source has ended.
    pub async fn next(&mut self) -> Option<Update> {
        match self {
            Self::Manifests(files) => files.next().await,
            Self::Kubernetes(kubernetes) => kubernetes.next().await,
        }
    }

    /// Tells the authors of objects what could not be used of them, where the source has a way. Never waits.
    pub fn tell(&mut self, snapshot: &Snapshot, reports: &Reports) {
        if let Self::Kubernetes(kubernetes) = self {
            kubernetes.tell(snapshot, reports);
        }
    }

    /// For what is wrong with this agent itself, where the source has a way to tell of it.
    #[must_use]
    pub fn voice(&self) -> Option<Voice> {
        match self {
            Self::Manifests(_) => None,
            Self::Kubernetes(kubernetes) => Some(kubernetes.voice()),
        }
    }

    /// How it is doing.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match self {
            Self::Manifests(files) => files.progress.clone(),
            Self::Kubernetes(kubernetes) => kubernetes.progress(),
        }
    }
}

/// A part of this agent that does not work, as an Event tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The Service, with its UID, whose author should know; the Node's operator otherwise.
    pub service: Option<(ObjectKey, Option<Box<str>>)>,
    /// The Event's reason, kube-proxy's where it has one.
    pub reason: &'static str,
    /// What was tried.
    pub action: &'static str,
    /// In words.
    pub note: String,
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
