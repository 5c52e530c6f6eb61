//! Every field of KubeProxyConfiguration and every flag of kube-proxy, and what becomes of each here.
//!
//! Owns that list: flags, reports and docs/configuration.md are made from it. Refuses to read or carry out settings. Invariant: what
//! is not honoured says why, and is reported by name whenever somebody asks for it.

/// How a flag's text is turned into a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `true` or `false`; alone, it is true.
    Switch,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// Text, also durations and addresses.
    Text,
    /// Texts with commas between.
    List,
    /// `NAME=true|false` with commas between.
    Gates,
}

/// What becomes of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It does what it does in kube-proxy; the text says how.
    Honoured(&'static str),
    /// It has no effect; the text says why. Reported if it is given with another value than kube-proxy's default.
    Ignored(&'static str),
}

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Path of the field in KubeProxyConfiguration; empty if there is only a flag.
    pub field: &'static str,
    /// Name of the flag, without dashes; empty if there is only a field.
    pub flag: &'static str,
    /// How the flag's text is read.
    pub form: Form,
    /// What becomes of it.
    pub used: Use,
}

const fn row(field: &'static str, flag: &'static str, form: Form, used: Use) -> Setting {
    Setting {
        field,
        flag,
        form,
        used,
    }
}

use Form::{Gates, Integer, List, Number, Switch, Text};
use Use::{Honoured, Ignored};

const BY_DEVICE: Use = Ignored(
    "Pods of this node are told by the device that their packets come from, see differences.md",
);
const NO_MARKS: Use = Ignored("no packet marks are used");
const NO_IPVS: Use = Ignored("there are no IPVS rules");
const NO_WINDOWS: Use = Ignored("Windows only");
const NO_BUFFERS: Use = Ignored("log lines are written at once, to standard error");
const OUR_PERIOD: Use = Honoured(
    "an update that waits for twice this time makes the agent unhealthy; only the field of the mode in use counts",
);
const OUR_MIN_PERIOD: Use = Honoured(
    "the shortest time between two updates; 0 unless it is given. Only the field of the mode in use counts",
);

