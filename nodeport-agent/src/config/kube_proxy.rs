//! KubeProxyConfiguration (`kubeproxy.config.k8s.io/v1alpha1`), as kube-proxy's own type has it.
//!
//! Owns names and types of the fields, and what a field that is not there stands for. Refuses to judge values. Invariant: in the
//! order of these fields it is what kube-proxy answers on `/configz`; sorted, what it writes with `--write-config-to`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::go_duration::GoDuration;
use super::values::{Quantity, float};

/// `apiVersion`.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// `kind`.
pub const KIND: &str = "KubeProxyConfiguration";
/// Port of the health server, unless another is given.
pub const HEALTHZ_PORT: u16 = 10256;
/// Port of the metrics server, unless another is given.
pub const METRICS_PORT: u16 = 10249;

/// The configuration. [`Default`] is a file without any field; [`KubeProxyConfiguration::defaulted`] fills in the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    missing_docs,
    reason = "the fields are kube-proxy's; docs/configuration.md says of each what becomes of it"
)]
pub struct KubeProxyConfiguration {
    pub kind: String,
    pub api_version: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,
    pub client_connection: ClientConnection,
    pub logging: Logging,
    pub hostname_override: String,
    pub bind_address: String,
    pub healthz_bind_address: String,
    pub metrics_bind_address: String,
    pub bind_address_hard_fail: bool,
    pub enable_profiling: bool,
    pub show_hidden_metrics_for_version: String,
    pub mode: String,
    pub iptables: Iptables,
    pub ipvs: Ipvs,
    pub nftables: Nftables,
    pub winkernel: Winkernel,
    pub detect_local_mode: String,
    pub detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    pub node_port_addresses: Option<Vec<String>>,
    pub oom_score_adj: Option<i32>,
    pub conntrack: Conntrack,
    pub config_sync_period: GoDuration,
    pub port_range: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub windows_run_as_service: bool,
}

/// `clientConnection`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "kube-proxy's fields")]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    #[serde(serialize_with = "float")]
    pub qps: f32,
    pub burst: i32,
}

/// `logging`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "kube-proxy's fields")]
pub struct Logging {
    pub format: String,
    pub flush_frequency: GoDuration,
    pub verbosity: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vmodule: Vec<VmoduleItem>,
    pub options: LoggingOptions,
}

/// An entry of `logging.vmodule`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "kube-proxy's fields")]
pub struct VmoduleItem {
    pub file_pattern: String,
    pub verbosity: u32,
}

/// `logging.options`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "kube-proxy's fields")]
pub struct LoggingOptions {
    pub text: FormatOptions,
    pub json: FormatOptions,
}

/// `logging.options.text` and `logging.options.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "kube-proxy's fields")]
pub struct FormatOptions {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub split_stream: bool,
    pub info_buffer_size: Quantity,
}

/// `iptables`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "kube-proxy's fields")]
pub struct Iptables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub localhost_node_ports: Option<bool>,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

/// `ipvs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "kube-proxy's fields")]
pub struct Ipvs {
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
    pub scheduler: String,
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Option<Vec<String>>,
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    pub tcp_timeout: GoDuration,
    pub tcp_fin_timeout: GoDuration,
    pub udp_timeout: GoDuration,
}

/// `nftables`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "kube-proxy's fields")]
pub struct Nftables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

/// `winkernel`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "kube-proxy's fields")]
pub struct Winkernel {
    pub network_name: String,
    pub source_vip: String,
    #[serde(rename = "enableDSR")]
    pub enable_dsr: bool,
    pub root_hns_endpoint_name: String,
    pub forward_health_check_vip: bool,
}

/// `detectLocal`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "kube-proxy's fields")]
pub struct DetectLocal {
    pub bridge_interface: String,
    pub interface_name_prefix: String,
}

/// `conntrack`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "kube-proxy's fields")]
pub struct Conntrack {
    pub max_per_core: Option<i32>,
    pub min: Option<i32>,
    pub tcp_established_timeout: Option<GoDuration>,
    pub tcp_close_wait_timeout: Option<GoDuration>,
    pub tcp_be_liberal: bool,
    pub udp_timeout: GoDuration,
    pub udp_stream_timeout: GoDuration,
}

/// The three ways of kube-proxy to program Services on Linux; of the periods, those of the way in use count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rules {
    Iptables,
    Ipvs,
    Nftables,
}

