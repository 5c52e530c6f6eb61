//! The ABI between nodeport's BPF programs and its agent.
//!
//! Owns the layout of every map key and value, the names of maps and programs, and the list of outcomes. It refuses to
//! know how a packet is parsed or how a Service is turned into entries. It has no dependencies and compiles for the kernel.
//!
//! Invariants: addresses and ports are byte arrays in network order, everything else is an unsigned integer in host order;
//! no type has padding bytes (asserted below each type), because a hash map compares keys byte by byte. Any change of a
//! layout, of a map's type or of the meaning of a field raises [`ABI_VERSION`].
#![no_std]
#![forbid(unsafe_code)]

mod control;
mod flow;
mod frontend;
mod noted;
mod outcome;
mod socket;

pub use control::{
    Address, Control, Device, LINES_LEN, PortSegment, TokenBucket, address_flags, control_flags,
    device_flags,
};
pub use flow::{Flow, FlowKey, FragmentKey, FragmentPorts, NextHop, flow_flags, tcp_flags};
pub use frontend::{
    Affinity, AffinityKey, Backend, Frontend, FrontendKey, ServingKey, SourceRangeKey,
    backend_flags, frontend_flags,
};
pub use noted::{
    NOTED_LEN, NOTED_TRUST, NOTED_TRUSTED, NotedBit, finish as hash_finish, mix as hash_mix,
    place as noted_place,
};
pub use outcome::{Counters, Hook, Outcome};
pub use socket::{Bind, Socket, SocketKey, socket_flags, socket_roles};

/// Version of the map layouts. Maps, programs and links are pinned under `<bpffs>/nodeport/v<ABI_VERSION>/`.
pub const ABI_VERSION: u32 = 3;

/// An IPv4 address as map keys and values hold it: four bytes in network order.
pub type V4 = [u8; 4];
/// An IPv6 address as map keys and values hold it: sixteen bytes in network order.
pub type V6 = [u8; 16];

/// IANA protocol numbers, as they stand in `protocol` fields.
pub mod protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
}

