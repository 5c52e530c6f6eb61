//! The benchmark's own programs: generators, the bare redirect, and the ends that count and check.
//!
//! Never attached by the agent; `cargo xtask bench` builds and loads them. Invariant: what counts as arrived was addressed, checksummed and
//! numbered by the generator.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the entry points that aya's macros generate"
)]

mod abi;
mod emit;
mod frame;
mod rewrite;
mod sink;

use abi::{Arrived, BACK, FORTH, Plan, Seen};
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

#[btf_map]
static PLANS: Array<Plan, 2> = Array::new();
/// One for each flow; the benchmark sets its size.
#[btf_map]
static SEEN: Array<Seen, 1024> = Array::new();
#[btf_map]
static ARRIVED: PerCpuArray<Arrived, 2> = PerCpuArray::new();
/// How many packets were sent.
#[btf_map]
static SENT: PerCpuArray<u64, 2> = PerCpuArray::new();

/// Where the bare redirect sends packets of the client, and answers.
#[unsafe(no_mangle)]
static DEVICE_FORTH: u32 = 0;
#[unsafe(no_mangle)]
static DEVICE_BACK: u32 = 0;

/// Sends packets of the client: run by test runs with live frames, in the client's namespace.
#[xdp]
pub fn bench_emit_forth(ctx: XdpContext) -> u32 {
    emit::run::<FORTH>(&ctx).unwrap_or(XDP_DROP)
}

/// Sends answers, likewise.
#[xdp]
pub fn bench_emit_back(ctx: XdpContext) -> u32 {
    emit::run::<BACK>(&ctx).unwrap_or(XDP_DROP)
}

/// The far end. Drops what it counts; what is not ours goes on.
#[xdp]
pub fn bench_sink_forth(ctx: XdpContext) -> u32 {
    end::<FORTH>(&ctx)
}

/// The same in a Pod, whose device has no XDP program in any cluster.
#[classifier]
pub fn bench_sink_pod(ctx: TcContext) -> i32 {
    if sink::run::<FORTH>(&ctx) {
        TC_ACT_SHOT
    } else {
        TC_ACT_UNSPEC
    }
}

/// The client's end, likewise.
#[xdp]
pub fn bench_sink_back(ctx: XdpContext) -> u32 {
    end::<BACK>(&ctx)
}

/// The limit: no look at the packet.
#[xdp]
pub fn bench_redirect_f(_ctx: XdpContext) -> u32 {
    redirect(&raw const DEVICE_FORTH)
}

/// The same for answers.
#[xdp]
pub fn bench_redirect_b(_ctx: XdpContext) -> u32 {
    redirect(&raw const DEVICE_BACK)
}

/// The limit for whoever translates: the packet is rewritten, nothing is looked up.
#[xdp]
pub fn bench_rewrite_f(ctx: XdpContext) -> u32 {
    rewrite::run(&ctx).map_or(XDP_PASS, |()| redirect(&raw const DEVICE_FORTH))
}

/// The same for answers.
#[xdp]
pub fn bench_rewrite_b(ctx: XdpContext) -> u32 {
    rewrite::run(&ctx).map_or(XDP_PASS, |()| redirect(&raw const DEVICE_BACK))
}

/// Nothing: what remains of its time is that of the two readings of the clock.
#[xdp]
pub fn bench_empty(_ctx: XdpContext) -> u32 {
    XDP_DROP
}

#[inline(always)]
fn end<const WAY: u32>(ctx: &XdpContext) -> u32 {
    if sink::run::<WAY>(ctx) {
        XDP_DROP
    } else {
        XDP_PASS
    }
}

#[inline(always)]
fn redirect(device: *const u32) -> u32 {
    // SAFETY: no pointers. The result is an action.
    let action = unsafe { bpf_redirect(constant(device), 0) };
    action.unsigned_abs() as u32
}

/// A constant of the object that the loader may have set.
#[inline(always)]
fn constant(at: *const u32) -> u32 {
    // SAFETY: a static of this object: read as it is, not as the compiler saw it.
    unsafe { at.read_volatile() }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
