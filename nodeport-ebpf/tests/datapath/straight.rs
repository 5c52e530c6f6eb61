//! Straight to the devices of this node's Pods, past the host's stack, if so configured (`REDIRECT_LOCAL`).

use nodeport_common::{
    Hook, Outcome, backend_flags, control_flags, device_flags, flow_flags, protocol,
};
use nodeport_ebpf::path::Action;
use nodeport_ebpf::tables::RouteStatus;

use crate::both;
use crate::packets::{ACK, Build, PSH, SYN};
use crate::world::{FABRIC, NODE_PORT, POD1, POD1_MAC, POD2, PORT, Places, TARGET, UPLINK, World};

const POD1_OWN_MAC: [u8; 6] = [2, 0, 0, 0, 8, 1];

fn straight<A: Places>() -> World<A> {
    let mut world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
    world.node.control.flags |= control_flags::REDIRECT_LOCAL;
    world
}

fn packet<A: Places>(flags: u8) -> Build<A> {
    Build::tcp((A::client(1), 40000), (A::NODE, NODE_PORT), flags)
}

both! {
    /// A client outside to a Pod of this node: both directions leave by the other end's device, the Pod sees the client.
    fn both_directions_pass_the_stack_by<A>() {
        let world = straight::<A>();
        let client = (A::client(1), 40000);
        for (flags, back) in [(SYN, SYN | ACK), (ACK, ACK | PSH), (ACK | PSH, ACK)] {
            let there = world.enters(UPLINK, &packet(flags));
            there.is(Outcome::ToLocalBackend).left_by(POD1);
            assert_eq!(there.seen().ends(), (client, (A::local(1), TARGET)));
            assert_eq!((there.seen().to_mac, there.seen().from_mac), (POD1_OWN_MAC, POD1_MAC));
            let back = world.enters(POD1, &Build::tcp((A::local(1), TARGET), client, back));
            back.is(Outcome::ReplyRedirected).left_by(UPLINK);
            assert_eq!(back.seen().ends(), ((A::NODE, NODE_PORT), client));
        }
        assert!(world.tables().replies_noted.borrow().is_empty());
    }

    /// A Pod's device whose other end is in the Pod is passed by as well, for packets from outside and from Pods. Replies leave as ever, and
    /// so does what XDP carries.
    fn packets_are_handed_to_the_pod_where_that_is_possible<A>() {
        let mut world = straight::<A>();
        for pod in [POD1, POD2] {
            world.node.devices.get_mut(&pod).unwrap().flags |= device_flags::PEER;
        }
        let client = (A::client(1), 40000);
        for flags in [SYN, ACK, ACK | PSH] {
            let there = world.enters(UPLINK, &packet(flags));
            there.is(Outcome::ToLocalBackend).arrived_by(POD1);
            assert_eq!((there.seen().to_mac, there.seen().from_mac), (POD1_OWN_MAC, POD1_MAC));
        }
        let back = world.enters(POD1, &Build::tcp((A::local(1), TARGET), client, SYN | ACK));
        back.is(Outcome::ReplyRedirected).left_by(UPLINK);
        let pod = (A::local(2), 40000);
        world.enters(POD2, &Build::tcp(pod, (A::NODE, NODE_PORT), SYN)).arrived_by(POD1);
        let reply = Build::tcp((A::local(1), TARGET), pod, SYN | ACK);
        world.enters(POD1, &reply).is(Outcome::ReplyRedirected).left_by(POD2);
        world.node.devices.get_mut(&POD1).unwrap().flags |= device_flags::XDP_TARGET;
        let late = Build::tcp((A::client(2), 40000), (A::NODE, NODE_PORT), SYN);
        world.enters(UPLINK, &late).left_by(POD1);
    }

    /// A Pod's device that takes frames of XDP gets them so.
    fn xdp_does_it_where_the_device_takes_its_frames<A>() {
        let mut world = straight::<A>();
        let device = world.node.devices.get_mut(&POD1).unwrap();
        device.flags |= device_flags::XDP_TARGET;
        let there = world.enters(UPLINK, &packet(SYN));
        assert!(there.tc.is_none());
        there.left_by(POD1);
        assert_eq!(world.node.count(Hook::Xdp, Outcome::ToLocalBackend), 1);
    }

    /// Two clients whose tuples towards the Pod would be the same keep their address; the second does not keep its port (A3).
    fn a_reply_tuple_is_unique_here_too<A>() {
        let world = straight::<A>();
        world.enters(UPLINK, &packet(SYN)).left_by(POD1);
        let other = Build::tcp((A::client(1), 40000), (A::NODE_ALIAS, NODE_PORT), SYN);
        let other = world.enters(UPLINK, &other);
        other.left_by(POD1);
        assert_eq!(other.seen().source(), (A::client(1), 1024));
    }

    /// One Pod to another by a ClusterIP.
    fn from_a_pod_to_a_pod<A>() {
        let mut world = World::<A>::new().cluster_ip(&[(A::local(2), TARGET)]);
        world.node.control.flags |= control_flags::REDIRECT_LOCAL;
        let pod = (A::local(1), 40000);
        let there = world.enters(POD1, &Build::tcp(pod, (A::CLUSTER_IP, PORT), SYN));
        there.is(Outcome::ToLocalBackend).left_by(POD2);
        assert_eq!(there.seen().ends(), (pod, (A::local(2), TARGET)));
        let back = world.enters(POD2, &Build::tcp((A::local(2), TARGET), pod, SYN | ACK));
        back.is(Outcome::ReplyRedirected).left_by(POD1);
        assert_eq!(back.seen().ends(), ((A::CLUSTER_IP, PORT), pod));
    }

    /// Without being told to, through the stack; and so for a Pod whose neighbour entry is not there yet, and for the host's own network, to
    /// which no route leads.
    fn otherwise_the_stack_carries<A>() {
        let mut worlds = [straight::<A>(), straight::<A>(), straight::<A>()];
        worlds[0].node.control.flags &= !control_flags::REDIRECT_LOCAL;
        for (world, status) in worlds.iter_mut().skip(1).zip([RouteStatus::NeedsNeighbour, RouteStatus::None]) {
            world.tables_mut().routes[2].status = status;
        }
        for world in worlds {
            let there = world.enters(UPLINK, &packet(SYN));
            there.is(Outcome::ToLocalBackend);
            assert_eq!(there.verdict().action, Action::Pass);
            let reply = Build::tcp((A::local(1), TARGET), (A::client(1), 40000), SYN | ACK);
            world.enters(POD1, &reply).passed_untouched(Outcome::AwaitsEgress);
            world.leaves(UPLINK, &reply).is(Outcome::ReplyFromStack);
        }
    }

    /// Backends of other nodes are as they were, and so is a Pod that reaches itself.
    fn nothing_else_changes<A>() {
        let mut world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        world.node.control.flags |= control_flags::REDIRECT_LOCAL;
        let there = world.enters(UPLINK, &packet(SYN));
        there.is(Outcome::ToRemoteBackend).left_by(FABRIC);
        assert_eq!(there.seen().source(), (A::FABRIC_ADDRESS, 1024));

        let world = straight::<A>();
        let itself = world.enters(POD1, &Build::tcp((A::local(1), 40000), (A::NODE, NODE_PORT), SYN));
        itself.left_by(POD1);
        assert_eq!(itself.seen().source(), (A::GATEWAY, 1024));
    }

    /// The entries say what they are, and that the backend sees the client itself.
    fn entries_say_that_they_are_redirected<A>() {
        let world = straight::<A>();
        world.enters(UPLINK, &packet(SYN));
        let client = (A::client(1), 40000);
        let forth = world.flow(protocol::TCP, client, (A::NODE, NODE_PORT)).unwrap();
        let wanted = flow_flags::REDIRECT | flow_flags::LOCAL_BACKEND;
        assert_eq!(forth.flags & wanted, wanted);
        assert_eq!(forth.source, A::client(1));
        let back = world.flow(protocol::TCP, (A::local(1), TARGET), client).unwrap();
        assert_eq!(back.flags & flow_flags::AT_EGRESS, 0);
        assert_eq!(back.destination, A::client(1));
        let backend = world.tables().backends[0];
        assert_ne!(backend.flags & backend_flags::LOCAL, 0);
    }
}
