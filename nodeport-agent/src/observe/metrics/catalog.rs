//! Every metric that is given, and those of kube-proxy that are not.
//!
//! Owns names, labels, buckets and words: the metrics themselves, docs/metrics.md and the comparison with kube-proxy are made from this list.
//! Refuses to count. Invariant: a metric with kube-proxy's name means what it means there.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Type {
    /// It only grows.
    Counter,
    /// It comes and goes.
    Gauge,
    /// Counted by size.
    Histogram(Buckets),
}

/// Upper bounds of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Buckets {
    /// 1 ms, doubled 14 times: how long an update takes.
    Sync,
    /// From a quarter of a second to five minutes: how long a change takes to arrive (behaviours 24).
    Programming,
    /// 0.1 ms, doubled 14 times: from an event to the maps.
    Latency,
}

impl Buckets {
    /// The bounds, in seconds.
    #[must_use]
    pub fn bounds(self) -> Vec<f64> {
        match self {
            Self::Sync => doubled(1000.0),
            Self::Latency => doubled(10_000.0),
            Self::Programming => {
                let seconds = (1..60)
                    .chain((60..120).step_by(5))
                    .chain((120..=300).step_by(30));
                [0.25, 0.5]
                    .into_iter()
                    .chain(seconds.map(f64::from))
                    .collect()
            }
        }
    }
}

