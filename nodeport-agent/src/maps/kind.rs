//! The maps of the ABI as types: name, kind, key and value of each.
//!
//! Owns the list of maps. It refuses to know how they are reached. Invariant: it says what the doc comments of
//! [`nodeport_common::maps`] say.

use std::marker::PhantomData;

use nodeport_common::{
    Address, Affinity, AffinityKey, Backend, Control, Counters, Device, Flow, FlowKey, FragmentKey,
    FragmentPorts, Frontend, FrontendKey, Hook, NOTED_LEN, SNAT_CURSORS_LEN, ServingKey, Socket,
    SocketKey, SourceRangeKey, TokenBucket, V4, V6, maps,
};

use super::bytes::{Bytes, IpBytes};
use super::layout::Layout;
use crate::plan::Ip;

/// How the kernel stores a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    LpmTrie,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray,
}

/// A map of the ABI.
pub trait Map: 'static {
    /// Its key; u32 for arrays.
    type Key: Bytes;
    /// Its value.
    type Value: Bytes;
    /// Its name.
    const NAME: &'static str;
    /// How it is stored.
    const KIND: Kind;
    /// `max_entries`, where the ABI fixes it.
    const LEN: Option<u32> = None;

    /// What the ABI says about it.
    #[must_use]
    fn layout() -> Layout {
        Layout {
            map: Self::NAME,
            kind: Self::KIND,
            key_size: Self::Key::SIZE as u32,
            value_size: Self::Value::SIZE as u32,
            max_entries: Self::LEN,
        }
    }
}

/// A map with entries that come and go.
pub trait HashMap: Map {}
/// A map whose entries are always there, zero at first, indexed from 0.
pub trait ArrayMap: Map<Key = u32> {}

macro_rules! maps {
    ($($(#[$doc:meta])+ $marker:ident $type:ident $(<$a:ident>)?: $kind:ident $key:ty => $value:ty, $name:expr $(, $len:expr)?;)+) => { $(
        $(#[$doc])+
        #[derive(Debug)]
        pub struct $type $(<$a>(PhantomData<$a>))?;
        impl $(<$a: IpBytes>)? Map for $type $(<$a>)? {
            type Key = $key;
            type Value = $value;
            const NAME: &'static str = $name;
            const KIND: Kind = Kind::$kind;
            $(const LEN: Option<u32> = Some($len);)?
        }
        impl $(<$a: IpBytes>)? $marker for $type $(<$a>)? {}
    )+ };
}

maps! {
    /// What the agent tells every program.
    ArrayMap Controls: Array u32 => Control, maps::CONTROL, 1;
    /// Devices by index.
    HashMap Devices: Hash u32 => Device, maps::DEVICES;
    /// What addresses are to this node.
    HashMap Addresses<A>: Hash A => Address, A::ADDRESSES;
    /// Front ends.
    HashMap Frontends<A>: Hash FrontendKey<A> => Frontend, A::FRONTENDS;
    /// Backend sets.
    ArrayMap Backends<A>: Array u32 => Backend<A>, A::BACKENDS;
    /// Endpoints to which UDP flows may go on.
    HashMap Serving<A>: Hash ServingKey<A> => u32, A::SERVING;
    /// Where clients were last sent.
    HashMap Affinities<A>: LruHash AffinityKey<A> => Affinity<A>, A::AFFINITY;
    /// Who may use restricted front ends.
    HashMap Sources<A>: LpmTrie SourceRangeKey<A> => u32, A::SOURCES;
    /// Destinations that may be those of front ends.
    ArrayMap NotedPlaces<A>: Array u32 => u64, A::NOTED, NOTED_LEN;
    /// Established flows.
    HashMap Flows<A>: Hash FlowKey<A> => Flow<A>, A::FLOWS;
    /// Pending flows.
    HashMap Pending<A>: LruHash FlowKey<A> => Flow<A>, A::PENDING;
    /// Ports of fragmented IPv4 datagrams.
    HashMap Fragments4: LruHash FragmentKey<V4> => FragmentPorts, maps::FRAGMENTS4;
    /// Ports of fragmented IPv6 datagrams.
    HashMap Fragments6: LruHash FragmentKey<V6> => FragmentPorts, maps::FRAGMENTS6;
    /// Sockets aimed at IPv4 endpoints.
    HashMap Sockets4: LruHash SocketKey<V4> => Socket<V4>, maps::SOCKETS4;
    /// Sockets aimed at IPv6 endpoints.
    HashMap Sockets6: LruHash SocketKey<V6> => Socket<V6>, maps::SOCKETS6;
    /// Where searches for a source port start.
    ArrayMap SnatCursors: Array u32 => u32, maps::SNAT_CURSORS, SNAT_CURSORS_LEN;
    /// Budgets of ICMP errors.
    ArrayMap Rejects: PerCpuArray u32 => TokenBucket, maps::REJECTS, 1;
    /// Packets by outcome.
    ArrayMap Outcomes: PerCpuArray u32 => Counters, maps::OUTCOMES, Hook::ALL.len() as u32;
}

/// What the ABI says about each map.
#[must_use]
pub fn layouts() -> Vec<Layout> {
    fn family<A: Ip + IpBytes>() -> [Layout; 9] {
        [
            Addresses::<A>::layout(),
            Frontends::<A>::layout(),
            Backends::<A>::layout(),
            Serving::<A>::layout(),
            Affinities::<A>::layout(),
            Sources::<A>::layout(),
            NotedPlaces::<A>::layout(),
            Flows::<A>::layout(),
            Pending::<A>::layout(),
        ]
    }
    let single = [
        Controls::layout(),
        Devices::layout(),
        Fragments4::layout(),
        Fragments6::layout(),
        Sockets4::layout(),
        Sockets6::layout(),
        SnatCursors::layout(),
        Rejects::layout(),
        Outcomes::layout(),
    ];
    single
        .into_iter()
        .chain(family::<V4>())
        .chain(family::<V6>())
        .collect()
}
