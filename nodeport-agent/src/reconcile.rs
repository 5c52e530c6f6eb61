//! Bringing the maps in line with the desired state, pass by pass.
//!
//! Owns the picture of the maps and the store they are in. It refuses to know where the desired state comes from and when a
//! pass is due. Invariants: nothing is written before the first complete desired state is given (behaviours 22.1, 22.2), and
//! a pass that ends anywhere leaves a state from which the next one, in this process or another, gets there (edge-cases I2).

mod execute;
mod report;

use std::time::{Duration, Instant};

use crate::maps::{Store, StoreError, read_contents};
use crate::model::desired::Desired;
use crate::plan::{Installed, Plan, Reason, diff, diff_since};

use execute::Execution;
pub use report::{Failed, Report};

/// How long slots rest after the last front end that named them was replaced. Programs finish in microseconds.
pub const GRACE: Duration = Duration::from_secs(1);

/// How soon a pass in which writes failed is repeated.
const RETRY: Duration = Duration::from_secs(1);

/// A clock that only goes forward.
pub trait Clock {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;
}

/// The system's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic(Instant);

impl Default for Monotonic {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Owns the maps' contents. There may be only one for the same maps.
#[derive(Debug)]
pub struct Reconciler<S, C> {
    store: S,
    clock: C,
    installed: Installed,
    /// A write failed, so that the picture of the maps may be wrong.
    doubtful: bool,
    /// What the maps say, if they say all that was desired: the next pass looks at nothing but the difference.
    in_place: Option<Desired>,
}

impl<S: Store, C: Clock> Reconciler<S, C> {
    /// Takes up what is in the maps. It only reads.
    ///
    /// # Errors
    /// A map that is not there or cannot be read.
    pub fn adopt(store: S, clock: C) -> Result<Self, StoreError> {
        let installed = Installed::adopt(&read_contents(&store)?, &read_contents(&store)?);
        Ok(Self {
            store,
            clock,
            installed,
            doubtful: false,
            in_place: None,
        })
    }

    /// Makes the maps say what is desired, as far as possible. The desired state must be complete: whatever it does not
    /// name is removed.
    pub fn apply(&mut self, desired: &Desired) -> Report {
        if self.doubtful
            && let Err(error) = self.read_again()
        {
            return unreadable(&error);
        }
        self.pass(desired)
    }

    /// Reads the maps and repairs what someone else changed (behaviours 22.8). The report tells the repairs.
    pub fn check(&mut self, desired: &Desired) -> Report {
        match self.read_again() {
            Ok(()) => self.pass(desired),
            Err(error) => unreadable(&error),
        }
    }

    /// What the next pass would do.
    #[must_use]
    pub fn plan(&mut self, desired: &Desired) -> Plan {
        self.installed.release(self.clock.now(), GRACE);
        let before = self.in_place.as_ref();
        before
            .and_then(|before| diff_since(before, desired, &self.installed))
            .unwrap_or_else(|| diff(desired, &self.installed))
    }

    /// What is in the maps, with the names of service ports.
    #[must_use]
    pub fn installed(&self) -> &Installed {
        &self.installed
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The store, for what is not part of the desired state: devices, control, flows.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// The store, by value; the maps stay as they are.
    pub fn into_store(self) -> S {
        self.store
    }

    fn pass(&mut self, desired: &Desired) -> Report {
        let plan = self.plan(desired);
        let waits = plan.refused.iter().any(
            |refused| matches!(refused.reason, Reason::NoSlots { resting, .. } if resting > 0),
        );
        let execution = Execution::new(&mut self.store, &mut self.installed);
        let mut report = execution.run(&plan);
        report.refused = plan.refused;
        self.in_place = report.is_complete().then(|| desired.clone());
        self.doubtful = !report.failed.is_empty();
        self.installed.finish(!self.doubtful, self.clock.now());
        if self.doubtful {
            report.retry_after = Some(RETRY);
        } else if waits {
            report.retry_after = Some(GRACE);
        }
        report
    }

    fn read_again(&mut self) -> Result<(), StoreError> {
        let (v4, v6) = (read_contents(&self.store)?, read_contents(&self.store)?);
        self.installed = self.installed.adopt_again(&v4, &v6, self.clock.now());
        self.doubtful = false;
        self.in_place = None;
        Ok(())
    }
}

fn unreadable(error: &StoreError) -> Report {
    Report {
        failed: vec![Failed {
            service_port: None,
            map: error.map(),
            step: String::new(),
            error: error.to_string(),
        }],
        retry_after: Some(RETRY),
        ..Report::default()
    }
}

#[cfg(test)]
mod tests;
