//! Our surface beside what a real kube-proxy 1.37 was seen to have (`kube-proxy-1.37/`): configuration and flags.

use std::process::Command;

use clap::CommandFactory as _;
use nodeport_agent::cli::Cli;
use nodeport_agent::config::table;

const DEFAULT_CONFIG: &str = include_str!("kube-proxy-1.37/default-config.yaml");
const FLAGS: &str = include_str!("kube-proxy-1.37/flags.txt");
const CONFIGZ: &str = include_str!("kube-proxy-1.37/10249-configz.txt");

fn agent(words: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_nodeport-agent"))
        .args(words)
        .env("NODE_NAME", "n1")
        .output()
        .expect("the agent runs")
}

/// `run` of a node (by its environment) with objects, which the flags under test do not need.
fn run(words: &[&str]) -> std::process::Output {
    agent(&[&["run", "--manifests", "/none"], words].concat())
}

#[test]
fn the_configuration_that_is_written_is_kube_proxys_byte_for_byte() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let (first, second) = (place.path().join("first"), place.path().join("second"));
    let first = first.to_str().expect("a path");
    let output = run(&["--write-config-to", first]);
    assert!(output.status.success(), "{output:?}");
    let written = std::fs::read_to_string(first).expect("written");
    assert_eq!(written, DEFAULT_CONFIG);
    // And it reads back strictly, as itself.
    let output = run(&[
        "--config",
        first,
        "--write-config-to",
        second.to_str().expect("a path"),
    ]);
    assert!(output.status.success(), "{output:?}");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(
        warnings[0].contains("mode = iptables is not honoured"),
        "{log}"
    );
    assert_eq!(
        std::fs::read_to_string(&second).expect("written"),
        DEFAULT_CONFIG
    );
}

#[test]
fn a_configuration_as_a_real_kube_proxy_shows_it_is_the_same_after_reading() {
    let (_, body) = CONFIGZ
        .split_once("\n\n")
        .or_else(|| CONFIGZ.split_once("\r\n\r\n"))
        .expect("a body");
    let shown: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let shown = &shown["kubeproxy.config.k8s.io"];
    let config: nodeport_agent::config::KubeProxyConfiguration =
        serde_json::from_value(without_nulls(shown.clone())).expect("all of its fields are known");
    let ours = serde_json::to_string(&config.defaulted()).expect("JSON");
    assert_eq!(
        format!("{{\"kubeproxy.config.k8s.io\":{ours}}}"),
        body.trim_end()
    );
}

fn without_nulls(mut value: serde_json::Value) -> serde_json::Value {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        for value in fields.values_mut() {
            *value = without_nulls(value.take());
        }
    }
    value
}

#[test]
fn every_flag_of_kube_proxy_is_accepted_and_listed() {
    let mut cli = Cli::command();
    cli.build();
    let known: Vec<String> = cli
        .find_subcommand("run")
        .expect("the verb")
        .get_arguments()
        .flat_map(|arg| {
            let aliases = arg.get_all_aliases().unwrap_or_default();
            let names = arg.get_long().into_iter().chain(aliases);
            names.map(ToOwned::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let flags: Vec<&str> = FLAGS.lines().collect();
    assert_eq!(flags.len(), 54);
    for flag in flags {
        assert!(
            known.iter().any(|name| name == flag),
            "--{flag} is not accepted"
        );
        assert!(
            table::of_flag(flag).is_some(),
            "--{flag} is not in the table"
        );
    }
}

#[test]
fn the_version_is_printed_and_nothing_else_is_done() {
    for flag in ["--version", "--version=raw"] {
        let output = run(&[flag]);
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            text.trim(),
            format!("nodeport-agent {}", env!("CARGO_PKG_VERSION"))
        );
    }
}

#[test]
fn an_invalid_configuration_ends_the_agent_before_anything_is_touched() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("c.yaml");
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    std::fs::write(
        &path,
        format!("{head}bindAddress: here\nnodePortAddresses: [primary, x]\n"),
    )
    .expect("written");
    let output = run(&["--config", path.to_str().expect("a path")]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("bindAddress: \"here\"") && text.contains("nodePortAddresses[1]: \"x\""),
        "{text}"
    );
}
