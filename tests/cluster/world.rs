//! What most stories begin with: a control plane, nodes with agents, and ways to ask.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use nodeport_tests::agent::{self, Agent, AgentSpec};
use nodeport_tests::k8s::Kubernetes;
use nodeport_tests::k8s::programs::Programs;
use nodeport_tests::{Family, LabSpec};

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
        let programs = Programs::from_environment().expect("the programs are built");
        let spec = LabSpec::nodes(count).pods(4);
        let cluster = Kubernetes::start(spec, &programs).expect("the control plane starts");
        let spec = change(&cluster, cluster.agent().expect("a kubeconfig"));
        let agents = agent::start_all(&cluster.lab, &spec).expect("the agents start");
        Self { agents, cluster }
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
        self.kubectl(&format!(
            "expose deployment {name} --type=NodePort --port=80 --target-port=8080"
        ));
        self.rolled_out(name);
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
