//! What a process asks of its socket (edge-cases G2-G5, G7, G8, G12, G14, J12; behaviours 6.2, 6.7, 6.8, 7.1, 7.2, 8.1, 8.2, 10.1, 13.5, 17.3).

use std::collections::BTreeSet;

use nodeport_common::{
    Address, AffinityKey, Hook, Outcome, ServingKey, SourceRangeKey, address_flags, control_flags,
    frontend_flags, protocol, socket_flags,
};
use nodeport_ebpf::path::socket::{Action, Answer, Call, mapped};

use crate::both;
use crate::packets::{Build, End, SYN};
use crate::world::{NODE_PORT, POD1, PORT, Places, TARGET, World, frontend_key, node_port_key};

const TCP: u8 = protocol::TCP;
const UDP: u8 = protocol::UDP;
/// Cookies of network namespaces: the node's own, and a Pod's.
const HOST: [u32; 2] = [1, 0];
const POD: [u32; 2] = [4100, 0];

/// A node whose sockets are translated.
fn node<A: Places>() -> World<A> {
    let mut world = World::<A>::new();
    world.node.control.host_netns = HOST;
    world
}

/// A socket of a namespace, with an address.
fn call<A: Places>(netns: [u32; 2], cookie: u32, number: u8, (address, port): End<A>) -> Call<A> {
    Call {
        address,
        port: port.to_be_bytes(),
        protocol: number,
        cookie: [cookie, 0],
        netns,
        process: 7,
    }
}

/// Where the socket is aimed.
#[track_caller]
fn aimed<A: Places>(answer: &Answer<A>) -> End<A> {
    assert_eq!(answer.action, Action::Rewrite, "{:?}", answer.outcome);
    (answer.address, u16::from_be_bytes(answer.port))
}

#[track_caller]
fn passes<A: Places>(answer: &Answer<A>, outcome: Outcome) {
    assert_eq!((answer.action, answer.outcome), (Action::Pass, outcome));
}

