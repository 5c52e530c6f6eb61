//! API servers that are away, slow, silent, or forget: forwarding goes on with the last state and catches up by itself.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nodeport_tests::agent::Agent;
use nodeport_tests::k8s::control::{ADDRESSES, API_PORT, url};
use nodeport_tests::k8s::relay::{Mode, Relay};
use nodeport_tests::k8s::{Kubernetes, eventually};
use nodeport_tests::stream::Stream;
use serde_json::Value;

use crate::world::World;

/// Port of the relay before the API server, and of a second API server.
const OTHER_PORT: u16 = 7443;

/// What `status` says of the source.
fn source(agent: &Agent) -> Value {
    agent.status().expect("the agent answers")["source"].clone()
}

/// Waits until `status` says of the source what is looked for.
fn await_source(agent: &Agent, what: &str, holds: impl Fn(&Value) -> bool) {
    eventually(what, || {
        let source = source(agent);
        ensure!(holds(&source), "{source}");
        Ok(())
    })
    .expect(what);
}

/// A stream of requests, of which none may fail.
fn steady(world: &World, to: &[SocketAddr]) -> Stream {
    let client = &world.cluster.lab.client;
    Stream::start(client, to, Duration::from_millis(5)).expect("it starts")
}

fn unharmed(stream: Stream) {
    let report = stream.finish().expect("it ran");
    assert!(report.answered > 50 && report.is_perfect(), "{report:?}");
}

/// Agents that reach the API server through a relay.
fn relayed(nodes: u8) -> (Relay, World) {
    let mut relay = None;
    let world = World::with(nodes, |cluster, spec| {
        relay = Some(before_api_server(cluster));
        spec.arguments(&format!("--log-level debug --master {}", url(OTHER_PORT)))
    });
    (relay.expect("it was made"), world)
}

fn before_api_server(cluster: &Kubernetes) -> Relay {
    let at = |port| SocketAddr::new(ADDRESSES[0], port);
    Relay::start(cluster.control.netns(), at(OTHER_PORT), at(API_PORT)).expect("it listens")
}

#[test]
fn a_killed_api_server_stops_nothing_and_is_found_again() {
    let mut world = World::nodes(2);
    let to = world.exposed("web", 2);
    world.answered(&to, "web");
    let stream = steady(&world, &to);
    world.cluster.control.kill_api_server().expect("it ran");
    await_source(&world.agents[0], "the failure is told", |source| {
        source["failing"]["services"]["error"].is_string()
    });
    std::thread::sleep(Duration::from_secs(3));
    world.cluster.control.start_api_server().expect("it starts");
    let more = world.exposed("more", 1);
    world.answered(&more, "more");
    world.kubectl("scale deployment web --replicas=3");
    world.rolled_out("web");
    world.answered(&to, "web");
    await_source(&world.agents[0], "no failure is left", |source| {
        source["failing"] == serde_json::json!({})
    });
    unharmed(stream);
}

#[test]
fn an_agent_that_starts_without_an_api_server_keeps_what_it_finds() {
    let mut world = World::nodes(2);
    let to = world.exposed("web", 2);
    let gone = world.exposed("gone", 1);
    world.answered(&to, "web");
    world.answered(&gone, "gone");
    for agent in &mut world.agents {
        agent.stop().expect("it stops");
    }
    // This is missed, and must not be acted on before everything is known.
    world.kubectl("delete service gone");
    let stream = steady(&world, &[to.clone(), gone.clone()].concat());
    world.cluster.control.kill_api_server().expect("it ran");
    for agent in &mut world.agents {
        agent.spawn(&world.cluster.lab).expect("it starts");
    }
    await_source(&world.agents[0], "it has no objects", |source| {
        source["synced"] == false && source["failing"]["services"]["error"].is_string()
    });
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(source(&world.agents[0])["synced"], false);
    unharmed(stream);
    let stream = steady(&world, &to);
    world.cluster.control.start_api_server().expect("it starts");
    for agent in &mut world.agents {
        agent.wait_ready().expect("it is ready");
    }
    world.cluster.await_refusals(&gone).expect("it is gone");
    world.answered(&to, "web");
    unharmed(stream);
}

