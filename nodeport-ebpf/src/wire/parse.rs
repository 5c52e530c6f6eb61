//! From a frame to its addresses, protocol and ports. Reads only; decides nothing about Services.
//!
//! Invariant: an error of this module means that the packet goes on unmodified. Offsets are bounded, so that a verifier can
//! follow them: the transport header starts at most [`MAX_TRANSPORT`] bytes after the network header.

use nodeport_common::{FlowKey, FragmentKey, Outcome, V4, V6, protocol};

use super::{ETHERNET_LEN, Family};
use crate::packet::Packet;

/// Largest distance from the network header to the transport header that is followed: IPv4 options take 60 bytes, IPv6
/// extension headers are followed up to here (edge-cases E6).
pub const MAX_TRANSPORT: u32 = 128;

/// Extension headers that are followed before giving up (edge-cases E6).
const MAX_EXTENSIONS: usize = 6;

/// Where in a fragmented datagram a packet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Fragment {
    /// Not a fragment; or an atomic one, which is a whole packet (RFC 6946).
    #[default]
    Whole,
    /// The first fragment: it has the ports.
    First,
    /// A later fragment: no transport header.
    Later,
}

/// What the network header says.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(8))]
pub struct Headers<A> {
    /// Offset of the network header.
    pub network: u32,
    /// Offset of the transport header (of the payload, in later fragments).
    pub transport: u32,
    /// Bytes from the network header to the end of the packet, without padding.
    pub length: u32,
    /// Identification of the datagram, if this is a fragment; IPv4's in the last two bytes.
    pub fragment_id: [u8; 4],
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// IANA protocol number of the transport.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Place in a fragmented datagram.
    pub fragment: Fragment,
}

/// A packet with its tuple.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(8))]
pub struct Segment<A> {
    /// What the network header says.
    pub headers: Headers<A>,
    /// The tuple.
    pub key: FlowKey<A>,
    /// TCP flags of the header ([`super::tcp`]); 0 for UDP and for later fragments.
    pub tcp: u8,
}

/// Families a frame can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Finds the network header of a frame: its offset and family.
///
/// # Errors
/// [`Outcome::Tagged`] for VLAN tags, [`Outcome::OtherProtocol`] for anything but IP, [`Outcome::Malformed`] for stubs.
#[inline(always)]
pub fn frame<P: Packet>(packet: &mut P, has_ethernet: bool) -> Result<(usize, Carried), Outcome> {
    if packet.has_offloaded_tag() {
        return Err(Outcome::Tagged);
    }
    if !has_ethernet {
        return match packet.window::<2>(0) {
            Some([first, _]) if *first >> 4 == 4 => Ok((0, Carried::V4)),
            Some([first, _]) if *first >> 4 == 6 => Ok((0, Carried::V6)),
            _ => Err(Outcome::OtherProtocol),
        };
    }
    match *packet.window::<2>(12).ok_or(Outcome::Malformed)? {
        V4::ETHERTYPE => Ok((ETHERNET_LEN, Carried::V4)),
        V6::ETHERTYPE => Ok((ETHERNET_LEN, Carried::V6)),
        [0x81, 0x00] | [0x88, 0xa8] => Err(Outcome::Tagged),
        _ => Err(Outcome::OtherProtocol),
    }
}

/// Reading a family's network header.
pub trait Parse: Family {
    /// Parses the network header at `network`.
    ///
    /// # Errors
    /// [`Outcome::Malformed`] and [`Outcome::UnknownHeaders`].
    fn headers<P: Packet>(
        packet: &mut P,
        network: usize,
        into: &mut Headers<Self>,
    ) -> Result<(), Outcome>;

    /// Parses the network header of a packet that an ICMP error quotes: the quote may be cut short, so its length field is
    /// not compared with what is there.
    ///
    /// # Errors
    /// [`Outcome::UnknownHeaders`] if it does not lead to a transport header at once.
    fn quoted<P: Packet>(
        packet: &mut P,
        network: usize,
        into: &mut Headers<Self>,
    ) -> Result<(), Outcome>;
}

