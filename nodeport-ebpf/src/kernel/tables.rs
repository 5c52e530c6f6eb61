//! The library's tables, on maps and on the kernel's routing and socket tables.

use core::ffi::c_void;
use core::marker::PhantomData;

use aya_ebpf::bindings::{
    BPF_F_NO_PREALLOC, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SRC,
    BPF_NOEXIST, bpf_fib_lookup, bpf_sock, bpf_sock_tuple,
};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated;
use nodeport_common::{
    Affinity, AffinityKey, Backend, Control, Device, FlowKey, FragmentKey, FragmentPorts, Frontend,
    FrontendKey, Hook, NextHop, ServingKey, SourceRangeKey, control_flags, device_flags, protocol,
};
use nodeport_ebpf::tables::{
    Clients, Entry, InsertError, Line, Route, RouteQuery, RouteStatus, Services, Tables,
};
use nodeport_ebpf::{originate, select};

use super::devices::known;
use super::family::KernelFamily;
use super::lines;
use super::maps::{CONTROL, DEVICES, FIB, REJECTS, SNAT_CURSORS, Source};
use super::noted;
use super::repeat::repeat;

const _: () = assert!(BPF_F_NO_PREALLOC == 1);

/// `TCP_LISTEN` of the kernel's socket states.
const TCP_LISTEN: u32 = 10;
/// `BPF_F_CURRENT_NETNS`.
const CURRENT_NETNS: u64 = u64::MAX;
/// `EEXIST`, negated as helpers return it.
const EEXIST: i32 = -17;

/// Low 32 bits of the kernel's jiffies.
#[inline(always)]
pub(crate) fn jiffies() -> u32 {
    // SAFETY: the helper has no arguments and no effects.
    unsafe { generated::bpf_jiffies64() as u32 }
}

/// A hook's view of the tables, while it looks at one packet.
pub(crate) struct KernelTables<H> {
    ctx: *mut c_void,
    device_index: u32,
    control: &'static Control,
    device: &'static Device,
    hook: PhantomData<H>,
}

/// Names a hook at compile time.
pub(crate) trait AtHook {
    const HOOK: Hook;
}

impl<H> KernelTables<H> {
    /// `None` if the agent has not set up this device (yet): then nothing may be done to its packets.
    #[inline(always)]
    pub(crate) fn new(ctx: *mut c_void, device_index: u32) -> Option<Self> {
        let control = CONTROL.get(0)?;
        Some(Self {
            ctx,
            device_index,
            control,
            device: known(device_index, control)?,
            hook: PhantomData,
        })
    }
}

/// Names the hook of sockets. It is no [`AtHook`]: it sees no packets, and what [`Tables`] says of devices is not to be asked there.
pub(crate) struct AtSocket;

impl KernelTables<AtSocket> {
    /// `None` if the kernel has no settings for us: never.
    #[inline(always)]
    pub(crate) fn of_socket(ctx: *mut c_void) -> Option<Self> {
        const NONE: &Device = &Device {
            flags: 0,
            address4: [0; 4],
            address6: [0; 16],
            mac: [0; 6],
            mtu: 0,
            pad: [0; 2],
        };
        Some(Self {
            ctx,
            device_index: 0,
            control: CONTROL.get(0)?,
            device: NONE,
            hook: PhantomData,
        })
    }
}

#[inline(always)]
fn inserted(result: Result<(), i32>) -> Result<(), InsertError> {
    result.map_err(|code| {
        if code == EEXIST {
            InsertError::Exists
        } else {
            InsertError::Full
        }
    })
}

/// Length of a question to the routing tables, as the helper takes it.
const FIB_LEN: i32 = 64;
const _: () = assert!(size_of::<bpf_fib_lookup>() == 64);

/// What `bpf_fib_lookup` returned: a negative errno, or one of `BPF_FIB_LKUP_RET_*`.
#[inline(always)]
fn status(result: i64) -> RouteStatus {
    if result == i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        RouteStatus::Known
    } else if result == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) {
        RouteStatus::NeedsNeighbour
    } else {
        RouteStatus::None
    }
}

impl<A: KernelFamily, H> Services<A> for KernelTables<H> {
    #[inline(always)]
    fn control(&self) -> &Control {
        self.control
    }

    #[inline(always)]
    fn address(&self, address: &A) -> u32 {
        // SAFETY: readable for the packet's life (RCU); the value is one word, written whole.
        unsafe { A::addresses().get(address) }.map_or(0, |known| known.flags)
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey<A>) -> Option<&Frontend> {
        // SAFETY: readable for the packet's life (RCU); the agent replaces values as a whole.
        unsafe { A::frontends().get(key) }
    }