/// Names of the maps, as `bpftool map` lists them (at most 15 bytes). Those that end in 4 or 6 exist per address family.
pub mod maps {
    /// Array of one [`Control`](crate::Control): what the agent tells every program.
    pub const CONTROL: &str = "CONTROL";
    /// Hash: interface index (u32) -> [`Device`](crate::Device).
    pub const DEVICES: &str = "DEVICES";
    /// Hash: address -> [`Address`](crate::Address), the addresses that front ends answer on and those of this host.
    pub const ADDRESSES4: &str = "ADDRESSES4";
    /// See [`ADDRESSES4`].
    pub const ADDRESSES6: &str = "ADDRESSES6";
    /// Hash: [`FrontendKey`](crate::FrontendKey) -> [`Frontend`](crate::Frontend).
    pub const FRONTENDS4: &str = "FRONTENDS4";
    /// See [`FRONTENDS4`].
    pub const FRONTENDS6: &str = "FRONTENDS6";
    /// Array of [`Backend`](crate::Backend): a backend set is a range of slots of it.
    pub const BACKENDS4: &str = "BACKENDS4";
    /// See [`BACKENDS4`].
    pub const BACKENDS6: &str = "BACKENDS6";
    /// Hash: [`ServingKey`](crate::ServingKey) -> u32 (always 1): endpoints to which an existing UDP flow may go on.
    pub const SERVING4: &str = "SERVING4";
    /// See [`SERVING4`].
    pub const SERVING6: &str = "SERVING6";
    /// LRU hash: [`AffinityKey`](crate::AffinityKey) -> [`Affinity`](crate::Affinity): where clients were last sent.
    pub const AFFINITY4: &str = "AFFINITY4";
    /// See [`AFFINITY4`].
    pub const AFFINITY6: &str = "AFFINITY6";
    /// Trie by longest prefix: [`SourceRangeKey`](crate::SourceRangeKey) -> u32 (always 1): who may use load balancer addresses.
    pub const SOURCES4: &str = "SOURCES4";
    /// See [`SOURCES4`].
    pub const SOURCES6: &str = "SOURCES6";
    /// Hash: [`FlowKey`](crate::FlowKey) -> [`Flow`](crate::Flow): established flows, never evicted by the kernel.
    pub const FLOWS4: &str = "FLOWS4";
    /// See [`FLOWS4`].
    pub const FLOWS6: &str = "FLOWS6";
    /// LRU hash: as [`FLOWS4`], for flows of which no third leg was seen.
    pub const PENDING4: &str = "PENDING4";
    /// See [`PENDING4`].
    pub const PENDING6: &str = "PENDING6";
    /// LRU hash: [`FragmentKey`](crate::FragmentKey) -> [`FragmentPorts`](crate::FragmentPorts).
    pub const FRAGMENTS4: &str = "FRAGMENTS4";
    /// See [`FRAGMENTS4`].
    pub const FRAGMENTS6: &str = "FRAGMENTS6";
    /// LRU hash: [`SocketKey`](crate::SocketKey) -> [`Socket`](crate::Socket): sockets whose destinations were translated.
    pub const SOCKETS4: &str = "SOCKETS4";
    /// See [`SOCKETS4`].
    pub const SOCKETS6: &str = "SOCKETS6";
    /// Ring buffer of [`Bind`](crate::Bind): processes that were refused a port.
    pub const BINDS: &str = "BINDS";
    /// Array of two rows of 65,536 bytes: 1 for each hash of an address (row 0) and each port (row 1) that was the destination of
    /// packets of a flow. Never unset: a packet to another destination has no flow.
    pub const DESTINATIONS: &str = "DESTINATIONS";
    /// Array of u64: which destinations may be those of front ends, see [`NotedBit`](crate::NotedBit).
    pub const NOTED4: &str = "NOTED4";
    /// See [`NOTED4`].
    pub const NOTED6: &str = "NOTED6";
    /// Array of u32: where the search for a free source port starts, by hash of the backend.
    pub const SNAT_CURSORS: &str = "SNAT_CURSORS";
    /// Per-CPU array of one [`TokenBucket`](crate::TokenBucket): the budget of ICMP errors that we originate.
    pub const REJECTS: &str = "REJECTS";
    /// Per-CPU array: [`Hook`](crate::Hook) as index -> [`Counters`](crate::Counters).
    pub const OUTCOMES: &str = "OUTCOMES";
}

/// Names of the programs in the object.
pub mod programs {
    /// XDP on uplinks: the fast path.
    pub const XDP: &str = "nodeport_xdp";
    /// TC ingress of every covered device: complete.
    pub const TC_INGRESS: &str = "nodeport_in";
    /// TC egress of every covered device: replies of local backends.
    pub const TC_EGRESS: &str = "nodeport_out";
    /// The cgroup's `connect(2)`.
    pub const CONNECT4: &str = "nodeport_conn4";
    /// See [`CONNECT4`].
    pub const CONNECT6: &str = "nodeport_conn6";
    /// The cgroup's `sendmsg(2)` with an address, UDP.
    pub const SENDMSG4: &str = "nodeport_send4";
    /// See [`SENDMSG4`].
    pub const SENDMSG6: &str = "nodeport_send6";
    /// The cgroup's `recvmsg(2)` with an address, UDP.
    pub const RECVMSG4: &str = "nodeport_recv4";
    /// See [`RECVMSG4`].
    pub const RECVMSG6: &str = "nodeport_recv6";
    /// The cgroup's `getpeername(2)`.
    pub const GETPEERNAME4: &str = "nodeport_peer4";
    /// See [`GETPEERNAME4`].
    pub const GETPEERNAME6: &str = "nodeport_peer6";
    /// The cgroup's `bind(2)`, after the kernel granted it.
    pub const POST_BIND4: &str = "nodeport_bind4";
    /// See [`POST_BIND4`].
    pub const POST_BIND6: &str = "nodeport_bind6";
    /// XDP, never attached: returns the low 32 bits of the kernel's jiffies, by test run.
    pub const CLOCK: &str = "nodeport_clock";
}

/// Number of slots of [`maps::SNAT_CURSORS`]; a power of two.
pub const SNAT_CURSORS_LEN: u32 = 4096;
