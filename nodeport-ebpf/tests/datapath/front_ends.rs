//! Which packets are for a front end at all (edge-cases J1-J5; behaviours 2.9, 6.2, 6.12, 6.13, 8, 19).

use std::collections::BTreeMap;

use nodeport_common::{Address, Outcome, V4, V6, address_flags, frontend_flags, protocol};

use crate::both;
use crate::packets::{ACK, Build, End, PSH, SYN};
use crate::world::{
    FABRIC, NODE_PORT, POD1, PORT, Places, TARGET, UPLINK, World, flow_key, frontend_key,
};

#[track_caller]
fn untouched<A: Places>(world: &World<A>, device: u32, build: &Build<A>) {
    world
        .enters(device, build)
        .passed_untouched(Outcome::Untouched);
    assert_eq!(world.sizes(), (0, 0));
}

fn syn<A: Places>(to: End<A>) -> Build<A> {
    Build::tcp((A::client(1), 40000), to, SYN)
}

both! {
    /// J1, 6.12: a port in the NodePort range without a Service is the host's.
    fn a_port_without_a_service_is_untouched<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        for port in [NODE_PORT + 1, 32767, 22, 10250] {
            untouched(&world, UPLINK, &syn((A::NODE, port)));
            untouched(&world, UPLINK, &Build::udp((A::client(1), 40000), (A::NODE, port), b"?"));
        }
    }

    /// 1.7: a NodePort for TCP is none for UDP.
    fn the_protocol_matters<A>() {
        let mut world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        world.tables_mut().frontends.retain(|key, _| key.protocol == protocol::TCP);
        let datagram = Build::udp((A::client(1), 40000), (A::NODE, NODE_PORT), b"?");
        untouched(&world, UPLINK, &datagram);
        world.enters(UPLINK, &syn((A::NODE, NODE_PORT))).is(Outcome::ToRemoteBackend);
    }

    /// J2, 18.4: the answer to a connection of this host that happens to use a NodePort's number.
    fn a_connection_of_this_host_keeps_its_answers<A>() {
        for number in [protocol::TCP, protocol::UDP] {
            let mut world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
            let (server, host) = ((A::client(9), 443), (A::NODE, NODE_PORT));
            world.tables_mut().sockets.insert(flow_key(number, server, host));
            let answer = match number {
                protocol::TCP => Build::tcp(server, host, ACK | PSH).with_payload(10),
                _ => Build::udp(server, host, b"answer"),
            };
            untouched(&world, UPLINK, &answer);
        }
    }

    /// J3, 6.14: the NodePort wins over a listening daemon; a connection that the daemon accepted before stays with it.
    fn a_node_port_wins_over_a_listener_but_not_over_its_connections<A>() {
        let mut world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let old = (A::client(9), 40000);
        let host = (A::NODE, NODE_PORT);
        world.tables_mut().sockets.insert(flow_key(protocol::TCP, old, host));
        untouched(&world, UPLINK, &Build::tcp(old, host, ACK | PSH));
        world.enters(UPLINK, &syn(host)).is(Outcome::ToRemoteBackend);
    }

    /// J4: the number alone is nothing: what passes through to another host is untouched, as is a Pod's traffic to the outside.
    fn transit_with_a_node_port_s_number_is_untouched<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        untouched(&world, UPLINK, &syn((A::ELSEWHERE, NODE_PORT)));
        untouched(&world, UPLINK, &syn((A::local(1), NODE_PORT)));
        let out = Build::tcp((A::local(1), 40000), (A::ELSEWHERE, NODE_PORT), SYN);
        untouched(&world, POD1, &out);
        world.leaves(UPLINK, &out).passed_untouched(Outcome::Untouched);
        let mine = Build::tcp((A::NODE, NODE_PORT), (A::ELSEWHERE, 443), SYN);
        world.leaves(UPLINK, &mine).passed_untouched(Outcome::Untouched);
    }

    /// 12: an address of the node that accepts no NodePorts.
    fn an_address_that_accepts_none<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        untouched(&world, UPLINK, &syn((A::GATEWAY, NODE_PORT)));
    }

    /// J5: a ClusterIP does not answer on a NodePort's number, nor the node on a ClusterIP's.
    fn front_ends_answer_on_their_own_ports_only<A>() {
        let backends = [(A::remote(7), TARGET)];
        let world = World::<A>::new().node_port(&backends).cluster_ip(&backends);
        untouched(&world, UPLINK, &syn((A::CLUSTER_IP, NODE_PORT)));
        untouched(&world, UPLINK, &syn((A::NODE, PORT)));
        world.enters(UPLINK, &syn((A::CLUSTER_IP, PORT))).is(Outcome::ToRemoteBackend);
        world.enters(UPLINK, &syn((A::NODE, NODE_PORT))).is(Outcome::ToRemoteBackend);
    }

    /// 2.9, J6: a front end with the address of this node wins over a NodePort with the same number, on that address.
    fn an_address_of_its_own_wins<A>() {
        let mut world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let external = [(A::remote(8), TARGET)];
        let key = frontend_key(A::NODE, NODE_PORT, protocol::TCP);
        world.front_end(key, frontend_flags::EXTERNAL_IP, &external, &external);
        let flags = address_flags::HOST | address_flags::NODE_PORT | address_flags::VIRTUAL;
        world.tables_mut().addresses.insert(A::NODE, Address { flags });
        let backend = |node| world.enters(UPLINK, &syn((node, NODE_PORT))).seen().destination().0;
        assert_eq!(backend(A::NODE), A::remote(8));
        assert_eq!(backend(A::NODE_ALIAS), A::remote(7));
    }

    /// 6.3: an external address works wherever the packet passes this node, though no device has it.
    fn an_address_that_no_device_has<A>() {
        let mut world = World::<A>::new();
        let backends = [(A::remote(7), TARGET)];
        let key = frontend_key(A::ELSEWHERE, PORT, protocol::TCP);
        world.front_end(key, frontend_flags::EXTERNAL_IP, &backends, &backends);
        let flags = address_flags::VIRTUAL;
        world.tables_mut().addresses.insert(A::ELSEWHERE, Address { flags });
        world.enters(UPLINK, &syn((A::ELSEWHERE, PORT))).is(Outcome::ToRemoteBackend);
        let from_pod = Build::tcp((A::local(1), 40000), (A::ELSEWHERE, PORT), SYN);
        world.enters(POD1, &from_pod).is(Outcome::ToRemoteBackend);
    }

    /// 6.13: what is neither TCP nor UDP.
    fn other_protocols_are_untouched<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        for number in [2, 47, 50, 132, 136] {
            let build = world.addressed(UPLINK, &syn::<A>((A::NODE, NODE_PORT)));
            let mut bytes = build.frame();
            bytes[if A::HEADER_LEN == 20 { 23 } else { 20 }] = number;
            let trip = world.enters_as(UPLINK, nodeport_ebpf::sim::Frame::new(bytes));
            let outcome = trip.verdict().outcome;
            trip.passed_untouched(outcome);
            let expected: &[Outcome] = &[Outcome::OtherProtocol, Outcome::UnknownHeaders];
            assert!(expected.contains(&outcome), "{outcome:?}");
        }
        let mut arp = vec![0xff; 12];
        arp.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp.resize(60, 0);
        let trip = world.enters_as(UPLINK, nodeport_ebpf::sim::Frame::new(arp));
        trip.passed_untouched(Outcome::OtherProtocol);
    }

    /// 8.1: every connection chooses uniformly, even those of one client.
    fn connections_spread_evenly<A>() {
        let backends: Vec<_> = (1..=7).map(|n| (A::remote(n), TARGET)).collect();
        let world = World::<A>::new().node_port(&backends);
        let mut counts = BTreeMap::new();
        for port in 0..7000 {
            let build = Build::tcp((A::client(1), 20000 + port), (A::NODE, NODE_PORT), SYN);
            let backend = world.enters(UPLINK, &build).seen().destination().0;
            *counts.entry(backend).or_insert(0_u32) += 1;
        }
        assert_eq!(counts.len(), 7);
        // 99.9 % of fair draws lie below 22.5, with six degrees of freedom.
        let chi: f64 = counts.values().map(|n| (f64::from(*n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 22.5, "{counts:?}: {chi}");
    }

    /// 8.2: whatever happens to the set, a connection keeps its backend.
    fn a_connection_keeps_its_backend<A>() {
        let backends: Vec<_> = (1..=7).map(|n| (A::remote(n), TARGET)).collect();
        let mut world = World::<A>::new().node_port(&backends);
        let client = (A::client(1), 40000);
        let (source, backend) = world.connect(client, (A::NODE, NODE_PORT));
        world.tables_mut().backends.rotate_left(3);
        let data = world.enters(UPLINK, &Build::tcp(client, (A::NODE, NODE_PORT), ACK | PSH));
        assert_eq!(data.seen().ends(), (source, backend));
        let reply = world.enters(FABRIC, &Build::tcp(backend, source, ACK | PSH));
        assert_eq!(reply.seen().ends(), ((A::NODE, NODE_PORT), client));
    }
}

/// 19.3, D10: a NodePort of one family is none in the other.
#[test]
fn families_do_not_mix() {
    let world = World::<V4>::new().node_port(&[(V4::remote(7), TARGET)]);
    let six = World::<V6>::new();
    let frame = six
        .addressed(UPLINK, &syn::<V6>((V6::NODE, NODE_PORT)))
        .frame();
    let mut frame = nodeport_ebpf::sim::Frame::new(frame);
    let verdict = world.node.receive(UPLINK, &mut frame).tc.unwrap();
    assert_eq!(verdict.outcome, Outcome::Untouched);
}
