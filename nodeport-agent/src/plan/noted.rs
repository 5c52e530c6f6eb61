//! Which destinations are noted in `NOTED`: those that programs look up among front ends.
//!
//! Owns the bits of front ends and addresses. It refuses to know when they are written. Invariant: bits are only ever added.

use std::net::IpAddr;

use nodeport_common::{
    FrontendKey, NOTED_LEN, NOTED_TRUST, NOTED_TRUSTED, NotedBit, address_flags, noted_place,
};

use super::family::Ip;

/// The words of one address family's `NOTED`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted(Vec<u64>);

impl Noted {
    /// What was found in the map; words that are missing have no bits.
    #[must_use]
    pub fn adopt(words: &[u64]) -> Self {
        let mut own = words.to_vec();
        own.resize(NOTED_LEN as usize, 0);
        Self(own)
    }

    /// All words.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// How many words have bits.
    #[must_use]
    pub fn words_used(&self) -> usize {
        self.0.iter().filter(|word| **word != 0).count()
    }

    /// Whether programs go by the bits.
    pub(super) fn is_trusted(&self) -> bool {
        self.0[NOTED_TRUST as usize] == NOTED_TRUSTED
    }

    /// Makes programs go by the bits.
    pub fn trust(&mut self) {
        self.set(NOTED_TRUST, NOTED_TRUSTED);
    }

    /// Notes a front end: its port, and its address if it has one of its own.
    pub fn frontend<A: Ip>(&mut self, key: &FrontendKey<A>) {
        self.add(NotedBit::of_port(key.port));
        if key.address != A::UNSPECIFIED {
            self.add(of_address(key.address));
        }
    }

    /// Notes an address, if front ends answer on it.
    pub fn address<A: Ip>(&mut self, address: A, flags: u32) {
        if answers(flags) {
            self.add(of_address(address));
        }
    }

    /// Whether a front end is noted.
    pub(super) fn has_frontend<A: Ip>(&self, key: &FrontendKey<A>) -> bool {
        self.has(NotedBit::of_port(key.port))
            && (key.address == A::UNSPECIFIED || self.has(of_address(key.address)))
    }

    /// Whether an address is noted, or need not be.
    pub(super) fn has_address<A: Ip>(&self, address: A, flags: u32) -> bool {
        !answers(flags) || self.has(of_address(address))
    }

    /// Writes one word.
    pub(super) fn set(&mut self, word: u32, value: u64) {
        if let Some(own) = self.0.get_mut(word as usize) {
            *own = value;
        }
    }

    /// The words that are otherwise than before, in order.
    pub(super) fn changes(&self, before: &Self) -> Vec<(u32, u64)> {
        let words = (0..).zip(self.0.iter().zip(&before.0));
        words
            .filter(|(_, (now, before))| now != before)
            .map(|(word, (now, _))| (word, *now))
            .collect()
    }

    fn add(&mut self, at: NotedBit) {
        self.0[at.word as usize] |= at.bit;
    }

    fn has(&self, at: NotedBit) -> bool {
        self.0[at.word as usize] & at.bit != 0
    }
}

fn answers(flags: u32) -> bool {
    flags & (address_flags::NODE_PORT | address_flags::VIRTUAL) != 0
}

fn of_address<A: Ip>(address: A) -> NotedBit {
    let place = match address.ip() {
        IpAddr::V4(ip) => noted_place([u32::from(ip)]),
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            noted_place([96, 64, 32, 0].map(|shift| (bits >> shift) as u32))
        }
    };
    NotedBit::of_address(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeport_common::{V4, V6};

    fn key<A>(address: A, port: u16) -> FrontendKey<A> {
        FrontendKey {
            address,
            port: port.to_be_bytes(),
            protocol: 6,
            pad: 0,
        }
    }

    #[test]
    fn a_front_end_needs_its_port_and_its_own_address() {
        let mut noted = Noted::adopt(&[]);
        let node_port = key::<V4>([0; 4], 30080);
        let vip = key::<V6>([0xfd; 16], 30080);
        noted.frontend(&node_port);
        assert!(noted.has_frontend(&node_port) && !noted.has_frontend(&vip));
        noted.frontend(&vip);
        assert!(noted.has_frontend(&vip));
        assert!(!noted.has_frontend(&key::<V4>([0; 4], 30081)));
    }

    #[test]
    fn only_addresses_that_front_ends_answer_on_are_noted() {
        let mut noted = Noted::adopt(&[]);
        noted.address::<V4>([192, 0, 2, 1], address_flags::HOST);
        assert_eq!(noted, Noted::adopt(&[]));
        let flags = address_flags::HOST | address_flags::NODE_PORT;
        assert!(!noted.has_address::<V4>([192, 0, 2, 1], flags));
        noted.address::<V4>([192, 0, 2, 1], flags);
        assert!(noted.has_address::<V4>([192, 0, 2, 1], flags));
    }

    #[test]
    fn what_changed_is_known_by_word() {
        let before = Noted::adopt(&[]);
        let mut after = before.clone();
        after.frontend(&key::<V4>([0; 4], 64));
        assert_eq!(after.changes(&before), [(1024 + 1, 1)]);
        after.trust();
        assert!(after.is_trusted() && !before.is_trusted());
    }
}
