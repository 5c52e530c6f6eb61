//! What a change costs, counted without a clock: map operations, bytes written and allocations. None of them may grow with how many
//! Services there are that did not change.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;

use nodeport_agent::maps::{
    ArrayMap, Bytes, Entry, HashMap, Map, MemoryStore, Partial, Store, StoreError,
};
use nodeport_agent::model::decode::{Decoded, decode};
use nodeport_agent::model::objects::ObjectKey;
use nodeport_agent::model::{Compiler, Snapshot};
use nodeport_agent::reconcile::{Monotonic, Reconciler, Report};
use serde_json::{Value, json};

/// Counts what is done to a store.
#[derive(Default)]
struct Counting {
    inner: MemoryStore,
    reads: Cell<u64>,
    calls: u64,
    entries: u64,
    bytes: u64,
}

impl Counting {
    fn read(&self) {
        self.reads.set(self.reads.get() + 1);
    }

    fn write(&mut self, entries: usize, size: usize) {
        self.calls += 1;
        self.entries += entries as u64;
        self.bytes += (entries * size) as u64;
    }
}

impl Store for Counting {
    fn limit<M: Map>(&self) -> Result<u32, StoreError> {
        self.inner.limit::<M>()
    }

    fn get<M: Map>(&self, key: &M::Key) -> Result<Option<M::Value>, StoreError> {
        self.read();
        self.inner.get::<M>(key)
    }

    fn head<M: ArrayMap>(&self, len: u32) -> Result<Vec<M::Value>, StoreError> {
        self.read();
        self.inner.head::<M>(len)
    }

    fn scan<M: HashMap>(
        &self,
        visit: &mut dyn FnMut(&[Entry<M>]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.read();
        self.inner.scan::<M>(visit)
    }

    fn put<M: Map>(&mut self, entries: &[Entry<M>]) -> Result<(), Partial> {
        self.write(entries.len(), M::Key::SIZE + M::Value::SIZE);
        self.inner.put::<M>(entries)
    }

    fn delete<M: HashMap>(&mut self, keys: &[M::Key]) -> Result<(), Partial> {
        self.write(keys.len(), M::Key::SIZE);
        self.inner.delete::<M>(keys)
    }

    fn raise_endpoint_generation(&mut self) -> Result<(), StoreError> {
        self.write(1, 4);
        self.inner.raise_endpoint_generation()
    }
}

/// An agent without a kernel.
struct Agent {
    snapshot: Snapshot,
    compiler: Compiler,
    reconciler: Reconciler<Counting, Monotonic>,
}

/// What one update cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    reads: u64,
    calls: u64,
    entries: u64,
    bytes: u64,
    allocations: u64,
}

impl Agent {
    fn with_services(services: u32) -> Self {
        let store = Counting::default();
        let mut agent = Self {
            snapshot: Snapshot {
                node_name: "n1".to_owned(),
                ..Snapshot::default()
            },
            compiler: Compiler::default(),
            reconciler: Reconciler::adopt(store, Monotonic::default()).expect("readable"),
        };
        for number in 0..services {
            agent.put(&service(number));
            agent.put(&slice(number, 3, 0));
        }
        assert!(agent.update().is_complete());
        agent
    }

    fn put(&mut self, value: &Value) {
        match decode(value, None) {
            Decoded::Object(object) => {
                Arc::make_mut(&mut self.snapshot.objects).insert(object);
            }
            other => panic!("no object: {other:?}"),
        }
    }

    fn update(&mut self) -> Report {
        let desired = &self.compiler.compile(&self.snapshot).desired;
        self.reconciler.apply(desired)
    }

    /// What an update costs after a change.
    fn cost(&mut self, change: impl FnOnce(&mut Self)) -> Cost {
        change(self);
        let before = self.counts();
        let allocated = allocation_counter::measure(|| {
            let report = self.update();
            assert!(report.is_complete());
        });
        let after = self.counts();
        Cost {
            reads: after[0] - before[0],
            calls: after[1] - before[1],
            entries: after[2] - before[2],
            bytes: after[3] - before[3],
            allocations: allocated.count_total,
        }
    }

