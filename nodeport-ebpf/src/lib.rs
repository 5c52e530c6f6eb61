//! nodeport's datapath.
//!
//! # A packet's journey
//! A frame reaches [`path::ingress`] (by XDP on uplinks, by TC on every covered device) or [`path::egress`] (by TC, where the
//! host's stack sends). [`wire`] parses it, [`tables`] knows its flow or its front end, [`select`] chooses a backend for a new flow,
//! [`nat`] rewrites it. What became of it is a [`path::Verdict`]: an outcome for the counters and an action for the kernel.
//!
//! # A safe library and a rim
//! Everything here is `no_std`, has no `unsafe`, and is generic over two traits: [`packet::Packet`] (fixed windows into a frame)
//! and [`tables::Tables`]. The same code runs in the kernel, in tests and in tools. Only the binary (`main.rs`, `kernel/`: entry
//! points, maps, contexts) uses aya-ebpf and `unsafe`.
//!
//! Functions that take a packet or tables are `inline(always)` where the verifier must see offsets and map values through them.
#![cfg_attr(not(any(test, feature = "sim")), no_std)]
#![forbid(unsafe_code)]
#![expect(
    clippy::inline_always,
    reason = "BPF functions take five arguments, and the verifier follows bounds best within one function"
)]

#[cfg(all(not(test), feature = "sim"))]
extern crate std;

pub mod nat;
pub mod originate;
pub mod packet;
pub mod path;
pub mod scratch;
pub mod select;
#[cfg(feature = "sim")]
pub mod sim;
pub mod tables;
pub mod wire;
