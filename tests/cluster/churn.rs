//! Random creation, change and deletion of Services and EndpointSlices, in a namespace of their own.
//!
//! Owns what may happen to them, and remembers which there are. Refuses to know agents. Invariant: two runs with the same seed ask for the
//! same things in the same order.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use fastrand::Rng;
use nodeport_tests::k8s::api::{Api, unless_conflicting};
use serde_json::{Value, json};

/// The namespace; everything in it is of [`Churn`].
pub(crate) const NAMESPACE: &str = "soak";
/// Names of Services.
const NUMBERS: u32 = 400;
/// How many slices a Service has at most.
const SLICES: u32 = 3;

/// The objects.
pub(crate) struct Churn {
    api: Api,
    rng: Rng,
    nodes: Vec<String>,
    /// The Services that there are; their slices may outlive them, or come before them.
    services: BTreeSet<u32>,
    /// The family of each slice that there is.
    slices: BTreeMap<(u32, u32), bool>,
}

impl Churn {
    /// In a new namespace; endpoints are said to be on these nodes.
    pub(crate) fn new(api: Api, nodes: &[&str], seed: u64) -> Result<Self> {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        api.post("/api/v1/namespaces", &namespace)?;
        Ok(Self {
            api,
            rng: Rng::with_seed(seed),
            nodes: nodes.iter().map(ToString::to_string).collect(),
            services: BTreeSet::new(),
            slices: BTreeMap::new(),
        })
    }

    /// Asks with other connections from now on: the API server is another one.
    pub(crate) fn reconnect(&mut self, api: Api) {
        self.api = api;
    }

    /// How many Services and slices there are.
    pub(crate) fn population(&self) -> (usize, usize) {
        (self.services.len(), self.slices.len())
    }

    /// One request: something comes, changes or goes.
    pub(crate) fn step(&mut self) -> Result<()> {
        let number = self.rng.u32(0..NUMBERS);
        let is_there = self.services.contains(&number);
        match self.rng.u8(0..10) {
            0 | 1 if is_there => self.delete_service(number),
            // Three of four come to be there.
            0..=5 if !is_there => self.create_service(number),
            2..=4 => self.change_service(number),
            _ => {
                let slice = (number, self.rng.u32(0..SLICES));
                match self.slices.get(&slice).copied() {
                    None => self.create_slice(slice),
                    Some(_) if self.rng.u8(0..5) == 0 => self.delete_slice(slice),
                    Some(v6) => self.change_slice(slice, v6),
                }
            }
        }
    }

    /// A Service comes and goes, so that agents have something to write.
    pub(crate) fn nudge(&mut self) -> Result<()> {
        self.create_service(NUMBERS)?;
        self.delete_service(NUMBERS)
    }

    /// Removes everything.
    pub(crate) fn clear(&mut self) -> Result<()> {
        while let Some(number) = self.services.first().copied() {
            self.delete_service(number)?;
        }
        while let Some((slice, _)) = self.slices.first_key_value() {
            self.delete_slice(*slice)?;
        }
        Ok(())
    }