/// Whether the packet has `length` bytes from `network` on, and the transport header is among them.
#[inline(always)]
fn fits<A, P: Packet>(packet: &P, headers: &Headers<A>) -> bool {
    let end = headers.network as usize + headers.length as usize;
    headers.transport as usize <= end && end <= packet.len()
}

impl Parse for V4 {
    #[inline(always)]
    fn headers<P: Packet>(
        packet: &mut P,
        network: usize,
        into: &mut Headers<V4>,
    ) -> Result<(), Outcome> {
        if !packet.need(network + 28) {
            return Err(Outcome::Malformed);
        }
        Self::quoted(packet, network, into).map_err(|_| Outcome::Malformed)?;
        // A super-packet longer than 64 KiB has a length of 0 (BIG TCP).
        if into.length == 0 && packet.segment_payload() > 0 {
            into.length = (packet.len() - network) as u32;
        }
        if fits(packet, into) {
            Ok(())
        } else {
            Err(Outcome::Malformed)
        }
    }

    #[inline(always)]
    fn quoted<P: Packet>(
        packet: &mut P,
        network: usize,
        into: &mut Headers<V4>,
    ) -> Result<(), Outcome> {
        let header = packet
            .window::<20>(network)
            .ok_or(Outcome::UnknownHeaders)?;
        let header_len = u32::from(header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || header_len < 20 {
            return Err(Outcome::UnknownHeaders);
        }
        into.network = network as u32;
        into.transport = network as u32 + header_len;
        into.length = u32::from(u16::from_be_bytes([header[2], header[3]]));
        into.fragment_id = [0, 0, header[4], header[5]];
        let more = header[6] & 0x20 != 0;
        let offset = u16::from_be_bytes([header[6] & 0x1f, header[7]]);
        into.fragment = place(offset != 0, more);
        into.ttl = header[8];
        into.protocol = header[9];
        into.source = [header[12], header[13], header[14], header[15]];
        into.destination = [header[16], header[17], header[18], header[19]];
        Ok(())
    }
}

#[inline(always)]
const fn place(has_offset: bool, more: bool) -> Fragment {
    match (has_offset, more) {
        (false, false) => Fragment::Whole,
        (false, true) => Fragment::First,
        (true, _) => Fragment::Later,
    }
}

impl Parse for V6 {
    #[inline(always)]
    fn headers<P: Packet>(
        packet: &mut P,
        network: usize,
        into: &mut Headers<V6>,
    ) -> Result<(), Outcome> {
        if !packet.need(network + 48) {
            return Err(Outcome::Malformed);
        }
        fixed(packet, network, into).map_err(|_| Outcome::Malformed)?;
        if into.length == 40 && packet.segment_payload() > 0 {
            into.length = (packet.len() - network) as u32;
        }
        if !fits(packet, into) {
            return Err(Outcome::Malformed);
        }
        for _ in 0..=MAX_EXTENSIONS {
            let is_transport = matches!(
                into.protocol,
                protocol::TCP | protocol::UDP | protocol::ICMPV6
            );
            if is_transport || into.fragment == Fragment::Later {
                return Ok(());
            }
            extension(packet, into)?;
        }
        Err(Outcome::UnknownHeaders)
    }

