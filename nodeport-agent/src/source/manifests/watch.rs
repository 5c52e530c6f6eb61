//! The thread that follows the files.
//!
//! Owns watches and their timing. It refuses to know formats. Watches are on directories, not on files: editors and
//! `kubectl` put a new file in the place of the old one, a ConfigMap's volume swaps a link. Where a watch is impossible
//! (network file systems, the limit of watches) the slow look finds every change all the same.
//! Invariant: whoever waits gets the latest complete set; sets in between may be skipped.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tracing::{debug, warn};

use super::files::Files;
use crate::source::News;
use crate::source::mailbox::{Giver, Taker, Update, mailbox};

/// How the files are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long it must have been quiet before files are read: one who writes a file in pieces is not read half-way.
    pub quiet: Duration,
    /// How long a file system that is never quiet can put off a reading.
    pub patience: Duration,
    /// How often files are looked at without any event.
    pub rescan: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(100),
            patience: Duration::from_secs(1),
            rescan: Duration::from_secs(30),
        }
    }
}

/// What makes following files impossible.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// A given path is not there or cannot be looked at.
    #[error("cannot read manifests at {path}: {reason}")]
    Unreachable {
        /// The path as given.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The kernel gave no thread.
    #[error("cannot start the thread that follows the manifests: {0}")]
    Thread(#[source] std::io::Error),
}

/// Files being followed. Following ends when it is dropped.
#[derive(Debug)]
pub struct Manifests {
    sets: Taker,
    stop: Sender<Signal>,
}

enum Signal {
    FileSystem(notify::Result<notify::Event>),
    Stop,
}

impl Manifests {
    /// Starts to follow the paths.
    ///
    /// # Errors
    ///
    /// No thread. A path that is not there is waited for, and told in the log.
    pub fn follow(paths: Vec<PathBuf>, timing: Timing) -> Result<Self, ManifestsError> {
        let (giver, sets) = mailbox();
        let (stop, signals) = channel();
        let events = stop.clone();
        thread::Builder::new()
            .name("manifests".to_owned())
            .spawn(move || Follower::new(paths, timing, events, giver).run(&signals))
            .map_err(ManifestsError::Thread)?;
        Ok(Self { sets, stop })
    }

    /// Waits for a set that was not given yet: the first time the first complete one, then the latest after each change.
    /// `None` if following has ended.
    pub async fn next(&mut self) -> Option<Update> {
        self.sets.take().await
    }
}

#[cfg(test)]
impl Manifests {
    /// The end that takes what the thread gives; closed when it has ended.
    pub(in crate::source::manifests) fn sets(&self) -> Taker {
        self.sets.clone()
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        // Not waited for: the thread may hang in a file system that does not answer. It is gone already if nobody hears this.
        let _ = self.stop.send(Signal::Stop);
    }
}

struct Follower {
    files: Files,
    timing: Timing,
    watcher: Option<RecommendedWatcher>,
    directories: BTreeSet<PathBuf>,
    sets: Giver,
    complete: bool,
}

impl Follower {
    fn new(paths: Vec<PathBuf>, timing: Timing, events: Sender<Signal>, sets: Giver) -> Self {
        let watcher = notify::recommended_watcher(move |event| {
            // Nobody hears this if the thread has ended.
            let _ = events.send(Signal::FileSystem(event));
        });
        let watcher = watcher.inspect_err(|error| {
            let every = timing.rescan;
            warn!(%error, ?every, "manifests are not watched, only looked at from time to time");
        });
        Self {
            files: Files::new(paths),
            timing,
            watcher: watcher.ok(),
            directories: BTreeSet::new(),
            sets,
            complete: false,
        }
    }

    fn run(mut self, signals: &Receiver<Signal>) {
        // Watches first: what changes after the reading is then seen.
        self.watch();
        self.look(true);
        let mut due: Option<Instant> = None;
        loop {
            let wait = due.map_or(self.timing.rescan, |due| {
                self.timing
                    .quiet
                    .min(due.saturating_duration_since(Instant::now()))
            });
            match signals.recv_timeout(wait) {
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Signal::FileSystem(event)) if is_change(&event) => {
                    due.get_or_insert_with(|| Instant::now() + self.timing.patience);
                }
                Ok(Signal::FileSystem(_)) => {}
                Err(RecvTimeoutError::Timeout) => {
                    due = None;
                    self.watch();
                    self.look(false);
                }
            }
        }
    }

    /// Reads what changed and gives it on.
    fn look(&mut self, first: bool) {
        let since = tokio::time::Instant::now();
        let changed = self.files.refresh();
        if !self.complete {
            for (path, error) in self.files.unreachable() {
                warn!(path = %path.display(), error, "waiting for manifests");
            }
            self.complete = self.files.unreachable().next().is_none();
            if !self.complete {
                return;
            }
        } else if !changed && !first {
            return;
        }
        let objects = Arc::new(self.files.objects());
        debug!(
            services = objects.services.len(),
            endpoint_slices = objects.endpoint_slices.len(),
            nodes = objects.nodes.len(),
            "read manifests"
        );
        let news = News::default();
        self.sets.give(Update {
            objects,
            since,
            news,
        });
    }

    /// Watches each directory in which an event can mean that a file changed.
    fn watch(&mut self) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let mut wanted = BTreeSet::new();
        for path in self
            .files
            .paths()
            .iter()
            .map(PathBuf::as_path)
            .chain(self.files.known())
        {
            wanted.extend(path.is_dir().then(|| path.to_owned()));
            wanted.extend(directory_of(path));
            wanted.extend(path.canonicalize().ok().as_deref().and_then(directory_of));
        }
        for gone in self.directories.difference(&wanted) {
            // It may be gone from the disk, too, and its watch with it.
            let _ = watcher.unwatch(gone);
        }
        // A directory that was replaced by another of its name has lost its watch; watching one twice does no harm.
        self.directories = wanted
            .into_iter()
            .filter(|directory| {
                let result = watcher.watch(directory, RecursiveMode::NonRecursive);
                if let Err(error) = &result {
                    debug!(directory = %directory.display(), %error, "not watched");
                }
                result.is_ok()
            })
            .collect();
    }
}

fn directory_of(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    let here = parent.as_os_str().is_empty();
    Some(if here {
        PathBuf::from(".")
    } else {
        parent.to_owned()
    })
}

/// Whether files may have changed. Our own reading is an event, too.
fn is_change(event: &notify::Result<notify::Event>) -> bool {
    event
        .as_ref()
        .map_or(true, |event| !matches!(event.kind, EventKind::Access(_)))
}