#[test]
fn api_servers_are_tried_in_turn() {
    let mut second = None;
    let world = World::with(2, |cluster, spec| {
        let server = cluster.control.another_api_server(OTHER_PORT);
        second = Some(server.expect("it starts"));
        // Nobody is at the first one.
        let (nobody, second, first) = (url(9), url(OTHER_PORT), url(API_PORT));
        spec.arguments(&format!("--master {nobody},{second},{first}"))
    });
    let to = world.exposed("web", 2);
    world.answered(&to, "web");
    let server = source(&world.agents[0])["server"].to_string();
    assert!(server.contains(&OTHER_PORT.to_string()), "{server}");
    let stream = steady(&world, &to);
    second.take().expect("it runs").kill().expect("it ran");
    let more = world.exposed("more", 1);
    world.answered(&more, "more");
    await_source(&world.agents[0], "the other one is used", |source| {
        source["server"].to_string().contains(&API_PORT.to_string())
    });
    unharmed(stream);
}

#[test]
fn closed_watches_and_a_slow_server_lose_no_change() {
    let (relay, world) = relayed(2);
    let to = world.exposed("web", 1);
    world.answered(&to, "web");
    let connections = relay.accepted();
    let stream = steady(&world, &to);
    for replicas in [2, 3, 1, 4, 2, 3] {
        relay.cut();
        world.kubectl(&format!("scale deployment web --replicas={replicas}"));
        relay.cut();
    }
    world.rolled_out("web");
    world.answered(&to, "web");
    assert!(relay.accepted() > connections + 2, "{}", relay.accepted());
    relay.set(Mode::Delay(Duration::from_millis(300)));
    relay.cut();
    let more = world.exposed("more", 2);
    world.answered(&more, "more");
    world.kubectl("delete service more");
    world.cluster.await_refusals(&more).expect("it is gone");
    unharmed(stream);
}

#[test]
fn a_version_that_is_compacted_away_is_told_by_410_and_everything_is_read_anew() {
    let (relay, mut world) = relayed(1);
    let to = world.exposed("web", 1);
    let gone = world.exposed("gone", 1);
    world.answered(&to, "web");
    world.answered(&gone, "gone");
    let stream = steady(&world, &to);
    relay.set(Mode::Refuse);
    relay.cut();
    world.kubectl("delete service gone");
    let new = world.exposed("new", 1);
    // The API server has recent versions in memory, so it has to forget them too.
    let control = &mut world.cluster.control;
    control.kill_api_server().expect("it ran");
    control.compact().expect("etcd answers");
    control.start_api_server().expect("it starts");
    relay.set(Mode::Pass);
    world.answered(&new, "new");
    world.cluster.await_refusals(&gone).expect("it is gone");
    world.answered(&to, "web");
    unharmed(stream);
    let log = world.agents[0].log();
    assert!(log.contains("410") || log.contains("too old"), "{log}");
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_left_for_the_next() {
    let mut relay = None;
    let world = World::with(1, |cluster, spec| {
        relay = Some(before_api_server(cluster));
        let masters = [url(OTHER_PORT), url(API_PORT)].join(",");
        spec.arguments(&format!("--master {masters}"))
    });
    let relay = relay.expect("it was made");
    let to = world.exposed("web", 1);
    world.answered(&to, "web");
    let stream = steady(&world, &to);
    relay.set(Mode::Stall);
    relay.cut();
    let more = world.exposed("more", 1);
    world.answered(&more, "more");
    unharmed(stream);
}

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

/// An API server whose watch says nothing at all, not even that it has ended.
#[test]
fn a_silent_watch_is_given_up() {
    let (relay, world) = relayed(1);
    let to = world.exposed("web", 1);
    world.answered(&to, "web");
    let stream = steady(&world, &to);
    // Nothing passes on the connections that there are, in either direction, and nothing tells the agent.
    relay.freeze();
    let more = world.exposed("more", 1);
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(200) {
        if world.cluster.ask(more[0], 1).is_ok() {
            unharmed(stream);
            return;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    let failed: anyhow::Result<()> = (|| bail!("{}", source(&world.agents[0])))();
    failed.expect("the silence is noticed");
}
