//! Templates of the generator's frames.
//!
//! Pure. Invariant: what the helper's programs add to a template (addresses, ports, the flow's number) is not in its sums.

use std::net::{IpAddr, SocketAddr};

use crate::abi::{MAGIC, PAYLOAD, Plan};

/// Bytes of a [`Plan`].
pub(crate) const PLAN: usize = size_of::<Plan>();

/// Frames of one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frames {
    /// Destination address of the frame.
    pub(crate) to: [u8; 6],
    /// Source address of the frame.
    pub(crate) from: [u8; 6],
    /// First source address: the last two bytes are replaced by the flow's. The port is.
    pub(crate) source: IpAddr,
    /// First destination.
    pub(crate) destination: SocketAddr,
    /// Destinations, by their last byte; flows have them in turn.
    pub(crate) destinations: u8,
    /// Index of the device to send by.
    pub(crate) device: u32,
    /// Flows to send packets of.
    pub(crate) flows: u32,
    /// Number of the first of them.
    pub(crate) first_flow: u32,
    /// 0, or the number of this pass.
    pub(crate) pass: u32,
    /// Destination port that must arrive; 0 if any may.
    pub(crate) expected_destination_port: u16,
    /// Source port that must arrive; 0 if any may.
    pub(crate) expected_source_port: u16,
}

impl Frames {
    /// The value for the helper's map.
    pub(crate) fn plan(&self) -> [u8; PLAN] {
        let (headers, header_sum) = self.headers();
        let length = (8 + PAYLOAD) as u32;
        // Pseudo header without addresses (RFC 768, RFC 8200), the UDP header's length, and the magic of the payload.
        let payload_sum = 17 + length + length + sum(&MAGIC);
        let numbers = [
            header_sum,
            payload_sum,
            self.flows,
            self.pass,
            self.device,
            u32::from(self.source.is_ipv6()),
            self.expected_destination_port.into(),
            self.expected_source_port.into(),
            self.first_flow,
            self.destinations.into(),
            0,
            0,
        ];
        let mut plan = [0; PLAN];
        plan[..64].copy_from_slice(&headers);
        for (bytes, number) in plan[64..].chunks_exact_mut(4).zip(numbers) {
            bytes.copy_from_slice(&number.to_ne_bytes());
        }
        plan
    }

    /// The headers, and the sum over the IPv4 header without its addresses.
    fn headers(&self) -> ([u8; 64], u32) {
        let length = (8 + PAYLOAD) as u16;
        let mut headers = Vec::with_capacity(64);
        headers.extend(self.to);
        headers.extend(self.from);
        let mut header_sum = 0;
        match (self.source, self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                // RFC 791: version 4, 20 bytes of header; do not fragment; 64 hops; UDP.
                let total = (20 + length).to_be_bytes();
                let header = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
                header_sum = sum(&header);
                headers.extend([0x08, 0x00]);
                headers.extend(header);
                headers.extend(source.octets());
                headers.extend(destination.octets());
            }
            (source, destination) => {
                // RFC 8200: version 6, UDP, 64 hops.
                let length = length.to_be_bytes();
                headers.extend([0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], 17, 64]);
                for address in [source, destination] {
                    match address {
                        IpAddr::V6(address) => headers.extend(address.octets()),
                        IpAddr::V4(address) => headers.extend(address.to_ipv6_mapped().octets()),
                    }
                }
            }
        }
        headers.extend([0, 0]);
        headers.extend(self.destination.port().to_be_bytes());
        headers.extend(length.to_be_bytes());
        headers.extend([0, 0]);
        let mut whole = [0; 64];
        whole[..headers.len()].copy_from_slice(&headers);
        (whole, header_sum)
    }
}

/// Bytes of a frame.
pub(crate) fn frame_len(v6: bool) -> usize {
    PAYLOAD + if v6 { 62 } else { 42 }
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(2);
    words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(source: &str, destination: &str) -> Frames {
        Frames {
            to: [2, 0, 0, 0, 0, 1],
            from: [2, 0, 0, 0, 0, 2],
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            destinations: 1,
            device: 7,
            flows: 3,
            first_flow: 5,
            pass: 1,
            expected_destination_port: 8080,
            expected_source_port: 0,
        }
    }

    #[test]
    fn an_ipv4_template_has_the_layout_that_the_programs_write_into() {
        let plan = frames("172.16.0.0", "192.168.88.11:30080").plan();
        assert_eq!(plan[12..14], [8, 0]);
        assert_eq!(plan[26..34], [172, 16, 0, 0, 192, 168, 88, 11]);
        assert_eq!(plan[34..40], [0, 0, 0x75, 0x80, 0, 26]);
        // 4500 002e 0000 4000 4011: the well-known words of a short UDP packet.
        assert_eq!(plan[64..68], 0xc53f_u32.to_ne_bytes());
        assert_eq!(plan[80..84], 7_u32.to_ne_bytes());
        assert_eq!(plan[96..100], 5_u32.to_ne_bytes());
    }

    #[test]
    fn an_ipv6_template_has_its_ports_behind_the_addresses() {
        let plan = frames("fd00:172::", "[fd00:88::11]:30080").plan();
        assert_eq!(plan[12..14], [0x86, 0xdd]);
        assert_eq!(plan[22..26], [0xfd, 0, 1, 0x72]);
        assert_eq!(plan[54..60], [0, 0, 0x75, 0x80, 0, 26]);
        assert_eq!(plan[84..88], 1_u32.to_ne_bytes());
    }
}
