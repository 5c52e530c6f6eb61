//! What a lab should look like, and its variants: `LabSpec::nodes(3).vxlan().start()`.
//!
//! Owns the wishes, not the making. Invariant: two specs that are equal make labs that differ only in their id.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;

use crate::addresses;
use crate::lab::Lab;

/// How Pods are connected to their node, and nodes' Pods to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNetwork {
    /// A veth for each Pod, no address on the node's end; plain routes between nodes.
    Routed,
    /// Pods on a bridge `cni0` that has an address; plain routes between nodes.
    Bridge,
    /// A veth for each Pod; other nodes' Pods through `vxlan0`, 50 bytes less MTU.
    Vxlan,
}

/// `net.ipv4.conf.*.rp_filter` on the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// 0: no source validation.
    Off,
    /// 1: the reply would leave by the same device (RFC 3704).
    Strict,
    /// 2: there is a route back.
    Loose,
}

/// A Pod: a network namespace behind a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// Name, unique in the lab: the last part of the namespace's name.
    pub name: String,
    /// All its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Node name, as in the Node object.
    pub name: String,
    /// Its addresses on the first fabric, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Networks of its Pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`, if any.
    pub zone: Option<String>,
    /// Its Pods.
    pub pods: Vec<PodSpec>,
}

/// What to make. Every field has a usual value; the methods are the variants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabSpec {
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
    /// Address families in use: IPv4, IPv6.
    pub families: [bool; 2],
    /// How Pods are connected.
    pub pod_network: PodNetwork,
    /// Number of fabrics, 1 or 2; each node has an uplink to each.
    pub uplinks: u8,
    /// Source validation on the nodes.
    pub reverse_path: ReversePath,
    /// Destinations that the router sends to the first node: where the cluster addresses of Services are.
    pub service_routes: Vec<IpNet>,
    /// Addresses of a host on the fabric that is no node: endpoints outside the cluster. No host if empty.
    pub outsider: Vec<IpAddr>,
}

impl LabSpec {
    /// `count` dual-stack nodes `n1`, `n2`, ... with two Pods each (`n1-p1`, `n1-p2`, ...), routed, one uplink.
    #[must_use]
    pub fn nodes(count: u8) -> Self {
        Self {
            nodes: (1..=count).map(NodeSpec::numbered).collect(),
            families: [true, true],
            pod_network: PodNetwork::Routed,
            uplinks: 1,
            reverse_path: ReversePath::Loose,
            service_routes: addresses::service_cidrs().to_vec(),
            outsider: Vec::new(),
        }
        .pods(2)
    }

    /// `count` Pods on each node.
    #[must_use]
    pub fn pods(mut self, count: u8) -> Self {
        for (node, number) in self.nodes.iter_mut().zip(1..) {
            node.pods = (1..=count)
                .map(|pod| PodSpec {
                    name: format!("{}-p{pod}", node.name),
                    addresses: addresses::pod(number, pod).to_vec(),
                })
                .collect();
        }
        self
    }

    /// Pods of other nodes behind a VXLAN device, as an overlay CNI makes it.
    #[must_use]
    pub fn vxlan(mut self) -> Self {
        self.pod_network = PodNetwork::Vxlan;
        self
    }

    /// Pods on a bridge, as a bridge CNI makes it.
    #[must_use]
    pub fn bridge(mut self) -> Self {
        self.pod_network = PodNetwork::Bridge;
        self
    }

    /// A second uplink on each node, to a fabric of its own.
    #[must_use]
    pub fn two_uplinks(mut self) -> Self {
        self.uplinks = 2;
        self
    }

    /// IPv4 only.
    #[must_use]
    pub fn v4_only(mut self) -> Self {
        self.families = [true, false];
        self
    }

    /// IPv6 only.
    #[must_use]
    pub fn v6_only(mut self) -> Self {
        self.families = [false, true];
        self
    }

    /// Strict source validation on the nodes (edge-cases H2).
    #[must_use]
    pub fn strict_reverse_path(mut self) -> Self {
        self.reverse_path = ReversePath::Strict;
        self
    }

    /// A host on the fabric that is no node, with these addresses.
    #[must_use]
    pub fn outsider(mut self, addresses: &[IpAddr]) -> Self {
        self.outsider = addresses.to_vec();
        self
    }

    /// Makes the lab.
    ///
    /// # Errors
    /// If a namespace, link, address or route cannot be made; what was made until then is removed.
    pub fn start(self) -> Result<Lab> {
        Lab::start(self)
    }

    /// Whether the family of this address is in use.
    #[must_use]
    pub fn uses(&self, address: IpAddr) -> bool {
        self.families[usize::from(address.is_ipv6())]
    }
}

impl NodeSpec {
    /// Node `number` of the usual lab: name, addresses and Pod networks, no Pods.
    #[must_use]
    pub fn numbered(number: u8) -> Self {
        Self {
            name: format!("n{number}"),
            addresses: addresses::node(number, 0).to_vec(),
            pod_cidrs: addresses::pod_cidrs(number).to_vec(),
            zone: None,
            pods: Vec::new(),
        }
    }
}
