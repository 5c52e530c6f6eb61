//! Ten thousand Services in a real API server: what an agent takes that starts with them, and that follows changes of their endpoints.
//!
//! Figures are printed, and only those that no other work on the machine changes are checked. In CI there are fewer Services, as creating them
//! takes the API server two minutes; `NODEPORT_LOAD_SERVICES=10000` has them all.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nodeport_tests::agent::Agent;
use nodeport_tests::k8s::api::Api;
use nodeport_tests::k8s::eventually;
use nodeport_tests::{LabSpec, Netns};
use serde_json::{Value, json};

use crate::oracle;
use crate::world::World;

/// Endpoints of each Service.
const ENDPOINTS: u32 = 3;
/// How many requests are on their way at the same time.
const WORKERS: u32 = 8;
/// For how long endpoints change.
const CHANGES: Duration = Duration::from_secs(20);
/// Most memory of an agent, in MiB.
const MEMORY_MIB: f64 = 150.0;

#[test]
fn an_agent_starts_with_thousands_of_services_and_follows_their_endpoints() {
    let services: u32 = std::env::var("NODEPORT_LOAD_SERVICES")
        .map_or(1000, |text| text.parse().expect("a number"));
    let mut world = World::with_spec(LabSpec::nodes(1).pods(1), |_, spec| spec);
    world.agents[0].stop().expect("it stops");
    world.agents[0].clean().expect("its maps are removed");
    let api = world.cluster.api.clone();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "load"}});
    api.post("/api/v1/namespaces", &namespace).expect("created");
    let start = Instant::now();
    in_parallel(services, |number| create(&api, number)).expect("created");
    println!(
        "{services} Services x {ENDPOINTS} created in {:?}",
        start.elapsed()
    );

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

    // Each request replaces all endpoints of a Service.
    let end = Instant::now() + CHANGES;
    let round = AtomicU32::new(0);
    let before = Figures::of(agent, netns).expect("metrics");
    let start = Instant::now();
    in_parallel(u32::MAX, |_| {
        let turn = round.fetch_add(1, Ordering::Relaxed);
        ensure!(Instant::now() < end, "over");
        change(&api, turn % services, turn / services + 1)
    })
    .expect_err("the time is over");
    let took = start.elapsed();
    let changes = round.load(Ordering::Relaxed) - WORKERS;
    let objects = oracle::objects(&world.cluster).expect("the API server answers");
    eventually("all changes are in the maps", || {
        oracle::compare(agent, &objects)
    })
    .expect("right");
    let after = Figures::of(agent, netns).expect("metrics");
    after.print(&before, changes, took);
    assert_eq!(there(agent), services as usize);
    assert!(after.memory_mib < MEMORY_MIB, "{after:?}");
    assert!(
        after.slices >= before.slices + f64::from(changes) / 2.0,
        "{after:?}"
    );
}

/// Does so many things with [`WORKERS`] threads; ends with the first error.
fn in_parallel(count: u32, work: impl Fn(u32) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicU32::new(0);
    let worker = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            work(number)?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no panic"))
    })
}

fn create(api: &Api, number: u32) -> Result<()> {
    let name = format!("s{number}");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"name": "p", "port": 80}]},
    });
    api.post("/api/v1/namespaces/load/services", &service)?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "p", "port": 8080}],
        "endpoints": endpoints(number, 0),
    });
    api.post(
        "/apis/discovery.k8s.io/v1/namespaces/load/endpointslices",
        &slice,
    )
    .map(drop)
}

fn change(api: &Api, number: u32, round: u32) -> Result<()> {
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/load/endpointslices/s{number}");
    api.patch(&path, &json!({"endpoints": endpoints(number, round)}))
        .map(drop)
}

/// The endpoints of a Service in a round: others than in the one before.
fn endpoints(number: u32, round: u32) -> Vec<Value> {
    let first = Ipv4Addr::new(10, 128, 0, 0).to_bits() + (round % 2) * 0x40_0000;
    let of = |index: u32| {
        let address = Ipv4Addr::from_bits(first + number * ENDPOINTS + index);
        json!({"addresses": [address], "nodeName": "n2"})
    };
    (0..ENDPOINTS).map(of).collect()
}

/// How many front ends of the Services are in the maps with all their endpoints.
fn there(agent: &Agent) -> usize {
    let rows = agent.dump("frontends").expect("a dump");
    let complete = |row: &&Value| {
        let slots = row["outside"]["backends"].as_array().map(Vec::len);
        row["service_port"]
            .as_str()
            .is_some_and(|name| name.starts_with("load/"))
            && slots == Some(ENDPOINTS as usize)
    };
    rows.as_array()
        .expect("a list")
        .iter()
        .filter(complete)
        .count()
}

/// What an agent says of itself.
#[derive(Debug, Default)]
struct Figures {
    memory_mib: f64,
    cpu_seconds: f64,
    /// Changes of slices so far.
    slices: f64,
    /// Updates of the maps that took at most so many seconds.
    latencies: Vec<(f64, f64)>,
}

impl Figures {
    fn of(agent: &Agent, netns: &Netns) -> Result<Self> {
        let text = netns.sh("curl --fail --silent --show-error http://127.0.0.1:10249/metrics")?;
        let value = |name: &str| -> Result<f64> {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            Ok(line
                .with_context(|| format!("{name} of {}", agent.node))?
                .parse()?)
        };
        let bucket = "nodeport_update_latency_seconds_bucket{le=\"";
        let buckets = text.lines().filter_map(|line| {
            let (limit, count) = line.strip_prefix(bucket)?.split_once("\"} ")?;
            Some((
                limit.replace('+', "").to_lowercase().parse().ok()?,
                count.parse().ok()?,
            ))
        });
        Ok(Self {
            memory_mib: value("process_resident_memory_bytes")? / 1024.0 / 1024.0,
            cpu_seconds: value("process_cpu_seconds_total")?,
            slices: value("kubeproxy_sync_proxy_rules_endpoint_changes_total")?,
            latencies: buckets.collect(),
        })
    }

    /// What came to be since then.
    fn print(&self, before: &Self, requests: u32, took: Duration) {
        let since = |(now, then): (&(f64, f64), &(f64, f64))| (now.0, now.1 - then.1);
        let all: Vec<_> = self
            .latencies
            .iter()
            .zip(&before.latencies)
            .map(since)
            .collect();
        let updates = all.last().map_or(0.0, |last| last.1);
        let within = |part: f64| {
            let bound = all.iter().find(|(_, count)| *count >= updates * part);
            bound.map_or(f64::INFINITY, |bound| bound.0 * 1e3)
        };
        let seconds = took.as_secs_f64();
        println!(
            "{requests} slices replaced in {seconds:.1} s: {:.0} endpoints a second in {updates} updates; \
             event to map p50 <= {} ms, p99 <= {} ms; {:.2} of a core; {:.0} MiB",
            f64::from(requests * ENDPOINTS) / seconds,
            within(0.5),
            within(0.99),
            (self.cpu_seconds - before.cpu_seconds) / seconds,
            self.memory_mib,
        );
    }
}
