//! Flags, files and defaults brought together: what counts, and what is said of the rest.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn flags(given: &[(&'static str, &str)]) -> KubeProxyFlags {
    let mut flags = BTreeMap::new();
    for (flag, value) in given {
        flags
            .entry(*flag)
            .or_insert_with(Vec::new)
            .push((*value).to_owned());
    }
    KubeProxyFlags(flags)
}

fn file(fields: &str) -> ConfigFile {
    let (path, text) = (PathBuf::from("c.yaml"), format!("{HEAD}{fields}"));
    let documents = document::read(&path, &text).expect("a configuration");
    ConfigFile {
        path,
        text,
        documents,
    }
}

fn by_flags(given: &[(&'static str, &str)]) -> Settings {
    Settings::resolve(&flags(given), None).expect("valid")
}

fn by_file(fields: &str) -> Settings {
    Settings::resolve(&flags(&[]), Some(&file(fields))).expect("valid")
}

#[test]
fn without_anything_the_defaults_are_in_effect_and_nothing_is_ignored() {
    let settings = by_flags(&[]);
    assert_eq!(settings.health(), "0.0.0.0:10256".parse().ok());
    assert_eq!(settings.metrics(), "127.0.0.1:10249".parse().ok());
    assert_eq!(settings.health_timeout(), Duration::from_mins(1));
    assert_eq!(settings.min_sync_period(), None);
    assert_eq!(settings.lifetimes(), Lifetimes::default());
    assert!(settings.ignored.is_empty() && settings.warnings.is_empty());
}

#[test]
fn an_ipv6_bind_address_moves_the_servers_20_6() {
    for settings in [
        by_flags(&[("bind-address", "::")]),
        by_file("bindAddress: \"::\"\n"),
    ] {
        assert_eq!(settings.health(), "[::]:10256".parse().ok());
        assert_eq!(settings.metrics(), "[::1]:10249".parse().ok());
    }
}

#[test]
fn an_address_without_a_port_gets_the_usual_one_and_an_empty_flag_is_no_server() {
    let settings = by_file("healthzBindAddress: 10.0.0.1\nmetricsBindAddress: \"fd00::1\"\n");
    assert_eq!(settings.health(), "10.0.0.1:10256".parse().ok());
    assert_eq!(settings.metrics(), "[fd00::1]:10249".parse().ok());
    let settings = by_flags(&[("healthz-bind-address", ""), ("metrics-port", "0")]);
    assert_eq!((settings.health(), settings.metrics()), (None, None));
    let settings = by_flags(&[("metrics-bind-address", "10.0.0.1"), ("metrics-port", "99")]);
    assert_eq!(settings.metrics(), "10.0.0.1:99".parse().ok());
    // In a file, empty is the same as not there.
    assert!(by_file("metricsBindAddress: \"\"\n").metrics().is_some());
}

#[test]
fn beside_a_file_kube_proxys_flags_do_not_count_but_for_a_few() {
    let given = flags(&[
        ("healthz-bind-address", "1.2.3.4:5"),
        ("hostname-override", "N2"),
        ("v", "4"),
        ("conntrack-min", "7"),
    ]);
    let file = file("hostnameOverride: n1\nconntrack: {min: 9}\n");
    let settings = Settings::resolve(&given, Some(&file)).expect("valid");
    assert_eq!(settings.health(), "0.0.0.0:10256".parse().ok());
    assert_eq!(settings.kube_proxy.hostname_override, "N2");
    assert_eq!(settings.kube_proxy.conntrack.min, Some(9));
    let named: Vec<&str> = settings
        .warnings
        .iter()
        .filter_map(|one| one.split(' ').next())
        .collect();
    assert_eq!(named, ["--conntrack-min", "--healthz-bind-address"]);
}

#[test]
fn what_has_no_effect_is_named_with_its_value_and_defaults_are_not() {
    let names = |settings: Settings| -> Vec<String> {
        settings
            .ignored
            .into_iter()
            .map(|one| format!("{}={}", one.setting, one.value))
            .collect()
    };
    let kubeadm = "mode: \"\"\nclusterCIDR: 10.244.0.0/16\niptables: {masqueradeAll: false, masqueradeBit: 14, syncPeriod: 0s}\n\
                   ipvs: {scheduler: \"\", strictARP: false}\nconfigSyncPeriod: 15m0s\nenableProfiling: false\n";
    assert_eq!(names(by_file(kubeadm)), ["clusterCIDR=10.244.0.0/16"]);
    let settings = by_flags(&[
        ("proxy-mode", "iptables"),
        ("masquerade-all", "true"),
        ("feature-gates", "A=true"),
    ]);
    assert_eq!(
        names(settings),
        [
            "featureGates={\"A\":true}",
            "mode=iptables",
            "iptables.masqueradeAll=true"
        ]
    );
    assert!(by_flags(&[("proxy-mode", "ebpf")]).ignored.is_empty());
}

#[test]
fn periods_are_those_of_the_mode_in_use() {
    let text = "iptables: {syncPeriod: 10s, minSyncPeriod: 2s}\nnftables: {syncPeriod: 20s, minSyncPeriod: 5s}\n";
    let (iptables, nftables) = (by_file(text), by_file(&format!("mode: nftables\n{text}")));
    assert_eq!(
        (iptables.health_timeout(), iptables.min_sync_period()),
        (Duration::from_secs(20), Some(Duration::from_secs(2)))
    );
    assert_eq!(
        (nftables.health_timeout(), nftables.min_sync_period()),
        (Duration::from_secs(40), Some(Duration::from_secs(5)))
    );
    let flags = by_flags(&[
        ("proxy-mode", "nftables"),
        ("iptables-min-sync-period", "3s"),
    ]);
    assert_eq!(flags.min_sync_period(), Some(Duration::from_secs(3)));
}

#[test]
fn nftables_mode_makes_primary_the_default_12_9() {
    let settings = by_file("mode: nftables\n");
    assert_eq!(
        settings.kube_proxy.node_port_addresses,
        Some(vec!["primary".to_owned()])
    );
    assert_eq!(by_file("").kube_proxy.node_port_addresses, None);
}

#[test]
fn conntracks_timeouts_are_lives_of_flows_17_11() {
    let text = "conntrack: {tcpEstablishedTimeout: 1h, tcpCloseWaitTimeout: 90s, udpTimeout: 0s, udpStreamTimeout: 5m}\n";
    let lives = by_file(text).lifetimes();
    assert_eq!((lives.tcp_established, lives.tcp_half_closed), (3600, 90));
    assert_eq!((lives.udp_unreplied, lives.udp_replied), (30, 300));
    let forever = by_file("conntrack: {tcpEstablishedTimeout: 99999h}\n").lifetimes();
    assert_eq!(forever.tcp_established, 20 * 24 * 3600);
    assert_eq!(
        by_file("conntrack: {tcpEstablishedTimeout: 0s}\n").lifetimes(),
        Lifetimes::default()
    );
}

#[test]
fn values_that_mean_nothing_are_refused_with_the_field_whichever_way_they_came() {
    let error =
        Settings::resolve(&flags(&[("oom-score-adj", "-2000")]), None).expect_err("out of range");
    assert!(
        error.to_string().contains("oomScoreAdj: \"-2000\""),
        "{error}"
    );
    let error = Settings::resolve(&flags(&[]), Some(&file("oomScoreAdj: 2000\n")))
        .expect_err("out of range");
    assert!(
        error.to_string().contains("oomScoreAdj: \"2000\""),
        "{error}"
    );
    let error = Settings::resolve(&flags(&[("iptables-sync-period", "soon")]), None)
        .expect_err("no duration");
    assert!(error.to_string().contains("iptables.syncPeriod"), "{error}");
}

#[test]
fn node_ports_on_loopback_are_asked_for_where_kube_proxy_has_them_13_1_13_3() {
    let asked = |settings: &Settings| settings.localhost_node_ports();
    assert!(asked(&by_file("iptables: {localhostNodePorts: true}\n")));
    assert!(asked(&by_flags(&[(
        "iptables-localhost-nodeports",
        "true"
    )])));
    for none in [
        by_flags(&[]),
        by_file("mode: iptables\n"),
        by_file("iptables: {localhostNodePorts: false}\n"),
        by_file("mode: nftables\niptables: {localhostNodePorts: true}\n"),
    ] {
        assert!(!asked(&none), "{:?}", none.given);
        let mut ignored = none.ignored.iter();
        assert!(ignored.all(|one| one.setting == "mode"), "{none:?}");
    }
}
