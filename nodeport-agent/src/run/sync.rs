//! Objects and addresses in, maps written: `snapshot -> desired -> reconcile`, whenever something changed.
//!
//! Owns when that happens. Refuses to know how any of it is done. Invariants: nothing is written before the objects are complete
//! and every address of this node is known (behaviours 22.1); what fails is tried again, and stops nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::shared::{Shared, seconds};
use super::surface::Surface;
use super::totals::Totals;
use crate::datapath::ControlMap;
use crate::datapath::devices::{Criteria, Observed};
use crate::host::{Proc, listeners};
use crate::maps::Store;
use crate::model::desired::{Listen, Protocol, ServicePortName};
use crate::model::{
    Compiled, Compiler, Desired, HostAddress, Objects, Severity, Snapshot, snapshot,
};
use crate::observe::SyncStatus;
use crate::plan::{Installed, Ip, Tables};
use crate::reconcile::{Clock, Reconciler, Report};
use crate::source::{Source, Update};

/// How often the maps are read and compared without any change (behaviours 22.8).
const CHECK: Duration = Duration::from_mins(5);

/// The loop's parts.
pub(super) struct Sync<S, C> {
    pub(super) source: Source,
    pub(super) observed: watch::Receiver<Observed>,
    pub(super) criteria: watch::Sender<Criteria>,
    pub(super) control: Arc<ControlMap>,
    pub(super) reconciler: Reconciler<S, C>,
    pub(super) shared: Arc<Shared>,
    pub(super) surface: Surface,
    pub(super) compiler: Compiler,
    pub(super) totals: Totals,
    pub(super) node_name: String,
    pub(super) options: snapshot::Options,
    /// Shortest time between two updates.
    pub(super) min_period: Duration,
    /// Live NodePorts are kept from processes of the node.
    pub(super) holds_node_ports: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Write what changed.
    Apply,
    /// Read the maps first, and mend what somebody else changed.
    Check,
}

/// How long an update of the maps took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    pub(super) pass: Duration,
    /// From the receipt of the oldest change in it.
    pub(super) latency: Option<Duration>,
}

/// When something is to be done.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    min_period: Duration,
    /// End of the last pass.
    last: Option<Instant>,
    /// Something changed.
    due: Option<Instant>,
    /// The last pass left something undone.
    retry: Option<Instant>,
    check: Instant,
}

impl Schedule {
    fn new(min_period: Duration, now: Instant) -> Self {
        Self {
            min_period,
            last: None,
            due: None,
            retry: None,
            check: now + CHECK,
        }
    }

    /// Something changed: at once, unless the last pass was just now. Further changes do not put it off.
    fn changed(&mut self, now: Instant) {
        let earliest = self.last.map_or(now, |last| last + self.min_period);
        self.due.get_or_insert(now.max(earliest));
    }

    /// When the next pass is due.
    fn next(&self) -> Instant {
        [self.due, self.retry]
            .into_iter()
            .flatten()
            .fold(self.check, Instant::min)
    }

    /// What the next pass is.
    fn pass(&self, now: Instant) -> Pass {
        if now >= self.check {
            Pass::Check
        } else {
            Pass::Apply
        }
    }

    fn done(&mut self, now: Instant, pass: Pass, retry_after: Option<Duration>) {
        self.last = Some(now);
        self.due = None;
        self.retry = retry_after.map(|after| now + after);
        // Changes do not put the check off: they look at nothing but themselves.
        if pass == Pass::Check {
            self.check = now + CHECK;
        }
    }

    /// There is nothing to write from yet.
    fn not_yet(&mut self, now: Instant) {
        self.due = None;
        self.retry = None;
        self.check = now + CHECK;
    }
}

