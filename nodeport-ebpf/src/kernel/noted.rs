//! What was noted of flows and of front ends, so that packets are told without a lookup.
//!
//! Owns the reading of `DESTINATIONS`, which programs write, and of `NOTED4` and `NOTED6`, which the agent writes. Invariant: what
//! cannot be read counts as noted: it costs a lookup, never a packet.

use nodeport_common::{FlowKey, NOTED_TRUST, NOTED_TRUSTED, NotedBit};
use nodeport_ebpf::select;

use super::family::KernelFamily;
use super::maps::{ADDRESS_ROW, DESTINATIONS, PORT_ROW, REPLY_ADDRESS_ROW, REPLY_PORT_ROW};

/// Rows of [`DESTINATIONS`], of addresses and of ports: destinations of flows.
const DESTINATION: [u32; 2] = [ADDRESS_ROW, PORT_ROW];
/// Likewise: sources of replies that are translated at egress.
const SOURCE: [u32; 2] = [REPLY_ADDRESS_ROW, REPLY_PORT_ROW];

/// Whether the destination was noted as one of flows.
#[inline(always)]
pub(super) fn has_destination<A: KernelFamily>(key: &FlowKey<A>) -> bool {
    is_set(DESTINATION, &key.destination, key.destination_port)
}

/// Notes the destination as one of flows.
#[inline(always)]
pub(super) fn destination<A: KernelFamily>(key: &FlowKey<A>) {
    set(
        DESTINATION,
        select::place(&key.destination),
        key.destination_port,
    );
}

/// Whether the source was noted as one of replies at egress.
#[inline(always)]
pub(super) fn has_source<A: KernelFamily>(key: &FlowKey<A>) -> bool {
    is_set(SOURCE, &key.source, key.source_port)
}

/// Notes how replies with this tuple are told: at egress by their source, else by their destination.
#[inline(always)]
pub(super) fn reply<A: KernelFamily>(key: &FlowKey<A>, at_egress: bool) {
    // Chosen before, so that the verifier walks through `set` once.
    let (rows, place, port) = if at_egress {
        (SOURCE, select::place(&key.source), key.source_port)
    } else {
        let place = select::place(&key.destination);
        (DESTINATION, place, key.destination_port)
    };
    set(rows, place, port);
}

/// Whether the agent noted a front end that may have this destination.
#[inline(always)]
pub(super) fn has_frontend<A: KernelFamily>(key: &FlowKey<A>) -> bool {
    // Written by the agent alone, a word at a time, with more bits than before.
    let word = |index| A::noted().get(index).copied();
    let is_noted = |at: NotedBit| word(at.word).is_none_or(|word| word & at.bit != 0);
    is_noted(NotedBit::of_address(select::place(&key.destination)))
        && is_noted(NotedBit::of_port(key.destination_port))
        || word(NOTED_TRUST) != Some(NOTED_TRUSTED)
}

/// Whether the bytes of an address and of a port (network order) are set in these rows.
#[inline(always)]
fn is_set<A: KernelFamily>([address_row, port_row]: [u32; 2], address: &A, port: [u8; 2]) -> bool {
    let is_set = |row, place: u16| {
        let row = DESTINATIONS.get(row).map(|row| row.get(usize::from(place)));
        row.flatten().is_none_or(|byte| byte.get() != 0)
    };
    is_set(address_row, select::place(address)) && is_set(port_row, u16::from_be_bytes(port))
}

/// Sets the byte of an address, by its place, and that of a port. A byte for each, because two CPUs that set bits of one word may lose one.
#[inline(always)]
fn set([address_row, port_row]: [u32; 2], place: u16, port: [u8; 2]) {
    let set = |row, place: u16| {
        if let Some(row) = DESTINATIONS.get(row)
            && let Some(byte) = row.get(usize::from(place))
            && byte.get() == 0
        {
            byte.set(1);
        }
    };
    set(address_row, place);
    set(port_row, u16::from_be_bytes(port));
}
