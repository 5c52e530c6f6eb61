//! A user's objects, as far as the lab needs them: Services, EndpointSlices and Nodes.
//!
//! Read on purpose without the agent's model: what the lab expects must not come from the code under test.
//! Invariant: null, absent and empty are alike, and an object that cannot be read is counted, not fatal.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::Value;

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: never tried, there are no sockets for it on many kernels.
    Sctp,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, empty if it has none.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the cluster address.
    pub port: u16,
    /// Port of the node addresses, if any.
    pub node_port: Option<u16>,
}

/// A Service that a service proxy has to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Cluster addresses; a Service is served in the families that these are of.
    pub cluster_ips: Vec<IpAddr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its first address.
    pub address: IpAddr,
    /// Node it is on, if the slice says.
    pub node: Option<String>,
    /// Takes new connections.
    pub ready: bool,
    /// Leaves, but serves still: used if no endpoint is ready.
    pub fallback: bool,
}

/// A slice of endpoints of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Namespace.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Port names, protocols and numbers.
    pub ports: Vec<(String, Protocol, u16)>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: String,
    /// `InternalIP` addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Networks of its Pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Services that are served.
    pub services: Vec<Service>,
    /// Their slices.
    pub slices: Vec<Slice>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Services that are not served, by reason.
    pub not_served: BTreeMap<&'static str, usize>,
    /// Objects that could not be read.
    pub unreadable: usize,
}

impl Objects {
    /// Reads files and directories of YAML or JSON.
    ///
    /// # Errors
    /// If a file cannot be opened or is not YAML at all.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut objects = Self::default();
        for file in paths
            .iter()
            .map(|path| files(path))
            .collect::<Result<Vec<_>>>()?
            .iter()
            .flatten()
        {
            let text =
                fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            objects
                .parse(&text)
                .with_context(|| format!("read {}", file.display()))?;
        }
        Ok(objects)
    }

    /// Reads one text of YAML documents; JSON is YAML.
    ///
    /// # Errors
    /// If it is not YAML.
    pub fn parse(&mut self, text: &str) -> Result<()> {
        let documents: Vec<Value> = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map(|value| vec![value])?
        } else {
            serde_saphyr::from_multiple(text).map_err(|error| anyhow::anyhow!("{error}"))?
        };
        for document in &documents {
            self.take(document);
        }
        Ok(())
    }

    fn take(&mut self, object: &Value) {
        match text(object, "/kind").unwrap_or_default() {
            kind if kind.ends_with("List") => {
                list(object, "/items").for_each(|item| self.take(item));
            }
            "Service" => self.take_service(object),
            "EndpointSlice"
                if text(object, "/metadata/labels/service.kubernetes.io~1headless").is_none() =>
            {
                let slice = read_slice(object);
                if !slice.service.is_empty() {
                    self.slices.push(slice);
                }
            }
            "Node" => match read_node(object) {
                Some(node) => self.nodes.push(node),
                None => self.unreadable += 1,
            },
            _ => {}
        }
    }

    fn take_service(&mut self, object: &Value) {
        let cluster_ip = text(object, "/spec/clusterIP").unwrap_or_default();
        let proxy = "/metadata/labels/service.kubernetes.io~1service-proxy-name";
        let reason = if text(object, "/spec/type") == Some("ExternalName") {
            Some("ExternalName")
        } else if cluster_ip.is_empty() || cluster_ip == "None" {
            Some("headless")
        } else if object.pointer(proxy).is_some() {
            Some("for another proxy")
        } else {
            None
        };
        match (reason, read_service(object)) {
            (Some(reason), _) => *self.not_served.entry(reason).or_default() += 1,
            (None, Some(service)) => self.services.push(service),
            (None, None) => self.unreadable += 1,
        }
    }
}

/// The files that a path stands for, in order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
    let mut all: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    all.retain(|file| {
        file.extension()
            .is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known))
    });
    all.sort();
    Ok(all)
}

fn read_service(object: &Value) -> Option<Service> {
    let mut cluster_ips: Vec<IpAddr> = list(object, "/spec/clusterIPs")
        .map(|ip| ip.as_str()?.parse().ok())
        .collect::<Option<_>>()?;
    if cluster_ips.is_empty() {
        cluster_ips.push(text(object, "/spec/clusterIP")?.parse().ok()?);
    }
    let ports = list(object, "/spec/ports").map(|port| {
        let node_port = number(port, "/nodePort").filter(|number| *number != 0);
        Some(ServicePort {
            name: text(port, "/name").unwrap_or_default().to_owned(),
            protocol: protocol(port)?,
            port: number(port, "/port")?,
            node_port,
        })
    });
    let exposed = matches!(
        text(object, "/spec/type"),
        Some("NodePort" | "LoadBalancer")
    );
    let local = |field: &str| text(object, field) == Some("Local");
    Some(Service {
        namespace: text(object, "/metadata/namespace")
            .unwrap_or("default")
            .to_owned(),
        name: text(object, "/metadata/name")?.to_owned(),
        cluster_ips,
        ports: ports.collect::<Option<_>>()?,
        external_local: exposed && local("/spec/externalTrafficPolicy"),
        internal_local: local("/spec/internalTrafficPolicy"),
    })
}

