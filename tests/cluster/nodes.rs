//! A cluster of real nodes, and our DaemonSet on them.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use nodeport_tests::k8s::control::{ADDRESSES, API_PORT};
use nodeport_tests::k8s::load::{Answers, Load};
use nodeport_tests::k8s::programs::Programs;
use nodeport_tests::k8s::{Kubernetes, eventually, image};
use nodeport_tests::{Family, LabSpec, Netns, Node};
use serde_json::Value;

/// What `kubectl apply --filename deploy/nodeport.yaml` applies.
pub(crate) const MANIFEST: &str = include_str!("../../deploy/nodeport.yaml");

/// The agent's image, as the manifest names it; and the same by another name, to which it can be upgraded.
const IMAGE: &str = "localhost/nodeport-agent:0.1.0";
pub(crate) const OTHER_IMAGE: &str = "localhost/nodeport-agent:0.1.1";

/// A Deployment of three Pods behind a NodePort, and DNS.
const OBJECTS: &str = include_str!("real.yaml");

/// A cluster of two nodes.
pub(crate) struct Nodes {
    pub(crate) programs: Programs,
    pub(crate) cluster: Kubernetes,
}

impl Nodes {
    /// Nobody carries Services.
    pub(crate) fn bare() -> Self {
        let programs = Programs::from_environment().expect("the programs are built");
        let image = image::agent_from_environment().expect("the image is built");
        let place = tempfile::tempdir().expect("a directory");
        let other = place.path().join("other.tar");
        image::renamed(&image, IMAGE, OTHER_IMAGE, &other).expect("its usual name");
        let cluster = Kubernetes::start_real(LabSpec::nodes(2), &programs, &[image, other])
            .expect("the nodes are ready");
        Self { programs, cluster }
    }

    /// Our DaemonSet carries them, installed as docs/install.md says.
    pub(crate) fn installed() -> Self {
        let world = Self::bare();
        world.install();
        world
    }

    /// Installs our DaemonSet.
    pub(crate) fn install(&self) {
        self.kubectl(&format!(
            "create configmap nodeport-api-server --namespace kube-system --from-literal=host={} --from-literal=port={API_PORT}",
            ADDRESSES[0]
        ));
        // A namespace that admits only what it says it admits.
        self.kubectl("label namespace kube-system pod-security.kubernetes.io/enforce=privileged");
        self.apply_as("apply --server-side --dry-run=server", MANIFEST);
        let daemonsets = self.kubectl("get daemonsets --all-namespaces --output=name");
        assert_eq!(daemonsets, "", "a dry run writes nothing");
        self.apply_as("apply", MANIFEST);
        self.agents_rolled_out();
    }

    /// Installed, with a Deployment and DNS that answer.
    pub(crate) fn serving() -> Self {
        let world = Self::installed();
        world.deploy();
        world
    }

    /// Makes a Deployment and DNS, and waits until they answer.
    pub(crate) fn deploy(&self) {
        self.apply_as("apply", OBJECTS);
        self.kubectl("rollout status deployment/web --timeout=120s");
        self.kubectl("rollout status deployment/coredns --namespace=kube-system --timeout=120s");
        let pods = self.cluster.pods("web").expect("Pods");
        assert_eq!(pods.len(), 3);
        let port = self.cluster.node_port("web").expect("a node port");
        let to = self.cluster.on_nodes(Family::V4, port);
        self.cluster.await_answers(&to, &pods).expect("they answer");
    }

    pub(crate) fn kubectl(&self, words: &str) -> String {
        self.cluster.kubectl.run(words).expect("kubectl")
    }

    /// `kubectl` with objects on its standard input.
    pub(crate) fn apply_as(&self, words: &str, objects: &str) {
        let words = format!("{words} --filename -");
        let done = self.cluster.kubectl.run_with(&words, objects);
        done.expect("the objects are accepted");
    }

    /// Waits until each node has an agent of the latest revision that is ready.
    pub(crate) fn agents_rolled_out(&self) {
        let words = "rollout status daemonset/nodeport --namespace=kube-system --timeout=180s";
        if let Err(error) = self.cluster.kubectl.run(words) {
            let why = self.cluster.kubectl.run(
                "describe pods --namespace=kube-system --selector=app.kubernetes.io/name=nodeport",
            );
            let log = self
                .cluster
                .kubectl
                .run("logs daemonset/nodeport --namespace=kube-system --all-containers");
            panic!("{error:#}\n{why:?}\n{log:?}");
        }
    }

