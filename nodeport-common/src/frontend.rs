//! Front ends, backend sets, the endpoints that old UDP flows may keep, and who is sent where again or kept out.
//!
//! Invariants: the slots of a set are in the order of address and port, byte by byte. A backend set is immutable. The agent writes the slots of a new set first, then replaces the one
//! [`Frontend`] value, and reuses the old slots only after a grace period.

/// What a new connection asks for: the key of `FRONTENDS4` and `FRONTENDS6`.
///
/// A NodePort has the unspecified address (all zero) here; the addresses that it answers on are those with
/// [`NODE_PORT`](crate::address_flags::NODE_PORT) in `ADDRESSES4` and `ADDRESSES6`. A front end with an address of its own
/// wins over a NodePort with the same port number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C, align(4))]
pub struct FrontendKey<A> {
    /// Virtual address, or zero for a NodePort.
    pub address: A,
    /// Port, network order.
    pub port: [u8; 2],
    /// IANA protocol number, see [`crate::protocol`].
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// The backend sets of one front end, and what to do without backends. 32 bytes.
///
/// Two sets, because a client on this node (a local Pod) that uses an external front end of a Service with
/// `externalTrafficPolicy: Local` gets the cluster-wide set (behaviours 7.1), while everyone else gets the local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Frontend {
    /// First slot of the set for clients that are not on this node.
    pub base: u32,
    /// Number of slots of that set; 0 if there is none.
    pub len: u32,
    /// First slot of the set for Pods of this node.
    pub local_base: u32,
    /// Number of slots of that set; 0 if there is none.
    pub local_len: u32,
    /// Number of endpoints that keep existing UDP flows (serving, whatever the policy), see [`ServingKey`].
    pub serving: u32,
    /// Number of the service port (namespace, name, port name, protocol), given by the agent; never reused while flows exist.
    pub service: u32,
    /// See [`frontend_flags`].
    pub flags: u32,
    /// For how long after its last new connection a client is sent to the same endpoint again, in seconds: `sessionAffinity: ClientIP`
    /// (behaviours 11.3). 0 for none, 86,400 at most.
    pub affinity_secs: u32,
}

/// Bits of [`Frontend::flags`].
pub mod frontend_flags {
    /// The front end is a ClusterIP.
    pub const CLUSTER_IP: u32 = 1;
    /// The front end is a NodePort.
    pub const NODE_PORT: u32 = 1 << 1;
    /// The front end is an external IP.
    pub const EXTERNAL_IP: u32 = 1 << 2;
    /// The front end is a load balancer address.
    pub const LOAD_BALANCER: u32 = 1 << 3;
    /// An empty set for outside clients means drop in silence (endpoints exist, but the policy is Local and none is
    /// here), not port unreachable (behaviours 6.7).
    pub const DROP_IF_EMPTY: u32 = 1 << 4;
    /// The same for Pods of this node.
    pub const LOCAL_DROP_IF_EMPTY: u32 = 1 << 5;
    /// The policy that governs this front end is Local: the client's address is never rewritten (9.2, 9.4).
    pub const POLICY_LOCAL: u32 = 1 << 6;
    /// Only clients in the service port's [`SourceRangeKey`](super::SourceRangeKey)s may open connections (behaviours 14).
    pub const SOURCE_RANGES: u32 = 1 << 7;
}

/// One slot of a backend set. 8 bytes for IPv4, 20 for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(4))]
pub struct Backend<A> {
    /// Address of the endpoint.
    pub address: A,
    /// Port of the endpoint, network order.
    pub port: [u8; 2],
    /// See [`backend_flags`].
    pub flags: u16,
}

/// Bits of [`Backend::flags`].
pub mod backend_flags {
    /// The endpoint is on this node (a Pod of it, or in its host network): it is reached through the host's stack.
    pub const LOCAL: u16 = 1;
}

/// An endpoint to which existing UDP flows of a service port may go on (behaviours 17.3, 17.4): key of `SERVING4`/`SERVING6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C, align(4))]
pub struct ServingKey<A> {
    /// Address of the endpoint; first, so that it lies well on a program's stack.
    pub address: A,
    /// Port of the endpoint, network order.
    pub port: [u8; 2],
    /// Zero.
    pub pad: [u8; 2],
    /// [`Frontend::service`].
    pub service: u32,
}

/// A client of a service port: key of `AFFINITY4` and `AFFINITY6`. Which front end it asked is not part of it (behaviours 11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C, align(4))]
pub struct AffinityKey<A> {
    /// Address of the client.
    pub client: A,
    /// [`Frontend::service`].
    pub service: u32,
}

/// Where a client was last sent. 12 bytes for IPv4, 24 for IPv6. It binds nobody: an endpoint that the front end no longer has is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C, align(4))]
pub struct Affinity<A> {
    /// Address of the endpoint.
    pub address: A,
    /// Port of the endpoint, network order.
    pub port: [u8; 2],
    /// Zero.
    pub pad: [u8; 2],
    /// Low 32 bits of the kernel's jiffies at the client's last new connection.
    pub used: u32,
}

/// A range of addresses that may use a service port's load balancer addresses: key of the tries `SOURCES4` and `SOURCES6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C, align(4))]
pub struct SourceRangeKey<A> {
    /// Bits that count: 32 for the service port, then those of the range's prefix.
    pub prefix_len: u32,
    /// [`Frontend::service`], network order: a trie compares bits from the first byte on.
    pub service: [u8; 4],
    /// First address of the range; zero beyond its prefix.
    pub address: A,
}

const _: () = {
    assert!(size_of::<AffinityKey<crate::V4>>() == 8);
    assert!(size_of::<AffinityKey<crate::V6>>() == 20);
    assert!(size_of::<Affinity<crate::V4>>() == 12);
    assert!(size_of::<Affinity<crate::V6>>() == 24);
    assert!(size_of::<SourceRangeKey<crate::V4>>() == 12);
    assert!(size_of::<SourceRangeKey<crate::V6>>() == 24);
    assert!(size_of::<FrontendKey<crate::V4>>() == 8);
    assert!(size_of::<FrontendKey<crate::V6>>() == 20);
    assert!(size_of::<Frontend>() == 32);
    assert!(size_of::<Backend<crate::V4>>() == 8);
    assert!(size_of::<Backend<crate::V6>>() == 20);
    assert!(size_of::<ServingKey<crate::V4>>() == 12);
    assert!(size_of::<ServingKey<crate::V6>>() == 24);
};
