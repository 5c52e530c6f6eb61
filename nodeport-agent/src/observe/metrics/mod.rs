//! Metrics for Prometheus: kube-proxy's where they mean the same, and our own.
//!
//! Owns what is counted by the agent itself; what the programs count is read when somebody asks. Refuses to listen. Invariant: names,
//! labels and buckets come from the [`catalog`] alone.

pub mod catalog;
mod snapshot;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::Status;
use super::health::name;
use super::http::Answer;
use crate::flows::tally::{Sum, Whose};
use crate::model::desired::Family;
use catalog::{Metric, Type};

/// `Content-Type` of the text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric cannot be made. The catalog is wrong: a test makes all of them.
pub type MetricsError = prometheus::Error;

/// What the agent counts itself.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sync: HistogramVec,
    full: HistogramVec,
    partial: HistogramVec,
    latency: Histogram,
    last: GaugeVec,
    queued: GaugeVec,
    no_local: IntGaugeVec,
    programming: HistogramVec,
    changes: [Changes; 2],
    update_pending: IntGauge,
    healthz: IntCounterVec,
    livez: IntCounterVec,
}

/// Changes of one kind of object.
#[derive(Debug)]
struct Changes {
    total: IntCounter,
    pending: IntGauge,
}

impl Changes {
    fn new(registry: &Registry, total: &Metric, pending: &Metric) -> Result<Self, MetricsError> {
        Ok(Self {
            total: registered(registry, IntCounter::with_opts(opts(total))?)?,
            pending: registered(registry, IntGauge::with_opts(opts(pending))?)?,
        })
    }

    fn add(&self, changes: u64) {
        self.total.inc_by(changes);
        self.pending.add(i64::try_from(changes).unwrap_or(i64::MAX));
    }
}

