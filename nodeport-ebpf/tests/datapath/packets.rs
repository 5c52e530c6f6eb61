//! Frames as stories need them: built with etherparse, read back with etherparse, in either address family.

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, NetSlice, SlicedPacket, TcpHeader,
    TransportSlice, UdpHeader,
};
use nodeport_common::{V4, V6, protocol};
use nodeport_ebpf::sim::SimFamily;

use crate::sums;

/// TCP flags, as they stand in the header.
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const ECE: u8 = 64;
pub const CWR: u8 = 128;

/// An address and a port.
pub type End<A> = (A, u16);

/// What to send.
#[derive(Clone, Debug)]
pub struct Build<A> {
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
    pub from: End<A>,
    pub to: End<A>,
    /// TCP with these flags, or UDP.
    pub tcp: Option<u8>,
    pub payload: Vec<u8>,
    pub ttl: u8,
    /// DSCP and ECN bits.
    pub traffic_class: u8,
    /// IPv6 flow label (20 bits).
    pub flow_label: u32,
    /// Identification of the datagram.
    pub id: u32,
    pub dont_fragment: bool,
    /// IPv4 options, a multiple of 4 bytes; IPv6 extension headers before a fragment header, as number and content without its first
    /// byte (the next header).
    pub options: Vec<u8>,
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// UDP over IPv4: no checksum.
    pub without_checksum: bool,
    /// Bytes behind the packet, as Ethernet pads short frames.
    pub padding: usize,
}

/// A piece of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Where it starts, in bytes of the datagram; a multiple of 8.
    pub offset: usize,
    pub more: bool,
}

/// What a family adds in front of its transport.
pub trait Wire: SimFamily + std::fmt::Debug {
    const ICMP_NUMBER: u8;

    /// A network header in front of `payload`.
    fn network(build: &Build<Self>, protocol: u8, piece: Option<Piece>, payload: &[u8]) -> Vec<u8>;
    fn tcp_checksum(header: &TcpHeader, from: Self, to: Self, payload: &[u8]) -> u16;
    fn udp_checksum(header: &UdpHeader, from: Self, to: Self, payload: &[u8]) -> u16;
    /// The checksum of an ICMP message whose checksum field is zero.
    fn icmp_checksum(from: Self, to: Self, message: &[u8]) -> u16;
    fn from_octets(octets: &[u8]) -> Self;
}

impl<A: Wire> Build<A> {
    pub fn tcp(from: End<A>, to: End<A>, flags: u8) -> Self {
        Self {
            to_mac: [0; 6],
            from_mac: [0; 6],
            from,
            to,
            tcp: Some(flags),
            payload: Vec::new(),
            ttl: 64,
            traffic_class: 0,
            flow_label: 0,
            id: 0x1234,
            dont_fragment: true,
            options: Vec::new(),
            extensions: Vec::new(),
            without_checksum: false,
            padding: 0,
        }
    }

    pub fn udp(from: End<A>, to: End<A>, payload: &[u8]) -> Self {
        Self {
            tcp: None,
            payload: payload.to_vec(),
            dont_fragment: false,
            ..Self::tcp(from, to, 0)
        }
    }

    /// A packet with a payload of so many bytes, all different from their neighbours.
    pub fn with_payload(mut self, len: usize) -> Self {
        self.payload = (0..len).map(|n| (n * 7 + 3) as u8).collect();
        self
    }

    pub const fn protocol(&self) -> u8 {
        if self.tcp.is_some() {
            protocol::TCP
        } else {
            protocol::UDP
        }
    }

