//! What most stories begin with: a control plane, nodes with agents, and ways to ask.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use nodeport_tests::agent::{self, Agent, AgentSpec};
use nodeport_tests::k8s::control::{ADDRESSES, API_PORT, url};
use nodeport_tests::k8s::programs::Programs;
use nodeport_tests::k8s::relay::Relay;
use nodeport_tests::k8s::{Kubernetes, eventually};
use nodeport_tests::stream::Stream;
use nodeport_tests::{Family, LabSpec};
use serde_json::Value;

/// Port of the relay before the API server, or of a second API server.
pub(crate) const OTHER_PORT: u16 = 7443;

/// A cluster whose Services our agents carry.
pub(crate) struct World {
    pub(crate) agents: Vec<Agent>,
    pub(crate) cluster: Kubernetes,
}

impl World {
    /// This many nodes with room for four Pods each, and an agent on each.
    pub(crate) fn nodes(count: u8) -> Self {
        Self::with(count, |_, spec| spec)
    }

    /// The same, the agents started in another way.
    pub(crate) fn with(
        count: u8,
        change: impl FnOnce(&Kubernetes, AgentSpec) -> AgentSpec,
    ) -> Self {
        Self::with_spec(LabSpec::nodes(count).pods(4), change)
    }

    /// The same in another lab.
    pub(crate) fn with_spec(
        spec: LabSpec,
        change: impl FnOnce(&Kubernetes, AgentSpec) -> AgentSpec,
    ) -> Self {
        let programs = Programs::from_environment().expect("the programs are built");
        let cluster = Kubernetes::start(spec, &programs).expect("the control plane starts");
        let spec = change(&cluster, cluster.agent().expect("a kubeconfig"));
        let agents = agent::start_all(&cluster.lab, &spec).expect("the agents start");
        Self { agents, cluster }
    }

    /// Nodes whose agents reach the API server through a relay.
    pub(crate) fn relayed(nodes: u8) -> (Relay, Self) {
        let mut relay = None;
        let world = Self::with(nodes, |cluster, spec| {
            relay = Some(before_api_server(cluster));
            spec.arguments(&format!("--log-level debug --master {}", url(OTHER_PORT)))
        });
        (relay.expect("it was made"), world)
    }

    /// kubectl, which has to succeed.
    pub(crate) fn kubectl(&self, words: &str) -> String {
        self.cluster.kubectl.run(words).expect("kubectl")
    }

    /// A Deployment of that many Pods, ready, and a NodePort Service of the same name. Returns its address on each node.
    pub(crate) fn exposed(&self, name: &str, replicas: u8) -> Vec<SocketAddr> {
        self.kubectl(&format!(
            "create deployment {name} --image=lab/web --port=8080 --replicas={replicas}"
        ));
        let to = self.exposed_again(name, name);
        self.rolled_out(name);
        to
    }

    /// One more NodePort Service of a Deployment. Returns its address on each node.
    pub(crate) fn exposed_again(&self, deployment: &str, name: &str) -> Vec<SocketAddr> {
        self.kubectl(&format!(
            "expose deployment {deployment} --name={name} --type=NodePort --port=80 --target-port=8080"
        ));
        let port = self.cluster.node_port(name).expect("a node port");
        self.cluster.on_nodes(Family::V4, port)
    }

    /// Waits until a Deployment is as it shall be.
    pub(crate) fn rolled_out(&self, name: &str) {
        self.kubectl(&format!("rollout status deployment/{name} --timeout=120s"));
    }

    /// Names of a Deployment's Pods.
    pub(crate) fn pods(&self, app: &str) -> BTreeSet<String> {
        self.cluster.pods(app).expect("the API server answers")
    }

    /// Waits until each of these is answered by all Pods of a Deployment and by nobody else. Returns them.
    pub(crate) fn answered(&self, to: &[SocketAddr], app: &str) -> BTreeSet<String> {
        let pods = self.pods(app);
        self.cluster
            .await_answers(to, &pods)
            .expect("the Pods answer");
        pods
    }
}

/// What `status` says of the source.
pub(crate) fn source(agent: &Agent) -> Value {
    agent.status().expect("the agent answers")["source"].clone()
}

/// Waits until `status` says of the source what is looked for.
pub(crate) fn await_source(agent: &Agent, what: &str, holds: impl Fn(&Value) -> bool) {
    eventually(what, || {
        let source = source(agent);
        ensure!(holds(&source), "{source}");
        Ok(())
    })
    .expect(what);
}

/// A stream of requests, of which none may fail.
pub(crate) fn steady(world: &World, to: &[SocketAddr]) -> Stream {
    let client = &world.cluster.lab.client;
    Stream::start(client, to, Duration::from_millis(5)).expect("it starts")
}

/// Ends a stream of which nothing may have been lost.
///
/// On a machine that a control plane keeps busy, a sender may repeat a packet that was only late (RFC 8985: after two round trips, which are
/// microseconds here): one in a thousand is no loss.
pub(crate) fn unharmed(stream: Stream) {
    let report = stream.finish().expect("it ran");
    let is_whole = report.failed.is_empty() && report.retransmissions * 1000 <= report.answered;
    assert!(report.answered > 50 && is_whole, "{report:?}");
}

/// An address of the control plane's host.
pub(crate) fn at(port: u16) -> SocketAddr {
    SocketAddr::new(ADDRESSES[0], port)
}

/// A relay to the first API server.
pub(crate) fn before_api_server(cluster: &Kubernetes) -> Relay {
    Relay::start(cluster.control.netns(), at(OTHER_PORT), at(API_PORT)).expect("it listens")
}
