//! A client is sent to the same endpoint again (behaviours 11), and kept out if its address is in no source range (behaviours 14).

use std::collections::BTreeSet;

use nodeport_common::{
    Address, AffinityKey, Frontend, Outcome, SourceRangeKey, address_flags, frontend_flags,
    protocol,
};

use crate::both;
use crate::packets::{ACK, Build, End, PSH, SYN};
use crate::world::{
    FABRIC, NODE_PORT, POD1, PORT, Places, TARGET, UPLINK, World, frontend_key, node_port_key,
};

const AFFINITY_SECS: u32 = 10;

fn remotes<A: Places>(last: u8) -> Vec<End<A>> {
    (1..=last).map(|n| (A::remote(n), TARGET)).collect()
}

/// NodePort and ClusterIP of one service port, with affinity.
fn sticky<A: Places>(backends: &[End<A>]) -> World<A> {
    let world = World::<A>::new().node_port(backends).cluster_ip(backends);
    with(world, |frontend| frontend.affinity_secs = AFFINITY_SECS)
}

fn with<A: Places>(mut world: World<A>, change: impl Fn(&mut Frontend)) -> World<A> {
    world.tables_mut().frontends.values_mut().for_each(change);
    world
}

/// Which backend a new connection of a client gets.
fn backend<A: Places>(world: &World<A>, client: u8, port: u16, to: End<A>) -> A {
    let syn = Build::tcp((A::client(client), port), to, SYN);
    world.enters(UPLINK, &syn).seen().destination().0
}

/// The backends of the service port become others.
fn replace<A: Places>(world: &mut World<A>, backends: &[End<A>]) {
    let key = node_port_key(NODE_PORT, protocol::TCP);
    let affinity_secs = world.tables().frontends[&key].affinity_secs;
    world.front_end(key, frontend_flags::NODE_PORT, backends, backends);
    let value = world.tables_mut().frontends.get_mut(&key).expect("put");
    value.affinity_secs = affinity_secs;
}

