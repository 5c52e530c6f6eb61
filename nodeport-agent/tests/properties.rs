//! What holds for every set of objects, whatever is in it.
//!
//! The objects are JSON, so that decoding is part of it. Names, addresses and ports are few, so that Services collide and
//! endpoints repeat.

use std::collections::BTreeSet;
use std::sync::Arc;

use nodeport_agent::model::decode::{Decoded, decode};
use nodeport_agent::model::desired::{Desired, FrontendKind, IfEmpty};
use nodeport_agent::model::{HostAddress, Objects, Report, Snapshot, compile};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use serde_json::{Map, Value, json};

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
    fn service()(
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

fn slice() -> impl Strategy<Value = Value> {
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
fn cluster() -> impl Strategy<Value = Vec<Value>> {
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

fn run(objects: &[Value]) -> (Desired, Vec<Report>) {
    let mut set = Objects::default();
    for value in objects {
        match decode(value, None) {
            Decoded::Object(object) => {
                set.insert(object);
            }
            Decoded::OtherKind => {}
            Decoded::Refused(reports) => set.reports.extend(reports),
        }
    }
    let address = "192.168.88.11".parse().expect("address");
    compile(&Snapshot {
        objects: Arc::new(set),
        node_name: "n1".to_owned(),
        host_addresses: [HostAddress { address, device: 2 }].into(),
        ..Snapshot::default()
    })
}

/// Turns every list of the object over, at every depth, if its order has no meaning.
fn turned(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().rev().map(turned).collect(),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| {
                // The order of ClusterIPs says which is the first of a family, that of ports which of two equal ones counts.
                let ordered = key == "clusterIPs" || key == "addresses";
                (
                    key.clone(),
                    if ordered {
                        value.clone()
                    } else {
                        turned(value)
                    },
                )
            };
            Value::Object(fields.iter().map(field).collect())
        }
        other => other.clone(),
    }
}

/// A Service's ports keep their order: of two with one name or number the first counts.
fn turned_object(value: &Value) -> Value {
    let mut turned = turned(value);
    if value["kind"] == "Service" {
        turned["spec"]["ports"] = value["spec"]["ports"].clone();
    }
    turned
}

/// Says nothing in other words: null and empty for absent, absent for empty.
fn reworded(value: &Value, choices: &mut impl Iterator<Item = u8>) -> Value {
    const OPTIONAL: &[(&str, &[&str])] = &[
        ("port", &["name", "protocol", "nodePort"]),
        (
            "clusterIP",
            &[
                "externalIPs",
                "externalTrafficPolicy",
                "internalTrafficPolicy",
                "type",
                "ipFamilies",
                "sessionAffinity",
            ],
        ),
        ("addressType", &["ports", "endpoints"]),
        ("addresses", &["nodeName", "conditions", "hints"]),
        ("name", &["creationTimestamp", "annotations"]),
    ];
    let Value::Object(fields) = value else {
        return match value {
            Value::Array(items) => items.iter().map(|item| reworded(item, choices)).collect(),
            other => other.clone(),
        };
    };
    let mut out = Map::new();
    for (key, value) in fields {
        let nothing =
            value.as_array().is_some_and(Vec::is_empty) || value == "" || value == &json!({});
        match (nothing, choices.next().unwrap_or(0) % 3) {
            (true, 1) => {}
            (true, 2) => drop(out.insert(key.clone(), Value::Null)),
            _ => drop(out.insert(key.clone(), reworded(value, choices))),
        }
    }
    for (marker, optional) in OPTIONAL {
        for key in optional
            .iter()
            .filter(|key| fields.contains_key(*marker) && !fields.contains_key(**key))
        {
            match choices.next().unwrap_or(0) % 3 {
                1 => drop(out.insert((*key).to_owned(), Value::Null)),
                2 if matches!(*key, "name" | "protocol" | "nodeName" | "type") => {
                    out.insert((*key).to_owned(), json!(""));
                }
                _ => {}
            }
        }
    }
    Value::Object(out)
}

/// Puts something else in the place of some value below.
fn spoil(value: &mut Value, path: &[Index], garbage: &Value) {
    let Some((index, rest)) = path.split_first() else {
        return *value = garbage.clone();
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let at = index.index(fields.len());
            spoil(fields.values_mut().nth(at).expect("field"), rest, garbage);
        }
        Value::Array(items) if !items.is_empty() => {
            let at = index.index(items.len());
            spoil(&mut items[at], rest, garbage);
        }
        other => *other = garbage.clone(),
    }
}

