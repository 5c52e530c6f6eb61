//! Reply tuples are unique: source ports, and the order of lookups (edge-cases A; B15, G12).

use nodeport_common::{Outcome, PortSegment, frontend_flags, protocol};

use crate::both;
use crate::packets::{ACK, Build, End, FIN, PSH, SYN};
use crate::world::{
    FABRIC, NODE_PORT, POD1, PORT, Places, TARGET, UPLINK, World, flow_key, node_port_key,
};

/// A client opens the `n`-th of many connections; returns the source port that the backend sees.
fn connect_nth<A: Places>(world: &World<A>, n: u16) -> u16 {
    let client = (A::client((n / 300) as u8), 20000 + n % 300);
    let (source, _) = world.connect(client, (A::NODE, NODE_PORT));
    source.1
}

/// Both ends of a connection send FIN.
fn close<A: Places>(world: &World<A>, client: End<A>, source: End<A>, backend: End<A>) {
    let fin = Build::tcp(client, (A::NODE, NODE_PORT), FIN | ACK);
    world.enters(UPLINK, &fin).is(Outcome::ToRemoteBackend);
    let fin = Build::tcp(backend, source, FIN | ACK);
    world.enters(FABRIC, &fin).is(Outcome::ReplyRedirected);
}

/// One client port reaches one local backend by two front ends: the flows have reply tuples of their own, replies go to the right one.
fn two_ways_to_one_backend<A: Places>(world: &World<A>, first: End<A>, second: End<A>) {
    let client = (A::client(1), 40000);
    let backend = (A::local(1), TARGET);
    let syn = world.enters(UPLINK, &Build::tcp(client, first, SYN));
    assert_eq!(syn.seen().ends(), (client, backend));
    let other = world.enters(UPLINK, &Build::tcp(client, second, SYN));
    other.is(Outcome::ToLocalBackend);
    // The address is the client's, the port is not: it is the first of ours.
    let moved = (A::client(1), 1024);
    assert_eq!(other.seen().ends(), (moved, backend));
    for (to, front_end) in [(client, first), (moved, second)] {
        let reply = world.leaves(UPLINK, &Build::tcp(backend, to, SYN | ACK));
        reply.is(Outcome::ReplyFromStack);
        assert_eq!(reply.seen().ends(), (front_end, client));
    }
}

both! {
    /// A client whose connection to a local backend is over opens another one from the same port, to the backend itself (a host process of the
    /// cluster does): its replies are nobody's, the first of them and all that follow.
    fn a_direct_connection_by_the_port_of_one_that_is_over_is_left_alone<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let (client, backend) = ((A::client(1), 40000), (A::local(1), TARGET));
        let front_end = (A::NODE, NODE_PORT);
        for (there, back) in [(SYN, SYN | ACK), (ACK, ACK | PSH), (FIN | ACK, FIN | ACK)] {
            world.enters(UPLINK, &Build::tcp(client, front_end, there)).is(Outcome::ToLocalBackend);
            let reply = world.leaves(UPLINK, &Build::tcp(backend, client, back));
            reply.is(Outcome::ReplyFromStack);
            assert_eq!(reply.seen().source(), front_end);
        }
        world.enters(UPLINK, &Build::tcp(client, backend, SYN)).passed_untouched(Outcome::Untouched);
        for back in [SYN | ACK, ACK | PSH, FIN | ACK] {
            let reply = world.leaves(UPLINK, &Build::tcp(backend, client, back));
            reply.passed_untouched(Outcome::Untouched);
        }
        assert_eq!(world.sizes(), (0, 0));
        // A connection that is not over keeps its replies, whatever flags they have (a retransmitted SYN with ACK).
        world.enters(UPLINK, &Build::tcp(client, front_end, SYN));
        for _ in 0..2 {
            let reply = world.leaves(UPLINK, &Build::tcp(backend, client, SYN | ACK));
            reply.is(Outcome::ReplyFromStack);
        }
    }
}