    fn create_service(&mut self, number: u32) -> Result<()> {
        let spec = self.spec(number);
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": service_name(number)},
            "spec": spec,
        });
        unless_conflicting(self.api.post(&services(), &object))?;
        self.services.insert(number);
        Ok(())
    }

    fn change_service(&mut self, number: u32) -> Result<()> {
        let ports = self.ports();
        let mut patch = json!([{"$patch": "replace"}]);
        if let (Some(all), Some(ports)) = (patch.as_array_mut(), ports.as_array()) {
            all.extend(ports.iter().cloned());
        }
        let patch = json!({"spec": {
            "ports": patch,
            "internalTrafficPolicy": self.policy(),
            "sessionAffinity": self.affinity(),
        }});
        let path = format!("{}/{}", services(), service_name(number));
        unless_conflicting(self.api.patch(&path, &patch)).map(drop)
    }

    fn delete_service(&mut self, number: u32) -> Result<()> {
        let path = format!("{}/{}", services(), service_name(number));
        unless_conflicting(self.api.delete(&path, &json!({})))?;
        self.services.remove(&number);
        Ok(())
    }

    fn spec(&mut self, number: u32) -> Value {
        let exposed = number.is_multiple_of(2);
        let mut spec = json!({
            "type": if exposed { "NodePort" } else { "ClusterIP" },
            "ipFamilyPolicy": if self.rng.bool() { "SingleStack" } else { "RequireDualStack" },
            "ports": self.ports(),
            "internalTrafficPolicy": self.policy(),
            "sessionAffinity": self.affinity(),
        });
        if exposed {
            spec["externalTrafficPolicy"] = self.policy();
        }
        spec
    }

    /// One to three ports, the first of them TCP.
    fn ports(&mut self) -> Value {
        let count = self.rng.u16(1..4);
        let port = |index: u16| {
            let protocol = if index == 1 { "UDP" } else { "TCP" };
            json!({"name": port_name(index), "protocol": protocol, "port": 80 + index, "targetPort": 8080})
        };
        (0..count).map(port).collect()
    }

    fn policy(&mut self) -> Value {
        json!(if self.rng.u8(0..4) == 0 {
            "Local"
        } else {
            "Cluster"
        })
    }

    fn affinity(&mut self) -> Value {
        json!(if self.rng.u8(0..4) == 0 {
            "ClientIP"
        } else {
            "None"
        })
    }

    fn create_slice(&mut self, slice: (u32, u32)) -> Result<()> {
        let v6 = self.rng.u8(0..3) == 0;
        let mut object = self.content(slice.1, v6);
        object["apiVersion"] = json!("discovery.k8s.io/v1");
        object["kind"] = json!("EndpointSlice");
        object["addressType"] = json!(if v6 { "IPv6" } else { "IPv4" });
        object["metadata"] = json!({
            "name": slice_name(slice),
            "labels": {"kubernetes.io/service-name": service_name(slice.0)},
        });
        unless_conflicting(self.api.post(&slices(), &object))?;
        self.slices.insert(slice, v6);
        Ok(())
    }

    fn change_slice(&mut self, slice: (u32, u32), v6: bool) -> Result<()> {
        let content = self.content(slice.1, v6);
        let path = format!("{}/{}", slices(), slice_name(slice));
        unless_conflicting(self.api.patch(&path, &content)).map(drop)
    }

    fn delete_slice(&mut self, slice: (u32, u32)) -> Result<()> {
        let path = format!("{}/{}", slices(), slice_name(slice));
        unless_conflicting(self.api.delete(&path, &json!({})))?;
        self.slices.remove(&slice);
        Ok(())
    }

    /// Up to seven endpoints, ready or not or about to leave, and ports of which one may be missing.
    fn content(&mut self, slice: u32, v6: bool) -> Value {
        let target = 8080 + self.rng.u16(0..2);
        let mut ports = Vec::new();
        for index in 0..3 {
            if self.rng.u8(0..8) != 0 {
                let protocol = if index == 1 { "UDP" } else { "TCP" };
                ports.push(
                    json!({"name": port_name(index), "protocol": protocol, "port": target + index}),
                );
            }
        }
        let count = self.rng.usize(0..8);
        // Beyond the lab's Pods, so that nobody is there; and in one slice only, as one that is in two with other conditions has no meaning.
        let first = 100 + 50 * slice;
        let hosts = self.rng.choose_multiple(first..first + 50, count);
        let endpoints: Vec<_> = hosts
            .into_iter()
            .map(|host| self.endpoint(host, v6))
            .collect();
        json!({"ports": ports, "endpoints": endpoints})
    }

    fn endpoint(&mut self, host: u32, v6: bool) -> Value {
        let node = self.rng.usize(0..self.nodes.len());
        let network = node + 1;
        let address = if v6 {
            format!("fd00:10:244:{network}::{host}")
        } else {
            format!("10.244.{network}.{host}")
        };
        let conditions = match self.rng.u8(0..6) {
            0 => json!({"ready": false, "serving": false, "terminating": false}),
            1 => json!({"ready": false, "serving": true, "terminating": true}),
            2 => json!({}),
            _ => json!({"ready": true, "serving": true, "terminating": false}),
        };
        json!({"addresses": [address], "nodeName": self.nodes[node], "conditions": conditions})
    }
}

fn services() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/services")
}

fn slices() -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")
}

fn service_name(number: u32) -> String {
    format!("s{number}")
}

fn slice_name((service, slice): (u32, u32)) -> String {
    format!("s{service}-{slice}")
}

fn port_name(index: u16) -> String {
    format!("p{index}")
}
