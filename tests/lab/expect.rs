//! Who may answer for a Service: behaviours 3, 4, 6 and 7 in one small place, written apart from the agent.
//!
//! It refuses to know topology hints and session affinity: both only choose among the endpoints expected here.
//! Invariant: an expectation depends on the objects, the node asked and where the client is, on nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::objects::{Objects, Protocol, Service, ServicePort};

/// What should come of a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One of these endpoints answers.
    OneOf(BTreeSet<SocketAddr>),
    /// Port unreachable (or RST).
    Refused,
    /// Silence.
    Silent,
}

/// Where a client is, as the node that translates sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Outside, or on another node.
    Outside,
    /// A Pod of that node.
    PodOfNode,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A cluster address.
    Cluster,
    /// A node address.
    NodePort,
}

/// The endpoints of one service port in one family, the usable ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    ready: BTreeMap<SocketAddr, Option<String>>,
    fallback: BTreeMap<SocketAddr, Option<String>>,
}

impl Endpoints {
    /// Collects the endpoints of a service port from all its slices.
    #[must_use]
    pub fn of(objects: &Objects, service: &Service, port: &ServicePort, v6: bool) -> Self {
        let mut all = Self::default();
        let slices = objects.slices.iter();
        for slice in
            slices.filter(|s| s.namespace == service.namespace && s.service == service.name)
        {
            let numbers = slice.ports.iter();
            for (_, _, number) in numbers.filter(|p| p.0 == port.name && p.1 == port.protocol) {
                for endpoint in slice.endpoints.iter().filter(|e| e.address.is_ipv6() == v6) {
                    let set = match (endpoint.ready, endpoint.fallback) {
                        (true, _) => &mut all.ready,
                        (_, true) => &mut all.fallback,
                        _ => continue,
                    };
                    // One endpoint in two slices counts once, and the entry that knows its node wins (2.10).
                    let node = set
                        .entry(SocketAddr::new(endpoint.address, *number))
                        .or_default();
                    *node = node.take().or_else(|| endpoint.node.clone());
                }
            }
        }
        all
    }

    /// All ready endpoints, or if there are none, those that leave but serve still (4.1).
    fn cluster(&self) -> BTreeSet<SocketAddr> {
        let set = if self.ready.is_empty() {
            &self.fallback
        } else {
            &self.ready
        };
        set.keys().copied().collect()
    }

    /// The same among those of one node (4.2).
    fn local(&self, node: &str) -> BTreeSet<SocketAddr> {
        let on_node = |set: &BTreeMap<SocketAddr, Option<String>>| -> BTreeSet<SocketAddr> {
            set.iter()
                .filter(|(_, on)| on.as_deref() == Some(node))
                .map(|(address, _)| *address)
                .collect()
        };
        let ready = on_node(&self.ready);
        if ready.is_empty() {
            on_node(&self.fallback)
        } else {
            ready
        }
    }

    /// What a client gets that asks at `node` (6.7, 7.1, 7.3).
    #[must_use]
    pub fn expected(
        &self,
        service: &Service,
        asked: Asked,
        node: &str,
        client: Client,
    ) -> Expected {
        let local = match asked {
            Asked::Cluster => service.internal_local,
            // A Pod of the node gets the cluster-wide set (7.1).
            Asked::NodePort => service.external_local && client == Client::Outside,
        };
        let cluster = self.cluster();
        let usable = if local {
            self.local(node)
        } else {
            cluster.clone()
        };
        match (usable.is_empty(), cluster.is_empty()) {
            (false, _) => Expected::OneOf(usable),
            (true, false) => Expected::Silent,
            (true, true) => Expected::Refused,
        }
    }
}

/// Which address of which node an endpoint's stand-in must have: every address once, with the node if any slice says it.
#[must_use]
pub fn endpoint_nodes(objects: &Objects) -> BTreeMap<IpAddr, Option<String>> {
    let mut nodes: BTreeMap<IpAddr, Option<String>> = BTreeMap::new();
    for endpoint in objects.slices.iter().flat_map(|slice| &slice.endpoints) {
        let node = nodes.entry(endpoint.address).or_default();
        *node = node.take().or_else(|| endpoint.node.clone());
    }
    nodes
}

