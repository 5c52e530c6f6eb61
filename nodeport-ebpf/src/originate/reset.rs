//! Resets: a TCP segment that nobody serves is turned into the one that refuses it (RFC 9293, 3.10.7.1).
//!
//! Invariant: the acknowledgement covers everything that the segment took of the sequence space, else its sender would not believe the reset
//! (edge-cases D7). A reset is never answered: such packets open nothing and do not get here.

use nodeport_common::protocol;

use super::{pseudo_header, turn_round};
use crate::packet::Packet;
use crate::wire::checksum::Sum;
use crate::wire::{Family, Headers, tcp};

/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;

/// Turns the segment into its reset, addressed back to where it came from.
#[inline(never)]
pub(super) fn write<A: Family, P: Packet>(packet: &mut P, headers: &Headers<A>) -> Option<()> {
    let network = headers.network as usize;
    let transport = headers.transport as usize;
    let [
        s0,
        s1,
        d0,
        d1,
        q0,
        q1,
        q2,
        q3,
        a0,
        a1,
        a2,
        a3,
        offset,
        flags,
        ..,
    ] = *packet.window::<20>(transport)?;
    let header_len = u32::from(offset >> 4) * 4;
    let payload = (headers.length + headers.network)
        .wrapping_sub(headers.transport)
        .wrapping_sub(header_len);
    let taken = payload
        .wrapping_add(u32::from(flags & tcp::SYN != 0))
        .wrapping_add(u32::from(flags & tcp::FIN != 0));
    let (sequence, acknowledgement, flags) = if flags & tcp::ACK != 0 {
        ([a0, a1, a2, a3], [0; 4], tcp::RST)
    } else {
        let next = u32::from_be_bytes([q0, q1, q2, q3]).wrapping_add(taken);
        ([0; 4], next.to_be_bytes(), tcp::RST | tcp::ACK)
    };
    if !packet.resize(transport + TCP_LEN) || !packet.need(transport + TCP_LEN) {
        return None;
    }
    let ports = [d0, d1, s0, s1];
    let rest = [0x50, flags, 0, 0];
    let sum = Sum::new()
        .double(ports)
        .double(sequence)
        .double(acknowledgement)
        .double(rest);
    let [c0, c1] = pseudo_header(headers, protocol::TCP, TCP_LEN, sum).checksum();
    *packet.window::<4>(transport)? = ports;
    *packet.window::<4>(transport + 4)? = sequence;
    *packet.window::<4>(transport + 8)? = acknowledgement;
    *packet.window::<4>(transport + 12)? = rest;
    *packet.window::<4>(transport + 16)? = [c0, c1, 0, 0];
    A::write_header(
        packet,
        network,
        &headers.destination,
        &headers.source,
        protocol::TCP,
        TCP_LEN as u16,
    )?;
    turn_round(packet, network)
}
