//! Tokens, certificates and authorities that are not valid any more: forwarding goes on, and new ones are read without a restart.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use nodeport_tests::k8s::Kubernetes;

use crate::world::{World, await_source, steady, unharmed};

/// A token that is not valid any more, and a new one in the same file.
#[test]
fn a_token_that_is_replaced_is_read_anew() {
    let mut token = None;
    let mut world = World::with(1, |cluster, spec| {
        let (kubeconfig, file) = cluster.control.token_kubeconfig().expect("written");
        new_token(cluster, &file);
        token = Some(file);
        let mut spec = spec;
        spec.arguments.clear();
        spec.arguments(&format!("--kubeconfig {}", kubeconfig.display()))
    });
    let file = token.expect("it was made");
    let to = world.exposed("web", 1);
    world.answered(&to, "web");
    let stream = steady(&world, &to);
    // With another key of its own the API server knows none of its former tokens.
    let control = &mut world.cluster.control;
    control.kill_api_server().expect("it ran");
    control.new_token_key().expect("written");
    control.start_api_server().expect("it starts");
    await_source(&world.agents[0], "it is not known any more", |source| {
        source["failing"].to_string().contains("401")
    });
    new_token(&world.cluster, &file);
    let more = world.exposed("more", 1);
    world.answered(&more, "more");
    unharmed(stream);
}

fn new_token(cluster: &Kubernetes, file: &std::path::Path) {
    let words = "create token proxy --namespace=kube-system --duration=1h";
    let token = cluster.kubectl.run(words);
    nodeport_tests::k8s::pki::write(file, token.expect("a token").trim()).expect("written");
}

#[test]
fn a_changed_authority_is_read_anew() {
    let mut world = World::nodes(1);
    let to = world.exposed("web", 1);
    let web = world.answered(&to, "web");
    let address = world.kubectl("get pods --output=jsonpath={.items[0].status.podIP}");
    let stream = steady(&world, &to);
    let control = &mut world.cluster.control;
    control.kill_api_server().expect("it ran");
    control.new_authority().expect("written");
    control.start_api_server().expect("it starts");
    // The controllers and the stand-ins know the former one only: what matters is written by hand.
    let kubectl = control.kubectl().expect("a kubeconfig");
    let objects = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: byhand}}
spec: {{type: NodePort, ports: [{{port: 80, nodePort: 30999}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: byhand, labels: {{kubernetes.io/service-name: byhand}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [{address}]}}]
"
    );
    kubectl.apply(&objects).expect("applied");
    let byhand = world.cluster.on_nodes(nodeport_tests::Family::V4, 30999);
    await_source(&world.agents[0], "it is not trusted", |source| {
        let failing = source["failing"].to_string();
        failing.contains("certificate") || failing.contains("UnknownIssuer")
    });
    assert!(world.cluster.ask(byhand[0], 1).is_err());
    let control = &world.cluster.control;
    control
        .kubeconfig("system:kube-proxy", None)
        .expect("written");
    world
        .cluster
        .await_answers(&byhand, &web)
        .context("with the new authority")
        .expect("it is there");
    unharmed(stream);
}

/// The certificate that the agent has in use expires, and a new one comes into the same file.
#[test]
fn a_client_certificate_that_expires_is_read_anew() {
    let (relay, mut world) = World::relayed(1);
    let to = world.exposed("web", 1);
    world.answered(&to, "web");
    let stream = steady(&world, &to);
    let control = &world.cluster.control;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    let end = now + Duration::from_secs(20);
    control
        .kubeconfig_until("system:kube-proxy", end)
        .expect("written");
    let agent = &mut world.agents[0];
    agent.stop().expect("it stops");
    agent
        .start(&world.cluster.lab)
        .expect("the certificate is valid still");
    let left = end.saturating_sub(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock"),
    );
    std::thread::sleep(left + Duration::from_secs(2));
    // A watch that goes on is not asked again who it is.
    relay.cut();
    await_source(&world.agents[0], "it is not known any more", |source| {
        source["failing"].to_string().contains("401")
    });
    let more = world.exposed("more", 1);
    std::thread::sleep(Duration::from_secs(2));
    assert!(world.cluster.ask(more[0], 1).is_err());
    let control = &world.cluster.control;
    control
        .kubeconfig("system:kube-proxy", None)
        .expect("written");
    world.answered(&more, "more");
    await_source(&world.agents[0], "no failure is left", |source| {
        source["failing"] == serde_json::json!({})
    });
    unharmed(stream);
}
