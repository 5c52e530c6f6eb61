//! Which way a packet leaves: next hops that are remembered, renewed, unknown or gone; XDP and TC alike (edge-cases F5-F7, F9; H3).

use nodeport_common::{Hook, Outcome, device_flags, flow_flags, protocol};
use nodeport_ebpf::path::Action;
use nodeport_ebpf::sim::Frame;
use nodeport_ebpf::tables::RouteStatus;

use crate::both;
use crate::packets::{ACK, Build, PSH, SYN, Seen};
use crate::world::{
    FABRIC, FABRIC_MAC, HZ, NODE_PORT, PEER_MAC, Places, ROUTER_MAC, TARGET, UPLINK, UPLINK_MAC,
    World,
};

fn node_port<A: Places>() -> World<A> {
    World::<A>::new().node_port(&[(A::remote(7), TARGET)])
}

fn packet<A: Places>(flags: u8) -> Build<A> {
    Build::tcp((A::client(1), 40000), (A::NODE, NODE_PORT), flags)
}

/// What the routing tables say of the way to remote Pods.
fn set_status<A: Places>(world: &mut World<A>, status: RouteStatus) {
    world.tables_mut().routes[1].status = status;
}

fn move_peer<A: Places>(world: &mut World<A>, mac: [u8; 6]) {
    world.tables_mut().routes[1].hop.destination_mac = mac;
}

const NEW_MAC: [u8; 6] = [2, 0, 0, 0, 9, 99];

