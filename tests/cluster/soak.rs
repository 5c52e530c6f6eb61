//! Hundreds of Services that come, change and go at random while agents and the API server crash and restart at random.
//!
//! `NODEPORT_SOAK_SEED` repeats a run (what is asked for, not how long it takes), `NODEPORT_SOAK_SECONDS` makes it longer.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use nodeport_tests::agent::Agent;
use nodeport_tests::k8s::eventually;
use nodeport_tests::{Family, LabSpec};
use serde_json::{Value, json};

use crate::churn::{Churn, NAMESPACE};
use crate::oracle;
use crate::world::{World, steady, unharmed};

/// How much memory an agent may have at the end that it had not before, in KiB. An allocator keeps what it once had, but not
/// more and more of it.
const GROWTH_KIB: u64 = 16 * 1024;

/// What an agent holds when there is nothing but what stays.
#[derive(Debug)]
struct Held {
    files: usize,
    memory_kib: u64,
    entries: Value,
    pins: BTreeSet<String>,
}

#[test]
fn after_random_changes_and_crashes_the_maps_are_right_and_nothing_is_left() {
    let seed = setting("NODEPORT_SOAK_SEED", fastrand::u64(..));
    let seconds = setting("NODEPORT_SOAK_SECONDS", 60);
    println!("NODEPORT_SOAK_SEED={seed}");
    let mut world = World::with_spec(LabSpec::nodes(2).pods(2), |_, spec| spec);
    let to = each_alone(&world);
    let mut churn =
        Churn::new(world.cluster.api.clone(), &["n1", "n2"], seed).expect("a namespace");
    let stream = steady(&world, &to);

    // Once without crashes, so that everything has been as large as it gets.
    (0..1500).try_for_each(|_| churn.step()).expect("accepted");
    settle(&world, "after the first changes");
    clear(&world, &mut churn);
    let before: Vec<_> = world.agents.iter().map(|one| at_rest(one, None)).collect();

    let steps = turmoil(&mut world, &mut churn, seed, Duration::from_secs(seconds));
    println!(
        "{steps} changes, now {:?} Services and slices",
        churn.population()
    );
    assert!(steps > 500, "{steps}");
    settle(&world, "after all changes");

    clear(&world, &mut churn);
    for (agent, before) in world.agents.iter().zip(&before) {
        at_rest(agent, Some(before));
    }
    unharmed(stream);
}

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

/// One Service for each of four Pods, each on both nodes: every endpoint is asked for by itself.
fn each_alone(world: &World) -> Vec<SocketAddr> {
    world.kubectl("create deployment web --image=lab/web --port=8080 --replicas=4");
    world.rolled_out("web");
    let list = world.kubectl("get pods --output=json");
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let mut all = Vec::new();
    for (number, pod) in (0..).zip(list["items"].as_array().expect("Pods")) {
        let name = format!("alone-{number}");
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {"type": "NodePort", "ports": [{"port": 80}]},
            },
            {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
                "ports": [{"port": 8080}],
                "endpoints": [{"addresses": [pod["status"]["podIP"]], "nodeName": pod["spec"]["nodeName"]}],
            },
        ]});
        world
            .cluster
            .kubectl
            .apply(&objects.to_string())
            .expect("applied");
        let port = world.cluster.node_port(&name).expect("a node port");
        let to = world.cluster.on_nodes(Family::V4, port);
        let pod = pod["metadata"]["name"].as_str().expect("a name").to_owned();
        world
            .cluster
            .await_answers(&to, &[pod].into())
            .expect("it answers");
        all.extend(to);
    }
    assert_eq!(all.len(), 8);
    all
}

