//! The rim: entry points of a few lines around the safe library. Start reading at `lib.rs`.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the entry points that aya's macros generate"
)]

mod kernel;

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, SockContext, TcContext, XdpContext};

/// XDP on uplinks: from the wire to backends on other nodes and back, past the host's stack.
#[xdp]
pub fn nodeport_xdp(ctx: XdpContext) -> u32 {
    kernel::xdp::run(&ctx)
}

/// TC where packets enter the host's stack.
#[classifier]
pub fn nodeport_in(ctx: TcContext) -> i32 {
    kernel::tc::ingress(&ctx)
}

/// TC where packets leave the host's stack.
#[classifier]
pub fn nodeport_out(ctx: TcContext) -> i32 {
    kernel::tc::egress(&ctx)
}

/// A process connects a socket.
#[cgroup_sock_addr(connect4)]
pub fn nodeport_conn4(ctx: SockAddrContext) -> i32 {
    kernel::sockets::connect4(&ctx)
}

/// A process connects a socket.
#[cgroup_sock_addr(connect6)]
pub fn nodeport_conn6(ctx: SockAddrContext) -> i32 {
    kernel::sockets::connect6(&ctx)
}

/// A process sends a datagram and says where.
#[cgroup_sock_addr(sendmsg4)]
pub fn nodeport_send4(ctx: SockAddrContext) -> i32 {
    kernel::sockets::sendmsg4(&ctx)
}

/// A process sends a datagram and says where.
#[cgroup_sock_addr(sendmsg6)]
pub fn nodeport_send6(ctx: SockAddrContext) -> i32 {
    kernel::sockets::sendmsg6(&ctx)
}

/// A process receives a datagram and asks from whom.
#[cgroup_sock_addr(recvmsg4)]
pub fn nodeport_recv4(ctx: SockAddrContext) -> i32 {
    kernel::sockets::name4(&ctx)
}

/// A process receives a datagram and asks from whom.
#[cgroup_sock_addr(recvmsg6)]
pub fn nodeport_recv6(ctx: SockAddrContext) -> i32 {
    kernel::sockets::name6(&ctx)
}

/// A process asks whom its socket is connected to.
#[cgroup_sock_addr(getpeername4)]
pub fn nodeport_peer4(ctx: SockAddrContext) -> i32 {
    kernel::sockets::name4(&ctx)
}

/// A process asks whom its socket is connected to.
#[cgroup_sock_addr(getpeername6)]
pub fn nodeport_peer6(ctx: SockAddrContext) -> i32 {
    kernel::sockets::name6(&ctx)
}

/// A process has bound a socket.
#[cgroup_sock(post_bind4)]
pub fn nodeport_bind4(ctx: SockContext) -> i32 {
    kernel::binds::bind4(&ctx)
}

/// A process has bound a socket.
#[cgroup_sock(post_bind6)]
pub fn nodeport_bind6(ctx: SockContext) -> i32 {
    kernel::binds::bind6(&ctx)
}

/// The kernel's clock for the agent, by test run; never attached.
#[xdp]
pub fn nodeport_clock(_ctx: XdpContext) -> u32 {
    kernel::tables::jiffies()
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