both! {
    /// G2, G4: the ClusterIP and the NodePort of an own address, from the node and from a Pod.
    fn a_front_end_becomes_an_endpoint_and_the_peer_is_the_front_end<A>() {
        let world = node::<A>().cluster_ip(&[(A::remote(7), TARGET)]).node_port(&[(A::local(1), TARGET)]);
        let pairs = [
            ((A::CLUSTER_IP, PORT), (A::remote(7), TARGET), Outcome::ToRoutedBackend),
            ((A::NODE, NODE_PORT), (A::local(1), TARGET), Outcome::ToLocalBackend),
        ];
        let mut cookie = 0;
        for (front_end, endpoint, outcome) in pairs {
            for (netns, number) in [(HOST, TCP), (HOST, UDP), (POD, TCP), (POD, UDP)] {
                cookie += 1;
                let answer = world.node.connect(&call(netns, cookie, number, front_end));
                assert_eq!((aimed(&answer), answer.outcome), (endpoint, outcome));
                let peer = world.node.name(&call(netns, cookie, number, endpoint));
                assert_eq!((aimed(&peer), peer.outcome), (front_end, Outcome::PeerNamed));
            }
        }
        assert_eq!(world.node.count(Hook::Socket, Outcome::PeerNamed), 8);
    }

    /// 6.2, 6.12, 6.13: other ports, other addresses, another protocol, and the endpoint itself.
    fn what_is_no_front_end_is_untouched<A>() {
        let world = node::<A>().cluster_ip(&[(A::remote(7), TARGET)]);
        for to in [(A::CLUSTER_IP, PORT + 1), (A::NODE, PORT), (A::remote(7), TARGET), (A::ELSEWHERE, PORT)] {
            passes(&world.node.connect(&call(HOST, 1, TCP, to)), Outcome::Untouched);
            passes(&world.node.send(&call(POD, 1, UDP, to)), Outcome::Untouched);
        }
        let sctp = call(HOST, 1, protocol::SCTP, (A::CLUSTER_IP, PORT));
        passes(&world.node.connect(&sctp), Outcome::OtherProtocol);
        assert!(world.tables().sockets_known.is_empty());
    }

    /// A peer is told by another name only to the socket that asked for that name, and only for that endpoint and protocol (G12).
    fn a_peer_is_renamed_for_its_own_socket_only<A>() {
        let world = node::<A>().cluster_ip(&[(A::remote(7), TARGET)]);
        aimed(&world.node.connect(&call(POD, 1, TCP, (A::CLUSTER_IP, PORT))));
        for other in [
            call(POD, 2, TCP, (A::remote(7), TARGET)),
            call(POD, 1, UDP, (A::remote(7), TARGET)),
            call(POD, 1, TCP, (A::remote(7), TARGET + 1)),
            call(POD, 1, TCP, (A::remote(8), TARGET)),
        ] {
            passes(&world.node.name(&other), Outcome::Untouched);
        }
    }

    /// 7.1, 7.2, 7.4: processes and Pods of this node get the cluster's endpoints, also if the policy is Local.
    fn sockets_get_what_clients_inside_get<A>() {
        let mut world = node::<A>();
        let flags = frontend_flags::NODE_PORT | frontend_flags::POLICY_LOCAL | frontend_flags::DROP_IF_EMPTY;
        world.front_end(node_port_key(NODE_PORT, TCP), flags, &[], &[(A::remote(7), TARGET)]);
        for netns in [HOST, POD] {
            let answer = world.node.connect(&call(netns, 1, TCP, (A::NODE, NODE_PORT)));
            assert_eq!(aimed(&answer), (A::remote(7), TARGET));
        }
    }

    /// 6.7, 6.8: refused at once without endpoints; with endpoints elsewhere and internal policy Local, unreachable.
    fn without_an_endpoint_a_call_fails_and_says_why<A>() {
        let mut world = node::<A>().cluster_ip(&[]);
        let flags = frontend_flags::CLUSTER_IP | frontend_flags::DROP_IF_EMPTY | frontend_flags::LOCAL_DROP_IF_EMPTY;
        world.front_end(frontend_key(A::CLUSTER_IP, 443, TCP), flags, &[], &[]);
        for (number, port, action, outcome) in [
            (TCP, PORT, Action::Refuse, Outcome::RejectedNoEndpoint),
            (UDP, PORT, Action::Refuse, Outcome::RejectedNoEndpoint),
            (TCP, 443, Action::Unreachable, Outcome::DroppedNoLocalEndpoint),
        ] {
            let answer = world.node.connect(&call(POD, 1, number, (A::CLUSTER_IP, port)));
            assert_eq!((answer.action, answer.outcome), (action, outcome));
        }
        let answer = world.node.send(&call(HOST, 1, UDP, (A::CLUSTER_IP, PORT)));
        assert_eq!(answer.action, Action::Refuse);
        assert!(world.tables().sockets_known.is_empty());
    }

    /// 8.1: each new socket may get another endpoint.
    fn sockets_spread_over_the_endpoints<A>() {
        let world = node::<A>().cluster_ip(&[(A::remote(7), TARGET), (A::remote(8), TARGET), (A::local(1), TARGET)]);
        let got: BTreeSet<_> = (0..50)
            .map(|cookie| aimed(&world.node.connect(&call(POD, cookie, TCP, (A::CLUSTER_IP, PORT)))))
            .collect();
        assert_eq!(got.len(), 3);
    }

    /// 8.2, 17.3, 17.4: datagrams of one socket to one front end stay at their endpoint while it serves, whatever else changes.
    fn a_sending_socket_keeps_its_endpoint_while_that_serves<A>() {
        let mut world = node::<A>();
        let key = frontend_key(A::CLUSTER_IP, PORT, UDP);
        let ends = |names: &[u8]| names.iter().map(|n| (A::remote(*n), TARGET)).collect::<Vec<_>>();
        let mut program = |names: &[u8]| {
            world.front_end(key, frontend_flags::CLUSTER_IP, &ends(names), &ends(names));
            let tables = world.tables_mut();
            tables.frontends.get_mut(&key).unwrap().serving = names.len() as u32;
            let serving = ends(names).into_iter().map(|(address, port)| ServingKey {
                service: 1, address, port: port.to_be_bytes(), pad: [0; 2],
            });
            tables.serving = serving.collect();
            world.node.control.endpoint_generation += 1;
            let ask = call(POD, 1, UDP, (A::CLUSTER_IP, PORT));
            aimed(&world.node.send(&ask))
        };
        assert_eq!(program(&[1]), (A::remote(1), TARGET));
        for more in 2..9 {
            assert_eq!(program(&(1..=more).collect::<Vec<_>>()), (A::remote(1), TARGET));
        }
        assert_eq!(program(&[5]), (A::remote(5), TARGET));
        // None serves: kept, as a flow would be.
        assert_eq!(program(&[]), (A::remote(5), TARGET));
    }

    /// The way back is made anew if it was pushed out: the process would throw away answers from whom it did not ask.
    fn a_sending_socket_whose_way_back_is_lost_gets_it_again<A>() {
        let mut world = node::<A>().cluster_ip(&[(A::remote(7), TARGET)]);
        let ask = call(POD, 1, UDP, (A::CLUSTER_IP, PORT));
        aimed(&world.node.send(&ask));
        let key = nodeport_common::SocketKey {
            address: A::remote(7), port: TARGET.to_be_bytes(), protocol: UDP, role: 2, cookie: [1, 0],
        };
        world.tables().sockets_known.remove(&key);
        aimed(&world.node.send(&ask));
        let peer = world.node.name(&call(POD, 1, UDP, (A::remote(7), TARGET)));
        assert_eq!(aimed(&peer), (A::CLUSTER_IP, PORT));
        world.tables_mut().sockets_known.capacity = 0;
        world.tables().sockets_known.remove(&key);
        passes(&world.node.send(&call(POD, 2, UDP, (A::CLUSTER_IP, PORT))), Outcome::SocketTableFailed);
    }

    /// 13.5, G5: loopback only if asked for, only for processes of the node; the unspecified address is loopback to the kernel.
    fn node_ports_on_loopback_are_an_option_of_the_node<A>() {
        let mut world = node::<A>().node_port(&[(A::local(1), TARGET)]);
        let loopbacks = [A::LOOPBACK, A::UNSPECIFIED];
        for address in loopbacks {
            passes(&world.node.connect(&call(HOST, 1, TCP, (address, NODE_PORT))), Outcome::Untouched);
        }
        world.node.control.flags |= control_flags::LOOPBACK_NODE_PORTS;
        for address in loopbacks {
            let own = world.node.connect(&call(HOST, 1, TCP, (address, NODE_PORT)));
            assert_eq!(aimed(&own), (A::local(1), TARGET));
            let peer = world.node.name(&call(HOST, 1, TCP, (A::local(1), TARGET)));
            assert_eq!(aimed(&peer), (address, NODE_PORT));
            passes(&world.node.connect(&call(POD, 1, TCP, (address, NODE_PORT))), Outcome::Untouched);
            passes(&world.node.connect(&call(HOST, 1, TCP, (address, NODE_PORT + 1))), Outcome::Untouched);
        }
    }

    /// `--socket-lb=host`; and nobody's where the node's own namespace is not known.
    fn whose_sockets_are_meant_is_a_setting<A>() {
        let mut world = node::<A>().cluster_ip(&[(A::remote(7), TARGET)]);
        let to = (A::CLUSTER_IP, PORT);
        world.node.control.flags |= control_flags::HOST_SOCKETS_ONLY;
        passes(&world.node.connect(&call(POD, 1, TCP, to)), Outcome::Untouched);
        aimed(&world.node.connect(&call(HOST, 2, TCP, to)));
        let known = world.tables().sockets_known.get(&nodeport_common::SocketKey {
            address: A::remote(7), port: TARGET.to_be_bytes(), protocol: TCP, role: 2, cookie: [2, 0],
        });
        assert_eq!(known.unwrap().flags, socket_flags::HOST | socket_flags::CONNECTED);
        world.node.control.flags = 0;
        world.node.control.host_netns = [0; 2];
        for netns in [HOST, POD, [0; 2]] {
            passes(&world.node.connect(&call(netns, 3, TCP, to)), Outcome::Untouched);
        }
    }

    /// 11: processes of the node are one client, with the node's address, whatever socket and front end; of Pods, TC sees to it.
    fn processes_of_the_node_stay_with_their_endpoint<A>() {
        let ends: Vec<_> = (1..=7).map(|n| (A::remote(n), TARGET)).collect();
        let mut world = node::<A>().cluster_ip(&ends).node_port(&ends);
        A::set_own(&mut world.node.control, A::NODE);
        for frontend in world.tables_mut().frontends.values_mut() {
            frontend.affinity_secs = 10;
        }
        let to = (A::CLUSTER_IP, PORT);
        let first = aimed(&world.node.connect(&call(HOST, 1, TCP, to)));
        for cookie in 2..40 {
            for to in [to, (A::NODE, NODE_PORT)] {
                assert_eq!(aimed(&world.node.connect(&call(HOST, cookie, TCP, to))), first);
            }
        }
        passes(&world.node.connect(&call(POD, 50, TCP, to)), Outcome::LeftToTc);
        passes(&world.node.send(&call(POD, 50, UDP, to)), Outcome::LeftToTc);
        let key = AffinityKey { client: A::NODE, service: 1 };
        assert_eq!(world.tables().affinity.get(&key).expect("remembered").address, first.0);
        // 11.4: what is gone is left for good.
        let others: Vec<_> = ends.iter().copied().filter(|end| *end != first).collect();
        let sticky = |world: &mut World<A>, ends: &[End<A>]| {
            let key = frontend_key(A::CLUSTER_IP, PORT, UDP);
            world.front_end(key, frontend_flags::CLUSTER_IP, ends, ends);
            world.tables_mut().frontends.get_mut(&key).expect("put").affinity_secs = 10;
        };
        sticky(&mut world, &others);
        let second = aimed(&world.node.send(&call(HOST, 60, UDP, to)));
        assert_ne!(second, first);
        sticky(&mut world, &ends);
        assert_eq!(aimed(&world.node.send(&call(HOST, 61, UDP, to))), second);
    }

    /// C3: a call that is left alone, because the table of sockets refuses, is remembered nowhere; nor is one without affinity.
    fn processes_of_the_node_are_remembered_only_with_affinity_and_a_socket<A>() {
        let mut world = node::<A>().cluster_ip(&[(A::remote(7), TARGET)]);
        for frontend in world.tables_mut().frontends.values_mut() {
            frontend.affinity_secs = 10;
        }
        world.tables_mut().sockets_known.capacity = 0;
        let ask = call(HOST, 1, UDP, (A::CLUSTER_IP, PORT));
        passes(&world.node.send(&ask), Outcome::SocketTableFailed);
        assert!(world.tables().affinity.is_empty());
        let mut world = node::<A>().cluster_ip(&[(A::remote(7), TARGET)]);
        A::set_own(&mut world.node.control, A::NODE);
        aimed(&world.node.connect(&call(HOST, 1, TCP, (A::CLUSTER_IP, PORT))));
        assert!(world.tables().affinity.is_empty());
    }

    /// 14.2: a process of the node is let in where the node's address is in a range, and told at once where it is not.
    fn processes_of_the_node_are_kept_out_by_source_ranges<A>() {
        let mut world = node::<A>();
        let key = frontend_key(A::ELSEWHERE, PORT, TCP);
        let flags = frontend_flags::LOAD_BALANCER | frontend_flags::SOURCE_RANGES;
        let ends = [(A::remote(7), TARGET)];
        world.front_end(key, flags, &ends, &ends);
        let tables = world.tables_mut();
        tables.addresses.insert(A::ELSEWHERE, Address { flags: address_flags::VIRTUAL });
        tables.sources.insert(SourceRangeKey {
            prefix_len: 32 + 8 * size_of::<A>() as u32, service: 1u32.to_be_bytes(), address: A::NODE,
        });
        let ask = |netns| call(netns, 1, TCP, (A::ELSEWHERE, PORT));
        let answer = world.node.connect(&ask(HOST));
        assert_eq!((answer.action, answer.outcome), (Action::Unreachable, Outcome::DroppedSourceRange));
        A::set_own(&mut world.node.control, A::NODE_ALIAS);
        assert_eq!(world.node.connect(&ask(HOST)).action, Action::Unreachable);
        A::set_own(&mut world.node.control, A::NODE);
        assert_eq!(aimed(&world.node.connect(&ask(HOST))), ends[0]);
        passes(&world.node.connect(&ask(POD)), Outcome::LeftToTc);
    }

    /// G8: the packets of an aimed socket are none of TC's business. G14, G7: where the endpoint is itself a front end, TC does all of it.
    fn nothing_is_translated_twice<A>() {
        let world = node::<A>().cluster_ip(&[(A::remote(7), TARGET)]);
        let got = aimed(&world.node.connect(&call(POD, 1, TCP, (A::CLUSTER_IP, PORT))));
        let trip = world.enters(POD1, &Build::tcp((A::local(1), 40000), got, SYN));
        trip.passed_untouched(Outcome::Untouched);
        assert_eq!(world.sizes(), (0, 0));

        let mut world = node::<A>().cluster_ip(&[(A::ELSEWHERE, 443)]);
        let flags = address_flags::VIRTUAL;
        world.tables_mut().addresses.insert(A::ELSEWHERE, Address { flags });
        let other = frontend_key(A::ELSEWHERE, 443, TCP);
        world.front_end(other, frontend_flags::EXTERNAL_IP, &[(A::remote(8), TARGET)], &[(A::remote(8), TARGET)]);
        let to = (A::CLUSTER_IP, PORT);
        passes(&world.node.connect(&call(POD, 1, TCP, to)), Outcome::LeftToTc);
        // No program sees the packets of the node's own sockets as they leave: once is enough.
        assert_eq!(aimed(&world.node.connect(&call(HOST, 2, TCP, to))), (A::ELSEWHERE, 443));
    }
}

