//! What a client, a Pod and a node get, row by row as they got it from the real kube-proxy (behaviours 6, 7, 9, 13, 21).
//!
//! The recording is not part of the project: where it is absent this test says so and proves nothing. Each row of it is asked here, and the
//! answers compared: which endpoints answered, whose address they saw, or how it failed. Where nodeport differs on purpose, [`DIFFERENT`] says
//! how, and docs/differences.md why: a row that differs otherwise fails, and so does one that does not differ any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nodeport_tests::agent::AgentSpec;
use nodeport_tests::clients::{self, Answer, Options, Verdict};
use nodeport_tests::servers::{self, DNS_PORT, HTTP_PORT, Servers};
use nodeport_tests::{Lab, LabSpec, Netns, agent};
use serde_json::{Value, json};

/// The rows: who asks, what, and how the recording names it. UDP is asked by DNS, whatever the recording asked by.
const ROWS: &str = "
Client tcp 10.96.1.1:80 ClusterIP, from the LAN via n1
Client tcp [fd00:10:96::101]:80 ClusterIP v6, from the LAN via n1
Pod2 tcp 10.96.1.1:80 ClusterIP, from a pod on n2
Node2 tcp 10.96.1.1:80 ClusterIP, from the node n2
Pod2 udp 10.96.1.1:80 ClusterIP UDP, from a pod on n2
Pod2 tcp 10.96.1.2:80 ClusterIP without endpoints, from a pod
Node2 tcp 10.96.1.2:80 ClusterIP without endpoints, from the node
Pod2 udp 10.96.1.2:80 ClusterIP without endpoints, UDP, from a pod
Client tcp 192.168.88.11:30180 NodePort n1
Client tcp 192.168.88.12:30180 NodePort n2
Client tcp [fd00:88::12]:30180 NodePort v6 n2
Client udp 192.168.88.12:30180 NodePort UDP n2
Node2 tcp 192.168.88.12:30180 NodePort from the node itself, own address
Node2 tcp 127.0.0.1:30180 NodePort on loopback of the node
Pod2 tcp 192.168.88.12:30180 NodePort from a pod on n2, to n2
Client tcp 192.168.88.11:30181 NodePort Local n1 (has endpoint)
Client tcp 192.168.88.12:30181 NodePort Local n2 (has none)
Pod2 tcp 192.168.88.12:30181 NodePort Local n2, from a pod on n2
Node2 tcp 192.168.88.12:30181 NodePort Local n2, from the node n2
Pod2 tcp 10.96.1.5:80 NodePort Local: its ClusterIP
Client tcp 192.168.88.12:30190 NodePort without endpoints
Client udp 192.168.88.12:30190 NodePort without endpoints UDP
Client tcp 198.51.100.201:80 LoadBalancer VIP via n1
Pod2 tcp 198.51.100.201:80 LoadBalancer VIP, from a pod on n2
Client tcp 198.51.100.202:80 LoadBalancer Local VIP via n1 (has endpoint)
Pod2 tcp 198.51.100.202:80 LoadBalancer Local VIP, from a pod on n2
Node2 tcp 198.51.100.202:80 LoadBalancer Local VIP, from the node n2
Client tcp 192.168.88.12:30184 its NodePort
Client tcp 198.51.100.200:80 externalIP via n1
Pod1 tcp 10.96.1.4:80 internalTrafficPolicy Local, n1 pod
Pod2 tcp 10.96.1.4:80 internalTrafficPolicy Local, n2 pod (none)
Pod1 tcp 10.96.1.5:80 hairpin: pod a1 to a Service of itself only
";

/// Rows that are not asked: what the README says is not there yet, and a ClusterIP's ports and a range's addresses without a Service, which
/// are left to the network (docs/differences.md).
const LEFT_OUT: &[&str] = &[
    "ClusterIP wrong port",
    "ClusterIP in range, no Service",
    "ClusterIP in range, no Service, from node",
    "LoadBalancer, source not in ranges",
    "sessionAffinity, from a pod on n2",
];

