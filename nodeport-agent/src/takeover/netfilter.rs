//! The kernel's netfilter over netlink: lists, and transactions of nftables.
//!
//! Owns the socket and the order of messages. Refuses to know what is listed or changed. Invariant: a transaction is carried out
//! whole or not at all, and which it was is known.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// The subsystem of a transaction (`NFNL_SUBSYS_NFTABLES`).
const NF_TABLES: u16 = 10;

/// The list changed while it was read (`NLM_F_DUMP_INTR`).
const INTERRUPTED: u16 = 0x10;

/// One change of a transaction.
pub(super) struct Change {
    /// Which family's tables.
    pub(super) family: NetfilterProtoFamily,
    /// What.
    pub(super) message: NetfilterMessageInner,
    /// Flags of the request (`NLM_F_CREATE`).
    pub(super) flags: u16,
}

/// A socket.
pub(super) struct Netfilter {
    socket: Socket,
    sequence: u32,
}

impl Netfilter {
    /// Opens a socket.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Shows every answer to a question. No answer is an answer: what is asked for does not exist.
    pub(super) fn list(
        &mut self,
        family: NetfilterProtoFamily,
        question: impl Into<NetfilterMessageInner>,
        see: &mut dyn FnMut(NetfilterMessage),
    ) -> io::Result<()> {
        let sequence = self.next();
        let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), question);
        let bytes = encode(message, NLM_F_REQUEST | NLM_F_DUMP, sequence);
        self.socket.send(&bytes, 0)?;
        let mut interrupted = false;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for message in decode(&bytes) {
                let message = message?;
                if message.header.sequence_number != sequence {
                    continue;
                }
                interrupted |= message.header.flags & INTERRUPTED != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => see(inner),
                    NetlinkPayload::Done(_) if interrupted => {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return absent(error.to_io());
                    }
                    _ => {}
                }
            }
        }
    }

    /// Carries out all changes, or none.
    pub(super) fn transact(&mut self, changes: Vec<Change>) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut bytes = self.control(ControlMessage::BatchBegin);
        let last = changes.len() - 1;
        let mut acknowledged = 0;
        for (index, change) in changes.into_iter().enumerate() {
            acknowledged = self.next();
            let ack = if index == last { NLM_F_ACK } else { 0 };
            let header = NetfilterHeader::new(change.family, 0, 0);
            let message = NetfilterMessage::new(header, change.message);
            let flags = NLM_F_REQUEST | change.flags | ack;
            bytes.extend(encode(message, flags, acknowledged));
        }
        bytes.extend(self.control(ControlMessage::BatchEnd));
        self.socket.send(&bytes, 0)?;
        // The kernel answers to every change that failed, and to the last one in any case.
        let mut result = Ok(());
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for message in decode(&bytes) {
                let message = message?;
                let NetlinkPayload::Error(error) = message.payload else {
                    continue;
                };
                if error.code.is_some() && result.is_ok() {
                    result = Err(error.to_io());
                }
                if message.header.sequence_number == acknowledged {
                    return result;
                }
            }
        }
    }

    fn control(&mut self, message: ControlMessage) -> Vec<u8> {
        let sequence = self.next();
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NF_TABLES);
        let message = NetfilterMessage::new(header, message);
        encode(message, NLM_F_REQUEST, sequence)
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// A table that does not exist has no chains.
fn absent(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

fn encode(message: NetfilterMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The messages of one datagram.
fn decode(bytes: &[u8]) -> impl Iterator<Item = io::Result<NetlinkMessage<NetfilterMessage>>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let message = NetlinkMessage::deserialize(rest);
        let length = message
            .as_ref()
            .map_or(0, |message| message.header.length as usize);
        // Each begins at a multiple of four bytes.
        at = if length == 0 {
            bytes.len()
        } else {
            at + length.next_multiple_of(4)
        };
        Some(message.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableMessage};

    #[test]
    fn messages_of_a_datagram_are_read_one_by_one() {
        let table = |name: &str| {
            let attributes = vec![TableAttribute::Name(name.to_owned())];
            let message = TableMessage { attributes };
            NetfilterMessage::new(
                NetfilterHeader::new(NetfilterProtoFamily::IPv6, 0, 0),
                NfTablesMessage::NewTable(message),
            )
        };
        let mut bytes = encode(table("kube-proxy"), NLM_F_REQUEST, 7);
        bytes.extend(encode(table("x"), NLM_F_REQUEST, 8));
        let read: Vec<_> = decode(&bytes).collect::<Result<_, _>>().expect("valid");
        assert_eq!(read.len(), 2);
        assert_eq!(read[1].header.sequence_number, 8);
        assert_eq!(read[0].payload, NetlinkPayload::from(table("kube-proxy")));
        assert!(decode(&bytes[..30]).next().expect("one").is_err());
    }
}
