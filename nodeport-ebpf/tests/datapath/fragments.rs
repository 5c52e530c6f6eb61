//! Fragments of datagrams, both ways (edge-cases E2-E5, E7).

use nodeport_common::{Outcome, V6};
use nodeport_ebpf::path::Action;
use nodeport_ebpf::sim::Frame;

use crate::both;
use crate::packets::{Build, End, Seen};
use crate::sums;
use crate::world::{FABRIC, HZ, NODE_PORT, POD1, Places, TARGET, Trip, UPLINK, World};

/// 4000 bytes through an MTU of 1500.
const CUTS: [usize; 2] = [1448, 2896];

fn datagram<A: Places>(from: End<A>, to: End<A>, id: u32) -> Build<A> {
    Build {
        id,
        ..Build::udp(from, to, &[]).with_payload(4000)
    }
}

fn question<A: Places>() -> Build<A> {
    datagram((A::client(1), 40000), (A::NODE, NODE_PORT), 0xabcd)
}

/// The fragments of a datagram come in by a device, in this order.
fn enter<A: Places>(
    world: &World<A>,
    device: u32,
    build: &Build<A>,
    order: &[usize],
) -> Vec<Trip<A>> {
    let fragments = world.addressed(device, build).fragments(&CUTS);
    order
        .iter()
        .map(|n| world.enters_as(device, Frame::new(fragments[*n].clone())))
        .collect()
}

/// Puts fragments together; what comes out is the datagram between these ends, checksum included.
#[track_caller]
fn are_one_datagram<A: Places>(trips: &[Trip<A>], from: End<A>, to: End<A>) {
    let mut segment = Vec::new();
    for trip in trips {
        assert_eq!(sums::wrong(&trip.frame.bytes), Vec::<&str>::new());
        let seen = Seen::<A>::read(&trip.frame.bytes);
        assert_eq!((seen.from, seen.to), (from.0, to.0));
        segment.extend(seen.behind);
    }
    assert_eq!(segment, datagram(from, to, 0).segment());
}

