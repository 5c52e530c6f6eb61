//! The packet as the datapath sees it: fixed windows into a frame, and the few things that only its owner can do.
//!
//! Owns the contract between the safe library and whoever holds the bytes (XDP, TC, a test). Invariant: a window is either
//! entirely inside the readable part of the frame or it is `None`; nothing here can read or write elsewhere.

use crate::wire::checksum;

/// Offsets beyond this are not windowed; lets the verifier bound the arithmetic.
pub const MAX_OFFSET: usize = 1024;

/// What changed in a packet, as one's complement sums of the change in each 16-bit word (RFC 1624), folded to 16 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChecksumFix {
    /// Changes in the pseudo header (addresses).
    pub pseudo: u16,
    /// Changes in what the transport checksum covers byte by byte (ports; the quoted packet of an ICMP error).
    pub covered: u16,
    /// Changes that no other checksum of the packet absorbs (IPv6 addresses and hop limit), for whoever keeps a sum of the
    /// whole packet (`CHECKSUM_COMPLETE`).
    pub uncovered: u16,
}

/// What XDP leaves with a frame that it translated and that only TC behind it can send. 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Note {
    /// [`Control::seed`](nodeport_common::Control::seed): what other programs leave does not begin with it.
    pub seed: u32,
    /// Index of the device by which it leaves.
    pub device: u32,
    /// [`line_flags`](crate::tables::line_flags) of the packet's flow.
    pub flags: u32,
    /// Its link-layer addresses: destination and source.
    pub macs: [u8; 12],
}

/// A frame, from its first header on. Offsets are bytes from there.
pub trait Packet {
    /// Bytes of the frame, padding included; more than can be windowed where the tail is not in linear memory.
    fn len(&self) -> usize;

    /// Whether the frame is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the first `end` bytes available to [`Packet::window`]; false if there are not that many.
    fn need(&mut self, end: usize) -> bool;

    /// The `N` bytes at `at`, if they are available and `at` is at most [`MAX_OFFSET`].
    fn window<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]>;

    /// Payload bytes of each segment if the frame is a super-packet that will be cut up later (GSO), else 0.
    fn segment_payload(&self) -> usize;

    /// Whether the link layer delivered the frame to this node (not flooded, broadcast, multicast or overheard).
    fn addressed_to_us(&mut self, mac: &[u8; 6]) -> bool;

    /// Whether the frame has a VLAN tag that is not among its bytes.
    fn has_offloaded_tag(&self) -> bool;

    /// Brings the transport checksum at `at` in step with a change; `zero_is_none` for UDP, where a sum of 0 is written as
    /// 0xFFFF (RFC 768). False if the packet could not be changed.
    fn fix_checksum(&mut self, at: usize, fix: ChecksumFix, zero_is_none: bool) -> bool;

    /// Notes a change that no transport checksum covers (fragments after the first).
    fn note_uncovered(&mut self, uncovered: u16);

    /// Leaves a note for TC; false if that is impossible here.
    fn leave(&mut self, note: &Note) -> bool;

    /// What was left with the frame before TC saw it.
    fn note(&self) -> Option<Note>;

    /// Cuts or extends the frame to `len` bytes and drops offloads; false if that is impossible here.
    fn resize(&mut self, len: usize) -> bool;
}

/// [`Packet::fix_checksum`] for frames whose checksum field holds the complete sum: everywhere but in a local stack's skb.
#[inline(always)]
pub fn fix_complete_checksum<P: Packet>(
    packet: &mut P,
    at: usize,
    fix: ChecksumFix,
    zero_is_none: bool,
) -> bool {
    let Some(field) = packet.window::<2>(at) else {
        return false;
    };
    let diff = checksum::add(fix.pseudo, fix.covered);
    if !zero_is_none {
        *field = checksum::updated(*field, diff);
    } else if *field != [0, 0] {
        *field = checksum::updated_nonzero(*field, diff);
    }
    true
}
