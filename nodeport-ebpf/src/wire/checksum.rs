//! Internet checksums, updated by the change of the words they cover (RFC 1624), never recomputed over a payload.
//!
//! Invariant: a sum is kept folded in 16 bits, and words are read big-endian.

/// A one's complement sum of changes: for each word that changed, the complement of the old and the new value.
///
/// Summed in the machine's byte order, which a one's complement sum does not mind (RFC 1071, section 2 B), four bytes at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Diff(u64);

impl Diff {
    /// No change.
    #[must_use]
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Two bytes at an even offset changed from `old` to `new`.
    #[must_use]
    #[inline(always)]
    pub const fn word(self, old: [u8; 2], new: [u8; 2]) -> Self {
        Self(self.0 + (!u16::from_ne_bytes(old)) as u64 + u16::from_ne_bytes(new) as u64)
    }

    /// Four bytes at an even offset changed from `old` to `new`.
    #[must_use]
    #[inline(always)]
    pub const fn double(self, old: [u8; 4], new: [u8; 4]) -> Self {
        Self(self.0 + (!u32::from_ne_bytes(old)) as u64 + u32::from_ne_bytes(new) as u64)
    }

    /// What was summed, folded to 16 bits, big-endian words.
    #[must_use]
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let halved = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let folded = (halved & 0xffff) + (halved >> 16 & 0xffff) + (halved >> 32);
        fold(folded as u32).to_be()
    }
}

/// Folds carries into the low 16 bits. Any sum of fewer than 65536 words fits.
#[must_use]
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The sum of two folded sums.
#[must_use]
#[inline(always)]
pub const fn add(a: u16, b: u16) -> u16 {
    fold(a as u32 + b as u32)
}

/// A checksum field after the words that it covers changed by `diff` (RFC 1624, equation 3).
#[must_use]
#[inline(always)]
pub const fn updated(checksum: [u8; 2], diff: u16) -> [u8; 2] {
    let sum = (!u16::from_be_bytes(checksum)) as u32 + diff as u32;
    (!fold(sum)).to_be_bytes()
}

/// As [`updated`], where a result of 0 is written as 0xFFFF because 0 means that there is no checksum (RFC 768).
#[must_use]
#[inline(always)]
pub const fn updated_nonzero(checksum: [u8; 2], diff: u16) -> [u8; 2] {
    match updated(checksum, diff) {
        [0, 0] => [0xff, 0xff],
        sum => sum,
    }
}

/// A one's complement sum of bytes, four at a time, in the machine's byte order like [`Diff`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    #[must_use]
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds four bytes at an even offset.
    #[must_use]
    #[inline(always)]
    pub const fn double(self, bytes: [u8; 4]) -> Self {
        Self(self.0 + u32::from_ne_bytes(bytes) as u64)
    }

    /// The checksum: the complement of the folded sum, as it stands in a header.
    #[must_use]
    #[inline(always)]
    pub const fn checksum(self) -> [u8; 2] {
        (!Diff(self.0).fold()).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_1624_example() {
        // Section 4: a word 0x5555 becomes 0x3285 under a checksum of 0xDD2F; the right answer is 0x0000.
        let diff = Diff::new().word([0x55, 0x55], [0x32, 0x85]).fold();
        assert_eq!(updated([0xdd, 0x2f], diff), [0, 0]);
        assert_eq!(updated_nonzero([0xdd, 0x2f], diff), [0xff, 0xff]);
    }

    #[test]
    fn four_bytes_are_two_words() {
        let (old, new) = ([0x12, 0x34, 0xff, 0xfe], [0xc0, 0xa8, 0x00, 0x01]);
        let words = Diff::new()
            .word([0x12, 0x34], [0xc0, 0xa8])
            .word([0xff, 0xfe], [0x00, 0x01])
            .fold();
        assert_eq!(Diff::new().double(old, new).fold(), words);
    }

    #[test]
    fn no_change_keeps_the_field() {
        let diff = Diff::new().word([0x12, 0x34], [0x12, 0x34]).fold();
        assert_eq!(updated([0xab, 0xcd], diff), [0xab, 0xcd]);
    }
}
