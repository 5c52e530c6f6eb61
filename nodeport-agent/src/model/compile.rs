//! One Service and its slices into claims on front ends, and all claims into the desired state.
//!
//! Owns which front ends a Service has and which policy governs each (behaviours 1, 6, 7, 19). It refuses to know slots and maps.
//! Invariant: what [`compile_service`] returns depends on the Service, its slices and the place alone, so that a change
//! of one object costs one Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::conflict::Claims;
use super::desired::{
    BackendSet, Desired, DesiredFrontend, Family, FrontendId, FrontendKind, Listen, Protocol,
    ServicePortName,
};
use super::objects::{
    EndpointSlice, Entry, Kind, Meta, Node, ObjectKey, ObjectRef, Service, ServicePort,
    ServiceType, TrafficPolicy,
};
use super::report::{Reason, Report};
use super::select::{Place, Pool};
use super::snapshot::Snapshot;

/// What one Service asks for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CompiledService {
    /// The front ends it asks for; another Service may have a better claim to one.
    pub claims: Vec<Claim>,
    /// Of each of its UDP ports, the endpoints that existing flows may keep.
    pub serving: BTreeMap<ServicePortName, Arc<BTreeSet<SocketAddr>>>,
    /// Of each of its ports with restricted front ends, who may use those.
    pub sources: BTreeMap<ServicePortName, Arc<BTreeSet<IpNet>>>,
    /// Fields that cannot be followed.
    pub reports: Vec<Report>,
}

/// A front end that a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Where.
    pub id: FrontendId,
    /// What.
    pub frontend: Arc<DesiredFrontend>,
    /// The field that asks for it.
    pub field: String,
}

/// The desired state of a snapshot, and all that could not be followed, from nothing: what [`Compiler`](super::Compiler) is to arrive
/// at from any earlier state.
#[must_use]
pub fn compile(snapshot: &Snapshot) -> (Desired, Vec<Report>) {
    let objects = &snapshot.objects;
    let node = snapshot.node();
    let place = Place {
        node: &snapshot.node_name,
        zone: node.and_then(|node| node.zone.as_deref()),
    };
    let mut slices: BTreeMap<ObjectKey, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in objects.endpoint_slices.values() {
        if let Some(key) = slice.service_key() {
            slices.entry(key).or_default().push(slice);
        }
    }
    let mut desired = Desired::default();
    let mut reports = objects.reports.clone();
    let mut claims = Claims::default();
    for service in objects.services.values() {
        let of_service = slices.get(&service.meta.key).map_or(&[][..], Vec::as_slice);
        let compiled = compile_service(service, of_service, place);
        desired.serving.extend(compiled.serving);
        desired.sources.extend(compiled.sources);
        reports.extend(compiled.reports);
        for claim in compiled.claims {
            claims.add(&service.meta, claim);
        }
    }
    desired.frontends = claims.settle_all(&mut reports);
    reports.extend(
        objects
            .services
            .values()
            .flat_map(|one| problems(&one.meta, Kind::Service)),
    );
    reports.extend(
        (objects.endpoint_slices.values()).flat_map(|one| problems(&one.meta, Kind::EndpointSlice)),
    );
    if let Some(node) = node {
        reports.extend(problems(&node.meta, Kind::Node));
    }
    reports.extend(compile_node(snapshot, node, &mut desired));
    reports.sort();
    (desired, reports)
}