/// Rows that are answered otherwise, and how: `a1 saw ...` for each endpoint that answers. First, a client's address is kept when the endpoint is
/// on the node that it asked; then, a Pod's socket keeps its address, towards itself as well; at last, what kube-proxy drops in silence fails at
/// once.
const DIFFERENT: &str = "
ClusterIP, from the LAN via n1: a1 saw client, a2 saw n1, a3 saw n1
ClusterIP v6, from the LAN via n1: a1 saw client, a2 saw n1, a3 saw n1
NodePort n1: a1 saw client, a2 saw n1, a3 saw n1
NodePort n2: a1 saw n2, a2 saw client, a3 saw n2
NodePort v6 n2: a1 saw n2, a2 saw client, a3 saw n2
NodePort UDP n2: a1 saw n2, a2 saw client, a3 saw n2
LoadBalancer VIP via n1: a1 saw client, a2 saw n1, a3 saw n1
its NodePort: a1 saw n2, a2 saw client, a3 saw n2
externalIP via n1: a1 saw client, a2 saw n1, a3 saw n1
ClusterIP, from a pod on n2: a1 saw a2, a2 saw a2, a3 saw a2
ClusterIP UDP, from a pod on n2: a1 saw a2, a2 saw a2, a3 saw a2
NodePort from a pod on n2, to n2: a1 saw a2, a2 saw a2, a3 saw a2
LoadBalancer VIP, from a pod on n2: a1 saw a2, a2 saw a2, a3 saw a2
internalTrafficPolicy Local, n1 pod: a1 saw a1
hairpin: pod a1 to a Service of itself only: a1 saw a1
internalTrafficPolicy Local, n2 pod (none): no route
";

/// Where the recording is, if it is there.
fn recording() -> Option<String> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("NODEPORT_SHARED").map_or_else(beside, PathBuf::from);
    std::fs::read_to_string(shared.join("data/oracle-smoke.txt")).ok()
}

