//! Beside kube-proxy: new connections are its while it runs, and each connection stays with the one that began it.

use nodeport_common::{Flow, NextHop, Outcome, control_flags, flow_flags, protocol};
use nodeport_ebpf::tables::Entry;

use crate::both;
use crate::packets::{ACK, Build, End, PSH, SYN};
use crate::world::{FABRIC, NODE_PORT, Places, TARGET, UPLINK, World, flow_key};

fn world<A: Places>(flags: u32) -> World<A> {
    let mut world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
    world.node.control.flags |= flags;
    world
}

fn client<A: Places>() -> End<A> {
    (A::client(1), 40000)
}

fn front_end<A: Places>() -> End<A> {
    (A::NODE, NODE_PORT)
}

/// Notes a connection of kube-proxy's, as the agent does.
fn note<A: Places>(world: &World<A>, number: u8) {
    let key = flow_key(number, client::<A>(), front_end());
    let flow = Flow {
        packets: 0,
        bytes: 0,
        last_seen: 0,
        endpoint_generation: 0,
        flags: flow_flags::FOREIGN,
        tcp: 0,
        source_port: key.source_port,
        destination_port: key.destination_port,
        pad: [0; 2],
        source: key.source,
        destination: key.destination,
        next_hop: NextHop::default(),
    };
    let added = world.tables().flows.add(key, Entry::new(&flow));
    assert_eq!(added, Ok(()));
}

both! {
    /// kube-proxy runs: a SYN, a datagram and a packet in the middle of something are its; a Service without endpoints is not refused by us.
    fn nothing_is_opened_while_kube_proxy_runs<A>() {
        let world = world::<A>(control_flags::YIELD);
        for packet in [
            Build::tcp(client(), front_end(), SYN),
            Build::tcp(client(), front_end(), ACK | PSH),
            Build::udp(client(), front_end(), b"question"),
        ] {
            world.enters(UPLINK, &packet).passed_untouched(Outcome::Untouched);
        }
        assert_eq!(world.sizes(), (0, 0));
        let mut empty = World::<A>::new().node_port(&[]);
        empty.node.control.flags |= control_flags::YIELD;
        let syn = Build::tcp(client(), front_end(), SYN);
        empty.enters(UPLINK, &syn).passed_untouched(Outcome::Untouched);
    }
}

both! {
    /// kube-proxy is started again: what we carry goes on, in both directions.
    fn our_connections_go_on_while_kube_proxy_runs<A>() {
        let mut world = world::<A>(0);
        let (source, backend) = world.connect(client(), front_end());
        world.node.control.flags |= control_flags::YIELD;
        let more = world.enters(UPLINK, &Build::tcp(client(), front_end(), ACK | PSH));
        more.is(Outcome::ToRemoteBackend);
        assert_eq!(more.seen().ends(), (source, backend));
        let reply = world.enters(FABRIC, &Build::tcp(backend, source, ACK | PSH));
        reply.is(Outcome::ReplyRedirected);
    }
}

both! {
    /// While kube-proxy's connections are being noted, what begins with a SYN is ours, and what may be its is not touched.
    fn only_a_syn_opens_while_connections_are_noted<A>() {
        let world = world::<A>(control_flags::YIELD_BUT_SYN);
        for packet in [
            Build::tcp(client(), front_end(), ACK | PSH),
            Build::udp(client(), front_end(), b"question"),
        ] {
            world.enters(UPLINK, &packet).passed_untouched(Outcome::Untouched);
        }
        let syn = Build::tcp((A::client(1), 40001), front_end(), SYN);
        world.enters(UPLINK, &syn).is(Outcome::ToRemoteBackend);
    }
}

both! {
    /// kube-proxy is gone: its connections are left to conntrack, others are picked up in the middle as ever (B9).
    fn a_noted_connection_goes_on_unmodified<A>() {
        for number in [protocol::TCP, protocol::UDP] {
            let world = world::<A>(0);
            note(&world, number);
            let packet = |from: End<A>| match number {
                protocol::TCP => Build::tcp(from, front_end(), ACK | PSH),
                _ => Build::udp(from, front_end(), b"question"),
            };
            let trip = world.enters(UPLINK, &packet(client()));
            trip.passed_untouched(Outcome::Untouched);
            let other = world.enters(UPLINK, &packet((A::client(1), 40001)));
            other.is(Outcome::ToRemoteBackend);
        }
    }
}

both! {
    /// The client begins anew with the ports of a connection of kube-proxy's: that one is over, and the new one is ours from its SYN on.
    fn a_syn_makes_a_noted_connection_ours<A>() {
        let world = world::<A>(0);
        note(&world, protocol::TCP);
        world.connect(client(), front_end());
        let flow = world.flow(protocol::TCP, client(), front_end()).expect("ours");
        assert_eq!(flow.flags & flow_flags::FOREIGN, 0);
    }
}
