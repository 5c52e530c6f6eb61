//! Sockets of a cgroup: what a process asks of them.
//!
//! These programs run in the process, which other programs and processes may interrupt: nothing here is per CPU, and a count may be lost.

use core::mem::offset_of;

use aya_ebpf::bindings::{BPF_ANY, bpf_sock_addr};
use aya_ebpf::helpers::generated;
use aya_ebpf::programs::SockAddrContext;
use nodeport_common::{Hook, Outcome, Socket, SocketKey, V4, V6};
use nodeport_ebpf::path::socket::{self, Action, Answer, Call};
use nodeport_ebpf::tables::Sockets;

use super::context::Context;
use super::family::KernelFamily;
use super::outcomes::count;
use super::tables::{AtSocket, KernelTables};

/// The call goes on, or fails with the error that was set.
const GO_ON: i32 = 1;
const FAIL: i32 = 0;
/// `ECONNREFUSED` and `EHOSTUNREACH`, negated as the kernel returns them.
const REFUSED: i32 = -111;
const UNREACHABLE: i32 = -113;

impl<A: KernelFamily> Sockets<A> for KernelTables<AtSocket> {
    #[inline(always)]
    fn socket(&self, key: &SocketKey<A>) -> Option<&Socket<A>> {
        // SAFETY: readable for the call's life (RCU). An evicted element may be given to another socket while we hold it: then this socket's
        // entry was the least used of all, and one address is told wrong.
        unsafe { A::sockets().get(key) }
    }

    #[inline(always)]
    fn remember(&self, key: &SocketKey<A>, socket: &Socket<A>) -> bool {
        A::sockets().insert(key, socket, BPF_ANY.into()).is_ok()
    }
}

/// What a process may do with a socket and an address.
#[derive(Clone, Copy)]
enum Asks {
    Connect,
    Send,
    Name,
}

/// `connect(2)` with an IPv4 address.
#[inline(always)]
pub(crate) fn connect4(ctx: &SockAddrContext) -> i32 {
    judge4(&Peer::from(ctx), Asks::Connect)
}

/// `connect(2)` with an IPv6 address.
#[inline(always)]
pub(crate) fn connect6(ctx: &SockAddrContext) -> i32 {
    judge6(&Peer::from(ctx), Asks::Connect)
}

/// `sendmsg(2)` with an IPv4 address.
#[inline(always)]
pub(crate) fn sendmsg4(ctx: &SockAddrContext) -> i32 {
    judge4(&Peer::from(ctx), Asks::Send)
}

/// `sendmsg(2)` with an IPv6 address.
#[inline(always)]
pub(crate) fn sendmsg6(ctx: &SockAddrContext) -> i32 {
    judge6(&Peer::from(ctx), Asks::Send)
}

/// `recvmsg(2)` and `getpeername(2)` of an IPv4 address. The kernel lets these programs refuse nothing.
#[inline(always)]
pub(crate) fn name4(ctx: &SockAddrContext) -> i32 {
    judge4(&Peer::from(ctx), Asks::Name);
    GO_ON
}

/// `recvmsg(2)` and `getpeername(2)` of an IPv6 address.
#[inline(always)]
pub(crate) fn name6(ctx: &SockAddrContext) -> i32 {
    judge6(&Peer::from(ctx), Asks::Name);
    GO_ON
}

#[inline(always)]
fn judge4(peer: &Peer<'_>, asks: Asks) -> i32 {
    let answer = answer::<V4>(peer, peer.word(ADDRESS4), asks);
    if let Some(Answer { address, .. }) = answer.filter(|answer| answer.action == Action::Rewrite) {
        peer.set(ADDRESS4, address);
    }
    conclude(peer, answer, asks)
}

/// IPv4-mapped addresses are looked up as the IPv4 addresses that they are.
#[inline(always)]
fn judge6(peer: &Peer<'_>, asks: Asks) -> i32 {
    let address = peer.words(ADDRESS6);
    if let Some(mapped) = socket::mapped(&address) {
        let answer = answer::<V4>(peer, mapped, asks);
        if let Some(Answer { address, .. }) =
            answer.filter(|answer| answer.action == Action::Rewrite)
        {
            peer.set(ADDRESS6 + 12, address);
        }
        return conclude(peer, answer, asks);
    }
    let answer = answer::<V6>(peer, address, asks);
    if let Some(Answer { address, .. }) = answer.filter(|answer| answer.action == Action::Rewrite) {
        peer.set_words(ADDRESS6, address);
    }
    conclude(peer, answer, asks)
}

#[inline(always)]
fn answer<A: KernelFamily>(peer: &Peer<'_>, address: A, asks: Asks) -> Option<Answer<A>> {
    let tables = KernelTables::of_socket(peer.at.cast())?;
    let call = call(peer, address, asks);
    Some(match asks {
        Asks::Connect => socket::connect(&tables, &call),
        Asks::Send => socket::send(&tables, &call),
        Asks::Name => socket::name(&tables, &call),
    })
}

/// Writes the port, counts, and says what the kernel is to do. Addresses without a name of ours are most of what `recvmsg` sees: they are not
/// counted.
#[inline(always)]
fn conclude<A>(peer: &Peer<'_>, answer: Option<Answer<A>>, asks: Asks) -> i32 {
    let Some(answer) = answer else {
        return GO_ON;
    };
    if !(matches!(asks, Asks::Name) && answer.outcome == Outcome::Untouched) {
        count(Hook::Socket, answer.outcome);
    }
    match answer.action {
        Action::Pass => GO_ON,
        Action::Rewrite => {
            let [high, low] = answer.port;
            peer.set(PORT, [high, low, 0, 0]);
            GO_ON
        }
        Action::Refuse => fail(asks, REFUSED),
        Action::Unreachable => fail(asks, UNREACHABLE),
    }
}

#[inline(always)]
fn fail(asks: Asks, error: i32) -> i32 {
    // The kernel does not know this helper where nothing can be refused.
    if !matches!(asks, Asks::Name) {
        // SAFETY: no pointers.
        unsafe { generated::bpf_set_retval(error) };
    }
    FAIL
}

/// The peer in a context.
type Peer<'a> = Context<'a, bpf_sock_addr>;

const ADDRESS4: usize = offset_of!(bpf_sock_addr, user_ip4);
const ADDRESS6: usize = offset_of!(bpf_sock_addr, user_ip6);
const PORT: usize = offset_of!(bpf_sock_addr, user_port);
const PROTOCOL: usize = offset_of!(bpf_sock_addr, protocol);

#[inline(always)]
fn call<A>(peer: &Peer<'_>, address: A, asks: Asks) -> Call<A> {
    let [high, low, ..] = peer.word(PORT);
    let ctx = peer.at.cast();
    // SAFETY: `ctx` is this program's context.
    let cookie = unsafe { generated::bpf_get_socket_cookie(ctx) };
    let (netns, process) = if matches!(asks, Asks::Name) {
        (0, 0)
    } else {
        // SAFETY: `ctx` is this program's context.
        unsafe {
            (
                generated::bpf_get_netns_cookie(ctx),
                generated::bpf_get_current_pid_tgid() >> 32,
            )
        }
    };
    Call {
        address,
        port: [high, low],
        protocol: u8::try_from(u32::from_ne_bytes(peer.word(PROTOCOL))).unwrap_or(0),
        cookie: halves(cookie),
        netns: halves(netns),
        process: process as u32,
    }
}

#[inline(always)]
pub(super) const fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}