/// Changes without end, and now and then something crashes. The first agent lives on. Returns how many changes there were.
fn turmoil(world: &mut World, churn: &mut Churn, seed: u64, time: Duration) -> u64 {
    let mut rng = Rng::with_seed(seed ^ 1);
    let end = Instant::now() + time;
    let mut steps = 0;
    while Instant::now() < end {
        for _ in 0..rng.u32(50..400) {
            churn.step().expect("accepted");
            steps += 1;
        }
        match rng.u8(0..4) {
            0 => {
                let control = &mut world.cluster.control;
                control.kill_api_server().expect("it ran");
                control.start_api_server().expect("it starts");
                churn.reconnect(control.api().expect("its files are there"));
            }
            1 => {
                world.agents[1].wait_ready().expect("it is ready");
                world.agents[1].stop().expect("it stops");
            }
            _ => world.agents[1].kill().expect("it ran"),
        }
        if !world.agents[1].runs() {
            // What is missed meanwhile.
            (0..rng.u32(0..100))
                .try_for_each(|_| churn.step())
                .expect("accepted");
            world.agents[1]
                .spawn(&world.cluster.lab)
                .expect("it starts");
            // It may be killed before it has begun, at any moment.
            std::thread::sleep(Duration::from_millis(rng.u64(0..3000)));
        }
    }
    world.agents[1].wait_ready().expect("it is ready");
    steps
}

/// Removes all that is random.
fn clear(world: &World, churn: &mut Churn) {
    churn.clear().expect("accepted");
    settle(world, "when all is gone");
    // Sets that nobody uses rest for a second, and are free with the next update.
    std::thread::sleep(Duration::from_secs(2));
    churn.nudge().expect("accepted");
    settle(world, "when all has rested");
}

/// Waits until all maps are what they have to be: by the agent's own reckoning from objects read anew, and by another one.
fn settle(world: &World, when: &str) {
    let objects = oracle::objects(&world.cluster).expect("the API server answers");
    let soaked = objects
        .services
        .iter()
        .filter(|one| one.namespace == NAMESPACE);
    println!("{when}: {} Services in {NAMESPACE}", soaked.count());
    for agent in &world.agents {
        eventually(when, || oracle::compare(agent, &objects)).expect(when);
        eventually(when, || {
            let plan = agent.plan()?;
            // Whoever adopts maps raises it: a former life may have ended between the removal of an endpoint and that.
            let steps = plan["steps"].as_array().context("a list of steps")?;
            let is_left = |step: &Value| step["action"] != "raise_endpoint_generation";
            let nothing = !steps.iter().any(is_left) && plan["refused"] == json!([]);
            ensure!(nothing, "on {}: {plan}", agent.node);
            Ok(())
        })
        .expect(when);
    }
}

/// What an agent holds once it is at rest; not more than before.
fn at_rest(agent: &Agent, before: Option<&Held>) -> Held {
    let mut held = None;
    eventually("it holds no more than before", || {
        let now = Held::of(agent)?;
        if let Some(before) = before {
            ensure!(now.entries == before.entries, "{now:?}, before {before:?}");
            ensure!(now.pins == before.pins, "{now:?}, before {before:?}");
            // A connection to the API server may be about to close.
            ensure!(now.files <= before.files + 1, "{now:?}, before {before:?}");
        }
        held = Some(now);
        Ok(())
    })
    .expect("at rest");
    let held = held.expect("it was looked at");
    println!(
        "{}: {} files, {} KiB, {}",
        agent.node, held.files, held.memory_kib, held.entries
    );
    if let Some(before) = before {
        assert!(
            held.memory_kib <= before.memory_kib + GROWTH_KIB,
            "{held:?}, before {before:?}"
        );
    }
    held
}

impl Held {
    fn of(agent: &Agent) -> Result<Self> {
        let process = format!("/proc/{}", agent.pid()?);
        let status = std::fs::read_to_string(format!("{process}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|rest| rest.split_whitespace().next());
        Ok(Self {
            files: std::fs::read_dir(format!("{process}/fd"))?.count(),
            memory_kib: resident.context("VmRSS")?.parse()?,
            entries: agent.status()?["entries"].clone(),
            pins: names(&agent.link_dir())?
                .union(&names(
                    agent.map_path("CONTROL").parent().context("a directory")?,
                )?)
                .cloned()
                .collect(),
        })
    }
}

fn names(directory: &Path) -> Result<BTreeSet<String>> {
    let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    entries
        .map(|entry| Ok(entry?.path().display().to_string()))
        .collect()
}