/// J12: a socket of IPv6 reaches IPv4 by a mapped address; nothing else is taken for one.
#[test]
fn mapped_addresses_are_ipv4() {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    assert_eq!(mapped(&address("::ffff:10.96.0.10")), Some([10, 96, 0, 10]));
    for other in [
        "::10.96.0.10",
        "::1",
        "::",
        "fd00::ffff:10.96.0.10",
        "64:ff9b::10.96.0.10",
    ] {
        assert_eq!(mapped(&address(other)), None, "{other}");
    }
}

both! {
    /// 6.14: a live NodePort is held where a process would listen in vain; other ports, other protocols and Pods are not concerned.
    fn a_live_node_port_is_held_for_the_addresses_that_it_answers_on<A>() {
        let mut world = node::<A>();
        world.front_end(node_port_key(NODE_PORT, TCP), frontend_flags::NODE_PORT, &[], &[]);
        let takes = |world: &World<A>, netns, number, to| world.node.takes_node_port(&call(netns, 0, number, to));
        assert!(!takes(&world, HOST, TCP, (A::NODE, NODE_PORT)), "not asked for");
        world.node.control.flags |= control_flags::HOLD_NODE_PORTS;
        for address in [A::NODE, A::NODE_ALIAS, A::UNSPECIFIED] {
            assert!(takes(&world, HOST, TCP, (address, NODE_PORT)));
        }
        for (netns, number, to) in [
            (POD, TCP, (A::UNSPECIFIED, NODE_PORT)),
            (HOST, UDP, (A::UNSPECIFIED, NODE_PORT)),
            (HOST, TCP, (A::UNSPECIFIED, NODE_PORT + 1)),
            (HOST, TCP, (A::GATEWAY, NODE_PORT)),
            (HOST, TCP, (A::LOOPBACK, NODE_PORT)),
        ] {
            assert!(!takes(&world, netns, number, to));
        }
        world.node.control.flags |= control_flags::LOOPBACK_NODE_PORTS;
        assert!(takes(&world, HOST, TCP, (A::LOOPBACK, NODE_PORT)));
    }
}
