//! A frame in memory, and the two ways in which the datapath gets to see it: as XDP does, and as an skb at TC.
//!
//! Owns what differs between the two. Invariant: a frame's bytes change only through a window, a checksum fix or a resize.

use crate::packet::{ChecksumFix, MAX_OFFSET, Note, Packet, fix_complete_checksum};
use crate::wire::ETHERNET_LEN;
use crate::wire::checksum;

/// What an skb knows of its transport checksum (`ip_summed`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing: the field holds the complete sum.
    #[default]
    InPacket,
    /// The field holds the sum of the pseudo header only; the device adds the rest (a local stack's packet, edge-cases F1).
    Partial,
    /// The field holds the complete sum, and the device summed the packet from its network header on: this is that sum.
    Complete(u16),
}

/// A frame, from its link-layer header on, and what its owner knows beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// How many of them are in linear memory, at TC.
    pub linear: usize,
    /// What the skb knows of the checksum.
    pub checksum: Checksum,
    /// Payload bytes of each segment of a super-packet, 0 if it is none.
    pub gso_size: usize,
    /// Whether the link layer delivered it to this node (`PACKET_HOST`), at TC.
    pub is_to_host: bool,
    /// Whether the skb has a VLAN tag beside its bytes.
    pub has_tag: bool,
    /// Whether its device lets XDP leave a note (metadata).
    pub takes_notes: bool,
    /// What XDP left with it.
    pub note: Option<Note>,
}

impl Frame {
    /// A frame as a device delivers it: all bytes in reach, complete checksum, addressed to this node.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self {
            linear: bytes.len(),
            bytes,
            checksum: Checksum::InPacket,
            gso_size: 0,
            is_to_host: true,
            has_tag: false,
            takes_notes: true,
            note: None,
        }
    }

    /// What the kernel does between XDP and TC: it compares the destination with the device's address, and takes the outer VLAN tag
    /// out of the bytes.
    pub fn enter_stack(&mut self, mac: [u8; 6]) {
        self.is_to_host = self.bytes.starts_with(&mac);
        let is_tagged = matches!(self.bytes.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]));
        if is_tagged && self.bytes.len() >= ETHERNET_LEN + 4 {
            self.bytes.drain(12..16);
            self.has_tag = true;
        }
        self.linear = self.linear.min(self.bytes.len());
    }

    fn windowed<const N: usize>(&mut self, at: usize, end: usize) -> Option<&mut [u8; N]> {
        if at > MAX_OFFSET {
            return None;
        }
        self.bytes.get_mut(..end)?.get_mut(at..)?.first_chunk_mut()
    }
}

/// A frame at XDP: all of it in reach, no way to change its length.
#[derive(Debug)]
pub struct XdpFrame<'f>(pub &'f mut Frame);

impl Packet for XdpFrame<'_> {
    fn len(&self) -> usize {
        self.0.bytes.len()
    }

    fn need(&mut self, end: usize) -> bool {
        end <= self.len()
    }

    fn window<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        self.0.windowed(at, self.0.bytes.len())
    }

    fn segment_payload(&self) -> usize {
        0
    }

    fn addressed_to_us(&mut self, mac: &[u8; 6]) -> bool {
        self.0.bytes.starts_with(mac)
    }

    fn has_offloaded_tag(&self) -> bool {
        false
    }

    fn fix_checksum(&mut self, at: usize, fix: ChecksumFix, zero_is_none: bool) -> bool {
        fix_complete_checksum(self, at, fix, zero_is_none)
    }

    fn note_uncovered(&mut self, _uncovered: u16) {}

    fn leave(&mut self, note: &Note) -> bool {
        if self.0.takes_notes {
            self.0.note = Some(*note);
        }
        self.0.takes_notes
    }

    fn note(&self) -> Option<Note> {
        None
    }

    fn resize(&mut self, _len: usize) -> bool {
        false
    }
}

/// A frame at TC.
#[derive(Debug)]
pub struct Skb<'f>(pub &'f mut Frame);

