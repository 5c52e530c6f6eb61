//! A call of a process that has an address in it, and what becomes of the call.
//!
//! Owns their form. Refuses to know Services. Invariant: both are whole words without unused bytes, as what lies on a program's stack has to be.

use nodeport_common::{Outcome, Socket, V4, V6};

use crate::wire::Family;

/// What a process asks of its socket, and with which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Call<A> {
    /// The socket's cookie, low half first.
    pub cookie: [u32; 2],
    /// The cookie of its network namespace, low half first.
    pub netns: [u32; 2],
    /// Address of the peer.
    pub address: A,
    /// Port of the peer, network order.
    pub port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    /// The process, see [`Socket::process`].
    pub process: u32,
}

/// What the call becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// It goes on as it is.
    Pass,
    /// It goes on with the address and port of the answer.
    Rewrite,
    /// It fails: connection refused.
    Refuse,
    /// It fails: no route to host.
    Unreachable,
}

/// What became of a call. As [`super::Verdict`], without unused bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Answer<A> {
    /// For the counters.
    pub outcome: Outcome,
    /// For the kernel.
    pub action: Action,
    /// With [`Action::Rewrite`], the address in the place of that of the call.
    pub address: A,
    /// With [`Action::Rewrite`], the port likewise, network order.
    pub port: [u8; 2],
}

impl<A: Family> Answer<A> {
    #[inline(always)]
    pub(super) const fn without_address(outcome: Outcome, action: Action) -> Self {
        Self {
            outcome,
            action,
            address: A::UNSPECIFIED,
            port: [0; 2],
        }
    }

    #[inline(always)]
    pub(super) const fn pass(outcome: Outcome) -> Self {
        Self::without_address(outcome, Action::Pass)
    }

    #[inline(always)]
    pub(super) const fn rewrite(outcome: Outcome, socket: &Socket<A>) -> Self {
        Self {
            outcome,
            action: Action::Rewrite,
            address: socket.address,
            port: socket.port,
        }
    }
}

/// The IPv4 address that an IPv4-mapped IPv6 address stands for (RFC 4291 2.5.5.2): sockets of IPv6 reach IPv4 by it (edge-cases J12).
#[must_use]
#[inline(always)]
pub const fn mapped(address: &V6) -> Option<V4> {
    match *address {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
        _ => None,
    }
}