both! {
    /// A reply that the stack carries is known at egress by its source, a backend: noted when its flow is made, and asked before any lookup.
    fn at_egress_only_what_a_backend_sends_is_looked_up<A>() {
        let mut world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let client = (A::client(1), 40000);
        let syn = Build::tcp(client, (A::NODE, NODE_PORT), SYN);
        world.enters(UPLINK, &syn).is(Outcome::ToLocalBackend);
        assert!(world.tables_mut().replies_noted.borrow().iter().eq([&(A::local(1), TARGET.to_be_bytes())]));
        let reply = Build::tcp((A::local(1), TARGET), client, ACK | PSH);
        world.leaves(UPLINK, &reply).is(Outcome::ReplyFromStack);
        world.tables_mut().replies_noted.borrow_mut().clear();
        world.leaves(UPLINK, &reply).is(Outcome::Untouched);
    }

    /// A flow that goes past the stack has no reply at egress, and nothing to be noted there.
    fn a_flow_past_the_stack_notes_no_reply<A>() {
        let mut world = node_port::<A>();
        world.connect((A::client(1), 40000), (A::NODE, NODE_PORT));
        assert!(world.tables_mut().replies_noted.borrow().is_empty());
    }

    /// The frame leaves with the link-layer addresses of the next hop; XDP does all of it alone, both ways.
    fn xdp_does_it_alone<A>() {
        let world = node_port::<A>();
        let trip = world.enters(UPLINK, &packet(SYN));
        assert!(trip.tc.is_none());
        trip.left_by(FABRIC);
        assert_eq!((trip.seen().to_mac, trip.seen().from_mac), (PEER_MAC, FABRIC_MAC));
        let reply = Build::tcp((A::remote(7), TARGET), (A::FABRIC_ADDRESS, 1024), SYN | ACK);
        let trip = world.enters(FABRIC, &reply);
        assert!(trip.tc.is_none());
        trip.left_by(UPLINK);
        assert_eq!((trip.seen().to_mac, trip.seen().from_mac), (ROUTER_MAC, UPLINK_MAC));
        assert_eq!(world.node.count(Hook::Xdp, Outcome::ToRemoteBackend), 1);
        assert_eq!(world.node.count(Hook::Xdp, Outcome::ReplyRedirected), 1);
    }

    /// TC does the same without XDP: the same frames, the same flows.
    fn tc_does_the_same<A>() {
        let (fast, slow) = (node_port::<A>(), node_port::<A>().without_xdp());
        let reply = Build::tcp((A::remote(7), TARGET), (A::FABRIC_ADDRESS, 1024), SYN | ACK);
        for (device, build) in [
            (UPLINK, packet(SYN)),
            (FABRIC, reply),
            (UPLINK, packet(ACK)),
            (UPLINK, packet(ACK | PSH).with_payload(700)),
        ] {
            let one = fast.enters(device, &build);
            let other = slow.enters(device, &build);
            assert_eq!(one.xdp, other.tc);
            assert_eq!(one.frame.bytes, other.frame.bytes);
        }
        let flows = |world: &World<A>| {
            let entries = world.tables().flows.entries();
            entries.into_iter().map(|(key, entry)| (key, entry.get())).collect::<Vec<_>>()
        };
        assert_eq!(flows(&fast), flows(&slow));
    }

    /// A next hop is remembered with the flow, and looked up anew once the agent says that routes, neighbours or links changed (F7).
    fn a_next_hop_is_remembered_until_routes_change<A>() {
        let mut world = node_port::<A>();
        world.connect((A::client(1), 40000), (A::NODE, NODE_PORT));
        move_peer(&mut world, NEW_MAC);
        assert_eq!(world.enters(UPLINK, &packet(ACK)).seen().to_mac, PEER_MAC);
        world.node.control.route_generation += 1;
        assert_eq!(world.enters(UPLINK, &packet(ACK)).seen().to_mac, NEW_MAC);
        let hop = world
            .flow(protocol::TCP, (A::client(1), 40000), (A::NODE, NODE_PORT))
            .unwrap()
            .next_hop;
        assert_eq!((hop.generation, hop.device, hop.mtu), (2, FABRIC, 1500));
    }

    /// Even in one generation a next hop ages, so that the kernel hears of the neighbour in use.
    fn a_next_hop_ages<A>() {
        let mut world = node_port::<A>();
        world.connect((A::client(1), 40000), (A::NODE, NODE_PORT));
        move_peer(&mut world, NEW_MAC);
        // Seven times 1024 jiffies are young enough, eight are not.
        world.node.jiffies += 7 * 1024;
        assert_eq!(world.enters(UPLINK, &packet(ACK)).seen().to_mac, PEER_MAC);
        world.node.jiffies += 1024;
        assert_eq!(world.enters(UPLINK, &packet(ACK)).seen().to_mac, NEW_MAC);
        assert_eq!(HZ, 250);
    }

    /// F6: the neighbour is unknown. XDP leaves even the first packet to TC, TC gives it to the kernel translated, and nothing is remembered.
    fn the_first_packet_to_an_unknown_neighbour_is_not_lost<A>() {
        let mut world = node_port::<A>();
        set_status(&mut world, RouteStatus::NeedsNeighbour);
        for flags in [SYN, SYN] {
            let trip = world.enters(UPLINK, &packet(flags));
            assert_eq!(trip.xdp.unwrap().outcome, Outcome::LeftToTc);
            trip.is(Outcome::ToRemoteBackend);
            let verdict = trip.verdict();
            assert_eq!((verdict.action, verdict.device), (Action::Resolve, FABRIC));
            assert_eq!(trip.seen().ends(), ((A::FABRIC_ADDRESS, 1024), (A::remote(7), TARGET)));
            assert_eq!(trip.seen().ttl, 63);
        }
        set_status(&mut world, RouteStatus::Known);
        let trip = world.enters(UPLINK, &packet(SYN));
        assert_eq!(trip.xdp.unwrap().outcome, Outcome::ToRemoteBackend);
        trip.left_by(FABRIC);
    }

    /// F6 for a reply, and for a live flow whose neighbour was lost.
    fn a_neighbour_that_was_lost_is_asked_for_again<A>() {
        let mut world = node_port::<A>();
        let (source, backend) = world.connect((A::client(1), 40000), (A::NODE, NODE_PORT));
        world.tables_mut().routes[0].status = RouteStatus::NeedsNeighbour;
        world.node.control.route_generation += 1;
        let trip = world.enters(FABRIC, &Build::tcp(backend, source, ACK));
        assert_eq!(trip.xdp.unwrap().outcome, Outcome::LeftToTc);
        let verdict = trip.verdict();
        assert_eq!((verdict.action, verdict.device), (Action::Resolve, UPLINK));
        assert_eq!(trip.seen().ends(), ((A::NODE, NODE_PORT), (A::client(1), 40000)));
    }

    /// F9: there is no route to the backend when a flow is opened: the stack says what becomes of it, so the client keeps its address.
    fn without_a_route_a_new_flow_goes_through_the_stack<A>() {
        let mut world = node_port::<A>();
        set_status(&mut world, RouteStatus::None);
        let trip = world.enters(UPLINK, &packet(SYN));
        assert_eq!(trip.xdp.unwrap().outcome, Outcome::LeftToTc);
        trip.is(Outcome::ToRoutedBackend);
        assert_eq!(trip.verdict().action, Action::Pass);
        assert_eq!(trip.seen().ends(), ((A::client(1), 40000), (A::remote(7), TARGET)));
    }

    /// F9: the route of a live flow is gone. Its source is an address of this node, so the stack must not see it: dropped, and counted.
    fn without_a_route_a_live_flow_s_packets_are_dropped<A>() {
        let mut world = node_port::<A>();
        world.connect((A::client(1), 40000), (A::NODE, NODE_PORT));
        set_status(&mut world, RouteStatus::None);
        world.node.control.route_generation += 1;
        let trip = world.enters(UPLINK, &packet(ACK));
        assert_eq!(trip.xdp.unwrap().outcome, Outcome::LeftToTc);
        trip.was_dropped(Outcome::NoRoute);
        set_status(&mut world, RouteStatus::Known);
        world.enters(UPLINK, &packet(ACK)).is(Outcome::ToRemoteBackend);
    }

    /// F5: XDP must not redirect to a device that cannot take such frames; TC does, and both go on like that for the flow's life.
    fn xdp_leaves_what_it_cannot_redirect_to_tc<A>() {
        let mut world = node_port::<A>();
        world.node.devices.get_mut(&FABRIC).unwrap().flags &= !device_flags::XDP_TARGET;
        for flags in [SYN, SYN, SYN] {
            let trip = world.enters(UPLINK, &packet(flags));
            assert_eq!(trip.xdp.unwrap().outcome, Outcome::LeftToTc);
            trip.is(Outcome::ToRemoteBackend).left_by(FABRIC);
        }
        let flow = world.flow(protocol::TCP, (A::client(1), 40000), (A::NODE, NODE_PORT)).unwrap();
        assert_eq!(flow.flags & flow_flags::XDP_TARGET, 0);
        // An XDP program came to the other end: from the next generation on, XDP redirects.
        world.node.devices.get_mut(&FABRIC).unwrap().flags |= device_flags::XDP_TARGET;
        world.node.control.route_generation += 1;
        let trip = world.enters(UPLINK, &packet(SYN));
        assert_eq!(trip.xdp.unwrap().outcome, Outcome::ToRemoteBackend);
    }

    /// In generic mode, XDP may redirect to any device.
    fn generic_xdp_redirects_to_any_device<A>() {
        let mut world = node_port::<A>();
        world.node.devices.get_mut(&FABRIC).unwrap().flags &= !device_flags::XDP_TARGET;
        world.node.devices.get_mut(&UPLINK).unwrap().flags |= device_flags::XDP_GENERIC;
        for flags in [SYN, SYN] {
            let trip = world.enters(UPLINK, &packet(flags));
            assert_eq!(trip.xdp.unwrap().outcome, Outcome::ToRemoteBackend);
            trip.left_by(FABRIC);
        }
    }

    /// H3: a flow that the stack carries is the stack's in both directions; XDP never touches it.
    fn xdp_leaves_the_stack_s_flows_alone<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        for _ in 0..2 {
            let trip = world.enters(UPLINK, &packet(SYN));
            assert_eq!(trip.xdp.unwrap().outcome, Outcome::LeftToTc);
            trip.is(Outcome::ToLocalBackend);
        }
    }

    /// A packet from a device without Ethernet has no link-layer header to be rewritten: the kernel writes it.
    fn from_a_device_without_ethernet<A>() {
        let mut world = node_port::<A>();
        world.node.xdp = false;
        world.node.devices.get_mut(&UPLINK).unwrap().flags |= device_flags::NO_ETHERNET;
        for _ in 0..2 {
            let mut frame = Frame::new(packet::<A>(SYN).packet());
            let verdict = world.node.tc_ingress(UPLINK, &mut frame).unwrap();
            assert_eq!(verdict.outcome, Outcome::ToRemoteBackend);
            assert_eq!((verdict.action, verdict.device), (Action::Resolve, FABRIC));
            let framed = [&[0; 12], &A::ETHERTYPE[..], &frame.bytes].concat();
            assert_eq!(Seen::<A>::read(&framed).destination(), (A::remote(7), TARGET));
        }
    }

    /// A device that the agent has not set up (yet) is left alone.
    fn an_unknown_device_is_left_alone<A>() {
        let world = node_port::<A>();
        let mut frame = Frame::new(world.addressed(UPLINK, &packet::<A>(SYN)).frame());
        let journey = world.node.receive(77, &mut frame);
        assert_eq!((journey.xdp, journey.tc), (None, None));
        assert_eq!(world.sizes(), (0, 0));
    }
}
