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

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

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
