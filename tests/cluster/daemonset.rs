//! The DaemonSet of `deploy/` in the image of `cargo xtask image`: on real nodes it alone carries Services.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nodeport_tests::k8s::control::{ADDRESSES, API_PORT, DNS};
use nodeport_tests::k8s::load::{Answers, Load};
use nodeport_tests::k8s::programs::Programs;
use nodeport_tests::k8s::{Kubernetes, eventually, image};
use nodeport_tests::stream::Stream;
use nodeport_tests::{Family, LabSpec, Netns, Node};
use serde_json::Value;

/// What `kubectl apply --filename deploy/nodeport.yaml` applies.
const MANIFEST: &str = include_str!("../../deploy/nodeport.yaml");

/// A Deployment of three Pods behind a NodePort, and DNS.
const OBJECTS: &str = include_str!("real.yaml");

/// A cluster of two nodes without kube-proxy, the DaemonSet installed as docs/install.md says.
struct World {
    programs: Programs,
    cluster: Kubernetes,
}

impl World {
    fn installed() -> Self {
        let programs = Programs::from_environment().expect("the programs are built");
        let image = image::agent_from_environment().expect("the image is built");
        let cluster = Kubernetes::start_real(LabSpec::nodes(2), &programs, &[image])
            .expect("the nodes are ready");
        let world = Self { programs, cluster };
        world.kubectl(&format!(
            "create configmap nodeport-api-server --namespace kube-system --from-literal=host={} --from-literal=port={API_PORT}",
            ADDRESSES[0]
        ));
        // A namespace that admits only what it says it admits.
        world.kubectl("label namespace kube-system pod-security.kubernetes.io/enforce=privileged");
        world.apply("--server-side --dry-run=server", MANIFEST);
        let daemonsets = world.kubectl("get daemonsets --all-namespaces --output=name");
        assert_eq!(daemonsets, "", "a dry run writes nothing");
        world.apply("", MANIFEST);
        world.agents_rolled_out();
        world
    }

    /// Installed, with a Deployment and DNS that answer.
    fn serving() -> Self {
        let world = Self::installed();
        world.apply("", OBJECTS);
        world.kubectl("rollout status deployment/web --timeout=120s");
        world.kubectl("rollout status deployment/coredns --namespace=kube-system --timeout=120s");
        let pods = world.cluster.pods("web").expect("Pods");
        assert_eq!(pods.len(), 3);
        let port = world.cluster.node_port("web").expect("a node port");
        let to = world.cluster.on_nodes(Family::V4, port);
        world
            .cluster
            .await_answers(&to, &pods)
            .expect("they answer");
        world
    }

    fn kubectl(&self, words: &str) -> String {
        self.cluster.kubectl.run(words).expect("kubectl")
    }

    fn apply(&self, how: &str, objects: &str) {
        let words = format!("apply {how} --filename -");
        let applied = self.cluster.kubectl.run_with(&words, objects);
        applied.expect("the objects are accepted");
    }