    /// Waits until each node has an agent that is ready and none of these. Returns their names.
    pub(crate) fn agents(&self, gone: &[String]) -> Vec<String> {
        let path =
            "/api/v1/namespaces/kube-system/pods?labelSelector=app.kubernetes.io%2Fname%3Dnodeport";
        let mut names = Vec::new();
        eventually("each node has a ready agent", || {
            let list = self.cluster.api.get(path)?;
            let pods = list["items"].as_array().context("a list of Pods")?;
            names = pods.iter().filter_map(ready).collect();
            let nodes = self.cluster.lab.nodes.len();
            ensure!(names.len() == nodes && pods.len() == nodes, "{names:?}");
            ensure!(!names.iter().any(|name| gone.contains(name)), "{names:?}");
            Ok(())
        })
        .expect("they are ready");
        names
    }

    /// Load from outside to the Service `web` on both nodes; and from a node and from a Pod, to it on their own node and by its cluster address.
    ///
    /// Not from them by another node: that one keeps the client's address and port, and both of these reach the same endpoint directly, too
    /// (docs/differences.md).
    pub(crate) fn load(&self) -> Vec<(&'static str, Load)> {
        let port = self.cluster.node_port("web").expect("a node port");
        let nodes = self.cluster.on_nodes(Family::V4, port);
        let cluster_ip = self.kubectl("get service web --output=jsonpath={.spec.clusterIP}");
        let pod = self.kubectl(
            "get pods --selector=app=web --output=jsonpath={.items[0].metadata.name},{.items[0].status.hostIP}",
        );
        let (pod, host) = pod.split_once(',').expect("a name and an address");
        let on = |address: String| format!("{address}:{port}");
        let cluster_ip = format!("{cluster_ip}:80");
        let outside: Vec<_> = nodes.iter().map(|node| on(node.ip().to_string())).collect();
        let node = inside(&self.cluster.lab.nodes[0]);
        let from = |netns: &Netns, urls: &[String]| Load::from(netns, &self.programs, urls);
        let started = [
            ("outside", from(&self.cluster.lab.client, &outside)),
            (
                "a node",
                from(&node, &[outside[0].clone(), cluster_ip.clone()]),
            ),
            (
                "a Pod",
                Load::in_pod(
                    &self.cluster.kubectl,
                    pod,
                    &[on(host.to_owned()), cluster_ip],
                ),
            ),
        ];
        started
            .map(|(place, load)| (place, load.expect("it starts")))
            .into()
    }

    /// Replaces agents under load from everywhere: nobody may notice.
    pub(crate) fn unnoticed(&self, replace: impl FnOnce(&Self, &[String])) {
        let before = self.agents(&[]);
        let loads = self.load();
        // So that all connections that shall be kept are there.
        std::thread::sleep(Duration::from_secs(2));
        replace(self, &before);
        self.agents(&before);
        std::thread::sleep(Duration::from_secs(2));
        for (place, load) in loads {
            let answers = load.finish().expect("it ran");
            assert_unharmed(place, &answers);
        }
    }
}

/// The name of a Pod that is ready and is to stay.
fn ready(pod: &Value) -> Option<String> {
    let status = &pod["status"]["containerStatuses"][0];
    let stays = pod["metadata"]["deletionTimestamp"].is_null();
    let ready = stays && status["ready"] == true;
    ready.then(|| pod["metadata"]["name"].as_str().map(str::to_owned))?
}

/// Every request was answered, and there were many.
pub(crate) fn assert_unharmed(place: &str, answers: &Answers) {
    println!("from {place}: {answers:?}");
    assert!(answers.failed.is_empty(), "from {place}: {answers:?}");
    assert!(
        answers.new > 100 && answers.kept > 100,
        "from {place}: too few to say anything: {answers:?}"
    );
}

/// A node as its own processes are in it: with its cgroup.
pub(crate) fn inside(node: &Node) -> Netns {
    let cgroup = node.cgroup.as_ref().expect("cgroup v2 is mounted");
    // Where there is no other hierarchy, node.sh puts processes one level deeper.
    let deeper = cgroup.join("node");
    let cgroup = if deeper.is_dir() { &deeper } else { cgroup };
    node.netns.in_cgroup(cgroup)
}