impl Packet for Skb<'_> {
    fn len(&self) -> usize {
        self.0.bytes.len()
    }

    fn need(&mut self, end: usize) -> bool {
        if end > MAX_OFFSET || end > self.len() {
            return false;
        }
        self.0.linear = self.0.linear.max(end);
        true
    }

    fn window<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        self.0.windowed(at, self.0.linear)
    }

    fn segment_payload(&self) -> usize {
        self.0.gso_size
    }

    fn addressed_to_us(&mut self, _mac: &[u8; 6]) -> bool {
        self.0.is_to_host
    }

    fn has_offloaded_tag(&self) -> bool {
        self.0.has_tag
    }

    /// As `bpf_l4_csum_replace`: a partial sum follows the pseudo header only, and a sum of the whole packet follows the field where
    /// the addresses' change is absorbed by IPv4's header checksum.
    fn fix_checksum(&mut self, at: usize, fix: ChecksumFix, zero_is_none: bool) -> bool {
        match self.0.checksum {
            Checksum::InPacket => fix_complete_checksum(self, at, fix, zero_is_none),
            Checksum::Partial => {
                let Some(field) = self.window::<2>(at) else {
                    return false;
                };
                *field = checksum::add(u16::from_be_bytes(*field), fix.pseudo).to_be_bytes();
                true
            }
            Checksum::Complete(sum) => {
                let before = self.window::<2>(at).copied();
                if !fix_complete_checksum(self, at, fix, zero_is_none) {
                    return false;
                }
                // Without a checksum (UDP, 0) the kernel leaves its own sum alone, too.
                if before != Some([0, 0]) || !zero_is_none {
                    self.0.checksum = Checksum::Complete(checksum::add(sum, !fix.pseudo));
                }
                self.note_uncovered(fix.uncovered);
                true
            }
        }
    }

    fn note_uncovered(&mut self, uncovered: u16) {
        if let Checksum::Complete(sum) = self.0.checksum {
            self.0.checksum = Checksum::Complete(checksum::add(sum, uncovered));
        }
    }

    fn leave(&mut self, _note: &Note) -> bool {
        false
    }

    fn note(&self) -> Option<Note> {
        self.0.note
    }

    fn resize(&mut self, len: usize) -> bool {
        self.0.bytes.resize(len, 0);
        self.0.linear = self.0.linear.min(len);
        self.0.gso_size = 0;
        self.0.checksum = Checksum::InPacket;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_tc_only_what_was_asked_for_is_in_reach() {
        let mut frame = Frame {
            linear: 14,
            ..Frame::new((0..100).collect())
        };
        let mut skb = Skb(&mut frame);
        assert_eq!(skb.window::<2>(14), None);
        assert!(skb.need(16));
        assert_eq!(skb.window::<2>(14), Some(&mut [14, 15]));
        assert_eq!(skb.window::<2>(15), None);
        assert!(!skb.need(101));
        assert_eq!(XdpFrame(&mut frame).window::<2>(98), Some(&mut [98, 99]));
    }

    #[test]
    fn a_partial_sum_follows_the_addresses_only() {
        let mut frame = Frame {
            checksum: Checksum::Partial,
            ..Frame::new(vec![0x12, 0x34])
        };
        let fix = ChecksumFix {
            pseudo: 0x0101,
            covered: 0x2222,
            uncovered: 0,
        };
        assert!(Skb(&mut frame).fix_checksum(0, fix, false));
        assert_eq!(frame.bytes, [0x13, 0x35]);
    }

    #[test]
    fn a_tag_leaves_the_bytes_on_the_way_into_the_stack() {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 100, 8, 0];
        bytes.resize(64, 7);
        let mut frame = Frame::new(bytes);
        frame.enter_stack([2, 0, 0, 0, 0, 1]);
        assert_eq!(frame.bytes.get(12..15), Some(&[8, 0, 7][..]));
        assert!(frame.has_tag && frame.is_to_host);
        frame.enter_stack([2, 0, 0, 0, 0, 9]);
        assert!(!frame.is_to_host);
    }
}
