//! The maps. Their keys and values are nodeport-common's; sizes here are defaults that the agent may raise before loading.

use core::cell::Cell;

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use nodeport_common::{
    Address, Affinity, AffinityKey, Backend, Bind, Control, Counters, Device, FlowKey, FragmentKey,
    FragmentPorts, Frontend, FrontendKey, Hook, LINES_LEN, NOTED_LEN, SNAT_CURSORS_LEN, ServingKey,
    Socket, SocketKey, TokenBucket, V4, V6,
};
use nodeport_ebpf::scratch::Scratch;
use nodeport_ebpf::tables::{Entry, Line};

use super::devices::DeviceCopy;

/// `BPF_F_NO_PREALLOC`: memory only for what is there; fast since Linux 6.1.
const ON_DEMAND: usize = 1;
/// `BPF_F_MMAPABLE`: an array whose values start at a page, hence lines at cache lines.
const MMAPABLE: usize = 1 << 10;

pub(crate) type Addresses<A> = HashMap<A, Address, 65536, ON_DEMAND>;
pub(crate) type Frontends<A> = HashMap<FrontendKey<A>, Frontend, 65536, ON_DEMAND>;
pub(crate) type Backends<A> = Array<Backend<A>, 262_144>;
pub(crate) type Serving<A> = HashMap<ServingKey<A>, u32, 262_144, ON_DEMAND>;
pub(crate) type Affinities<A> = LruHashMap<AffinityKey<A>, Affinity<A>, 16384>;
pub(crate) type Sources<A> = LpmTrie<Source<A>, u32, 65536>;
pub(crate) type NotedPlaces = Array<u64, { NOTED_LEN as usize }>;
pub(crate) type Flows<A> = HashMap<FlowKey<A>, Entry<A>, 262_144, ON_DEMAND>;
pub(crate) type Pending<A> = LruHashMap<FlowKey<A>, Entry<A>, 65536>;
pub(crate) type SocketTable<A> = LruHashMap<SocketKey<A>, Socket<A>, 65536>;
pub(crate) type Fragments<A> = LruHashMap<FragmentKey<A>, FragmentPorts, 8192>;
/// Lines of all CPUs together; `CONTROL` says how many of them a CPU has.
pub(crate) type Lines<A> = Array<Line<A>, { LINES_LEN as usize }, MMAPABLE>;
pub(crate) type Scratches<A> = PerCpuArray<Scratch<A>, { Hook::ON_DEVICES.len() }>;

/// What follows the length of the prefix in a [`nodeport_common::SourceRangeKey`].
#[repr(C)]
pub(crate) struct Source<A> {
    pub(crate) service: [u8; 4],
    pub(crate) address: A,
}

const _: () = {
    use aya_ebpf::btf_maps::lpm_trie::Key;
    use nodeport_common::SourceRangeKey;
    assert!(size_of::<Key<Source<V4>>>() == size_of::<SourceRangeKey<V4>>());
    assert!(size_of::<Key<Source<V6>>>() == size_of::<SourceRangeKey<V6>>());
};

#[btf_map]
pub(crate) static CONTROL: Array<Control, 1> = Array::new();
#[btf_map]
pub(crate) static DEVICES: HashMap<u32, Device, 4096, ON_DEMAND> = HashMap::new();
#[btf_map]
pub(crate) static SNAT_CURSORS: Array<u32, { SNAT_CURSORS_LEN as usize }> = Array::new();
/// Rows of [`DESTINATIONS`].
pub(crate) const ADDRESS_ROW: u32 = 0;
pub(crate) const PORT_ROW: u32 = 1;
/// The same for the sources of replies that are translated at egress.
pub(crate) const REPLY_ADDRESS_ROW: u32 = 2;
pub(crate) const REPLY_PORT_ROW: u32 = 3;
#[btf_map]
pub(crate) static DESTINATIONS: Array<[Cell<u8>; 65536], 4> = Array::new();
#[btf_map]
pub(crate) static REJECTS: PerCpuArray<TokenBucket, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static OUTCOMES: PerCpuArray<Counters, { Hook::ALL.len() }> = PerCpuArray::new();