/// What one Service asks for, its slices being those that name it. Pure, and the unit of change.
#[must_use]
pub fn compile_service(
    service: &Service,
    slices: &[&EndpointSlice],
    place: Place<'_>,
) -> CompiledService {
    let mut compiled = CompiledService::default();
    if service.exemption.is_some() {
        return compiled;
    }
    for cluster_ip in &service.cluster_ips {
        let family = Family::of(cluster_ip.value);
        for port in service
            .ports
            .iter()
            .filter(|port| port.value.protocol != Protocol::Sctp)
        {
            let key = (port.value.name.as_str(), port.value.protocol);
            let pool = Pool::new(slices, family, key, place);
            let name = service.port_name(&port.value);
            if port.value.protocol == Protocol::Udp {
                let serving = compiled.serving.entry(name.clone()).or_default();
                Arc::make_mut(serving).extend(pool.serving());
            }
            let sets = Sets::new(service, &pool, family);
            if sets.restricted {
                let sources = compiled.sources.entry(name.clone()).or_default();
                Arc::make_mut(sources).extend(&service.source_ranges);
            }
            claim_frontends(
                service,
                cluster_ip,
                port,
                &name,
                &sets,
                &mut compiled.claims,
            );
        }
    }
    for (list, field) in [
        (
            &service.external_ips,
            external_ip_field as fn(usize) -> String,
        ),
        (&service.load_balancer_ips, load_balancer_field),
    ] {
        for entry in list
            .iter()
            .filter(|entry| !service.serves(Family::of(entry.value)))
        {
            let reason = Reason::FamilyNotServed(Family::of(entry.value));
            compiled.reports.push(report(
                &service.meta,
                Kind::Service,
                field(entry.index),
                reason,
            ));
        }
    }
    compiled
}

/// The sets of one service port in one family.
struct Sets {
    internal: Arc<BackendSet>,
    internal_local: bool,
    outside: Arc<BackendSet>,
    inside: Arc<BackendSet>,
    external_local: bool,
    affinity_secs: u32,
    restricted: bool,
}

impl Sets {
    fn new(service: &Service, pool: &Pool<'_>, family: Family) -> Self {
        let internal_local = service.internal_policy == TrafficPolicy::Local;
        let external_local = service.external_policy_is_local();
        let cluster = Arc::new(pool.cluster());
        let local = (internal_local || external_local).then(|| Arc::new(pool.local()));
        let of = |is_local| {
            let local = local.as_ref().filter(|_| is_local);
            Arc::clone(local.unwrap_or(&cluster))
        };
        Self {
            internal: of(internal_local),
            internal_local,
            outside: of(external_local),
            // Clients on this node are short-circuited to the whole cluster's endpoints (7.1, 7.4).
            inside: of(false),
            external_local,
            affinity_secs: service.affinity_secs,
            restricted: service.is_restricted(family),
        }
    }

    fn frontend(&self, kind: FrontendKind, service_port: &ServicePortName) -> DesiredFrontend {
        let internal = kind == FrontendKind::ClusterIp;
        let (policy_local, outside, inside) = if internal {
            (self.internal_local, &self.internal, &self.internal)
        } else {
            (self.external_local, &self.outside, &self.inside)
        };
        DesiredFrontend {
            kind,
            service_port: service_port.clone(),
            policy_local,
            affinity_secs: self.affinity_secs,
            restricted: self.restricted && kind == FrontendKind::LoadBalancer,
            outside: outside.clone(),
            inside: inside.clone(),
        }
    }
}

/// The front ends of one service port in the family of `cluster_ip` (6.1-6.3).
fn claim_frontends(
    service: &Service,
    cluster_ip: &Entry<IpAddr>,
    port: &Entry<ServicePort>,
    name: &ServicePortName,
    sets: &Sets,
    claims: &mut Vec<Claim>,
) {
    let family = Family::of(cluster_ip.value);
    let mut claim = |kind, listen, number, field: String| {
        claims.push(Claim {
            id: FrontendId {
                listen,
                port: number,
                protocol: port.value.protocol,
            },
            frontend: Arc::new(sets.frontend(kind, name)),
            field,
        });
    };
    let number = port.value.port;
    let virtual_ip = Listen::Address(cluster_ip.value);
    let field = format!("spec.clusterIPs[{}]", cluster_ip.index);
    claim(FrontendKind::ClusterIp, virtual_ip, number, field);
    for entry in service
        .external_ips
        .iter()
        .filter(|entry| Family::of(entry.value) == family)
    {
        let field = external_ip_field(entry.index);
        claim(
            FrontendKind::ExternalIp,
            Listen::Address(entry.value),
            number,
            field,
        );
    }
    for entry in
        (service.load_balancer_ips.iter()).filter(|entry| Family::of(entry.value) == family)
    {
        let field = load_balancer_field(entry.index);
        claim(
            FrontendKind::LoadBalancer,
            Listen::Address(entry.value),
            number,
            field,
        );
    }
    if let Some(node_port) = port.value.node_port {
        let field = format!("spec.ports[{}].nodePort", port.index);
        claim(
            FrontendKind::NodePort,
            Listen::Node(family),
            node_port,
            field,
        );
    }
}

