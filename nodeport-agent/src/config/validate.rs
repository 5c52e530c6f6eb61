//! Whether the values of a KubeProxyConfiguration mean something (behaviours 25).
//!
//! Owns the bounds, which are kube-proxy's. Pure. Refuses to know what a value is used for. Invariant: all that is wrong is
//! named at once, each with the path of its field.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::error::Invalid;
use super::go_duration::GoDuration;
use super::kube_proxy::KubeProxyConfiguration;
use crate::model::address::{parse_address, parse_cidr};

/// Modes that are known: kube-proxy's on Linux, and ours.
const MODES: [&str; 5] = ["", "iptables", "ipvs", "nftables", "ebpf"];
const DETECT_LOCAL: [&str; 5] = [
    "",
    "ClusterCIDR",
    "NodeCIDR",
    "BridgeInterface",
    "InterfaceNamePrefix",
];
const SCHEDULERS: [&str; 12] = [
    "", "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh",
];

/// Everything that means nothing. `config` has its defaults; an empty server address means that there is no such server.
#[must_use]
pub fn validate(config: &KubeProxyConfiguration) -> Vec<Invalid> {
    let mut check = Check::default();
    check.places(config);
    check.periods(config);
    check.numbers(config);
    check.local(config);
    check.word("mode", &config.mode, &MODES);
    check.word("detectLocalMode", &config.detect_local_mode, &DETECT_LOCAL);
    check.word("logging.format", &config.logging.format, &["text", "json"]);
    if config.mode == "ipvs" {
        check.word("ipvs.scheduler", &config.ipvs.scheduler, &SCHEDULERS);
    }
    check.found
}

#[derive(Default)]
struct Check {
    found: Vec<Invalid>,
}

impl Check {
    fn refuse(&mut self, field: &str, value: &impl ToString, problem: &str) {
        self.found.push(Invalid {
            field: field.to_owned(),
            value: value.to_string(),
            problem: problem.to_owned(),
        });
    }

    fn word(&mut self, field: &str, value: &str, known: &[&str]) {
        if !known.contains(&value) {
            let known: Vec<&str> = known
                .iter()
                .copied()
                .filter(|one| !one.is_empty())
                .collect();
            self.refuse(field, &value, &format!("is none of {}", known.join(", ")));
        }
    }

    fn places(&mut self, config: &KubeProxyConfiguration) {
        if parse_address(&config.bind_address).is_none() {
            self.refuse("bindAddress", &config.bind_address, "is no IP address");
        }
        for (field, value) in [
            ("healthzBindAddress", &config.healthz_bind_address),
            ("metricsBindAddress", &config.metrics_bind_address),
        ] {
            let valid = value
                .parse::<SocketAddr>()
                .is_ok_and(|address| address.port() != 0);
            if !value.is_empty() && !valid {
                self.refuse(field, value, "is no IP:port with a port from 1 to 65535");
            }
        }
        for (index, value) in config.node_port_addresses.iter().flatten().enumerate() {
            if !["primary", "all", "localhost"].contains(&value.as_str())
                && parse_cidr(value).is_none()
            {
                let field = format!("nodePortAddresses[{index}]");
                self.refuse(
                    &field,
                    value,
                    "is neither a CIDR nor `primary`, `all` or `localhost`",
                );
            }
        }
        for (index, value) in config.ipvs.exclude_cidrs.iter().flatten().enumerate() {
            if parse_cidr(value).is_none() {
                self.refuse(&format!("ipvs.excludeCIDRs[{index}]"), value, "is no CIDR");
            }
        }
    }

    fn periods(&mut self, config: &KubeProxyConfiguration) {
        let rules = if ["ipvs", "nftables"].contains(&config.mode.as_str()) {
            config.mode.as_str()
        } else {
            "iptables"
        };
        let (period, min_period) = config.periods();
        let field = |name: &str| format!("{rules}.{name}");
        self.positive(&field("syncPeriod"), period);
        self.not_negative(&field("minSyncPeriod"), min_period);
        if min_period > period {
            let problem = format!("is longer than {rules}.syncPeriod, {period}");
            self.refuse(&field("minSyncPeriod"), &min_period, &problem);
        }
        self.positive("configSyncPeriod", config.config_sync_period);
        let conntrack = &config.conntrack;
        for (field, value) in [
            (
                "conntrack.tcpEstablishedTimeout",
                conntrack.tcp_established_timeout.unwrap_or_default(),
            ),
            (
                "conntrack.tcpCloseWaitTimeout",
                conntrack.tcp_close_wait_timeout.unwrap_or_default(),
            ),
            ("conntrack.udpTimeout", conntrack.udp_timeout),
            ("conntrack.udpStreamTimeout", conntrack.udp_stream_timeout),
            ("ipvs.tcpTimeout", config.ipvs.tcp_timeout),
            ("ipvs.tcpFinTimeout", config.ipvs.tcp_fin_timeout),
            ("ipvs.udpTimeout", config.ipvs.udp_timeout),
        ] {
            self.not_negative(field, value);
        }
    }

    fn positive(&mut self, field: &str, value: GoDuration) {
        if value <= GoDuration::ZERO {
            self.refuse(field, &value, "is not greater than 0");
        }
    }

    fn not_negative(&mut self, field: &str, value: GoDuration) {
        if value.is_negative() {
            self.refuse(field, &value, "is negative");
        }
    }

