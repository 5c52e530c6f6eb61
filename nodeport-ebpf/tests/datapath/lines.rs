//! The line cache: it is used, it never outlives what its flow was, and no count is lost that the flow is asked for (design in `path/line.rs`).
//!
//! Whether a packet went by its line shows in its flow's counters, which do not move then.

use nodeport_common::{Outcome, ServingKey, frontend_flags, protocol, tcp_flags};
use nodeport_ebpf::tables::LINE_PLACES;

use crate::both;
use crate::packets::{ACK, Build, End, FIN, RST, SYN};
use crate::world::{
    FABRIC, FABRIC_MAC, HZ, NODE_PORT, PEER_MAC, Places, TARGET, Trip, UPLINK, World, flow_key,
    node_port_key,
};

const TCP: u8 = protocol::TCP;
const UDP: u8 = protocol::UDP;
/// More packets than a flow needs to get a line.
const MANY: u64 = 70;

/// A busy connection: its client's direction has a line.
struct Busy<A: Places> {
    world: World<A>,
    client: End<A>,
    front_end: End<A>,
    source: End<A>,
    backend: End<A>,
    protocol: u8,
}

impl<A: Places> Busy<A> {
    fn new(protocol: u8) -> Self {
        let backend = (A::remote(7), TARGET);
        let world = World::<A>::new().node_port(&[backend]);
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let mut it = Self {
            world,
            client,
            front_end,
            source: client,
            backend,
            protocol,
        };
        it.open();
        for _ in 0..MANY {
            it.sends(ACK);
        }
        it
    }

    /// The first three packets.
    fn open(&mut self) {
        self.source = self.request(SYN).seen().source();
        self.answers(SYN | ACK);
        self.sends(ACK);
        assert_eq!(self.world.sizes().1, 0, "established");
    }

    fn build(&self, from: End<A>, to: End<A>, flags: u8) -> Build<A> {
        if self.protocol == TCP {
            Build::tcp(from, to, flags)
        } else {
            Build::udp(from, to, b"datagram")
        }
    }

    #[track_caller]
    fn request(&self, flags: u8) -> Trip<A> {
        self.world
            .enters(UPLINK, &self.build(self.client, self.front_end, flags))
    }

    #[track_caller]
    fn sends(&self, flags: u8) {
        let trip = self.request(flags);
        trip.is(Outcome::ToRemoteBackend).left_by(FABRIC);
        assert_eq!(trip.seen().ends(), (self.source, self.backend));
    }

    #[track_caller]
    fn answers(&self, flags: u8) {
        let build = self.build(self.backend, self.source, flags);
        let trip = self.world.enters(FABRIC, &build);
        trip.is(Outcome::ReplyRedirected).left_by(UPLINK);
        assert_eq!(trip.seen().ends(), (self.front_end, self.client));
    }

    fn counted(&self) -> u64 {
        let flow = self.world.flow(self.protocol, self.client, self.front_end);
        flow.expect("a flow").packets
    }

    /// Whether the next packet, with these flags, goes past the flow.
    #[track_caller]
    fn has_line_for(&self, flags: u8) -> bool {
        let before = self.counted();
        self.sends(flags);
        self.counted() == before
    }
}

