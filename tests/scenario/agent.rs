//! The agent's half of a scenario: objects in, maps written through the same code and the same bytes as on a node.
//!
//! Owns the way from a section of objects to the tables of the simulated node. Refuses to know packets. Invariant: the programs see only what
//! was read back from the store, and only after the agent says that it is done.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nodeport_agent::datapath::{PortRange, snat_segments};
use nodeport_agent::maps::{
    Addresses, Backends, Controls, Devices, Faults, FaultyStore, Frontends, IpBytes, MemoryStore,
    Serving, Sources, Store,
};
use nodeport_agent::model::objects::ObjectKey;
use nodeport_agent::model::{HostAddress, Objects, Options, Snapshot, compile};
use nodeport_agent::plan::slots_named;
use nodeport_agent::reconcile::{Clock, Reconciler};
use nodeport_agent::source::manifests::document::{Syntax, read};
use nodeport_common::{Control, V4, V6};
use nodeport_ebpf::sim::{Node, SimFamily};

use crate::calls::HOST_NETNS;
use crate::file::Line;
use crate::place::Place;

/// Jiffies per second.
pub(crate) const HZ: u32 = 250;
/// Passes after which the agent is believed to be stuck.
const PASSES_MAX: u32 = 1000;

/// A clock that a scenario moves.
#[derive(Clone, Debug, Default)]
struct StoryClock(Rc<Cell<Duration>>);

impl Clock for StoryClock {
    fn now(&self) -> Duration {
        self.0.get()
    }
}

/// Objects, the agent that follows them, and the maps that it writes.
pub(crate) struct Agent {
    objects: Objects,
    name: String,
    addresses: BTreeSet<HostAddress>,
    clock: StoryClock,
    reconciler: Reconciler<FaultyStore<MemoryStore>, StoryClock>,
    /// Writes that failed and were tried again.
    pub(crate) retries: u32,
}

