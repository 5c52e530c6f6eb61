//! One kind's changes, for ever: a `kube` watcher, and what it does not do by itself.
//!
//! Owns the fall-back from streamed lists to lists and watches, the pause after an error, and starting over. It refuses to know what
//! changes mean. Invariant: there is no error after which it does not go on.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::cache::Change;
use super::lean::{Lean, Watched, selection};
use super::progress::Progress;
use crate::model::objects::Kind;

/// The longest pause: an API server that comes back finds all its agents within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A change, and when it was received.
pub(super) type Received = (Kind, Change, Instant);

type Events<W> = BoxStream<'static, Result<Event<Lean<W>>, watcher::Error>>;

struct Feed<W: Watched> {
    client: Client,
    node_name: String,
    streamed_lists: bool,
    events: Events<W>,
    backoff: DefaultBackoff,
}

/// Sends all changes of the kind until nobody receives them.
pub(super) async fn run<W: Watched>(
    client: Client,
    node_name: String,
    to: mpsc::Sender<Received>,
    progress: Progress,
) {
    let mut feed = Feed::<W> {
        events: events(&client, &node_name, true),
        client,
        node_name,
        streamed_lists: true,
        backoff: DefaultBackoff::default(),
    };
    loop {
        let change = feed.next().await;
        progress.contact();
        if to.send((W::KIND, change, Instant::now())).await.is_err() {
            return;
        }
    }
}

fn events<W: Watched>(client: &Client, node_name: &str, streamed_lists: bool) -> Events<W> {
    let config = selection(W::KIND, node_name);
    let config = if streamed_lists {
        config.streaming_lists()
    } else {
        config
    };
    watcher::watcher(Api::<Lean<W>>::all(client.clone()), config).boxed()
}

impl<W: Watched> Feed<W> {
    async fn next(&mut self) -> Change {
        loop {
            match self.events.next().await {
                Some(Ok(event)) => {
                    // The beginning of a list is no success yet: an error may follow at once, time and again.
                    if !matches!(event, Event::Init) {
                        self.backoff.reset();
                    }
                    return change(event);
                }
                Some(Err(error)) => self.recover(&error).await,
                None => self.start_over(),
            }
        }
    }

    /// The watcher goes on by itself, at the place where it was, unless the server says that this cannot be.
    async fn recover(&mut self, error: &watcher::Error) {
        let kind = W::KIND.name();
        tracing::debug!(kind, %error, "watch failed");
        if let watcher::Error::WatchStartFailed(kube::Error::Api(status)) = error {
            match status.code {
                // Before Kubernetes 1.27, or with the feature gate WatchList off.
                400 | 422 if self.streamed_lists => {
                    tracing::info!(kind, error = %status.message, "the API server streams no lists: they are asked for");
                    self.streamed_lists = false;
                    return self.start_over();
                }
                410 => self.start_over(),
                _ => {}
            }
        }
        let pause = self.backoff.next().unwrap_or(LONGEST_PAUSE);
        sleep(pause.min(LONGEST_PAUSE)).await;
    }

    fn start_over(&mut self) {
        self.events = events(&self.client, &self.node_name, self.streamed_lists);
    }
}

fn change<W>(event: Event<Lean<W>>) -> Change {
    match event {
        Event::Init => Change::Begin,
        Event::InitApply(lean) => Change::Listed(lean.found),
        Event::InitDone => Change::Complete,
        Event::Apply(lean) => Change::Set(lean.found),
        Event::Delete(lean) => Change::Gone(lean.found),
    }
}
