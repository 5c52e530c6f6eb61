//! The agent stops, dies, starts again; traffic does not notice (behaviours 17.12, edge-cases I2, I4, I8, I9).

use std::net::SocketAddr;
use std::time::Duration;

use nodeport_tests::addresses::CLIENT;
use nodeport_tests::agent::{Agent, AgentSpec};
use nodeport_tests::clients::{self, Options, Verdict};
use nodeport_tests::echo::{ECHO_PORT, Echo, Talk};
use nodeport_tests::stream::{Report, Stream};
use nodeport_tests::{Family, LabSpec};

use crate::world::{WEB, World, web_and_dns};

/// Node port of the echo Service.
const ECHO: u16 = 30007;

/// One backend here and one on the other node, for `web` and for `echo`.
fn world() -> (Vec<Echo>, World) {
    let pods = ["n1-p1", "n2-p1"];
    let world = World::with(
        LabSpec::nodes(2),
        |spec| spec,
        |lab, manifest| {
            web_and_dns(lab, manifest, &pods);
            let endpoints = pods.iter().map(|pod| lab.pod(pod));
            let service = manifest.service("echo").node_port(ECHO, ECHO_PORT);
            service.endpoints(lab, endpoints);
        },
    );
    let echo = |pod| Echo::in_pod(world.lab.pod(pod)).expect("echo starts");
    (pods.map(echo).into(), world)
}

/// New connections to n1 in both families, by XDP to the other node and by TC to its own Pod, while the agent of n1 is disturbed;
/// and connections that stay.
fn nothing_is_lost(world: &mut World, times: u32, disturb: fn(&mut Agent)) -> Report {
    world.warm_up("n1");
    let to = Family::BOTH.map(|family| world.node_port("n1", family, WEB));
    let mut talks: Vec<Talk> = to
        .iter()
        .flat_map(|to| (0..4).map(|_| talk(world, *to)))
        .collect();
    let stream =
        Stream::start(&world.lab.client, &to, Duration::from_millis(2)).expect("the stream starts");
    for turn in 0..times {
        disturb(&mut world.agents[0]);
        world.agents[0]
            .start(&world.lab)
            .unwrap_or_else(|error| panic!("turn {turn}: {error:#}"));
        for talk in &mut talks {
            talk.say(&format!("turn {turn}"))
                .expect("the connection lives");
        }
    }
    let report = stream.finish().expect("the stream ends");
    assert!(report.is_perfect(), "{report:?}\n{}", world.evidence());
    report
}

/// A conversation with an echo server, through the node that `to` belongs to.
fn talk(world: &World, to: SocketAddr) -> Talk {
    let from = SocketAddr::new(CLIENT[usize::from(to.is_ipv6())], 0);
    let to = SocketAddr::new(to.ip(), ECHO);
    Talk::connect(&world.lab.client, from, to).expect("connected")
}

#[test]
fn fifty_restarts_lose_nothing() {
    let (_echo, mut world) = world();
    let report = nothing_is_lost(&mut world, 50, |agent| agent.stop().expect("it stops"));
    assert!(
        report.answered > 500,
        "too few connections to say anything: {report:?}"
    );
}

#[test]
fn fifty_crashes_lose_nothing() {
    let (_echo, mut world) = world();
    let report = nothing_is_lost(&mut world, 50, |agent| agent.kill().expect("it dies"));
    assert!(
        report.answered > 500,
        "too few connections to say anything: {report:?}"
    );
}

/// I8: endpoints change all the time, in both directions; no connection ever finds nothing.
#[test]
fn changing_endpoints_lose_nothing() {
    let (_echo, mut world) = world();
    world.warm_up("n1");
    let to: Vec<_> = Family::BOTH
        .iter()
        .map(|family| world.node_port("n1", *family, WEB))
        .collect();
    let stream =
        Stream::start(&world.lab.client, &to, Duration::from_millis(1)).expect("the stream starts");
    let choices: [&[&str]; 4] = [
        &["n2-p1"],
        &["n1-p1", "n1-p2", "n2-p1", "n2-p2"],
        &["n2-p2"],
        &["n1-p2", "n2-p1"],
    ];
    for pods in choices.iter().cycle().take(100) {
        web_and_dns(&world.lab, &mut world.manifest, pods);
        world.manifest.write().expect("written");
        std::thread::sleep(Duration::from_millis(30));
    }
    let report = stream.finish().expect("the stream ends");
    assert!(report.failed.is_empty(), "{report:?}\n{}", world.evidence());
}

#[test]
fn traffic_goes_on_without_an_agent() {
    let (_echo, mut world) = world();
    for agent in &mut world.agents {
        agent.kill().expect("it dies");
    }
    for family in Family::BOTH {
        for node in ["n1", "n2"] {
            for _ in 0..4 {
                world.http(&world.lab.client, world.node_port(node, family, WEB));
            }
        }
    }
    // Its counters can be read all the same.
    assert!(
        world
            .agent("n1")
            .outcomes()
            .expect("counters")
            .get("xdp", "to_remote_backend")
            > 0
    );
}

/// I9: a second agent with the same pins is refused in clear words, and does no harm.
#[test]
fn a_second_agent_is_refused() {
    let (_echo, world) = world();
    let node = world.lab.node("n1");
    let manifests = [world.manifest.write().expect("written")];
    let mut second = Agent::new(node, AgentSpec::new(&manifests));
    second.spawn(&world.lab).expect("it starts");
    let error = second
        .wait_end(Duration::from_secs(5))
        .expect_err("the pin directory is taken");
    let text = format!("{error:#}");
    assert!(text.contains("another nodeport-agent uses"), "{text}");
    world.http(&world.lab.client, world.node_port("n1", Family::V4, WEB));
}

#[test]
fn clean_removes_everything() {
    let (_echo, mut world) = world();
    world.http(&world.lab.client, world.node_port("n1", Family::V4, WEB));
    for agent in &mut world.agents {
        agent.stop().expect("it stops");
        agent.clean().expect("it cleans up");
    }
    for node in &world.lab.nodes {
        let left: Vec<_> = std::fs::read_dir(&node.pin_dir)
            .map(|dir| dir.flatten().collect())
            .unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
        let links = node.netns.sh("ip -details link show").expect("links");
        assert!(!links.contains("prog/xdp"), "{links}");
        let programs = node.netns.sh("bpftool net show").expect("bpftool");
        assert!(!programs.contains("nodeport"), "{programs}");
        let to = SocketAddr::new(node.address(Family::V4), WEB);
        let verdict = clients::http(&world.lab.client, to, Options::default()).expect("curl runs");
        assert_eq!(verdict, Verdict::Refused, "nobody listens there");
    }
}
