//! One packet, one entry: new addresses, new ports, checksums in step. All fields that are not named keep their value
//! (edge-cases E11).

use nodeport_common::{FlowKey, protocol};

use crate::packet::{ChecksumFix, Packet};
use crate::wire::checksum::Diff;
use crate::wire::{Family, Fragment, parse::Segment};

/// Offset of the checksum in a TCP header, and in a UDP header.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// The offset of a transport's checksum in its header.
#[inline(always)]
pub(super) const fn checksum_offset(transport: u8) -> usize {
    if transport == protocol::TCP {
        TCP_CHECKSUM
    } else {
        UDP_CHECKSUM
    }
}

/// The ends that a packet is to have.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a, A> {
    /// Source address.
    pub source: &'a A,
    /// Destination address.
    pub destination: &'a A,
    /// Source port, network order.
    pub source_port: [u8; 2],
    /// Destination port, network order.
    pub destination_port: [u8; 2],
}

/// The change of the pseudo header, and that of the ports.
#[inline(always)]
pub(super) fn changes<A: Family>(key: &FlowKey<A>, new: Ends<'_, A>) -> (u16, u16) {
    let addresses = key
        .destination
        .diff(new.destination, key.source.diff(new.source, Diff::new()));
    let ports = Diff::new()
        .word(key.source_port, new.source_port)
        .word(key.destination_port, new.destination_port);
    (addresses.fold(), ports.fold())
}

/// Gives the packet its `new` ends; `forward` if this node forwards it itself (TTL or hop limit goes down by one).
/// `None` if a part of it could not be written: it must not go on.
#[inline(always)]
pub fn translate<A: Family, P: Packet>(
    packet: &mut P,
    segment: &Segment<A>,
    new: Ends<'_, A>,
    forward: bool,
) -> Option<()> {
    let headers = &segment.headers;
    let network = headers.network as usize;
    let transport = headers.transport as usize;
    let (pseudo, covered) = changes(&segment.key, new);
    let uncovered = A::rewrite(
        packet,
        network,
        new.source,
        new.destination,
        pseudo,
        forward,
    )?;
    if headers.fragment == Fragment::Later {
        packet.note_uncovered(uncovered);
        return Some(());
    }
    let [s0, s1] = new.source_port;
    let [d0, d1] = new.destination_port;
    *packet.window::<4>(transport)? = [s0, s1, d0, d1];
    let at = transport + checksum_offset(headers.protocol);
    packet
        .fix_checksum(
            at,
            ChecksumFix {
                pseudo,
                covered,
                uncovered,
            },
            headers.protocol == protocol::UDP,
        )
        .then_some(())
}
