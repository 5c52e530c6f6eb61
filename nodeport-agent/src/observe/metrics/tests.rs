//! The text that is given, beside what a real kube-proxy gave.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::datapath::Mode;
use crate::datapath::devices::{DeviceState, HookState, Role};
use crate::observe::SyncStatus;

const RECORDED: &str = include_str!("../../../tests/kube-proxy-1.37/metrics.txt");

fn text(metrics: &Metrics, status: &Status) -> String {
    let answer = metrics.answer(status, &BTreeMap::new());
    assert_eq!(
        answer.content_type,
        "text/plain; version=0.0.4; charset=utf-8"
    );
    String::from_utf8(answer.body).expect("text")
}

/// Series without their values: the name, and its labels in order.
fn series(text: &str) -> BTreeMap<String, BTreeSet<Vec<String>>> {
    let mut found: BTreeMap<String, BTreeSet<Vec<String>>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = match line.split_once('{') {
            Some((name, rest)) => (name, rest.split('}').next().unwrap_or_default()),
            None => (line.split(' ').next().unwrap_or_default(), ""),
        };
        let mut labels: Vec<String> = labels
            .split(',')
            .filter(|label| !label.is_empty())
            .map(ToOwned::to_owned)
            .collect();
        labels.sort();
        found.entry(name.to_owned()).or_default().insert(labels);
    }
    found
}

#[test]
fn what_has_kube_proxys_name_has_its_labels_and_buckets_and_what_is_missing_is_declared() {
    let metrics = Metrics::new().expect("the catalog is right");
    metrics.synced(Duration::from_millis(3), false);
    let (ours, theirs) = (
        series(&text(&metrics, &Status::default())),
        series(RECORDED),
    );
    let not_given = |name: &str| {
        catalog::NOT_GIVEN
            .iter()
            .any(|(start, _)| name.starts_with(start))
    };
    for (name, labels) in &theirs {
        match ours.get(name) {
            Some(given) => {
                // Values of labels that differ from node to node do not occur among these.
                assert_eq!(given, labels, "{name}");
                assert!(!not_given(name), "{name} is declared as not given");
            }
            None => assert!(not_given(name), "{name} is neither given nor declared"),
        }
    }
    let shared = ours
        .keys()
        .filter(|name| theirs.contains_key(*name))
        .count();
    assert_eq!(
        shared, 19,
        "six of histograms, three gauges, four of changes, six of the process"
    );
}

#[test]
fn changes_are_pending_until_they_are_written_and_counted_for_ever() {
    let metrics = Metrics::new().expect("the catalog is right");
    metrics.changed(3, 0);
    metrics.changed(1, 7);
    metrics.queued();
    let has = |line: &str| {
        let given = text(&metrics, &Status::default());
        assert!(
            given.lines().any(|one| one == line),
            "{line}\nis not in\n{given}"
        );
    };
    has("kubeproxy_sync_proxy_rules_service_changes_pending 4");
    has("kubeproxy_sync_proxy_rules_endpoint_changes_pending 7");
    has("nodeport_update_pending 1");
    metrics.nothing_pending();
    has("kubeproxy_sync_proxy_rules_service_changes_pending 0");
    has("kubeproxy_sync_proxy_rules_endpoint_changes_pending 0");
    has("kubeproxy_sync_proxy_rules_service_changes_total 4");
    has("kubeproxy_sync_proxy_rules_endpoint_changes_total 7");
    has("nodeport_update_pending 0");
}

#[test]
fn network_programming_has_the_buckets_of_the_service_level_indicator() {
    let metrics = Metrics::new().expect("the catalog is right");
    metrics.programmed(Family::V6, Duration::from_millis(400));
    metrics.programmed(Family::V6, Duration::from_secs(61));
    let given = text(&metrics, &Status::default());
    let bucket = |le: &str, count: u32| {
        let line = format!(
            "kubeproxy_network_programming_duration_seconds_bucket{{ip_family=\"IPv6\",le=\"{le}\"}} {count}"
        );
        assert!(
            given.lines().any(|one| one == line),
            "{line}\nis not in\n{given}"
        );
    };
    for (le, count) in [("0.25", 0), ("0.5", 1), ("60", 1), ("65", 2), ("300", 2)] {
        bucket(le, count);
    }
}

#[test]
fn the_latency_of_updates_is_counted_in_tenths_of_milliseconds() {
    let metrics = Metrics::new().expect("the catalog is right");
    metrics.applied(Duration::from_micros(150));
    metrics.applied(Duration::from_millis(3));
    let given = text(&metrics, &Status::default());
    for (le, count) in [("0.0001", 0), ("0.0002", 1), ("0.0032", 2), ("1.6384", 2)] {
        let line = format!("nodeport_update_latency_seconds_bucket{{le=\"{le}\"}} {count}");
        assert!(
            given.lines().any(|one| one == line),
            "{line}\nis not in\n{given}"
        );
    }
}

