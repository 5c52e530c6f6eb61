//! Which destinations may be those of front ends, as bits that the agent sets before it writes a front end.
//!
//! A packet whose address or port has no bit is for no front end, which one look at memory tells. Many addresses share a bit;
//! a bit says only that a lookup is worth its price. Invariant: after every write of the agent, if the last word of the array is
//! [`NOTED_TRUSTED`], then every front end and every address that front ends answer on has its bits.
#![expect(
    clippy::inline_always,
    reason = "a program looks at these for every packet"
)]

/// Words of `NOTED4` and of `NOTED6`: a bit for each of 65,536 places of addresses, one for each port, and one word more.
pub const NOTED_LEN: u32 = 2 * WORDS + 1;

/// Index of the word that says whether the others are complete.
pub const NOTED_TRUST: u32 = 2 * WORDS;

/// Value of that word if they are.
pub const NOTED_TRUSTED: u64 = 1;

/// Words of a row of 65,536 bits.
const WORDS: u32 = 65536 / 64;

/// Where something is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotedBit {
    /// Index of the word.
    pub word: u32,
    /// The word's bit.
    pub bit: u64,
}

impl NotedBit {
    /// Of an address, given its [`place`].
    #[must_use]
    #[inline(always)]
    pub const fn of_address(place: u16) -> Self {
        Self::at(0, place)
    }

    /// Of a port, network order.
    #[must_use]
    #[inline(always)]
    pub const fn of_port(port: [u8; 2]) -> Self {
        Self::at(WORDS, u16::from_be_bytes(port))
    }

    #[inline(always)]
    const fn at(row: u32, place: u16) -> Self {
        Self {
            word: row + (place >> 6) as u32,
            bit: 1 << (place & 63),
        }
    }
}

/// The place of an address among 65,536, given its big-endian words of four bytes.
#[must_use]
#[inline(always)]
pub const fn place<const N: usize>(words: [u32; N]) -> u16 {
    let mut hash = 0;
    let mut rest: &[u32] = &words;
    while let [word, after @ ..] = rest {
        hash = mix(hash, *word);
        rest = after;
    }
    (finish(hash) >> 16) as u16
}

/// One step of a multiply-and-shift hash with the golden ratio as multiplier.
#[must_use]
#[inline(always)]
pub const fn mix(hash: u64, word: u32) -> u64 {
    let product = (hash ^ word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 29)
}

/// The last step of that hash.
#[must_use]
#[inline(always)]
pub const fn finish(hash: u64) -> u32 {
    (hash.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32
}
