//! The Services that every candidate carries, as objects and as what rules are made of.
//!
//! Pure. Service 0 is the one that is measured: a `NodePort` (with three endpoints, if its flows need no more). The others are `ClusterIP` Services with as many, TCP port 80.
//! Invariant: two sets of the same shape are equal, so that all candidates have the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};

use crate::stage::{BACKEND_PORT, ENDPOINTS, NODE_PORT, backend};

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Number of Services, at least 1.
    pub(crate) services: u32,
    /// Endpoints of each Service but the first.
    pub(crate) endpoints: u32,
    /// Endpoints of the first Service: as many as its flows need, since a port is taken for each flow to an endpoint.
    pub(crate) measured: u8,
    /// Whether the endpoints of the first Service are on this node.
    pub(crate) local: bool,
    /// Family.
    pub(crate) v6: bool,
    /// Protocol of the first Service: `UDP` or `TCP`.
    pub(crate) protocol: &'static str,
}

/// One Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Name, unique.
    pub(crate) name: String,
    /// Cluster address and port.
    pub(crate) cluster: SocketAddr,
    /// `NodePort`, if it is one.
    pub(crate) node_port: Option<u16>,
    /// `UDP` or `TCP`.
    pub(crate) protocol: &'static str,
    /// Its endpoints.
    pub(crate) endpoints: Vec<SocketAddr>,
}

impl Shape {
    /// All Services.
    pub(crate) fn services(&self) -> Vec<Service> {
        (0..self.services)
            .map(|number| self.service(number))
            .collect()
    }

    fn service(&self, number: u32) -> Service {
        let endpoints = if number == 0 {
            (0..self.measured)
                .map(|index| backend(self.v6, self.local, index))
                .collect()
        } else {
            (0..self.endpoints)
                .map(|index| self.filler(number * self.endpoints + index))
                .collect()
        };
        Service {
            name: format!("s{number}"),
            cluster: SocketAddr::new(self.cluster_address(number), 80),
            node_port: (number == 0).then_some(NODE_PORT),
            protocol: if number == 0 { self.protocol } else { "TCP" },
            endpoints,
        }
    }

    /// The first addresses are the API server's own.
    fn cluster_address(&self, number: u32) -> IpAddr {
        if self.v6 {
            let low = u128::from(number) + 0x101;
            return Ipv6Addr::from(0xfd00_0010_0096_0000_0000_0000_0000_0000 | low).into();
        }
        Ipv4Addr::from(0x0a60_0101 + number).into()
    }

    /// Endpoints of the others are somewhere in 10.128.0.0/10.
    fn filler(&self, number: u32) -> SocketAddr {
        let address = if self.v6 {
            let low = u128::from(number) + 1;
            Ipv6Addr::from(0xfd00_0010_0128_0000_0000_0000_0000_0000 | low).into()
        } else {
            Ipv4Addr::from(0x0a80_0001 + number).into()
        };
        SocketAddr::new(address, BACKEND_PORT)
    }
}

/// The objects of an API server: two Nodes, the Services, a slice for each 100 endpoints of a Service, as the endpoint slice controller makes them.
pub(crate) fn manifest(services: &[Service]) -> Value {
    let mut items = vec![
        node("node", "192.168.88.11", "fd00:88::11"),
        node("n2", "192.168.99.12", "fd00:99::12"),
    ];
    for service in services {
        items.push(service_object(service));
        items.extend(
            (0_u32..)
                .zip(service.endpoints.chunks(100))
                .map(|(n, part)| slice(service, n, part)),
        );
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn node(name: &str, v4: &str, v6: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"addresses": [
            {"type": "InternalIP", "address": v4},
            {"type": "InternalIP", "address": v6},
        ]},
    })
}

fn service_object(service: &Service) -> Value {
    let mut port = json!({
        "name": "p", "protocol": service.protocol, "port": service.cluster.port(), "targetPort": BACKEND_PORT,
    });
    if let Some(node_port) = service.node_port {
        port["nodePort"] = json!(node_port);
    }
    let address = service.cluster.ip();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": service.name, "namespace": "bench"},
        "spec": {
            "type": if service.node_port.is_some() { "NodePort" } else { "ClusterIP" },
            "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": [if address.is_ipv6() { "IPv6" } else { "IPv4" }],
            "ports": [port],
        },
    })
}

/// One `EndpointSlice` of a Service.
pub(crate) fn slice(service: &Service, number: u32, endpoints: &[SocketAddr]) -> Value {
    let endpoint = |endpoint: &SocketAddr| {
        let local =
            (0..ENDPOINTS).any(|index| backend(endpoint.is_ipv6(), true, index) == *endpoint);
        json!({
            "addresses": [endpoint.ip()],
            "nodeName": if local { "node" } else { "n2" },
            "conditions": {"ready": true},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{number}", service.name), "namespace": "bench",
            "labels": {"kubernetes.io/service-name": service.name},
        },
        "addressType": if service.cluster.is_ipv6() { "IPv6" } else { "IPv4" },
        "ports": [{"name": "p", "protocol": service.protocol, "port": BACKEND_PORT}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        services: 3,
        endpoints: 150,
        measured: 3,
        local: false,
        v6: false,
        protocol: "UDP",
    };

    #[test]
    fn the_first_service_is_the_one_that_is_measured() {
        let services = SHAPE.services();
        assert_eq!(services[0].node_port, Some(30080));
        assert_eq!(services[0].endpoints[2].to_string(), "10.244.2.12:8080");
        assert_eq!(services[2].cluster.to_string(), "10.96.1.3:80");
        assert_eq!(
            (services[2].node_port, services[2].endpoints.len()),
            (None, 150)
        );
    }

    #[test]
    fn slices_hold_a_hundred_endpoints_and_none_is_twice() {
        let services = SHAPE.services();
        let manifest = manifest(&services);
        let items = manifest["items"].as_array().unwrap();
        // Two Nodes; a Service with one slice; two Services with two slices each.
        assert_eq!(items.len(), 2 + 2 + 3 + 3);
        let mut all: Vec<_> = services.iter().flat_map(|s| s.endpoints.clone()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 303);
    }
}