fn read_slice(object: &Value) -> Slice {
    let of_family = |address: &IpAddr| match text(object, "/addressType") {
        Some("IPv4") => address.is_ipv4(),
        Some("IPv6") => address.is_ipv6(),
        _ => false,
    };
    let ports = list(object, "/ports").filter_map(|port| {
        let number = number(port, "/port").filter(|number| *number != 0)?;
        Some((
            text(port, "/name").unwrap_or_default().to_owned(),
            protocol(port)?,
            number,
        ))
    });
    let endpoints = list(object, "/endpoints").filter_map(|endpoint| {
        let address: IpAddr = list(endpoint, "/addresses")
            .next()?
            .as_str()?
            .parse()
            .ok()?;
        let condition = |name: &str| endpoint.pointer(&format!("/conditions/{name}"))?.as_bool();
        let ready = condition("ready").unwrap_or(true);
        let leaving = condition("terminating").unwrap_or(false);
        Some(Endpoint {
            address,
            node: text(endpoint, "/nodeName").map(str::to_owned),
            ready,
            fallback: !ready && leaving && condition("serving").unwrap_or(true),
        })
    });
    Slice {
        namespace: text(object, "/metadata/namespace")
            .unwrap_or("default")
            .to_owned(),
        service: text(object, "/metadata/labels/kubernetes.io~1service-name")
            .unwrap_or_default()
            .to_owned(),
        ports: ports.collect(),
        endpoints: endpoints
            .filter(|endpoint| of_family(&endpoint.address))
            .collect(),
    }
}

fn read_node(object: &Value) -> Option<Node> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for entry in list(object, "/status/addresses") {
        let Some(address) = text(entry, "/address").and_then(|text| text.parse::<IpAddr>().ok())
        else {
            continue;
        };
        let first = !addresses
            .iter()
            .any(|known| known.is_ipv4() == address.is_ipv4());
        if text(entry, "/type") == Some("InternalIP") && first {
            addresses.push(address);
        }
    }
    let mut pod_cidrs: Vec<IpNet> = list(object, "/spec/podCIDRs")
        .filter_map(|cidr| cidr.as_str()?.parse().ok())
        .collect();
    if pod_cidrs.is_empty() {
        pod_cidrs.extend(text(object, "/spec/podCIDR").and_then(|cidr| cidr.parse::<IpNet>().ok()));
    }
    let zone = text(object, "/metadata/labels/topology.kubernetes.io~1zone").map(str::to_owned);
    Some(Node {
        name: text(object, "/metadata/name")?.to_owned(),
        addresses,
        pod_cidrs,
        zone,
    })
}

fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer)?.as_str()
}

fn number(object: &Value, pointer: &str) -> Option<u16> {
    object
        .pointer(pointer)?
        .as_u64()
        .and_then(|number| u16::try_from(number).ok())
}

fn list<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn protocol(port: &Value) -> Option<Protocol> {
    match text(port, "/protocol") {
        None | Some("TCP" | "") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "
apiVersion: v1
kind: List
items:
- kind: Service
  metadata: {name: web, namespace: shop}
  spec: {type: NodePort, clusterIP: 10.96.0.1, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]}
- kind: Service
  metadata: {name: none}
  spec: {clusterIP: None, ports: null}
- kind: EndpointSlice
  metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  ports: [{port: 8080}, {name: x, port: null}]
  endpoints:
  - {addresses: [10.244.1.11], nodeName: n1}
  - {addresses: [10.244.1.12], conditions: {ready: false, serving: true, terminating: true}}
  - {addresses: [10.244.1.13], conditions: {ready: false}}
  - {addresses: []}
- kind: EndpointSlice
  metadata: {name: web-2, namespace: shop, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  ports: null
  endpoints: null
---
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}
spec: {podCIDR: 10.244.1.0/24}
status: {addresses: [{type: InternalIP, address: 192.168.88.11}, {type: Hostname, address: n1}]}
---
kind: Deployment
metadata: {name: ignored}
";

    #[test]
    fn a_list_of_objects_is_read() {
        let mut objects = Objects::default();
        objects.parse(LIST).expect("this is YAML");
        assert_eq!(objects.services.len(), 1);
        let service = &objects.services[0];
        assert!(service.external_local && !service.internal_local);
        assert_eq!(service.ports[0].node_port, Some(30080));
        assert_eq!(objects.not_served.get("headless"), Some(&1));
        assert_eq!(objects.slices.len(), 2);
        let slice = &objects.slices[0];
        assert_eq!(slice.ports, [(String::new(), Protocol::Tcp, 8080)]);
        let states: Vec<_> = slice
            .endpoints
            .iter()
            .map(|e| (e.ready, e.fallback))
            .collect();
        assert_eq!(states, [(true, false), (false, true), (false, false)]);
        assert_eq!(objects.nodes[0].pod_cidrs[0].to_string(), "10.244.1.0/24");
        assert_eq!(objects.nodes[0].zone.as_deref(), Some("a"));
        assert_eq!(objects.unreadable, 0);
    }
}