fn opts(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, MetricsError> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histogram(registry: &Registry, metric: &Metric) -> Result<HistogramVec, MetricsError> {
    registered(
        registry,
        HistogramVec::new(histogram_opts(metric), metric.labels)?,
    )
}

fn histogram_opts(metric: &Metric) -> HistogramOpts {
    let buckets = match metric.of {
        Type::Histogram(buckets) => buckets.bounds(),
        Type::Counter | Type::Gauge => Vec::new(),
    };
    HistogramOpts::from(opts(metric)).buckets(buckets)
}

impl Metrics {
    /// Nothing counted yet.
    ///
    /// # Errors
    /// A metric of the catalog cannot be made.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        let gauge =
            |metric: &Metric| registered(&registry, GaugeVec::new(opts(metric), metric.labels)?);
        let counter = |metric: &Metric| {
            registered(&registry, IntCounterVec::new(opts(metric), metric.labels)?)
        };
        let metrics = Self {
            sync: histogram(&registry, &catalog::SYNC)?,
            full: histogram(&registry, &catalog::SYNC_FULL)?,
            partial: histogram(&registry, &catalog::SYNC_PARTIAL)?,
            latency: registered(
                &registry,
                Histogram::with_opts(histogram_opts(&catalog::UPDATE_LATENCY))?,
            )?,
            last: gauge(&catalog::LAST_SYNC)?,
            queued: gauge(&catalog::LAST_QUEUED)?,
            no_local: registered(
                &registry,
                IntGaugeVec::new(opts(&catalog::NO_LOCAL), catalog::NO_LOCAL.labels)?,
            )?,
            programming: histogram(&registry, &catalog::PROGRAMMING)?,
            changes: [
                Changes::new(
                    &registry,
                    &catalog::SERVICE_CHANGES,
                    &catalog::SERVICE_CHANGES_PENDING,
                )?,
                Changes::new(
                    &registry,
                    &catalog::ENDPOINT_CHANGES,
                    &catalog::ENDPOINT_CHANGES_PENDING,
                )?,
            ],
            update_pending: registered(
                &registry,
                IntGauge::with_opts(opts(&catalog::UPDATE_PENDING))?,
            )?,
            healthz: counter(&catalog::HEALTHZ)?,
            livez: counter(&catalog::LIVEZ)?,
            registry,
        };
        metrics.start();
        Ok(metrics)
    }

    /// Series that are known from the beginning are there from the beginning, as zero.
    fn start(&self) {
        for family in Family::ALL.map(name) {
            for histogram in [&self.sync, &self.full, &self.partial] {
                histogram.with_label_values(&[family]);
            }
            self.last.with_label_values(&[family]);
            self.queued.with_label_values(&[family]);
            for policy in ["internal", "external"] {
                self.no_local.with_label_values(&[family, policy]);
            }
        }
    }

    /// Objects changed: so many Services, so many EndpointSlices.
    pub fn changed(&self, services: u64, endpoint_slices: u64) {
        self.changes[0].add(services);
        self.changes[1].add(endpoint_slices);
    }

    /// All that changed is in the maps.
    pub fn nothing_pending(&self) {
        for changes in &self.changes {
            changes.pending.set(0);
        }
        self.update_pending.set(0);
    }

    /// A change of endpoints of a family is in the maps, so long after it happened in the cluster.
    pub fn programmed(&self, family: Family, took: Duration) {
        self.programming
            .with_label_values(&[name(family)])
            .observe(took.as_secs_f64());
    }

    /// An update became due.
    pub fn queued(&self) {
        self.update_pending.set(1);
        for family in Family::ALL.map(name) {
            self.queued
                .with_label_values(&[family])
                .set(seconds(SystemTime::now()));
        }
    }

    /// An update ended.
    pub fn synced(&self, took: Duration, full: bool) {
        let other = if full { &self.full } else { &self.partial };
        for family in Family::ALL.map(name) {
            self.sync
                .with_label_values(&[family])
                .observe(took.as_secs_f64());
            other
                .with_label_values(&[family])
                .observe(took.as_secs_f64());
        }
    }

    /// The oldest change of an update is in the maps, so long after it was received.
    pub fn applied(&self, latency: Duration) {
        self.latency.observe(latency.as_secs_f64());
    }

    /// Everything of a family is written.
    pub fn written(&self, family: Family) {
        self.last
            .with_label_values(&[name(family)])
            .set(seconds(SystemTime::now()));
    }

    /// Service ports with the policy Local and without an endpoint here.
    pub fn set_no_local(&self, family: Family, policy: &str, ports: usize) {
        let ports = i64::try_from(ports).unwrap_or(i64::MAX);
        self.no_local
            .with_label_values(&[name(family), policy])
            .set(ports);
    }

    /// Somebody asked for the health of the agent.
    pub fn asked(&self, path: &str, good: bool) {
        let counter = if path == "/livez" {
            &self.livez
        } else {
            &self.healthz
        };
        counter
            .with_label_values(&[if good { "200" } else { "503" }])
            .inc();
    }

    /// The answer of `/metrics`.
    #[must_use]
    pub fn answer(&self, status: &Status, sums: &BTreeMap<Whose, Sum>) -> Answer {
        let mut families = self.registry.gather();
        match snapshot::families(status, sums) {
            Ok(more) => families.extend(more),
            Err(error) => tracing::error!(%error, "metrics cannot be given"),
        }
        families.sort_by(|a, b| a.name().cmp(b.name()));
        encode(&families)
    }

    /// The answer of `/metrics/slis`: whether the agent is healthy, as Kubernetes' components say it.
    #[must_use]
    pub fn slis(healthy: bool) -> Answer {
        let value = u8::from(healthy);
        let text = format!(
            "# HELP kubernetes_healthcheck Whether a check succeeds (1) or not (0).\n# TYPE kubernetes_healthcheck gauge\n\
             kubernetes_healthcheck{{name=\"livez\",type=\"livez\"}} {value}\n"
        );
        Answer {
            content_type: CONTENT_TYPE,
            ..Answer::text(text)
        }
    }
}

fn encode(families: &[prometheus::proto::MetricFamily]) -> Answer {
    let mut text = Vec::new();
    match TextEncoder::new().encode(families, &mut text) {
        Ok(()) => Answer {
            content_type: CONTENT_TYPE,
            ..Answer::text(text)
        },
        Err(error) => Answer::json(false, error.to_string().into_bytes()),
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
