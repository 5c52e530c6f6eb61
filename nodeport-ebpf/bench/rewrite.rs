//! Translating without deciding: every field that a translation writes is written, with what it has, and both checksums are brought up to
//! date. IPv4 and UDP only.
//!
//! Invariant: the compiler does not know that addresses and ports stay the same.

use aya_ebpf::programs::XdpContext;

use super::constant;
use super::frame::{fold, sum, window};

/// Zero, which only the loader may say is something else.
#[unsafe(no_mangle)]
static CHANGE: u32 = 0;

/// Ethernet, IPv4, UDP.
const HEADERS: usize = 42;
/// Where the fields are: link-layer addresses, TTL and protocol, checksum and addresses of IPv4, ports and checksum of UDP.
const MACS: usize = 0;
const TTL: usize = 22;
const HEADER_CHECKSUM: usize = 24;
const ADDRESSES: usize = 26;
const PORTS: usize = 34;
const CHECKSUM: usize = 40;

/// Rewrites a packet; `None` if it is too short.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> Option<()> {
    let frame = window::<HEADERS>(ctx, 0)?;
    let change = constant(&raw const CHANGE) as u8;
    let mut macs: [u8; 12] = *frame[MACS..].first_chunk()?;
    macs[11] ^= change;
    let old: [u8; 12] = *frame[ADDRESSES..].first_chunk()?;
    let mut new = old;
    new[3] ^= change;
    new[7] ^= change;
    new[9] ^= change;
    new[11] ^= change;
    // RFC 1624: the checksum's complement, less what was there, plus what is.
    let addresses = |ends: &[u8; 12]| ends.first_chunk::<8>().map_or(0, sum);
    let minus = |sum: u32| u32::from(!fold(sum));
    let of = |frame: &[u8; HEADERS], at: usize| {
        u32::from(u16::from_be_bytes([frame[at], frame[at + 1]]))
    };
    let header = u32::from(!(of(frame, HEADER_CHECKSUM) as u16))
        + minus(of(frame, TTL) + addresses(&old))
        + (of(frame, TTL) - 0x0100)
        + addresses(&new);
    let total = u32::from(!(of(frame, CHECKSUM) as u16)) + minus(sum(&old)) + sum(&new);
    frame[TTL] -= 1;
    frame[HEADER_CHECKSUM..HEADER_CHECKSUM + 2].copy_from_slice(&(!fold(header)).to_be_bytes());
    frame[ADDRESSES..PORTS + 4].copy_from_slice(&new);
    frame[CHECKSUM..CHECKSUM + 2].copy_from_slice(&(!fold(total)).to_be_bytes());
    frame[MACS..MACS + 12].copy_from_slice(&macs);
    Some(())
}