impl KubeProxyConfiguration {
    /// With kube-proxy's values for everything that is not given.
    #[must_use]
    pub fn defaulted(mut self) -> Self {
        KIND.clone_into(&mut self.kind);
        API_VERSION.clone_into(&mut self.api_version);
        or_text(&mut self.bind_address, "0.0.0.0");
        let v6 = self.bind_address.parse::<Ipv6Addr>().is_ok();
        let (any, own) = if v6 {
            ("[::]", "[::1]")
        } else {
            ("0.0.0.0", "127.0.0.1")
        };
        or_address(&mut self.healthz_bind_address, any, HEALTHZ_PORT);
        or_address(&mut self.metrics_bind_address, own, METRICS_PORT);
        or_text(&mut self.mode, "iptables");
        or_text(&mut self.detect_local_mode, "ClusterCIDR");
        let no_addresses = self.node_port_addresses.as_ref().is_none_or(Vec::is_empty);
        if self.mode == "nftables" && no_addresses {
            self.node_port_addresses = Some(vec!["primary".to_owned()]);
        }
        self.oom_score_adj.get_or_insert(-999);
        or_duration(&mut self.config_sync_period, 15 * 60);
        self.client_connection.default();
        or_text(&mut self.logging.format, "text");
        or_duration(&mut self.logging.flush_frequency, 5);
        self.iptables.masquerade_bit.get_or_insert(14);
        self.iptables.localhost_node_ports.get_or_insert(true);
        self.nftables.masquerade_bit.get_or_insert(14);
        self.conntrack.default();
        self.default_periods();
        self
    }

    /// The periods of the way in use, and none of the others: kube-proxy keeps one pair.
    fn default_periods(&mut self) {
        let used = self.rules();
        for (rules, period, min_period) in [
            (
                Rules::Iptables,
                &mut self.iptables.sync_period,
                &mut self.iptables.min_sync_period,
            ),
            (
                Rules::Ipvs,
                &mut self.ipvs.sync_period,
                &mut self.ipvs.min_sync_period,
            ),
            (
                Rules::Nftables,
                &mut self.nftables.sync_period,
                &mut self.nftables.min_sync_period,
            ),
        ] {
            if rules == used {
                or_duration(period, 30);
                or_duration(min_period, 1);
            } else {
                (*period, *min_period) = (GoDuration::ZERO, GoDuration::ZERO);
            }
        }
        match used {
            Rules::Nftables => self.iptables.masquerade_all = false,
            Rules::Iptables | Rules::Ipvs => self.nftables.masquerade_all = false,
        }
    }

    /// Longest time between two synchronisations, and shortest time; zero where none is given.
    #[must_use]
    pub fn periods(&self) -> (GoDuration, GoDuration) {
        match self.rules() {
            Rules::Iptables => (self.iptables.sync_period, self.iptables.min_sync_period),
            Rules::Ipvs => (self.ipvs.sync_period, self.ipvs.min_sync_period),
            Rules::Nftables => (self.nftables.sync_period, self.nftables.min_sync_period),
        }
    }

    fn rules(&self) -> Rules {
        match self.mode.as_str() {
            "ipvs" => Rules::Ipvs,
            "nftables" => Rules::Nftables,
            _ => Rules::Iptables,
        }
    }
}

impl ClientConnection {
    fn default(&mut self) {
        or_text(
            &mut self.content_type,
            "application/vnd.kubernetes.protobuf",
        );
        if self.qps == 0.0 {
            self.qps = 5.0;
        }
        if self.burst == 0 {
            self.burst = 10;
        }
    }
}

impl Conntrack {
    fn default(&mut self) {
        self.max_per_core.get_or_insert(32 * 1024);
        self.min.get_or_insert(128 * 1024);
        let day = GoDuration::from_secs(24 * 3600);
        self.tcp_established_timeout.get_or_insert(day);
        let hour = GoDuration::from_secs(3600);
        self.tcp_close_wait_timeout.get_or_insert(hour);
    }
}

fn or_text(field: &mut String, default: &str) {
    if field.is_empty() {
        default.clone_into(field);
    }
}

fn or_duration(field: &mut GoDuration, seconds: u32) {
    if field.is_zero() {
        *field = GoDuration::from_secs(seconds);
    }
}

/// An address with a port: the default one, or the given one with the usual port if it has none.
fn or_address(field: &mut String, default: &str, port: u16) {
    if field.is_empty() {
        *field = format!("{default}:{port}");
    } else if let Ok(address) = field.parse::<IpAddr>() {
        *field = SocketAddr::new(address, port).to_string();
    }
}
