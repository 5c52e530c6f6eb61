//! What a TCP connection's packets do to its flow (edge-cases B1-B5, B9, B11-B14, B16).

use nodeport_common::{Outcome, frontend_flags, protocol, tcp_flags};

use crate::both;
use crate::packets::{ACK, Build, CWR, ECE, End, FIN, PSH, RST, SYN};
use crate::world::{FABRIC, HZ, NODE_PORT, POD1, Places, TARGET, UPLINK, World, node_port_key};

const TCP: u8 = protocol::TCP;

/// A connection from a client to a remote backend.
struct Connection<A: Places> {
    world: World<A>,
    client: End<A>,
    front_end: End<A>,
    source: End<A>,
    backend: End<A>,
}

impl<A: Places> Connection<A> {
    fn new() -> Self {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let (source, backend) = world.connect(client, front_end);
        Self {
            world,
            client,
            front_end,
            source,
            backend,
        }
    }

    #[track_caller]
    fn client_sends(&self, flags: u8) {
        let trip = self
            .world
            .enters(UPLINK, &Build::tcp(self.client, self.front_end, flags));
        assert_eq!(trip.seen().ends(), (self.source, self.backend));
    }

    #[track_caller]
    fn backend_sends(&self, flags: u8) {
        let trip = self
            .world
            .enters(FABRIC, &Build::tcp(self.backend, self.source, flags));
        assert_eq!(trip.seen().ends(), (self.front_end, self.client));
    }

    /// TCP flags of the forward and of the reply entry.
    fn tcp(&self) -> (u8, u8) {
        let forward = self.world.flow(TCP, self.client, self.front_end);
        let reply = self.world.flow(TCP, self.backend, self.source);
        (forward.unwrap().tcp, reply.unwrap().tcp)
    }

    /// Seconds since each entry was last used.
    fn idle(&self) -> (u32, u32) {
        let now = self.world.node.jiffies;
        let since = |seen: u32| now.wrapping_sub(seen) / HZ;
        let forward = self.world.flow(TCP, self.client, self.front_end);
        let reply = self.world.flow(TCP, self.backend, self.source);
        (
            since(forward.unwrap().last_seen),
            since(reply.unwrap().last_seen),
        )
    }

    /// The Service gets another backend, and no longer has this one.
    fn move_service(&mut self, to: u8) {
        let set = [(A::remote(to), TARGET)];
        let key = node_port_key(NODE_PORT, TCP);
        self.world
            .front_end(key, frontend_flags::NODE_PORT, &set, &set);
    }

    #[track_caller]
    fn reconnects_to(&self, n: u8) {
        let syn = self
            .world
            .enters(UPLINK, &Build::tcp(self.client, self.front_end, SYN));
        syn.is(Outcome::ToRemoteBackend);
        assert_eq!(syn.seen().destination(), (A::remote(n), TARGET));
    }
}

const SYN_BIT: u8 = tcp_flags::SYN;
const FIN_BIT: u8 = tcp_flags::FIN;
const PEER: u8 = tcp_flags::PEER_FIN;