    #[inline(always)]
    fn backend(&self, slot: u32) -> Option<&Backend<A>> {
        A::backends().get(slot)
    }

    #[inline(always)]
    fn serves(&self, key: &ServingKey<A>) -> bool {
        A::serving().get_ptr(key).is_some()
    }
}

impl<A: KernelFamily, H> Clients<A> for KernelTables<H> {
    #[inline(always)]
    fn now(&self) -> u32 {
        jiffies()
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey<A>) -> Option<&Affinity<A>> {
        // SAFETY: readable for the packet's life (RCU). An evicted element may be given to another client while we hold it: what it
        // says then is looked for in the set, and passed over or as good as any.
        unsafe { A::affinity().get(key) }
    }

    #[inline(always)]
    fn remember_affinity(&self, key: &AffinityKey<A>, sent: &Affinity<A>) {
        let _ = A::affinity().insert(key, sent, 0);
    }

    #[inline(always)]
    fn is_in_source_ranges(&self, source: &SourceRangeKey<A>) -> bool {
        let key = core::ptr::from_ref(source).cast::<Key<Source<A>>>();
        // SAFETY: both are a length, four bytes and an address, without padding (sizes are asserted beside the map); `Key` is packed, so
        // any place is aligned for it. (Made on the stack, its words would lie where the verifier refuses them.)
        A::sources().get(unsafe { &*key }).is_some()
    }
}

impl<A: KernelFamily, H: AtHook> Tables<A> for KernelTables<H> {
    const HOOK: Hook = H::HOOK;

    #[inline(always)]
    fn device_index(&self) -> u32 {
        self.device_index
    }

    #[inline(always)]
    fn device(&self) -> &Device {
        self.device
    }

    #[inline(always)]
    fn may_have_flows(&self, key: &FlowKey<A>) -> bool {
        noted::has_destination(key)
    }

    #[inline(always)]
    fn note_destination(&self, key: &FlowKey<A>) {
        noted::destination(key);
    }

    #[inline(always)]
    fn may_be_reply(&self, key: &FlowKey<A>) -> bool {
        noted::has_source(key)
    }

    #[inline(always)]
    fn note_reply(&self, key: &FlowKey<A>, at_egress: bool) {
        noted::reply(key, at_egress);
    }

    #[inline(always)]
    fn line(&self, hash: u32, place: u32) -> Option<&Line<A>> {
        lines::line(self.control, hash, place)
    }

    #[inline(always)]
    fn epoch(&self, hash: u32) -> u32 {
        lines::epoch(hash)
    }

    #[inline(never)]
    fn disturb(&self, key: &FlowKey<A>) {
        lines::disturb(select::hash(key, self.control.seed));
    }

    #[inline(always)]
    fn may_be_frontend(&self, key: &FlowKey<A>) -> bool {
        noted::has_frontend(key)
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey<A>) -> Option<&Entry<A>> {
        // SAFETY: readable for the packet's life (RCU); all fields that change are cells, each a machine word or copied whole.
        unsafe { A::flows().get(key) }
    }

    #[inline(always)]
    fn pending(&self, key: &FlowKey<A>) -> Option<&Entry<A>> {
        // SAFETY: as for `flow`. An evicted element may be given to another flow while we hold it: its counters are then off by one
        // packet, and its addresses were read or will be compared before they matter.
        unsafe { A::pending().get(key) }
    }

    #[inline(always)]
    fn add_flow(&self, key: &FlowKey<A>, entry: &Entry<A>) -> Result<(), InsertError> {
        inserted(A::flows().insert(key, entry, BPF_NOEXIST.into()))
    }

    #[inline(always)]
    fn add_pending(&self, key: &FlowKey<A>, entry: &Entry<A>) -> Result<(), InsertError> {
        inserted(A::pending().insert(key, entry, BPF_NOEXIST.into()))
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey<A>) {
        let _ = A::flows().remove(key);
    }

