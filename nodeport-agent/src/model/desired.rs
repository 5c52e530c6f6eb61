//! What this node's maps should say: the output of the model and the input of the plan.
//!
//! Owns names and addresses as people know them. It refuses to know slots, identifiers and map layouts: those are the plan's.
//! Invariant: it is a pure function of the snapshot, in an order that does not depend on the order of events.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use ipnet::IpNet;

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
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct ServicePortName {
    /// `metadata.namespace`.
    #[serde(serialize_with = "super::text::as_str")]
    pub namespace: Arc<str>,
    /// `metadata.name`.
    #[serde(serialize_with = "super::text::as_str")]
    pub name: Arc<str>,
    /// `spec.ports[].name`, empty if it has none.
    #[serde(serialize_with = "super::text::as_str")]
    pub port: Arc<str>,
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
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendSet {
    /// The endpoints.
    pub backends: BTreeSet<DesiredBackend>,
    /// What to do if there are none.
    pub if_empty: IfEmpty,
}

/// One front end as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredFrontend {
    /// Which field it comes from.
    pub kind: FrontendKind,
    /// Which service port it belongs to.
    pub service_port: ServicePortName,
    /// The policy that governs it is Local: the client's address is never rewritten.
    pub policy_local: bool,
    /// For how long a client is sent to the same endpoint again, in seconds; 0 for every connection anew (behaviours 11).
    pub affinity_secs: u32,
    /// Only clients in the service port's [`Desired::sources`] may open connections (behaviours 14).
    pub restricted: bool,
    /// Endpoints for clients that are not on this node.
    pub outside: Arc<BackendSet>,
    /// Endpoints for Pods of this node (differs from `outside` where externalTrafficPolicy is Local, behaviours 7.1).
    pub inside: Arc<BackendSet>,
}

/// Everything that this node's maps should say. A copy costs nothing, and shares with the original what neither changes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Desired {
    /// Front ends.
    pub frontends: OrdMap<FrontendId, Arc<DesiredFrontend>>,
    /// For UDP service ports: the endpoints that existing flows may keep (serving, any policy; behaviours 17.3, 17.4).
    pub serving: OrdMap<ServicePortName, Arc<BTreeSet<SocketAddr>>>,
    /// Of service ports with restricted front ends: who may use those.
    pub sources: OrdMap<ServicePortName, Arc<BTreeSet<IpNet>>>,
    /// Node addresses on which NodePorts answer (`--nodeport-addresses`).
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// Every address assigned to a device of this node.
    pub host_addresses: BTreeSet<IpAddr>,
}

impl Desired {
    /// The service ports of which a front end, an endpoint that flows may keep, or a range of clients is another than before.
    /// The cost grows with what is not shared.
    #[must_use]
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> BTreeSet<&'a ServicePortName> {
        let mut changed = BTreeSet::new();
        for item in before.frontends.diff(&self.frontends) {
            match item {
                DiffItem::Add(_, one) | DiffItem::Remove(_, one) => {
                    changed.insert(&one.service_port);
                }
                DiffItem::Update { old, new } => {
                    changed.extend([&old.1.service_port, &new.1.service_port]);
                }
            }
        }
        for item in before.serving.diff(&self.serving) {
            let (DiffItem::Add(name, _)
            | DiffItem::Remove(name, _)
            | DiffItem::Update { new: (name, _), .. }) = item;
            changed.insert(name);
        }
        for item in before.sources.diff(&self.sources) {
            let (DiffItem::Add(name, _)
            | DiffItem::Remove(name, _)
            | DiffItem::Update { new: (name, _), .. }) = item;
            changed.insert(name);
        }
        changed
    }
}
