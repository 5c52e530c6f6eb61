//! What the maps of a node have to say, from the API server's objects and without the agent's model.
//!
//! Invariant: nothing here is computed by the code under test but what is read from its maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use nodeport_tests::agent::Agent;
use nodeport_tests::expect::{Asked, Client, Endpoints, Expected};
use nodeport_tests::k8s::Kubernetes;
use nodeport_tests::objects::{Objects, Protocol};
use serde_json::Value;

/// Endpoints of a front end: for clients outside, for Pods of the node.
type Sets = [BTreeSet<SocketAddr>; 2];

/// The front ends of a node, each in words.
type Frontends = BTreeMap<String, Sets>;

/// The objects that the API server has now.
pub(crate) fn objects(cluster: &Kubernetes) -> Result<Objects> {
    let words = "get services,endpointslices,nodes --all-namespaces --output=json";
    let mut objects = Objects::default();
    objects.parse(&cluster.kubectl.run(words)?)?;
    ensure!(objects.unreadable == 0, "{objects:?}");
    Ok(objects)
}

/// Whether the maps of an agent's node say what these objects say, front end by front end.
pub(crate) fn compare(agent: &Agent, objects: &Objects) -> Result<()> {
    let (wanted, there) = (wanted(objects, &agent.node), there(agent)?);
    let names = |all: &Frontends| all.keys().cloned().collect::<BTreeSet<_>>();
    let (wanted_names, there_names) = (names(&wanted), names(&there));
    let missing: Vec<_> = wanted_names.difference(&there_names).collect();
    let left: Vec<_> = there_names.difference(&wanted_names).collect();
    ensure!(
        missing.is_empty() && left.is_empty(),
        "on {}: missing {missing:?}, left over {left:?}",
        agent.node
    );
    for (name, sets) in &wanted {
        let found = &there[name];
        ensure!(
            found == sets,
            "on {}: {name} has {found:?}, not {sets:?}",
            agent.node
        );
    }
    Ok(())
}

fn wanted(objects: &Objects, node: &str) -> Frontends {
    let mut all = Frontends::new();
    for service in &objects.services {
        for port in &service.ports {
            let protocol = match port.protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => continue,
            };
            for address in &service.cluster_ips {
                let endpoints = Endpoints::of(objects, service, port, address.is_ipv6());
                let sets = |asked| {
                    [Client::Outside, Client::PodOfNode].map(|client| {
                        match endpoints.expected(service, asked, node, client) {
                            Expected::OneOf(set) => set,
                            Expected::Refused | Expected::Silent => BTreeSet::new(),
                        }
                    })
                };
                let name = format!("{}/{protocol}", SocketAddr::new(*address, port.port));
                all.insert(name, sets(Asked::Cluster));
                if let Some(port) = port.node_port {
                    let family = family(*address);
                    let name = format!("{family} node:{port}/{protocol}");
                    all.insert(name, sets(Asked::NodePort));
                }
            }
        }
    }
    all
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}

/// What is in the maps.
fn there(agent: &Agent) -> Result<Frontends> {
    let rows = agent.dump("frontends")?;
    let rows = rows.as_array().context("a list of front ends")?;
    rows.iter().map(row).collect()
}

fn row(row: &Value) -> Result<(String, Sets)> {
    let name = row["frontend"].as_str().context("a name")?;
    let set = |set: &str| -> Result<BTreeSet<SocketAddr>> {
        let backends = row[set]["backends"].as_array().context("a set")?;
        let address = |one: &Value| Ok(one["address"].as_str().context("an address")?.parse()?);
        backends.iter().map(address).collect()
    };
    Ok((name.to_owned(), [set("outside")?, set("inside")?]))
}
