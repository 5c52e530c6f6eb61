//! Choosing a backend: a hash of the tuple, mapped to a slot without bias.
//!
//! Invariant: the same tuple, seed and set give the same slot on every CPU, so two first packets of one flow agree
//! (edge-cases B10), and a retransmitted SYN finds its backend again as long as the set is the same.

use nodeport_common::{FlowKey, SocketKey, hash_finish as finish, hash_mix as mix};

use crate::wire::Family;

/// A position in a set of `len` slots: `hash * len / 2^32`, whose bias is below `len / 2^32` (edge-cases I18).
#[must_use]
#[inline(always)]
pub fn index<A: Family>(key: &FlowKey<A>, seed: u32, len: u32) -> u32 {
    ((u64::from(hash(key, seed)) * u64::from(len)) >> 32) as u32
}

/// A hash of the tuple; all of it, source port included (behaviours 8.4).
#[must_use]
#[inline(always)]
pub fn hash<A: Family>(key: &FlowKey<A>, seed: u32) -> u32 {
    let [s0, s1] = key.source_port;
    let [d0, d1] = key.destination_port;
    let mut hash = mix(u64::from(seed), u32::from_be_bytes([s0, s1, d0, d1]));
    hash = mix(hash, u32::from(key.protocol));
    hash = key.source.mix(hash, mix);
    hash = key.destination.mix(hash, mix);
    finish(hash)
}

/// As [`index`], for a socket: it has no source address and port yet, but a cookie, which no other socket ever has.
#[must_use]
#[inline(always)]
pub fn socket_index<A: Family>(key: &SocketKey<A>, seed: u32, len: u32) -> u32 {
    let [p0, p1] = key.port;
    let [low, high] = key.cookie;
    let mut hash = mix(
        u64::from(seed),
        u32::from_be_bytes([p0, p1, 0, key.protocol]),
    );
    hash = mix(mix(hash, low), high);
    let hash = finish(key.address.mix(hash, mix));
    ((u64::from(hash) * u64::from(len)) >> 32) as u32
}

/// The bucket of source-port cursors that a backend uses.
#[must_use]
#[inline(always)]
pub fn cursor_bucket<A: Family>(address: &A, port: [u8; 2]) -> u32 {
    finish(address.mix(u64::from(u16::from_be_bytes(port)), mix))
        & (nodeport_common::SNAT_CURSORS_LEN - 1)
}

/// The place of an address among 65,536, where many may share one.
#[must_use]
#[inline(always)]
pub fn place<A: Family>(address: &A) -> u16 {
    (finish(address.mix(0, mix)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeport_common::noted_place;

    fn key(client: u16, port: u16) -> FlowKey<[u8; 4]> {
        let [hi, lo] = client.to_be_bytes();
        FlowKey {
            source: [203, 0, hi, lo],
            destination: [192, 168, 88, 11],
            source_port: port.to_be_bytes(),
            destination_port: 30080u16.to_be_bytes(),
            protocol: 6,
            pad: [0; 3],
        }
    }

    /// Behaviours 8.1, for sockets: their cookies are counted up.
    #[test]
    fn sockets_made_one_after_the_other_spread_evenly() {
        for (len, limit) in [(3u32, 13.8), (7, 22.5)] {
            let mut counts = [0u32; 7];
            for cookie in 4096..34096 {
                let key = SocketKey {
                    address: [10, 96, 0, 10],
                    port: 80u16.to_be_bytes(),
                    protocol: 6,
                    role: 1,
                    cookie: [cookie, 0],
                };
                counts[socket_index(&key, 1, len) as usize] += 1;
            }
            let mean = f64::from(30_000 / len);
            let deviations = counts[..len as usize]
                .iter()
                .map(|&count| (f64::from(count) - mean).powi(2) / mean);
            let chi_squared: f64 = deviations.sum();
            assert!(chi_squared < limit, "{len}: {chi_squared}");
        }
    }

    /// Behaviours 8.1: uniform over the set. The 99.9 % quantile of chi-squared is 13.8 for 2 and 22.5 for 6 degrees of freedom.
    #[test]
    fn spreads_evenly_over_clients_and_ports() {
        for (len, limit) in [(3u32, 13.8), (7, 22.5)] {
            let mut counts = [0u32; 7];
            for client in 0..100 {
                for port in 0..300 {
                    counts[index(&key(client, 32768 + port), 1, len) as usize] += 1;
                }
            }
            let expected = 30_000.0 / f64::from(len);
            let chi: f64 = counts[..len as usize]
                .iter()
                .map(|n| (f64::from(*n) - expected).powi(2) / expected)
                .sum();
            assert!(chi < limit, "{counts:?} over {len}: {chi}");
        }
    }

    /// The agent notes places by its own reading of addresses.
    #[test]
    fn the_agent_finds_the_same_place() {
        let v6 = [0xfd, 0, 0, 0x88, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let words = [0xfd00_0088, 0x0102_0304, 0x0506_0708, 0x090a_0b0c];
        assert_eq!(place(&[192, 168, 88, 11]), noted_place([0xc0a8_580b]));
        assert_eq!(place::<[u8; 16]>(&v6), noted_place(words));
        assert_ne!(place(&[192, 168, 88, 11]), place(&[192, 168, 88, 12]));
    }

    #[test]
    fn seed_and_source_port_matter() {
        let spread = |f: &dyn Fn(u16) -> u32| {
            (0..64)
                .map(f)
                .collect::<std::collections::BTreeSet<_>>()
                .len()
        };
        assert_eq!(spread(&|n| index(&key(1, n), 1, 3)), 3);
        assert_eq!(spread(&|n| index(&key(1, 7), u32::from(n), 3)), 3);
    }
}
