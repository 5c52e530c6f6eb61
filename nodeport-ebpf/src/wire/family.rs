//! The two address families as types: everything else is written once, generic over [`Family`].
//!
//! Owns the positions of fields in the IPv4 and IPv6 headers. Invariant: no other file tells the two apart.

use core::cmp::Ordering;

use nodeport_common::{Control, V4, V6, protocol};

use super::checksum::{Diff, Sum, add, updated};
use crate::packet::Packet;

/// An address family, named by its address type.
pub trait Family: Copy + Eq + Default + 'static {
    /// Ethertype, network order.
    const ETHERTYPE: [u8; 2];
    /// Protocol number of the family's ICMP.
    const ICMP: u8;
    /// Bytes of the fixed header.
    const HEADER_LEN: usize;
    /// Whether headers of their own, such as that of fragments, may stand between it and the transport header.
    const HAS_EXTENSIONS: bool;
    /// Whether UDP may go without a checksum (RFC 768; not in IPv6, RFC 8200 8.1).
    const UDP_CHECKSUM_OPTIONAL: bool;
    /// Whether ICMP's checksum covers the pseudo header (RFC 4443, 2.3).
    const ICMP_PSEUDO: bool;
    /// Destination unreachable: type and code "port unreachable".
    const PORT_UNREACHABLE: [u8; 2];
    /// Type and code for "does not fit the link": fragmentation needed, or packet too big.
    const TOO_BIG: [u8; 2];
    /// Type and code for "TTL exceeded in transit".
    const TIME_EXCEEDED: [u8; 2];
    /// Zero address.
    const UNSPECIFIED: Self;

    /// The node's own address of this family.
    fn of_node(control: &Control) -> &Self;

    /// Whether the ICMP type is that of an error that quotes a packet.
    fn is_icmp_error(kind: u8) -> bool;

    /// Whether the address can be the source of a unicast packet from the wire (RFC 1122 3.2.1.3, RFC 4291 2.5, 2.7).
    fn can_be_source(&self) -> bool;

    /// Whether a process reaches its own host by it: loopback, or unspecified, which the kernel takes for loopback.
    fn means_this_host(&self) -> bool;

    /// Writes the address into another place. Of a plain assignment LLVM makes, for IPv6, a call of `memmove`: a loop over bytes.
    fn copy_to(&self, place: &mut Self);

    /// Which of two addresses comes first, byte by byte. Of a plain comparison LLVM makes a call of `memcmp`: a loop over bytes.
    fn order(&self, other: &Self) -> Ordering;

    /// Adds the change from `self` to `new` to a checksum difference.
    fn diff(&self, new: &Self, diff: Diff) -> Diff;

    /// Adds the address to a sum.
    fn sum(&self, sum: Sum) -> Sum;

    /// Mixes the address into a hash.
    fn mix(&self, hash: u64, mixer: impl Fn(u64, u32) -> u64) -> u64;

    /// Writes both addresses into the header at `network`, of which `change` is the folded difference, and, if `forward`,
    /// decrements TTL or hop limit; returns the change that no header checksum absorbs. `None` if the header is out of reach.
    fn rewrite<P: Packet>(
        packet: &mut P,
        network: usize,
        source: &Self,
        destination: &Self,
        change: u16,
        forward: bool,
    ) -> Option<u16>;

    /// Writes a header of [`Self::HEADER_LEN`] bytes for a packet that this node originates, with `payload` bytes of `transport`
    /// behind it.
    fn write_header<P: Packet>(
        packet: &mut P,
        network: usize,
        source: &Self,
        destination: &Self,
        transport: u8,
        payload: u16,
    ) -> Option<()>;
}

