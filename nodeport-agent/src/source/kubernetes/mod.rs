//! Objects from API servers: Services, EndpointSlices and the own Node, watched.
//!
//! Owns the tasks and how they are joined. It refuses to know what becomes of objects.
//! Invariant: whatever the API servers do, the last complete set stays, and the next one is found without help.

mod access;
mod cache;
mod events;
mod feed;
mod lean;
mod progress;
mod servers;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use access::{Access, AccessError};
pub use progress::{Failure, Progress, SourceStatus};

use super::Trouble;
use super::mailbox::{Giver, Taker, Update, mailbox};
use crate::model::objects::ObjectKey;
use crate::model::{Objects, Reports, Snapshot};
use cache::Cache;
use events::{Events, Notice, Topic};
use feed::Received;
use lean::{Nodes, Services, Slices};
use servers::{Patience, Servers};

/// So many changes are taken at once, and wait while none are taken.
const BATCH: usize = 1024;

/// The objects of a cluster, being watched. Watching ends when it is dropped.
#[derive(Debug)]
pub struct Kubernetes {
    sets: Taker,
    progress: Progress,
    events: Events,
    /// What Events were made of.
    told: Reports,
    node_name: String,
    _tasks: JoinSet<()>,
}

impl Kubernetes {
    /// Starts to watch. An API server that cannot be reached is waited for.
    ///
    /// # Errors
    /// Credentials that are not there or make no sense.
    pub async fn follow(access: Access, node_name: &str) -> Result<Self, AccessError> {
        access.load(0).await?;
        let progress = Progress::default();
        let client = Servers::new(access, Patience::default(), progress.clone()).client();
        Ok(Self::with_client(&client, node_name, progress))
    }

    fn with_client(client: &Client, node_name: &str, progress: Progress) -> Self {
        let (changes_in, changes) = mpsc::channel(BATCH);
        let (giver, sets) = mailbox();
        let mut tasks = JoinSet::new();
        let name = || node_name.to_owned();
        let (to, told) = (|| changes_in.clone(), || progress.clone());
        tasks.spawn(feed::run::<Services>(client.clone(), name(), to(), told()));
        tasks.spawn(feed::run::<Slices>(client.clone(), name(), to(), told()));
        tasks.spawn(feed::run::<Nodes>(client.clone(), name(), to(), told()));
        tasks.spawn(collect(changes, giver, progress.clone()));
        let (events, publisher) = events::publisher(client.clone(), node_name);
        tasks.spawn(publisher.run());
        let starting = Notice::starting(node_name, Timestamp::now());
        events.publish(Topic::Start, [starting].into());
        Self {
            node_name: node_name.to_owned(),
            sets,
            progress,
            events,
            told: Reports::default(),
            _tasks: tasks,
        }
    }

    /// Waits for a set that was not given yet: the first time the first complete one, then the latest after each change.
    /// `None` if watching has ended.
    pub async fn next(&mut self) -> Option<Update> {
        self.sets.take().await
    }

    /// How it is doing.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Makes Events of what could not be used. Never waits.
    pub fn tell(&mut self, snapshot: &Snapshot, reports: &Reports) {
        if reports.is_same(&self.told) {
            return;
        }
        self.told = reports.clone();
        let notices = reports
            .iter()
            .filter_map(|report| Notice::new(report, &snapshot.objects));
        self.events.publish(Topic::Objects, notices.collect());
    }

    /// Makes Events of what is wrong with this agent, whoever asks. Never waits.
    #[must_use]
    pub fn voice(&self) -> Voice {
        Voice {
            events: self.events.clone(),
            node_name: self.node_name.clone(),
        }
    }
}

/// Says on the own Node, and on Services, what is wrong with this agent.
#[derive(Clone, Debug)]
pub struct Voice {
    events: Events,
    node_name: String,
}

impl Voice {
    /// All that is wrong now. Never waits.
    pub fn say(&self, troubles: &[Trouble]) {
        let notice = |trouble| Notice::of_trouble(trouble, &self.node_name);
        self.events
            .publish(Topic::Agent, troubles.iter().map(notice).collect());
    }
}

/// Changes into complete sets: at once when it is quiet, together what comes while nobody takes.
async fn collect(mut changes: mpsc::Receiver<Received>, giver: Giver, progress: Progress) {
    let mut cache = Cache::started(Timestamp::now());
    let mut batch = Vec::with_capacity(BATCH);
    // The oldest change that was not given yet.
    let mut since: Option<Instant> = None;
    loop {
        let deadline = cache.node_deadline().filter(|_| since.is_some());
        let later = deadline.unwrap_or_else(|| Instant::now() + Duration::from_hours(1));
        tokio::select! {
            received = changes.recv_many(&mut batch, BATCH) => if received == 0 {
                return;
            },
            () = sleep_until(later) => {}
        }
        for (kind, change, at) in batch.drain(..) {
            if cache.apply(kind, change) {
                since.get_or_insert(at);
            }
        }
        let Some(oldest) = since else { continue };
        if let Some(objects) = cache.complete_set(Instant::now()) {
            given(objects, &progress);
            let objects = Arc::new(objects.clone());
            giver.give(Update {
                objects,
                since: oldest,
                news: cache.news(),
            });
            since = None;
        }
    }
}

/// Takes note of a complete set.
fn given(objects: &Objects, progress: &Progress) {
    let mut status = progress.lock();
    if !std::mem::replace(&mut status.synced, true) {
        tracing::info!(
            server = status.server,
            services = objects.services.len(),
            endpoint_slices = objects.endpoint_slices.len(),
            nodes = objects.nodes.len(),
            "the objects are complete"
        );
        let warning = carried_by_ourselves(objects, &status.server);
        if let Some(warning) = &warning {
            tracing::warn!("{warning}");
        }
        status.warnings.extend(warning);
    }
}

/// Whoever reaches the API server through a Service depends on what he is to set up.
fn carried_by_ourselves(objects: &Objects, server: &str) -> Option<String> {
    let key = ObjectKey {
        namespace: "default".into(),
        name: "kubernetes".into(),
    };
    let service = objects.services.get(&key)?;
    let host = server
        .parse::<http::Uri>()
        .ok()?
        .host()?
        .trim_matches(['[', ']'])
        .to_owned();
    let ours = service
        .cluster_ips
        .iter()
        .any(|one| one.value.to_string() == host);
    ours.then(|| {
        format!("the API server is reached at {host}, which is the Service `kubernetes` that this agent carries itself: give its own address with --master")
    })
}