    fn counts(&self) -> [u64; 4] {
        let store = self.reconciler.store();
        [store.reads.get(), store.calls, store.entries, store.bytes]
    }
}

fn name(number: u32) -> String {
    format!("service-{number:05}")
}

fn service(number: u32) -> Value {
    let [_, _, c, d] = number.to_be_bytes();
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name(number), "namespace": "d"},
        "spec": {
            "type": "NodePort", "clusterIP": format!("10.96.{c}.{d}"),
            "ports": [{"port": 80, "nodePort": 20_000 + number}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        },
    })
}

/// `replaced` is another address in the place of the last one.
fn slice(number: u32, endpoints: u8, replaced: u8) -> Value {
    let [_, _, c, d] = number.to_be_bytes();
    let endpoint = |index: u8| {
        let other = if index + 1 == endpoints { replaced } else { 0 };
        json!({"addresses": [format!("10.{}.{c}.{d}", 100 + index + other)], "nodeName": "n2"})
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name(number), "namespace": "d", "labels": {"kubernetes.io/service-name": name(number)}},
        "addressType": "IPv4", "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
        "ports": [{"port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
    })
}

fn key(number: u32) -> ObjectKey {
    ObjectKey {
        namespace: "d".into(),
        name: name(number).as_str().into(),
    }
}

/// The costs of changes of all kinds, each from the state that the one before left.
fn costs(services: u32) -> Vec<(&'static str, Cost)> {
    let mut agent = Agent::with_services(services);
    let middle = services / 2;
    let mut costs = Vec::new();
    let mut cost = |what, change: &dyn Fn(&mut Agent)| costs.push((what, agent.cost(change)));
    cost("an endpoint replaced", &|agent| {
        agent.put(&slice(middle, 3, 50));
    });
    cost("an endpoint gone", &|agent| agent.put(&slice(middle, 2, 0)));
    cost("a slice written again", &|agent| {
        agent.put(&slice(middle, 2, 0));
    });
    cost("a Service and its slice", &|agent| {
        agent.put(&service(services));
        agent.put(&slice(services, 3, 0));
    });
    cost("a Service gone", &|agent| {
        let objects = Arc::make_mut(&mut agent.snapshot.objects);
        objects.services.remove(&key(middle + 1));
        objects.endpoint_slices.remove(&key(middle + 1));
    });
    cost("nothing", &|_| {});
    costs
}

#[test]
fn the_cost_of_a_change_does_not_depend_on_the_number_of_services() {
    let few = costs(200);
    let many = costs(10_000);
    for ((what, few), (_, many)) in few.iter().zip(&many) {
        let without_allocations = |cost: &Cost| Cost {
            allocations: 0,
            ..*cost
        };
        assert_eq!(
            without_allocations(few),
            without_allocations(many),
            "{what}"
        );
        assert_eq!(many.reads, 0, "{what}: the maps are not read");
        // Trees are deeper: that is all that may be seen of fifty times as many.
        assert!(
            many.allocations <= 2 * few.allocations + 16,
            "{what}: {few:?} at 200 Services, {many:?} at 10,000"
        );
    }
}

#[test]
fn what_is_written_is_what_changed() {
    let costs = costs(200);
    let entries: Vec<_> = costs
        .iter()
        .map(|(what, cost)| (*what, cost.entries))
        .collect();
    assert_eq!(
        entries,
        [
            // Two sets of three slots, the UDP endpoint that comes and the one that goes, three front ends, the generation.
            ("an endpoint replaced", 6 + 2 + 3 + 1),
            ("an endpoint gone", 4 + 1 + 3 + 1),
            ("a slice written again", 0),
            // Address and NodePort are noted, the address is on top; flows of a UDP front end that had no endpoint may look again.
            ("a Service and its slice", 2 + 6 + 3 + 3 + 1 + 1),
            // Slots stay as they are.
            ("a Service gone", 3 + 3 + 1),
            ("nothing", 0),
        ]
    );
}
