//! What sockets of this node asked for, and which endpoints they got.
//!
//! Invariant: an entry is of one socket, named by its cookie. The kernel never gives a cookie to another socket, so an entry that outlives
//! its socket means nothing.

/// An address that a socket asked for, or one that it got: the key of `SOCKETS4` and `SOCKETS6`. 16 bytes for IPv4, 28 for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C, align(4))]
pub struct SocketKey<A> {
    /// The socket's cookie (`SO_COOKIE`), low half first.
    pub cookie: [u32; 2],
    /// Address of the front end or of the endpoint, see [`SocketKey::role`].
    pub address: A,
    /// Its port, network order.
    pub port: [u8; 2],
    /// IANA protocol number, see [`crate::protocol`].
    pub protocol: u8,
    /// See [`socket_roles`].
    pub role: u8,
}

/// The values of [`SocketKey::role`].
pub mod socket_roles {
    /// The key has a front end that the socket asked, the value the endpoint that it got. Only of UDP sockets that are not connected.
    pub const ASKED: u8 = 1;
    /// The key has an endpoint that the socket got, the value the front end that it asked.
    pub const GOT: u8 = 2;
}

/// The other address that belongs to a [`SocketKey`]. 28 bytes for IPv4, 40 for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C, align(4))]
pub struct Socket<A> {
    /// Cookie of the socket's network namespace (`SO_NETNS_COOKIE`), low half first.
    pub netns: [u32; 2],
    /// Address of the endpoint, or of the front end.
    pub address: A,
    /// Its port, network order.
    pub port: [u8; 2],
    /// See [`socket_flags`].
    pub flags: u16,
    /// [`Frontend::service`](crate::Frontend::service) of the front end.
    pub service: u32,
    /// Endpoint generation at which the endpoint was last found to serve.
    pub endpoint_generation: u32,
    /// The process that asked: the thread group's id in the first namespace of processes.
    pub process: u32,
}

/// Bits of [`Socket::flags`].
pub mod socket_flags {
    /// The socket was connected: its endpoint cannot be changed any more.
    pub const CONNECTED: u16 = 1;
    /// The socket is of the node's own network namespace.
    pub const HOST: u16 = 1 << 1;
    /// The endpoint is on this node.
    pub const LOCAL_BACKEND: u16 = 1 << 2;
}

/// A process that asked for a port that is a live NodePort, and was refused it: what the ring buffer `BINDS` tells the agent. 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct Bind {
    /// The process: the thread group's id in the first namespace of processes.
    pub process: u32,
    /// Its name (`comm`), zeros behind it.
    pub name: [u8; 16],
    /// The port, network order.
    pub port: [u8; 2],
    /// IANA protocol number, see [`crate::protocol`].
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
}

const _: () = {
    assert!(size_of::<Bind>() == 24);
    assert!(size_of::<SocketKey<crate::V4>>() == 16);
    assert!(size_of::<SocketKey<crate::V6>>() == 28);
    assert!(size_of::<Socket<crate::V4>>() == 28);
    assert!(size_of::<Socket<crate::V6>>() == 40);
};