both! {
    /// A1: two clients with one source port, one backend. Each has its own source port towards the backend, and its own replies.
    fn two_clients_with_one_source_port_do_not_meet<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let front_end = (A::NODE, NODE_PORT);
        let first = world.connect((A::client(1), 40000), front_end);
        let second = world.connect((A::client(2), 40000), front_end);
        assert_eq!(first, ((A::FABRIC_ADDRESS, 1024), (A::remote(7), TARGET)));
        assert_eq!(second, ((A::FABRIC_ADDRESS, 1025), (A::remote(7), TARGET)));
        for (n, (source, backend)) in [(1, first), (2, second)] {
            let data = Build::tcp(backend, source, ACK | PSH).with_payload(99);
            let reply = world.enters(FABRIC, &data);
            reply.is(Outcome::ReplyRedirected).left_by(UPLINK);
            assert_eq!(reply.seen().ends(), (front_end, (A::client(n), 40000)));
        }
    }

    /// A2: as many connections to one backend as there are ports, none lost; then the counter tells, and what is closed is taken over.
    fn every_source_port_is_used_before_one_is_refused<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        for n in 0..33512 {
            let expected = if n < 28976 { 1024 + n } else { 61000 + (n - 28976) };
            assert_eq!(connect_nth(&world, n), expected);
        }
        assert_eq!(world.sizes(), (2 * 33512, 0));
        let front_end = (A::NODE, NODE_PORT);
        let late = Build::tcp((A::client(200), 50000), front_end, SYN);
        world.enters(UPLINK, &late).was_dropped(Outcome::SnatPortsExhausted);
        assert_eq!(world.sizes(), (2 * 33512, 0));

        // The search goes on where it ended, 128 ports further; its second half takes over closed connections.
        let client = (A::client(0), 20200);
        close(&world, client, (A::FABRIC_ADDRESS, 1224), (A::remote(7), TARGET));
        let again = world.enters(UPLINK, &late);
        again.is(Outcome::ToRemoteBackend);
        assert_eq!(again.seen().source(), (A::FABRIC_ADDRESS, 1224));
        assert_eq!(world.flow(protocol::TCP, client, front_end), None);
    }

    /// A3: two NodePorts.
    fn two_node_ports_of_one_backend_have_replies_of_their_own<A>() {
        let mut world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let set = [(A::local(1), TARGET)];
        world.front_end(node_port_key(30081, protocol::TCP), frontend_flags::NODE_PORT, &set, &set);
        two_ways_to_one_backend(&world, (A::NODE, NODE_PORT), (A::NODE, 30081));
    }

    /// A3: a NodePort and a ClusterIP.
    fn a_node_port_and_a_cluster_ip_have_replies_of_their_own<A>() {
        let backend = [(A::local(1), TARGET)];
        let world = World::<A>::new().node_port(&backend).cluster_ip(&backend);
        two_ways_to_one_backend(&world, (A::NODE, NODE_PORT), (A::CLUSTER_IP, PORT));
    }

    /// A3: two addresses of one node.
    fn two_node_addresses_have_replies_of_their_own<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        two_ways_to_one_backend(&world, (A::NODE, NODE_PORT), (A::NODE_ALIAS, NODE_PORT));
    }

    /// A3, B15: the backend waits for late packets of the first one (`TIME_WAIT`), and would answer the second one's SYN as one of them.
    fn the_port_of_a_connection_that_is_over_is_no_other_front_end_s<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let (client, backend) = ((A::client(1), 40000), (A::local(1), TARGET));
        let asks = |to, flags| world.enters(UPLINK, &Build::tcp(client, to, flags)).seen().source();
        let node_port = (A::NODE, NODE_PORT);
        for (there, back) in [(SYN, SYN | ACK), (ACK, ACK | PSH), (FIN | ACK, FIN | ACK)] {
            assert_eq!(asks(node_port, there), client);
            world.leaves(UPLINK, &Build::tcp(backend, client, back)).is(Outcome::ReplyFromStack);
        }
        assert_eq!(asks((A::NODE_ALIAS, NODE_PORT), SYN), (A::client(1), 1024));
        // To whom it was connected, the backend knows it again by what follows its last one (B1).
        assert_eq!(asks(node_port, SYN), client);
    }

    /// A4: even where a source port equals a live NodePort, the backend's reply is a reply and no request.
    fn a_reply_to_a_source_port_that_is_a_node_port_is_a_reply<A>() {
        let mut world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        world.node.control.snat = [
            PortSegment { first: NODE_PORT, count: 1 },
            PortSegment::default(),
        ];
        let client = (A::client(1), 40000);
        let (source, _) = world.connect(client, (A::NODE, NODE_PORT));
        assert_eq!(source, (A::FABRIC_ADDRESS, NODE_PORT));
        assert_eq!(world.sizes(), (2, 0));
    }

    /// A8: TCP and UDP with the same addresses and ports live side by side.
    fn tcp_and_udp_with_the_same_numbers_are_two_flows<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let backend = (A::local(1), TARGET);
        let tcp = world.enters(UPLINK, &Build::tcp(client, front_end, SYN));
        let udp = world.enters(UPLINK, &Build::udp(client, front_end, b"question"));
        assert_eq!(tcp.seen().ends(), (client, backend));
        assert_eq!(udp.seen().ends(), (client, backend));
        assert_eq!(world.sizes(), (0, 4));
        let answer = world.leaves(UPLINK, &Build::udp(backend, client, b"answer"));
        assert_eq!(answer.seen().ends(), (front_end, client));
        let tcp = world.flow(protocol::TCP, backend, client).unwrap();
        let udp = world.flow(protocol::UDP, backend, client).unwrap();
        assert_eq!((tcp.packets, udp.packets), (0, 1));
    }

    /// A10: a backend opens a connection of its own, from its service port, to the address and port that we use towards it.
    fn a_connection_from_a_backend_is_no_reply<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let client = (A::client(1), 40000);
        let (source, backend) = world.connect(client, (A::NODE, NODE_PORT));
        let syn = world.enters(FABRIC, &Build::tcp(backend, source, SYN));
        syn.passed_untouched(Outcome::Untouched);
        // The flow did not mind.
        let data = world.enters(FABRIC, &Build::tcp(backend, source, ACK));
        assert_eq!(data.seen().destination(), client);
    }

    /// A10, where the stack carries the flow.
    fn a_connection_from_a_local_backend_is_no_reply<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let client = (A::client(1), 40000);
        let backend = (A::local(1), TARGET);
        world.enters(UPLINK, &Build::tcp(client, (A::NODE, NODE_PORT), SYN));
        let syn = Build::tcp(backend, client, SYN);
        world.enters(POD1, &syn).passed_untouched(Outcome::Untouched);
        world.leaves(UPLINK, &syn).passed_untouched(Outcome::Untouched);
    }

    /// B15: a port that was just released is the last to be used again.
    fn a_released_port_rests<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let client = (A::client(1), 40000);
        let (source, backend) = world.connect(client, (A::NODE, NODE_PORT));
        close(&world, client, source, backend);
        let again = world.enters(UPLINK, &Build::tcp(client, (A::NODE, NODE_PORT), SYN));
        assert_eq!(source, (A::FABRIC_ADDRESS, 1024));
        assert_eq!(again.seen().source(), (A::FABRIC_ADDRESS, 1025));
    }

    /// G12: endpoints with one address and different ports are different endpoints.
    fn two_ports_of_one_address_are_two_backends<A>() {
        let backends = [(A::remote(7), 8080), (A::remote(7), 8081)];
        let world = World::<A>::new().node_port(&backends);
        let mut used = std::collections::BTreeSet::new();
        for port in 40000..40020 {
            let client = (A::client(1), port);
            let syn = world.enters(UPLINK, &Build::tcp(client, (A::NODE, NODE_PORT), SYN));
            let (source, backend) = syn.seen().ends();
            used.insert(backend.1);
            let answer = world.enters(FABRIC, &Build::tcp(backend, source, SYN | ACK));
            assert_eq!(answer.seen().destination(), client);
        }
        assert_eq!(used.into_iter().collect::<Vec<_>>(), [8080, 8081]);
    }
}

both! {
    /// Behaviours 9.1 and A5: the port that the backend sees lies in the configured segments, whatever the client's is.
    fn the_client_s_port_is_never_kept_with_our_address<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let syn = Build::tcp((A::client(1), 2000), (A::NODE, NODE_PORT), SYN);
        assert_eq!(world.enters(UPLINK, &syn).seen().source(), (A::FABRIC_ADDRESS, 1024));
        let reply = flow_key(protocol::TCP, (A::remote(7), TARGET), (A::FABRIC_ADDRESS, 2000));
        assert!(world.tables().entry(&reply).is_none());
    }
}
