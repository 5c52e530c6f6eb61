//! Where a packet's parts lie while it is looked at: in memory that the hook owns, because a BPF program's stack has 512 bytes.
//!
//! Invariant: one packet uses it at a time; nothing in it outlives the packet.

use nodeport_common::{
    Affinity, AffinityKey, FlowKey, FragmentKey, FrontendKey, ServingKey, SourceRangeKey,
};

use crate::tables::{Entry, Route, RouteQuery};
use crate::wire::Headers;
use crate::wire::parse::Segment;

/// Working memory for one packet of one address family.
#[derive(Debug, Default)]
#[repr(C, align(8))]
pub struct Scratch<A> {
    /// The packet.
    pub segment: Segment<A>,
    /// Hash of the packet's tuple, and its epoch before its flow was looked up.
    pub hash: u32,
    /// See [`Scratch::hash`].
    pub epoch: u32,
    /// Whether the packet's flow was found in the table of established flows. Here and not in a register, where the verifier would follow each
    /// of both cases to the end.
    pub is_established: bool,
    /// The packet that an ICMP error quotes.
    pub quoted: Headers<A>,
    /// The key of the other direction, or of an entry about to be made.
    pub other: FlowKey<A>,
    /// An entry about to be made.
    pub entry: Entry<A>,
    /// The datagram that a fragment belongs to.
    pub fragment: FragmentKey<A>,
    /// The front end that is looked for.
    pub frontend: FrontendKey<A>,
    /// The endpoint that is looked for among those that serve.
    pub serving: ServingKey<A>,
    /// The client of a front end with session affinity.
    pub client: AffinityKey<A>,
    /// Where it is sent.
    pub sent: Affinity<A>,
    /// The source of a packet to a front end that only some may use.
    pub source: SourceRangeKey<A>,
    /// A question to the routing tables.
    pub query: RouteQuery<A>,
    /// Their answer.
    pub route: Route<A>,
}
