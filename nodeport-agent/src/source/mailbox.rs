//! The latest complete set of objects on its way from a source to who applies it.
//!
//! Owns the hand-over. It refuses to know either end. Invariant: a set that was not taken gives way to the next one, but the time of
//! its oldest change stays, because a latency counts from there, and so does what changed in it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::News;
use crate::model::Objects;

/// A complete set.
#[derive(Clone, Debug)]
pub struct Update {
    /// The objects.
    pub objects: Arc<Objects>,
    /// When the oldest change in it was received.
    pub since: Instant,
    /// What changed since the set that was taken before.
    pub news: News,
}

/// The end that gives.
#[derive(Debug)]
pub(super) struct Giver(Arc<Shared>);

/// The end that takes.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Taker(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    update: Option<Update>,
    closed: bool,
}

/// Both ends.
pub(super) fn mailbox() -> (Giver, Taker) {
    let shared = Arc::<Shared>::default();
    (Giver(Arc::clone(&shared)), Taker(shared))
}

impl Giver {
    /// Puts a set in the place of one that was not taken.
    pub(super) fn give(&self, mut update: Update) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(older) = state.update.take() {
            update.since = older.since.min(update.since);
            let later = std::mem::replace(&mut update.news, older.news);
            update.news.add(later);
        }
        state.update = Some(update);
        drop(state);
        self.0.news.notify_one();
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        self.0
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.0.news.notify_one();
    }
}

impl Taker {
    /// Waits for a set; `None` if there will be no more.
    pub(super) async fn take(&mut self) -> Option<Update> {
        loop {
            {
                let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(update) = state.update.take() {
                    return Some(update);
                }
                if state.closed {
                    return None;
                }
            }
            self.0.news.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn news(services: u64) -> News {
        News {
            services,
            ..News::default()
        }
    }

    #[tokio::test]
    async fn the_latest_set_is_taken_with_the_time_of_the_oldest_change() {
        let (giver, mut taker) = mailbox();
        let start = Instant::now();
        let (old, new) = (Arc::<Objects>::default(), Arc::<Objects>::default());
        giver.give(Update {
            objects: old,
            since: start,
            news: news(1),
        });
        giver.give(Update {
            objects: Arc::clone(&new),
            since: start + Duration::from_secs(1),
            news: news(2),
        });
        let taken = taker.take().await.expect("a set");
        assert!(Arc::ptr_eq(&taken.objects, &new));
        assert_eq!(taken.since, start);
        assert_eq!(taken.news, news(3));
        giver.give(Update {
            objects: new,
            since: start + Duration::from_secs(2),
            news: news(4),
        });
        drop(giver);
        let taken = taker.take().await.expect("the last set is not lost");
        assert_eq!(taken.since, start + Duration::from_secs(2));
        assert_eq!(taken.news, news(4));
        assert!(taker.take().await.is_none());
    }
}
