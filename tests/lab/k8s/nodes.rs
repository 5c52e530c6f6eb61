//! The lab's nodes as Node objects.
//!
//! Invariant: what a Node says of addresses, Pod networks and zone is what the lab has.

use anyhow::Result;
use serde_json::{Value, json};

use super::api::Api;
use super::control::Kubelets;
use crate::lab::{Lab, Node};
use crate::spec::NodeSpec;

/// Creates a Node for each node of the lab; ready and without taints if its kubelet is a stand-in, which reports none.
///
/// # Errors
/// If the API server refuses one.
pub fn create(lab: &Lab, api: &Api, kubelets: Kubelets) -> Result<()> {
    for (spec, node) in lab.spec.nodes.iter().zip(&lab.nodes) {
        let mut object = object(lab, spec, node);
        if kubelets == Kubelets::Real {
            object["status"] = Value::Null;
        }
        api.post("/api/v1/nodes", &object)?;
        if kubelets == Kubelets::Real {
            continue;
        }
        // Admission taints new Nodes as not ready, and no controller runs that would remove it.
        let path = format!("/api/v1/nodes/{}", node.name);
        api.patch(&path, &json!({"spec": {"taints": null}}))?;
    }
    Ok(())
}

fn object(lab: &Lab, spec: &NodeSpec, node: &Node) -> Value {
    let name = &node.name;
    let cidrs: Vec<_> = spec
        .pod_cidrs
        .iter()
        .filter(|cidr| lab.spec.uses(cidr.addr()))
        .map(ToString::to_string)
        .collect();
    let addresses = node.addresses.iter().flatten();
    let mut addresses: Vec<_> = addresses
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": name}));
    let mut labels = json!({
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    });
    if let Some(zone) = &spec.zone {
        labels["topology.kubernetes.io/zone"] = json!(zone);
    }
    let room = json!({"cpu": "16", "memory": "64Gi", "pods": "250", "ephemeral-storage": "100Gi"});
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
        "status": {
            "capacity": room,
            "allocatable": room,
            "addresses": addresses,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "a stand-in is ready",
                "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
            "nodeInfo": {
                "machineID": name, "systemUUID": name, "bootID": name, "kernelVersion": "", "osImage": "a network namespace",
                "containerRuntimeVersion": "lab://1", "kubeletVersion": "v0.0.0-lab", "kubeProxyVersion": "",
                "operatingSystem": "linux", "architecture": "amd64",
            },
        },
    })
}