/// Fields of KubeProxyConfiguration, in its order, with the flag that stands for each.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    row("featureGates", "feature-gates", Gates, Ignored("kube-proxy's gates change nothing here")),
    row("clientConnection.kubeconfig", "kubeconfig", Text, Honoured("how to reach the API server")),
    row("clientConnection.acceptContentTypes", "", Text, Ignored("the agent chooses the encoding")),
    row("clientConnection.contentType", "kube-api-content-type", Text, Ignored("the agent chooses the encoding")),
    row("clientConnection.qps", "kube-api-qps", Number, Ignored("the agent only watches: there is no rate of requests to limit")),
    row("clientConnection.burst", "kube-api-burst", Integer, Ignored("the agent only watches: there is no rate of requests to limit")),
    row("logging.format", "logging-format", Text, Honoured("`text` or `json`, as `--log-format`")),
    row("logging.flushFrequency", "log-flush-frequency", Text, NO_BUFFERS),
    row("logging.verbosity", "v", Integer, Honoured("0 to 2 is info, 3 and 4 debug, more is trace, as `--log-level`")),
    row("logging.vmodule", "vmodule", Text, Ignored("there are no Go source files to name; use --log-level")),
    row("logging.options.text.splitStream", "log-text-split-stream", Switch, NO_BUFFERS),
    row("logging.options.text.infoBufferSize", "log-text-info-buffer-size", Text, NO_BUFFERS),
    row("logging.options.json.splitStream", "log-json-split-stream", Switch, NO_BUFFERS),
    row("logging.options.json.infoBufferSize", "log-json-info-buffer-size", Text, NO_BUFFERS),
    row("hostnameOverride", "hostname-override", Text, Honoured("name of this node, as `--node-name`")),
    row("bindAddress", "bind-address", Text, Honoured("an IPv6 address makes the servers' default addresses IPv6. One that is not unspecified counts as the node's address of its family, before the Node's")),
    row("healthzBindAddress", "healthz-bind-address", Text, Honoured("where `/healthz` and `/livez` are served")),
    row("metricsBindAddress", "metrics-bind-address", Text, Honoured("where `/metrics` and the like are served")),
    row("bindAddressHardFail", "bind-address-hard-fail", Switch, Honoured("a server whose address is taken ends the agent")),
    row("enableProfiling", "profiling", Switch, Ignored("there is no Go runtime to profile; use perf")),
    row("showHiddenMetricsForVersion", "show-hidden-metrics-for-version", Text, Ignored("no metric is hidden")),
    row("mode", "proxy-mode", Text, Ignored("Services are carried by BPF programs, whatever the mode; `nftables` makes `primary` the default of nodePortAddresses, as in kube-proxy. `ebpf` is accepted too")),
    row("iptables.masqueradeBit", "iptables-masquerade-bit", Integer, NO_MARKS),
    row("iptables.masqueradeAll", "masquerade-all", Switch, Ignored("a client's address is kept wherever the reply comes back by itself")),
    row("iptables.localhostNodePorts", "iptables-localhost-nodeports", Switch, Honoured("in iptables mode, `true` turns on `localhostNodeports`; where it is not given, that decides, which is off by default")),
    row("iptables.syncPeriod", "iptables-sync-period", Text, OUR_PERIOD),
    row("iptables.minSyncPeriod", "iptables-min-sync-period", Text, OUR_MIN_PERIOD),
    row("ipvs.syncPeriod", "ipvs-sync-period", Text, OUR_PERIOD),
    row("ipvs.minSyncPeriod", "ipvs-min-sync-period", Text, OUR_MIN_PERIOD),
    row("ipvs.scheduler", "ipvs-scheduler", Text, NO_IPVS),
    row("ipvs.excludeCIDRs", "ipvs-exclude-cidrs", List, NO_IPVS),
    row("ipvs.strictARP", "ipvs-strict-arp", Switch, Ignored("no Service address is put on a device, so none is answered for by ARP")),
    row("ipvs.tcpTimeout", "ipvs-tcp-timeout", Text, NO_IPVS),
    row("ipvs.tcpFinTimeout", "ipvs-tcpfin-timeout", Text, NO_IPVS),
    row("ipvs.udpTimeout", "ipvs-udp-timeout", Text, NO_IPVS),
    row("nftables.masqueradeBit", "", Integer, NO_MARKS),
    row("nftables.masqueradeAll", "", Switch, Ignored("a client's address is kept wherever the reply comes back by itself")),
    row("nftables.syncPeriod", "", Text, OUR_PERIOD),
    row("nftables.minSyncPeriod", "", Text, OUR_MIN_PERIOD),
    row("winkernel.networkName", "", Text, NO_WINDOWS),
    row("winkernel.sourceVip", "", Text, NO_WINDOWS),
    row("winkernel.enableDSR", "", Switch, NO_WINDOWS),
    row("winkernel.rootHnsEndpointName", "", Text, NO_WINDOWS),
    row("winkernel.forwardHealthCheckVip", "", Switch, NO_WINDOWS),
    row("detectLocalMode", "detect-local-mode", Text, BY_DEVICE),
    row("detectLocal.bridgeInterface", "pod-bridge-interface", Text, BY_DEVICE),
    row("detectLocal.interfaceNamePrefix", "pod-interface-name-prefix", Text, BY_DEVICE),
    row("clusterCIDR", "cluster-cidr", Text, BY_DEVICE),
    row("nodePortAddresses", "nodeport-addresses", List, Honoured("where NodePorts and healthCheckNodePorts answer: `primary`, `all`, CIDRs. `localhost` and CIDRs of loopback addresses are accepted and have no effect")),
    row("oomScoreAdj", "oom-score-adj", Integer, Honoured("written to /proc/self/oom_score_adj where that is allowed")),
    row("conntrack.maxPerCore", "conntrack-max-per-core", Integer, Honoured("with `--conntrack-sysctls`: raises nf_conntrack_max, and never lowers it")),
    row("conntrack.min", "conntrack-min", Integer, Honoured("with `--conntrack-sysctls`: raises nf_conntrack_max, and never lowers it")),
    row("conntrack.tcpEstablishedTimeout", "conntrack-tcp-timeout-established", Text, Honoured("life of an idle TCP connection in our tables; with `--conntrack-sysctls` in the kernel's too")),
    row("conntrack.tcpCloseWaitTimeout", "conntrack-tcp-timeout-close-wait", Text, Honoured("life of a half closed TCP connection in our tables; with `--conntrack-sysctls` in the kernel's too")),
    row("conntrack.tcpBeLiberal", "conntrack-tcp-be-liberal", Switch, Honoured("with `--conntrack-sysctls`; our own tables never judge sequence numbers")),
    row("conntrack.udpTimeout", "conntrack-udp-timeout", Text, Honoured("life of an unanswered UDP flow in our tables; with `--conntrack-sysctls` in the kernel's too")),
    row("conntrack.udpStreamTimeout", "conntrack-udp-timeout-stream", Text, Honoured("life of an answered UDP flow in our tables; with `--conntrack-sysctls` in the kernel's too")),
    row("configSyncPeriod", "config-sync-period", Text, Ignored("objects are watched, and the whole state is compared by itself now and then")),
    row("portRange", "", Text, Ignored("it has no effect in kube-proxy either")),
    row("windowsRunAsService", "", Switch, NO_WINDOWS),
];

