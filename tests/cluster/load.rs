//! Thousands of Services in a real API server: an agent that starts with them, and follows changes of their endpoints.
//!
//! Figures are printed (`cargo xtask bench` measures them), and only those that no other work on the machine changes are checked. In CI there
//! are fewer Services, as creating them takes the API server two minutes; `NODEPORT_LOAD_SERVICES=10000` has them all.

use std::time::{Duration, Instant};

use nodeport_tests::LabSpec;
use nodeport_tests::agent::Agent;
use nodeport_tests::k8s::eventually;
use nodeport_tests::k8s::scale::{Figures, NAMESPACE, Scale, latencies};
use serde_json::Value;

use crate::oracle;
use crate::world::World;

/// Endpoints of each Service.
const ENDPOINTS: u32 = 3;
/// For how long endpoints change, and how many in a second.
const CHANGES: Duration = Duration::from_secs(20);
const RATE: u32 = 1000;
/// Most memory of an agent, in MiB.
const MEMORY_MIB: f64 = 150.0;

#[test]
fn an_agent_starts_with_thousands_of_services_and_follows_their_endpoints() {
    let services: u32 = std::env::var("NODEPORT_LOAD_SERVICES")
        .map_or(1000, |text| text.parse().expect("a number"));
    let mut world = World::with_spec(LabSpec::nodes(1).pods(1), |_, spec| {
        spec.arguments("--log-level debug")
    });
    world.agents[0].stop().expect("it stops");
    world.agents[0].clean().expect("its maps are removed");
    let start = Instant::now();
    let scale = Scale::create(&world.cluster.api, services, ENDPOINTS).expect("created");
    let took = start.elapsed();
    println!("{services} Services x {ENDPOINTS} created in {took:?}");

    let agent = &mut world.agents[0];
    let start = Instant::now();
    agent.spawn(&world.cluster.lab).expect("it starts");
    agent.wait_ready().expect("it is ready");
    let took = start.elapsed();
    let (agent, netns) = (&world.agents[0], &world.cluster.lab.nodes[0].netns);
    let cold = Figures::of(agent, netns).expect("metrics");
    println!("cold start in {took:?}: {cold:?}");
    assert_eq!(
        there(agent),
        services as usize,
        "all at once, as the first state is complete"
    );
    assert!(cold.memory_mib < MEMORY_MIB, "{cold:?}");

    let told = latencies(&agent.log()).len();
    let changes = scale.change(CHANGES, RATE).expect("changed");
    let objects = oracle::objects(&world.cluster).expect("the API server answers");
    eventually("all changes are in the maps", || {
        oracle::compare(agent, &objects)
    })
    .expect("right");
    let after = Figures::of(agent, netns).expect("metrics");
    let mut all = latencies(&agent.log()).split_off(told);
    all.sort_by(f64::total_cmp);
    println!(
        "{changes:?}; {} updates, event to map p50 {:?} ms, p99 {:?} ms; {:.1} s of a core; {:.0} MiB",
        all.len(),
        all.get(all.len() / 2),
        all.get(all.len() * 99 / 100),
        after.cpu_seconds - cold.cpu_seconds,
        after.memory_mib,
    );
    assert_eq!(there(agent), services as usize);
    assert!(after.memory_mib < MEMORY_MIB, "{after:?}");
    assert!(
        after.slices >= cold.slices + f64::from(changes.slices) / 2.0,
        "{after:?}, {changes:?}"
    );
}

/// How many front ends of the Services are in the maps with all their endpoints.
fn there(agent: &Agent) -> usize {
    let rows = agent.dump("frontends").expect("a dump");
    let complete = |row: &&Value| {
        let slots = row["outside"]["backends"].as_array().map(Vec::len);
        let name = row["service_port"].as_str().unwrap_or_default();
        name.starts_with(&format!("{NAMESPACE}/")) && slots == Some(ENDPOINTS as usize)
    };
    rows.as_array()
        .expect("a list")
        .iter()
        .filter(complete)
        .count()
}
