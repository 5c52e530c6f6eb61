//! Pods of this node and the node itself, as clients and as backends: whose address the backend sees (edge-cases G; behaviours 7 and 9).

use nodeport_common::{Outcome, device_flags, flow_flags, frontend_flags, protocol};
use nodeport_ebpf::path::Action;

use crate::both;
use crate::packets::{ACK, Build, End, SYN};
use crate::world::{
    FABRIC, NODE_PORT, POD1, POD2, PORT, Places, TARGET, UPLINK, World, node_port_key,
};

const OVERLAY: u32 = 9;

/// Programs a NodePort with policy Local: one set for everybody, one for Pods of this node.
fn policy_local<A: Places>(outside: &[End<A>], from_pods: &[End<A>]) -> World<A> {
    let mut world = World::<A>::new();
    let mut flags = frontend_flags::NODE_PORT | frontend_flags::POLICY_LOCAL;
    if outside.is_empty() {
        flags |= frontend_flags::DROP_IF_EMPTY;
    }
    world.front_end(
        node_port_key(NODE_PORT, protocol::TCP),
        flags,
        outside,
        from_pods,
    );
    world
}

/// A SYN from a client at a device; the source that the backend will see.
#[track_caller]
fn source_of<A: Places>(world: &World<A>, device: u32, client: A, front_end: End<A>) -> End<A> {
    let trip = world.enters(device, &Build::tcp((client, 40000), front_end, SYN));
    trip.seen().source()
}

