//! XDP translates established flows to Pods of this node, and the stack carries them: TC, which sees them next, has nothing to do.

use nodeport_common::{Address, Hook, Outcome, address_flags, device_flags, protocol};
use nodeport_ebpf::path::Action;

use crate::both;
use crate::packets::{ACK, Build, End, FIN, PSH, SYN};
use crate::world::{NODE_PORT, POD1, Places, TARGET, Trip, UPLINK, World, frontend_key};

/// More packets than a flow needs to get a line.
const MANY: u64 = 70;

fn client<A: Places>() -> End<A> {
    (A::client(1), 40000)
}

fn sends<A: Places>(world: &World<A>, flags: u8) -> Trip<A> {
    let trip = world.enters(UPLINK, &Build::tcp(client(), (A::NODE, NODE_PORT), flags));
    assert_eq!(trip.seen().ends(), (client(), (A::local(1), TARGET)));
    trip
}

fn answers<A: Places>(world: &World<A>, flags: u8) {
    let reply = Build::tcp((A::local(1), TARGET), client(), flags);
    world
        .enters(POD1, &reply)
        .passed_untouched(Outcome::AwaitsEgress);
    let reply = world.leaves(UPLINK, &reply);
    reply.is(Outcome::ReplyFromStack);
    assert_eq!(reply.seen().ends(), ((A::NODE, NODE_PORT), client()));
}

/// An established connection to a Pod of this node.
fn established<A: Places>(world: World<A>) -> World<A> {
    let world = world.node_port(&[(A::local(1), TARGET)]);
    for (flags, back) in [(SYN, SYN | ACK), (ACK, ACK | PSH)] {
        sends(&world, flags);
        answers(&world, back);
    }
    assert_eq!(world.sizes(), (2, 0));
    world
}

#[track_caller]
fn by_xdp<A: Places>(trip: &Trip<A>) -> bool {
    let (xdp, tc) = (trip.xdp.expect("XDP"), trip.tc.expect("TC"));
    assert_eq!((xdp.action, tc.action), (Action::Pass, Action::Pass));
    match (xdp.outcome, tc.outcome) {
        (Outcome::ToLocalBackend, Outcome::Untouched) => true,
        (Outcome::LeftToTc, Outcome::ToLocalBackend) => false,
        other => panic!("{other:?}"),
    }
}

both! {
    fn an_established_packet_is_translated_by_xdp_and_goes_through_the_stack<A>() {
        let world = established(World::<A>::new());
        let trip = sends(&world, ACK | PSH);
        assert!(by_xdp(&trip));
        // The stack takes it for a packet that came so: by the same device, with the same link-layer addresses and hops left.
        let as_if = Build::tcp(client(), (A::local(1), TARGET), ACK | PSH);
        assert_eq!(trip.frame.bytes, world.addressed(UPLINK, &as_if).frame());
        answers(&world, ACK);
        assert_eq!(world.node.count(Hook::Xdp, Outcome::ToLocalBackend), 1);
    }

    /// A first packet, and a connection's end and the new one on its tuple, are as they were.
    fn what_begins_is_left_to_tc<A>() {
        let world = established(World::<A>::new());
        assert!(by_xdp(&sends(&world, FIN | ACK)));
        answers(&world, FIN | ACK);
        assert!(!by_xdp(&sends(&world, SYN)));
        answers(&world, SYN | ACK);
    }

    /// A busy connection has a line of its own; what can be the flow's alone to judge still goes there.
    fn a_busy_flow_goes_by_its_line<A>() {
        let mut world = established(World::<A>::new());
        let counted = |world: &World<A>| {
            let flow = world.flow(protocol::TCP, client(), (A::NODE, NODE_PORT));
            flow.expect("a flow").packets
        };
        for _ in 0..MANY {
            assert!(by_xdp(&sends(&world, ACK)));
        }
        let before = counted(&world);
        // Neither size nor hops left are this node's business: the stack sees to them.
        let large = Build { ttl: 1, ..Build::tcp(client(), (A::NODE, NODE_PORT), ACK) }.with_payload(4000);
        let trip = world.enters(UPLINK, &large);
        assert!(by_xdp(&trip));
        assert_eq!(trip.seen().ends(), (client(), (A::local(1), TARGET)));
        assert_eq!(counted(&world), before, "by its line");
        assert!(by_xdp(&sends(&world, FIN | ACK)));
        assert_eq!(counted(&world), 2 + MANY + 2, "the line told, and the end was counted");
        world.wait(2);
        sends(&world, ACK);
    }

    /// Where a device may leave checksums to hardware, where the kernel has made a packet of it already, and where the translated packet would
    /// be taken for one that asks for a front end.
    fn elsewhere_tc_translates<A>() {
        let mut worlds = [(); 3].map(|()| established(World::<A>::new()));
        let flags = |world: &mut World<A>, flags| world.node.devices.get_mut(&UPLINK).unwrap().flags = flags;
        flags(&mut worlds[0], device_flags::UPLINK);
        flags(&mut worlds[1], device_flags::UPLINK | device_flags::XDP_TARGET | device_flags::XDP_GENERIC);
        let key = frontend_key(A::local(1), TARGET, protocol::TCP);
        worlds[2].front_end(key, 0, &[(A::local(2), TARGET)], &[]);
        let address = Address { flags: address_flags::VIRTUAL };
        worlds[2].tables_mut().addresses.insert(A::local(1), address);
        for world in worlds {
            for _ in 0..MANY {
                assert!(!by_xdp(&sends(&world, ACK)));
            }
        }
    }
}
