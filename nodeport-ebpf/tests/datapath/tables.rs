//! The tables of flows under pressure: pending and established, full, evicted, and written by two CPUs at once (edge-cases B6, B7, B10).

use nodeport_common::{Outcome, protocol};
use nodeport_ebpf::sim::{Frame, Moment};

use crate::both;
use crate::packets::{ACK, Build, PSH, RST, SYN};
use crate::world::{FABRIC, NODE_PORT, Places, TARGET, UPLINK, World, flow_key};

const TCP: u8 = protocol::TCP;

fn node_port<A: Places>() -> World<A> {
    World::<A>::new().node_port(&[(A::remote(7), TARGET)])
}

/// So many SYNs from as many clients, which never go on.
fn flood<A: Places>(world: &World<A>, packets: u32) {
    for n in 0..packets {
        let client = (A::client((n >> 14) as u8 + 100), 1024 + (n & 0x3fff) as u16);
        let syn = Build::tcp(client, (A::NODE, NODE_PORT), SYN);
        world.enters(UPLINK, &syn).is(Outcome::ToRemoteBackend);
    }
}

/// Another CPU gets the same packet while the first one is about to insert its `nth` entry.
fn same_packet_meanwhile<A: Places>(world: &World<A>, build: &Build<A>, nth: u32) {
    let frame = world.addressed(UPLINK, build).frame();
    world.node.interrupt(Moment::AddPending, nth, move |node| {
        let verdict = node.receive(UPLINK, &mut Frame::new(frame)).xdp.unwrap();
        assert_eq!(verdict.outcome, Outcome::ToRemoteBackend);
    });
}