    #[inline(always)]
    fn remove_pending(&self, key: &FlowKey<A>) {
        let _ = A::pending().remove(key);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentPorts> {
        // SAFETY: readable for the packet's life (RCU), copied at once.
        unsafe { A::fragments().get(key) }.copied()
    }

    #[inline(always)]
    fn remember_fragment(&self, key: &FragmentKey<A>, ports: &FragmentPorts) {
        let _ = A::fragments().insert(key, ports, 0);
    }

    #[inline(always)]
    fn next_port_cursor(&self, bucket: u32) -> u32 {
        let Some(cursor) = SNAT_CURSORS.get_ptr_mut(bucket) else {
            return 0;
        };
        // SAFETY: a valid slot of an array. Two CPUs may read one value: they then try the same port, and the second insert of the reply
        // entry fails and goes on.
        unsafe {
            let value = *cursor;
            *cursor = value.wrapping_add(1);
            value
        }
    }

    #[inline(always)]
    fn repeat(&self, times: u32, mut step: impl FnMut(u32) -> bool) {
        repeat(times, &mut step);
    }

    #[inline(always)]
    fn take_reject(&self) -> bool {
        let Some(bucket) = REJECTS.get_ptr_mut(0) else {
            return false;
        };
        // SAFETY: this CPU's own slot; programs of one CPU and hook do not interrupt each other.
        let bucket = unsafe { &mut *bucket };
        originate::pay(bucket, self.control, jiffies())
    }

    #[inline(never)]
    fn host_owns(&self, key: &FlowKey<A>) -> bool {
        let tuple = core::ptr::from_ref(key).cast::<bpf_sock_tuple>().cast_mut();
        let size = (2 * size_of::<A>() + 4) as u32;
        // SAFETY: `FlowKey` starts with the fields of `bpf_sock_tuple` for its family, in that order, and `size` covers just those. The
        // socket is released on every path.
        unsafe {
            let is_tcp = key.protocol == protocol::TCP;
            let socket: *mut bpf_sock = if is_tcp {
                generated::bpf_skc_lookup_tcp(self.ctx, tuple, size, CURRENT_NETNS, 0)
            } else {
                generated::bpf_sk_lookup_udp(self.ctx, tuple, size, CURRENT_NETNS, 0)
            };
            if socket.is_null() {
                return false;
            }
            let owns = if is_tcp {
                (*socket).state != TCP_LISTEN
            } else {
                (*socket).dst_port != 0
            };
            generated::bpf_sk_release(socket.cast());
            owns
        }
    }

    #[inline(always)]
    fn has_peer(&self, device: u32) -> bool {
        // SAFETY: the entry stays readable for the packet's life (RCU); the agent replaces entries, and never writes into one.
        let device = unsafe { DEVICES.get(device) };
        device.is_some_and(|device| device.flags & device_flags::PEER != 0)
    }

    #[inline(never)]
    fn route(&self, query: &RouteQuery<A>, answer: &mut Route<A>) {
        answer.status = RouteStatus::None;
        let Some(fib) = FIB.get_ptr_mut(H::HOOK as u32) else {
            return;
        };
        // SAFETY: this CPU's own slot for this hook; all integers, so whatever an earlier lookup left is valid.
        let fib = unsafe { &mut *fib };
        fib.family = A::AF;
        fib.l4_protocol = query.protocol;
        // A length that always fits: the answer then carries the route's MTU instead of a verdict on this packet.
        fib.__bindgen_anon_1.tot_len = 1;
        fib.sport = 0;
        fib.dport = 0;
        fib.__bindgen_anon_2.flowinfo = 0;
        fib.__bindgen_anon_5.tbid = 0;
        fib.ifindex = self.device_index;
        A::ask(fib, &query.source, &query.destination);
        let chooses_source = query.source == A::UNSPECIFIED;
        let has_flag = self.control.flags & control_flags::FIB_SOURCE != 0;
        let flags = if chooses_source && has_flag {
            BPF_FIB_LOOKUP_SRC
        } else {
            0
        };
        // SAFETY: `ctx` is this program's context, and the length is that of the struct.
        let result = unsafe {
            generated::bpf_fib_lookup(self.ctx, core::ptr::from_mut(fib), FIB_LEN, flags)
        };
        answer.status = status(result);
        // SAFETY: the entry stays readable for the packet's life (RCU); the agent replaces entries, and never writes into one.
        let device = unsafe { DEVICES.get(fib.ifindex) };
        answer.xdp_target =
            device.is_some_and(|device| device.flags & device_flags::XDP_TARGET != 0);
        // The kernel fills in the MTU only where it knows the neighbour.
        let mtu = if answer.status == RouteStatus::Known {
            // SAFETY: the kernel wrote the route's MTU into the union.
            unsafe { fib.__bindgen_anon_1.mtu_result }
        } else {
            device.map_or(u16::MAX, |device| device.mtu)
        };
        answer.hop = NextHop {
            generation: self.control.route_generation,
            device: fib.ifindex,
            mtu,
            looked_up: 0,
            destination_mac: fib.dmac,
            source_mac: fib.smac,
        };
        answer.source = match device {
            Some(device) if chooses_source && !has_flag => A::of(device),
            _ => A::source(fib),
        };
    }
}
