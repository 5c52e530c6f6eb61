//! Bytes as the packet that a host would see in them.
//!
//! Owns the reading, also of what an ICMP error quotes and of fragments. Invariant: whatever is wrong with the packet is among its faults.

use etherparse::{Ipv4Header, Ipv6Header};

use super::{FRAGMENT, HOP_BY_HOP, ICMP, TCP, UDP, payload, sum_of};
use crate::packet::{Body, Packet, Piece};

/// The packet that these bytes, from the network header on, are; `None` if they are no IP packet.
pub(crate) fn read(bytes: &[u8]) -> Option<Packet> {
    let (mut packet, number, rest, len) = match bytes.first()? >> 4 {
        4 => read_v4(bytes)?,
        6 => read_v6(bytes)?,
        _ => return None,
    };
    if let Some(piece) = &mut packet.piece {
        piece.len = len;
        if piece.offset > 0 {
            packet.body = Body::Rest(number);
            return Some(packet);
        }
    }
    read_transport(&mut packet, number, rest, len)?;
    Some(packet)
}

type Parts<'b> = (Packet, u8, &'b [u8], usize);

fn read_v4(bytes: &[u8]) -> Option<Parts<'_>> {
    let (header, rest) = Ipv4Header::from_slice(bytes).ok()?;
    let number = header.protocol.0;
    let mut packet = Packet::new(
        header.source.into(),
        header.destination.into(),
        Body::Other(number),
    );
    packet.ttl = header.time_to_live;
    packet.id = header.identification.into();
    packet.options = !header.options.is_empty();
    let offset = usize::from(header.fragment_offset.value()) * 8;
    if header.more_fragments || offset > 0 {
        packet.piece = Some(Piece {
            offset,
            len: 0,
            more: header.more_fragments,
        });
    }
    if header.header_checksum != header.calc_header_checksum() {
        packet.faults.push("IPv4 checksum".to_owned());
    }
    let len = usize::from(header.payload_len().ok()?);
    Some((packet, number, &rest[..len.min(rest.len())], len))
}

fn read_v6(bytes: &[u8]) -> Option<Parts<'_>> {
    let (header, mut rest) = Ipv6Header::from_slice(bytes).ok()?;
    let mut number = header.next_header.0;
    let mut packet = Packet::new(
        header.source.into(),
        header.destination.into(),
        Body::Other(number),
    );
    packet.ttl = header.hop_limit;
    let mut len = usize::from(header.payload_length);
    rest = &rest[..len.min(rest.len())];
    while matches!(number, HOP_BY_HOP | FRAGMENT) {
        let (extension, behind) = rest.split_first_chunk::<8>()?;
        let [next, _, f0, f1, i0, i1, i2, i3] = *extension;
        if number == FRAGMENT {
            let offset = u16::from_be_bytes([f0, f1]);
            packet.id = u32::from_be_bytes([i0, i1, i2, i3]);
            packet.piece = Some(Piece {
                offset: usize::from(offset & !7),
                len: 0,
                more: offset & 1 != 0,
            });
        } else {
            packet.options = true;
        }
        (number, rest, len) = (next, behind, len - 8);
    }
    Some((packet, number, rest, len))
}

/// Reads the transport header; `rest` may be shorter than `len`, in a quote.
fn read_transport(packet: &mut Packet, number: u8, rest: &[u8], len: usize) -> Option<()> {
    let is_whole = packet.piece.is_none() && rest.len() == len;
    let mut no_checksum = false;
    packet.body = match number {
        TCP | UDP => {
            let [s0, s1, d0, d1, q0, q1, q2, q3] = *rest.first_chunk::<8>()?;
            let ports = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
            no_checksum = number == UDP && [q2, q3] == [0, 0];
            if number == UDP {
                Body::Udp {
                    ports,
                    len: len - 8,
                    checksum: !no_checksum,
                }
            } else {
                // A quote may end here: what it does not say is taken for usual.
                let behind: [u8; 6] = *rest.get(8..14)?.first_chunk()?;
                let [a0, a1, a2, a3, offset, flags] = behind;
                Body::Tcp {
                    ports,
                    flags,
                    sequence: u32::from_be_bytes([q0, q1, q2, q3]),
                    acknowledgement: u32::from_be_bytes([a0, a1, a2, a3]),
                    len: len - usize::from(offset >> 4) * 4,
                }
            }
        }
        1 | 58 => read_icmp(number, rest)?,
        _ => return Some(()),
    };
    if is_whole && !no_checksum && sum_of(packet.from, packet.to, number, rest) != 0xffff {
        packet.faults.push("checksum".to_owned());
    }
    let header = match number {
        TCP => usize::from(rest[12] >> 4) * 4,
        _ => 8,
    };
    let data = rest.get(header..).unwrap_or_default();
    if matches!(number, TCP | UDP) && data != &payload(data.len())[..] {
        packet.faults.push("payload".to_owned());
    }
    Some(())
}

fn read_icmp(number: u8, rest: &[u8]) -> Option<Body> {
    let [kind, code, _, _, _, _, m0, m1] = *rest.first_chunk::<8>()?;
    let known = ICMP.iter().find(|(_, v4, v6)| {
        let own = if number == 1 { v4 } else { v6 };
        *own == [kind, code]
    });
    let name = known.map_or_else(|| format!("{kind}/{code}"), |known| known.0.to_owned());
    let is_error = !name.starts_with("echo");
    Some(Body::Icmp {
        mtu: if is_error {
            u16::from_be_bytes([m0, m1])
        } else {
            0
        },
        about: if is_error {
            read_quote(&rest[8..])
        } else {
            None
        },
        name,
    })
}

/// A quoted packet, as far as it is quoted. Eight bytes of TCP say its ports only.
fn read_quote(bytes: &[u8]) -> Option<Box<Packet>> {
    let mut bytes = bytes.to_vec();
    let (header, number) = match bytes.first()? >> 4 {
        4 => (20, bytes.get(9)),
        _ => (40, bytes.get(6)),
    };
    if bytes.len() == header + 8 && number == Some(&TCP) {
        // Flags and lengths that are not quoted read as zero.
        bytes.extend([0, 0, 0, 0, 0x50, 0]);
    }
    read(&bytes).map(Box::new)
}

/// Puts the pieces of a datagram together; `None` while one is missing.
pub(crate) fn reassemble(pieces: &[Vec<u8>]) -> Option<Packet> {
    let mut read: Vec<(Packet, &[u8])> = Vec::new();
    for bytes in pieces {
        let packet = self::read(bytes)?;
        let len = packet.piece?.len;
        read.push((packet, &bytes[bytes.len() - len..]));
    }
    read.sort_by_key(|(packet, _)| packet.piece.map(|piece| piece.offset));
    let mut whole = Vec::new();
    let mut more = true;
    for (packet, bytes) in &read {
        let piece = packet.piece?;
        if piece.offset != whole.len() {
            return None;
        }
        more = piece.more;
        whole.extend_from_slice(bytes);
    }
    let (mut packet, _) = read.into_iter().next().filter(|_| !more)?;
    packet.piece = None;
    let number = if matches!(packet.body, Body::Tcp { .. }) {
        TCP
    } else {
        UDP
    };
    read_transport(&mut packet, number, &whole, whole.len())?;
    Some(packet)
}