both! {
    /// E2, E5: to a remote backend and back. XDP leaves all fragments to TC, so that they stay together.
    fn a_fragmented_datagram_goes_both_ways<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let (source, backend) = ((A::FABRIC_ADDRESS, 1024), (A::remote(7), TARGET));
        let there = enter(&world, UPLINK, &question(), &[0, 1, 2]);
        for trip in &there {
            assert_eq!(trip.xdp.unwrap().outcome, Outcome::LeftToTc);
            trip.is(Outcome::ToRemoteBackend).left_by(FABRIC);
        }
        are_one_datagram(&there, source, backend);
        let back = enter(&world, FABRIC, &datagram(backend, source, 7), &[0, 2, 1]);
        for trip in &back {
            trip.is(Outcome::ReplyRedirected).left_by(UPLINK);
        }
        are_one_datagram(&[&back[0], &back[2], &back[1]].map(clone), front_end, client);
        let flow = world.flow(17, client, front_end).unwrap();
        assert_eq!(flow.packets, 3);
    }

    /// E2 through the stack: in at ingress, out at egress.
    fn a_fragmented_datagram_goes_through_the_stack<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let backend = (A::local(1), TARGET);
        let there = enter(&world, UPLINK, &question(), &[0, 1, 2]);
        for trip in &there {
            trip.is(Outcome::ToLocalBackend);
            assert_eq!(trip.verdict().action, Action::Pass);
        }
        are_one_datagram(&there, client, backend);
        let reply = datagram(backend, client, 7);
        let fragments = world.addressed(UPLINK, &reply).fragments(&CUTS);
        let back: Vec<Trip<A>> = fragments
            .into_iter()
            .map(|bytes| {
                let mut frame = Frame::new(bytes);
                let sent = frame.clone();
                let verdict = world.node.tc_egress(UPLINK, &mut frame);
                Trip::new(None, verdict, frame, sent)
            })
            .collect();
        for trip in &back {
            trip.is(Outcome::ReplyFromStack);
        }
        are_one_datagram(&back, front_end, client);
    }

    /// E3: a fragment that comes before its first one is the kernel's, and nothing is made of it; those behind the first are carried.
    fn a_fragment_before_the_first_is_left_alone<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let trips = enter(&world, UPLINK, &question(), &[1, 0, 2, 1]);
        trips[0].passed_untouched(Outcome::FragmentUnknown);
        for trip in &trips[1..] {
            trip.is(Outcome::ToRemoteBackend);
        }
    }

    /// E4: identifications are used again: a new first fragment counts, and after 30 seconds an old one does not.
    fn what_a_first_fragment_left_behind_is_short_lived<A>() {
        let mut world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        enter(&world, UPLINK, &question(), &[0]);
        world.wait(30);
        enter(&world, UPLINK, &question(), &[1])[0].is(Outcome::ToRemoteBackend);
        world.node.jiffies += 1;
        let late = enter(&world, UPLINK, &question(), &[1]);
        late[0].passed_untouched(Outcome::FragmentUnknown);
        // The same identification, another client's port: later fragments belong to that.
        let other = datagram((A::client(1), 40001), (A::NODE, NODE_PORT), 0xabcd);
        let trips = enter(&world, UPLINK, &other, &[0, 1, 2]);
        let source = Seen::<A>::read(&trips[0].frame.bytes);
        assert_eq!((source.from, source.to), (A::FABRIC_ADDRESS, A::remote(7)));
        are_one_datagram(&trips, (A::FABRIC_ADDRESS, 1025), (A::remote(7), TARGET));
        assert_eq!(HZ, 250);
    }

    /// E4: another datagram's fragment does not profit from it.
    fn a_fragment_of_another_datagram_is_unknown<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        enter(&world, UPLINK, &question(), &[0]);
        for other in [
            Build { id: 0xabce, ..question::<A>() },
            Build { from: (A::client(2), 40000), ..question::<A>() },
        ] {
            let trips = enter(&world, UPLINK, &other, &[1]);
            trips[0].passed_untouched(Outcome::FragmentUnknown);
        }
    }

    /// Fragments for a port without a Service are not remembered: all of them are the stack's.
    fn fragments_of_others_stay_together<A>() {
        let world = World::<A>::new();
        let trips = enter(&world, UPLINK, &question(), &[0, 1, 2]);
        trips[0].passed_untouched(Outcome::Untouched);
        trips[1].passed_untouched(Outcome::FragmentUnknown);
        trips[2].passed_untouched(Outcome::FragmentUnknown);
        assert!(world.tables().fragments.is_empty());
    }

    /// A Pod's fragmented reply is left alone where it enters the stack.
    fn a_local_backend_s_fragments_wait_for_egress<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        enter(&world, UPLINK, &question(), &[0, 1, 2]);
        let reply = datagram((A::local(1), TARGET), (A::client(1), 40000), 7);
        let trips = enter(&world, POD1, &reply, &[0, 1, 2]);
        trips[0].passed_untouched(Outcome::AwaitsEgress);
        trips[1].passed_untouched(Outcome::FragmentUnknown);
    }
}

fn clone<A: Places>(trip: &Trip<A>) -> Trip<A> {
    Trip::new(trip.xdp, trip.tc, trip.frame.clone(), trip.frame.clone())
}

/// E7: a fragment that is the whole packet (RFC 6946) is a whole packet, to XDP as well.
#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let world = World::<V6>::new().node_port(&[(V6::remote(7), TARGET)]);
    let whole = world
        .addressed(UPLINK, &question::<V6>().with_payload(100))
        .fragments(&[]);
    let trip = world.enters_as(UPLINK, Frame::new(whole[0].clone()));
    assert_eq!(trip.xdp.unwrap().outcome, Outcome::ToRemoteBackend);
    assert_eq!(trip.seen().destination().0, V6::remote(7));
}
