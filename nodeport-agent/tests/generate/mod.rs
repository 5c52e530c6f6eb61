//! Objects that are made up, as JSON, so that decoding is part of what is tested.
//!
//! Names, addresses and ports are few, so that Services collide and endpoints repeat.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

fn names() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "c"])
}

fn maybe(words: &'static [&'static str]) -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(select(words))
}

/// An object of the fields that are there.
fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let present = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(
        present
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    )
}

prop_compose! {
    fn service_port()(
        name in select(vec!["", "http", "dns"]),
        protocol in maybe(&["TCP", "UDP", "SCTP"]),
        port in select(vec![53, 80]),
        node_port in prop::option::of(select(vec![30053, 30080])),
    ) -> Value {
        object([("name", json!(name)), ("protocol", json!(protocol)), ("port", json!(port)), ("nodePort", json!(node_port))])
    }
}

prop_compose! {
    /// A Service.
    pub(crate) fn service()(
        name in names(),
        kind in maybe(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
        ips in prop_oneof![
            4 => subsequence(vec!["10.96.0.1", "10.96.0.2", "fd00:10:96::1"], 1..=2),
            1 => subsequence(vec!["None"], 0..=1),
        ],
        external in subsequence(vec!["198.51.100.1", "198.51.100.2", "2001:db8::1", "10.96.0.1"], 0..=3),
        ingress in subsequence(vec!["203.0.113.1", "2001:db8::1", "198.51.100.1"], 0..=2),
        mode in maybe(&["VIP", "Proxy"]),
        policies in (maybe(&["Cluster", "Local"]), maybe(&["Cluster", "Local"])),
        ports in prop::collection::vec(service_port(), 1..4),
        created in maybe(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
        health_check in prop::option::of(select(vec![32000, 32001])),
    ) -> Value {
        let ingress: Vec<Value> = ingress.iter().map(|ip| object([("ip", json!(ip)), ("ipMode", json!(mode))])).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": object([("name", json!(name)), ("namespace", json!("d")), ("creationTimestamp", json!(created))]),
            "spec": object([
                ("type", json!(kind)),
                ("clusterIP", json!(ips.first())),
                ("clusterIPs", json!(ips)),
                ("externalIPs", json!(external)),
                ("externalTrafficPolicy", json!(policies.0)),
                ("internalTrafficPolicy", json!(policies.1)),
                ("ports", json!(ports)),
                ("healthCheckNodePort", json!(health_check)),
            ]),
            "status": {"loadBalancer": {"ingress": ingress}},
        })
    }
}

fn condition() -> impl Strategy<Value = Value> {
    select(vec![Value::Null, json!(true), json!(false)])
}

prop_compose! {
    fn endpoint(v6: bool)(
        last in 1..4_u8,
        node in maybe(&["n1", "n2"]),
        ready in condition(),
        serving in condition(),
        terminating in condition(),
        zones in subsequence(vec!["a", "b"], 0..=2),
        nodes in subsequence(vec!["n1", "n2"], 0..=2),
    ) -> Value {
        let address = if v6 { format!("fd00:10:244::{last}") } else { format!("10.244.0.{last}") };
        let named = |names: Vec<&str>| names.into_iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        object([
            ("addresses", json!([address])),
            ("nodeName", json!(node)),
            ("conditions", object([("ready", ready), ("serving", serving), ("terminating", terminating)])),
            ("hints", json!({"forZones": named(zones), "forNodes": named(nodes)})),
        ])
    }
}

/// An EndpointSlice.
pub(crate) fn slice() -> impl Strategy<Value = Value> {
    any::<bool>().prop_flat_map(|v6| {
        let endpoints = prop::collection::vec(endpoint(v6), 0..5);
        let port = (
            select(vec!["", "http", "dns"]),
            maybe(&["TCP", "UDP"]),
            select(vec![8080, 5353]),
        );
        let ports = prop::collection::vec(port, 1..3);
        (names(), 0..3_u8, endpoints, ports).prop_map(move |(service, number, endpoints, ports)| {
            let port = |(name, protocol, port): (&str, Option<&str>, i32)| {
                object([
                    ("name", json!(name)),
                    ("protocol", json!(protocol)),
                    ("port", json!(port)),
                ])
            };
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{service}-{number}"),
                    "namespace": "d",
                    "labels": {"kubernetes.io/service-name": service},
                },
                "addressType": if v6 { "IPv6" } else { "IPv4" },
                "ports": ports.into_iter().map(port).collect::<Vec<_>>(),
                "endpoints": endpoints,
            })
        })
    })
}

/// Objects, no two of them with one name.
pub(crate) fn cluster() -> impl Strategy<Value = Vec<Value>> {
    let services = prop::collection::vec(service(), 0..4);
    let slices = prop::collection::vec(slice(), 0..6);
    (services, slices).prop_map(|(services, slices)| {
        let mut seen = BTreeSet::new();
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}},
        });
        let mut objects = [vec![node], services, slices].concat();
        objects.retain(|one| {
            seen.insert((one["kind"].to_string(), one["metadata"]["name"].to_string()))
        });
        objects
    })
}
