//! No two live flows share a reply tuple, whatever is opened, closed, expired and evicted in whatever order (edge-cases A1-A3, A8, B7).
//!
//! A model beside the node: it knows which connection each reply tuple belongs to, from what the client's packets looked like behind the node.

use std::collections::BTreeMap;

use nodeport_common::{Flow, FlowKey, Outcome, PortSegment, frontend_flags, protocol};
use nodeport_ebpf::tables::Entry;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::both;
use crate::packets::{ACK, Build, End, FIN, SYN};
use crate::world::{
    FABRIC, NODE_PORT, Places, TARGET, Trip, UPLINK, World, flow_key, node_port_key,
};

/// What happens next, to one of a few clients at one of two front ends.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The client sends with these flags.
    Request(u8, bool, u8),
    /// Its backend answers the last packet of that connection.
    Reply(u8, bool, u8),
    /// The agent's expiry removes both entries of it.
    Expire(u8, bool),
    /// The kernel evicts one of the pending entries.
    Evict(prop::sample::Index),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let flags = prop_oneof![3 => Just(SYN), 4 => Just(ACK), 1 => Just(FIN | ACK)];
    let event = prop_oneof![
        6 => (0..6_u8, any::<bool>(), flags.clone()).prop_map(|(n, f, t)| Event::Request(n, f, t)),
        4 => (0..6_u8, any::<bool>(), flags).prop_map(|(n, f, t)| Event::Reply(n, f, t)),
        1 => (0..6_u8, any::<bool>()).prop_map(|(n, f)| Event::Expire(n, f)),
        1 => any::<prop::sample::Index>().prop_map(Event::Evict),
    ];
    proptest::collection::vec(event, 1..120)
}

/// A connection, as its client knows it.
type Connection<A> = (End<A>, End<A>);

struct Model<A: Places> {
    world: World<A>,
    /// Where the stack carries the flows; else they are redirected.
    is_local: bool,
    backend: End<A>,
    /// Which connection the source that the backend saw last belongs to.
    owners: BTreeMap<End<A>, Connection<A>>,
}

impl<A: Places> Model<A> {
    /// Few ports, so that they run out, and one client address per two clients, so that tuples collide.
    fn new(is_local: bool) -> Self {
        let backend = if is_local {
            (A::local(1), TARGET)
        } else {
            (A::remote(7), TARGET)
        };
        let mut world = World::<A>::new().node_port(&[backend]);
        let key = node_port_key(30081, protocol::TCP);
        world.front_end(key, frontend_flags::NODE_PORT, &[backend], &[backend]);
        let first = PortSegment {
            first: 2000,
            count: 3,
        };
        let second = PortSegment {
            first: 40000,
            count: 3,
        };
        world.node.control.snat = [first, second];
        world.tables_mut().flows.capacity = 12;
        world.tables_mut().pending.capacity = 14;
        Self {
            world,
            is_local,
            backend,
            owners: BTreeMap::new(),
        }
    }

    fn connection(n: u8, second: bool) -> Connection<A> {
        let port = if second { 30081 } else { NODE_PORT };
        (
            (A::client(n / 2), 40000 + u16::from(n % 2)),
            (A::NODE, port),
        )
    }

    fn run(&mut self, event: Event) {
        match event {
            Event::Request(n, second, flags) => self.request(Self::connection(n, second), flags),
            Event::Reply(n, second, flags) => self.reply(Self::connection(n, second), flags),
            Event::Expire(n, second) => self.expire(Self::connection(n, second)),
            Event::Evict(which) => {
                let pending = self.world.tables().pending.entries();
                if !pending.is_empty() {
                    let (key, _) = pending[which.index(pending.len())];
                    self.world.tables().pending.remove(&key);
                }
            }
        }
        self.check();
    }

    /// A client's packet is carried to the backend, or dropped for want of room.
    fn request(&mut self, (client, front_end): Connection<A>, flags: u8) {
        let trip = self
            .world
            .enters(UPLINK, &Build::tcp(client, front_end, flags));
        let refused = [
            Outcome::SnatPortsExhausted,
            Outcome::FlowTableFull,
            Outcome::PendingTableFailed,
        ];
        if refused.contains(&trip.verdict().outcome) {
            return;
        }
        let carried = [Outcome::ToRemoteBackend, Outcome::ToLocalBackend];
        assert!(carried.contains(&trip.verdict().outcome), "{trip:?}");
        let (source, backend) = trip.seen().ends();
        assert_eq!(backend, self.backend);
        self.owners.insert(source, (client, front_end));
    }

    /// The backend answers what it saw of a connection: the answer reaches that connection's client from its front end, or nobody.
    fn reply(&mut self, connection: Connection<A>, flags: u8) {
        let owned = self.owners.iter().find(|(_, owner)| **owner == connection);
        let Some((source, _)) = owned else { return };
        let build = Build::tcp(self.backend, *source, flags);
        let trip = self.send(&build);
        if matches!(
            trip.verdict().outcome,
            Outcome::ReplyRedirected | Outcome::ReplyFromStack
        ) {
            let (client, front_end) = connection;
            assert_eq!(
                trip.seen().ends(),
                (front_end, client),
                "another client's answer"
            );
        } else {
            trip.passed_untouched(Outcome::Untouched);
        }
    }

    fn send(&self, build: &Build<A>) -> Trip<A> {
        if self.is_local {
            self.world.leaves(UPLINK, build)
        } else {
            self.world.enters(FABRIC, build)
        }
    }

    fn expire(&mut self, (client, front_end): Connection<A>) {
        let tables = self.world.tables();
        let key = flow_key(protocol::TCP, client, front_end);
        let Some(entry) = tables.entry(&key) else {
            return;
        };
        let pair = entry.get().pair(protocol::TCP);
        let leads_back = |other: Flow<A>| other.pair(protocol::TCP) == key;
        if tables.entry(&pair).map(Entry::get).is_some_and(leads_back) {
            for key in [key, pair] {
                tables.flows.remove(&key);
                tables.pending.remove(&key);
            }
        }
    }

    /// Every established entry has its pair, and the pair leads back; so no two flows share one.
    fn check(&self) {
        let tables = self.world.tables();
        for (key, entry) in tables.flows.entries() {
            let pair: FlowKey<A> = entry.get().pair(key.protocol);
            let other = tables
                .flows
                .get(&pair)
                .expect("both halves are established");
            assert_eq!(
                other.get().pair(key.protocol),
                key,
                "the pair is another flow's"
            );
            assert!(tables.pending.get(&key).is_none(), "in both tables");
        }
    }
}

fn run<A: Places>(is_local: bool) {
    let config = Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&events(), |events| {
        let mut model = Model::<A>::new(is_local);
        for event in events {
            model.run(event);
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

both! {
    /// Flows with our address.
    fn redirected_flows_never_share_a_reply_tuple<A>() {
        run::<A>(false);
    }

    /// Flows with the client's address.
    fn flows_through_the_stack_never_share_a_reply_tuple<A>() {
        run::<A>(true);
    }
}