impl<S: Store, C: Clock> Sync<S, C> {
    /// Syncs until a source is gone.
    pub(super) async fn run(mut self) {
        let mut objects: Option<Arc<Objects>> = None;
        let mut addresses = BTreeSet::new();
        let mut schedule = Schedule::new(self.min_period, Instant::now());
        let mut complete = false;
        // When the oldest change was received that is not in the maps.
        let mut since: Option<Instant> = None;
        loop {
            tokio::select! {
                next = self.source.next() => match next {
                    Some(Update { objects: next, since: received, news }) => {
                        objects = Some(next);
                        self.surface.news(news);
                        since.get_or_insert(received);
                        schedule.changed(Instant::now());
                        self.surface.queued();
                    }
                    None => return,
                },
                changed = self.observed.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let seen = self.observed.borrow_and_update();
                    let now: BTreeSet<_> = seen.addresses.iter().map(host_address).collect();
                    if now != addresses || seen.complete != complete {
                        (addresses, complete) = (now, seen.complete);
                        schedule.changed(Instant::now());
                        self.surface.queued();
                    }
                },
                () = sleep_until(schedule.next()) => {
                    let now = Instant::now();
                    let Some(objects) = objects.as_ref().filter(|_| complete) else {
                        schedule.not_yet(now);
                        continue;
                    };
                    let snapshot = Snapshot {
                        objects: Arc::clone(objects),
                        node_name: self.node_name.clone(),
                        host_addresses: addresses.clone(),
                        options: self.options.clone(),
                    };
                    let pass = schedule.pass(now);
                    let retry = tokio::task::block_in_place(|| self.sync(&snapshot, pass, since.take()));
                    schedule.done(Instant::now(), pass, retry);
                }
            }
        }
    }

    /// One pass. Returns when to try again what could not be done.
    fn sync(
        &mut self,
        snapshot: &Snapshot,
        pass: Pass,
        since: Option<Instant>,
    ) -> Option<Duration> {
        let started = Instant::now();
        self.criteria.send_if_modified(|criteria| {
            let known: BTreeSet<IpAddr> = snapshot
                .node()
                .map(|node| node.primary_addresses.iter().copied().collect())
                .unwrap_or_default();
            let changed = criteria.node_addresses != known;
            criteria.node_addresses = known;
            changed
        });
        if let Err(error) = self.control.set_node(&snapshot.own_addresses()) {
            tracing::error!(%error, "the programs do not know the node's address");
        }
        let compiled = self.compiler.compile(snapshot).clone();
        let report = match pass {
            Pass::Apply => self.reconciler.apply(&compiled.desired),
            Pass::Check => self.reconciler.check(&compiled.desired),
        };
        let took = Took {
            pass: started.elapsed(),
            latency: since.map(|since| since.elapsed()),
        };
        let renamed = self.totals.follow(&compiled.desired);
        self.tell(snapshot, &compiled, &report, took);
        self.surface.rename(renamed);
        self.surface.count(&self.totals);
        self.surface
            .synced(snapshot, &compiled, &report, took, pass == Pass::Check);
        self.source.tell(snapshot, &compiled.reports);
        report.retry_after
    }

    /// Logs what is new, and leaves the rest for `status`.
    fn tell(&self, snapshot: &Snapshot, compiled: &Compiled, report: &Report, took: Took) {
        let mut synced = self.shared.synced();
        for report in compiled.reports.new_since(&synced.rejected) {
            match report.severity() {
                Severity::Note => tracing::info!("{report}"),
                Severity::Warning => tracing::warn!("{report}"),
                Severity::Error => tracing::error!("{report}"),
            }
        }
        let errors = errors(report);
        let before = synced.sync.take().unwrap_or_default();
        for error in errors.iter().filter(|error| !before.errors.contains(error)) {
            tracing::error!("{error}");
        }
        if !synced.ready && report.failed.is_empty() {
            tracing::info!(
                frontends = compiled.desired.frontends.len(),
                steps = report.steps,
                took = ?took.pass,
                "the first complete state is in the maps"
            );
        } else if report.steps > 0 {
            tracing::debug!(
                steps = report.steps,
                entries = report.entries,
                took = ?took.pass,
                latency = ?took.latency,
                "maps updated"
            );
        }
        if !synced.ready && self.holds_node_ports {
            for listener in listeners::in_the_way(&Proc::default(), &node_ports(&compiled.desired))
            {
                tracing::warn!("{listener}");
                synced.listeners.push(listener);
            }
        }
        synced.ready |= report.failed.is_empty();
        synced.rejected = compiled.reports.clone();
        synced.counts = counts(snapshot, &compiled.desired, &self.totals);
        synced.entries = entries(self.reconciler.installed());
        synced.names = self.reconciler.installed().ids().names();
        synced.sync = Some(SyncStatus {
            at: seconds(SystemTime::now()),
            millis: u64::try_from(took.pass.as_millis()).unwrap_or(u64::MAX),
            latency_micros: (took.latency)
                .map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
            total: before.total + 1,
            steps: report.steps as u64,
            retries: before.retries + u64::from(report.retry_after.is_some()),
            errors,
        });
    }
}