/// Flags of kube-proxy that stand for no field.
#[rustfmt::skip]
pub const FLAGS: &[Setting] = &[
    row("", "config", Text, Honoured("file with a KubeProxyConfiguration, and beside it a NodeportConfiguration. Most other flags of kube-proxy are ignored then, as they are there")),
    row("", "write-config-to", Text, Honoured("writes the configuration in effect, with all defaults, to this file and exits")),
    row("", "cleanup", Switch, Honoured("removes our programs and maps and exits, as `nodeport-agent clean` does")),
    row("", "init-only", Switch, Honoured("writes the settings of the kernel that need privileges (`--conntrack-sysctls`, `--reserve-ports`) and exits")),
    row("", "master", Text, Honoured("address of the API server, before that of the kubeconfig")),
    row("", "healthz-port", Integer, Honoured("deprecated: port of the health server; 0 is none")),
    row("", "metrics-port", Integer, Honoured("deprecated: port of the metrics server; 0 is none")),
    row("", "version", Text, Honoured("prints the version and exits")),
];

/// Flags of kube-proxy that count beside `--config`, there and here.
pub const BESIDE_CONFIG: &[&str] = &[
    "config",
    "write-config-to",
    "cleanup",
    "init-only",
    "master",
    "version",
    "hostname-override",
    "v",
    "vmodule",
    "logging-format",
    "log-flush-frequency",
    "log-text-split-stream",
    "log-text-info-buffer-size",
    "log-json-split-stream",
    "log-json-info-buffer-size",
];

/// The setting that a flag stands for.
#[must_use]
pub fn of_flag(flag: &str) -> Option<&'static Setting> {
    SETTINGS
        .iter()
        .chain(FLAGS)
        .find(|setting| setting.flag == flag)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::kube_proxy::KubeProxyConfiguration;

    /// Paths of all leaves, as Go's type has them.
    fn leaves(prefix: &str, value: &serde_json::Value, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    leaves(&format!("{prefix}.{name}"), value, found);
                }
            }
            _ => {
                found.insert(prefix.trim_start_matches('.').to_owned());
            }
        }
    }

    #[test]
    fn every_field_that_kube_proxy_writes_has_its_row_and_no_row_is_twice() {
        let config = serde_json::to_value(KubeProxyConfiguration::default().defaulted());
        let mut written = BTreeSet::new();
        leaves("", &config.expect("JSON"), &mut written);
        let rows: BTreeSet<String> = SETTINGS.iter().map(|row| row.field.to_owned()).collect();
        assert_eq!(rows.len(), SETTINGS.len());
        let missing: Vec<_> = written.difference(&rows).collect();
        assert_eq!(missing, ["apiVersion", "kind"]);
        // What Go leaves out of the file when it is empty.
        let more: Vec<_> = rows.difference(&written).map(String::as_str).collect();
        let left_out = [
            "featureGates",
            "logging.options.json.splitStream",
            "logging.options.text.splitStream",
            "logging.vmodule",
            "windowsRunAsService",
        ];
        assert_eq!(more, left_out);
    }

    #[test]
    fn the_flags_beside_a_file_are_flags() {
        assert!(BESIDE_CONFIG.iter().all(|flag| of_flag(flag).is_some()));
    }
}
