//! From a spec to namespaces and the links between them.
//!
//! Pure: it makes nothing itself. Invariant: links come first, in one list; all else belongs to one namespace each.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::addresses::{
    self, CLIENT, CLIENT_PREFIX, ROUTER_TO_CLIENT, SECOND_CLIENT, common_network, free_host, host,
    mac, net,
};
use crate::setup::{Role, Setup, pod_setup};
use crate::spec::{LabSpec, NodeSpec, PodNetwork};

/// Kinds of hardware addresses.
const CLIENT_MAC: u8 = 1;
const ROUTER_MAC: u8 = 2;
pub(crate) const FABRIC_MAC: u8 = 3;
const UPLINK_MAC: u8 = 4;
pub(crate) const VTEP_MAC: u8 = 5;
const POD_MAC: u8 = 6;
const POD_PEER_MAC: u8 = 7;
const OUTSIDER_MAC: u8 = 8;

/// The whole lab.
#[derive(Debug)]
pub(crate) struct Topology {
    /// Lines that make the veth pairs, across namespaces.
    pub(crate) links: Vec<String>,
    /// The namespaces.
    pub(crate) setups: Vec<Setup>,
}

/// One fabric: its networks, and the router's address in each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fabric {
    /// Number, from 0.
    pub(crate) number: u8,
    /// The connected network of each family; `None` if the nodes' addresses have none in common.
    pub(crate) network: [Option<IpNet>; 2],
    /// The router's addresses.
    pub(crate) router: [IpAddr; 2],
}

/// The name of a namespace of lab `id`.
pub(crate) fn netns_name(id: &str, part: &str) -> String {
    format!("npl{id}-{part}")
}

/// A node's address of a family (0 for IPv4, 1 for IPv6) on a fabric.
pub(crate) fn node_address(
    spec: &LabSpec,
    index: usize,
    fabric: u8,
    family: usize,
) -> Option<IpAddr> {
    if !spec.families[family] {
        return None;
    }
    if fabric > 0 {
        return Some(addresses::node(index as u8 + 1, fabric)[family]);
    }
    spec.nodes[index]
        .addresses
        .iter()
        .copied()
        .find(|a| usize::from(a.is_ipv6()) == family)
}

/// The networks that lead to a node's Pods: its Pod networks, and Pod addresses that are in none of them.
pub(crate) fn pod_networks(spec: &LabSpec, node: &NodeSpec) -> Vec<IpNet> {
    let stray = node.pods.iter().flat_map(|pod| &pod.addresses).copied();
    let stray = stray
        .filter(|a| !node.pod_cidrs.iter().any(|cidr| cidr.contains(a)))
        .map(host);
    let mut all: Vec<_> = node.pod_cidrs.iter().copied().chain(stray).collect();
    all.retain(|cidr| spec.uses(cidr.addr()));
    all
}

impl Topology {
    pub(crate) fn new(spec: &LabSpec, id: &str) -> Self {
        let fabrics: Vec<_> = (0..spec.uplinks).map(|n| Fabric::new(spec, n)).collect();
        let mut topology = Self {
            links: Vec::new(),
            setups: Vec::new(),
        };
        topology.client(spec, id);
        topology.router(spec, id, &fabrics);
        for index in 0..spec.nodes.len() {
            topology.node(spec, id, &fabrics, index);
        }
        if !spec.outsider.is_empty() {
            topology.outsider(spec, id, &fabrics[0]);
        }
        topology
    }

    /// A veth pair. The ends have different indices: if they were equal, which happens in two namespaces by chance, the kernel
    /// would take the devices for their own lower ones and report that they are up only with the next second
    /// (`linkwatch_urgent_event`); a bridge drops packets until then.
    fn veth(&mut self, a: (&str, &str, &str), b: (&str, &str, &str)) {
        let end = |(netns, name, mac): (&str, &str, &str), index: usize| {
            format!("{name} index {index} netns {netns} address {mac}")
        };
        let number = self.links.len();
        let (a, b) = (end(a, 10 + number), end(b, 1010 + number));
        self.links
            .push(format!("link add {a} type veth peer name {b}"));
    }

    fn client(&mut self, spec: &LabSpec, id: &str) {
        let (client, router) = (netns_name(id, "client"), netns_name(id, "router"));
        let macs = (mac(CLIENT_MAC, 0, 0), mac(ROUTER_MAC, 0, 0));
        self.veth((&client, "eth0", &macs.0), (&router, "client0", &macs.1));
        let mut setup = Setup::new(client, spec, Role::Host);
        setup.wire("eth0");
        for family in spec.used_families() {
            setup.address(net(CLIENT[family], CLIENT_PREFIX[family]), "eth0");
            setup.spare_address(net(SECOND_CLIENT[family], CLIENT_PREFIX[family]), "eth0");
            setup.route("default", &format!("via {}", ROUTER_TO_CLIENT[family]));
        }
        self.setups.push(setup);
    }