    /// Waits until each node has an agent of the latest revision that is ready.
    fn agents_rolled_out(&self) {
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
    fn agents(&self, gone: &[String]) -> Vec<String> {
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

    /// The Service `web`: its port on each node, and its cluster address.
    fn urls(&self) -> Vec<String> {
        let port = self.cluster.node_port("web").expect("a node port");
        let address = self.kubectl("get service web --output=jsonpath={.spec.clusterIP}");
        let nodes = self.cluster.on_nodes(Family::V4, port).into_iter();
        nodes
            .map(|at| format!("http://{at}/"))
            .chain([format!("http://{address}/")])
            .collect()
    }

    /// Load from outside, from a node and from a Pod, to all that each can reach.
    fn load(&self) -> Vec<(&'static str, Load)> {
        let urls = self.urls();
        let node = inside(&self.cluster.lab.nodes[0]);
        let from = |netns: &Netns, urls: &[String]| Load::from(netns, &self.programs, urls);
        let started = [
            ("outside", from(&self.cluster.lab.client, &urls[..2])),
            ("a node", from(&node, &urls)),
            (
                "a Pod",
                Load::in_pod(&self.cluster.kubectl, "deployment/web", &urls),
            ),
        ];
        started
            .map(|(place, load)| (place, load.expect("it starts")))
            .into()
    }

    /// Replaces agents under load from everywhere: nobody may notice.
    fn unnoticed(&self, replace: impl FnOnce(&Self, &[String])) {
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

fn assert_unharmed(place: &str, answers: &Answers) {
    println!("from {place}: {answers:?}");
    assert!(answers.failed.is_empty(), "from {place}: {answers:?}");
    assert!(
        answers.new > 100 && answers.kept > 100,
        "from {place}: too few to say anything: {answers:?}"
    );
}

/// A node as its own processes are in it: with its cgroup.
fn inside(node: &Node) -> Netns {
    let cgroup = node.cgroup.as_ref().expect("cgroup v2 is mounted");
    // Where there is no other hierarchy, node.sh puts processes one level deeper.
    let deeper = cgroup.join("node");
    let cgroup = if deeper.is_dir() { &deeper } else { cgroup };
    node.netns.in_cgroup(cgroup)
}

#[test]
fn the_daemonset_carries_services_from_everywhere() {
    let world = World::serving();
    let pods = world.cluster.pods("web").expect("Pods");
    let loads = world.load();
    std::thread::sleep(Duration::from_secs(5));
    for (place, load) in loads {
        let answers = load.finish().expect("it ran");
        assert_unharmed(place, &answers);
        let seen: BTreeSet<_> = answers.names.into_keys().collect();
        assert_eq!(seen, pods, "from {place}");
    }

    // DNS by its cluster address, from a Pod as its resolv.conf says, and from a node.
    let address = world.kubectl("get service web --output=jsonpath={.spec.clusterIP}");
    let name = "web.default.svc.cluster.local";
    let exec = format!("exec deployment/web -- /bin/pod lookup {name}");
    eventually("DNS answers a Pod", || {
        let found = world.cluster.kubectl.run(&exec)?;
        ensure!(found.lines().any(|line| line == address), "{found}");
        Ok(())
    })
    .expect("it does");
    let node = inside(&world.cluster.lab.nodes[1]);
    for transport in ["+notcp", "+tcp"] {
        let dig = format!("dig +short +tries=1 +time=2 {transport} @{DNS} {name} A");
        let found = node.sh(&dig).expect("DNS answers a node");
        assert_eq!(found.trim(), address, "{transport}");
    }

    // The agents got the API server's address that needs no Service.
    let status = world.kubectl(
        "exec --namespace=kube-system daemonset/nodeport -- /bin/nodeport-agent status --output=json",
    );
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let server = status["source"]["server"].as_str().expect("a server");
    assert!(server.contains(&ADDRESSES[0].to_string()), "{server}");
}

#[test]
fn replaced_agents_are_not_noticed() {
    let world = World::serving();
    world.unnoticed(|world, _| {
        world.kubectl("rollout restart daemonset/nodeport --namespace=kube-system");
        world.agents_rolled_out();
    });
    world.unnoticed(|world, agents| {
        for agent in agents {
            world.kubectl(&format!("delete pod {agent} --namespace=kube-system"));
            world.agents(std::slice::from_ref(agent));
        }
    });
    // As an operator does who is in a hurry: the new one may start while the old one still ends.
    world.unnoticed(|world, agents| {
        let agents = agents.join(" ");
        world.kubectl(&format!(
            "delete pod {agents} --namespace=kube-system --force --grace-period=0"
        ));
    });
}

#[test]
fn a_deployment_is_replaced_under_load_without_a_failed_request() {
    let world = World::serving();
    let before = world.cluster.pods("web").expect("Pods");
    let port = world.cluster.node_port("web").expect("a node port");
    let to = world.cluster.on_nodes(Family::V4, port);
    let pause = Duration::from_millis(5);
    let stream = Stream::start(&world.cluster.lab.client, &to, pause).expect("it starts");
    world.kubectl("rollout restart deployment/web");
    world.kubectl("rollout status deployment/web --timeout=120s");
    eventually("the former Pods are gone", || {
        let now = world.cluster.pods("web")?;
        ensure!(now.is_disjoint(&before), "{now:?}");
        Ok(())
    })
    .expect("they end");
    // They are served until their last second: also after they are named no more.
    std::thread::sleep(Duration::from_secs(5));
    let report = stream.finish().expect("it ran");
    assert!(
        report.answered > 100 && report.failed.is_empty(),
        "{report:?}"
    );
}

/// docs/install.md says what a namespace has to admit.
#[test]
fn pod_security_refuses_the_agents_below_privileged_and_names_why() {
    let world = World::installed();
    world.kubectl("create namespace strict");
    eventually("the namespace has its account", || {
        let account = "get serviceaccount default --namespace=strict";
        world.cluster.kubectl.run(account).map(drop)
    })
    .expect("controllers run");
    world.kubectl("label namespace strict pod-security.kubernetes.io/enforce=baseline");
    let set = world
        .cluster
        .api
        .get("/apis/apps/v1/namespaces/kube-system/daemonsets/nodeport");
    let mut pod = set.expect("it is there")["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"] = serde_json::json!({"name": "agent"});
    pod["spec"]["serviceAccountName"] = "default".into();
    let create = |namespace: &str| {
        let words = format!("create --dry-run=server --namespace={namespace} --filename -");
        world.cluster.kubectl.run_with(&words, &pod.to_string())
    };
    let error = create("strict").expect_err("baseline refuses").to_string();
    for reason in [
        "host namespaces",
        "hostPath volumes",
        "non-default capabilities",
    ] {
        assert!(error.contains(reason), "{error}");
    }
    assert!(!error.contains("privileged ("), "{error}");
    world.kubectl(
        "label namespace strict --overwrite pod-security.kubernetes.io/enforce=privileged",
    );
    create("strict").expect("privileged admits");
}
