//! What others ask a node: health, metrics, a load balancer's checks (behaviours 15, 16, 23), by curl, while objects change.

use std::time::{Duration, Instant};

use nodeport_tests::agent::{Agent, AgentSpec};
use nodeport_tests::manifest::write_whole;
use nodeport_tests::servers::HTTP_PORT;
use nodeport_tests::{Family, Lab, LabSpec, Netns};
use serde_json::{Value, json};

use crate::world::World;

/// Node port of the Service `balanced`, and its health check.
const PORT: u16 = 30088;
const CHECK: u16 = 32088;

fn world() -> World {
    let world = World::with(LabSpec::nodes(2), |spec| spec.xdp("off"), |_, _| ());
    balance(&world, &["n1-p1"], None);
    world
}

/// Writes the objects: a load balancer's Service with these Pods as endpoints, and perhaps a taint on every Node.
fn balance(world: &World, pods: &[&str], taint: Option<&str>) {
    let mut manifest = world.manifest.clone();
    let endpoints = pods.iter().map(|pod| world.lab.pod(pod));
    let service = manifest.service("balanced").node_port(PORT, HTTP_PORT);
    service.external_local().endpoints(&world.lab, endpoints);
    let path = manifest.write().expect("written");
    let text = std::fs::read(&path).expect("it is there");
    let mut list: Value = serde_json::from_slice(&text).expect("JSON");
    for item in list["items"].as_array_mut().expect("a list") {
        if item["kind"] == "Service" {
            item["spec"]["type"] = json!("LoadBalancer");
            item["spec"]["healthCheckNodePort"] = json!(CHECK);
        }
        if let Some(taint) = taint.filter(|_| item["kind"] == "Node") {
            item["spec"]["taints"] = json!([{"key": taint, "effect": "NoSchedule"}]);
        }
    }
    write_whole(&path, &list).expect("written");
}

/// What curl says: status, headers and body; empty if nobody answers.
fn curl(from: &Netns, options: &str, url: &str) -> String {
    let line =
        format!("curl --silent --show-error --include --globoff --max-time 5 {options} {url}");
    from.sh(&line).unwrap_or_default().replace('\r', "")
}

