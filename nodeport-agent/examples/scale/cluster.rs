//! A cluster that is made up: Services with a ClusterIP and a NodePort, their slices, and the own Node.
//!
//! Owns the form of the objects, as an API server prints them. It refuses to know what is measured. Invariant: the same numbers
//! make the same objects.

use serde_json::{Value, json};

/// Endpoints in one slice, as the controller of EndpointSlices fills them.
const SLICE: usize = 100;
/// Nodes that endpoints are on, in turn. The first one is ours.
const NODES: usize = 50;

/// The name of our node.
pub(crate) const NODE: &str = "node-00";

/// Our Node.
pub(crate) fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE, "uid": uid(0), "labels": {"topology.kubernetes.io/zone": "zone-a"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    })
}

/// A Service. 12,000 NodePorts fit beside each other; further Services have none.
pub(crate) fn service(index: usize) -> Value {
    let [_, b, c, d] = (index as u32 + 1).to_be_bytes();
    let ip = format!("10.{}.{c}.{d}", 96 + b);
    let mut port = json!({"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080});
    if index < 12_000 {
        port["nodePort"] = json!(20_000 + index);
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name(index), "namespace": namespace(index), "uid": uid(index),
            "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"app": name(index)},
        },
        "spec": {
            "type": if index < 12_000 { "NodePort" } else { "ClusterIP" },
            "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "selector": {"app": name(index)}, "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
            "ports": [port],
        },
        "status": {"loadBalancer": {}},
    })
}

/// The slices of a Service. `replaced` says how often its last endpoint was replaced.
pub(crate) fn slices(index: usize, endpoints: usize, replaced: usize) -> Vec<Value> {
    let numbers: Vec<usize> = (0..endpoints).collect();
    let parts = numbers.chunks(SLICE).enumerate();
    parts
        .map(|(part, numbers)| {
            let made = |&number: &usize| {
                let last = number + 1 == endpoints;
                endpoint(index, number, if last { replaced } else { 0 })
            };
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{}-{part}", name(index)), "namespace": namespace(index), "uid": uid(index),
                    "creationTimestamp": "2026-01-02T03:04:05Z",
                    "labels": {"kubernetes.io/service-name": name(index), "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
                    "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:06Z"},
                },
                "addressType": "IPv4",
                "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
                "endpoints": numbers.iter().map(made).collect::<Vec<_>>(),
            })
        })
        .collect()
}

fn endpoint(service: usize, number: usize, replaced: usize) -> Value {
    let host = service * 64 + number;
    let [_, b, c, d] = (host as u32).to_be_bytes();
    // Replacements come from a range of their own: 100.64.0.0/10.
    let address = if replaced == 0 {
        format!("10.{}.{c}.{d}", 128 + b)
    } else {
        let [_, b, c, d] = ((replaced * 17 + service) as u32).to_be_bytes();
        format!("100.{}.{c}.{d}", 64 + b % 64)
    };
    json!({
        "addresses": [address],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": format!("node-{:02}", (service + number) % NODES),
        "zone": "zone-a",
        "targetRef": {"kind": "Pod", "namespace": namespace(service), "name": format!("{}-{number}", name(service)), "uid": uid(host)},
    })
}

fn name(index: usize) -> String {
    format!("service-{index:05}")
}

fn namespace(index: usize) -> String {
    format!("team-{:02}", index % 20)
}

fn uid(number: usize) -> String {
    format!("6f1c0000-0000-4000-8000-{number:012x}")
}
