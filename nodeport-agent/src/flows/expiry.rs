//! Walks the tables of flows for as long as the agent lives.
//!
//! Owns when each table is walked. Refuses to know how. Invariant: a walk gives way: it pauses between portions, so that it never
//! takes a core from the packets.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nodeport_common::{Flow, FlowKey, V4, V6};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::pass::{Walked, Walker};
use super::table::Watched;
use super::tally::{Counted, Tally};
use super::verdict::{Lifetimes, Now, Table};
use crate::datapath::devices::UsedHops;
use crate::datapath::{DatapathError, Loaded, chain};
use crate::maps::{Flows, KernelMap, KernelStore, Map, Pending, StoreError};

/// How often the state of the tables is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Time between two walks over established flows, if they are few: the shortest lifetime, that of a reset connection.
const ESTABLISHED_EVERY: Duration = Duration::from_secs(10);
/// A walk over many is followed by so many times what it took of a core, so that all walks together take no more than that part of one.
const SHARE: u32 = 33;
/// However many they are, they are walked over as often as this.
const ESTABLISHED_AT_LEAST: Duration = Duration::from_mins(1);
/// Time between two walks over pending flows: their table makes room by itself.
const PENDING_EVERY: Duration = Duration::from_secs(30);
/// Pause between two portions of a walk.
const PAUSE: Duration = Duration::from_millis(2);

