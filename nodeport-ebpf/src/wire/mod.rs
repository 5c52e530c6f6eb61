//! Headers on the wire: where fields are, and how checksums follow their changes. Knows nothing of Services.

pub mod checksum;
mod family;
pub mod parse;

pub use family::Family;
pub use parse::{Fragment, Headers};

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;

/// TCP flags, as they stand in byte 13 of the header (RFC 9293, 3.1).
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 1 << 1;
    /// Reset.
    pub const RST: u8 = 1 << 2;
    /// Acknowledgement field counts.
    pub const ACK: u8 = 1 << 4;

    /// A first packet of a connection: SYN without ACK; ECE, CWR and data do not matter (edge-cases B14).
    #[must_use]
    #[inline(always)]
    pub const fn opens(flags: u8) -> bool {
        flags & (SYN | ACK | RST) == SYN
    }

    /// The second packet of a connection, and nothing else.
    #[must_use]
    #[inline(always)]
    pub const fn answers(flags: u8) -> bool {
        flags & (SYN | ACK | RST | FIN) == SYN | ACK
    }
}
