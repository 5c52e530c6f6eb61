//! UDP: checksums that are not there, flows to endpoints that are gone (edge-cases C1-C5; behaviours 17.3-17.7).

use nodeport_common::{Outcome, ServingKey, V4, V6, frontend_flags, protocol};

use crate::both;
use crate::packets::{Build, End};
use crate::world::{FABRIC, NODE_PORT, POD1, Places, TARGET, Trip, UPLINK, World, node_port_key};

const UDP: u8 = protocol::UDP;

/// One client, one UDP NodePort.
fn ask<A: Places>(world: &World<A>) -> Trip<A> {
    world.enters(
        UPLINK,
        &Build::udp((A::client(1), 40000), (A::NODE, NODE_PORT), b"question"),
    )
}

/// Programs the UDP NodePort with these backends, and what still serves.
fn program<A: Places>(world: &mut World<A>, backends: &[End<A>], serving: &[End<A>]) {
    let key = node_port_key(NODE_PORT, UDP);
    world.front_end(key, frontend_flags::NODE_PORT, backends, backends);
    let tables = world.tables_mut();
    tables.frontends.get_mut(&key).unwrap().serving = serving.len() as u32;
    tables.serving = serving
        .iter()
        .map(|(address, port)| ServingKey {
            service: 1,
            address: *address,
            port: port.to_be_bytes(),
            pad: [0; 2],
        })
        .collect();
    world.node.control.endpoint_generation += 1;
}

/// A client with a flow to remote Pod 7, which serves.
fn with_a_flow_to_7<A: Places>() -> World<A> {
    let mut world = World::<A>::new();
    program(
        &mut world,
        &[(A::remote(7), TARGET)],
        &[(A::remote(7), TARGET)],
    );
    assert_eq!(ask(&world).seen().destination(), (A::remote(7), TARGET));
    world
}

/// C1: over IPv4 a checksum of 0 says that there is none, and goes on saying so; in XDP and in TC.
#[test]
fn no_checksum_stays_no_checksum() {
    for world in [World::<V4>::new(), World::<V4>::new().without_xdp()] {
        let world = world.node_port(&[(V4::remote(7), TARGET)]);
        let question = Build {
            without_checksum: true,
            ..Build::udp((V4::client(1), 40000), (V4::NODE, NODE_PORT), b"question")
        };
        let trip = world.enters(UPLINK, &question);
        trip.is(Outcome::ToRemoteBackend);
        assert_eq!(trip.seen().behind[6..8], [0, 0]);
        let source = trip.seen().source();
        let answer = Build {
            without_checksum: true,
            ..Build::udp((V4::remote(7), TARGET), source, b"answer")
        };
        let trip = world.enters(FABRIC, &answer);
        trip.is(Outcome::ReplyRedirected);
        assert_eq!(trip.seen().behind[6..8], [0, 0]);
    }
}

/// C1: IPv6 demands a checksum (RFC 8200, 8.1); what has none is the kernel's.
#[test]
fn without_a_checksum_ipv6_is_left_to_the_kernel() {
    let world = World::<V6>::new().node_port(&[(V6::remote(7), TARGET)]);
    let question = Build {
        without_checksum: true,
        ..Build::udp((V6::client(1), 40000), (V6::NODE, NODE_PORT), b"question")
    };
    world
        .enters(UPLINK, &question)
        .passed_untouched(Outcome::Malformed);
    assert_eq!(world.sizes(), (0, 0));
}

