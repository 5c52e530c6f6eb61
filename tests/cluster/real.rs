//! Real nodes: kubelets start the Pods, and our agents carry their Services.

use std::time::Duration;

use anyhow::ensure;
use nodeport_tests::agent;
use nodeport_tests::k8s::programs::Programs;
use nodeport_tests::k8s::{Kubernetes, eventually};
use nodeport_tests::stream::Stream;
use nodeport_tests::{Family, LabSpec};

/// A Deployment of three Pods behind a NodePort, and DNS.
const OBJECTS: &str = include_str!("real.yaml");

#[test]
fn real_pods_are_reached_and_replaced_under_load_without_a_failed_request() {
    let programs = Programs::from_environment().expect("the programs are built");
    let cluster =
        Kubernetes::start_real(LabSpec::nodes(2), &programs, &[]).expect("the nodes are ready");
    let spec = cluster.agent().expect("a kubeconfig");
    let _agents = agent::start_all(&cluster.lab, &spec).expect("the agents start");
    let kubectl = |words: &str| cluster.kubectl.run(words).expect("kubectl");
    cluster.kubectl.apply(OBJECTS).expect("applied");
    kubectl("rollout status deployment/web --timeout=120s");
    let to = cluster.on_nodes(Family::V4, cluster.node_port("web").expect("a node port"));
    let before = cluster.pods("web").expect("Pods");
    assert_eq!(before.len(), 3);
    cluster.await_answers(&to, &before).expect("they answer");

    let stream =
        Stream::start(&cluster.lab.client, &to, Duration::from_millis(5)).expect("it starts");
    kubectl("rollout restart deployment/web");
    kubectl("rollout status deployment/web --timeout=120s");
    eventually("the former Pods are gone", || {
        let now = cluster.pods("web")?;
        ensure!(now.is_disjoint(&before), "{now:?}");
        Ok(())
    })
    .expect("they end");
    let report = stream.finish().expect("it ran");
    assert!(
        report.answered > 50 && report.failed.is_empty(),
        "{report:?}"
    );

    // From inside a Pod: DNS through its Service, then the Service by its name.
    kubectl("rollout status deployment/coredns --namespace=kube-system --timeout=120s");
    let inside = |words: &str| {
        cluster
            .kubectl
            .run(&format!("exec deployment/web -- {words}"))
    };
    eventually("a Pod finds the Service by its name", || {
        let address = inside("/bin/pod lookup web.default.svc.cluster.local")?;
        let known = kubectl("get service web --output=jsonpath={.spec.clusterIP}");
        ensure!(address.lines().any(|line| line == known), "{address}");
        let answer = inside("/bin/pod get http://web.default.svc.cluster.local/")?;
        ensure!(answer.contains("name=web-"), "{answer}");
        Ok(())
    })
    .expect("DNS and the cluster address work");
}