    /// Transport header and payload.
    pub fn segment(&self) -> Vec<u8> {
        let (from, to, payload) = (self.from.0, self.to.0, &self.payload);
        if let Some(flags) = self.tcp {
            let mut header = TcpHeader::new(self.from.1, self.to.1, 0x0102_0304, 0x2000);
            header.acknowledgment_number = 0x0a0b_0c0d;
            header.fin = flags & FIN != 0;
            header.syn = flags & SYN != 0;
            header.rst = flags & RST != 0;
            header.psh = flags & PSH != 0;
            header.ack = flags & ACK != 0;
            header.ece = flags & ECE != 0;
            header.cwr = flags & CWR != 0;
            header.checksum = A::tcp_checksum(&header, from, to, payload);
            return [&header.to_bytes()[..], payload].concat();
        }
        let mut header = UdpHeader {
            source_port: self.from.1,
            destination_port: self.to.1,
            length: 8 + payload.len() as u16,
            checksum: 0,
        };
        if !self.without_checksum {
            header.checksum = A::udp_checksum(&header, from, to, payload);
        }
        [&header.to_bytes()[..], payload].concat()
    }

    /// The packet, from its network header on.
    pub fn packet(&self) -> Vec<u8> {
        A::network(self, self.protocol(), None, &self.segment())
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        self.framed(&self.packet())
    }

    /// The frames of its fragments, cut at these offsets (multiples of 8) of the datagram.
    pub fn fragments(&self, cuts: &[usize]) -> Vec<Vec<u8>> {
        let segment = self.segment();
        let starts = [&[0], cuts].concat();
        let ends = [cuts, &[segment.len()]].concat();
        let pieces = starts.into_iter().zip(ends);
        pieces
            .map(|(offset, end)| {
                let piece = Piece {
                    offset,
                    more: end < segment.len(),
                };
                let payload = &segment[offset..end];
                self.framed(&A::network(self, self.protocol(), Some(piece), payload))
            })
            .collect()
    }

    fn framed(&self, packet: &[u8]) -> Vec<u8> {
        let ethertype = A::ETHERTYPE;
        let mut frame = [&self.to_mac[..], &self.from_mac, &ethertype, packet].concat();
        frame.resize(frame.len() + self.padding, 0xee);
        frame
    }
}

/// An ICMP message between two hosts: type and code, the second word of its header, and what follows.
pub fn icmp<A: Wire>(
    from: A,
    to: A,
    [kind, code]: [u8; 2],
    word: [u8; 4],
    body: &[u8],
) -> Build<A> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(word);
    message.extend(body);
    let checksum = A::icmp_checksum(from, to, &message).to_be_bytes();
    message[2..4].copy_from_slice(&checksum);
    Build {
        payload: message,
        ..Build::udp((from, 0), (to, 0), &[])
    }
}

impl<A: Wire> Build<A> {
    /// The frame of a message made by [`icmp`].
    pub fn icmp_frame(&self) -> Vec<u8> {
        self.framed(&A::network(self, A::ICMP_NUMBER, None, &self.payload))
    }
}

impl Wire for V4 {
    const ICMP_NUMBER: u8 = protocol::ICMP;

    fn network(build: &Build<V4>, number: u8, piece: Option<Piece>, payload: &[u8]) -> Vec<u8> {
        let mut header = Ipv4Header::new(
            payload.len() as u16,
            build.ttl,
            IpNumber(number),
            build.from.0,
            build.to.0,
        )
        .unwrap();
        header.options = build.options[..].try_into().unwrap();
        header.set_payload_len(payload.len()).unwrap();
        header.identification = build.id as u16;
        header.dont_fragment = build.dont_fragment && piece.is_none();
        header.dscp = (build.traffic_class >> 2).try_into().unwrap();
        header.ecn = (build.traffic_class & 3).try_into().unwrap();
        if let Some(piece) = piece {
            header.fragment_offset = IpFragOffset::try_new(piece.offset as u16 / 8).unwrap();
            header.more_fragments = piece.more;
        }
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], payload].concat()
    }

    fn tcp_checksum(header: &TcpHeader, from: V4, to: V4, payload: &[u8]) -> u16 {
        header.calc_checksum_ipv4_raw(from, to, payload).unwrap()
    }

    fn udp_checksum(header: &UdpHeader, from: V4, to: V4, payload: &[u8]) -> u16 {
        header.calc_checksum_ipv4_raw(from, to, payload).unwrap()
    }

    fn icmp_checksum(_from: V4, _to: V4, message: &[u8]) -> u16 {
        !sums::sum(message)
    }

    fn from_octets(octets: &[u8]) -> V4 {
        octets.try_into().unwrap()
    }
}

