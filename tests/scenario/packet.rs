//! A packet as one line of text.
//!
//! ```text
//! tcp 203.0.113.10:40000 > 192.168.88.11:30080 SA len=100 ttl=63
//! udp 203.0.113.10:40000 > 192.168.88.11:30053 len=2000 id=7 cut=1480
//! icmp too-big mtu=1400 192.168.88.12 > 192.168.88.11 about [tcp 192.168.88.11:1024 > 10.244.2.11:8080 A len=1460]
//! ```
//!
//! Owns the notation. Refuses to know bytes. Invariant: what is printed can be read; everything that differs from a plain packet is said.
//! Not said because it is usual: TTL 64, no payload, sequence number 100, acknowledgement 200 (0 without the flag A).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// TCP flags by their letters, from the lowest bit of the header on.
const FLAGS: &str = "FSRPAUEC";

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) body: Body,
    /// IPv4 options, or IPv6 hop-by-hop options.
    pub(crate) options: bool,
    /// Identification of the datagram, where it matters.
    pub(crate) id: u32,
    /// The part of a datagram that this packet carries, if it is a fragment.
    pub(crate) piece: Option<Piece>,
    /// Where a datagram is to be cut, and which of its pieces are sent, in this order.
    pub(crate) cuts: Vec<usize>,
    pub(crate) order: Vec<usize>,
    /// What is wrong with it.
    pub(crate) faults: Vec<String>,
}

/// A part of a datagram, in bytes behind the network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: usize,
    pub(crate) len: usize,
    pub(crate) more: bool,
}

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Tcp {
        ports: (u16, u16),
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
        len: usize,
    },
    Udp {
        ports: (u16, u16),
        len: usize,
        checksum: bool,
    },
    Icmp {
        name: String,
        mtu: u16,
        about: Option<Box<Packet>>,
    },
    /// A later fragment of this protocol.
    Rest(u8),
    /// Another protocol.
    Other(u8),
}

/// The number of the acknowledgement or sequence that is not said.
pub(crate) const SEQUENCE: u32 = 100;
pub(crate) const ACKNOWLEDGEMENT: u32 = 200;
pub(crate) const TTL: u8 = 64;
pub(crate) const ACK: u8 = 16;

