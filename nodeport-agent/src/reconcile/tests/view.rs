//! What the maps mean, read as a BPF program reads them; and what they should mean. Neither uses code under test beyond keys.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use nodeport_common::{V4, V6, address_flags, backend_flags, frontend_flags};

use crate::maps::{Addresses, Backends, Frontends, IpBytes, Serving, Sources, Store};
use crate::model::desired::{Desired, DesiredFrontend, FrontendKind, IfEmpty, Listen, Protocol};
use crate::plan::{frontend_text, protocol_number};

/// What a new connection finds behind a front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) outside: Vec<(SocketAddr, bool)>,
    pub(super) inside: Vec<(SocketAddr, bool)>,
    pub(super) flags: u32,
    pub(super) affinity_secs: u32,
    /// Endpoints that UDP flows may keep, as counted in the value; the entries themselves are compared when a pass is over.
    pub(super) serving: u32,
}

/// The whole state, with the numbers of service ports replaced by what they lead to.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct View {
    pub(super) frontends: BTreeMap<String, Seen>,
    pub(super) addresses: BTreeMap<IpAddr, u32>,
    /// Endpoints that UDP flows of a front end may keep.
    pub(super) serving: BTreeMap<String, BTreeSet<SocketAddr>>,
    /// Who may use a front end, if it is one that only some may.
    pub(super) sources: BTreeMap<String, BTreeSet<IpNet>>,
    /// Which front ends have one number.
    pub(super) services: BTreeSet<BTreeSet<String>>,
}

/// Reads both families.
pub(super) fn seen(store: &impl Store) -> View {
    let mut view = View::default();
    let mut services: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    family::<V4>(store, &mut view, &mut services);
    family::<V6>(store, &mut view, &mut services);
    view.services = services.into_values().collect();
    view
}

fn family<A: IpBytes>(
    store: &impl Store,
    view: &mut View,
    services: &mut BTreeMap<u32, BTreeSet<String>>,
) {
    let socket =
        |address: A, port: [u8; 2]| SocketAddr::new(address.ip(), u16::from_be_bytes(port));
    let set = |base: u32, len: u32| -> Vec<(SocketAddr, bool)> {
        let slots = (base..base + len).map(|slot| store.get::<Backends<A>>(&slot));
        slots
            .map(|slot| slot.expect("readable").expect("in range"))
            .map(|slot| {
                let local = slot.flags & backend_flags::LOCAL != 0;
                (socket(slot.address, slot.port), local)
            })
            .collect()
    };
    let keep = keep::<A>(store);
    let ranges = ranges::<A>(store);
    for (key, value) in store.entries::<Frontends<A>>().expect("readable") {
        let name = text(&key);
        if value.flags & frontend_flags::SOURCE_RANGES != 0 {
            let of_service = ranges.get(&value.service).cloned();
            view.sources
                .insert(name.clone(), of_service.unwrap_or_default());
        }
        services
            .entry(value.service)
            .or_default()
            .insert(name.clone());
        if let Some(endpoints) = keep.get(&value.service) {
            view.serving.insert(name.clone(), endpoints.clone());
        }
        let seen = Seen {
            outside: set(value.base, value.len),
            inside: set(value.local_base, value.local_len),
            flags: value.flags,
            affinity_secs: value.affinity_secs,
            serving: value.serving,
        };
        view.frontends.insert(name, seen);
    }
    let named: BTreeSet<u32> = store
        .entries::<Frontends<A>>()
        .expect("readable")
        .iter()
        .map(|entry| entry.1.service)
        .collect();
    let strays: Vec<_> = (keep.keys().chain(ranges.keys()))
        .filter(|id| !named.contains(id))
        .collect();
    if !strays.is_empty() {
        view.serving
            .insert(format!("strays {strays:?}"), BTreeSet::new());
    }
    for (address, value) in store.entries::<Addresses<A>>().expect("readable") {
        view.addresses.insert(address.ip(), value.flags);
    }
}

/// The endpoints that UDP flows of each service port may keep.
fn keep<A: IpBytes>(store: &impl Store) -> BTreeMap<u32, BTreeSet<SocketAddr>> {
    let mut keep: BTreeMap<u32, BTreeSet<SocketAddr>> = BTreeMap::new();
    for (key, _) in store.entries::<Serving<A>>().expect("readable") {
        let endpoint = SocketAddr::new(key.address.ip(), u16::from_be_bytes(key.port));
        keep.entry(key.service).or_default().insert(endpoint);
    }
    keep
}

