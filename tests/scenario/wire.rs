//! Packets as bytes, and bytes as packets.
//!
//! Owns what both directions need: numbers, payloads, and all checksums, each computed in full. Refuses to know devices. Shares no code with
//! the datapath, on purpose. Invariant: reading what was written gives the same packet, and whatever is wrong with a packet is among its
//! faults.

mod read;
mod write;

use std::net::IpAddr;

pub(crate) use read::{read, reassemble};
pub(crate) use write::write;

const TCP: u8 = 6;
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
/// Names of ICMP messages, with type and code in IPv4 and in IPv6.
const ICMP: &[(&str, [u8; 2], [u8; 2])] = &[
    ("echo-request", [8, 0], [128, 0]),
    ("echo-reply", [0, 0], [129, 0]),
    ("port-unreachable", [3, 3], [1, 4]),
    ("host-unreachable", [3, 1], [1, 3]),
    ("too-big", [3, 4], [2, 0]),
    ("ttl-exceeded", [11, 0], [3, 0]),
];

/// A payload of so many bytes, all different from their neighbours.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + 3) as u8).collect()
}

/// The sum that a segment with a right checksum has as 0xffff.
fn sum_of(from: IpAddr, to: IpAddr, number: u8, segment: &[u8]) -> u16 {
    let len = (segment.len() as u32).to_be_bytes();
    let pseudo = match (from, to) {
        (IpAddr::V4(_), _) if number == 1 => Vec::new(),
        (IpAddr::V4(from), IpAddr::V4(to)) => [&from.octets()[..], &to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [&from.octets()[..], &to.octets()].concat(),
        _ => panic!("two families"),
    };
    let pseudo = if pseudo.is_empty() {
        pseudo
    } else {
        [&pseudo[..], &len, &[0, number]].concat()
    };
    sum(&[&pseudo[..], segment].concat())
}

/// RFC 1071: the one's complement sum of 16-bit words; an odd byte at the end is the high half of a word.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
use crate::packet::Packet;

#[test]
fn what_is_written_can_be_read() {
    for line in [
        "tcp 203.0.113.10:40000 > 192.168.88.11:30080 SA len=101 ttl=63",
        "udp [fd00::1]:40000 > [fd00::2]:30080 len=8 options",
        "udp 203.0.113.10:40000 > 192.168.88.11:30053 len=8 no-checksum options ttl=1",
        "icmp too-big mtu=1400 fd00::1 > fd00::2 ttl=63 about [tcp [fd00::3]:1 > [fd00::4]:2 A len=10]",
        "icmp too-big mtu=1400 10.0.0.1 > 10.0.0.2 about [tcp 10.0.0.3:1 > 10.0.0.4:2 A len=1400]",
        "icmp echo-request 10.0.0.1 > 10.0.0.2",
        "47 203.0.113.10 > 192.168.88.11",
    ] {
        let bytes = write(&Packet::parse(line)).remove(0);
        assert_eq!(
            read(&bytes).map(|read| read.to_string()).as_deref(),
            Some(line)
        );
    }
}

#[test]
fn what_is_wrong_is_told() {
    let mut bytes = write(&Packet::parse("tcp 10.0.0.1:1 > 10.0.0.2:2 S len=4")).remove(0);
    bytes[43] ^= 1;
    assert_eq!(
        read(&bytes).expect("a packet").faults,
        ["checksum", "payload"]
    );
    bytes[15] ^= 1;
    assert_eq!(read(&bytes).expect("a packet").faults[0], "IPv4 checksum");
}

#[test]
fn pieces_come_together_in_any_order() {
    for ends in ["10.0.0.1:1 > 10.0.0.2:2", "[fd00::1]:1 > [fd00::2]:2"] {
        let line = format!("udp {ends} len=2000");
        let mut pieces = write(&Packet::parse(&format!("{line} cut=800,1600 order=3,1,2")));
        let whole = reassemble(&pieces).expect("all pieces");
        assert_eq!(whole.to_string(), line);
        pieces.pop();
        assert_eq!(reassemble(&pieces), None);
    }
}