#[test]
fn every_row_is_answered_as_by_kube_proxy_or_as_declared() {
    let Some(recording) = recording() else {
        eprintln!("SKIPPED: recorded data absent (data/oracle-smoke.txt)");
        return;
    };
    let told = parse(&recording);
    let mut spec = LabSpec::nodes(3);
    // The load balancer's addresses are not those of the recording: the lab's client has that network on its own wire.
    let addresses = "198.51.100.200/29".parse().expect("a network");
    spec.service_routes.push(addresses);
    let lab = spec.start().expect("the lab starts");
    let servers = servers::start_all(&lab).expect("the servers start");
    let path = lab.dir().join("live.json");
    nodeport_tests::manifest::write_whole(&path, &objects(&lab)).expect("the objects are written");
    let agents = agent::start_all(&lab, &AgentSpec::new(&[path])).expect("the agents start");
    let rows: Vec<(&str, &str, &str)> = ROWS.trim().lines().map(row).collect();
    let different = DIFFERENT.trim().lines();
    let different: BTreeMap<_, _> = different
        .filter_map(|line| line.rsplit_once(": "))
        .collect();
    let mut wrong = Vec::new();
    for (label, who, what) in &rows {
        let recorded = told.get(*label).unwrap_or_else(|| panic!("no row {label}"));
        let ours = ask(&lab, &servers, who, what);
        let wanted = different.get(label).map_or(recorded.as_str(), |own| own);
        if ours != wanted {
            wrong.push(format!(
                "{label}: {ours}; recorded {recorded}, wanted {wanted}"
            ));
        }
        if different.contains_key(label) && wanted == recorded {
            wrong.push(format!("{label}: declared different, but it is not"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let asked = rows
        .iter()
        .map(|(label, ..)| *label)
        .chain(LEFT_OUT.iter().copied());
    let asked: BTreeSet<_> = asked.collect();
    let forgotten: Vec<_> = told
        .keys()
        .filter(|row| !asked.contains(row.as_str()))
        .collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
    drop(agents);
}

/// A line of [`ROWS`]: its label, who asks, and protocol and address.
fn row(line: &str) -> (&str, &str, &str) {
    let (who, rest) = line.split_once(' ').expect("who asks");
    let end = rest.match_indices(' ').nth(1).expect("a label").0;
    (&rest[end + 1..], who, &rest[..end])
}

/// The recording's rows in our words.
fn parse(recording: &str) -> BTreeMap<String, String> {
    let rows = recording
        .lines()
        .filter(|line| !line.starts_with("healthCheckNodePort"));
    rows.map(|line| {
        // A label of 46 columns, who asked, and what came of it.
        let (label, rest) = line.split_at(46);
        let words = rest.split_whitespace().skip(1);
        let results: BTreeSet<String> = words.map(of_word).collect();
        let results: Vec<_> = results.into_iter().collect();
        (label.trim().to_owned(), results.join(", "))
    })
    .collect()
}

/// `a1(192.168.88.11)x3` and the like.
fn of_word(word: &str) -> String {
    let (what, rest) = word.split_once('(').expect("a result");
    match what {
        "curl-exit-7" | "ConnectionRefusedError" => "refused".to_owned(),
        "curl-exit-28" => "silent".to_owned(),
        name => {
            let seen = rest.split(')').next().expect("an address");
            let who = match seen {
                "192.168.88.10" => "client",
                "192.168.88.11" | "fd00:88::11" => "n1",
                "192.168.88.12" | "fd00:88::12" => "n2",
                "10.244.1.10" => "a1",
                "10.244.2.10" => "a2",
                other => other,
            };
            format!("{name} saw {who}")
        }
    }
}

/// Asks until every endpoint should have answered, and says what came of it.
fn ask(lab: &Lab, servers: &Servers, who: &str, what: &str) -> String {
    let inside = |node: &str, netns: &Netns| lab.node(node).inside(netns);
    // A Pod is the endpoint on its node, as in the recording.
    let netns = match who {
        "Client" => lab.client.clone(),
        "Node2" => inside("n2", &lab.node("n2").netns),
        "Pod1" => inside("n1", &lab.pod("n1-p1").netns),
        _ => inside("n2", &lab.pod("n2-p1").netns),
    };
    let (protocol, to) = what.split_once(' ').expect("a protocol");
    let to: SocketAddr = to.parse().expect("an address");
    let options = Options {
        limit: Some(Duration::from_secs(1)),
        ..Options::default()
    };
    let mut results = BTreeSet::new();
    for _ in 0..24 {
        let verdict = match protocol {
            "tcp" => clients::http(&netns, to, options).expect("curl runs"),
            _ => clients::dns(&netns, to, servers, options).expect("dig runs"),
        };
        let failed = !matches!(verdict, Verdict::Answered(_));
        results.insert(in_words(lab, &verdict));
        if failed || results.len() == 3 {
            break;
        }
    }
    let results: Vec<_> = results.into_iter().collect();
    results.join(", ")
}

fn in_words(lab: &Lab, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Answered(answer) => {
            let Answer { name, client, .. } = answer;
            let seen = client.map_or("nobody".to_owned(), |client| name_of(lab, client.ip()));
            format!("{} saw {seen}", endpoint(name))
        }
        Verdict::Refused => "refused".to_owned(),
        Verdict::Silent => "silent".to_owned(),
        Verdict::Failed(why) if why.contains("No route") => "no route".to_owned(),
        Verdict::Failed(why) => why.clone(),
    }
}

/// The first Pod of each node is an endpoint: `n1-p1` is the recording's `a1`.
fn endpoint(pod: &str) -> String {
    let number = pod
        .strip_suffix("-p1")
        .and_then(|node| node.strip_prefix('n'));
    number.map_or(pod.to_owned(), |number| format!("a{number}"))
}

fn name_of(lab: &Lab, address: IpAddr) -> String {
    if nodeport_tests::addresses::CLIENT.contains(&address) {
        return "client".to_owned();
    }
    let pod = lab.pods().find(|pod| pod.spec.addresses.contains(&address));
    if let Some(pod) = pod {
        return endpoint(&pod.spec.name);
    }
    let node = lab
        .nodes
        .iter()
        .find(|node| node.own_addresses().any(|own| own == address));
    node.map_or(address.to_string(), |node| node.name.clone())
}

/// The recording's Services: name, last part of the cluster addresses, node port, whether UDP too, which endpoints, and what else the spec has.
const SERVICES: &str = r#"
cip 01 - udp all {}
np 11 30180 udp all {}
npl 05 30181 - a1 {"externalTrafficPolicy": "Local"}
lb 12 30182 - all {"type": "LoadBalancer", "vip": "198.51.100.201"}
lb-local 13 30183 - a1 {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "vip": "198.51.100.202"}
lb-denied 14 30184 - all {"type": "LoadBalancer", "loadBalancerSourceRanges": ["198.51.100.0/24"], "vip": "198.51.100.203"}
none 02 30190 udp none {}
itp-local 04 - - a1 {"internalTrafficPolicy": "Local"}
ext 15 - - all {"externalIPs": ["198.51.100.200"]}
"#;

/// The recording's objects, with the ports of our servers.
fn objects(lab: &Lab) -> Value {
    let mut items = nodeport_tests::manifest::nodes(lab);
    for line in SERVICES.trim().lines() {
        let (line, spec) = line.split_once(" {").expect("a spec");
        let spec: Value = serde_json::from_str(&format!("{{{spec}")).expect("JSON");
        let words: Vec<&str> = line.split(' ').collect();
        let [name, number, node_port, udp, endpoints] = words[..] else {
            panic!("{line}: five words");
        };
        let node_port: Option<u16> = node_port.parse().ok();
        let mut ports = vec![("http", "TCP", HTTP_PORT)];
        if udp == "udp" {
            ports.push(("udp", "UDP", DNS_PORT));
        }
        items.push(service(name, number, node_port, &ports, &spec));
        let pods: &[&str] = match endpoints {
            "all" => &["n1-p1", "n2-p1", "n3-p1"],
            "a1" => &["n1-p1"],
            _ => &[],
        };
        items.extend([false, true].map(|v6| slice(lab, name, &ports, pods, v6)));
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

type Port = (&'static str, &'static str, u16);

fn service(
    name: &str,
    number: &str,
    node_port: Option<u16>,
    ports: &[Port],
    more: &Value,
) -> Value {
    let number: u8 = number.parse().expect("a number");
    let ips = [
        format!("10.96.1.{number}"),
        format!("fd00:10:96::1{number:02}"),
    ];
    let ports = ports.iter().map(|(name, protocol, target)| {
        json!({"name": name, "port": 80, "protocol": protocol, "targetPort": target, "nodePort": node_port})
    });
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "live", "name": name},
        "spec": {
            "type": if node_port.is_some() { "NodePort" } else { "ClusterIP" },
            "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": ["IPv4", "IPv6"], "ports": ports.collect::<Vec<_>>(),
        },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        if field == "vip" {
            service["status"] = json!({"loadBalancer": {"ingress": [{"ip": value}]}});
        } else {
            service["spec"][field] = value.clone();
        }
    }
    service
}

fn slice(lab: &Lab, name: &str, ports: &[Port], pods: &[&str], v6: bool) -> Value {
    let family = if v6 { "IPv6" } else { "IPv4" };
    let endpoints = pods.iter().map(|pod| {
        let addresses = lab.pod(pod).addresses().filter(|a| a.is_ipv6() == v6);
        let addresses: Vec<_> = addresses.collect();
        json!({"addresses": addresses, "nodeName": &pod[..2], "conditions": {"ready": true}})
    });
    let ports = (ports.iter())
        .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}));
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": {
            "namespace": "live", "name": format!("{name}-{family}").to_lowercase(),
            "labels": {"kubernetes.io/service-name": name},
        },
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}
