//! Connections that the kernel's connection tracking translates: those that kube-proxy's rules began.
//!
//! Owns which entries of conntrack are meant. Refuses to change any. Invariant: a connection of ours is never among them: we translate
//! before conntrack sees a packet, so it has no translation of its own for it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Status,
    Tuple,
};
use nodeport_common::protocol;

use super::netfilter::Netfilter;

/// States of TCP in which a connection is over (`TCP_CONNTRACK_TIME_WAIT`, `TCP_CONNTRACK_CLOSE`).
const OVER: [u8; 2] = [7, 8];

/// A connection as its client sees it, and as its backend does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Connection {
    /// IANA protocol number: TCP or UDP.
    pub(super) protocol: u8,
    /// The client.
    pub(super) client: SocketAddr,
    /// What it asked: the address before translation.
    pub(super) frontend: SocketAddr,
    /// Who answers.
    pub(super) backend: SocketAddr,
    /// Whom that one sees: the client, or an address of this node.
    pub(super) seen: SocketAddr,
}

/// All TCP and UDP connections whose destination is translated.
pub(super) fn translated(netfilter: &mut Netfilter) -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        netfilter.list(family, ConntrackMessage::Get(Vec::new()), &mut |message| {
            if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) =
                message.inner
            {
                found.extend(connection(&attributes));
            }
        })?;
    }
    Ok(found)
}

/// The connection of an entry, if it is one that goes on and is translated.
fn connection(attributes: &[ConntrackAttribute]) -> Option<Connection> {
    let (mut there, mut back) = (None, None);
    let mut is_translated = false;
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => there = read(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => back = read(tuple),
            ConntrackAttribute::CtaStatus(status) => {
                is_translated = status.contains(Status::DstNat);
            }
            ConntrackAttribute::CtaProtoInfo(info) if is_over(info) => return None,
            _ => {}
        }
    }
    let (protocol, client, frontend) = there.filter(|_| is_translated)?;
    let (_, backend, seen) = back?;
    Some(Connection {
        protocol,
        client,
        frontend,
        backend,
        seen,
    })
}

fn is_over(info: &[ProtoInfo]) -> bool {
    info.iter().any(|info| match info {
        ProtoInfo::TCP(parts) => parts
            .iter()
            .any(|part| matches!(part, ProtoInfoTCP::State(state) if OVER.contains(state))),
        _ => false,
    })
}

/// Protocol, source and destination of one direction.
fn read(tuple: &[Tuple]) -> Option<(u8, SocketAddr, SocketAddr)> {
    let (mut source, mut destination): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let (mut number, mut from, mut to) = (None, None, None);
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(one) => number = Some(u8::from(*one)),
                        ProtoTuple::SourcePort(port) => from = Some(*port),
                        ProtoTuple::DestinationPort(port) => to = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let protocol = number.filter(|number| matches!(*number, protocol::TCP | protocol::UDP))?;
    Some((
        protocol,
        SocketAddr::new(source?, from?),
        SocketAddr::new(destination?, to?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_netfilter::conntrack::Protocol;

    fn entry(protocol: Protocol, status: Status) -> Vec<ConntrackAttribute> {
        let tuple = |(source, from), (destination, to)| {
            let address = |text: &str| text.parse().expect("an address");
            vec![
                Tuple::Ip(vec![
                    IPTuple::SourceAddress(address(source)),
                    IPTuple::DestinationAddress(address(destination)),
                ]),
                Tuple::Proto(vec![
                    ProtoTuple::Protocol(protocol),
                    ProtoTuple::SourcePort(from),
                    ProtoTuple::DestinationPort(to),
                ]),
            ]
        };
        vec![
            ConntrackAttribute::CtaTupleOrig(tuple(
                ("203.0.113.10", 40000),
                ("192.168.88.11", 30080),
            )),
            ConntrackAttribute::CtaTupleReply(tuple(
                ("10.244.2.11", 8080),
                ("192.168.99.11", 5555),
            )),
            ConntrackAttribute::CtaStatus(status),
        ]
    }

    fn tcp_in(state: u8) -> Vec<ConntrackAttribute> {
        let mut entry = entry(Protocol::Tcp, Status::Assured | Status::DstNat);
        entry.push(ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(
            vec![ProtoInfoTCP::State(state)],
        )]));
        entry
    }

    #[test]
    fn an_entry_that_is_translated_is_a_connection() {
        let wanted = Connection {
            protocol: protocol::TCP,
            client: "203.0.113.10:40000".parse().expect("an address"),
            frontend: "192.168.88.11:30080".parse().expect("an address"),
            backend: "10.244.2.11:8080".parse().expect("an address"),
            seen: "192.168.99.11:5555".parse().expect("an address"),
        };
        let established = 3;
        assert_eq!(connection(&tcp_in(established)), Some(wanted));
    }

    #[test]
    fn what_is_over_or_not_translated_or_of_another_protocol_is_none() {
        assert_eq!(connection(&tcp_in(7)), None);
        assert_eq!(connection(&tcp_in(8)), None);
        assert_eq!(
            connection(&entry(Protocol::Tcp, Status::Assured | Status::SrcNat)),
            None
        );
        assert_eq!(connection(&entry(Protocol::Icmp, Status::DstNat)), None);
        assert_eq!(
            connection(&entry(Protocol::Udp, Status::DstNat))
                .expect("one")
                .protocol,
            17
        );
        assert_eq!(connection(&[]), None);
    }
}