/// Entries of the maps that the plan fills.
fn entries(installed: &Installed) -> BTreeMap<String, u64> {
    fn family<A: Ip>(tables: &Tables<A>) -> [(&'static str, u64); 5] {
        let slots = tables.sets().slots();
        [
            (A::FRONTENDS, tables.frontends().len() as u64),
            (
                A::BACKENDS,
                u64::from(slots.capacity().saturating_sub(slots.available())),
            ),
            (A::ADDRESSES, tables.addresses().len() as u64),
            (A::SERVING, u64::from(tables.serving_len())),
            (A::SOURCES, u64::from(tables.sources_len())),
        ]
    }
    let both = family(installed.v4())
        .into_iter()
        .chain(family(installed.v6()));
    both.map(|(map, entries)| (map.to_lowercase(), entries))
        .collect()
}

/// What was not done, in words.
fn errors(report: &Report) -> Vec<String> {
    let of = |name: Option<&ServicePortName>| name.map(|name| format!("{name}: "));
    let failed = report.failed.iter().map(|failed| {
        let whose = of(failed.service_port.as_ref()).unwrap_or_default();
        let step = if failed.step.is_empty() {
            String::new()
        } else {
            format!("{}: ", failed.step)
        };
        format!("{whose}{step}{}", failed.error)
    });
    let refused = report.refused.iter().map(|refused| {
        let whose = of(refused.service_port.as_ref()).unwrap_or_default();
        format!(
            "{whose}{} stays as it was: {}",
            refused.family, refused.reason
        )
    });
    failed.chain(refused).collect()
}

/// The ports of all NodePorts.
fn node_ports(desired: &Desired) -> BTreeSet<(Protocol, u16)> {
    let ids = desired.frontends.keys();
    ids.filter(|id| matches!(id.listen, Listen::Node(_)))
        .map(|id| (id.protocol, id.port))
        .collect()
}

fn host_address(&(device, address): &(u32, IpAddr)) -> HostAddress {
    HostAddress { address, device }
}

fn counts(snapshot: &Snapshot, desired: &Desired, totals: &Totals) -> BTreeMap<String, u64> {
    [
        ("services", snapshot.objects.services.len()),
        ("endpoint_slices", snapshot.objects.endpoint_slices.len()),
        ("nodes", snapshot.objects.nodes.len()),
        ("frontends", desired.frontends.len()),
        ("backends", totals.backends()),
        ("node_port_addresses", desired.node_port_addresses.len()),
    ]
    .into_iter()
    .map(|(name, count)| (name.to_owned(), count as u64))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    #[test]
    fn a_change_after_a_quiet_time_is_written_at_once() {
        let now = Instant::now();
        let mut schedule = Schedule::new(PERIOD, now);
        schedule.changed(now);
        assert_eq!(schedule.next(), now);
        assert_eq!(schedule.pass(now), Pass::Apply);
    }

    #[test]
    fn changes_within_the_shortest_period_are_written_together() {
        let start = Instant::now();
        let mut schedule = Schedule::new(PERIOD, start);
        schedule.done(start, Pass::Apply, None);
        schedule.changed(start + PERIOD / 4);
        schedule.changed(start + PERIOD / 2);
        assert_eq!(schedule.next(), start + PERIOD);
    }

    #[test]
    fn what_could_not_be_done_is_tried_again_and_the_maps_are_checked_now_and_then() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Duration::ZERO, start);
        schedule.done(start, Pass::Apply, Some(PERIOD));
        assert_eq!(schedule.next(), start + PERIOD);
        schedule.done(start + PERIOD, Pass::Apply, None);
        assert_eq!(schedule.next(), start + CHECK);
        assert_eq!(schedule.pass(schedule.next()), Pass::Check);
        schedule.done(start + CHECK, Pass::Check, None);
        assert_eq!(schedule.next(), start + 2 * CHECK);
    }

    #[test]
    fn without_objects_nothing_is_due() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Duration::ZERO, start);
        schedule.changed(start);
        schedule.not_yet(start);
        assert_eq!(schedule.next(), start + CHECK);
    }
}