both! {
    fn a_busy_flow_goes_by_its_line_and_looks_the_same<A>() {
        for protocol in [TCP, UDP] {
            let it = Busy::<A>::new(protocol);
            assert!(it.has_line_for(ACK));
            let trip = it.request(ACK);
            let seen = trip.seen();
            assert_eq!(seen.ends(), (it.source, it.backend));
            assert_eq!(trip.frame.bytes[..6], PEER_MAC);
            assert_eq!(trip.frame.bytes[6..12], FABRIC_MAC);
            assert!(trip.tc.is_none(), "by XDP");
        }
    }

    /// What a flow of few packets sent is always in its counters.
    fn a_flow_of_few_packets_has_no_line<A>() {
        let mut it = Busy::<A>::new(UDP);
        it.client.1 += 1;
        it.open();
        for _ in 0..10 {
            assert!(!it.has_line_for(ACK));
        }
        assert_eq!(it.counted(), 12);
    }

    /// The other direction has a line of its own.
    fn replies_go_by_a_line_as_well<A>() {
        let it = Busy::<A>::new(TCP);
        let reply = || it.world.flow(TCP, it.backend, it.source).expect("a flow").packets;
        for _ in 0..MANY {
            it.answers(ACK);
        }
        let before = reply();
        it.answers(ACK);
        assert_eq!(reply(), before);
    }

    fn a_line_is_good_for_a_second_and_then_tells_its_flow<A>() {
        let mut it = Busy::<A>::new(TCP);
        let sent = it.request(ACK).frame.bytes.len() as u64 - 14;
        let before = it.world.flow(TCP, it.client, it.front_end).expect("a flow");
        it.world.node.jiffies += HZ;
        assert!(it.has_line_for(ACK));
        it.world.node.jiffies += 1;
        it.sends(ACK);
        let after = it.world.flow(TCP, it.client, it.front_end).expect("a flow");
        // MANY and the third leg; those after the line was made, with this one.
        assert_eq!(after.packets, 2 + MANY + 3);
        assert_eq!(after.bytes - before.bytes, sent * (after.packets - before.packets));
        assert_eq!(after.last_seen, it.world.node.jiffies);
        assert!(it.has_line_for(ACK), "and there is a new one");
    }

    /// Edge-cases B2-B4: an end is always the flow's to see, and after it there is no line, in neither direction.
    fn after_a_fin_every_packet_goes_to_the_flow<A>() {
        for client_closes in [true, false] {
            let it = Busy::<A>::new(TCP);
            for _ in 0..MANY {
                it.answers(ACK);
            }
            if client_closes {
                it.sends(FIN | ACK);
            } else {
                it.answers(FIN | ACK);
            }
            assert!(!it.has_line_for(ACK) && !it.has_line_for(ACK));
            let reply = || it.world.flow(TCP, it.backend, it.source).expect("a flow").packets;
            // What its line counted before comes home with it.
            it.answers(ACK);
            let before = reply();
            it.answers(ACK);
            assert_eq!(reply(), before + 1);
        }
    }

    /// B5: a packet after a blind RST reaches the flow, which lives on, and only then has a line again.
    fn a_reset_is_taken_back_by_the_next_packet<A>() {
        let it = Busy::<A>::new(TCP);
        it.answers(RST);
        assert!(!it.has_line_for(ACK));
        let flow = it.world.flow(TCP, it.client, it.front_end).expect("a flow");
        assert_eq!(flow.tcp & tcp_flags::RST, 0);
        assert!(it.has_line_for(ACK));
    }

    /// B1, within the second in which the line would have been good.
    fn a_port_that_is_used_again_goes_to_the_new_backend<A>() {
        let mut it = Busy::<A>::new(TCP);
        it.sends(FIN | ACK);
        it.answers(FIN | ACK);
        it.sends(ACK);
        let set = [(A::remote(8), TARGET)];
        it.world.front_end(node_port_key(NODE_PORT, TCP), frontend_flags::NODE_PORT, &set, &set);
        it.backend = set[0];
        it.open();
        it.sends(ACK);
    }

    /// Behaviours 17.3: the first datagram after the endpoint went away goes to another one.
    fn a_datagram_to_an_endpoint_that_went_is_aimed_anew<A>() {
        let mut it = Busy::<A>::new(UDP);
        assert!(it.has_line_for(ACK));
        let set = [(A::remote(8), TARGET)];
        let key = node_port_key(NODE_PORT, UDP);
        it.world.front_end(key, frontend_flags::NODE_PORT, &set, &set);
        let tables = it.world.tables_mut();
        tables.frontends.get_mut(&key).expect("programmed").serving = 1;
        let port = TARGET.to_be_bytes();
        tables.serving.insert(ServingKey { service: 1, address: A::remote(8), port, pad: [0; 2] });
        it.world.node.control.endpoint_generation += 1;
        assert_eq!(it.request(ACK).seen().destination(), (A::remote(8), TARGET));
    }

    /// TCP is left alone (B12): another endpoint generation is none of its lines' business.
    fn another_endpoint_generation_leaves_tcp_its_line<A>() {
        let mut it = Busy::<A>::new(TCP);
        it.world.node.control.endpoint_generation += 1;
        assert!(it.has_line_for(ACK));
    }

    fn a_changed_route_is_followed_at_once<A>() {
        let mut it = Busy::<A>::new(TCP);
        for route in &mut it.world.tables_mut().routes {
            if route.hop.device == FABRIC {
                route.hop.destination_mac = [2, 0, 0, 0, 9, 9];
            }
        }
        assert!(it.has_line_for(ACK), "nobody was told");
        it.world.node.control.route_generation += 1;
        let trip = it.request(ACK);
        assert_eq!(trip.frame.bytes[..6], [2, 0, 0, 0, 9, 9]);
    }

    fn what_xdp_cannot_finish_does_not_go_by_a_line<A>() {
        let it = Busy::<A>::new(TCP);
        let old = Build { ttl: 1, ..it.build(it.client, it.front_end, ACK) };
        let trip = it.world.enters(UPLINK, &old);
        assert_eq!(trip.xdp.map(|verdict| verdict.outcome), Some(Outcome::LeftToTc));
        let large = it.build(it.client, it.front_end, ACK).with_payload(1600);
        let trip = it.world.enters(UPLINK, &large);
        assert_eq!(trip.xdp.map(|verdict| verdict.outcome), Some(Outcome::LeftToTc));
    }

    /// What is removed while a packet is on its way to make a line leaves none that is good.
    fn a_line_made_while_its_flow_ends_is_not_used<A>() {
        let mut it = Busy::<A>::new(TCP);
        it.world.node.jiffies += HZ + 1;
        let key = flow_key(TCP, it.client, it.front_end);
        let tables = it.world.tables();
        let entry = tables.flows.get(&key).expect("a flow");
        // The other CPU's FIN was seen after this packet looked up its flow: as if it had read the epoch before.
        let hash = nodeport_ebpf::select::hash(&key, it.world.node.control.seed);
        it.sends(ACK);
        let line = tables.lines.get(&(hash & 1023)).expect("a line");
        assert!(line.owner.is(&key));
        *tables.epochs.borrow_mut().entry(hash >> 16).or_default() += 1;
        entry.tcp.set(entry.tcp.get() | tcp_flags::FIN);
        assert!(!it.has_line_for(ACK) && !it.has_line_for(ACK));
    }

    /// Two flows at one place: the live line stays, an old one makes room and its counts go home.
    fn a_place_is_taken_over_when_its_line_is_old<A>() {
        let mut it = Busy::<A>::new(UDP);
        it.world.node.control.lines_per_cpu = 1;
        it.world.node.jiffies += HZ + 1;
        it.sends(ACK);
        it.sends(ACK);
        assert!(it.has_line_for(ACK));
        let counted = it.counted();
        let first = it.client;
        it.client.1 += 1;
        it.open();
        for _ in 0..MANY {
            assert!(!it.has_line_for(ACK), "the first flow's line lives");
        }
        it.world.node.jiffies += HZ + 1;
        it.sends(ACK);
        assert!(it.has_line_for(ACK));
        it.client = first;
        assert_eq!(it.counted(), counted + 2);
    }

    /// A flow's line lies at one of as many places; who finds none of them free has no line.
    fn as_many_flows_as_places_have_lines<A>() {
        let mut it = Busy::<A>::new(UDP);
        it.world.node.control.lines_per_cpu = LINE_PLACES;
        let first = it.client;
        let count = LINE_PLACES as u16 + 1;
        for port in 0..count {
            it.client.1 = first.1 + port;
            if port > 0 {
                it.open();
            }
            for _ in 0..MANY {
                it.sends(ACK);
            }
        }
        let has_line = |it: &mut Busy<A>, port: u16| {
            it.client.1 = first.1 + port;
            it.source = it.request(ACK).seen().source();
            it.has_line_for(ACK)
        };
        for _ in 0..2 {
            let lacking: Vec<_> = (0..count).filter(|port| !has_line(&mut it, *port)).collect();
            assert_eq!(lacking, [count - 1]);
        }
        it.world.node.jiffies += HZ + 1;
        let lacking: Vec<_> = (0..count).rev().filter(|port| !has_line(&mut it, *port)).collect();
        assert_eq!(lacking, [0], "whoever comes first");
    }
}
