//! Objects for tests, made in a line each and written as one file that agents watch.
//!
//! `manifest.service("web").node_port(30080, 8080).endpoints(&lab, lab.pods())`. The Nodes of the lab are in it by
//! themselves. Invariant: a file is replaced as a whole, never seen half written.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::addresses;
use crate::lab::{Lab, Pod};

/// A list of objects.
#[derive(Clone, Debug)]
pub struct Manifest {
    path: PathBuf,
    nodes: Vec<Value>,
    services: Vec<ServiceDraft>,
    families: [bool; 2],
}

/// A Service and its endpoints, being written down.
#[derive(Clone, Debug)]
pub struct ServiceDraft {
    name: String,
    number: u16,
    kind: &'static str,
    policies: [&'static str; 2],
    ports: Vec<Value>,
    slice_ports: Vec<Value>,
    endpoints: Vec<DraftEndpoint>,
    /// Further fields of `spec` and of `status`.
    more: [Map<String, Value>; 2],
}

#[derive(Clone, Debug)]
struct DraftEndpoint {
    addresses: Vec<IpAddr>,
    node: String,
    conditions: Value,
}

impl Manifest {
    /// The Nodes of a lab, no Services yet; to be written as `objects.json` in the lab's directory.
    #[must_use]
    pub fn new(lab: &Lab) -> Self {
        Self {
            path: lab.dir().join("objects.json"),
            nodes: nodes(lab),
            services: Vec::new(),
            families: lab.spec.families,
        }
    }

    /// Adds or replaces a Service. Its cluster addresses end in a number that is its own in this manifest.
    pub fn service(&mut self, name: &str) -> &mut ServiceDraft {
        let known = self
            .services
            .iter()
            .position(|service| service.name == name);
        let number = known.unwrap_or(self.services.len()) as u16 + 1;
        let draft = ServiceDraft::new(name, number);
        match known {
            Some(index) => self.services[index] = draft,
            None => self.services.push(draft),
        }
        let index = usize::from(number) - 1;
        &mut self.services[index]
    }

    /// The cluster address of a Service.
    ///
    /// # Panics
    /// If there is no such Service.
    #[must_use]
    pub fn cluster_ip(&self, name: &str, v6: bool) -> IpAddr {
        let service = self.services.iter().find(|service| service.name == name);
        service
            .unwrap_or_else(|| panic!("no Service {name}"))
            .cluster_ips()[usize::from(v6)]
    }

    /// Writes the file and says where it is.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self) -> Result<PathBuf> {
        let services = self
            .services
            .iter()
            .flat_map(|service| service.objects(self.families));
        let items: Vec<_> = self.nodes.iter().cloned().chain(services).collect();
        write_whole(
            &self.path,
            &json!({"apiVersion": "v1", "kind": "List", "items": items}),
        )?;
        Ok(self.path.clone())
    }
}

/// The Node objects of a lab.
#[must_use]
pub fn nodes(lab: &Lab) -> Vec<Value> {
    let node = |node: &crate::spec::NodeSpec| {
        let used = |address: &&IpAddr| lab.spec.uses(**address);
        let addresses = node.addresses.iter().filter(used);
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": node.name,
                "labels": {"topology.kubernetes.io/zone": node.zone},
            },
            "spec": {"podCIDRs": node.pod_cidrs.iter().filter(|c| lab.spec.uses(c.addr())).collect::<Vec<_>>()},
            "status": {
                "addresses": addresses.map(|a| json!({"type": "InternalIP", "address": a})).collect::<Vec<_>>(),
            },
        })
    };
    lab.spec.nodes.iter().map(node).collect()
}

/// Writes a file beside its place and moves it there.
///
/// # Errors
/// If it cannot be written.
pub fn write_whole(path: &Path, value: &Value) -> Result<()> {
    // The name has no known ending, so that a watcher of the directory does not read it.
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec_pretty(value)?)
        .with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("replace {}", path.display()))
}

impl ServiceDraft {
    fn new(name: &str, number: u16) -> Self {
        Self {
            name: name.to_owned(),
            number,
            kind: "ClusterIP",
            policies: ["Cluster", "Cluster"],
            ports: Vec::new(),
            slice_ports: Vec::new(),
            endpoints: Vec::new(),
            more: Default::default(),
        }
    }

    /// A TCP port `port` of the cluster addresses, served at `target`.
    pub fn port(&mut self, port: u16, target: u16) -> &mut Self {
        self.add_port("TCP", port, None, target)
    }

    /// A UDP port of the cluster addresses.
    pub fn udp_port(&mut self, port: u16, target: u16) -> &mut Self {
        self.add_port("UDP", port, None, target)
    }

    /// A TCP node port; the port of the cluster addresses is `target` too.
    pub fn node_port(&mut self, node_port: u16, target: u16) -> &mut Self {
        self.add_port("TCP", target, Some(node_port), target)
    }

    /// A UDP node port.
    pub fn udp_node_port(&mut self, node_port: u16, target: u16) -> &mut Self {
        self.add_port("UDP", target, Some(node_port), target)
    }