impl Wire for V6 {
    const ICMP_NUMBER: u8 = protocol::ICMPV6;

    fn network(build: &Build<V6>, number: u8, piece: Option<Piece>, payload: &[u8]) -> Vec<u8> {
        let mut extensions = build.extensions.clone();
        if let Some(piece) = piece {
            let offset = (piece.offset as u16 | u16::from(piece.more)).to_be_bytes();
            let id = build.id.to_be_bytes();
            extensions.push((44, [&[0], &offset[..], &id].concat()));
        }
        let mut next = number;
        let mut behind = payload.to_vec();
        for (kind, content) in extensions.iter().rev() {
            behind = [&[next], &content[..], &behind].concat();
            next = *kind;
        }
        let header = Ipv6Header {
            traffic_class: build.traffic_class,
            flow_label: build.flow_label.try_into().unwrap(),
            payload_length: behind.len() as u16,
            next_header: IpNumber(next),
            hop_limit: build.ttl,
            source: build.from.0,
            destination: build.to.0,
        };
        [&header.to_bytes()[..], &behind].concat()
    }

    fn tcp_checksum(header: &TcpHeader, from: V6, to: V6, payload: &[u8]) -> u16 {
        header.calc_checksum_ipv6_raw(from, to, payload).unwrap()
    }

    fn udp_checksum(header: &UdpHeader, from: V6, to: V6, payload: &[u8]) -> u16 {
        header.calc_checksum_ipv6_raw(from, to, payload).unwrap()
    }

    fn icmp_checksum(from: V6, to: V6, message: &[u8]) -> u16 {
        let len = (message.len() as u32).to_be_bytes();
        !sums::sum(&[&from[..], &to, &len, &[0, 0, 0, 58], message].concat())
    }

    fn from_octets(octets: &[u8]) -> V6 {
        octets.try_into().unwrap()
    }
}

/// What a frame says, to somebody who parses it anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<A> {
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
    pub from: A,
    pub to: A,
    pub ttl: u8,
    pub protocol: u8,
    /// Source and destination port, where there are any.
    pub ports: Option<(u16, u16)>,
    /// What follows the network header (and IPv6 extension headers).
    pub behind: Vec<u8>,
}

impl<A: Wire> Seen<A> {
    /// Reads a frame of family `A`.
    pub fn read(frame: &[u8]) -> Self {
        let sliced = SlicedPacket::from_ethernet(frame).expect("a frame that can be parsed");
        let link = match sliced.link {
            Some(etherparse::LinkSlice::Ethernet2(link)) => link,
            other => panic!("no Ethernet header: {other:?}"),
        };
        let ports = match &sliced.transport {
            Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
            Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
            _ => None,
        };
        let (from, to, ttl, payload) = match sliced.net.as_ref().expect("a network header") {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                let (from, to) = (header.source().to_vec(), header.destination().to_vec());
                (from, to, header.ttl(), ip.payload())
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                let (from, to) = (header.source().to_vec(), header.destination().to_vec());
                (from, to, header.hop_limit(), ip.payload())
            }
            NetSlice::Arp(_) => panic!("ARP"),
        };
        Self {
            to_mac: link.destination(),
            from_mac: link.source(),
            from: A::from_octets(&from),
            to: A::from_octets(&to),
            ttl,
            protocol: payload.ip_number.0,
            ports,
            behind: payload.payload.to_vec(),
        }
    }

    /// Source, as address and port.
    pub fn source(&self) -> End<A> {
        (self.from, self.ports.expect("ports").0)
    }

    /// Destination, as address and port.
    pub fn destination(&self) -> End<A> {
        (self.to, self.ports.expect("ports").1)
    }

    /// Source and destination.
    pub fn ends(&self) -> (End<A>, End<A>) {
        (self.source(), self.destination())
    }
}
