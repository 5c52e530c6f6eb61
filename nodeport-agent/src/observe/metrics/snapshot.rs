//! Metrics that are read when somebody asks, out of what `status` knows.
//!
//! Owns how a status becomes series. Refuses to read maps. Invariant: nothing of an earlier answer is left in a later one, so that a device
//! that went away goes from the metrics too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use super::catalog::{self, Metric, Type};
use crate::datapath::devices::HookState;
use crate::flows::tally::{Sum, Whose};
use crate::model::desired::ServicePortName;
use crate::observe::Status;
use crate::source::kubernetes::SourceStatus;

/// The series of a status.
///
/// # Errors
/// A metric of the catalog cannot be made.
pub(super) fn families(
    status: &Status,
    sums: &BTreeMap<Whose, Sum>,
) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let mut series = Series::default();
    series.set(&catalog::BUILD, &[&status.version], 1);
    series.set(&catalog::READY, &[], u64::from(status.ready));
    series.set(&catalog::PROBLEMS, &[], status.problems.len() as u64);
    let sync = status.sync.as_ref();
    series.set(&catalog::UPDATES, &[], sync.map_or(0, |sync| sync.total));
    series.set(
        &catalog::UPDATE_ERRORS,
        &[],
        sync.map_or(0, |sync| sync.errors.len() as u64),
    );
    series.set(
        &catalog::UPDATE_RETRIES,
        &[],
        sync.map_or(0, |sync| sync.retries),
    );
    source(&mut series, &status.source);
    for (hook, outcomes) in &status.outcomes {
        for (outcome, packets) in outcomes {
            series.set(&catalog::PACKETS, &[hook, outcome], *packets);
        }
    }
    let mut severities: BTreeMap<&str, u64> = BTreeMap::new();
    for report in &status.rejected {
        *severities
            .entry(report["severity"].as_str().unwrap_or_default())
            .or_default() += 1;
    }
    for (severity, reports) in severities {
        series.set(&catalog::REJECTED, &[severity], reports);
    }
    counts(&mut series, status);
    for (map, entries) in &status.capacities {
        series.set(&catalog::CAPACITY, &[map], *entries);
    }
    for (map, entries) in &status.entries {
        series.set(&catalog::MAP_ENTRIES, &[map], *entries);
    }
    series.set(&catalog::SNAT_PORTS, &[], status.snat_ports);
    for (table, ports) in &status.snat {
        series.set(&catalog::SNAT_IN_USE, &[table], ports.in_use);
        series.set(&catalog::SNAT_BUSIEST, &[table], ports.busiest);
    }
    programs(&mut series, status);
    for (whose, sum) in sums {
        endpoint(&mut series, whose.as_ref(), sum);
    }
    series.families()
}

/// How many of each thing there are.
fn counts(series: &mut Series, status: &Status) {
    for (name, count) in &status.counts {
        if let Some(table) = name.strip_suffix("_entries") {
            series.set(&catalog::FLOW_ENTRIES, &[table], *count);
        } else if let Some(reason) = name
            .strip_prefix("flows_")
            .or_else(|| name.strip_prefix("flow_"))
        {
            series.set(&catalog::FLOWS_ENDED, &[reason], *count);
        } else {
            series.set(&catalog::OBJECTS, &[name], *count);
        }
    }
}

/// How the source of objects is doing.
fn source(series: &mut Series, source: &SourceStatus) {
    series.set(&catalog::SOURCE_SYNCED, &[], u64::from(source.synced));
    for resource in &source.answering {
        series.set(&catalog::SOURCE_CONNECTED, &[resource], 1);
    }
    for resource in source.failing.keys() {
        series.set(&catalog::SOURCE_CONNECTED, &[resource], 0);
    }
    if let Some(contact) = source.last_contact {
        series.set(&catalog::SOURCE_CONTACT, &[], contact);
    }
}

/// Which programs are attached to which device.
fn programs(series: &mut Series, status: &Status) {
    for device in &status.devices {
        let role = format!("{:?}", device.role).to_lowercase();
        let mut program = |hook: &str, state: &HookState| {
            let mode = state.mode.map_or_else(
                || "off".to_owned(),
                |mode| format!("{mode:?}").to_lowercase(),
            );
            let attached = u64::from(state.mode.is_some());
            series.set(
                &catalog::PROGRAMS,
                &[&device.name, &role, hook, &mode],
                attached,
            );
        };
        if let Some(state) = &device.xdp {
            program("xdp", state);
        }
        program("tc_ingress", &device.tc_ingress);
        program("tc_egress", &device.tc_egress);
    }
}

/// What was counted of one endpoint, or of all that exceed the cap.
fn endpoint(series: &mut Series, whose: Option<&(Arc<ServicePortName>, SocketAddr)>, sum: &Sum) {
    let protocol = whose.map_or_else(String::new, |(name, _)| name.protocol.to_string());
    let backend = whose.map_or_else(String::new, |(_, backend)| backend.to_string());
    let (namespace, service, port) = whose.map_or(("", "", ""), |(name, _)| {
        (&*name.namespace, &*name.name, &*name.port)
    });
    let labels = [namespace, service, port, &protocol, &backend];
    series.set(&catalog::BACKEND_CONNECTIONS, &labels, sum.connections);
    for (direction, name) in ["in", "out"].into_iter().enumerate() {
        let labels = [&labels[..], &[name]].concat();
        series.set(&catalog::BACKEND_PACKETS, &labels, sum.packets[direction]);
        series.set(&catalog::BACKEND_BYTES, &labels, sum.bytes[direction]);
    }
}

/// Values by metric and labels.
#[derive(Default)]
struct Series(BTreeMap<&'static str, (Option<Metric>, Values)>);

/// Values by values of labels.
type Values = BTreeMap<Vec<String>, u64>;

impl Series {
    fn set(&mut self, metric: &Metric, labels: &[&str], value: u64) {
        let (known, values) = self.0.entry(metric.name).or_default();
        *known = Some(*metric);
        values.insert(
            labels.iter().map(|label| (*label).to_owned()).collect(),
            value,
        );
    }

    fn families(self) -> Result<Vec<MetricFamily>, prometheus::Error> {
        let mut families = Vec::new();
        for (metric, values) in self.0.into_values() {
            let Some(metric) = metric else { continue };
            let opts = Opts::new(metric.name, metric.help);
            if metric.of == Type::Counter {
                let counters = IntCounterVec::new(opts, metric.labels)?;
                for (labels, value) in values {
                    counters.with_label_values(&labels).inc_by(value);
                }
                families.extend(counters.collect());
            } else {
                let gauges = IntGaugeVec::new(opts, metric.labels)?;
                for (labels, value) in values {
                    gauges
                        .with_label_values(&labels)
                        .set(i64::try_from(value).unwrap_or(i64::MAX));
                }
                families.extend(gauges.collect());
            }
        }
        Ok(families)
    }
}
