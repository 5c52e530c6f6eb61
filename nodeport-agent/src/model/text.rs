//! The desired state as text: one line for each front end, in a fixed order.
//!
//! Owns how front ends, sets and endpoints are written, in scenarios, in `plan` and in `dump`. It refuses to know maps.
//! Invariant: two desired states that treat some connection differently have different texts.
//!
//! ```text
//! tcp 10.96.0.1:443 default/kubernetes:https cluster-ip -> 192.168.88.2:16443
//! tcp node-v4:30081 shop/web:http node-port local -> 10.244.1.60:8080(local) | pods -> 10.244.1.60:8080(local) 10.244.2.60:8080
//! udp 10.96.0.10:53 kube-system/kube-dns:dns cluster-ip -> reject
//! serving udp kube-system/kube-dns:dns -> 10.244.2.7:53
//! node-port-address 192.168.88.11
//! ```
//!
//! After the kind, `local`: the policy that governs it is Local; `restricted`: only the service port's `sources` may use it;
//! `affinity=10s`: a client is sent to the same endpoint again within that time. `| pods ->`: clients on this node have another set. An
//! empty set is written as what happens then, `reject` or `drop`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serializer;

use super::desired::{
    BackendSet, Desired, DesiredBackend, DesiredFrontend, Family, FrontendId, FrontendKind,
    IfEmpty, Listen, Protocol, ServicePortName,
};

/// A shared text, for serde.
pub(super) fn as_str<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl Protocol {
    /// In lower case, as `nft`, `ss` and `curl` write it.
    #[must_use]
    pub const fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for FrontendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, protocol, .. } = self;
        match self.listen {
            Listen::Address(address) => write!(
                f,
                "{} {}",
                protocol.lower(),
                SocketAddr::new(address, *port)
            ),
            Listen::Node(Family::V4) => write!(f, "{} node-v4:{port}", protocol.lower()),
            Listen::Node(Family::V6) => write!(f, "{} node-v6:{port}", protocol.lower()),
        }
    }
}

impl fmt::Display for FrontendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "cluster-ip",
            Self::NodePort => "node-port",
            Self::ExternalIp => "external-ip",
            Self::LoadBalancer => "load-balancer",
        })
    }
}

impl fmt::Display for ServicePortName {
    /// `namespace/name:port`, or `namespace/name` for a port without name. The protocol is told by the line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.port.is_empty() {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

impl fmt::Display for IfEmpty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reject => "reject",
            Self::Drop => "drop",
        })
    }
}

impl fmt::Display for DesiredBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = if self.local { "(local)" } else { "" };
        write!(f, "{}{local}", self.address)
    }
}

impl fmt::Display for BackendSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.backends.is_empty() {
            return self.if_empty.fmt(f);
        }
        spaced(f, &self.backends)
    }
}

impl fmt::Display for DesiredFrontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.service_port, self.kind)?;
        if self.policy_local {
            f.write_str(" local")?;
        }
        if self.restricted {
            f.write_str(" restricted")?;
        }
        if self.affinity_secs > 0 {
            write!(f, " affinity={}s", self.affinity_secs)?;
        }
        write!(f, " -> {}", self.outside)?;
        let alike = self.inside.backends == self.outside.backends
            && (!self.inside.backends.is_empty() || self.inside.if_empty == self.outside.if_empty);
        if alike {
            Ok(())
        } else {
            write!(f, " | pods -> {}", self.inside)
        }
    }
}

impl fmt::Display for Desired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, frontend) in &self.frontends {
            writeln!(f, "{id} {frontend}")?;
        }
        for (port, endpoints) in &self.serving {
            write!(f, "serving {} {port} -> ", port.protocol.lower())?;
            if endpoints.is_empty() {
                f.write_str("none")?;
            }
            spaced(f, &**endpoints)?;
            writeln!(f)?;
        }
        for (port, ranges) in &self.sources {
            write!(f, "sources {} {port} -> ", port.protocol.lower())?;
            spaced(f, ranges.iter())?;
            writeln!(f)?;
        }
        for address in &self.node_port_addresses {
            writeln!(f, "node-port-address {address}")?;
        }
        for address in &self.host_addresses {
            writeln!(f, "host-address {address}")?;
        }
        Ok(())
    }
}

fn spaced<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    items: impl IntoIterator<Item = T>,
) -> fmt::Result {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            f.write_str(" ")?;
        }
        item.fmt(f)?;
    }
    Ok(())
}
