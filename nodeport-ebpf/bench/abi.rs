//! What the benchmark and its programs tell each other: values of the helper's maps.
//!
//! Compiled twice: into the helper's programs, and into the benchmark on the host. Invariant: integers in host order, addresses and ports in
//! network order, no padding.

/// Index of what the client sends and of what arrives at the far end.
pub(crate) const FORTH: u32 = 0;
/// Index of what the far end answers and of what arrives at the client.
pub(crate) const BACK: u32 = 1;

/// First bytes of every payload.
pub(crate) const MAGIC: [u8; 4] = *b"npb1";
/// Bytes of a payload: magic, number of the flow, zeros. With IPv4 it makes a frame of 60 bytes, the shortest of Ethernet (without its checksum).
pub(crate) const PAYLOAD: usize = 18;
/// Of this many packets that arrive, one is checked to the last bit.
pub(crate) const SAMPLE: u64 = 64;
/// Flows that share a source address: each has a port of its own.
pub(crate) const PORTS: u32 = 1 << 14;
/// The first source port.
pub(crate) const FIRST_PORT: u32 = 10_000;

/// How frames of one direction look: value of `PLANS`. 112 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Plan {
    /// Headers: Ethernet, IP, UDP; 42 bytes for IPv4, 62 for IPv6. Checksums are zero, and so are addresses and ports of answers.
    pub(crate) headers: [u8; 64],
    /// Sum (one's complement, not folded) over the IPv4 header but its addresses.
    pub(crate) header_sum: u32,
    /// The same over the UDP header, the pseudo header and the payload, but addresses, ports and the flow's number.
    pub(crate) payload_sum: u32,
    /// Flows to send packets of, round and round.
    pub(crate) flows: u32,
    /// 0, or the number of this pass: then only packets of flows are sent that were not seen in this pass.
    pub(crate) pass: u32,
    /// Index of the device to send by.
    pub(crate) device: u32,
    /// 1 for IPv6.
    pub is_v6: u32,
    /// Destination port that must arrive; 0 if any may.
    pub(crate) expected_destination_port: u32,
    /// Source port that must arrive; 0 if any may.
    pub(crate) expected_source_port: u32,
    /// Number of the first of them.
    pub(crate) first_flow: u32,
    /// Destinations of what the client sends, one after the other from the one in `headers` on: one for each flow, in turn.
    pub(crate) destinations: u32,
    /// Zero.
    pub(crate) pad: [u32; 2],
}

/// What was seen of a flow: value of `SEEN`. 40 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Seen {
    /// As its packets arrive at the far end; an IPv4 address in the first four bytes.
    pub(crate) source: [u8; 16],
    /// See `source`.
    pub(crate) destination: [u8; 16],
    /// See `source`.
    pub(crate) source_port: [u8; 2],
    /// See `source`.
    pub(crate) destination_port: [u8; 2],
    /// The last pass of which a packet arrived, by direction.
    pub(crate) pass: [u16; 2],
}

/// What arrived: value of `ARRIVED`, for each CPU. 40 bytes.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Arrived {
    /// Our packets.
    pub(crate) packets: u64,
    /// Of those, checked to the last bit.
    pub(crate) sampled: u64,
    /// Of those, with a wrong checksum or a wrong port.
    pub(crate) wrong: u64,
    /// Flows that were seen for the first time in this pass.
    pub(crate) fresh: u64,
    /// Packets that are not ours.
    pub(crate) others: u64,
}

const _: () = {
    assert!(size_of::<Plan>() == 112);
    assert!(size_of::<Seen>() == 40);
    assert!(size_of::<Arrived>() == 40);
};