    fn numbers(&mut self, config: &KubeProxyConfiguration) {
        for (field, value, low, high) in [
            ("oomScoreAdj", config.oom_score_adj, -1000, 1000),
            (
                "iptables.masqueradeBit",
                config.iptables.masquerade_bit,
                0,
                31,
            ),
            (
                "nftables.masqueradeBit",
                config.nftables.masquerade_bit,
                0,
                31,
            ),
            (
                "conntrack.maxPerCore",
                config.conntrack.max_per_core,
                0,
                i32::MAX,
            ),
            ("conntrack.min", config.conntrack.min, 0, i32::MAX),
            (
                "clientConnection.burst",
                Some(config.client_connection.burst),
                0,
                i32::MAX,
            ),
        ] {
            if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
                let problem = match high {
                    i32::MAX => "is negative".to_owned(),
                    _ => format!("is not in the range from {low} to {high}"),
                };
                self.refuse(field, &value, &problem);
            }
        }
    }

    /// How local Pods are told: one network of each family at most, and a name where the mode needs one.
    fn local(&mut self, config: &KubeProxyConfiguration) {
        let cidrs: Vec<Option<IpNet>> = config
            .cluster_cidr
            .split(',')
            .filter(|_| !config.cluster_cidr.is_empty())
            .map(parse_cidr)
            .collect();
        let is_v4 =
            |cidr: &Option<IpNet>| cidr.is_some_and(|cidr| matches!(cidr.addr(), IpAddr::V4(_)));
        let pair = cidrs.len() < 2 || (cidrs.len() == 2 && is_v4(&cidrs[0]) != is_v4(&cidrs[1]));
        if cidrs.contains(&None) || !pair {
            self.refuse(
                "clusterCIDR",
                &config.cluster_cidr,
                "is neither a CIDR nor a pair of one of each family",
            );
        }
        let detect = &config.detect_local;
        for (mode, field, name) in [
            (
                "BridgeInterface",
                "detectLocal.bridgeInterface",
                &detect.bridge_interface,
            ),
            (
                "InterfaceNamePrefix",
                "detectLocal.interfaceNamePrefix",
                &detect.interface_name_prefix,
            ),
        ] {
            if name.len() > 15 || (name.is_empty() && config.detect_local_mode == mode) {
                self.refuse(field, name, "is no name of a device (1 to 15 bytes)");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(config: serde_json::Value) -> Vec<String> {
        let config: KubeProxyConfiguration =
            serde_json::from_value(config).expect("the types are right");
        let found = validate(&config.defaulted());
        found.into_iter().map(|one| one.field).collect()
    }

    #[test]
    fn the_defaults_are_valid() {
        assert!(fields(json!({})).is_empty());
        for mode in ["iptables", "ipvs", "nftables", "ebpf"] {
            assert!(fields(json!({"mode": mode})).is_empty(), "{mode}");
        }
        assert!(
            fields(json!({"bindAddress": "::", "clusterCIDR": "10.0.0.0/8,fd00::/48"})).is_empty()
        );
    }

    /// Each configuration's first mistake is in this field.
    fn named(cases: &[(serde_json::Value, &str)]) {
        for (config, field) in cases {
            let found = fields(config.clone());
            assert_eq!(found.first().map(String::as_str), Some(*field), "{config}");
        }
    }

    #[test]
    fn bounds_of_places_and_modes_are_named_with_their_field() {
        named(&[
            (json!({"bindAddress": "node"}), "bindAddress"),
            (
                json!({"healthzBindAddress": "0.0.0.0:0"}),
                "healthzBindAddress",
            ),
            (
                json!({"metricsBindAddress": "localhost:10249"}),
                "metricsBindAddress",
            ),
            (
                json!({"nodePortAddresses": ["primary", "10.0.0.1"]}),
                "nodePortAddresses[1]",
            ),
            (json!({"mode": "userspace"}), "mode"),
            (json!({"detectLocalMode": "Magic"}), "detectLocalMode"),
            (
                json!({"detectLocalMode": "BridgeInterface"}),
                "detectLocal.bridgeInterface",
            ),
            (
                json!({"clusterCIDR": "10.0.0.0/8,10.1.0.0/16"}),
                "clusterCIDR",
            ),
            (
                json!({"clusterCIDR": "10.0.0.0/8,fd00::/48,fd01::/48"}),
                "clusterCIDR",
            ),
            (json!({"oomScoreAdj": 1001}), "oomScoreAdj"),
        ]);
    }

    #[test]
    fn bounds_of_numbers_and_periods_are_named_with_their_field() {
        named(&[
            (
                json!({"iptables": {"masqueradeBit": 32}}),
                "iptables.masqueradeBit",
            ),
            (
                json!({"iptables": {"syncPeriod": "-1s", "minSyncPeriod": "-2s"}}),
                "iptables.syncPeriod",
            ),
            (
                json!({"mode": "nftables", "nftables": {"syncPeriod": "1s", "minSyncPeriod": "2s"}}),
                "nftables.minSyncPeriod",
            ),
            (json!({"configSyncPeriod": "-1s"}), "configSyncPeriod"),
            (json!({"conntrack": {"min": -1}}), "conntrack.min"),
            (
                json!({"conntrack": {"udpTimeout": "-1s"}}),
                "conntrack.udpTimeout",
            ),
            (
                json!({"clientConnection": {"burst": -1}}),
                "clientConnection.burst",
            ),
            (json!({"logging": {"format": "xml"}}), "logging.format"),
            (
                json!({"mode": "ipvs", "ipvs": {"scheduler": "best"}}),
                "ipvs.scheduler",
            ),
            (
                json!({"ipvs": {"excludeCIDRs": ["x"]}}),
                "ipvs.excludeCIDRs[0]",
            ),
        ]);
    }

    #[test]
    fn all_that_is_wrong_is_named_at_once() {
        let found = fields(json!({"mode": "x", "oomScoreAdj": -2000, "bindAddress": "y"}));
        assert_eq!(found, ["bindAddress", "oomScoreAdj", "mode"]);
    }
}