fn external_ip_field(index: usize) -> String {
    format!("spec.externalIPs[{index}]")
}

fn load_balancer_field(index: usize) -> String {
    format!("status.loadBalancer.ingress[{index}].ip")
}

/// What depends on the node alone, once the front ends are known.
pub(super) fn compile_node(
    snapshot: &Snapshot,
    node: Option<&Node>,
    desired: &mut Desired,
) -> Vec<Report> {
    let mut reports = Vec::new();
    let host = &snapshot.host_addresses;
    desired.host_addresses = host.iter().map(|one| one.address).collect();
    let option = &snapshot.options.node_port_addresses;
    desired.node_port_addresses = option.select(host, &snapshot.primary_addresses());
    let own_node = || ObjectRef {
        kind: Kind::Node,
        key: ObjectKey {
            namespace: "".into(),
            name: snapshot.node_name.as_str().into(),
        },
    };
    let mut tell = |reason| {
        reports.push(Report {
            origin: None,
            object: Some(own_node()),
            field: String::new(),
            reason,
        });
    };
    if node.is_none() {
        tell(Reason::NodeUnknown);
    }
    for family in Family::ALL {
        let first = FrontendId {
            listen: Listen::Node(family),
            port: 0,
            protocol: Protocol::Tcp,
        };
        let next = desired.frontends.range(first..).next();
        let wanted = next.is_some_and(|(id, _)| id.listen == first.listen);
        let accepted = &desired.node_port_addresses;
        if wanted
            && !accepted
                .iter()
                .any(|address| Family::of(*address) == family)
        {
            tell(Reason::NoNodePortAddress(family));
        }
    }
    reports
}

pub(super) fn problems(meta: &Meta, kind: Kind) -> impl Iterator<Item = Report> {
    (meta.problems.iter())
        .map(move |problem| report(meta, kind, problem.field.clone(), problem.reason.clone()))
}

fn report(meta: &Meta, kind: Kind, field: String, reason: Reason) -> Report {
    Report {
        origin: meta.origin.as_deref().map(ToOwned::to_owned),
        object: Some(ObjectRef {
            kind,
            key: meta.key.clone(),
        }),
        field,
        reason,
    }
}

impl Service {
    /// Whether it has a ClusterIP of this family (19.2).
    fn serves(&self, family: Family) -> bool {
        self.cluster_ips
            .iter()
            .any(|entry| Family::of(entry.value) == family)
    }

    /// Whether only some may use its load balancer addresses of this family: if it has such addresses, and a range of their family
    /// (behaviours 14.1, 14.3).
    fn is_restricted(&self, family: Family) -> bool {
        let mut addresses = self.load_balancer_ips.iter();
        let mut ranges = self.source_ranges.iter();
        addresses.any(|entry| Family::of(entry.value) == family)
            && ranges.any(|range| Family::of(range.addr()) == family)
    }

    /// externalTrafficPolicy counts only if the Service can be reached from outside (4.6).
    fn external_policy_is_local(&self) -> bool {
        let reachable = matches!(
            self.service_type,
            ServiceType::NodePort | ServiceType::LoadBalancer
        ) || !self.external_ips.is_empty();
        reachable && self.external_policy == TrafficPolicy::Local
    }

    fn port_name(&self, port: &ServicePort) -> ServicePortName {
        ServicePortName {
            namespace: self.meta.key.namespace.clone(),
            name: self.meta.key.name.clone(),
            port: port.name.as_str().into(),
            protocol: port.protocol,
        }
    }
}