    /// `externalTrafficPolicy: Local`.
    pub fn external_local(&mut self) -> &mut Self {
        self.policies[0] = "Local";
        self
    }

    /// `internalTrafficPolicy: Local`.
    pub fn internal_local(&mut self) -> &mut Self {
        self.policies[1] = "Local";
        self
    }

    /// `sessionAffinity: ClientIP`, with its timeout in seconds.
    pub fn sticky(&mut self, secs: u32) -> &mut Self {
        let [spec, _] = &mut self.more;
        spec.insert("sessionAffinity".to_owned(), json!("ClientIP"));
        let config = json!({"clientIP": {"timeoutSeconds": secs}});
        spec.insert("sessionAffinityConfig".to_owned(), config);
        self
    }

    /// A load balancer with these addresses, which only these networks may use.
    pub fn load_balancer(&mut self, addresses: &[IpAddr], ranges: &[String]) -> &mut Self {
        self.kind = "LoadBalancer";
        let [spec, status] = &mut self.more;
        spec.insert("loadBalancerSourceRanges".to_owned(), json!(ranges));
        let ingress: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        status.insert("loadBalancer".to_owned(), json!({"ingress": ingress}));
        self
    }

    /// Ready endpoints: these Pods.
    pub fn endpoints<'a>(
        &mut self,
        lab: &Lab,
        pods: impl IntoIterator<Item = &'a Pod>,
    ) -> &mut Self {
        for pod in pods {
            let node = lab
                .nodes
                .iter()
                .find(|n| n.pods.iter().any(|p| p.spec.name == pod.spec.name));
            let node = node.map(|node| node.name.clone()).unwrap_or_default();
            self.endpoint(&pod.spec.addresses, &node, &json!({"ready": true}));
        }
        self
    }

    /// An endpoint with these addresses (one of each family), node and conditions.
    pub fn endpoint(&mut self, addresses: &[IpAddr], node: &str, conditions: &Value) -> &mut Self {
        self.endpoints.push(DraftEndpoint {
            addresses: addresses.to_vec(),
            node: node.to_owned(),
            conditions: conditions.clone(),
        });
        self
    }

    /// The cluster addresses: `10.96.1.N`, and `fd00:10:96::` plus 256 and N.
    fn cluster_ips(&self) -> [IpAddr; 2] {
        let [v4, v6] = addresses::service_cidrs().map(|cidr| cidr.network());
        match (v4, v6) {
            (IpAddr::V4(v4), IpAddr::V6(v6)) => [
                IpAddr::V4((u32::from(v4) + 256 + u32::from(self.number)).into()),
                IpAddr::V6((u128::from(v6) + 256 + u128::from(self.number)).into()),
            ],
            _ => [v4, v6],
        }
    }

    fn add_port(
        &mut self,
        protocol: &str,
        port: u16,
        node_port: Option<u16>,
        target: u16,
    ) -> &mut Self {
        let name = format!("{}-{}", protocol.to_lowercase(), node_port.unwrap_or(port));
        if node_port.is_some() {
            self.kind = "NodePort";
        }
        self.ports.push(json!({"name": name, "protocol": protocol, "port": port, "nodePort": node_port, "targetPort": target}));
        self.slice_ports
            .push(json!({"name": name, "protocol": protocol, "port": target}));
        self
    }

    fn objects(&self, families: [bool; 2]) -> Vec<Value> {
        let used: Vec<usize> = [0, 1]
            .into_iter()
            .filter(|family| families[*family])
            .collect();
        let ips: Vec<_> = used
            .iter()
            .map(|family| self.cluster_ips()[*family])
            .collect();
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": "test", "name": self.name},
            "spec": {
                "type": self.kind,
                "clusterIP": ips.first(),
                "clusterIPs": ips,
                "ipFamilies": used.iter().map(|family| ["IPv4", "IPv6"][*family]).collect::<Vec<_>>(),
                "externalTrafficPolicy": self.policies[0],
                "internalTrafficPolicy": self.policies[1],
                "ports": self.ports,
            },
        });
        let [spec, status] = &self.more;
        for (field, value) in spec {
            service["spec"][field] = value.clone();
        }
        service["status"] = Value::Object(status.clone());
        let slices = used.iter().map(|family| self.slice(*family));
        std::iter::once(service).chain(slices).collect()
    }

    fn slice(&self, family: usize) -> Value {
        let endpoints = self.endpoints.iter().filter_map(|endpoint| {
            let address = endpoint.addresses.iter().find(|a| usize::from(a.is_ipv6()) == family)?;
            let node = Some(&endpoint.node).filter(|name| !name.is_empty());
            Some(json!({"addresses": [address], "nodeName": node, "conditions": endpoint.conditions}))
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "test",
                "name": format!("{}-v{}", self.name, [4, 6][family]),
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": (["IPv4", "IPv6"][family]),
            "ports": self.slice_ports,
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    }
}