both! {
    /// The third leg moves a flow out of the pending table, and nothing before it.
    fn the_third_leg_establishes<A>() {
        let world = node_port::<A>();
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let syn = Build::tcp(client, front_end, SYN);
        let (source, backend) = world.enters(UPLINK, &syn).seen().ends();
        assert_eq!(world.sizes(), (0, 2));
        world.enters(UPLINK, &syn);
        world.enters(UPLINK, &Build::tcp(client, front_end, ACK));
        assert_eq!(world.sizes(), (0, 2), "nobody has answered");
        world.enters(FABRIC, &Build::tcp(backend, source, SYN | ACK));
        world.enters(UPLINK, &syn);
        assert_eq!(world.sizes(), (0, 2), "a SYN is no third leg");
        let third = world.enters(UPLINK, &Build::tcp(client, front_end, ACK));
        assert_eq!(third.seen().ends(), (source, backend));
        assert_eq!(world.sizes(), (2, 0));
        let forward = world.flow(TCP, client, front_end).unwrap();
        let reply = world.flow(TCP, backend, source).unwrap();
        assert_eq!((forward.packets, reply.packets), (5, 1), "counters move along");
    }

    /// A question and its answer stay pending; the client's next datagram makes it a stream.
    fn a_datagram_after_an_answer_establishes<A>() {
        let world = node_port::<A>();
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let question = Build::udp(client, front_end, b"question");
        let (source, backend) = world.enters(UPLINK, &question).seen().ends();
        world.enters(UPLINK, &question);
        world.enters(FABRIC, &Build::udp(backend, source, b"answer"));
        assert_eq!(world.sizes(), (0, 2));
        assert_eq!(world.enters(UPLINK, &question).seen().ends(), (source, backend));
        assert_eq!(world.sizes(), (2, 0));
    }

    /// B6, B7: ten times as many SYNs as there is room for push out each other; established flows, however idle, are untouched.
    fn a_flood_leaves_established_flows_alone<A>() {
        let mut world = node_port::<A>();
        world.tables_mut().pending.capacity = 512;
        let client = (A::client(1), 40000);
        let (source, backend) = world.connect(client, (A::NODE, NODE_PORT));
        world.wait(3600);
        flood(&world, 5120);
        assert_eq!(world.sizes(), (2, 512));
        let data = world.enters(UPLINK, &Build::tcp(client, (A::NODE, NODE_PORT), ACK | PSH));
        assert_eq!(data.seen().ends(), (source, backend));
        // And a new client still gets in.
        world.connect((A::client(2), 40000), (A::NODE, NODE_PORT));
    }

    /// B7: the reply half was pushed out; the client's next packet makes it again, with the same port.
    fn a_lost_reply_half_is_made_again<A>() {
        let world = node_port::<A>();
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let syn = Build::tcp(client, front_end, SYN);
        let (source, backend) = world.enters(UPLINK, &syn).seen().ends();
        let reply_key = flow_key(TCP, backend, source);
        world.enters(FABRIC, &Build::tcp(backend, source, SYN | ACK));
        world.tables().pending.remove(&reply_key);
        let third = world.enters(UPLINK, &Build::tcp(client, front_end, ACK));
        assert_eq!(third.seen().ends(), (source, backend));
        let answer = world.enters(FABRIC, &Build::tcp(backend, source, ACK | PSH));
        answer.is(Outcome::ReplyRedirected).left_by(UPLINK);
        assert_eq!(answer.seen().ends(), (front_end, client));
    }

    /// B7, where the stack carries the flow: the repaired half is one for egress.
    fn a_lost_reply_half_through_the_stack_is_made_again<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let backend = (A::local(1), TARGET);
        world.enters(UPLINK, &Build::tcp(client, front_end, SYN));
        world.tables().pending.remove(&flow_key(TCP, backend, client));
        world.enters(UPLINK, &Build::tcp(client, front_end, ACK)).is(Outcome::ToLocalBackend);
        let answer = world.leaves(UPLINK, &Build::tcp(backend, client, ACK));
        answer.is(Outcome::ReplyFromStack);
        assert_eq!(answer.seen().ends(), (front_end, client));
    }

    /// B7: the reply half was pushed out before anybody answered; the retransmitted SYN makes it again, else the answer would be nobody's.
    fn a_reply_half_lost_before_the_answer_is_made_again<A>() {
        let world = node_port::<A>();
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let syn = Build::tcp(client, front_end, SYN);
        let (source, backend) = world.enters(UPLINK, &syn).seen().ends();
        world.tables().pending.remove(&flow_key(TCP, backend, source));
        assert_eq!(world.enters(UPLINK, &syn).seen().ends(), (source, backend));
        let answer = world.enters(FABRIC, &Build::tcp(backend, source, SYN | ACK));
        answer.is(Outcome::ReplyRedirected);
        assert_eq!(answer.seen().ends(), (front_end, client));
    }

    /// B7: the reply half was pushed out and its port went to another client: that one keeps it, this one gets another.
    fn a_lost_port_is_not_taken_back<A>() {
        let world = node_port::<A>();
        let front_end = (A::NODE, NODE_PORT);
        let (loser, winner) = ((A::client(1), 40000), (A::client(2), 40000));
        let syn = Build::tcp(loser, front_end, SYN);
        let (source, backend) = world.enters(UPLINK, &syn).seen().ends();
        world.tables().pending.remove(&flow_key(TCP, backend, source));
        world.node.cursors.borrow_mut().clear();
        for established in [false, true] {
            let syn = world.enters(UPLINK, &Build::tcp(winner, front_end, SYN));
            assert_eq!(syn.seen().source(), source);
            if established {
                world.enters(FABRIC, &Build::tcp(backend, source, SYN | ACK));
                world.enters(UPLINK, &Build::tcp(winner, front_end, ACK));
            }
            for flags in [SYN, ACK] {
                let data = world.enters(UPLINK, &Build::tcp(loser, front_end, flags));
                assert_ne!(data.seen().source(), source);
            }
            let answer = world.enters(FABRIC, &Build::tcp(backend, source, ACK));
            assert_eq!(answer.seen().destination(), winner);
        }
    }

    /// B7: a flow that lost its reply half, whose port went to another client, ends without taking that client's along.
    fn a_flow_that_lost_its_port_ends_alone<A>() {
        let world = node_port::<A>();
        let front_end = (A::NODE, NODE_PORT);
        let (loser, winner) = ((A::client(1), 40000), (A::client(2), 40000));
        let syn = Build::tcp(loser, front_end, SYN);
        let (source, backend) = world.enters(UPLINK, &syn).seen().ends();
        world.enters(FABRIC, &Build::tcp(backend, source, RST | ACK));
        world.tables().pending.remove(&flow_key(TCP, backend, source));
        world.node.cursors.borrow_mut().clear();
        let theirs = world.enters(UPLINK, &Build::tcp(winner, front_end, SYN));
        assert_eq!(theirs.seen().source(), source);
        // The refused client tries again: a new flow, with another port.
        assert_eq!(world.enters(UPLINK, &syn).seen().source(), (A::FABRIC_ADDRESS, 1025));
        let answer = world.enters(FABRIC, &Build::tcp(backend, source, SYN | ACK));
        answer.is(Outcome::ReplyRedirected);
        assert_eq!(answer.seen().destination(), winner);
    }

    /// B7: the forward half was pushed out; a retransmitted SYN opens the flow anew and nothing of the old half disturbs it.
    fn a_lost_forward_half_begins_anew<A>() {
        let world = node_port::<A>();
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let syn = Build::tcp(client, front_end, SYN);
        let (old, backend) = world.enters(UPLINK, &syn).seen().ends();
        world.tables().pending.remove(&flow_key(TCP, client, front_end));
        assert_eq!(world.connect(client, front_end), ((A::FABRIC_ADDRESS, 1025), backend));
        assert_eq!(old, (A::FABRIC_ADDRESS, 1024));
    }

    /// A full established table refuses new flows by name; old flows go on, and the refused client gets in when there is room.
    fn a_full_table_refuses_new_flows_only<A>() {
        let mut world = node_port::<A>();
        world.tables_mut().flows.capacity = 3;
        let front_end = (A::NODE, NODE_PORT);
        let old = (A::client(1), 40000);
        let (source, backend) = world.connect(old, front_end);
        let client = (A::client(2), 40000);
        let syn = world.enters(UPLINK, &Build::tcp(client, front_end, SYN)).seen();
        world.enters(FABRIC, &Build::tcp(backend, syn.source(), SYN | ACK));
        let third = Build::tcp(client, front_end, ACK);
        world.enters(UPLINK, &third).was_dropped(Outcome::FlowTableFull);
        assert_eq!(world.sizes(), (2, 2), "no half of it is left in the established table");

        let data = world.enters(UPLINK, &Build::tcp(old, front_end, ACK | PSH));
        assert_eq!(data.seen().ends(), (source, backend));
        let data = world.enters(FABRIC, &Build::tcp(backend, source, ACK | PSH));
        assert_eq!(data.seen().ends(), (front_end, old));

        world.tables_mut().flows.capacity = 4;
        assert_eq!(world.enters(UPLINK, &third).seen().ends(), syn.ends());
        assert_eq!(world.sizes(), (4, 0));
    }

    /// The kernel refuses a pending entry (out of memory): the packet is dropped, and the client will try again.
    fn a_refused_pending_entry_drops_the_packet<A>() {
        let mut world = node_port::<A>();
        world.tables_mut().pending.capacity = 0;
        let syn = Build::tcp((A::client(1), 40000), (A::NODE, NODE_PORT), SYN);
        world.enters(UPLINK, &syn).was_dropped(Outcome::PendingTableFailed);
        assert_eq!(world.sizes(), (0, 0));
    }

    /// B10 and C4: two CPUs get the first packet at once, the other one wins: one backend, one source port, and no entry too many.
    fn two_first_packets_at_once_make_one_flow<A>() {
        let backends: Vec<_> = (1..=9).map(|n| (A::remote(n), TARGET)).collect();
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let syn = Build::tcp(client, front_end, SYN);
        let query = Build::udp(client, front_end, b"AAAA?");
        for build in [syn, query] {
            for nth in [0, 1] {
                let world = World::<A>::new().node_port(&backends);
                same_packet_meanwhile(&world, &build, nth);
                let trip = world.enters(UPLINK, &build);
                trip.is(Outcome::ToRemoteBackend);
                assert_eq!(world.sizes(), (0, 2), "before insert {nth}");
                let flow = world.flow(build.protocol(), client, front_end).unwrap();
                assert_eq!(flow.packets, 2);
                let translated = ((flow.source, u16::from_be_bytes(flow.source_port)), flow.destination);
                let (source, backend) = trip.seen().ends();
                assert_eq!(translated, (source, backend.0));
                let answer = match build.tcp {
                    Some(_) => Build::tcp(backend, source, SYN | ACK),
                    None => Build::udp(backend, source, b"::1"),
                };
                assert_eq!(world.enters(FABRIC, &answer).seen().ends(), (front_end, client));
            }
        }
    }

    /// Two CPUs promote one flow at once: both packets go on, and the pair is there once.
    fn two_third_legs_at_once_make_one_established_flow<A>() {
        for moment in [Moment::AddFlow, Moment::RemovePending] {
            for nth in [0, 1] {
                let world = node_port::<A>();
                let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
                let syn = world.enters(UPLINK, &Build::tcp(client, front_end, SYN)).seen();
                let (source, backend) = syn.ends();
                world.enters(FABRIC, &Build::tcp(backend, source, SYN | ACK));
                let third = Build::tcp(client, front_end, ACK);
                let frame = world.addressed(UPLINK, &third).frame();
                world.node.interrupt(moment, nth, move |node| {
                    let verdict = node.receive(UPLINK, &mut Frame::new(frame)).xdp.unwrap();
                    assert_eq!(verdict.outcome, Outcome::ToRemoteBackend);
                });
                let trip = world.enters(UPLINK, &third);
                assert_eq!(trip.seen().ends(), (source, backend));
                assert_eq!(world.sizes(), (2, 0), "before {moment:?} {nth}");
            }
        }
    }

    /// Another CPU promotes the flow between this packet's looks at the two tables: no second flow is made beside it.
    fn a_promotion_between_two_lookups_leaves_one_flow<A>() {
        let world = node_port::<A>().without_xdp();
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let syn = world.enters(UPLINK, &Build::tcp(client, front_end, SYN)).seen();
        let (source, backend) = syn.ends();
        world.enters(FABRIC, &Build::tcp(backend, source, SYN | ACK));
        let data = Build::tcp(client, front_end, ACK | PSH);
        let frame = world.addressed(UPLINK, &Build::tcp(client, front_end, ACK)).frame();
        world.node.interrupt(Moment::Pending, 0, move |node| {
            node.receive(UPLINK, &mut Frame::new(frame));
        });
        let trip = world.enters(UPLINK, &data);
        assert_eq!(trip.seen().ends(), (source, backend));
        assert_eq!(world.sizes(), (2, 0));
    }

    /// Two clients want the same source port at once: the port goes to the one that inserts first.
    fn two_clients_at_once_get_different_ports<A>() {
        let world = node_port::<A>();
        let front_end = (A::NODE, NODE_PORT);
        let other = Build::tcp((A::client(2), 40000), front_end, SYN);
        let frame = world.addressed(UPLINK, &other).frame();
        world.node.interrupt(Moment::AddPending, 0, move |node| {
            // As if it had read the cursor at the same time.
            node.cursors.borrow_mut().clear();
            node.receive(UPLINK, &mut Frame::new(frame));
        });
        let mine = world.enters(UPLINK, &Build::tcp((A::client(1), 40000), front_end, SYN));
        let theirs = world.enters(UPLINK, &other);
        assert_eq!(theirs.seen().source(), (A::FABRIC_ADDRESS, 1024));
        assert_eq!(mine.seen().source(), (A::FABRIC_ADDRESS, 1025));
    }
}
