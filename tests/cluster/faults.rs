//! API servers that are away, slow, silent, or forget: forwarding goes on with the last state and catches up by itself.

use std::time::{Duration, Instant};

use anyhow::bail;
use nodeport_tests::k8s::control::{API_PORT, url};
use nodeport_tests::k8s::eventually;
use nodeport_tests::k8s::relay::Mode;
use nodeport_tests::k8s::repeater::Repeater;
use rustix::process::Signal;

use crate::oracle;
use crate::world::{
    OTHER_PORT, World, at, await_source, before_api_server, source, steady, unharmed,
};

/// Port of `kubectl proxy`.
const PLAIN_PORT: u16 = OTHER_PORT + 2;

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
    let (relay, world) = World::relayed(2);
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
    let (relay, mut world) = World::relayed(1);
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

/// An API server whose watch says nothing at all, not even that it has ended.
#[test]
fn a_silent_watch_is_given_up() {
    let (relay, world) = World::relayed(1);
    let to = world.exposed("web", 1);
    world.answered(&to, "web");
    let stream = steady(&world, &to);
    // Nothing passes on the connections that there are, in either direction, and nothing tells the agent.
    relay.freeze();
    let more = world.exposed("more", 1);
    let start = Instant::now();
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

/// Two API servers, of which the one that is asked next did not run while things changed: what it has at first is old.
#[test]
fn api_servers_that_lag_behind_one_another_take_nothing_back() {
    const THIRD_PORT: u16 = OTHER_PORT + 1;
    let (mut relay, mut second) = (None, None);
    let world = World::with(2, |cluster, spec| {
        let server = cluster.control.another_api_server(THIRD_PORT);
        second = Some(server.expect("it starts"));
        relay = Some(before_api_server(cluster));
        spec.arguments(&format!("--master {}", url(OTHER_PORT)))
    });
    let (relay, second) = (relay.expect("it was made"), second.expect("it runs"));
    let to = world.exposed("web", 1);
    world.answered(&to, "web");
    let stream = steady(&world, &to);
    for replicas in 2..5 {
        let gone = world.exposed_again("web", &format!("gone-{replicas}"));
        world.answered(&gone, "web");
        second.signal(Signal::STOP).expect("it runs");
        world.kubectl(&format!("delete service gone-{replicas}"));
        world.kubectl(&format!("scale deployment web --replicas={replicas}"));
        world.rolled_out("web");
        world.answered(&to, "web");
        world.cluster.await_refusals(&gone).expect("it is gone");
        let backends = || world.agents[0].dump("backends").expect("a dump");
        let before = backends();
        relay.aim(at(THIRD_PORT));
        relay.cut();
        second.signal(Signal::CONT).expect("it runs");
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            assert_eq!(backends(), before, "after {:?}", start.elapsed());
            std::thread::sleep(Duration::from_millis(50));
        }
        // What changes now is heard from that one.
        let heard = world.exposed_again("web", &format!("heard-{replicas}"));
        world.answered(&heard, "web");
        relay.aim(at(API_PORT));
        relay.cut();
    }
    unharmed(stream);
}

/// Events that come twice, and before those that they follow: an older state never takes the place of a newer one, and what is gone stays gone.
#[test]
fn events_that_come_again_and_in_another_order_change_nothing() {
    let mut parts = None;
    let world = World::with(2, |cluster, spec| {
        let proxy = cluster.plain_api_server(PLAIN_PORT);
        let netns = cluster.control.netns();
        let repeater = Repeater::start(netns, at(OTHER_PORT), at(PLAIN_PORT));
        parts = Some((repeater.expect("it listens"), proxy.expect("it starts")));
        spec.arguments(&format!("--master http://{}", at(OTHER_PORT)))
    });
    let (repeater, _proxy) = parts.expect("they were made");
    let to = world.exposed("web", 2);
    world.answered(&to, "web");
    let stream = steady(&world, &to);
    for turn in 0..4 {
        // Each of these is several events of one slice, close together.
        for replicas in [4, 1, 3] {
            world.kubectl(&format!("scale deployment web --replicas={replicas}"));
        }
        let passing = format!("passing-{turn}");
        world.exposed_again("web", &passing);
        world.kubectl(&format!("delete service {passing}"));
        if turn % 2 == 1 {
            world.exposed_again("web", &passing);
        }
        world.rolled_out("web");
        let objects = oracle::objects(&world.cluster).expect("the API server answers");
        for agent in &world.agents {
            eventually("the maps are right", || oracle::compare(agent, &objects))
                .expect("they are");
            // And stay so.
            std::thread::sleep(Duration::from_secs(1));
            oracle::compare(agent, &objects).expect("right");
        }
    }
    world.answered(&to, "web");
    unharmed(stream);
    let (repeated, moved) = repeater.counts();
    assert!(repeated > 20 && moved > 20, "{repeated}, {moved}");
}
