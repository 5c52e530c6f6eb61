//! The line cache where XDP does not carry a flow: TC has lines, and XDP and the Pods' devices know by them whose a packet is.
//!
//! As in [`crate::lines`], a packet went by a line if its flow's counters did not move.

use nodeport_common::{Outcome, control_flags, device_flags, protocol, tcp_flags};
use nodeport_ebpf::packet::Note;
use nodeport_ebpf::path::Action;
use nodeport_ebpf::sim::Frame;

use crate::both;
use crate::packets::{ACK, Build, End, FIN, SYN};
use crate::world::{
    FABRIC, HZ, NODE_PORT, PEER_MAC, POD1, POD1_MAC, POD2, Places, TARGET, Trip, UPLINK, World,
};

const TCP: u8 = protocol::TCP;
const UDP: u8 = protocol::UDP;
/// More packets than a flow needs to get a line.
const MANY: u64 = 70;

/// A connection, or a flow of datagrams, of a client outside.
struct Flow<A: Places> {
    world: World<A>,
    backend: End<A>,
    protocol: u8,
}

impl<A: Places> Flow<A> {
    /// Established, without a line yet.
    fn new(world: World<A>, backend: End<A>, protocol: u8) -> Self {
        let it = Self {
            world: world.node_port(&[backend]),
            backend,
            protocol,
        };
        it.sends(SYN);
        it.answers(SYN | ACK);
        it.sends(ACK);
        it
    }

    fn client() -> End<A> {
        (A::client(1), 40000)
    }

    fn build(&self, from: End<A>, to: End<A>, flags: u8) -> Build<A> {
        if self.protocol == TCP {
            Build::tcp(from, to, flags)
        } else {
            Build::udp(from, to, b"datagram")
        }
    }

    fn request(&self, flags: u8) -> Build<A> {
        self.build(Self::client(), (A::NODE, NODE_PORT), flags)
    }

    /// The client sends.
    #[track_caller]
    fn sends(&self, flags: u8) -> Trip<A> {
        let trip = self.world.enters(UPLINK, &self.request(flags));
        assert_eq!(trip.seen().destination(), self.backend);
        trip
    }

    /// The client sends a datagram in two parts.
    fn sends_in_fragments(&self) -> Vec<Trip<A>> {
        let large = self.request(ACK).with_payload(1600);
        let fragments = self.world.addressed(UPLINK, &large).fragments(&[800]);
        let enters = |bytes| self.world.enters_as(UPLINK, Frame::new(bytes));
        fragments.into_iter().map(enters).collect()
    }

    /// The backend's answer, to whom the backend knows.
    fn reply(&self, flags: u8) -> Build<A> {
        let flow = self
            .world
            .flow(self.protocol, Self::client(), (A::NODE, NODE_PORT));
        let flow = flow.expect("a flow");
        let source = (flow.source, u16::from_be_bytes(flow.source_port));
        self.build(self.backend, source, flags)
    }

    /// The backend answers. Returns what became of the packet where it came in, and where it left the stack.
    #[track_caller]
    fn answers(&self, flags: u8) -> (Trip<A>, Option<Trip<A>>) {
        let is_local = self.backend.0 == A::local(1);
        let reply = self.reply(flags);
        let came = self
            .world
            .enters(if is_local { POD1 } else { FABRIC }, &reply);
        let left = (came.verdict().outcome == Outcome::AwaitsEgress)
            .then(|| self.world.leaves(UPLINK, &reply));
        let seen = left.as_ref().unwrap_or(&came).seen();
        assert_eq!(seen.ends(), ((A::NODE, NODE_PORT), Self::client()));
        (came, left)
    }

    fn busy(self) -> Self {
        for _ in 0..MANY {
            self.sends(ACK);
            self.answers(ACK);
        }
        self
    }

    /// Packets that the entries of both directions know of.
    fn counted(&self) -> [u64; 2] {
        let reply = self.reply(ACK);
        let request = self.request(ACK);
        [(request.from, request.to), (reply.from, reply.to)].map(|(from, to)| {
            let flow = self.world.flow(self.protocol, from, to);
            flow.expect("a flow").packets
        })
    }
}

fn without_xdp<A: Places>() -> World<A> {
    World::new().without_xdp()
}

/// Straight to Pods whose other ends can be reached.
fn straight<A: Places>() -> World<A> {
    let mut world = World::<A>::new();
    world.node.control.flags |= control_flags::REDIRECT_LOCAL;
    world.node.devices.get_mut(&POD1).expect("there").flags |= device_flags::PEER;
    world
}

