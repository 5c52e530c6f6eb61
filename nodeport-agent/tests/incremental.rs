//! From one snapshot to the next: whatever changes, in whatever order, it comes to what a compilation from nothing comes to.

#[path = "generate/mod.rs"]
mod generate;

use std::collections::BTreeSet;
use std::sync::Arc;

use generate::{cluster, service, slice};
use nodeport_agent::model::decode::{Decoded, decode};
use nodeport_agent::model::desired::Family;
use nodeport_agent::model::health_check::health_checks;
use nodeport_agent::model::objects::ObjectKey;
use nodeport_agent::model::report::{Reason, Report};
use nodeport_agent::model::{
    Compiler, HostAddress, NodePortAddresses, Objects, Snapshot, compile, snapshot,
};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use serde_json::{Value, json};

/// What may happen between two snapshots.
#[derive(Clone, Debug)]
enum Change {
    /// An object is there, or changes. Read from a file now and then.
    Put(Value, bool),
    /// Some Service goes.
    DeleteService(Index),
    /// Some slice goes.
    DeleteSlice(Index),
    /// Some slice is of another Service from now on.
    MoveSlice(Index, &'static str),
    /// A Node changes its zone and addresses.
    Node(&'static str, Option<&'static str>, bool),
    /// A Node goes.
    DeleteNode(&'static str),
    /// This node is another one.
    Rename(&'static str),
    /// The addresses of this node.
    Addresses(Vec<&'static str>),
    /// `--nodeport-addresses`.
    Option(&'static str),
    /// What a source has to say.
    Reports(Vec<&'static str>),
    /// The same objects once more, none of them shared with the former ones.
    Afresh,
}

fn change() -> impl Strategy<Value = Change> {
    let name = || select(vec!["n1", "n2"]);
    let zone = prop::option::of(select(vec!["a", "b"]));
    let addresses = vec!["192.168.88.11", "10.96.0.1", "fd00:88::11"];
    prop_oneof![
        6 => (service(), any::<bool>()).prop_map(|(one, file)| Change::Put(one, file)),
        6 => (slice(), any::<bool>()).prop_map(|(one, file)| Change::Put(one, file)),
        2 => any::<Index>().prop_map(Change::DeleteService),
        2 => any::<Index>().prop_map(Change::DeleteSlice),
        2 => (any::<Index>(), select(vec!["a", "b", "c", "nobody"])).prop_map(|(at, to)| Change::MoveSlice(at, to)),
        2 => (name(), zone, any::<bool>()).prop_map(|(node, zone, bad)| Change::Node(node, zone, bad)),
        1 => name().prop_map(Change::DeleteNode),
        1 => name().prop_map(Change::Rename),
        1 => subsequence(addresses, 0..=3).prop_map(Change::Addresses),
        1 => select(vec!["", "primary", "192.168.88.0/24", "fd00::/16"]).prop_map(Change::Option),
        1 => subsequence(vec!["one", "two"], 0..=2).prop_map(Change::Reports),
        1 => Just(Change::Afresh),
    ]
}

/// The state that changes, and the objects as they were written.
#[derive(Default)]
struct World {
    snapshot: Snapshot,
    written: Vec<(Value, bool)>,
}

impl World {
    fn objects(&mut self) -> &mut Objects {
        Arc::make_mut(&mut self.snapshot.objects)
    }

    fn put(&mut self, value: &Value, from_file: bool) {
        let origin = Arc::from("f.yaml, document 1");
        match decode(value, from_file.then_some(&origin)) {
            Decoded::Object(object) => drop(self.objects().insert(object)),
            other => panic!("no object: {other:?}"),
        }
        let same = |other: &Value| {
            (&other["kind"], &other["metadata"]["name"])
                == (&value["kind"], &value["metadata"]["name"])
        };
        self.written.retain(|(other, _)| !same(other));
        self.written.push((value.clone(), from_file));
    }

    fn forget(&mut self, kind: &str, name: &str) {
        self.written
            .retain(|(value, _)| value["kind"] != kind || value["metadata"]["name"] != name);
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Put(value, from_file) => self.put(value, *from_file),
            Change::DeleteService(at) => self.delete("Service", *at),
            Change::DeleteSlice(at) => self.delete("EndpointSlice", *at),
            Change::MoveSlice(at, service) => {
                let slices = self
                    .written
                    .iter()
                    .filter(|(value, _)| value["kind"] == "EndpointSlice");
                let slices: Vec<_> = slices.cloned().collect();
                if !slices.is_empty() {
                    let (mut value, from_file) = at.get(&slices).clone();
                    value["metadata"]["labels"]["kubernetes.io/service-name"] = json!(service);
                    self.put(&value, from_file);
                }
            }
            Change::Node(name, zone, bad) => self.node(name, *zone, *bad),
            Change::DeleteNode(name) => {
                self.objects().nodes.remove(*name);
                self.forget("Node", name);
            }
            Change::Rename(name) => (*name).clone_into(&mut self.snapshot.node_name),
            Change::Addresses(addresses) => self.addresses(addresses),
            Change::Option(list) => {
                let list: Vec<String> = list.split_terminator(',').map(str::to_owned).collect();
                let node_port_addresses = NodePortAddresses::parse(&list).expect("a list");
                self.snapshot.options = snapshot::Options {
                    node_port_addresses,
                    ..snapshot::Options::default()
                };
            }
            Change::Reports(fields) => {
                let report = |field: &&str| Report {
                    object: None,
                    field: (*field).to_owned(),
                    origin: None,
                    reason: Reason::Missing,
                };
                self.objects().reports = fields.iter().map(report).collect();
            }
            Change::Afresh => self.afresh(),
        }
    }

    fn delete(&mut self, kind: &str, at: Index) {
        let of_kind = self
            .written
            .iter()
            .filter(|(value, _)| value["kind"] == kind);
        let names = of_kind.filter_map(|(value, _)| value["metadata"]["name"].as_str());
        let names: Vec<String> = names.map(str::to_owned).collect();
        if names.is_empty() {
            return;
        }
        let name = at.get(&names);
        let key = ObjectKey {
            namespace: "d".into(),
            name: name.as_str().into(),
        };
        let found = if kind == "Service" {
            self.objects().services.remove(&key).is_some()
        } else {
            self.objects().endpoint_slices.remove(&key).is_some()
        };
        assert!(found, "{key}");
        self.forget(kind, name);
    }

    fn node(&mut self, name: &str, zone: Option<&str>, bad: bool) {
        let address = if bad { "no address" } else { "192.168.88.11" };
        let zone = zone.map_or(
            json!({}),
            |zone| json!({"topology.kubernetes.io/zone": zone}),
        );
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": zone},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        });
        self.put(&node, false);
    }

    fn afresh(&mut self) {
        let written = self.written.clone();
        let reports = self.snapshot.objects.reports.clone();
        self.snapshot.objects = Arc::default();
        for (value, from_file) in &written {
            self.put(value, *from_file);
        }
        self.objects().reports = reports;
    }

    fn addresses(&mut self, addresses: &[&str]) {
        let host = |text: &&str| HostAddress {
            address: text.parse().expect("an address"),
            device: 2,
        };
        self.snapshot.host_addresses = addresses.iter().map(host).collect();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Front ends, endpoints that flows may keep, addresses, reports and health checks.
    #[test]
    fn what_is_made_of_changes_is_what_is_made_from_nothing(
        start in cluster(),
        changes in prop::collection::vec((change(), prop::bool::weighted(0.7)), 1..30),
    ) {
        let mut world = World::default();
        world.snapshot.node_name = "n1".to_owned();
        world.addresses(&["192.168.88.11"]);
        for object in &start {
            world.put(object, false);
        }
        let mut compiler = Compiler::default();
        compiler.compile(&world.snapshot);
        for (change, compiles) in &changes {
            world.change(change);
            // Several changes at once, now and then.
            if !compiles {
                continue;
            }
            let (desired, reports) = compile(&world.snapshot);
            let compiled = compiler.compile(&world.snapshot);
            prop_assert_eq!(&compiled.desired, &desired);
            prop_assert_eq!(compiled.reports.iter().cloned().collect::<Vec<_>>(), reports);
            let checks = compiled.health_checks.iter().map(|(key, check)| (key.clone(), check.clone()));
            prop_assert!(checks.eq(health_checks(&world.snapshot)));
        }
    }

    /// A front end that is as before is the same one, so that whoever compares has nothing to do.
    #[test]
    fn what_did_not_change_is_shared(start in cluster(), one in service()) {
        let mut world = World::default();
        world.snapshot.node_name = "n1".to_owned();
        for object in &start {
            world.put(object, false);
        }
        let mut compiler = Compiler::default();
        let before = compiler.compile(&world.snapshot).desired.clone();
        world.put(&one, false);
        let after = compiler.compile(&world.snapshot).desired.clone();
        let changed: BTreeSet<_> = after.changed_since(&before).into_iter().cloned().collect();
        for (id, frontend) in &after.frontends {
            let shared = before.frontends.get(id).is_some_and(|old| Arc::ptr_eq(old, frontend));
            prop_assert!(shared || changed.contains(&frontend.service_port), "{id} {frontend}");
        }
        prop_assert_eq!(after.changed_since(&after), BTreeSet::new());
    }
}

#[test]
fn nothing_is_known_before_the_first_snapshot() {
    let mut compiler = Compiler::default();
    assert!(compiler.compiled().desired.frontends.is_empty());
    let compiled = compiler.compile(&Snapshot::default());
    assert_eq!(compiled.reports.iter().count(), 1, "the Node is not known");
    assert!(!Family::ALL.is_empty());
}