both! {
    /// C1: a checksum that comes out as 0 is written as FFFF.
    fn a_sum_of_zero_is_written_as_all_ones<A>() {
        for world in [World::<A>::new(), World::<A>::new().without_xdp()] {
            let world = world.node_port(&[(A::remote(7), TARGET)]);
            let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
            let trip = world.enters(UPLINK, &Build::udp(client, front_end, &[0, 0]));
            // With the checksum as payload, all words add up to all ones, whose complement is 0.
            let missing = trip.seen().behind[6..8].to_vec();
            let trip = world.enters(UPLINK, &Build::udp(client, front_end, &missing));
            assert_eq!(trip.seen().behind[6..8], [0xff, 0xff]);
        }
    }

    /// C3 and behaviours 17.6: datagrams to a Service without endpoints leave nothing behind. The first endpoint gets the next one.
    fn a_refused_datagram_leaves_no_flow<A>() {
        let mut world = World::<A>::new().node_port(&[]);
        for _ in 0..3 {
            ask(&world).is(Outcome::RejectedNoEndpoint);
        }
        assert_eq!(world.sizes(), (0, 0));
        program(&mut world, &[(A::remote(7), TARGET)], &[(A::remote(7), TARGET)]);
        assert_eq!(ask(&world).seen().destination(), (A::remote(7), TARGET));
    }

    /// C3: a datagram to a port without a Service is nobody's, until it is somebody's.
    fn an_untouched_datagram_leaves_no_flow<A>() {
        let mut world = World::<A>::new();
        ask(&world).passed_untouched(Outcome::Untouched);
        program(&mut world, &[(A::remote(7), TARGET)], &[(A::remote(7), TARGET)]);
        assert_eq!(ask(&world).seen().destination(), (A::remote(7), TARGET));
    }

    /// C5: an answer from another port or address is no reply.
    fn an_answer_from_another_port_is_no_reply<A>() {
        let world = with_a_flow_to_7::<A>();
        let source = (A::FABRIC_ADDRESS, 1024);
        for from in [(A::remote(7), TARGET + 1), (A::remote(8), TARGET)] {
            let answer = world.enters(FABRIC, &Build::udp(from, source, b"answer"));
            answer.passed_untouched(Outcome::Untouched);
        }
        let answer = world.enters(FABRIC, &Build::udp((A::remote(7), TARGET), source, b"answer"));
        answer.is(Outcome::ReplyRedirected);
    }

    /// Behaviours 17.3: a flow to an endpoint that no longer serves goes to another one with its next datagram.
    fn a_stale_flow_moves<A>() {
        let mut world = with_a_flow_to_7::<A>();
        program(&mut world, &[(A::remote(8), TARGET)], &[(A::remote(8), TARGET)]);
        assert_eq!(ask(&world).seen().destination(), (A::remote(8), TARGET));
        assert_eq!(world.sizes(), (0, 2), "the old pair is gone");
    }

    /// Behaviours 17.3, for a flow that was established.
    fn a_stale_established_flow_moves<A>() {
        let mut world = with_a_flow_to_7::<A>();
        let reply = Build::udp((A::remote(7), TARGET), (A::FABRIC_ADDRESS, 1024), b"answer");
        world.enters(FABRIC, &reply).is(Outcome::ReplyRedirected);
        ask(&world);
        assert_eq!(world.sizes(), (2, 0));
        program(&mut world, &[(A::remote(8), TARGET)], &[(A::remote(8), TARGET)]);
        assert_eq!(ask(&world).seen().destination(), (A::remote(8), TARGET));
        assert_eq!(world.sizes(), (0, 2));
        // A late answer of the old endpoint is nobody's.
        world.enters(FABRIC, &reply).passed_untouched(Outcome::Untouched);
    }

    /// Behaviours 17.3: the same endpoint with another port is another endpoint.
    fn the_port_of_an_endpoint_matters<A>() {
        let mut world = with_a_flow_to_7::<A>();
        program(&mut world, &[(A::remote(7), 9090)], &[(A::remote(7), 9090)]);
        assert_eq!(ask(&world).seen().destination(), (A::remote(7), 9090));
    }

    /// Behaviours 17.4: a draining endpoint keeps its flows, though new ones go elsewhere.
    fn a_draining_endpoint_keeps_its_flows<A>() {
        let mut world = with_a_flow_to_7::<A>();
        let serving = [(A::remote(7), TARGET), (A::remote(8), TARGET)];
        program(&mut world, &[(A::remote(8), TARGET)], &serving);
        assert_eq!(ask(&world).seen().destination(), (A::remote(7), TARGET));
        let other = Build::udp((A::client(2), 40000), (A::NODE, NODE_PORT), b"question");
        assert_eq!(world.enters(UPLINK, &other).seen().destination(), (A::remote(8), TARGET));
    }

    /// Behaviours 17.5: without any serving endpoint there is nothing to move a flow to; nor after the Service's end.
    fn a_flow_stays_where_there_is_nothing_better<A>() {
        let mut world = with_a_flow_to_7::<A>();
        program(&mut world, &[], &[]);
        assert_eq!(ask(&world).seen().destination(), (A::remote(7), TARGET));
        world.tables_mut().frontends.clear();
        world.node.control.endpoint_generation += 1;
        assert_eq!(ask(&world).seen().destination(), (A::remote(7), TARGET));
    }

    /// Behaviours 17.8: flows are looked at when the agent says that all is programmed, not while it programs.
    fn a_flow_is_looked_at_once_the_generation_is_raised<A>() {
        let mut world = with_a_flow_to_7::<A>();
        program(&mut world, &[(A::remote(8), TARGET)], &[(A::remote(8), TARGET)]);
        world.node.control.endpoint_generation -= 1;
        assert_eq!(ask(&world).seen().destination(), (A::remote(7), TARGET));
        world.node.control.endpoint_generation += 1;
        assert_eq!(ask(&world).seen().destination(), (A::remote(8), TARGET));
    }

    /// Behaviours 17.7: another Service's change does not move this flow.
    fn a_change_elsewhere_moves_nothing<A>() {
        let mut world = with_a_flow_to_7::<A>();
        world.node.control.endpoint_generation += 1;
        let before = ask(&world).seen().ends();
        assert_eq!(before, ask(&world).seen().ends());
        assert_eq!(before.1, (A::remote(7), TARGET));
        let entry = world.flow(UDP, (A::client(1), 40000), (A::NODE, NODE_PORT)).unwrap();
        assert_eq!(entry.endpoint_generation, world.node.control.endpoint_generation);
    }

    /// A stale flow through the stack to a Pod of this node moves as well.
    fn a_stale_flow_through_the_stack_moves<A>() {
        let mut world = World::<A>::new();
        program(&mut world, &[(A::local(1), TARGET)], &[(A::local(1), TARGET)]);
        ask(&world).is(Outcome::ToLocalBackend);
        program(&mut world, &[(A::local(2), TARGET)], &[(A::local(2), TARGET)]);
        let trip = ask(&world);
        trip.is(Outcome::ToLocalBackend);
        assert_eq!(trip.seen().ends(), ((A::client(1), 40000), (A::local(2), TARGET)));
        let late = Build::udp((A::local(1), TARGET), (A::client(1), 40000), b"answer");
        world.enters(POD1, &late).passed_untouched(Outcome::Untouched);
    }
}