both! {
    fn without_xdp_tc_carries_by_lines<A>() {
        for protocol in [TCP, UDP] {
            let it = Flow::new(without_xdp::<A>(), (A::remote(7), TARGET), protocol).busy();
            let before = it.counted();
            let there = it.sends(ACK);
            there.is(Outcome::ToRemoteBackend).left_by(FABRIC);
            assert_eq!(there.seen().to_mac, PEER_MAC);
            it.answers(ACK).0.is(Outcome::ReplyRedirected).left_by(UPLINK);
            assert_eq!(it.counted(), before);
        }
    }

    /// XDP does not look up a flow only to leave it.
    fn xdp_knows_by_a_line_of_tc_whose_the_packet_is<A>() {
        let it = Flow::new(straight::<A>(), (A::local(1), TARGET), TCP).busy();
        let before = it.counted();
        let there = it.sends(ACK);
        assert_eq!(there.xdp.expect("it runs").outcome, Outcome::LeftToTc);
        there.is(Outcome::ToLocalBackend).arrived_by(POD1);
        assert_eq!(there.seen().from_mac, POD1_MAC);
        assert_eq!(it.counted(), before);
        it.sends(FIN | ACK).arrived_by(POD1);
        let [requests, replies] = it.counted();
        assert!(requests > before[0], "a FIN goes to the flow");
        it.answers(ACK);
        it.answers(ACK);
        assert!(it.counted()[1] > replies + 1, "and so does what follows");
    }

    /// The Pod's device leaves a reply to egress, and egress translates it: neither looks up the flow.
    fn replies_through_the_stack_go_by_a_line_of_egress<A>() {
        for world in [without_xdp::<A>(), World::new()] {
            let mut it = Flow::new(world, (A::local(1), TARGET), TCP).busy();
            let before = it.counted();
            let (came, left) = it.answers(ACK);
            came.passed_untouched(Outcome::AwaitsEgress);
            left.expect("it left").is(Outcome::ReplyFromStack);
            it.sends(ACK).is(Outcome::ToLocalBackend);
            assert_eq!(it.counted(), before);
            it.world.node.jiffies += HZ + 1;
            it.answers(ACK);
            assert!(it.counted()[1] > before[1] + 1, "a second later all is told");
            it.answers(FIN | ACK);
            let reply = it.reply(ACK);
            let flow = it.world.flow(TCP, reply.from, reply.to).expect("a flow");
            assert_ne!(flow.tcp & tcp_flags::FIN, 0);
        }
    }

    /// A tuple that is a reply at ingress only is none at egress, whatever lines say.
    fn a_line_of_ingress_is_none_of_egress<A>() {
        let it = Flow::new(without_xdp::<A>(), (A::remote(7), TARGET), UDP).busy();
        it.world.tables().replies_noted.borrow_mut().insert((A::client(1), 40000u16.to_be_bytes()));
        it.world.leaves(UPLINK, &it.request(ACK)).passed_untouched(Outcome::Untouched);
    }

    /// Edge-cases E5: a cut-up datagram of a flow that XDP carries goes by TC. The others go on by XDP.
    fn fragments_take_no_flow_from_xdp<A>() {
        let it = Flow::new(World::<A>::new(), (A::remote(7), TARGET), UDP).busy();
        let before = it.counted();
        for trip in it.sends_in_fragments() {
            assert_eq!(trip.xdp.expect("it runs").outcome, Outcome::LeftToTc);
            trip.is(Outcome::ToRemoteBackend);
        }
        let after = it.counted();
        assert_eq!(after[0], before[0] + 2);
        assert!(it.sends(ACK).tc.is_none());
        assert_eq!(it.counted(), after);
    }

    /// E2-E7: the first fragment's ports are remembered although its flow has a line.
    fn fragments_do_not_go_by_lines<A>() {
        let it = Flow::new(without_xdp::<A>(), (A::remote(7), TARGET), UDP).busy();
        for trip in it.sends_in_fragments() {
            trip.is(Outcome::ToRemoteBackend).left_by(FABRIC);
        }
    }

    /// TTL and MTU are the flow's to judge, and to answer.
    fn what_cannot_be_forwarded_does_not_go_by_a_line<A>() {
        let it = Flow::new(without_xdp::<A>(), (A::remote(7), TARGET), TCP).busy();
        let old = Build { ttl: 1, ..it.request(ACK) };
        it.world.enters(UPLINK, &old).is(Outcome::TtlExpired);
        let large = it.request(ACK).with_payload(1600);
        it.world.enters(UPLINK, &large).is(Outcome::TooBig);
    }

    /// A device without link-layer header: the kernel is asked to write one, whoever made the line.
    fn a_line_does_not_write_an_ethernet_header_where_there_is_none<A>() {
        let mut it = Flow::new(without_xdp::<A>(), (A::remote(7), TARGET), TCP).busy();
        it.world.node.devices.get_mut(&UPLINK).expect("there").flags |= device_flags::NO_ETHERNET;
        let trip = it.world.enters_as(UPLINK, Frame::new(it.request(ACK).packet()));
        assert_eq!(trip.verdict().action, Action::Resolve);
    }

    /// XDP translates such a packet and leaves a note; TC only sends it.
    fn xdp_translates_and_tc_sends<A>() {
        for takes_notes in [true, false] {
            let it = Flow::new(straight::<A>(), (A::local(1), TARGET), TCP).busy();
            let before = it.counted();
            let sent = Frame {
                takes_notes,
                ..Frame::new(it.world.addressed(UPLINK, &it.request(ACK)).frame())
            };
            let mut frame = sent.clone();
            let verdict = it.world.node.xdp_ingress(UPLINK, &mut frame).expect("it runs");
            assert_eq!((verdict.outcome, verdict.action), (Outcome::LeftToTc, Action::Pass));
            assert_eq!(frame.bytes != sent.bytes, takes_notes);
            assert_eq!(frame.bytes[..12], sent.bytes[..12], "it is this device's until then");
            let trip = it.world.enters_as(UPLINK, sent);
            trip.is(Outcome::ToLocalBackend).arrived_by(POD1);
            assert_eq!(trip.seen().ends(), (Flow::<A>::client(), (A::local(1), TARGET)));
            assert_eq!(trip.frame.bytes[6..12], POD1_MAC);
            assert_eq!(it.counted(), before);
        }
    }

    /// What a device may have left to hardware of a checksum, only TC can mend.
    fn xdp_leaves_frames_of_other_devices_as_they_came<A>() {
        let mut world = straight::<A>();
        world.node.devices.get_mut(&UPLINK).expect("there").flags &= !device_flags::XDP_TARGET;
        let it = Flow::new(world, (A::local(1), TARGET), TCP).busy();
        let trip = it.sends(ACK);
        assert_eq!(trip.xdp.expect("it runs").outcome, Outcome::LeftToTc);
        assert_eq!(trip.frame.note, None);
        trip.is(Outcome::ToLocalBackend).arrived_by(POD1);
    }

    /// Replies to Pods of this node, whose devices take no frames from XDP.
    fn replies_to_pods_are_handed_over<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let pod = (A::local(1), 40000);
        let front_end = (A::NODE, NODE_PORT);
        let asks = |flags| world.enters(POD1, &Build::tcp(pod, front_end, flags)).seen().source();
        let source = asks(SYN);
        let answers = |flags| {
            let reply = Build::tcp((A::remote(7), TARGET), source, flags);
            let trip = world.enters(FABRIC, &reply);
            trip.is(Outcome::ReplyRedirected).left_by(POD1);
            assert_eq!(trip.seen().ends(), (front_end, pod));
            trip
        };
        answers(SYN | ACK);
        for _ in 0..MANY {
            asks(ACK);
            answers(ACK);
        }
        assert!(answers(ACK).frame.note.is_some());
        assert!(answers(FIN | ACK).frame.note.is_none());
    }

    /// What other programs leave with a frame is no note, nor is what comes by a device where our XDP program does not run.
    fn only_xdp_leaves_notes<A>() {
        let world = World::<A>::new().without_xdp();
        let seed = world.node.control.seed;
        let note = |seed| Some(Note { seed, device: POD2, ..Note::default() });
        let pod = (A::local(1), 40000);
        for (device, from, note) in [(UPLINK, Flow::<A>::client(), note(seed + 1)), (POD1, pod, note(seed))] {
            let build = Build::udp(from, (A::client(2), 53), b"question");
            let frame = Frame::new(world.addressed(device, &build).frame());
            world.enters_as(device, Frame { note, ..frame }).passed_untouched(Outcome::Untouched);
        }
    }

    /// In generic mode XDP sends to devices to which it does not in native mode, from another uplink of the node.
    fn xdp_in_generic_mode_goes_past_a_line_of_tc<A>() {
        let mut it = Flow::new(straight::<A>(), (A::local(1), TARGET), TCP).busy();
        it.world.node.devices.get_mut(&UPLINK).expect("there").flags |= device_flags::XDP_GENERIC;
        for _ in 0..2 {
            assert!(it.sends(ACK).tc.is_none());
        }
    }
}