/// The ranges of each service port.
fn ranges<A: IpBytes>(store: &impl Store) -> BTreeMap<u32, BTreeSet<IpNet>> {
    let mut ranges: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
    for (key, _) in store.entries::<Sources<A>>().expect("readable") {
        let bits = u8::try_from(key.prefix_len - 32).expect("of an address");
        let range = IpNet::new(key.address.ip(), bits).expect("a range");
        let service = u32::from_be_bytes(key.service);
        ranges.entry(service).or_default().insert(range);
    }
    ranges
}

fn text<A: IpBytes>(key: &nodeport_common::FrontendKey<A>) -> String {
    let family = if A::UNSPECIFIED.ip().is_ipv4() {
        "v4"
    } else {
        "v6"
    };
    format!("{family} {}", frontend_text(key))
}

/// The flags of a front end whose sets are these.
fn flags_of(frontend: &DesiredFrontend) -> u32 {
    let mut flags = match frontend.kind {
        FrontendKind::ClusterIp => frontend_flags::CLUSTER_IP,
        FrontendKind::NodePort => frontend_flags::NODE_PORT,
        FrontendKind::ExternalIp => frontend_flags::EXTERNAL_IP,
        FrontendKind::LoadBalancer => frontend_flags::LOAD_BALANCER,
    };
    if frontend.policy_local {
        flags |= frontend_flags::POLICY_LOCAL;
    }
    if frontend.restricted {
        flags |= frontend_flags::SOURCE_RANGES;
    }
    if frontend.outside.backends.is_empty() && frontend.outside.if_empty == IfEmpty::Drop {
        flags |= frontend_flags::DROP_IF_EMPTY;
    }
    flags
}

/// What the maps should mean.
pub(super) fn wanted(desired: &Desired) -> View {
    let mut view = View::default();
    let mut services: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for (id, frontend) in &desired.frontends {
        let (v4, address) = match id.listen {
            Listen::Node(family) => (family == crate::model::desired::Family::V4, None),
            Listen::Address(ip) => (ip.is_ipv4(), Some(ip)),
        };
        let protocol = match protocol_number(id.protocol) {
            6 => "TCP",
            _ => "UDP",
        };
        let listen = address.map_or("node".to_owned(), |ip| match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        });
        let family = if v4 { "v4" } else { "v6" };
        let name = format!("{family} {listen}:{}/{protocol}", id.port);
        let flags = flags_of(frontend);
        let set = |set: &crate::model::desired::BackendSet| {
            let backends = set.backends.iter();
            backends
                .map(|backend| (backend.address, backend.local))
                .collect()
        };
        let mut keep = BTreeSet::new();
        if id.protocol == Protocol::Udp {
            let all = &desired.serving[&frontend.service_port];
            keep.extend(all.iter().filter(|endpoint| endpoint.is_ipv4() == v4));
        }
        let seen = Seen {
            outside: set(&frontend.outside),
            inside: set(&frontend.inside),
            flags,
            affinity_secs: frontend.affinity_secs,
            serving: keep.len() as u32,
        };
        if frontend.restricted {
            let ranges = desired.sources[&frontend.service_port].iter().copied();
            let of_family = ranges.filter(|range| range.addr().is_ipv4() == v4);
            view.sources.insert(name.clone(), of_family.collect());
        }
        view.frontends.insert(name.clone(), seen);
        if !keep.is_empty() {
            view.serving.insert(name.clone(), keep);
        }
        services
            .entry(&frontend.service_port)
            .or_default()
            .insert(name);
        if let Some(ip) = address {
            let cluster_ip = frontend.kind == FrontendKind::ClusterIp;
            *view.addresses.entry(ip).or_default() |=
                address_flags::VIRTUAL | (u32::from(cluster_ip) * address_flags::CLUSTER_IP);
        }
    }
    node_addresses(desired, &mut view);
    view.services = services.into_values().collect();
    view
}

/// What the node's own addresses should be.
fn node_addresses(desired: &Desired, view: &mut View) {
    for ip in &desired.host_addresses {
        *view.addresses.entry(*ip).or_default() |= address_flags::HOST;
    }
    for ip in &desired.node_port_addresses {
        *view.addresses.entry(*ip).or_default() |= address_flags::NODE_PORT;
    }
}