    fn router(&mut self, spec: &LabSpec, id: &str, fabrics: &[Fabric]) {
        let mut setup = Setup::new(netns_name(id, "router"), spec, Role::Router);
        setup.wire("client0");
        for family in spec.used_families() {
            setup.address(
                net(ROUTER_TO_CLIENT[family], CLIENT_PREFIX[family]),
                "client0",
            );
        }
        for fabric in fabrics {
            setup.fabric_bridge(spec, fabric);
        }
        for (index, node) in spec.nodes.iter().enumerate() {
            for cidr in pod_networks(spec, node) {
                if let Some(via) = node_address(spec, index, 0, family_of(cidr.addr())) {
                    setup.route(&cidr.to_string(), &format!("via {via} dev fabric0 onlink"));
                }
            }
        }
        for cidr in spec
            .service_routes
            .iter()
            .filter(|cidr| spec.uses(cidr.addr()))
        {
            let family = family_of(cidr.addr());
            if let Some(via) = (0..spec.nodes.len()).find_map(|i| node_address(spec, i, 0, family))
            {
                setup.route(&cidr.to_string(), &format!("via {via} dev fabric0 onlink"));
            }
        }
        for address in spec.outsider.iter().filter(|a| spec.uses(**a)) {
            setup.route(&host(*address).to_string(), "dev fabric0");
        }
        self.setups.push(setup);
    }

    fn node(&mut self, spec: &LabSpec, id: &str, fabrics: &[Fabric], index: usize) {
        let node = &spec.nodes[index];
        let number = index as u8 + 1;
        let netns = netns_name(id, &node.name);
        let router = netns_name(id, "router");
        let mut setup = Setup::new(netns.clone(), spec, Role::Node);
        for fabric in fabrics {
            let (uplink, port) = (
                format!("eth{}", fabric.number),
                port_name(number, fabric.number),
            );
            let macs = (
                mac(UPLINK_MAC, number, fabric.number),
                mac(FABRIC_MAC, number, fabric.number),
            );
            self.veth((&netns, &uplink, &macs.0), (&router, &port, &macs.1));
            setup.uplink(spec, fabric, index, &uplink);
        }
        setup.other_nodes(spec, index);
        if spec.pod_network == PodNetwork::Bridge {
            setup.pod_bridge(spec, node);
        }
        for (pod, pod_number) in node.pods.iter().zip(1..) {
            let pod_ns = netns_name(id, &pod.name);
            let ends = (
                mac(POD_MAC, number, pod_number),
                mac(POD_PEER_MAC, number, pod_number),
            );
            let peer = format!("vpod{pod_number}");
            self.veth((&pod_ns, "eth0", &ends.0), (&netns, &peer, &ends.1));
            setup.pod_peer(spec, pod, &peer, &ends.0);
            self.setups
                .push(pod_setup(spec, node, pod, pod_ns, &ends.1));
        }
        self.setups.push(setup);
    }

    fn outsider(&mut self, spec: &LabSpec, id: &str, fabric: &Fabric) {
        let (netns, router) = (netns_name(id, "outsider"), netns_name(id, "router"));
        let macs = (mac(OUTSIDER_MAC, 0, 0), mac(OUTSIDER_MAC, 0, 1));
        self.veth((&netns, "eth0", &macs.0), (&router, "outsider0", &macs.1));
        let mut setup = Setup::new(netns, spec, Role::Host);
        setup.wire("eth0");
        for address in spec.outsider.iter().filter(|a| spec.uses(**a)) {
            setup.address(host(*address), "eth0");
        }
        for family in spec.used_families() {
            if spec.outsider.iter().any(|a| family_of(*a) == family) {
                setup.route(&host(fabric.router[family]).to_string(), "dev eth0");
                setup.route(
                    "default",
                    &format!("via {} dev eth0 onlink", fabric.router[family]),
                );
            }
        }
        self.setups.push(setup);
    }
}

impl Fabric {
    fn new(spec: &LabSpec, number: u8) -> Self {
        let of = |family: usize| -> Vec<IpAddr> {
            (0..spec.nodes.len())
                .filter_map(|i| node_address(spec, i, number, family))
                .collect()
        };
        let overlaps = |network: &IpNet, family: usize| {
            network.contains(&CLIENT[family])
                || spec
                    .nodes
                    .iter()
                    .flat_map(|n| pod_networks(spec, n))
                    .any(|p| network.contains(&p))
        };
        let network = [0, 1]
            .map(|family| common_network(&of(family)).filter(|network| !overlaps(network, family)));
        let lonely = addresses::node(0, 10);
        let router = [0, 1].map(|family| {
            let mut taken = of(family);
            taken.extend(&spec.outsider);
            network[family]
                .and_then(|n| free_host(n, &taken))
                .unwrap_or(lonely[family])
        });
        Self {
            number,
            network,
            router,
        }
    }

    /// `address` with the prefix length of the connected network.
    pub(crate) fn attach(&self, address: IpAddr) -> IpNet {
        self.network[family_of(address)]
            .map_or_else(|| host(address), |n| net(address, n.prefix_len()))
    }
}

impl LabSpec {
    pub(crate) fn used_families(&self) -> impl Iterator<Item = usize> + use<> {
        let families = self.families;
        [0, 1].into_iter().filter(move |family| families[*family])
    }
}

/// The router's end of a node's uplink.
pub(crate) fn port_name(node: u8, fabric: u8) -> String {
    format!("port{node}u{fabric}")
}

/// 0 for IPv4, 1 for IPv6.
pub(crate) fn family_of(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}