/// Every address and port that any slice names for an endpoint that may be chosen, with its protocol.
#[must_use]
pub fn endpoint_sockets(objects: &Objects) -> BTreeSet<(SocketAddr, Protocol)> {
    let mut all = BTreeSet::new();
    for slice in &objects.slices {
        for endpoint in slice.endpoints.iter().filter(|e| e.ready || e.fallback) {
            let sockets = slice
                .ports
                .iter()
                .map(|(_, protocol, port)| (SocketAddr::new(endpoint.address, *port), *protocol));
            all.extend(sockets);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A NodePort Service, both policies Local if `policy` is so, with the given endpoint lines.
    fn objects(policy: &str, endpoints: &str) -> Objects {
        let mut objects = Objects::default();
        let text = format!(
            "kind: Service\nmetadata: {{name: s}}\nspec: {{type: NodePort, clusterIP: 10.96.0.1, \
             externalTrafficPolicy: {policy}, internalTrafficPolicy: {policy}, ports: [{{port: 80, nodePort: 30080}}]}}\n\
             ---\nkind: EndpointSlice\nmetadata: {{name: s-1, labels: {{kubernetes.io/service-name: s}}}}\n\
             addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{endpoints}]\n"
        );
        objects.parse(&text).expect("this is YAML");
        objects
    }

    fn expect(objects: &Objects, asked: Asked, node: &str, client: Client) -> Expected {
        let service = &objects.services[0];
        Endpoints::of(objects, service, &service.ports[0], false)
            .expected(service, asked, node, client)
    }

    fn one_of(list: &[&str]) -> Expected {
        Expected::OneOf(
            list.iter()
                .map(|a| a.parse().expect("an address"))
                .collect(),
        )
    }

    const TWO: &str =
        "{addresses: [10.244.1.11], nodeName: n1}, {addresses: [10.244.2.11], nodeName: n2}";

    #[test]
    fn cluster_policy_reaches_all_from_everywhere() {
        let objects = objects("Cluster", TWO);
        let both = one_of(&["10.244.1.11:8080", "10.244.2.11:8080"]);
        for asked in [Asked::Cluster, Asked::NodePort] {
            assert_eq!(expect(&objects, asked, "n3", Client::Outside), both);
            assert_eq!(expect(&objects, asked, "n1", Client::PodOfNode), both);
        }
    }

    #[test]
    fn local_policy_stays_on_the_node_but_for_its_pods() {
        let objects = objects("Local", TWO);
        let both = one_of(&["10.244.1.11:8080", "10.244.2.11:8080"]);
        assert_eq!(
            expect(&objects, Asked::NodePort, "n1", Client::Outside),
            one_of(&["10.244.1.11:8080"])
        );
        assert_eq!(
            expect(&objects, Asked::NodePort, "n3", Client::Outside),
            Expected::Silent
        );
        assert_eq!(
            expect(&objects, Asked::NodePort, "n3", Client::PodOfNode),
            both
        );
        assert_eq!(
            expect(&objects, Asked::Cluster, "n3", Client::PodOfNode),
            Expected::Silent
        );
    }

    #[test]
    fn leaving_endpoints_serve_only_if_none_is_ready() {
        let leaving = "{addresses: [10.244.1.11], nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}";
        let alone = objects("Cluster", leaving);
        assert_eq!(
            expect(&alone, Asked::Cluster, "n1", Client::PodOfNode),
            one_of(&["10.244.1.11:8080"])
        );
        let other = objects(
            "Cluster",
            &format!("{leaving}, {{addresses: [10.244.2.11], nodeName: n2}}"),
        );
        assert_eq!(
            expect(&other, Asked::Cluster, "n1", Client::PodOfNode),
            one_of(&["10.244.2.11:8080"])
        );
    }

    #[test]
    fn without_endpoints_connections_are_refused() {
        for policy in ["Cluster", "Local"] {
            let objects = objects(
                policy,
                "{addresses: [10.244.1.11], conditions: {ready: false}}",
            );
            assert_eq!(
                expect(&objects, Asked::NodePort, "n1", Client::Outside),
                Expected::Refused
            );
            assert_eq!(
                expect(&objects, Asked::Cluster, "n1", Client::PodOfNode),
                Expected::Refused
            );
        }
    }
}