both! {
    /// 11.1: neither the source port nor the front end matters; another client may be sent elsewhere.
    fn a_client_stays_with_its_endpoint_by_whatever_front_end<A>() {
        let world = sticky::<A>(&remotes(7));
        let first = backend(&world, 1, 40000, (A::NODE, NODE_PORT));
        for port in 40001..40030 {
            assert_eq!(backend(&world, 1, port, (A::NODE, NODE_PORT)), first);
            assert_eq!(backend(&world, 1, port, (A::CLUSTER_IP, PORT)), first);
        }
        let all: BTreeSet<A> = (1..100).map(|client| backend(&world, client, 1, (A::NODE, NODE_PORT))).collect();
        assert_eq!(all.len(), 7, "clients spread over all endpoints");
    }

    /// 11.7: each flow of UDP is a connection.
    fn udp_flows_of_a_client_stay_together<A>() {
        let world = sticky::<A>(&remotes(7));
        let to = |port| {
            let build = Build::udp((A::client(1), port), (A::NODE, NODE_PORT), b"?");
            world.enters(UPLINK, &build).seen().destination().0
        };
        let first = to(40000);
        assert!((40001..40030).all(|port| to(port) == first));
    }

    /// 11.3: the time runs from the last new connection, not from the first one; then the set decides again.
    fn the_time_runs_from_the_last_new_connection<A>() {
        let (few, many) = (remotes::<A>(3), remotes::<A>(9));
        let to = (A::NODE, NODE_PORT);
        let anew = sticky::<A>(&many);
        // A client that the larger set sends elsewhere than the smaller one.
        let moves = |client: &u8| {
            backend(&sticky::<A>(&few), *client, 1, to) != backend(&anew, *client, 1, to)
        };
        let client = (1..100).find(moves).expect("some client moves");
        let mut world = sticky::<A>(&few);
        let first = backend(&world, client, 1, to);
        replace(&mut world, &many);
        for port in 2..9 {
            world.wait(AFFINITY_SECS);
            assert_eq!(backend(&world, client, port, to), first, "connection {port}");
        }
        world.wait(AFFINITY_SECS + 1);
        assert_eq!(backend(&world, client, 9, to), backend(&anew, client, 2, to));
    }

    /// 11.3: packets of a connection prolong nothing, and an expired affinity moves no connection.
    fn packets_of_a_connection_prolong_nothing<A>() {
        let mut world = sticky::<A>(&remotes(3));
        let (client, to) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let (source, backend) = world.connect(client, to);
        let used = |world: &World<A>| {
            let key = AffinityKey { client: A::client(1), service: 1 };
            world.tables().affinity.get(&key).expect("remembered").used
        };
        let before = used(&world);
        for _ in 0..5 {
            world.wait(AFFINITY_SECS - 1);
            let data = world.enters(UPLINK, &Build::tcp(client, to, ACK | PSH));
            assert_eq!(data.seen().ends(), (source, backend));
            world.enters(FABRIC, &Build::tcp(backend, source, ACK)).is(Outcome::ReplyRedirected);
        }
        assert_eq!(used(&world), before);
    }

    /// 11.4: an endpoint that is gone is left, and the client stays with the next one, also when the first comes back.
    fn an_endpoint_that_is_gone_is_left_for_good<A>() {
        let mut world = sticky::<A>(&remotes(5));
        let to = (A::NODE, NODE_PORT);
        let first = backend(&world, 1, 1, to);
        let others: Vec<_> = remotes::<A>(5).into_iter().filter(|one| one.0 != first).collect();
        replace(&mut world, &others);
        let second = backend(&world, 1, 2, to);
        assert_ne!(second, first);
        replace(&mut world, &remotes(5));
        assert_eq!(backend(&world, 1, 3, to), second);
    }

    /// 11.5: a front end whose policy leaves other endpoints never sends a client beyond them.
    fn the_policy_of_a_front_end_comes_first<A>() {
        let mut world = sticky::<A>(&remotes(5));
        backend(&world, 1, 1, (A::CLUSTER_IP, PORT));
        let local = [(A::local(1), TARGET)];
        replace(&mut world, &local);
        assert_eq!(backend(&world, 1, 2, (A::NODE, NODE_PORT)), A::local(1));
    }

    /// 11.6: without affinity, and for another service port, what is remembered does not count.
    fn only_the_same_service_port_remembers<A>() {
        let world = with(sticky::<A>(&remotes(7)), |frontend| frontend.affinity_secs = 0);
        let to = |world: &World<A>| -> BTreeSet<A> {
            (1..60).map(|port| backend(world, 1, port, (A::NODE, NODE_PORT))).collect()
        };
        assert!(to(&world).len() > 1, "off");
        assert!(world.tables().affinity.is_empty());
        let sent: BTreeSet<A> = (1..60).map(|service| {
            let world = with(sticky::<A>(&remotes(7)), |frontend| frontend.service = service);
            backend(&world, 1, 1, (A::NODE, NODE_PORT))
        }).collect();
        assert!(sent.len() > 1, "each service port sends a client where it likes");
    }

    /// Every endpoint of a set is found again, whatever the size of the set.
    fn every_endpoint_is_found_again<A>() {
        for len in 1..=33 {
            let world = sticky::<A>(&remotes(len));
            for (index, (address, port)) in remotes::<A>(len).into_iter().enumerate() {
                let client = index as u8 + 1;
                let key = AffinityKey { client: A::client(client), service: 1 };
                let sent = nodeport_common::Affinity {
                    address,
                    port: port.to_be_bytes(),
                    pad: [0; 2],
                    used: world.node.jiffies,
                };
                world.tables().affinity.put(key, sent).expect("room");
                assert_eq!(backend(&world, client, 7, (A::NODE, NODE_PORT)), address, "{index} of {len}");
            }
        }
    }

    /// C3: what is not carried is not remembered.
    fn a_connection_that_is_refused_leaves_nothing<A>() {
        let world = sticky::<A>(&[]);
        world.enters(UPLINK, &Build::tcp((A::client(1), 1), (A::NODE, NODE_PORT), SYN)).is(Outcome::RejectedNoEndpoint);
        assert!(world.tables().affinity.is_empty());
        let refused = Build::tcp((A::NODE, 1), (A::NODE, NODE_PORT), SYN);
        world.enters(UPLINK, &refused).passed_untouched(Outcome::MartianSource);
        assert!(world.tables().affinity.is_empty());
    }
}

