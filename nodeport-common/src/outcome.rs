//! The one list of outcomes: what can become of a packet.
//!
//! It is the datapath's return type, the index of the counters, and the labels and texts of `status`, metrics and docs.
//! Invariant: every packet that a program sees ends in exactly one of them.

/// Defines [`Outcome`] and the struct of counters with one field for each outcome, in the same order.
macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $variant:ident, $field:ident;)+) => {
        /// What became of a packet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Outcome {
            $($(#[doc = $doc])+ $variant,)+
        }

        /// Packets by outcome: value of the per-CPU array `OUTCOMES`. Its fields are in the order of [`Outcome`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
        #[repr(C)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        impl Outcome {
            /// All outcomes, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name as it stands in counters, metrics and `status`: snake case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($field),)+ }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }

        impl Counters {
            /// The counter of one outcome.
            #[must_use]
            pub const fn get(&self, outcome: Outcome) -> u64 {
                match outcome { $(Outcome::$variant => self.$field,)+ }
            }

            /// The counter of one outcome, to be changed.
            pub const fn get_mut(&mut self, outcome: Outcome) -> &mut u64 {
                match outcome { $(Outcome::$variant => &mut self.$field,)+ }
            }
        }
    };
}

outcomes! {
    /// No front end and no flow of ours matches, or the connection is kube-proxy's; the packet goes on unmodified.
    Untouched, untouched;
    /// Not IPv4 or IPv6, or a protocol that is never translated; goes on unmodified.
    OtherProtocol, other_protocol;
    /// Lengths or headers contradict each other; left to the kernel unmodified.
    Malformed, malformed;
    /// The frame is not addressed to this device (flooded, broadcast, multicast); goes on unmodified.
    NotToUs, not_to_us;
    /// The frame has a VLAN tag; its VLAN device's own program sees it without.
    Tagged, tagged;
    /// Extension headers or options that we do not follow; left to the kernel unmodified.
    UnknownHeaders, unknown_headers;
    /// The source address cannot come from there (this node's own, loopback, multicast); left to the kernel unmodified.
    MartianSource, martian_source;
    /// TTL or hop limit is used up; answered with time exceeded, or dropped if no answer may be sent.
    TtlExpired, ttl_expired;
    /// A later fragment whose first fragment was not seen; left to the kernel unmodified.
    FragmentUnknown, fragment_unknown;
    /// XDP cannot finish this packet; the TC program behind it does.
    LeftToTc, left_to_tc;
    /// Matches a flow that is translated when it leaves the host's stack; goes on unmodified until then. Uplinks do not
    /// look for such flows.
    AwaitsEgress, awaits_egress;
    /// Translated towards a backend on this node; the host's stack delivers it, or it goes straight to its device. A socket's destination likewise.
    ToLocalBackend, to_local_backend;
    /// Translated towards a backend through the host's stack, the client's address kept. A socket's destination likewise.
    ToRoutedBackend, to_routed_backend;
    /// Translated towards a backend elsewhere with our source address, and redirected to its next hop.
    ToRemoteBackend, to_remote_backend;
    /// A reply, translated back, and redirected to its next hop.
    ReplyRedirected, reply_redirected;
    /// A reply, translated back, on its way out of the host's stack.
    ReplyFromStack, reply_from_stack;
    /// An ICMP error about a translated flow, translated with the packet it quotes.
    IcmpTranslated, icmp_translated;
    /// The Service has no usable endpoint; answered with port unreachable, for TCP with a reset, for a socket with an error.
    RejectedNoEndpoint, rejected_no_endpoint;
    /// The Service has no usable endpoint, but no answer may be sent (its budget is used up, or RFC 1122 and RFC 4443 forbid one); dropped.
    RejectSuppressed, reject_suppressed;
    /// Traffic policy Local and no endpoint on this node; dropped in silence, for a socket answered with an error.
    DroppedNoLocalEndpoint, dropped_no_local_endpoint;
    /// The client is in none of the Service's `loadBalancerSourceRanges`; dropped in silence.
    DroppedSourceRange, dropped_source_range;
    /// Larger than the MTU towards the backend or client; answered with fragmentation needed or packet too big.
    TooBig, too_big;
    /// Larger than the MTU, but no answer may be sent; dropped.
    TooBigSuppressed, too_big_suppressed;
    /// No free source port towards this backend; dropped.
    SnatPortsExhausted, snat_ports_exhausted;
    /// The table of established flows is full; dropped.
    FlowTableFull, flow_table_full;
    /// The table of pending flows refused an entry; dropped.
    PendingTableFailed, pending_table_failed;
    /// Two CPUs saw the first packet of one flow at once and this one found no winner; dropped.
    FlowConflict, flow_conflict;
    /// No route towards the backend or client; dropped.
    NoRoute, no_route;
    /// The kernel refused to rewrite or extend the packet; dropped.
    RewriteFailed, rewrite_failed;
    /// A socket was told the front end that it asked in the place of the endpoint that it got (`recvmsg`, `getpeername`).
    PeerNamed, peer_named;
    /// The table of sockets refused an entry; the datagram goes on unmodified.
    SocketTableFailed, socket_table_failed;
    /// A process asked for a port that is a live NodePort, and was refused it.
    BindRefused, bind_refused;
}

/// Where a program runs: index into the per-CPU array `OUTCOMES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Hook {
    /// XDP on an uplink.
    Xdp,
    /// TC ingress.
    TcIngress,
    /// TC egress.
    TcEgress,
    /// Sockets of a cgroup: no packet, but what a process asks of its socket.
    Socket,
}

impl Hook {
    /// All hooks, in order.
    pub const ALL: &[Self] = &[Self::Xdp, Self::TcIngress, Self::TcEgress, Self::Socket];

    /// Those that are on devices, and see packets.
    pub const ON_DEVICES: &[Self] = &[Self::Xdp, Self::TcIngress, Self::TcEgress];

    /// The name as it stands in counters, metrics and `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::TcIngress => "tc_ingress",
            Self::TcEgress => "tc_egress",
            Self::Socket => "socket",
        }
    }
}

const _: () = assert!(size_of::<Counters>() == Outcome::ALL.len() * 8);
