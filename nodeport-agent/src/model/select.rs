//! Which endpoints serve a service port on this node (behaviours 3, 4, 5).
//!
//! Owns the union of slices, readiness, both fallbacks and topology. It refuses to know front ends.
//! Invariant: the result does not depend on the order of slices or of endpoints in them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::desired::{BackendSet, DesiredBackend, Family, IfEmpty, Protocol};
use super::objects::{Endpoint, EndpointSlice};

/// Where this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The node's zone, if it has one.
    pub zone: Option<&'a str>,
}

/// The endpoints of one service port in one family: each address and port once (behaviours 2.10).
pub(super) struct Pool<'a> {
    endpoints: BTreeMap<SocketAddr, &'a Endpoint>,
    place: Place<'a>,
}

impl<'a> Pool<'a> {
    /// The union of what all slices of a Service say about a port name and protocol (behaviours 3.1, 3.2).
    pub(super) fn new(
        slices: &[&'a EndpointSlice],
        family: Family,
        port: (&str, Protocol),
        place: Place<'a>,
    ) -> Self {
        let mut pool = Self {
            endpoints: BTreeMap::new(),
            place,
        };
        for slice in slices.iter().filter(|slice| slice.family == family) {
            let ports = slice
                .ports
                .iter()
                .filter(|candidate| (candidate.name.as_str(), candidate.protocol) == port);
            for number in ports.map(|candidate| candidate.port) {
                for endpoint in &slice.endpoints {
                    pool.add(SocketAddr::new(endpoint.address, number), endpoint);
                }
            }
        }
        pool
    }

    /// Of two copies the better one counts, whatever slice it is in: while an endpoint moves from one slice to another it
    /// is in both, and one of them is old.
    fn add(&mut self, address: SocketAddr, endpoint: &'a Endpoint) {
        let place = self.place;
        self.endpoints
            .entry(address)
            .and_modify(|known| {
                if rank(endpoint, place) > rank(known, place) {
                    *known = endpoint;
                }
            })
            .or_insert(endpoint);
    }

    /// The set of policy Cluster: ready endpoints that topology leaves, else all that still serve while they terminate (4.1).
    pub(super) fn cluster(&self) -> BackendSet {
        let topology = self.topology();
        let mut set = self.set(IfEmpty::Reject, |one| {
            one.ready && topology.admits(one, self.place)
        });
        if set.backends.is_empty() {
            set = self.set(IfEmpty::Reject, fallback);
        }
        set
    }

    /// The set of policy Local, decided apart from the other (4.2, 4.3). If it is empty although there are endpoints
    /// elsewhere, nobody is told (6.9): a load balancer asks another node.
    pub(super) fn local(&self) -> BackendSet {
        let anywhere = self
            .endpoints
            .values()
            .any(|one| one.ready || fallback(one));
        let if_empty = if anywhere {
            IfEmpty::Drop
        } else {
            IfEmpty::Reject
        };
        let here = |one: &Endpoint| one.is_on(self.place);
        let mut set = self.set(if_empty, |one| one.ready && here(one));
        if set.backends.is_empty() {
            set = self.set(if_empty, |one| fallback(one) && here(one));
        }
        set
    }

    /// Endpoints that existing UDP flows may keep (17.3, 17.4): those that serve, and those that new flows are sent to.
    pub(super) fn serving(&self) -> impl Iterator<Item = SocketAddr> {
        self.endpoints
            .iter()
            .filter(|(_, one)| one.serving || one.ready)
            .map(|(address, _)| *address)
    }

    fn set(&self, if_empty: IfEmpty, wanted: impl Fn(&Endpoint) -> bool) -> BackendSet {
        let wanted = self.endpoints.iter().filter(|(_, one)| wanted(one));
        let backends = wanted.map(|(address, one)| DesiredBackend {
            address: *address,
            local: one.is_on(self.place),
        });
        BackendSet {
            backends: backends.collect(),
            if_empty,
        }
    }

    /// Hints count only if every ready endpoint has them and one is for this place (5.2-5.4).
    fn topology(&self) -> Topology {
        let ready = || self.endpoints.values().filter(|one| one.ready);
        if ready().all(|one| !one.node_hints.is_empty())
            && ready().any(|one| Topology::SameNode.admits(one, self.place))
        {
            Topology::SameNode
        } else if ready().all(|one| !one.zone_hints.is_empty())
            && ready().any(|one| Topology::SameZone.admits(one, self.place))
        {
            Topology::SameZone
        } else {
            Topology::Anywhere
        }
    }
}

#[derive(Clone, Copy)]
enum Topology {
    SameNode,
    SameZone,
    Anywhere,
}

impl Topology {
    fn admits(self, endpoint: &Endpoint, place: Place<'_>) -> bool {
        match self {
            Self::SameNode => endpoint.node_hints.contains(place.node),
            Self::SameZone => place
                .zone
                .is_some_and(|zone| endpoint.zone_hints.contains(zone)),
            Self::Anywhere => true,
        }
    }
}

impl Endpoint {
    /// Whether it is on this node: its `nodeName` says so, its address says nothing (3.5).
    fn is_on(&self, place: Place<'_>) -> bool {
        !self.node.is_empty() && self.node == place.node
    }
}

/// Not ready any more, but still serving while it terminates.
const fn fallback(endpoint: &Endpoint) -> bool {
    endpoint.serving && endpoint.terminating
}

/// Total over everything that matters, so that no order of slices shows.
fn rank<'a>(endpoint: &'a Endpoint, place: Place<'_>) -> impl Ord + 'a {
    (
        endpoint.is_on(place),
        endpoint.ready,
        fallback(endpoint),
        endpoint.serving,
        &endpoint.node_hints,
        &endpoint.zone_hints,
    )
}
