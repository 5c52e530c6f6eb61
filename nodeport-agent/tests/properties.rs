//! What holds for every set of objects, whatever is in it.
//!
//! The objects are JSON, so that decoding is part of it. Names, addresses and ports are few, so that Services collide and
//! endpoints repeat.

#[path = "generate/mod.rs"]
mod generate;

use std::sync::Arc;

use generate::{cluster, service, slice};
use nodeport_agent::model::decode::{Decoded, decode};
use nodeport_agent::model::desired::{Desired, FrontendKind, IfEmpty};
use nodeport_agent::model::{HostAddress, Objects, Report, Snapshot, compile};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};

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
            let frontends = desired.frontends.into_iter();
            desired.frontends = frontends.filter(|(_, one)| mine(&one.service_port.namespace)).collect();
            let serving = desired.serving.into_iter();
            desired.serving = serving.filter(|(port, _)| mine(&port.namespace)).collect();
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
