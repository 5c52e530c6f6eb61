//! What this node's maps should say: the output of the model and the input of the plan.
//!
//! Owns names and addresses as people know them. It refuses to know slots, identifiers and map layouts: those are the plan's.
//! Invariant: it is a pure function of the snapshot, in an order that does not depend on the order of events.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Transport protocol of a service port. SCTP is not programmed yet, but front ends name it in reports.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// Address family.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where a new connection can be addressed to.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Listen {
    /// A virtual address of its own (ClusterIP, external IP, load balancer IP).
    Address(IpAddr),
    /// Every accepted node address of the family: a NodePort.
    Node(Family),
}

/// A front end: what is looked up for a new connection.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct FrontendId {
    /// Address, or every node address.
    pub listen: Listen,
    /// Port, host order.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// Which field of a Service a front end comes from.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.ports[].nodePort`.
    NodePort,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer,
}

/// The name of a service port: what Kubernetes calls it. Its identity across changes of numbers.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct ServicePortName {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.ports[].name`, empty if it has none.
    pub port: String,
    /// Protocol.
    pub protocol: Protocol,
}

/// An endpoint that a front end may choose.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct DesiredBackend {
    /// Address and port (host order).
    pub address: SocketAddr,
    /// Whether it is on this node: its `nodeName` is ours.
    pub local: bool,
}

/// What is done with a new connection when a backend set is empty (behaviours 6.7).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum IfEmpty {
    /// Port unreachable.
    Reject,
    /// Silence.
    Drop,
}

/// The endpoints of a front end for one kind of client. Sorted, without duplicates.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct BackendSet {
    /// The endpoints.
    pub backends: BTreeSet<DesiredBackend>,
    /// What to do if there are none.
    pub if_empty: IfEmpty,
}

/// One front end as it should be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DesiredFrontend {
    /// Which field it comes from.
    pub kind: FrontendKind,
    /// Which service port it belongs to.
    pub service_port: ServicePortName,
    /// The policy that governs it is Local: the client's address is never rewritten.
    pub policy_local: bool,
    /// Endpoints for clients that are not on this node.
    pub outside: BackendSet,
    /// Endpoints for Pods of this node (differs from `outside` where externalTrafficPolicy is Local, behaviours 7.1).
    pub inside: BackendSet,
}

/// Everything that this node's maps should say.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Desired {
    /// Front ends.
    pub frontends: BTreeMap<FrontendId, DesiredFrontend>,
    /// For UDP service ports: the endpoints that existing flows may keep (serving, any policy; behaviours 17.3, 17.4).
    pub serving: BTreeMap<ServicePortName, BTreeSet<SocketAddr>>,
    /// Node addresses on which NodePorts answer (`--nodeport-addresses`).
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// Every address assigned to a device of this node.
    pub host_addresses: BTreeSet<IpAddr>,
}