both! {
    /// 9.1: an outside client, policy Cluster, another node's Pod: our address, of the device towards that Pod (9.11).
    fn outside_to_a_remote_pod_has_our_address<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let source = source_of(&world, UPLINK, A::client(1), (A::NODE, NODE_PORT));
        assert_eq!(source, (A::FABRIC_ADDRESS, 1024));
    }

    /// 9.1, but this node's Pod: the client's address is kept (docs/differences.md).
    fn outside_to_a_local_pod_keeps_its_address<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let source = source_of(&world, UPLINK, A::client(1), (A::NODE, NODE_PORT));
        assert_eq!(source, (A::client(1), 40000));
    }

    /// 9.2, 7.3: policy Local keeps the client's address.
    fn policy_local_keeps_the_client_s_address<A>() {
        let world = policy_local::<A>(&[(A::local(1), TARGET)], &[(A::local(1), TARGET)]);
        let source = source_of(&world, UPLINK, A::client(1), (A::NODE, NODE_PORT));
        assert_eq!(source, (A::client(1), 40000));
    }

    /// 9.3: a Pod of this node to a NodePort, policy Cluster, another node's Pod: our address. XDP never sees it (G2).
    fn a_pod_to_a_node_port_has_our_address<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        for node in [A::NODE, A::FABRIC_ADDRESS] {
            let trip = world.enters(POD1, &Build::tcp((A::local(1), 40000), (node, NODE_PORT), SYN));
            assert!(trip.xdp.is_none());
            trip.is(Outcome::ToRemoteBackend).left_by(FABRIC);
            assert_eq!(trip.seen().source().0, A::FABRIC_ADDRESS);
        }
        let back = Build::tcp((A::remote(7), TARGET), (A::FABRIC_ADDRESS, 1024), SYN | ACK);
        let trip = world.enters(FABRIC, &back);
        // A Pod's device cannot take frames from XDP.
        assert_eq!(trip.xdp.unwrap().outcome, Outcome::LeftToTc);
        trip.is(Outcome::ReplyRedirected).left_by(POD1);
        assert_eq!(trip.seen().ends(), ((A::NODE, NODE_PORT), (A::local(1), 40000)));
    }

    /// 7.1, 7.4, 9.4: a Pod of this node to a NodePort with policy Local gets the cluster-wide set, and keeps its address, even where outside
    /// clients get nothing.
    fn a_pod_to_policy_local_gets_the_cluster_s_set<A>() {
        let world = policy_local::<A>(&[], &[(A::remote(7), TARGET)]);
        let front_end = (A::NODE, NODE_PORT);
        let outside = world.enters(UPLINK, &Build::tcp((A::client(1), 40000), front_end, SYN));
        outside.was_dropped(Outcome::DroppedNoLocalEndpoint);
        let trip = world.enters(POD1, &Build::tcp((A::local(1), 40000), front_end, SYN));
        trip.is(Outcome::ToRoutedBackend);
        assert_eq!(trip.verdict().action, Action::Pass);
        assert_eq!(trip.seen().ends(), ((A::local(1), 40000), (A::remote(7), TARGET)));
        // The reply comes in by the fabric, and is translated where it leaves for the Pod.
        let reply = Build::tcp((A::remote(7), TARGET), (A::local(1), 40000), SYN | ACK);
        let entered = world.enters(FABRIC, &reply);
        // Uplinks do not look for what is translated elsewhere.
        entered.passed_untouched(Outcome::Untouched);
        let left = world.leaves(POD1, &reply);
        left.is(Outcome::ReplyFromStack);
        assert_eq!(left.seen().ends(), (front_end, (A::local(1), 40000)));
    }

    /// 9.6: a Pod of this node to a ClusterIP keeps its address, wherever the backend is.
    fn a_pod_to_a_cluster_ip_keeps_its_address<A>() {
        for (backend, outcome) in [
            (A::remote(7), Outcome::ToRoutedBackend),
            (A::local(2), Outcome::ToLocalBackend),
        ] {
            let world = World::<A>::new().cluster_ip(&[(backend, TARGET)]);
            let syn = Build::tcp((A::local(1), 40000), (A::CLUSTER_IP, PORT), SYN);
            let trip = world.enters(POD1, &syn);
            trip.is(outcome);
            assert_eq!(trip.seen().ends(), ((A::local(1), 40000), (backend, TARGET)));
            let answer = Build::tcp((backend, TARGET), (A::local(1), 40000), SYN | ACK);
            let (device, entered) = if backend == A::local(2) {
                (POD2, Outcome::AwaitsEgress)
            } else {
                (FABRIC, Outcome::Untouched)
            };
            world.enters(device, &answer).passed_untouched(entered);
            let left = world.leaves(POD1, &answer);
            assert_eq!(left.seen().ends(), ((A::CLUSTER_IP, PORT), (A::local(1), 40000)));
        }
    }

    /// 9.7: somebody else to a ClusterIP (routed to this node) has our address, else the reply would not come by here.
    fn outside_to_a_cluster_ip_has_our_address<A>() {
        let world = World::<A>::new().cluster_ip(&[(A::remote(7), TARGET)]);
        let source = source_of(&world, UPLINK, A::client(1), (A::CLUSTER_IP, PORT));
        assert_eq!(source, (A::FABRIC_ADDRESS, 1024));
    }

    /// 9.9, G1, G3: a Pod that reaches itself, by any front end and any policy, sees our address instead of its own; past the stack, which
    /// would take that for a martian. It answers, and sees the front end answer.
    fn a_pod_that_reaches_itself_has_our_address<A>() {
        let itself = [(A::local(1), TARGET)];
        for (world, front_end) in [
            (World::<A>::new().cluster_ip(&itself), (A::CLUSTER_IP, PORT)),
            (World::<A>::new().node_port(&itself), (A::NODE, NODE_PORT)),
            (policy_local::<A>(&itself, &itself), (A::NODE, NODE_PORT)),
        ] {
            let pod = (A::local(1), 40000);
            let trip = world.enters(POD1, &Build::tcp(pod, front_end, SYN));
            trip.left_by(POD1);
            assert_eq!(trip.seen().ends(), ((A::GATEWAY, 1024), (A::local(1), TARGET)));
            let answer = Build::tcp((A::local(1), TARGET), (A::GATEWAY, 1024), SYN | ACK);
            let trip = world.enters(POD1, &answer);
            trip.is(Outcome::ReplyRedirected).left_by(POD1);
            assert_eq!(trip.seen().ends(), (front_end, pod));
        }
    }

    /// Two Pods behind one device, a bridge: the reply would be bridged, and never come by here. So the backend sees our address; elsewhere
    /// (other stories here) it does not.
    fn a_pod_behind_the_client_s_bridge_has_our_address<A>() {
        let mut world = World::<A>::new().cluster_ip(&[(A::local(2), TARGET)]);
        for route in &mut world.tables_mut().routes {
            if route.network == A::local(2) {
                route.hop.device = POD1;
            }
        }
        let syn = Build::tcp((A::local(1), 40000), (A::CLUSTER_IP, PORT), SYN);
        let trip = world.enters(POD1, &syn);
        trip.is(Outcome::ToLocalBackend).left_by(POD1);
        assert_eq!(trip.seen().ends(), ((A::GATEWAY, 1024), (A::local(2), TARGET)));
        let answer = Build::tcp((A::local(2), TARGET), (A::GATEWAY, 1024), SYN | ACK);
        let trip = world.enters(POD1, &answer);
        trip.is(Outcome::ReplyRedirected).left_by(POD1);
        assert_eq!(trip.seen().ends(), ((A::CLUSTER_IP, PORT), (A::local(1), 40000)));
    }

    /// 9.14: a Pod that talks to itself without a Service is nobody's business.
    fn a_pod_that_talks_to_itself_directly_is_untouched<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let direct = Build::tcp((A::local(1), 40000), (A::local(1), TARGET), SYN);
        world.enters(POD1, &direct).passed_untouched(Outcome::Untouched);
        world.leaves(POD1, &direct).passed_untouched(Outcome::Untouched);
    }

    /// G6, 9.12: a backend in this node's host network: to the local stack, the client's address kept, the reply translated on its way out.
    fn a_host_network_backend_of_this_node<A>() {
        for (device, client) in [(UPLINK, A::client(1)), (POD1, A::local(1))] {
            let world = World::<A>::new().node_port(&[(A::NODE, TARGET)]);
            let client = (client, 40000);
            let trip = world.enters(device, &Build::tcp(client, (A::NODE, NODE_PORT), SYN));
            trip.is(Outcome::ToLocalBackend);
            assert_eq!(trip.verdict().action, Action::Pass);
            assert_eq!(trip.seen().ends(), (client, (A::NODE, TARGET)));
            let left = world.leaves(device, &Build::tcp((A::NODE, TARGET), client, SYN | ACK));
            left.is(Outcome::ReplyFromStack);
            assert_eq!(left.seen().ends(), ((A::NODE, NODE_PORT), client));
        }
    }

    /// G6: its port is reachable by its own number, too, and then the reply is nobody's business.
    fn a_host_network_backend_reached_directly<A>() {
        let world = World::<A>::new().node_port(&[(A::NODE, TARGET)]);
        let direct = Build::tcp((A::client(1), 40001), (A::NODE, TARGET), SYN);
        world.enters(UPLINK, &direct).passed_untouched(Outcome::Untouched);
        let answer = Build::tcp((A::NODE, TARGET), (A::client(1), 40001), SYN | ACK);
        world.leaves(UPLINK, &answer).passed_untouched(Outcome::Untouched);
    }

    /// 10.3, H1: a reply may leave by another device than the request came by.
    fn a_reply_is_translated_on_whatever_device_it_leaves_by<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let client = (A::client(1), 40000);
        world.enters(UPLINK, &Build::tcp(client, (A::NODE, NODE_PORT), SYN));
        let left = world.leaves(FABRIC, &Build::tcp((A::local(1), TARGET), client, SYN | ACK));
        left.is(Outcome::ReplyFromStack);
        assert_eq!(left.seen().source(), (A::NODE, NODE_PORT));
    }

    /// 10.2: a reply is translated on whatever device it comes in by.
    fn a_reply_is_translated_on_whatever_device_it_comes_in_by<A>() {
        let mut world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let mut overlay = world.node.devices[&FABRIC];
        overlay.flags = device_flags::OVERLAY;
        world.node.devices.insert(OVERLAY, overlay);
        let client = (A::client(1), 40000);
        world.enters(UPLINK, &Build::tcp(client, (A::NODE, NODE_PORT), SYN));
        let reply = Build::tcp((A::remote(7), TARGET), (A::FABRIC_ADDRESS, 1024), SYN | ACK);
        let trip = world.enters(OVERLAY, &reply);
        trip.is(Outcome::ReplyRedirected).left_by(UPLINK);
        assert_eq!(trip.seen().ends(), ((A::NODE, NODE_PORT), client));
    }

    /// What expiry and dumps go by: whose flow it is stands in its entries.
    fn entries_say_what_they_are<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let client = (A::client(1), 40000);
        world.enters(UPLINK, &Build::tcp(client, (A::NODE, NODE_PORT), SYN));
        let forward = world.flow(protocol::TCP, client, (A::NODE, NODE_PORT)).unwrap();
        let reply = world.flow(protocol::TCP, (A::local(1), TARGET), client).unwrap();
        let kind = flow_flags::LOCAL_BACKEND | flow_flags::NODE_PORT;
        assert_eq!(forward.flags, kind | flow_flags::SEEN);
        assert_eq!(reply.flags, kind | flow_flags::REPLY | flow_flags::AT_EGRESS);
        assert_eq!((forward.packets, forward.bytes), (1, A::HEADER_LEN as u64 + 20));
        assert_eq!((reply.packets, reply.bytes), (0, 0));
    }
}