    #[inline(always)]
    fn quoted<P: Packet>(
        packet: &mut P,
        network: usize,
        into: &mut Headers<V6>,
    ) -> Result<(), Outcome> {
        fixed(packet, network, into)?;
        // Our own SNAT never adds headers, but a datagram that we carried in fragments is quoted with its fragment header.
        if into.protocol == FRAGMENT {
            extension(packet, into)?;
        }
        Ok(())
    }
}

/// Next-header number of the IPv6 fragment header (RFC 8200, 4.5).
const FRAGMENT: u8 = 44;

#[inline(always)]
fn fixed<P: Packet>(packet: &mut P, network: usize, into: &mut Headers<V6>) -> Result<(), Outcome> {
    let [version, _, _, _, l0, l1, next, hops] =
        *packet.window::<8>(network).ok_or(Outcome::UnknownHeaders)?;
    if version >> 4 != 6 {
        return Err(Outcome::UnknownHeaders);
    }
    into.network = network as u32;
    into.transport = network as u32 + 40;
    into.length = u32::from(u16::from_be_bytes([l0, l1])) + 40;
    into.fragment = Fragment::Whole;
    into.protocol = next;
    into.ttl = hops;
    packet
        .window::<16>(network + 8)
        .ok_or(Outcome::UnknownHeaders)?
        .copy_to(&mut into.source);
    packet
        .window::<16>(network + 24)
        .ok_or(Outcome::UnknownHeaders)?
        .copy_to(&mut into.destination);
    Ok(())
}

/// Steps over one extension header (RFC 8200 section 4, RFC 4302 for AH).
#[inline(always)]
fn extension<P: Packet>(packet: &mut P, headers: &mut Headers<V6>) -> Result<(), Outcome> {
    let at = headers.transport as usize;
    if !packet.need(at + 8) {
        return Err(Outcome::UnknownHeaders);
    }
    let [next, words, f0, f1, i0, i1, i2, i3] =
        *packet.window::<8>(at).ok_or(Outcome::UnknownHeaders)?;
    let len = match headers.protocol {
        // A packet that is still to be routed elsewhere (segments left) has another destination than its header says.
        43 if f1 != 0 => return Err(Outcome::UnknownHeaders),
        // Hop-by-hop options, routing, destination options: in units of 8 bytes beyond the first 8.
        0 | 43 | 60 => (u32::from(words) + 1) * 8,
        // Authentication header: in units of 4 bytes, minus 2.
        51 => (u32::from(words) + 2) * 4,
        FRAGMENT => {
            headers.fragment = place(f0 != 0 || f1 & 0xf8 != 0, f1 & 1 != 0);
            headers.fragment_id = [i0, i1, i2, i3];
            8
        }
        _ => return Err(Outcome::UnknownHeaders),
    };
    headers.protocol = next;
    headers.transport += len;
    let limit = headers.network + MAX_TRANSPORT.min(headers.length);
    if headers.transport > limit {
        Err(Outcome::UnknownHeaders)
    } else {
        Ok(())
    }
}

impl<A: Family> Headers<A> {
    /// Writes the tuple of a packet with these addresses and `ports` (source, then destination; network order). The key's padding is
    /// zero from the beginning, and nobody changes it.
    #[inline(always)]
    pub fn tuple(&self, [s0, s1, d0, d1]: [u8; 4], key: &mut FlowKey<A>) {
        self.source.copy_to(&mut key.source);
        self.destination.copy_to(&mut key.destination);
        key.source_port = [s0, s1];
        key.destination_port = [d0, d1];
        key.protocol = self.protocol;
    }

    /// Writes the key under which the ports of a fragmented datagram are remembered.
    #[inline(always)]
    pub fn fragment_key(&self, key: &mut FragmentKey<A>) {
        key.source = self.source;
        key.destination = self.destination;
        key.id = self.fragment_id;
        key.protocol = self.protocol;
        key.pad = [0; 3];
    }
}

impl<A: Family> Segment<A> {
    /// Reads the ports of a TCP or UDP packet that is not a later fragment, and TCP's flags.
    ///
    /// # Errors
    /// [`Outcome::Malformed`] if the transport header is cut short, or if UDP over IPv6 has no checksum (edge-cases C1).
    #[inline(always)]
    pub fn read_ports<P: Packet>(&mut self, packet: &mut P) -> Result<(), Outcome> {
        let headers = &self.headers;
        let is_tcp = headers.protocol == protocol::TCP;
        let header_len = if is_tcp { 20 } else { 8 };
        let at = headers.transport as usize;
        if headers.network + headers.length < headers.transport + header_len
            || !packet.need(at + header_len as usize)
        {
            return Err(Outcome::Malformed);
        }
        let [s0, s1, d0, d1, _, _, c0, c1] = *packet.window::<8>(at).ok_or(Outcome::Malformed)?;
        self.tcp = 0;
        if is_tcp {
            [_, self.tcp] = *packet.window::<2>(at + 12).ok_or(Outcome::Malformed)?;
        } else if !A::UDP_CHECKSUM_OPTIONAL && [c0, c1] == [0, 0] {
            return Err(Outcome::Malformed);
        }
        headers.tuple([s0, s1, d0, d1], &mut self.key);
        Ok(())
    }
}
