//! The cluster objects as far as a service proxy looks at them.
//!
//! Owns their lean form: addresses parsed, defaults filled in, labels that matter turned into flags. It refuses to know
//! how objects are read ([`super::decode`]) and what is made of them ([`super::compile()`]).
//! Invariant: a part that could not be used is absent here and stands in [`Meta::problems`].

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;

use super::desired::{Family, Protocol};
use super::report::{Problem, Report};

/// Namespace and name. Cluster-scoped objects have an empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct ObjectKey {
    /// `metadata.namespace`.
    #[serde(serialize_with = "super::text::as_str")]
    pub namespace: Arc<str>,
    /// `metadata.name`.
    #[serde(serialize_with = "super::text::as_str")]
    pub name: Arc<str>,
}

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Node.
    Node,
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    #[serde(flatten)]
    pub key: ObjectKey,
}

/// What every object has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// `metadata.uid`: which of the objects that had this name one after the other. Absent in most files.
    pub uid: Option<Box<str>>,
    /// Where it was read, for reports; `None` if it came from an API server.
    pub origin: Option<Arc<str>>,
    /// What of it could not be used.
    pub problems: Vec<Problem>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name, age, problems.
    pub meta: Meta,
    /// Why it is not for us, if it is not.
    pub exemption: Option<Exemption>,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// At most one address of each family, in the order of `spec.ipFamilies`.
    pub cluster_ips: Vec<Entry<IpAddr>>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Entry<IpAddr>>,
    /// `status.loadBalancer.ingress[].ip` whose `ipMode` is not `Proxy` (behaviours 6.4).
    pub load_balancer_ips: Vec<Entry<IpAddr>>,
    /// `spec.ports`.
    pub ports: Vec<Entry<ServicePort>>,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`, host order.
    pub health_check_node_port: Option<u16>,
    /// With `spec.sessionAffinity: ClientIP`, for how long a client is sent to the same endpoint again, in seconds; else 0.
    pub affinity_secs: u32,
    /// `spec.loadBalancerSourceRanges`; empty if everybody may use the load balancer's addresses.
    pub source_ranges: BTreeSet<IpNet>,
}

/// An entry of a list, and where in the list it stands, so that a report can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// Index in the list of the object.
    pub index: usize,
    /// The entry.
    pub value: T,
}

/// Why a Service is not proxied although nothing is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// `clusterIP: None` (behaviours 1.1).
    Headless,
    /// No ClusterIP at all (behaviours 1.1).
    NoClusterIp,
    /// Type ExternalName (behaviours 1.2).
    ExternalName,
    /// Label `service.kubernetes.io/service-proxy-name` (behaviours 1.3).
    OtherProxy,
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// Also what an unknown type is taken for.
    ClusterIp,
    /// NodePort.
    NodePort,
    /// LoadBalancer.
    LoadBalancer,
    /// ExternalName.
    ExternalName,
}

/// A traffic policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Endpoints of the whole cluster.
    Cluster,
    /// Only endpoints of this node.
    Local,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`, empty if it has none.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`, host order.
    pub port: u16,
    /// `nodePort`, host order.
    pub node_port: Option<u16>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Name, age, problems.
    pub meta: Meta,
    /// The Service in the same namespace; `None` if the slice is not for us (behaviours 1.4, 1.8, 1.9).
    pub service: Option<Arc<str>>,
    /// `addressType`.
    pub family: Family,
    /// Endpoints that have an address of the slice's family.
    pub endpoints: Vec<Endpoint>,
    /// Ports that have a number.
    pub ports: Vec<EndpointPort>,
    /// When the change happened that this state of the slice is due to, from the annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time` (behaviours 22.11).
    pub triggered: Option<Timestamp>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The first of its `addresses` (behaviours 2.7).
    pub address: IpAddr,
    /// `nodeName`, empty if it has none.
    pub node: String,
    /// `conditions.ready`, true by default (behaviours 3.4).
    pub ready: bool,
    /// `conditions.serving`, true by default.
    pub serving: bool,
    /// `conditions.terminating`, false by default.
    pub terminating: bool,
    /// `hints.forNodes[].name`.
    pub node_hints: BTreeSet<String>,
    /// `hints.forZones[].name`.
    pub zone_hints: BTreeSet<String>,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// `name`, empty if it has none: that is what the API server makes of an absent one.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`, host order.
    pub port: u16,
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name, age, problems.
    pub meta: Meta,
    /// Label `topology.kubernetes.io/zone`, if it has a value.
    pub zone: Option<String>,
    /// The first InternalIP of each family, else the first ExternalIP (behaviours 20.2).
    pub primary_addresses: Vec<IpAddr>,
    /// It is being deleted, or marked for it by the cluster autoscaler: no place for new connections (behaviours 16.4).
    pub is_leaving: bool,
}

/// A complete set of objects, as a source gives it: the caches of all kinds are complete (behaviours 22.1).
///
/// A copy costs nothing, and shares with the original what neither changes: what is another in one of two sets is found without a
/// look at the rest.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Objects {
    /// Services.
    pub services: OrdMap<ObjectKey, Arc<Service>>,
    /// EndpointSlices.
    pub endpoint_slices: OrdMap<ObjectKey, Arc<EndpointSlice>>,
    /// Nodes by name.
    pub nodes: OrdMap<Arc<str>, Arc<Node>>,
    /// What could not be made an object, and which objects were given twice.
    pub reports: Vec<Report>,
}

/// One object of a kind that is read. Shared: an object that did not change is the same one in the next set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// A Node.
    Node(Arc<Node>),
}

impl Object {
    /// Name, age, problems.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Service(service) => &service.meta,
            Self::EndpointSlice(slice) => &slice.meta,
            Self::Node(node) => &node.meta,
        }
    }

    /// Which object it is.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        let kind = match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Node(_) => Kind::Node,
        };
        ObjectRef {
            kind,
            key: self.meta().key.clone(),
        }
    }
}

impl EndpointSlice {
    /// The Service that it is of; `None` if it is not for us.
    #[must_use]
    pub fn service_key(&self) -> Option<ObjectKey> {
        Some(ObjectKey {
            namespace: Arc::clone(&self.meta.key.namespace),
            name: Arc::clone(self.service.as_ref()?),
        })
    }
}

impl Objects {
    /// Adds an object, in the place of one of the same kind, namespace and name, which is returned.
    pub fn insert(&mut self, object: Object) -> Option<Object> {
        let key = object.meta().key.clone();
        match object {
            Object::Service(one) => self.services.insert(key, one).map(Object::Service),
            Object::EndpointSlice(one) => (self.endpoint_slices)
                .insert(key, one)
                .map(Object::EndpointSlice),
            Object::Node(one) => self.nodes.insert(key.name, one).map(Object::Node),
        }
    }
}

impl Objects {
    /// Takes an object out, if it is there.
    pub fn remove(&mut self, reference: &ObjectRef) -> bool {
        let key = &reference.key;
        match reference.kind {
            Kind::Service => self.services.remove(key).is_some(),
            Kind::EndpointSlice => self.endpoint_slices.remove(key).is_some(),
            Kind::Node => self.nodes.remove(&key.name).is_some(),
        }
    }
}

impl Object {
    /// Whether both are the same one, not only alike.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Service(one), Self::Service(other)) => Arc::ptr_eq(one, other),
            (Self::EndpointSlice(one), Self::EndpointSlice(other)) => Arc::ptr_eq(one, other),
            (Self::Node(one), Self::Node(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Kind {
    /// As `kind` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
        }
    }

    /// As `apiVersion` has it.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Service | Self::Node => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.key)
    }
}
