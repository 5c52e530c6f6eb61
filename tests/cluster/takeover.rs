//! From the real kube-proxy to nodeport on live nodes, and back: nobody notices.

use std::thread::sleep;
use std::time::Duration;

use anyhow::ensure;
use nodeport_tests::k8s::eventually;
use nodeport_tests::k8s::kube_proxy::{KubeProxy, Mode, has_rules};
use nodeport_tests::k8s::load::Load;
use serde_json::Value;

use crate::nodes::{MANIFEST, Nodes, assert_unharmed};

/// Takes what we left off the nodes.
const CLEAN: &str = include_str!("../../deploy/clean.yaml");

/// So that there is something to be broken.
const A_WHILE: Duration = Duration::from_secs(2);

fn kube_proxies(world: &Nodes, mode: Mode) -> Vec<KubeProxy> {
    let nodes = world.cluster.lab.nodes.iter();
    nodes
        .map(|node| {
            KubeProxy::start(&world.cluster, &world.programs, node, mode).expect("it starts")
        })
        .collect()
}

/// What an agent answers to a verb.
fn ask(world: &Nodes, agent: &str, verb: &str) -> anyhow::Result<Value> {
    let exec = format!("exec --namespace=kube-system {agent} -- /bin/nodeport-agent {verb}");
    let text = world
        .cluster
        .kubectl
        .run(&format!("{exec} --output=json"))?;
    Ok(serde_json::from_str(&text)?)
}

/// Waits until every agent says so of kube-proxy.
fn all_say(world: &Nodes, words: &str) {
    for agent in world.agents(&[]) {
        eventually(&format!("{agent} says: {words}"), || {
            let warnings = ask(world, &agent, "status")?["warnings"].to_string();
            ensure!(warnings.contains(words), "{warnings}");
            Ok(())
        })
        .expect("it does");
    }
}

/// Connections that the agents' programs carry.
fn flows(world: &Nodes) -> usize {
    let agents = world.agents(&[]);
    let flows = agents
        .iter()
        .map(|agent| ask(world, agent, "dump flows").expect("it answers"));
    flows
        .map(|flows| flows.as_array().map_or(0, Vec::len))
        .sum()
}

fn finish(loads: Vec<(&'static str, Load)>) {
    for (place, load) in loads {
        assert_unharmed(place, &load.finish().expect("it ran"));
    }
}

fn there_and_back(mode: Mode) {
    let world = Nodes::bare();
    let proxies = kube_proxies(&world, mode);
    world.deploy();
    let begun_before = world.load();
    sleep(A_WHILE);

    // Beside kube-proxy, agents leave what is new to it.
    world.install();
    all_say(&world, "kube-proxy runs beside");
    assert_eq!(flows(&world), 0);

    // It goes, its rules go with it, and what they began goes on.
    for proxy in proxies {
        proxy.stop().expect("it ends");
    }
    for node in &world.cluster.lab.nodes {
        eventually("kube-proxy's rules are gone", || {
            ensure!(!has_rules(node)?, "they are there");
            Ok(())
        })
        .expect("they go");
    }
    sleep(A_WHILE);
    finish(begun_before);
    let ours = world.load();
    sleep(A_WHILE);
    assert!(flows(&world) > 0);

    // It comes back and gets what is new; ours goes on beside it.
    let _proxies = kube_proxies(&world, mode);
    all_say(&world, "kube-proxy runs beside");
    sleep(A_WHILE);
    finish(ours);
    let given_back = world.load();
    sleep(A_WHILE);
    world.apply_as("delete --wait", MANIFEST);
    world.apply_as("apply", CLEAN);
    world.kubectl("rollout status daemonset/nodeport-clean --namespace=kube-system --timeout=120s");
    for node in &world.cluster.lab.nodes {
        let programs = node.netns.sh("bpftool net show").expect("bpftool");
        assert!(!programs.contains("nodeport"), "{programs}");
    }
    world.apply_as("delete --wait", CLEAN);
    sleep(A_WHILE);
    finish(given_back);
}

#[test]
fn from_kube_proxy_in_nftables_mode_and_back_no_request_fails() {
    there_and_back(Mode::Nftables);
}

#[test]
fn from_kube_proxy_in_iptables_mode_and_back_no_request_fails() {
    there_and_back(Mode::Iptables);
}