/// Something of everything.
fn full_status() -> Status {
    let hook = |mode| HookState {
        mode,
        since: None,
        error: None,
    };
    let mut status = Status {
        version: "1.2.3".to_owned(),
        ready: true,
        problems: vec!["x".to_owned()],
        sync: Some(SyncStatus {
            total: 7,
            retries: 2,
            ..SyncStatus::default()
        }),
        devices: vec![DeviceState {
            index: 2,
            name: "eth0".to_owned(),
            role: Role::Uplink,
            xdp: Some(hook(None)),
            tc_ingress: hook(Some(Mode::Tcx)),
            tc_egress: hook(Some(Mode::Tcx)),
        }],
        ..Status::default()
    };
    status.counts.insert("flows4_entries".to_owned(), 12);
    status.capacities.insert("flows4".to_owned(), 4096);
    status.entries.insert("frontends4".to_owned(), 40);
    status.snat_ports = 33512;
    let ports = crate::flows::SnatPorts {
        in_use: 70,
        busiest: 50,
    };
    status.snat.insert("flows4".to_owned(), ports);
    status.source.synced = true;
    status.source.last_contact = Some(1_764_000_000);
    status.source.answering.insert("nodes".to_owned());
    status
        .source
        .failing
        .entry("services".to_owned())
        .or_default();
    status.counts.insert("flows_expired".to_owned(), 3);
    status.counts.insert("frontends".to_owned(), 5);
    status
        .outcomes
        .entry("xdp".to_owned())
        .or_default()
        .insert("to_remote_backend".to_owned(), 9);
    status
        .rejected
        .push(serde_json::json!({"severity": "error"}));
    status
}

#[test]
fn a_status_becomes_series_and_what_is_gone_from_it_is_gone() {
    let metrics = Metrics::new().expect("the catalog is right");
    let mut status = full_status();
    let given = text(&metrics, &status);
    for line in [
        "nodeport_build_info{version=\"1.2.3\"} 1",
        "nodeport_ready 1",
        "nodeport_problems 1",
        "nodeport_updates_total 7",
        "nodeport_flow_entries{table=\"flows4\"} 12",
        "nodeport_map_capacity{map=\"flows4\"} 4096",
        "nodeport_map_entries{map=\"frontends4\"} 40",
        "nodeport_snat_ports 33512",
        "nodeport_snat_ports_in_use{table=\"flows4\"} 70",
        "nodeport_snat_ports_busiest{table=\"flows4\"} 50",
        "nodeport_source_synced 1",
        "nodeport_source_last_contact_timestamp_seconds 1764000000",
        "nodeport_source_connected{resource=\"nodes\"} 1",
        "nodeport_source_connected{resource=\"services\"} 0",
        "nodeport_update_retries_total 2",
        "nodeport_flows_ended_total{reason=\"expired\"} 3",
        "nodeport_objects{kind=\"frontends\"} 5",
        "nodeport_packets_total{hook=\"xdp\",outcome=\"to_remote_backend\"} 9",
        "nodeport_rejected{severity=\"error\"} 1",
        "nodeport_device_programs{device=\"eth0\",hook=\"xdp\",mode=\"off\",role=\"uplink\"} 0",
        "nodeport_device_programs{device=\"eth0\",hook=\"tc_ingress\",mode=\"tcx\",role=\"uplink\"} 1",
    ] {
        assert!(
            given.lines().any(|one| one == line),
            "{line}\nis not in\n{given}"
        );
    }
    status.devices.clear();
    assert!(!text(&metrics, &status).contains("eth0"));
}

#[test]
fn every_own_metric_of_the_catalog_is_given_by_some_status_and_no_other() {
    let listed: BTreeSet<&str> = catalog::OWN.iter().map(|metric| metric.name).collect();
    assert_eq!(listed.len(), catalog::OWN.len());
    let given = text(
        &Metrics::new().expect("the catalog is right"),
        &Status::default(),
    );
    let unlisted: Vec<&str> = given
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE nodeport_")?.split(' ').next())
        .filter(|name| !listed.contains(format!("nodeport_{name}").as_str()))
        .collect();
    assert!(unlisted.is_empty(), "{unlisted:?}");
}

#[test]
fn answers_of_the_health_server_are_counted_by_status() {
    let metrics = Metrics::new().expect("the catalog is right");
    metrics.asked("/healthz", false);
    metrics.asked("/healthz", false);
    metrics.asked("/livez", true);
    let given = text(&metrics, &Status::default());
    assert!(given.contains("kubeproxy_proxy_healthz_total{code=\"503\"} 2\n"));
    assert!(given.contains("kubeproxy_proxy_livez_total{code=\"200\"} 1\n"));
}

#[test]
fn endpoints_have_names_and_what_exceeds_the_cap_has_none() {
    let name = crate::model::desired::ServicePortName {
        namespace: "shop".into(),
        name: "web".into(),
        port: "http".into(),
        protocol: crate::model::desired::Protocol::Tcp,
    };
    let sum = Sum {
        packets: [3, 2],
        bytes: [300, 2000],
        connections: 1,
    };
    let address = "[fd00::5]:8080".parse().expect("an address");
    let sums = BTreeMap::from([
        (None, sum),
        (Some((std::sync::Arc::new(name), address)), sum),
    ]);
    let answer = Metrics::new()
        .expect("the catalog is right")
        .answer(&Status::default(), &sums);
    let given = String::from_utf8(answer.body).expect("text");
    for line in [
        "nodeport_backend_packets_total{backend=\"[fd00::5]:8080\",direction=\"in\",namespace=\"shop\",port=\"http\",protocol=\"TCP\",service=\"web\"} 3",
        "nodeport_backend_bytes_total{backend=\"[fd00::5]:8080\",direction=\"out\",namespace=\"shop\",port=\"http\",protocol=\"TCP\",service=\"web\"} 2000",
        "nodeport_backend_connections_total{backend=\"[fd00::5]:8080\",namespace=\"shop\",port=\"http\",protocol=\"TCP\",service=\"web\"} 1",
        "nodeport_backend_connections_total{backend=\"\",namespace=\"\",port=\"\",protocol=\"\",service=\"\"} 1",
    ] {
        assert!(
            given.lines().any(|one| one == line),
            "{line}\nis not in\n{given}"
        );
    }
}
