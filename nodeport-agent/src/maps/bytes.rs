//! ABI keys and values as the bytes that the kernel copies, and back, without `unsafe`.
//!
//! Owns the conversion. It refuses to know maps. Invariant: the bytes are those that a BPF program sees. Each field is written
//! at its own offset, and a type with padding, or with a field that is not listed here, does not compile.

use std::mem::offset_of;

use nodeport_common::{
    Address, Affinity, AffinityKey, Backend, Bind, Control, Counters, Device, Flow, FlowKey,
    FragmentKey, FragmentPorts, Frontend, FrontendKey, NextHop, Outcome, PortSegment, ServingKey,
    Socket, SocketKey, SourceRangeKey, TokenBucket, V4, V6,
};

use crate::plan::Ip;

/// A key or value of a map. Integers are in host order, as the ABI says.
pub trait Bytes: Copy + Send + Sync + 'static {
    /// Number of bytes.
    const SIZE: usize;

    /// Writes the value to the first [`Bytes::SIZE`] bytes of `out`, which must have room for it.
    fn put(&self, out: &mut [u8]);

    /// Reads the value from the first [`Bytes::SIZE`] bytes of `bytes`, which must have so many.
    fn get(bytes: &[u8]) -> Self;
}

/// An address that is part of keys and values: [`V4`] or [`V6`].
pub trait IpBytes: Ip + Bytes {}
impl IpBytes for V4 {}
impl IpBytes for V6 {}

macro_rules! integers {
    ($($type:ty),+) => { $(
        impl Bytes for $type {
            const SIZE: usize = size_of::<Self>();

            fn put(&self, out: &mut [u8]) {
                out[..Self::SIZE].copy_from_slice(&self.to_ne_bytes());
            }

            fn get(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<Self>()];
                own.copy_from_slice(&bytes[..Self::SIZE]);
                Self::from_ne_bytes(own)
            }
        }
    )+ };
}

integers!(u8, u16, u32, u64);

impl<T: Bytes, const N: usize> Bytes for [T; N] {
    const SIZE: usize = N * T::SIZE;

    fn put(&self, out: &mut [u8]) {
        for (index, item) in self.iter().enumerate() {
            item.put(&mut out[index * T::SIZE..]);
        }
    }

    fn get(bytes: &[u8]) -> Self {
        std::array::from_fn(|index| T::get(&bytes[index * T::SIZE..]))
    }
}

/// Implements [`Bytes`] for structs, given all of their fields.
macro_rules! structs {
    ($($name:ident $(<$address:ident>)? { $($field:ident: $type:ty),+ $(,)? })+) => { $(
        impl $(<$address: IpBytes>)? Bytes for $name $(<$address>)? {
            const SIZE: usize = {
                // No padding: the fields fill the struct.
                assert!(size_of::<Self>() == 0 $(+ <$type as Bytes>::SIZE)+);
                size_of::<Self>()
            };

            fn put(&self, out: &mut [u8]) {
                let Self { $($field),+ } = self;
                $($field.put(&mut out[offset_of!(Self, $field)..]);)+
            }

            fn get(bytes: &[u8]) -> Self {
                Self { $($field: Bytes::get(&bytes[offset_of!(Self, $field)..])),+ }
            }
        }
    )+ };
}