/// One part of a second in `parts`, and 14 times the double of the one before.
fn doubled(parts: f64) -> Vec<f64> {
    (0..15)
        .map(|power| f64::from(1_u32 << power) / parts)
        .collect()
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub of: Type,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics {
    ($list:ident, $doc:literal: $($constant:ident = $name:literal, $of:expr, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric { name: $name, of: $of, labels: &[$($label),*], help: $help };
        )*
        #[doc = $doc]
        pub const $list: &[Metric] = &[$($constant),*];
    };
}

use Type::{Counter, Gauge, Histogram};

metrics! { KUBE_PROXY, "Metrics with kube-proxy's names, labels and buckets.":
    SYNC = "kubeproxy_sync_proxy_rules_duration_seconds", Histogram(Buckets::Sync), ["ip_family"],
        "How long an update of the maps took. One update writes both families.";
    SYNC_FULL = "kubeproxy_sync_full_proxy_rules_duration_seconds", Histogram(Buckets::Sync), ["ip_family"],
        "How long an update took that compared everything: the first one, and one every five minutes.";
    SYNC_PARTIAL = "kubeproxy_sync_partial_proxy_rules_duration_seconds", Histogram(Buckets::Sync), ["ip_family"],
        "How long an update took that wrote what changed.";
    LAST_SYNC = "kubeproxy_sync_proxy_rules_last_timestamp_seconds", Gauge, ["ip_family"],
        "When everything that was wanted was last written, in seconds since 1970.";
    LAST_QUEUED = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", Gauge, ["ip_family"],
        "When an update last became due, in seconds since 1970.";
    ENDPOINT_CHANGES_PENDING = "kubeproxy_sync_proxy_rules_endpoint_changes_pending", Gauge, [],
        "Changes of EndpointSlices that are not in the maps yet.";
    ENDPOINT_CHANGES = "kubeproxy_sync_proxy_rules_endpoint_changes_total", Counter, [],
        "Changes of EndpointSlices: additions, updates that change something, and removals.";
    SERVICE_CHANGES_PENDING = "kubeproxy_sync_proxy_rules_service_changes_pending", Gauge, [],
        "Changes of Services that are not in the maps yet.";
    SERVICE_CHANGES = "kubeproxy_sync_proxy_rules_service_changes_total", Counter, [],
        "Changes of Services, likewise.";
    PROGRAMMING = "kubeproxy_network_programming_duration_seconds", Histogram(Buckets::Programming), ["ip_family"],
        "From the time at which the cluster says that endpoints changed (annotation `endpoints.kubernetes.io/last-change-trigger-time`, whole seconds) until the change is in the maps. Only of changes since the agent started, and not of removals of slices.";
    NO_LOCAL = "kubeproxy_sync_proxy_rules_no_local_endpoints_total", Gauge, ["ip_family", "traffic_policy"],
        "Service ports whose traffic policy is Local and that have no endpoint here.";
    HEALTHZ = "kubeproxy_proxy_healthz_total", Counter, ["code"],
        "Answers of /healthz by status.";
    LIVEZ = "kubeproxy_proxy_livez_total", Counter, ["code"],
        "Answers of /livez by status.";
}

metrics! { OWN, "Metrics of our own.":
    BUILD = "nodeport_build_info", Gauge, ["version"],
        "Always 1; the agent's version is in the label.";
    READY = "nodeport_ready", Gauge, [],
        "1 once a first complete state is in the maps and every device was looked at.";
    PROBLEMS = "nodeport_problems", Gauge, [],
        "Things that are not as they should be: those that `nodeport-agent status` lists.";
    UPDATES = "nodeport_updates_total", Counter, [],
        "Updates of the maps.";
    UPDATE_LATENCY = "nodeport_update_latency_seconds", Histogram(Buckets::Latency), [],
        "From the receipt of the oldest change in an update until all of it is in the maps. Updates of which something failed are not counted.";
    UPDATE_ERRORS = "nodeport_update_errors", Gauge, [],
        "What the last update left undone.";
    UPDATE_RETRIES = "nodeport_update_retries_total", Counter, [],
        "Updates that left something to be tried again a second later.";
    UPDATE_PENDING = "nodeport_update_pending", Gauge, [],
        "1 while something that changed is not in the maps.";
    SOURCE_SYNCED = "nodeport_source_synced", Gauge, [],
        "1 once a complete set of objects came from the API server or from files.";
    SOURCE_CONNECTED = "nodeport_source_connected", Gauge, ["resource"],
        "1 if the last request of a resource was answered by an API server; 0 if it failed: the last state stays in effect, and is stale.";
    SOURCE_CONTACT = "nodeport_source_last_contact_timestamp_seconds", Gauge, [],
        "When something last came from an API server, or files were read, in seconds since 1970.";
    OBJECTS = "nodeport_objects", Gauge, ["kind"],
        "Objects, front ends, backends and addresses in use.";
    REJECTED = "nodeport_rejected", Gauge, ["severity"],
        "Reports on objects and fields that are not used, or otherwise than their author may think.";
    PACKETS = "nodeport_packets_total", Counter, ["hook", "outcome"],
        "Packets by the hook that saw them and what became of them (docs/outcomes.md). Counted by the programs: agents come and go without a reset.";
    FLOW_ENTRIES = "nodeport_flow_entries", Gauge, ["table"],
        "Entries of the tables of flows (a flow is two) at the last walk.";
    CAPACITY = "nodeport_map_capacity", Gauge, ["map"],
        "Entries that fit into each map. Of the tables of flows, `nodeport_flow_entries` says how many there are.";
    MAP_ENTRIES = "nodeport_map_entries", Gauge, ["map"],
        "Entries of each map that the agent fills, after its last update; of `backends4` and `backends6`, slots that are in use or at rest. Divided by `nodeport_map_capacity`, how full it is.";
    SNAT_PORTS = "nodeport_snat_ports", Gauge, [],
        "Source ports that there are for translated flows towards one backend, from one address of this node.";
    SNAT_IN_USE = "nodeport_snat_ports_in_use", Gauge, ["table"],
        "Source ports that the flows of a table hold, at its last walk.";
    SNAT_BUSIEST = "nodeport_snat_ports_busiest", Gauge, ["table"],
        "The most of them that are held towards one backend. As many as `nodeport_snat_ports`: new connections to it are dropped (`snat_ports_exhausted`).";
    FLOWS_ENDED = "nodeport_flows_ended_total", Counter, ["reason"],
        "Flows that the agent removed (`expired`, `orphans_removed`) or gave their other half back (`mended`).";
    BACKEND_PACKETS = "nodeport_backend_packets_total", Counter, ["namespace", "service", "port", "protocol", "backend", "direction"],
        "Packets of each endpoint of each Service, from clients (`in`) and back (`out`), summed up from the tables of flows every ten seconds, up to every minute if they are very many. Empty labels: all that exceeds `--metrics-backends-max`. What is translated in sockets passes no program and is not counted.";
    BACKEND_BYTES = "nodeport_backend_bytes_total", Counter, ["namespace", "service", "port", "protocol", "backend", "direction"],
        "Bytes likewise, from the network header on.";
    BACKEND_CONNECTIONS = "nodeport_backend_connections_total", Counter, ["namespace", "service", "port", "protocol", "backend"],
        "Connections (for UDP: flows) that began, likewise.";
    PROGRAMS = "nodeport_device_programs", Gauge, ["device", "role", "hook", "mode"],
        "1 for each program that is attached to a device; 0, with the mode off, for one that is missing.";
}

/// Metrics of kube-proxy that are not given: the beginning of their names, and why.
pub const NOT_GIVEN: &[(&str, &str)] = &[
    (
        "kubeproxy_conntrack_reconciler_",
        "UDP flows leave endpoints that no longer serve when their next packet comes: nothing is reconciled",
    ),
    (
        "kubeproxy_sync_proxy_rules_iptables_",
        "there are no iptables rules",
    ),
    (
        "kubeproxy_sync_proxy_rules_nftables_",
        "there are no nftables rules; `nodeport_update_errors` counts what failed",
    ),
    (
        "kubeproxy_iptables_",
        "there are no iptables rules; `nodeport_packets_total` has an outcome for every packet",
    ),
    ("kubeproxy_nftables_", "there are no nftables rules"),
    ("rest_client_", "of Go's API client"),
    ("go_", "of the Go runtime"),
    (
        "apiserver_",
        "of libraries of the API server that kube-proxy links",
    ),
    (
        "aggregator_",
        "of libraries of the API server that kube-proxy links",
    ),
    ("cardinality_enforcement_", "of Kubernetes' metrics library"),
    ("registered_metrics_total", "of Kubernetes' metrics library"),
    ("hidden_metrics_total", "of Kubernetes' metrics library"),
    ("disabled_metrics_total", "of Kubernetes' metrics library"),
    (
        "kubernetes_build_info",
        "this is not Kubernetes; `nodeport_build_info` has our version",
    ),
    (
        "kubernetes_feature_enabled",
        "kube-proxy's feature gates change nothing here",
    ),
    (
        "process_network_",
        "the process's own traffic says nothing of the node's",
    ),
    (
        "process_virtual_memory_max_bytes",
        "the client library does not read it",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_kube_proxys() {
        let sync = Buckets::Sync.bounds();
        assert_eq!((sync.len(), sync[0], sync[14]), (15, 0.001, 16.384));
        let latency = Buckets::Latency.bounds();
        assert_eq!(
            (latency.len(), latency[0], latency[14]),
            (15, 0.0001, 1.6384)
        );
        let programming = Buckets::Programming.bounds();
        assert_eq!(&programming[..4], [0.25, 0.5, 1.0, 2.0]);
        assert_eq!(&programming[59..64], [58.0, 59.0, 60.0, 65.0, 70.0]);
        assert_eq!(programming.last(), Some(&300.0));
        assert_eq!(programming.len(), 2 + 59 + 12 + 7);
    }
}