impl Agent {
    /// The agent of a node. Of its writes to maps, `faults` fail.
    pub(crate) fn new(place: &Place, faults: Faults) -> Self {
        let mut store = MemoryStore::new();
        let devices: Vec<_> = place
            .indexed()
            .map(|(index, device)| (index, device.entry(index)))
            .collect();
        store
            .put::<Devices>(&devices)
            .expect("room for the devices");
        store
            .put::<Controls>(&[(0, control(place))])
            .expect("room for one");
        let clock = StoryClock::default();
        let store = FaultyStore::new(store, faults).lying();
        let addresses = place.indexed().flat_map(|(device, known)| {
            let addresses = known.addresses.iter();
            addresses.map(move |address| HostAddress {
                address: *address,
                device,
            })
        });
        let mut agent = Self {
            objects: Objects::default(),
            name: place.name.clone(),
            addresses: addresses.collect(),
            reconciler: Reconciler::adopt(store, clock.clone()).expect("readable maps"),
            clock,
            retries: 0,
        };
        let name = &place.name;
        agent.take_up(&format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}}}"
        ));
        agent
    }

    /// Takes up objects, in the place of those with the same names.
    ///
    /// # Panics
    /// One of them is refused.
    pub(crate) fn take_up(&mut self, yaml: &str) {
        let reading = read("objects", yaml, Syntax::Yaml);
        let refused: Vec<String> = reading.refused.iter().map(ToString::to_string).collect();
        assert_eq!(refused, Vec::<String>::new(), "objects are refused");
        assert_eq!(reading.skipped, 0, "objects of kinds that are not read");
        for object in reading.objects {
            self.objects.insert(object);
        }
    }

    /// Objects go: each line has a kind, and a namespace and name.
    ///
    /// # Panics
    /// There is no such object.
    pub(crate) fn delete(&mut self, lines: &[Line]) {
        for Line { text, number } in lines {
            let words = text.split_once(' ').and_then(|(kind, key)| {
                let (namespace, name) = key.trim().split_once('/')?;
                Some((kind, namespace, name))
            });
            let (kind, namespace, name) = words.unwrap_or_else(|| panic!("line {number}: {text}"));
            let key = ObjectKey {
                namespace: namespace.into(),
                name: name.into(),
            };
            let found = match kind {
                "Service" => self.objects.services.remove(&key).is_some(),
                "EndpointSlice" => self.objects.endpoint_slices.remove(&key).is_some(),
                _ => panic!("line {number}: kind {kind}"),
            };
            assert!(found, "line {number}: no {text}");
        }
    }

    /// Writes the maps, again and again until the agent has nothing left to do.
    ///
    /// # Panics
    /// Something is refused, or there is no end to it.
    pub(crate) fn write(&mut self) {
        let snapshot = Snapshot {
            objects: Arc::new(self.objects.clone()),
            node_name: self.name.clone(),
            host_addresses: self.addresses.clone(),
            options: Options::default(),
        };
        let (desired, reports) = compile(&snapshot);
        let reports: Vec<String> = reports.iter().map(ToString::to_string).collect();
        assert_eq!(reports, Vec::<String>::new(), "the agent reports");
        for _ in 0..PASSES_MAX {
            let report = self.reconciler.apply(&desired);
            assert!(report.refused.is_empty(), "{:?}", report.refused);
            self.retries += report.failed.len() as u32;
            match report.retry_after {
                None => return,
                Some(wait) => self.wait(wait),
            }
        }
        panic!("the agent has not finished after {PASSES_MAX} passes");
    }

    /// Time goes by.
    pub(crate) fn wait(&self, time: Duration) {
        self.clock.0.set(self.clock.0.get() + time);
    }

    /// The maps as they are.
    pub(crate) fn store(&self) -> &MemoryStore {
        self.reconciler.store().inner()
    }

    /// The name of the service port with this number.
    pub(crate) fn service_port(&self, number: u32) -> String {
        let name = self.reconciler.installed().ids().name(number);
        name.map_or_else(|| format!("#{number}"), ToString::to_string)
    }

    /// Gives the programs the maps as they are.
    pub(crate) fn load(&self, node: &mut Node) {
        node.control = self.store().control().expect("readable");
        let devices = self.store().entries::<Devices>().expect("readable");
        node.devices = devices.into_iter().collect();
        self.load_family::<V4>(node);
        self.load_family::<V6>(node);
    }

    fn load_family<A: IpBytes + SimFamily>(&self, node: &mut Node) {
        let store = self.store();
        let tables = A::of_mut(node);
        let frontends = store.entries::<Frontends<A>>().expect("readable");
        let slots = slots_named(&frontends, u32::MAX);
        tables.backends = store.head::<Backends<A>>(slots).expect("readable");
        tables.frontends = frontends.into_iter().collect();
        let addresses = store.entries::<Addresses<A>>().expect("readable");
        tables.addresses = addresses.into_iter().collect();
        let serving = store.entries::<Serving<A>>().expect("readable");
        tables.serving = serving.into_iter().map(|(key, _)| key).collect();
        let sources = store.entries::<Sources<A>>().expect("readable");
        tables.sources = sources.into_iter().map(|(key, _)| key).collect();
    }
}

/// What the agent writes once at its start. The node's own addresses are those of its first device; the ports are those that Kubernetes' and the kernel's defaults leave free.
fn control(place: &Place) -> Control {
    let device = place.devices[0].entry(0);
    let range = |first, last| PortRange { first, last };
    Control {
        route_generation: 1,
        endpoint_generation: 1,
        seed: 1,
        flags: 0,
        hz: HZ,
        next_hop_max_age: 30 * HZ / 1024,
        fragment_max_age_secs: 30,
        rejects_per_second: 1000,
        reject_burst: 50,
        snat: snat_segments(&[range(30000, 32767), range(32768, 60999)]),
        host_netns: HOST_NETNS,
        lines_per_cpu: 1024,
        node4: device.address4,
        node6: device.address6,
        pad: 0,
    }
}