structs! {
    Address { flags: u32 }
    Frontend {
        base: u32, len: u32, local_base: u32, local_len: u32, serving: u32, service: u32, flags: u32,
        affinity_secs: u32,
    }
    FrontendKey<A> { address: A, port: [u8; 2], protocol: u8, pad: u8 }
    Backend<A> { address: A, port: [u8; 2], flags: u16 }
    ServingKey<A> { service: u32, address: A, port: [u8; 2], pad: [u8; 2] }
    AffinityKey<A> { client: A, service: u32 }
    Affinity<A> { address: A, port: [u8; 2], pad: [u8; 2], used: u32 }
    SourceRangeKey<A> { prefix_len: u32, service: [u8; 4], address: A }
    Device { flags: u32, address4: V4, address6: V6, mac: [u8; 6], mtu: u16, pad: [u32; 2] }
    PortSegment { first: u16, count: u16 }
    Control {
        route_generation: u32, endpoint_generation: u32, seed: u32, flags: u32, hz: u32, next_hop_max_age: u32,
        fragment_max_age_secs: u32, rejects_per_second: u32, reject_burst: u32, snat: [PortSegment; 2],
        host_netns: [u32; 2], lines_per_cpu: u32, node4: [u8; 4], node6: [u8; 16], pad: u32,
    }
    TokenBucket { tokens: u32, refilled: u32 }
    FlowKey<A> {
        source: A, destination: A, source_port: [u8; 2], destination_port: [u8; 2], protocol: u8, pad: [u8; 3],
    }
    NextHop {
        generation: u32, device: u32, mtu: u16, looked_up: u16, destination_mac: [u8; 6], source_mac: [u8; 6],
    }
    Flow<A> {
        packets: u64, bytes: u64, last_seen: u32, endpoint_generation: u32, flags: u8, tcp: u8, source_port: [u8; 2],
        destination_port: [u8; 2], pad: [u8; 2], source: A, destination: A, next_hop: NextHop,
    }
    FragmentKey<A> { source: A, destination: A, id: [u8; 4], protocol: u8, pad: [u8; 3] }
    FragmentPorts { source_port: [u8; 2], destination_port: [u8; 2], seen: u32 }
    Bind { process: u32, name: [u8; 16], port: [u8; 2], protocol: u8, family: u8 }
    SocketKey<A> { address: A, port: [u8; 2], protocol: u8, role: u8, cookie: [u32; 2] }
    Socket<A> {
        address: A, port: [u8; 2], flags: u16, service: u32, endpoint_generation: u32, netns: [u32; 2], process: u32,
    }
}

impl Bytes for Counters {
    const SIZE: usize = size_of::<Self>();

    fn put(&self, out: &mut [u8]) {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            self.get(*outcome).put(&mut out[index * u64::SIZE..]);
        }
    }

    fn get(bytes: &[u8]) -> Self {
        let mut counters = Self::default();
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            *counters.get_mut(*outcome) = u64::get(&bytes[index * u64::SIZE..]);
        }
        counters
    }
}

/// The bytes of many values, one after the other.
pub(super) fn encode<'v, T: Bytes>(values: impl ExactSizeIterator<Item = &'v T>) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * T::SIZE];
    for (value, out) in values.zip(bytes.chunks_exact_mut(T::SIZE)) {
        value.put(out);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_end_key_is_address_port_protocol() {
        let key = FrontendKey::<V4> {
            address: [10, 96, 0, 1],
            port: 443_u16.to_be_bytes(),
            protocol: 6,
            pad: 0,
        };
        let bytes = encode([key].iter());
        assert_eq!(bytes, [10, 96, 0, 1, 1, 187, 6, 0]);
        assert_eq!(FrontendKey::get(&bytes), key);
    }

    #[test]
    fn every_byte_of_a_flow_survives() {
        let bytes: Vec<u8> = (0..88).collect();
        let flow = Flow::<V6>::get(&bytes);
        assert_eq!(flow.source, bytes[32..48]);
        assert_eq!(flow.next_hop.source_mac, [82, 83, 84, 85, 86, 87]);
        assert_eq!(encode([flow].iter()), bytes);
        assert_eq!(Flow::<V4>::SIZE, 64);
    }

    #[test]
    fn counters_are_in_the_order_of_the_outcomes() {
        let mut bytes = vec![0; Counters::SIZE];
        let index = Outcome::TtlExpired as usize;
        bytes[index * 8..][..8].copy_from_slice(&7_u64.to_ne_bytes());
        let counters = <Counters as Bytes>::get(&bytes);
        assert_eq!(counters.ttl_expired, 7);
        assert_eq!(encode([counters].iter()), bytes);
    }
}