/// Asks until the answer is of this status.
fn until(from: &Netns, url: &str, status: &str) -> String {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = curl(from, "", url);
        if answer.starts_with(&format!("HTTP/1.1 {status}")) {
            return answer;
        }
        assert!(Instant::now() < end, "{url} is not {status} but {answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn url(lab: &Lab, node: &str, family: Family, port: u16, path: &str) -> String {
    let address = std::net::SocketAddr::new(lab.node(node).address(family), port);
    format!("http://{address}{path}")
}

#[test]
fn a_load_balancer_finds_the_nodes_that_have_endpoints() {
    let world = world();
    let (client, lab) = (&world.lab.client, &world.lab);
    for family in Family::BOTH {
        let good = until(client, &url(lab, "n1", family, CHECK, "/healthz"), "200");
        assert!(
            good.contains("x-load-balancing-endpoint-weight: 1\n"),
            "{good}"
        );
        assert!(good.ends_with("{\n\t\"service\": {\n\t\t\"namespace\": \"test\",\n\t\t\"name\": \"balanced\"\n\t},\n\t\"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": true\n}"), "{good}");
        let none = until(client, &url(lab, "n2", family, CHECK, "/"), "503");
        assert!(
            none.contains("x-load-balancing-endpoint-weight: 0\n"),
            "{none}"
        );
    }
    balance(&world, &["n2-p1", "n2-p2"], None);
    for family in Family::BOTH {
        until(client, &url(lab, "n1", family, CHECK, "/any"), "503");
        let two = until(client, &url(lab, "n2", family, CHECK, "/any"), "200");
        assert!(
            two.contains("x-load-balancing-endpoint-weight: 2\n"),
            "{two}"
        );
    }
    // The Service goes, and its port with it.
    world.manifest.write().expect("written");
    let end = Instant::now() + Duration::from_secs(30);
    while !curl(client, "", &url(lab, "n2", Family::V4, CHECK, "/")).is_empty() {
        assert!(Instant::now() < end, "it still answers");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn health_tells_of_the_node_and_any_method_is_answered() {
    let world = world();
    let (client, lab) = (&world.lab.client, &world.lab);
    for family in Family::BOTH {
        let health = until(client, &url(lab, "n1", family, 10256, "/healthz"), "200");
        assert!(
            health.contains("content-type: application/json\n")
                && health.contains("x-content-type-options: nosniff\n"),
            "{health}"
        );
        assert!(
            health.contains(
                "\"nodeEligible\":true,\"healthy\":true,\"status\":{\"IPv4\":{\"lastUpdated\":"
            ),
            "{health}"
        );
    }
    let v4 = |path| url(lab, "n1", Family::V4, 10256, path);
    for method in ["--request POST", "--request OPTIONS", "--head"] {
        assert!(
            curl(client, method, &v4("/healthz")).starts_with("HTTP/1.1 200"),
            "{method}"
        );
    }
    for path in ["/", "/readyz", "/metrics"] {
        assert!(
            curl(client, "", &v4(path)).starts_with("HTTP/1.1 404"),
            "{path}"
        );
    }
    // The cluster autoscaler is about to remove it; then it is not.
    balance(&world, &["n1-p1"], Some("ToBeDeletedByClusterAutoscaler"));
    let leaving = until(client, &v4("/healthz"), "503");
    assert!(
        leaving.contains("\"nodeEligible\":false,\"healthy\":true"),
        "{leaving}"
    );
    let lives = curl(client, "", &v4("/livez"));
    assert!(
        lives.starts_with("HTTP/1.1 200") && !lives.contains("nodeEligible"),
        "{lives}"
    );
    // A load balancer's own check does not look at it (15.4).
    until(client, &url(lab, "n1", Family::V4, CHECK, "/"), "200");
    balance(&world, &["n1-p1"], Some("node.kubernetes.io/unschedulable"));
    until(client, &v4("/healthz"), "200");
}

#[test]
fn metrics_are_the_nodes_own_and_follow_the_traffic() {
    let world = world();
    let node = &world.lab.node("n1").netns;
    until(
        &world.lab.client,
        &url(&world.lab, "n1", Family::V4, CHECK, "/"),
        "200",
    );
    let of = |path: &str| until(node, &format!("http://127.0.0.1:10249{path}"), "200");
    let before = of("/metrics");
    assert!(
        before.contains("content-type: text/plain; version=0.0.4; charset=utf-8\n"),
        "{before}"
    );
    for line in [
        "nodeport_ready 1",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 0",
        "nodeport_device_programs{device=\"eth0\",hook=\"tc_ingress\",mode=\"tcx\",role=\"uplink\"} 1",
    ] {
        assert!(
            before.lines().any(|one| one == line),
            "{line} is not in {before}"
        );
    }
    let written = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"} 1";
    assert!(before.contains(written), "a time since 1970: {before}");
    world.http(&world.lab.client, world.node_port("n1", Family::V4, PORT));
    let counted = "nodeport_packets_total{hook=\"tc_ingress\",outcome=\"to_local_backend\"}";
    assert!(of("/metrics").contains(counted), "{}", of("/metrics"));
    // Walks over the tables of flows sum up who got what, in both directions.
    let pod = world.lab.pod("n1-p1").address(Family::V4);
    let series = |direction: &str| {
        format!(
            "nodeport_backend_packets_total{{backend=\"{pod}:{HTTP_PORT}\",direction=\"{direction}\",namespace=\"test\",port=\"tcp-{PORT}\",protocol=\"TCP\",service=\"balanced\"}} "
        )
    };
    let end = Instant::now() + Duration::from_mins(2);
    loop {
        world.http(&world.lab.client, world.node_port("n1", Family::V4, PORT));
        let now = of("/metrics");
        if ["in", "out"].iter().all(|way| now.contains(&series(way))) {
            break;
        }
        assert!(Instant::now() < end, "{now}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn what_else_kube_proxy_shows_is_shown_on_the_node_alone() {
    let world = world();
    let node = &world.lab.node("n1").netns;
    let of = |path: &str| until(node, &format!("http://127.0.0.1:10249{path}"), "200");
    assert!(of("/healthz").ends_with("\n\nok"));
    assert!(of("/proxyMode").ends_with("\n\nebpf"));
    assert!(
        of("/configz")
            .contains("{\"kubeproxy.config.k8s.io\":{\"kind\":\"KubeProxyConfiguration\",")
    );
    assert!(
        of("/metrics/slis").contains("kubernetes_healthcheck{name=\"livez\",type=\"livez\"} 1")
    );
    assert!(
        of("/statusz").contains("nodeport-agent statusz") && of("/flagz").contains("node-name: n1")
    );
    // From outside the node nobody reads them.
    let outside = url(&world.lab, "n1", Family::V4, 10249, "/metrics");
    assert_eq!(curl(&world.lab.client, "", &outside), "");
}

#[test]
fn a_taken_address_is_told_of_and_tried_again_or_ends_the_agent_16_6() {
    let mut world = world();
    let node = &world.lab.node("n1").netns;
    world.agents[0].stop().expect("it stops");
    let taken = node
        .run(|| std::net::TcpListener::bind("0.0.0.0:10256"))
        .expect("entered")
        .expect("free");
    let manifests = [world.lab.dir().join("objects.json")];
    let spec = AgentSpec::new(&manifests)
        .xdp("off")
        .arguments("--bind-address-hard-fail");
    let mut hard = Agent::new(world.lab.node("n1"), spec);
    hard.spawn(&world.lab).expect("it starts");
    let error = hard
        .wait_end(Duration::from_secs(20))
        .expect_err("its address is taken");
    let text = format!("{error:#}");
    assert!(
        text.contains("cannot listen on 0.0.0.0:10256 for the health server"),
        "{text}"
    );
    world.agents[0]
        .start(&world.lab)
        .expect("it starts all the same");
    let status = world.agents[0].status().expect("it answers");
    assert!(
        status["problems"]
            .to_string()
            .contains("the health server cannot listen"),
        "{status}"
    );
    drop(taken);
    until(
        &world.lab.client,
        &url(&world.lab, "n1", Family::V4, 10256, "/livez"),
        "200",
    );
    let status = world.agents[0].status().expect("it answers");
    assert!(
        !status["problems"].to_string().contains("cannot listen"),
        "{status}"
    );
}