/// A load balancer address that only clients (not [`Places::ELSEWHERE`]) may use.
fn restricted<A: Places>(backends: &[End<A>]) -> World<A> {
    let mut world = World::<A>::new().node_port(backends);
    let key = frontend_key(A::ELSEWHERE, PORT, protocol::TCP);
    let flags = frontend_flags::LOAD_BALANCER | frontend_flags::SOURCE_RANGES;
    world.front_end(key, flags, backends, backends);
    let flags = address_flags::VIRTUAL;
    let tables = world.tables_mut();
    tables.addresses.insert(A::ELSEWHERE, Address { flags });
    tables.sources.insert(range(1, A::client(0), A::PREFIX));
    world
}

fn range<A>(service: u32, address: A, bits: usize) -> SourceRangeKey<A> {
    SourceRangeKey {
        prefix_len: 32 + bits as u32,
        service: service.to_be_bytes(),
        address,
    }
}

both! {
    /// 14.2: who is in no range is dropped in silence; a Pod of this node, too.
    fn only_sources_in_a_range_get_in<A>() {
        let world = restricted::<A>(&remotes(3));
        let to = (A::ELSEWHERE, PORT);
        world.enters(UPLINK, &Build::tcp((A::client(9), 1), to, SYN)).is(Outcome::ToRemoteBackend);
        let stranger = Build::tcp((A::remote(200), 1), to, SYN);
        world.enters(UPLINK, &stranger).was_dropped(Outcome::DroppedSourceRange);
        let pod = Build::tcp((A::local(1), 1), to, SYN);
        world.enters(POD1, &pod).was_dropped(Outcome::DroppedSourceRange);
        assert_eq!(world.sizes(), (0, 2), "one flow");
    }

    /// 14.1: the ranges are nothing to other front ends of the service port; the ranges of others are nothing to it.
    fn ranges_count_for_their_own_front_ends_only<A>() {
        let mut world = restricted::<A>(&remotes(3));
        let stranger = (A::remote(200), 1);
        world.enters(UPLINK, &Build::tcp(stranger, (A::NODE, NODE_PORT), SYN)).is(Outcome::ToRemoteBackend);
        world.tables_mut().sources.insert(range(2, A::remote(0), A::PREFIX));
        let refused = Build::tcp(stranger, (A::ELSEWHERE, PORT), SYN);
        world.enters(UPLINK, &refused).was_dropped(Outcome::DroppedSourceRange);
        world.tables_mut().sources.insert(range(1, A::remote(200), 8 * size_of::<A>()));
        world.enters(UPLINK, &refused).is(Outcome::ToRemoteBackend);
    }

    /// 14.5: without an endpoint, who may come in is refused, and who may not is dropped.
    fn ranges_come_before_the_question_for_endpoints<A>() {
        let world = restricted::<A>(&[]);
        let to = (A::ELSEWHERE, PORT);
        world.enters(UPLINK, &Build::tcp((A::client(9), 1), to, SYN)).is(Outcome::RejectedNoEndpoint);
        let stranger = Build::tcp((A::remote(200), 1), to, SYN);
        world.enters(UPLINK, &stranger).was_dropped(Outcome::DroppedSourceRange);
    }

    /// 14.6: connections that are there survive a tightening.
    fn a_tightening_ends_no_connection<A>() {
        let mut world = restricted::<A>(&remotes(3));
        let (client, to) = ((A::client(9), 40000), (A::ELSEWHERE, PORT));
        let (source, backend) = world.connect(client, to);
        world.tables_mut().sources.clear();
        let data = world.enters(UPLINK, &Build::tcp(client, to, ACK | PSH));
        assert_eq!(data.seen().ends(), (source, backend));
        let next = Build::tcp((A::client(9), 40001), to, SYN);
        world.enters(UPLINK, &next).was_dropped(Outcome::DroppedSourceRange);
    }
}