impl Family for V4 {
    const ETHERTYPE: [u8; 2] = [0x08, 0x00];
    const ICMP: u8 = protocol::ICMP;
    const HEADER_LEN: usize = 20;
    const HAS_EXTENSIONS: bool = false;
    const UDP_CHECKSUM_OPTIONAL: bool = true;
    const ICMP_PSEUDO: bool = false;
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];
    const TOO_BIG: [u8; 2] = [3, 4];
    const TIME_EXCEEDED: [u8; 2] = [11, 0];
    const UNSPECIFIED: Self = [0; 4];

    #[inline(always)]
    fn of_node(control: &Control) -> &Self {
        &control.node4
    }

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        matches!(kind, 3 | 4 | 11 | 12)
    }

    #[inline(always)]
    fn can_be_source(&self) -> bool {
        let first = self[0];
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn means_this_host(&self) -> bool {
        self[0] == 127 || *self == Self::UNSPECIFIED
    }

    #[inline(always)]
    fn copy_to(&self, place: &mut Self) {
        *place = *self;
    }

    #[inline(always)]
    fn order(&self, other: &Self) -> Ordering {
        u32::from_be_bytes(*self).cmp(&u32::from_be_bytes(*other))
    }

    #[inline(always)]
    fn diff(&self, new: &Self, diff: Diff) -> Diff {
        diff.double(*self, *new)
    }

    #[inline(always)]
    fn sum(&self, sum: Sum) -> Sum {
        sum.double(*self)
    }

    #[inline(always)]
    fn mix(&self, hash: u64, mixer: impl Fn(u64, u32) -> u64) -> u64 {
        mixer(hash, u32::from_be_bytes(*self))
    }

    #[inline(always)]
    fn rewrite<P: Packet>(
        packet: &mut P,
        network: usize,
        source: &V4,
        destination: &V4,
        change: u16,
        forward: bool,
    ) -> Option<u16> {
        let header = packet.window::<12>(network + 8)?;
        let mut change = change;
        if forward {
            let [ttl, proto] = [header[0], header[1]];
            let lower = ttl.wrapping_sub(1);
            change = add(
                change,
                Diff::new().word([ttl, proto], [lower, proto]).fold(),
            );
            header[0] = lower;
        }
        [header[2], header[3]] = updated([header[2], header[3]], change);
        [header[4], header[5], header[6], header[7]] = *source;
        [header[8], header[9], header[10], header[11]] = *destination;
        Some(0)
    }

    #[inline(always)]
    fn write_header<P: Packet>(
        packet: &mut P,
        network: usize,
        source: &V4,
        destination: &V4,
        transport: u8,
        payload: u16,
    ) -> Option<()> {
        let [l0, l1] = (payload + 20).to_be_bytes();
        // Version and length of 5 words, class "network control" as the kernel's ICMP errors have it, DF, TTL 64.
        let start = [0x45, 0xc0, l0, l1];
        let sum = Sum::new()
            .double(start)
            .double([0, 0, 0x40, 0])
            .double([64, transport, 0, 0]);
        let [c0, c1] = destination.sum(source.sum(sum)).checksum();
        *packet.window::<4>(network)? = start;
        *packet.window::<8>(network + 4)? = [0, 0, 0x40, 0, 64, transport, c0, c1];
        *packet.window::<4>(network + 12)? = *source;
        *packet.window::<4>(network + 16)? = *destination;
        Some(())
    }
}

impl Family for V6 {
    const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
    const ICMP: u8 = protocol::ICMPV6;
    const HEADER_LEN: usize = 40;
    const HAS_EXTENSIONS: bool = true;
    const UDP_CHECKSUM_OPTIONAL: bool = false;
    const ICMP_PSEUDO: bool = true;
    const PORT_UNREACHABLE: [u8; 2] = [1, 4];
    const TOO_BIG: [u8; 2] = [2, 0];
    const TIME_EXCEEDED: [u8; 2] = [3, 0];
    const UNSPECIFIED: Self = [0; 16];

    #[inline(always)]
    fn of_node(control: &Control) -> &Self {
        &control.node6
    }

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn can_be_source(&self) -> bool {
        let bits = u128::from_be_bytes(*self);
        self[0] != 0xff && bits > 1
    }

    #[inline(always)]
    fn means_this_host(&self) -> bool {
        u128::from_be_bytes(*self) <= 1
    }

    #[inline(always)]
    fn copy_to(&self, place: &mut Self) {
        let halves = place.as_chunks_mut::<8>().0.iter_mut();
        for (to, from) in halves.zip(self.as_chunks::<8>().0) {
            *to = *from;
        }
    }

    #[inline(always)]
    fn order(&self, other: &Self) -> Ordering {
        let halves = self.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0);
        halves.fold(Ordering::Equal, |order, (one, other)| {
            order.then(u64::from_be_bytes(*one).cmp(&u64::from_be_bytes(*other)))
        })
    }

    #[inline(always)]
    fn diff(&self, new: &Self, diff: Diff) -> Diff {
        let words = self.as_chunks::<4>().0.iter().zip(new.as_chunks::<4>().0);
        words.fold(diff, |diff, (old, new)| diff.double(*old, *new))
    }

    #[inline(always)]
    fn sum(&self, sum: Sum) -> Sum {
        self.as_chunks::<4>()
            .0
            .iter()
            .fold(sum, |sum, word| sum.double(*word))
    }

    #[inline(always)]
    fn mix(&self, hash: u64, mixer: impl Fn(u64, u32) -> u64) -> u64 {
        self.as_chunks::<4>()
            .0
            .iter()
            .fold(hash, |hash, word| mixer(hash, u32::from_be_bytes(*word)))
    }

    #[inline(always)]
    fn rewrite<P: Packet>(
        packet: &mut P,
        network: usize,
        source: &V6,
        destination: &V6,
        change: u16,
        forward: bool,
    ) -> Option<u16> {
        *packet.window::<16>(network + 8)? = *source;
        *packet.window::<16>(network + 24)? = *destination;
        if !forward {
            return Some(change);
        }
        let [next, hops] = packet.window::<2>(network + 6)?;
        let lower = hops.wrapping_sub(1);
        let diff = Diff::new().word([*next, *hops], [*next, lower]).fold();
        *hops = lower;
        Some(add(change, diff))
    }

    #[inline(always)]
    fn write_header<P: Packet>(
        packet: &mut P,
        network: usize,
        source: &V6,
        destination: &V6,
        transport: u8,
        payload: u16,
    ) -> Option<()> {
        let [l0, l1] = payload.to_be_bytes();
        *packet.window::<8>(network)? = [0x60, 0, 0, 0, l0, l1, transport, 64];
        *packet.window::<16>(network + 8)? = *source;
        *packet.window::<16>(network + 24)? = *destination;
        Some(())
    }
}