#[btf_map]
pub(crate) static ADDRESSES4: Addresses<V4> = HashMap::new();
#[btf_map]
pub(crate) static ADDRESSES6: Addresses<V6> = HashMap::new();
#[btf_map]
pub(crate) static FRONTENDS4: Frontends<V4> = HashMap::new();
#[btf_map]
pub(crate) static FRONTENDS6: Frontends<V6> = HashMap::new();
#[btf_map]
pub(crate) static BACKENDS4: Backends<V4> = Array::new();
#[btf_map]
pub(crate) static BACKENDS6: Backends<V6> = Array::new();
#[btf_map]
pub(crate) static SERVING4: Serving<V4> = HashMap::new();
#[btf_map]
pub(crate) static SERVING6: Serving<V6> = HashMap::new();
#[btf_map]
pub(crate) static AFFINITY4: Affinities<V4> = LruHashMap::new();
#[btf_map]
pub(crate) static AFFINITY6: Affinities<V6> = LruHashMap::new();
#[btf_map]
pub(crate) static SOURCES4: Sources<V4> = LpmTrie::new();
#[btf_map]
pub(crate) static SOURCES6: Sources<V6> = LpmTrie::new();
#[btf_map]
pub(crate) static NOTED4: NotedPlaces = Array::new();
#[btf_map]
pub(crate) static NOTED6: NotedPlaces = Array::new();
#[btf_map]
pub(crate) static FLOWS4: Flows<V4> = HashMap::new();
#[btf_map]
pub(crate) static FLOWS6: Flows<V6> = HashMap::new();
#[btf_map]
pub(crate) static PENDING4: Pending<V4> = LruHashMap::new();
#[btf_map]
pub(crate) static PENDING6: Pending<V6> = LruHashMap::new();
#[btf_map]
pub(crate) static SOCKETS4: SocketTable<V4> = LruHashMap::new();
#[btf_map]
pub(crate) static SOCKETS6: SocketTable<V6> = LruHashMap::new();
/// Room for some 2,000 refusals that the agent did not read yet.
#[btf_map]
pub(crate) static BINDS: RingBuf<Bind, 65536> = RingBuf::new();
#[btf_map]
pub(crate) static FRAGMENTS4: Fragments<V4> = LruHashMap::new();
#[btf_map]
pub(crate) static FRAGMENTS6: Fragments<V6> = LruHashMap::new();
/// Devices that each CPU remembers; a power of two.
pub(crate) const DEVICE_COPIES_LEN: u32 = 256;
/// What each CPU remembers of `DEVICES`, see [`super::devices`].
#[btf_map]
pub(crate) static DEVICE_COPIES: PerCpuArray<DeviceCopy, { DEVICE_COPIES_LEN as usize }> =
    PerCpuArray::new();
#[btf_map]
pub(crate) static LINES4: Lines<V4> = Array::new();
#[btf_map]
pub(crate) static LINES6: Lines<V6> = Array::new();
/// Epochs of tuples, by hash; a power of two.
pub(crate) const EPOCHS_LEN: u32 = 8192;
#[btf_map]
pub(crate) static EPOCHS: Array<Cell<u32>, { EPOCHS_LEN as usize }> = Array::new();
/// How often each CPU disturbed a tuple.
#[btf_map]
pub(crate) static DISTURBED: PerCpuArray<u32, 1> = PerCpuArray::new();
/// Memory for questions to the kernel's routing tables, for each hook.
#[btf_map]
pub(crate) static FIB: PerCpuArray<bpf_fib_lookup, { Hook::ON_DEVICES.len() }> = PerCpuArray::new();
#[btf_map]
pub(crate) static SCRATCH4: Scratches<V4> = PerCpuArray::new();
#[btf_map]
pub(crate) static SCRATCH6: Scratches<V6> = PerCpuArray::new();
