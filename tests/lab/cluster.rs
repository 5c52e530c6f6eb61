//! A lab from a user's objects: their Nodes become lab nodes, their endpoints get stand-ins where they belong.
//!
//! Invariant: every address of a usable endpoint has exactly one place: a node's Pods, a node itself, or one host outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};

use crate::addresses;
use crate::expect::{endpoint_nodes, endpoint_sockets};
use crate::lab::Lab;
use crate::objects::{Objects, Protocol};
use crate::spec::{LabSpec, NodeSpec, PodSpec};
use crate::standin::StandIns;

/// What to make for a user's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The lab.
    pub spec: LabSpec,
    /// Where each endpoint address goes.
    places: BTreeMap<IpAddr, Place>,
    /// Names of Nodes that are not made.
    pub left_out: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// The Pods of the node with this index.
    Pods(usize),
    /// The node with this index: an endpoint in its host network.
    Node(usize),
    /// The host that is no node.
    Outsider,
}

/// Suffix of the Pod that holds a node's endpoints.
const PODS: &str = "pods";
/// Suffix of the Pod that only asks.
pub const CLIENT_POD: &str = "client";

impl Cluster {
    /// Places the endpoints of these objects on at most `limit` nodes.
    ///
    /// # Errors
    /// If the objects name no node at all, neither as Nodes nor in endpoints.
    pub fn new(objects: &Objects, limit: usize) -> Result<Self> {
        let mut nodes = node_specs(objects);
        if nodes.is_empty() {
            bail!(
                "the objects have no Node, and no endpoint has a nodeName: nothing to make nodes from"
            );
        }
        let left_out = nodes
            .drain(limit.min(nodes.len())..)
            .map(|node| node.name)
            .collect();
        let places: BTreeMap<_, _> = endpoint_nodes(objects)
            .into_iter()
            .map(|(address, node)| (address, place(&nodes, address, node.as_deref())))
            .collect();
        for (index, node) in nodes.iter_mut().enumerate() {
            node.pods = pods(node, index, &places);
        }
        let outsider: Vec<_> = at(&places, Place::Outsider).collect();
        let cluster_ips = objects
            .services
            .iter()
            .flat_map(|service| &service.cluster_ips);
        let mut spec = LabSpec::nodes(0).outsider(&outsider);
        spec.families = [false, true].map(|v6| {
            nodes
                .iter()
                .all(|n| n.addresses.iter().any(|a| a.is_ipv6() == v6))
        });
        spec.nodes = nodes;
        spec.service_routes = cluster_ips
            .map(|ip| addresses::host(*ip))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        Ok(Self {
            spec,
            places,
            left_out,
        })
    }

    /// Starts a stand-in for every port of every usable endpoint. Returns them and their number.
    ///
    /// # Errors
    /// If one cannot listen.
    pub fn stand_ins(&self, lab: &Lab, objects: &Objects) -> Result<(StandIns, usize)> {
        let mut by_place: BTreeMap<Place, Vec<(SocketAddr, Protocol)>> = BTreeMap::new();
        for (socket, protocol) in endpoint_sockets(objects) {
            if let Some(place) = self
                .places
                .get(&socket.ip())
                .filter(|_| lab.spec.uses(socket.ip()))
            {
                by_place.entry(*place).or_default().push((socket, protocol));
            }
        }
        let mut stand_ins = StandIns::new();
        for (place, listen) in &by_place {
            let netns = match place {
                Place::Pods(index) => &lab.nodes[*index].pod(1).netns,
                Place::Node(index) => &lab.nodes[*index].netns,
                Place::Outsider => match &lab.outsider {
                    Some(netns) => netns,
                    None => bail!("endpoints outside the nodes, but no host for them"),
                },
            };
            stand_ins.serve(netns, listen)?;
        }
        Ok((stand_ins, by_place.values().map(Vec::len).sum()))
    }
}

/// The Nodes of the objects, or if there are none, nodes for the names that endpoints have.
fn node_specs(objects: &Objects) -> Vec<NodeSpec> {
    let known = objects
        .nodes
        .iter()
        .filter(|node| !node.addresses.is_empty())
        .map(|node| NodeSpec {
            name: node.name.clone(),
            addresses: node.addresses.clone(),
            pod_cidrs: node.pod_cidrs.clone(),
            zone: node.zone.clone(),
            pods: Vec::new(),
        });
    let known: Vec<_> = known.collect();
    if !known.is_empty() {
        return known;
    }
    let endpoints = objects.slices.iter().flat_map(|slice| &slice.endpoints);
    let names: BTreeSet<_> = endpoints
        .filter_map(|endpoint| endpoint.node.clone())
        .collect();
    (1..=50)
        .zip(names)
        .map(|(number, name)| NodeSpec {
            name,
            pod_cidrs: Vec::new(),
            ..NodeSpec::numbered(number)
        })
        .collect()
}