impl Packet {
    /// A plain packet.
    pub(crate) fn new(from: IpAddr, to: IpAddr, body: Body) -> Self {
        Self {
            from,
            to,
            ttl: TTL,
            body,
            options: false,
            id: 1,
            piece: None,
            cuts: Vec::new(),
            order: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Reads a line.
    ///
    /// # Panics
    /// It is no packet.
    pub(crate) fn parse(text: &str) -> Self {
        let (outside, about) = match text.split_once(" about [") {
            None => (text.to_owned(), None),
            Some((head, tail)) => {
                let (inside, rest) = tail.rsplit_once(']').expect("a closing bracket");
                let about = Self::parse(inside);
                (format!("{head} {rest}"), Some(Box::new(about)))
            }
        };
        let words: Vec<&str> = outside.split_whitespace().collect();
        let arrow = words.iter().position(|word| *word == ">");
        let arrow = arrow.unwrap_or_else(|| panic!("no `>` in {text:?}"));
        let (protocol, (from, to)) = (words[0], (words[arrow - 1], words[arrow + 1]));
        let (from, from_port) = end(from);
        let (to, to_port) = end(to);
        let ports = (from_port, to_port);
        let body = match protocol {
            "tcp" => Body::Tcp {
                ports,
                flags: 0,
                sequence: SEQUENCE,
                acknowledgement: 0,
                len: 0,
            },
            "udp" => Body::Udp {
                ports,
                len: 0,
                checksum: true,
            },
            "icmp" => Body::Icmp {
                name: words[1].to_owned(),
                mtu: 0,
                about,
            },
            number => Body::Other(number.parse().expect("a protocol")),
        };
        let mut packet = Self::new(from, to, body);
        let first = usize::from(matches!(packet.body, Body::Icmp { .. })) + 1;
        for (index, word) in words.iter().enumerate() {
            if index >= first && !(arrow - 1..=arrow + 1).contains(&index) {
                packet.set(word);
            }
        }
        packet
    }

    fn set(&mut self, word: &str) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || -> usize {
            value
                .parse()
                .unwrap_or_else(|_| panic!("{word:?}: no number"))
        };
        let list = || value.split(',').map(|one| one.parse().expect("a number"));
        match (key, &mut self.body) {
            ("ttl", _) => self.ttl = number() as u8,
            ("id", _) => self.id = number() as u32,
            ("options", _) => self.options = true,
            ("cut", _) => self.cuts = list().collect(),
            ("order", _) => self.order = list().collect(),
            ("len", Body::Tcp { len, .. } | Body::Udp { len, .. }) => *len = number(),
            ("no-checksum", Body::Udp { checksum, .. }) => *checksum = false,
            ("mtu", Body::Icmp { mtu, .. }) => *mtu = number() as u16,
            ("seq", Body::Tcp { sequence, .. }) => *sequence = number() as u32,
            (
                letters,
                Body::Tcp {
                    flags,
                    acknowledgement,
                    ..
                },
            ) if letters.chars().all(|letter| FLAGS.contains(letter)) => {
                *flags = letters.chars().fold(0, |all, letter| {
                    let bit = FLAGS.find(letter).unwrap_or_default();
                    all | 1 << bit
                });
                if *flags & ACK != 0 {
                    *acknowledgement = ACKNOWLEDGEMENT;
                }
            }
            _ => panic!("{word:?} says nothing about this packet"),
        }
    }
}

fn end_text(ip: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(
        || ip.to_string(),
        |port| SocketAddr::new(ip, port).to_string(),
    )
}

/// An address, with a port or without.
fn end(text: &str) -> (IpAddr, u16) {
    if let Ok(end) = text.parse::<SocketAddr>() {
        return (end.ip(), end.port());
    }
    let ip = text.parse().unwrap_or_else(|_| panic!("{text:?}: no end"));
    (ip, 0)
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = match &self.body {
            Body::Tcp { ports, .. } | Body::Udp { ports, .. } => Some(*ports),
            _ => None,
        };
        let from = end_text(self.from, ports.map(|ports| ports.0));
        let to = end_text(self.to, ports.map(|ports| ports.1));
        match &self.body {
            Body::Tcp { flags, .. } => {
                let letters = FLAGS.chars().enumerate();
                let letters = letters.filter(|(bit, _)| flags & 1 << bit != 0);
                let letters: String = letters.map(|(_, letter)| letter).collect();
                write!(f, "tcp {from} > {to} {letters}")?;
            }
            Body::Icmp { name, mtu, .. } => {
                write!(f, "icmp {name} ")?;
                if *mtu != 0 {
                    write!(f, "mtu={mtu} ")?;
                }
                write!(f, "{from} > {to}")?;
            }
            Body::Rest(6) => write!(f, "tcp {from} > {to}")?,
            Body::Udp { .. } | Body::Rest(_) => write!(f, "udp {from} > {to}")?,
            Body::Other(number) => write!(f, "{number} {from} > {to}")?,
        }
        self.details(f)?;
        if let Body::Icmp {
            about: Some(about), ..
        } = &self.body
        {
            write!(f, " about [{about}]")?;
        }
        for fault in &self.faults {
            write!(f, " !{fault}")?;
        }
        Ok(())
    }
}

impl Packet {
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Body::Tcp {
            flags,
            sequence,
            acknowledgement,
            ..
        } = &self.body
        {
            let usual = if flags & ACK == 0 { 0 } else { ACKNOWLEDGEMENT };
            if (*sequence, *acknowledgement) != (SEQUENCE, usual) {
                write!(f, " seq={sequence} ack={acknowledgement}")?;
            }
        }
        if let Some(Piece { offset, len, more }) = self.piece {
            let more = if more { "+" } else { "" };
            write!(f, " id={} bytes={offset}..{}{more}", self.id, offset + len)?;
        } else if let Body::Tcp { len, .. } | Body::Udp { len, .. } = &self.body
            && *len > 0
        {
            write!(f, " len={len}")?;
        }
        if let Body::Udp {
            checksum: false, ..
        } = &self.body
        {
            write!(f, " no-checksum")?;
        }
        if self.options {
            write!(f, " options")?;
        }
        if self.ttl != TTL {
            write!(f, " ttl={}", self.ttl)?;
        }
        Ok(())
    }
}

#[test]
fn what_is_printed_can_be_read() {
    for line in [
        "tcp 203.0.113.10:40000 > 192.168.88.11:30080 SA len=100 ttl=63",
        "tcp [fd00::1]:40000 > [fd00::2]:30080 A",
        "udp 203.0.113.10:40000 > 192.168.88.11:30053 len=8 no-checksum options ttl=1",
        "icmp too-big mtu=1400 fd00::1 > fd00::2 ttl=63 about [tcp [fd00::3]:1 > [fd00::4]:2 A len=10]",
        "47 203.0.113.10 > 192.168.88.11",
    ] {
        assert_eq!(Packet::parse(line).to_string(), line);
    }
}