/// Why a walk failed.
#[derive(Debug, thiserror::Error)]
pub enum ExpiryError {
    /// The tables.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The clock.
    #[error(transparent)]
    Clock(#[from] DatapathError),
}

/// Hears what each walk did: name of the map, and the walk.
pub type Tell = Box<dyn FnMut(&'static str, Walked) + Send>;

/// The kernel's clock.
struct Clock {
    loaded: Arc<Mutex<Loaded>>,
    hz: u32,
}

/// One map and its walker.
struct Path<A, M> {
    map: KernelMap<M>,
    walker: Walker<A>,
}

/// Walks all tables.
pub struct Expiry {
    store: KernelStore,
    clock: Clock,
    lifetimes: Lifetimes,
    established: (Path<V4, Flows<V4>>, Path<V6, Flows<V6>>),
    pending: (Path<V4, Pending<V4>>, Path<V6, Pending<V6>>),
    /// How many flows were refused because their table was full, when last looked at.
    refused: u64,
    hops: Arc<UsedHops>,
    tell: Tell,
    tally: Arc<Mutex<Tally>>,
    /// What the time of the tally is measured from.
    start: Instant,
}

impl Expiry {
    /// Opens the tables.
    ///
    /// # Errors
    /// [`StoreError`] if one is missing.
    pub fn new(
        store: KernelStore,
        loaded: Arc<Mutex<Loaded>>,
        hz: u32,
        hops: Arc<UsedHops>,
        tell: Tell,
    ) -> Result<Self, StoreError> {
        let mut this = Self {
            established: (
                Path::open(&store, Table::Established)?,
                Path::open(&store, Table::Established)?,
            ),
            pending: (
                Path::open(&store, Table::Pending)?,
                Path::open(&store, Table::Pending)?,
            ),
            store,
            clock: Clock { loaded, hz },
            lifetimes: Lifetimes::default(),
            refused: 0,
            hops,
            tell,
            tally: Arc::new(Mutex::new(Tally::new(0))),
            start: Instant::now(),
        };
        this.refused = this.refused_now();
        Ok(this)
    }

    /// Shows every entry to a tally.
    #[must_use]
    pub fn tallying(self, tally: Arc<Mutex<Tally>>) -> Self {
        Self { tally, ..self }
    }

    /// With other lifetimes than the usual ones.
    #[must_use]
    pub fn living(self, lifetimes: Lifetimes) -> Self {
        Self { lifetimes, ..self }
    }

    /// Walks until it is dropped, on threads that may block.
    pub async fn run(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let start = Instant::now();
        let (mut established, mut pending) = (start, start);
        loop {
            let now = ticks.tick().await;
            let due = Due {
                pressure: self.is_refusing(),
                established: now >= established,
                pending: now >= pending,
            };
            if !(due.pressure || due.established || due.pending) {
                continue;
            }
            let walk = tokio::task::spawn_blocking(move || {
                let before = thread_time();
                self.walk(due);
                (self, thread_time().saturating_sub(before))
            });
            let cost;
            match walk.await {
                Ok((back, took)) => {
                    self = back;
                    cost = took;
                }
                Err(error) => {
                    tracing::error!(%error, "flows are not expired any more");
                    return;
                }
            }
            if due.established || due.pressure {
                established = now + pause_after(cost);
            }
            if due.pending {
                pending = now + PENDING_EVERY;
            }
        }
    }

    fn now_secs(&self) -> u32 {
        u32::try_from(self.start.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    fn walk(&mut self, due: Due) {
        let lifetimes = if due.pressure {
            tracing::warn!(
                "the table of established flows is full (--flows-max): closed flows are removed early"
            );
            self.lifetimes.under_pressure()
        } else {
            self.lifetimes
        };
        let now_secs = self.now_secs();
        let mut walking = Walking {
            clock: &self.clock,
            lifetimes,
            hops: &self.hops,
            tell: &mut self.tell,
            tally: &self.tally,
            now_secs,
        };
        if due.established || due.pressure {
            walking.walk(&mut self.established.0);
            walking.walk(&mut self.established.1);
        }
        if due.pending {
            walking.walk(&mut self.pending.0);
            walking.walk(&mut self.pending.1);
        }
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.forget(self.now_secs());
    }

    /// Whether flows were refused since the last question.
    fn is_refusing(&mut self) -> bool {
        let now = self.refused_now();
        std::mem::replace(&mut self.refused, now) < now
    }

    fn refused_now(&self) -> u64 {
        match self.store.outcomes() {
            Ok(hooks) => hooks
                .iter()
                .map(|(_, counters)| counters.flow_table_full)
                .sum(),
            Err(error) => {
                tracing::debug!(%error, "cannot read the counters");
                self.refused
            }
        }
    }
}

/// Which walks are due.
#[derive(Clone, Copy, Debug)]
struct Due {
    /// Flows were refused.
    pressure: bool,
    established: bool,
    pending: bool,
}

impl<A, M> Path<A, M>
where
    A: Counted,
    M: Map<Key = FlowKey<A>, Value = Flow<A>>,
{
    fn open(store: &KernelStore, table: Table) -> Result<Self, StoreError> {
        Ok(Self {
            map: store.map()?,
            walker: Walker::new(table),
        })
    }
}

/// What walks over all tables share.
struct Walking<'a> {
    clock: &'a Clock,
    lifetimes: Lifetimes,
    hops: &'a UsedHops,
    tell: &'a mut Tell,
    tally: &'a Mutex<Tally>,
    now_secs: u32,
}

impl Walking<'_> {
    fn walk<A, M>(&mut self, path: &mut Path<A, M>)
    where
        A: Counted,
        M: Map<Key = FlowKey<A>, Value = Flow<A>>,
    {
        let mut now = || self.clock.now();
        let mut pause = || thread::sleep(PAUSE);
        let table = match now() {
            Ok(now) => Watched::new(&path.map, now, self.tally, self.now_secs),
            Err(error) => {
                tracing::error!(error = %chain(&error), "flows cannot be expired");
                return;
            }
        };
        match path
            .walker
            .walk(&table, &self.lifetimes, &mut now, &mut pause)
        {
            Ok(mut walked) => {
                walked.snat = table.snat();
                if walked.expired + walked.orphans + walked.mended > 0 {
                    tracing::debug!(map = M::NAME, ?walked, "flows expired");
                }
                self.hops.replace(M::NAME, table.hops());
                (self.tell)(M::NAME, walked);
            }
            Err::<_, ExpiryError>(error) => {
                tracing::error!(map = M::NAME, error = %chain(&error), "flows cannot be expired");
            }
        }
    }
}

/// When the next walk over established flows is due after one that took so much of a core.
fn pause_after(took: Duration) -> Duration {
    (took * SHARE).clamp(ESTABLISHED_EVERY, ESTABLISHED_AT_LEAST)
}

/// What this thread took of a core so far.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

impl Clock {
    fn now(&self) -> Result<Now, ExpiryError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Now {
            jiffies: loaded.jiffies()?,
            hz: self.hz,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_over_many_flows_is_followed_by_a_longer_pause_up_to_a_limit() {
        assert_eq!(pause_after(Duration::from_millis(20)), ESTABLISHED_EVERY);
        let second = Duration::from_secs(1);
        assert_eq!(pause_after(second), 33 * second);
        assert_eq!(pause_after(10 * second), ESTABLISHED_AT_LEAST);
    }

    #[test]
    fn the_time_of_a_thread_goes_on_while_it_works() {
        let before = thread_time();
        let mut sum = 0_u64;
        while thread_time() <= before {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(thread_time() > before);
    }
}
