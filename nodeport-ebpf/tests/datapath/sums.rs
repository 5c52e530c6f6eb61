//! Checksums recomputed from scratch, the slow and plain way of RFC 1071: what the datapath's incremental ones are held against.
//!
//! Shares no code with the library, on purpose.

/// What is wrong with the checksums of an Ethernet frame that carries one whole IP packet; empty if nothing is. Fragments, and
/// transports other than TCP, UDP, ICMP and ICMPv6, have none but IPv4's own.
pub fn wrong(frame: &[u8]) -> Vec<&'static str> {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => wrong_v4(&frame[14..]),
        Some([0x86, 0xdd]) => wrong_v6(&frame[14..]),
        _ => vec!["not IP"],
    }
}

fn wrong_v4(packet: &[u8]) -> Vec<&'static str> {
    let header_len = usize::from(packet[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let mut wrong = Vec::new();
    if sum(&packet[..header_len]) != 0xffff {
        wrong.push("IPv4 header");
    }
    let is_fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
    if !is_fragment {
        let pseudo = [&packet[12..20], &[0, packet[9]]].concat();
        wrong.extend(wrong_transport(
            packet[9],
            &pseudo,
            &packet[header_len..total],
            true,
        ));
    }
    wrong
}

fn wrong_v6(packet: &[u8]) -> Vec<&'static str> {
    let total = 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    let (mut next, mut at) = (packet[6], 40);
    while matches!(next, 0 | 43 | 44 | 51 | 60) {
        let is_fragment = packet[at + 2] != 0 || packet[at + 3] & 0xf9 != 0;
        if next == 44 && is_fragment {
            return Vec::new();
        }
        let units = usize::from(packet[at + 1]);
        let len = match next {
            44 => 8,
            51 => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        (next, at) = (packet[at], at + len);
    }
    let pseudo = [&packet[8..40], &[0, next]].concat();
    wrong_transport(next, &pseudo, &packet[at..total], false)
}

/// `pseudo` lacks the length, which is that of the segment.
fn wrong_transport(protocol: u8, pseudo: &[u8], segment: &[u8], is_v4: bool) -> Vec<&'static str> {
    let name = match protocol {
        1 => return check("ICMP", &[segment]),
        6 => "TCP",
        17 if is_v4 && segment[6..8] == [0, 0] => return Vec::new(),
        17 if segment[6..8] == [0, 0] => return vec!["UDP without a checksum"],
        17 => "UDP",
        58 => "ICMPv6",
        _ => return Vec::new(),
    };
    let len = (segment.len() as u16).to_be_bytes();
    check(name, &[pseudo, &len, segment])
}

fn check(name: &'static str, parts: &[&[u8]]) -> Vec<&'static str> {
    if sum(&parts.concat()) == 0xffff {
        Vec::new()
    } else {
        vec![name]
    }
}

/// The one's complement sum of 16-bit words; an odd byte at the end is the high half of a word.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn rfc_1071_example() {
    // Section 3: the bytes 00 01 f2 03 f4 f5 f6 f7 have the sum ddf2.
    assert_eq!(
        sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
        0xddf2
    );
}

#[test]
fn a_wrong_checksum_is_found() {
    // An IPv4 header from the wire whose checksum is 0xb861, and the same with one bit changed.
    let mut frame = [0; 12].to_vec();
    frame.extend([
        0x08, 0x00, 0x45, 0, 0, 0x14, 0, 0, 0x40, 0, 0x40, 0x3b, 0, 0,
    ]);
    frame.extend([192, 168, 0, 1, 192, 168, 0, 199]);
    let sum = !sum(&frame[14..]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(wrong(&frame), Vec::<&str>::new());
    frame[30] ^= 1;
    assert_eq!(wrong(&frame), ["IPv4 header"]);
}
