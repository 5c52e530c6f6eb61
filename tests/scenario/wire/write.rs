//! A packet as the bytes that a host would send.
//!
//! Owns the headers. Invariant: all checksums are right, unless the packet says that it has none.

use std::net::IpAddr;

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};

use super::{FRAGMENT, HOP_BY_HOP, ICMP, TCP, UDP, payload, sum_of};
use crate::packet::{Body, Packet, Piece};

/// The packets, from the network header on: one, or the pieces that the datagram is cut into.
pub(crate) fn write(packet: &Packet) -> Vec<Vec<u8>> {
    let (number, transport) = transport(packet);
    if packet.cuts.is_empty() {
        return vec![network(packet, number, None, &transport)];
    }
    let starts = [&[0], &packet.cuts[..]].concat();
    let ends = [&packet.cuts[..], &[transport.len()]].concat();
    let pieces: Vec<Vec<u8>> = starts
        .into_iter()
        .zip(ends)
        .map(|(offset, end)| {
            let piece = Piece {
                offset,
                len: end - offset,
                more: end < transport.len(),
            };
            network(packet, number, Some(piece), &transport[offset..end])
        })
        .collect();
    if packet.order.is_empty() {
        return pieces;
    }
    let chosen = packet.order.iter();
    chosen.map(|number| pieces[number - 1].clone()).collect()
}

/// The protocol number, and what follows the network header.
fn transport(packet: &Packet) -> (u8, Vec<u8>) {
    match &packet.body {
        Body::Tcp {
            ports,
            flags,
            sequence,
            acknowledgement,
            len,
        } => {
            let mut header = TcpHeader::new(ports.0, ports.1, *sequence, 0x2000);
            header.acknowledgment_number = *acknowledgement;
            let bits = [
                &mut header.fin,
                &mut header.syn,
                &mut header.rst,
                &mut header.psh,
                &mut header.ack,
                &mut header.urg,
                &mut header.ece,
                &mut header.cwr,
            ];
            for (bit, field) in bits.into_iter().enumerate() {
                *field = flags & 1 << bit != 0;
            }
            let bytes = [&header.to_bytes()[..], &payload(*len)].concat();
            (TCP, with_sum(packet, TCP, bytes, 16))
        }
        Body::Udp {
            ports,
            len,
            checksum,
        } => {
            let header = UdpHeader {
                source_port: ports.0,
                destination_port: ports.1,
                length: 8 + *len as u16,
                checksum: 0,
            };
            let bytes = [&header.to_bytes()[..], &payload(*len)].concat();
            let bytes = if *checksum {
                with_sum(packet, UDP, bytes, 6)
            } else {
                bytes
            };
            (UDP, bytes)
        }
        Body::Icmp { name, mtu, about } => icmp(packet, name, *mtu, about.as_deref()),
        Body::Rest(number) | Body::Other(number) => (*number, payload(24)),
    }
}

fn icmp(packet: &Packet, name: &str, mtu: u16, about: Option<&Packet>) -> (u8, Vec<u8>) {
    let known = ICMP.iter().find(|(known, ..)| *known == name);
    let (_, v4, v6) = known.unwrap_or_else(|| panic!("icmp {name:?}"));
    let (number, [kind, code], quote_max) = match packet.from {
        IpAddr::V4(_) => (1, v4, 548),
        IpAddr::V6(_) => (58, v6, 1232),
    };
    let [m0, m1] = mtu.to_be_bytes();
    let mut bytes = vec![*kind, *code, 0, 0, 0, 0, m0, m1];
    bytes.extend(match about {
        Some(about) => write(about).remove(0),
        None => payload(16),
    });
    bytes.truncate(8 + quote_max);
    (number, with_sum(packet, number, bytes, 2))
}

/// The segment with its checksum, whose field at `at` is zero.
fn with_sum(packet: &Packet, number: u8, mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = !sum_of(packet.from, packet.to, number, &bytes);
    let sum = if sum == 0 && number == UDP {
        0xffff
    } else {
        sum
    };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn network(packet: &Packet, number: u8, piece: Option<Piece>, rest: &[u8]) -> Vec<u8> {
    match (packet.from, packet.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = Ipv4Header::new(
                rest.len() as u16,
                packet.ttl,
                IpNumber(number),
                from.octets(),
                to.octets(),
            )
            .expect("a packet that fits");
            if packet.options {
                header.options = [1, 1, 1, 0][..].try_into().expect("options that fit");
            }
            header
                .set_payload_len(rest.len())
                .expect("a packet that fits");
            header.identification = packet.id as u16;
            header.dont_fragment = number == TCP && piece.is_none();
            if let Some(piece) = piece {
                let offset = IpFragOffset::try_new(piece.offset as u16 / 8);
                header.fragment_offset = offset.expect("an offset that fits");
                header.more_fragments = piece.more;
            }
            header.header_checksum = header.calc_header_checksum();
            [&header.to_bytes()[..], rest].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut next = number;
            let mut rest = rest.to_vec();
            if let Some(piece) = piece {
                let offset = (piece.offset as u16 | u16::from(piece.more)).to_be_bytes();
                rest = [&[next, 0], &offset[..], &packet.id.to_be_bytes(), &rest].concat();
                next = FRAGMENT;
            }
            if packet.options {
                rest = [&[next, 0, 1, 4, 0, 0, 0, 0], &rest[..]].concat();
                next = HOP_BY_HOP;
            }
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: 0.try_into().expect("a flow label"),
                payload_length: rest.len() as u16,
                next_header: IpNumber(next),
                hop_limit: packet.ttl,
                source: from.octets(),
                destination: to.octets(),
            };
            [&header.to_bytes()[..], &rest].concat()
        }
        _ => panic!("{packet}: two families"),
    }
}
