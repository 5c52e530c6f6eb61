//! kube-proxy's rules as the real kube-proxy writes them, where the cluster tier has built it: it is shown the Services in a cluster of its own,
//! and what it wrote is taken down.
//!
//! Invariant: for one set of Services it is asked once; all runs have the same rules.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use nodeport_tests::LabSpec;
use nodeport_tests::k8s::kube_proxy::{KubeProxy, Mode};
use nodeport_tests::k8s::programs::Programs;
use nodeport_tests::k8s::{Kubernetes, eventually};
use serde_json::{Value, json};

use crate::objects::{Shape, manifest};

/// With more Services than these, API server and kube-proxy take minutes.
const MOST: u32 = 1000;

static WRITTEN: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);

/// The rules for these Services, as text for `nft -f` or `iptables-restore`. `None` if there is no kube-proxy, or if they are too many.
pub(crate) fn rules(mode: Mode, shape: &Shape) -> Result<Option<String>> {
    let Ok(programs) = Programs::from_environment() else {
        return Ok(None);
    };
    if shape.services > MOST || programs.find("kube-proxy").is_err() {
        return Ok(None);
    }
    let mut written = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
    let key = format!("{mode:?} {shape:?}");
    if let Some(rules) = written.get(&key) {
        return Ok(Some(rules.clone()));
    }
    let rules = ask(&programs, mode, shape)?;
    written.insert(key, rules.clone());
    Ok(Some(rules))
}

fn ask(programs: &Programs, mode: Mode, shape: &Shape) -> Result<String> {
    let cluster = Kubernetes::start(LabSpec::nodes(1).pods(1), programs)?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}});
    cluster.api.post("/api/v1/namespaces", &namespace)?;
    let list = manifest(&shape.services());
    for object in list["items"].as_array().context("a list")? {
        if let Some(path) = collection(object) {
            cluster.api.post(path, object)?;
        }
    }
    let node = cluster.lab.node("n1");
    let proxy = KubeProxy::start(&cluster, programs, node, mode)?;
    let family = if shape.v6 { "ip6" } else { "ip" };
    let command = match (mode, shape.v6) {
        (Mode::Nftables, _) => format!("nft list table {family} kube-proxy"),
        (Mode::Iptables, false) => "iptables-save".to_owned(),
        (Mode::Iptables, true) => "ip6tables-save".to_owned(),
    };
    let services = shape.services();
    let last = services.last().and_then(|service| service.endpoints.last());
    // In nftables, port and address are apart.
    let last = last.context("an endpoint")?.ip().to_string();
    let mut rules = String::new();
    eventually("kube-proxy has written all rules", || {
        rules = node.netns.sh(&command)?;
        ensure!(rules.contains(&last), "no {last} in {} bytes", rules.len());
        Ok(())
    })?;
    proxy.stop()?;
    Ok(without_accounts(&rules))
}

/// The rules without `-m nfacct --nfacct-name NAME`: counters that kube-proxy makes beside its rules, which are no part of their text.
fn without_accounts(rules: &str) -> String {
    let line = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        while let Some(at) = words.iter().position(|word| *word == "nfacct") {
            let end = words.len().min(at + 3);
            words.drain(at.saturating_sub(1)..end);
        }
        words.join(" ") + "\n"
    };
    rules.lines().map(line).collect()
}

/// Where objects of this kind are created; of Nodes, the lab has its own.
fn collection(object: &Value) -> Option<&'static str> {
    match object["kind"].as_str()? {
        "Service" => Some("/api/v1/namespaces/bench/services"),
        "EndpointSlice" => Some("/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_left_out_of_rules() {
        let rule = "-A KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name  dropped -j DROP\nCOMMIT\n";
        let wanted = "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n";
        assert_eq!(without_accounts(rule), wanted);
        assert_eq!(without_accounts(wanted), wanted);
    }
}