fn garbage() -> impl Strategy<Value = Value> {
    select(vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}"),
        json!("999.999.999.999"),
        json!("fe80::1%eth0"),
        json!([]),
        json!([null, 1, "x", [], {}]),
        json!({}),
        json!({"name": 1, "ip": [], "port": {}}),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn order_does_not_matter(objects in cluster(), seed in any::<Index>()) {
        let (desired, _) = run(&objects);
        let mut others: Vec<Value> = objects.iter().map(turned_object).collect();
        others.reverse();
        let at = seed.index(others.len());
        others.rotate_left(at);
        prop_assert_eq!(&desired, &run(&others).0);
        // Nor does what was there before: an object that comes late or again changes nothing.
        others.extend(objects.iter().cloned());
        prop_assert_eq!(&desired, &run(&others).0);
    }

    #[test]
    fn null_absent_and_empty_are_alike(objects in cluster(), choices in prop::collection::vec(any::<u8>(), 1..200)) {
        let mut choices = choices.into_iter().cycle();
        let others: Vec<Value> = objects.iter().map(|one| reworded(one, &mut choices)).collect();
        prop_assert_eq!(run(&objects), run(&others));
    }

    #[test]
    fn one_bad_object_changes_nothing_else(
        good in cluster(),
        mut bad in prop_oneof![service(), slice()],
        path in prop::option::of(prop::collection::vec(any::<Index>(), 0..6)),
        garbage in garbage(),
    ) {
        // Its own namespace, addresses and node ports, so that what is its is told apart.
        let text = bad.to_string().replace("10.96.0", "10.97.0").replace("fd00:10:96:", "fd00:10:97:");
        let text = text.replace("2001:db8:", "2001:db9:").replace("198.51.100", "192.0.2").replace("203.0.113", "192.0.2");
        bad = serde_json::from_str(&text.replace(":300", ":310")).expect("JSON");
        bad["metadata"]["namespace"] = json!("bad");
        // Left whole now and then: another namespace's object is to change nothing either.
        if let Some(path) = path {
            spoil(&mut bad, &path, &garbage);
        }
        let mine = |namespace: &str| namespace == "d";
        let only_good = |mut desired: Desired| {
            desired.frontends.retain(|_, frontend| mine(&frontend.service_port.namespace));
            desired.serving.retain(|port, _| mine(&port.namespace));
            desired
        };
        let (without, reports) = run(&good);
        let (with, more) = run(&[good, vec![bad]].concat());
        prop_assert_eq!(without, only_good(with));
        let kept: Vec<&Report> = more.iter().filter(|report| reports.contains(report)).collect();
        prop_assert_eq!(kept.len(), reports.len());
    }

    #[test]
    fn what_must_hold_of_every_front_end(objects in cluster()) {
        let (desired, _) = run(&objects);
        let in_slices = |ip: &str, usable: &dyn Fn(&Value) -> bool| {
            objects.iter().any(|slice| {
                slice["endpoints"].as_array().is_some_and(|all| all.iter().any(|one| one["addresses"][0] == ip && usable(one)))
            })
        };
        let here = |one: &Value| one["nodeName"] == "n1";
        let fallback = |one: &Value| one["conditions"]["serving"] != false && one["conditions"]["terminating"] == true;
        let usable = |one: &Value| one["conditions"]["ready"] != false || fallback(one);
        for (id, frontend) in &desired.frontends {
            for set in [&frontend.outside, &frontend.inside] {
                for backend in &set.backends {
                    let ip = backend.address.ip().to_string();
                    prop_assert!(in_slices(&ip, &usable), "{id} {frontend}: unusable endpoint");
                    prop_assert_eq!(backend.local, in_slices(&ip, &here) && backend.local, "{} {}", id, frontend);
                }
            }
            if frontend.policy_local {
                prop_assert!(frontend.outside.backends.iter().all(|one| one.local), "{id} {frontend}");
            } else {
                prop_assert_eq!(&frontend.outside, &frontend.inside);
                prop_assert_eq!(frontend.outside.if_empty, IfEmpty::Reject);
            }
            if frontend.kind == FrontendKind::ClusterIp {
                prop_assert_eq!(&frontend.outside, &frontend.inside);
            }
            // Drop says that there are endpoints elsewhere (behaviours 6.7).
            if frontend.outside.if_empty == IfEmpty::Drop && frontend.kind != FrontendKind::ClusterIp {
                prop_assert!(!frontend.inside.backends.is_empty(), "{id} {frontend}");
            }
        }
    }
}