both! {
    /// B1: a client that reuses its port after the end of a connection gets a backend that exists now.
    fn a_syn_on_a_closed_connection_begins_a_new_one<A>() {
        let mut it = Connection::<A>::new();
        it.client_sends(FIN | ACK);
        it.backend_sends(FIN | ACK);
        it.client_sends(ACK);
        it.move_service(8);
        it.reconnects_to(8);
        // Nothing of the old connection is left.
        assert_eq!(it.world.sizes(), (0, 2));
        assert!(it.world.flow(TCP, it.backend, it.source).is_none());
    }

    /// B1, after a RST.
    fn a_syn_after_a_reset_begins_a_new_connection<A>() {
        let mut it = Connection::<A>::new();
        it.backend_sends(RST | ACK);
        it.move_service(8);
        it.reconnects_to(8);
    }

    /// B1, before the third leg: the backend refused, the client tries again from the same port.
    fn a_syn_after_a_refusal_begins_a_new_connection<A>() {
        let mut it = Connection::<A>::new();
        let client = (A::client(2), 40000);
        let syn = Build::tcp(client, it.front_end, SYN);
        let source = it.world.enters(UPLINK, &syn).seen().source();
        let refusal = Build::tcp(it.backend, source, RST | ACK);
        it.world.enters(FABRIC, &refusal).is(Outcome::ReplyRedirected);
        it.move_service(8);
        let again = it.world.enters(UPLINK, &syn);
        assert_eq!(again.seen().destination(), (A::remote(8), TARGET));
    }

    /// A SYN on a live connection belongs to it: its end will answer as it sees fit (RFC 5961).
    fn a_syn_on_a_live_connection_changes_nothing<A>() {
        let mut it = Connection::<A>::new();
        it.move_service(8);
        it.client_sends(SYN);
        it.client_sends(ACK);
    }

    /// B2: after both FINs only a SYN changes anything; the delayed last ACK and retransmissions do not prolong the flow's life.
    fn late_packets_of_a_closed_connection_do_not_prolong_it<A>() {
        let mut it = Connection::<A>::new();
        it.client_sends(FIN | ACK);
        it.backend_sends(FIN | ACK);
        it.world.wait(50);
        it.client_sends(ACK);
        it.backend_sends(FIN | ACK);
        it.client_sends(FIN | ACK);
        it.backend_sends(ACK | PSH);
        assert_eq!(it.idle(), (50, 50));
        assert_eq!(it.tcp(), (SYN_BIT | FIN_BIT | PEER, SYN_BIT | FIN_BIT | PEER));
    }

    /// B3: after one FIN the other half goes on as long as it likes.
    fn a_half_closed_connection_lives<A>() {
        let mut it = Connection::<A>::new();
        it.client_sends(FIN | ACK);
        assert_eq!(it.tcp(), (SYN_BIT | FIN_BIT, SYN_BIT | PEER));
        for _ in 0..12 {
            it.world.wait(10);
            it.backend_sends(ACK | PSH);
            it.client_sends(ACK);
            assert_eq!(it.idle(), (0, 0));
        }
    }

    /// B4: FINs that cross each other close both directions.
    fn crossing_fins_close_both_directions<A>() {
        let it = Connection::<A>::new();
        it.backend_sends(FIN | ACK);
        it.client_sends(FIN | ACK);
        assert_eq!(it.tcp(), (SYN_BIT | FIN_BIT | PEER, SYN_BIT | FIN_BIT | PEER));
    }

    /// B5: a RST from nowhere is forwarded and noted, and forgotten with the next packet: the ends decide whether it was theirs.
    fn a_blind_reset_ends_nothing<A>() {
        let mut it = Connection::<A>::new();
        it.client_sends(RST);
        assert_eq!(it.tcp(), (SYN_BIT | tcp_flags::RST, SYN_BIT | tcp_flags::RST));
        it.world.wait(5);
        it.backend_sends(ACK | PSH);
        assert_eq!(it.tcp(), (SYN_BIT, SYN_BIT));
        it.move_service(8);
        it.client_sends(ACK);
        assert_eq!(it.idle(), (0, 0));
    }

    /// B9: a packet in the middle of a connection that nobody knows (state was lost) opens a flow, so that some backend answers it.
    fn a_packet_without_state_is_picked_up<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let data = world.enters(UPLINK, &Build::tcp(client, front_end, ACK | PSH).with_payload(30));
        assert_eq!(data.xdp.unwrap().outcome, Outcome::LeftToTc);
        data.is(Outcome::ToRemoteBackend).left_by(FABRIC);
        let (source, backend) = data.seen().ends();
        let reset = world.enters(FABRIC, &Build::tcp(backend, source, RST));
        reset.is(Outcome::ReplyRedirected);
        assert_eq!(reset.seen().ends(), (front_end, client));
    }

    /// A RST that belongs to nothing opens nothing (nobody would answer it).
    fn a_reset_without_state_is_not_picked_up<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let reset = Build::tcp((A::client(1), 40000), (A::NODE, NODE_PORT), RST | ACK);
        world.enters(UPLINK, &reset).passed_untouched(Outcome::Untouched);
        assert_eq!(world.sizes(), (0, 0));
    }

    /// A7: an answer to a connection that somebody opened from a port that is a NodePort (a Pod behind a CNI's masquerade, say) is no
    /// request. As netfilter sees it, a SYN with ACK begins nothing.
    fn a_syn_ack_without_state_is_not_picked_up<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let answer = Build::tcp((A::client(1), 443), (A::NODE, NODE_PORT), SYN | ACK);
        world.enters(UPLINK, &answer).passed_untouched(Outcome::Untouched);
        assert_eq!(world.sizes(), (0, 0));
    }

    /// B11: endpoints changed while a SYN had no answer: its retransmission chooses anew.
    fn an_unanswered_syn_chooses_anew_after_endpoints_changed<A>() {
        let mut it = Connection::<A>::new();
        let syn = Build::tcp((A::client(2), 40000), it.front_end, SYN);
        let first = it.world.enters(UPLINK, &syn).seen();
        it.move_service(8);
        // Not programmed to its end yet: same flow.
        assert_eq!(it.world.enters(UPLINK, &syn).seen().ends(), first.ends());
        it.world.node.control.endpoint_generation += 1;
        let again = it.world.enters(UPLINK, &syn);
        assert_eq!(again.seen().destination(), (A::remote(8), TARGET));
        assert_eq!(it.world.sizes(), (2, 2));
    }

    /// B11: an answered SYN keeps its backend, even if that is gone: no choosing anew in the middle of a handshake.
    fn an_answered_syn_keeps_its_backend<A>() {
        let mut it = Connection::<A>::new();
        let client = (A::client(2), 40000);
        let syn = Build::tcp(client, it.front_end, SYN);
        let (source, backend) = it.world.enters(UPLINK, &syn).seen().ends();
        let answer = Build::tcp(backend, source, SYN | ACK);
        it.world.enters(FABRIC, &answer).is(Outcome::ReplyRedirected);
        it.move_service(8);
        it.world.node.control.endpoint_generation += 1;
        assert_eq!(it.world.enters(UPLINK, &syn).seen().ends(), (source, backend));
        let third = it.world.enters(UPLINK, &Build::tcp(client, it.front_end, ACK));
        assert_eq!(third.seen().ends(), (source, backend));
    }

    /// B12, B13 and behaviours 17.1: connections outlive their endpoint and their Service.
    fn a_connection_outlives_its_endpoint_and_its_service<A>() {
        let mut it = Connection::<A>::new();
        it.move_service(8);
        it.world.node.control.endpoint_generation += 1;
        it.client_sends(ACK | PSH);
        it.backend_sends(ACK | PSH);
        it.world.tables_mut().frontends.clear();
        it.world.tables_mut().backends.clear();
        it.world.node.control.endpoint_generation += 1;
        it.client_sends(ACK | PSH);
        it.backend_sends(ACK | PSH);
        it.client_sends(FIN | ACK);
        it.backend_sends(FIN | ACK);
    }

    /// B14: a SYN with data (TCP Fast Open) and with ECN bits is a SYN; all of it arrives.
    fn a_syn_may_have_data_and_ecn_bits<A>() {
        let world = World::<A>::new().node_port(&[(A::remote(7), TARGET)]);
        let client = (A::client(1), 40000);
        let syn = Build::tcp(client, (A::NODE, NODE_PORT), SYN | ECE | CWR).with_payload(100);
        let trip = world.enters(UPLINK, &syn);
        trip.is(Outcome::ToRemoteBackend);
        let seen = trip.seen();
        assert_eq!(seen.behind[13], SYN | ECE | CWR);
        assert_eq!(seen.behind[20..], syn.payload);
        assert_eq!(trip.xdp, Some(trip.verdict()), "XDP does it alone");
    }

    /// B16: what the agent's clock runs on: each direction notes when it was last used.
    fn each_direction_notes_when_it_was_last_used<A>() {
        let mut it = Connection::<A>::new();
        it.world.wait(7);
        it.client_sends(ACK);
        it.world.wait(3);
        assert_eq!(it.idle(), (3, 10));
        it.backend_sends(ACK);
        assert_eq!(it.idle(), (3, 0));
    }

    /// The same connection through the stack: the reply entry's state is kept at egress.
    fn a_connection_through_the_stack_closes_alike<A>() {
        let world = World::<A>::new().node_port(&[(A::local(1), TARGET)]);
        let (client, front_end) = ((A::client(1), 40000), (A::NODE, NODE_PORT));
        let backend = (A::local(1), TARGET);
        for flags in [SYN, ACK, FIN | ACK] {
            let trip = world.enters(UPLINK, &Build::tcp(client, front_end, flags));
            trip.is(Outcome::ToLocalBackend);
            assert_eq!(trip.seen().ends(), (client, backend));
            let answer = Build::tcp(backend, client, flags | ACK);
            world.enters(POD1, &answer).passed_untouched(Outcome::AwaitsEgress);
            let trip = world.leaves(UPLINK, &answer);
            trip.is(Outcome::ReplyFromStack);
            assert_eq!(trip.seen().ends(), (front_end, client));
        }
        let forward = world.flow(TCP, client, front_end).unwrap();
        let reply = world.flow(TCP, backend, client).unwrap();
        assert_eq!(forward.tcp, SYN_BIT | FIN_BIT | PEER);
        assert_eq!(reply.tcp, SYN_BIT | FIN_BIT | PEER);
        assert_eq!((forward.packets, reply.packets), (3, 3));
    }
}
