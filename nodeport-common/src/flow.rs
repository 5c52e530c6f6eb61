//! Flows: what is remembered of a translated connection.
//!
//! A flow is two entries in one table. Each is keyed by the tuple of the packets that it matches, so that a packet of
//! either direction costs one lookup; each has its own counters, flags and time. The entry of the reply direction is the
//! allocation of the source port: inserting it with no-exist semantics is what makes reply tuples unique (edge-cases A1-A5).

/// The tuple of a packet: key of `FLOWS4`, `FLOWS6`, `PENDING4` and `PENDING6`. 16 bytes for IPv4, 40 for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C, align(8))]
pub struct FlowKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port, network order.
    pub source_port: [u8; 2],
    /// Destination port, network order.
    pub destination_port: [u8; 2],
    /// IANA protocol number, see [`crate::protocol`].
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// How packets of one direction of a flow are rewritten, and what was seen of them. 64 bytes for IPv4 (a cache line), 88 for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Flow<A> {
    /// Packets of this direction. Not atomic: two CPUs that carry one direction at once may lose a count.
    pub packets: u64,
    /// Bytes of this direction, from the network header on.
    pub bytes: u64,
    /// Low 32 bits of the kernel's jiffies at the last packet of this direction that extends the flow's life.
    pub last_seen: u32,
    /// [`Control::endpoint_generation`](crate::Control::endpoint_generation) at which the backend was last found good.
    pub endpoint_generation: u32,
    /// See [`flow_flags`].
    pub flags: u8,
    /// See [`tcp_flags`]; zero for UDP.
    pub tcp: u8,
    /// New source port, network order.
    pub source_port: [u8; 2],
    /// New destination port, network order.
    pub destination_port: [u8; 2],
    /// Zero.
    pub pad: [u8; 2],
    /// New source address.
    pub source: A,
    /// New destination address.
    pub destination: A,
    /// Where a redirected packet goes next; unused (zero) where the host's stack routes.
    pub next_hop: NextHop,
}

/// The next hop of a flow, remembered from one routing lookup. 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C, align(4))]
pub struct NextHop {
    /// [`Control::route_generation`](crate::Control::route_generation) at which it was looked up; 0 if there is none.
    pub generation: u32,
    /// Index of the device that the packet leaves by.
    pub device: u32,
    /// Largest packet that fits, in bytes from the network header on.
    pub mtu: u16,
    /// When it was looked up: the low 16 bits of jiffies / 1024.
    pub looked_up: u16,
    /// Destination address of the frame.
    pub destination_mac: [u8; 6],
    /// Source address of the frame.
    pub source_mac: [u8; 6],
}

/// Bits of [`Flow::flags`].
pub mod flow_flags {
    /// The entry of the reply direction (backend to client).
    pub const REPLY: u8 = 1;
    /// Translate where packets leave the host's stack (TC egress), not where they enter: replies of flows that the stack
    /// carries. Without it: at ingress.
    pub const AT_EGRESS: u8 = 1 << 1;
    /// Redirect the packet to its next hop instead of handing it to the host's stack.
    pub const REDIRECT: u8 = 1 << 2;
    /// At least one packet of this direction was seen.
    pub const SEEN: u8 = 1 << 3;
    /// The backend is on this node.
    pub const LOCAL_BACKEND: u8 = 1 << 4;
    /// The front end is a NodePort (so that expiry and dumps can name it without its address).
    pub const NODE_PORT: u8 = 1 << 5;
    /// The remembered next hop may be reached by `XDP_REDIRECT`; set and cleared with [`super::Flow::next_hop`].
    pub const XDP_TARGET: u8 = 1 << 6;
    /// A connection that the kernel's own connection tracking translates, because kube-proxy's rules began it: its packets go on unmodified. The
    /// agent alone makes and removes both entries.
    pub const FOREIGN: u8 = 1 << 7;
}

/// Bits of [`Flow::tcp`]: what was seen of a connection, in this direction and in the other.
pub mod tcp_flags {
    /// FIN in this direction.
    pub const FIN: u8 = 1;
    /// FIN in the other direction. FIN and this together: closing, left only by a new SYN (edge-cases B1-B4).
    pub const PEER_FIN: u8 = 1 << 1;
    /// RST in either direction; cleared by any later packet without RST, so that a blind RST kills nothing (B5).
    pub const RST: u8 = 1 << 2;
    /// SYN in this direction.
    pub const SYN: u8 = 1 << 3;
    /// Both FINs: the connection is over.
    pub const CLOSED: u8 = FIN | PEER_FIN;
}

/// Which datagram a fragment belongs to: key of `FRAGMENTS4` and `FRAGMENTS6` (RFC 791, RFC 8200).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C, align(8))]
pub struct FragmentKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Identification, network order; IPv4 identifications are in the last two bytes.
    pub id: [u8; 4],
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// The ports that only the first fragment carries. 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentPorts {
    /// Source port, network order.
    pub source_port: [u8; 2],
    /// Destination port, network order.
    pub destination_port: [u8; 2],
    /// Low 32 bits of the kernel's jiffies when the first fragment was seen.
    pub seen: u32,
}

impl<A: Copy> FlowKey<A> {
    /// The tuple of packets that answer packets of this tuple.
    #[must_use]
    #[inline]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            pad: [0; 3],
        }
    }
}

impl<A: Copy> Flow<A> {
    /// The tuple that packets have after this entry rewrote them.
    #[must_use]
    #[inline]
    pub fn translated(&self, protocol: u8) -> FlowKey<A> {
        FlowKey {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol,
            pad: [0; 3],
        }
    }

    /// The key of the entry of the other direction: what answers a packet that this entry rewrote.
    #[must_use]
    #[inline]
    pub fn pair(&self, protocol: u8) -> FlowKey<A> {
        self.translated(protocol).reversed()
    }
}

const _: () = {
    assert!(size_of::<FlowKey<crate::V4>>() == 16);
    assert!(size_of::<FlowKey<crate::V6>>() == 40);
    assert!(size_of::<NextHop>() == 24);
    assert!(size_of::<Flow<crate::V4>>() == 64);
    assert!(size_of::<Flow<crate::V6>>() == 88);
    assert!(size_of::<FragmentKey<crate::V4>>() == 16);
    assert!(size_of::<FragmentKey<crate::V6>>() == 40);
    assert!(size_of::<FragmentPorts>() == 8);
};