fn place(nodes: &[NodeSpec], address: IpAddr, node: Option<&str>) -> Place {
    let index = |found: &dyn Fn(&NodeSpec) -> bool| nodes.iter().position(found);
    if let Some(index) = index(&|n| n.addresses.contains(&address)) {
        return Place::Node(index);
    }
    let named = node.and_then(|name| index(&|n| n.name == name));
    let by_network = || index(&|n| n.pod_cidrs.iter().any(|cidr| cidr.contains(&address)));
    named
        .or_else(by_network)
        .map_or(Place::Outsider, Place::Pods)
}

fn at(places: &BTreeMap<IpAddr, Place>, place: Place) -> impl Iterator<Item = IpAddr> {
    places
        .iter()
        .filter(move |(_, at)| **at == place)
        .map(|(address, _)| *address)
}

/// One Pod with all endpoint addresses of the node, and one that only asks: a Pod that asked itself would not be answered.
fn pods(node: &NodeSpec, index: usize, places: &BTreeMap<IpAddr, Place>) -> Vec<PodSpec> {
    let taken: BTreeSet<_> = at(places, Place::Pods(index)).collect();
    let mut own = Vec::new();
    for v6 in [false, true] {
        let free = node
            .pod_cidrs
            .iter()
            .filter(|cidr| cidr.addr().is_ipv6() == v6)
            .find_map(|cidr| {
                cidr.hosts()
                    .skip(1)
                    .find(|address| !taken.contains(address))
            });
        let spare = || addresses::node(index as u8 + 1, 12)[usize::from(v6)];
        own.push(free.unwrap_or_else(spare));
    }
    vec![
        PodSpec {
            name: format!("{}-{PODS}", node.name),
            addresses: taken.into_iter().collect(),
        },
        PodSpec {
            name: format!("{}-{CLIENT_POD}", node.name),
            addresses: own,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTS: &str = "
kind: List
items:
- kind: Node
  metadata: {name: a.example}
  spec: {podCIDRs: [10.0.1.0/24]}
  status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}
- kind: Node
  metadata: {name: b.example}
  spec: {podCIDRs: [10.0.2.0/24]}
  status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}
- kind: EndpointSlice
  metadata: {name: s, labels: {kubernetes.io/service-name: s}}
  addressType: IPv4
  ports: [{port: 80}]
  endpoints:
  - {addresses: [10.0.1.2], nodeName: a.example}
  - {addresses: [10.0.2.2], nodeName: b.example}
  - {addresses: [172.18.0.2], nodeName: a.example}
  - {addresses: [198.51.100.1]}
  - {addresses: [10.0.1.9]}
";

    fn objects() -> Objects {
        let mut objects = Objects::default();
        objects.parse(OBJECTS).expect("this is YAML");
        objects
    }

    fn addresses_of(pod: &PodSpec) -> Vec<String> {
        pod.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn endpoints_are_where_they_belong() {
        let cluster = Cluster::new(&objects(), 3).expect("two nodes");
        assert_eq!(cluster.spec.families, [true, false]);
        let a = &cluster.spec.nodes[0];
        assert_eq!(addresses_of(&a.pods[0]), ["10.0.1.2", "10.0.1.9"]);
        assert_eq!(
            addresses_of(&a.pods[1])[0],
            "10.0.1.3",
            "the first free one asks"
        );
        assert_eq!(addresses_of(&cluster.spec.nodes[1].pods[0]), ["10.0.2.2"]);
        assert_eq!(cluster.spec.outsider.len(), 1);
        assert!(cluster.left_out.is_empty());
    }

    #[test]
    fn endpoints_of_nodes_that_are_not_made_are_outside() {
        let cluster = Cluster::new(&objects(), 1).expect("one node");
        assert_eq!(cluster.left_out, ["b.example"]);
        let outside: Vec<_> = cluster
            .spec
            .outsider
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(outside, ["10.0.2.2", "198.51.100.1"]);
    }

    #[test]
    fn objects_without_nodes_are_refused() {
        let error = Cluster::new(&Objects::default(), 3).expect_err("nothing to make");
        assert!(error.to_string().contains("no Node"), "{error}");
    }
}
