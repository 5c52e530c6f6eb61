//! The DaemonSet of `deploy/` in the image of `cargo xtask image`: on real nodes it alone carries Services.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use nodeport_tests::Family;
use nodeport_tests::k8s::control::{ADDRESSES, DNS};
use nodeport_tests::k8s::eventually;
use nodeport_tests::k8s::load::Load;
use nodeport_tests::stream::Stream;
use serde_json::Value;

use crate::nodes::{Nodes, OTHER_IMAGE, assert_unharmed, inside};

#[test]
fn the_daemonset_carries_services_from_everywhere() {
    let world = Nodes::serving();
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
    let world = Nodes::serving();
    world.unnoticed(|world, _| {
        world.kubectl("rollout restart daemonset/nodeport --namespace=kube-system");
        world.agents_rolled_out();
    });
    world.unnoticed(|world, _| {
        world.kubectl(&format!(
            "set image daemonset/nodeport agent={OTHER_IMAGE} --namespace=kube-system"
        ));
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
    let world = Nodes::serving();
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

#[test]
fn a_node_that_goes_and_comes_back_is_not_noticed_on_the_other() {
    let mut world = Nodes::serving();
    world.kubectl(
        r#"patch deployment/web --patch {"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"n1"}}}}}"#,
    );
    world.kubectl("rollout status deployment/web --timeout=120s");
    let port = world.cluster.node_port("web").expect("a node port");
    let nodes = world.cluster.on_nodes(Family::V4, port);
    let client = &world.cluster.lab.client;
    let load = Load::from(client, &world.programs, &[nodes[0].to_string()]);
    let load = load.expect("it starts");
    std::thread::sleep(Duration::from_secs(2));
    world.cluster.nodes[1].kill().expect("it ends");
    let ask = format!("curl --silent --fail --max-time 1 http://{}/", nodes[1]);
    eventually("it is down, its programs with it", || {
        ensure!(client.sh(&ask).is_err(), "it answers");
        Ok(())
    })
    .expect("it goes");
    std::thread::sleep(Duration::from_secs(2));
    world
        .cluster
        .restart_node(&world.programs, 1)
        .expect("it starts");
    eventually("the other node answers again", || {
        world.cluster.lab.client.sh(&ask).map(drop)
    })
    .expect("its agent comes back");
    assert_unharmed("outside", &load.finish().expect("it ran"));
}

/// docs/install.md says what a namespace has to admit.
#[test]
fn pod_security_refuses_the_agents_below_privileged_and_names_why() {
    let world = Nodes::installed();
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
