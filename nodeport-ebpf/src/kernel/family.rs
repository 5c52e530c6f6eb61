//! Which maps a family uses, and how its addresses stand in `struct bpf_fib_lookup`.

use core::net::{Ipv4Addr, Ipv6Addr};

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_log_ebpf::macro_support::{Argument, IpFormatter};
use nodeport_common::{Hook, V4, V6};
use nodeport_ebpf::scratch::Scratch;
use nodeport_ebpf::wire::parse::Parse;

use super::maps::{
    self, Addresses, Affinities, Backends, Flows, Fragments, Frontends, Lines, NotedPlaces,
    Pending, Scratches, Serving, SocketTable, Sources,
};

/// A family as the kernel's tables know it.
pub(crate) trait KernelFamily: Parse {
    /// `AF_INET` or `AF_INET6`.
    const AF: u8;
    /// The address as log lines take it.
    type Ip: IpFormatter + Argument;

    fn addresses() -> &'static Addresses<Self>;
    fn frontends() -> &'static Frontends<Self>;
    fn backends() -> &'static Backends<Self>;
    fn serving() -> &'static Serving<Self>;
    fn affinity() -> &'static Affinities<Self>;
    fn sources() -> &'static Sources<Self>;
    fn flows() -> &'static Flows<Self>;
    fn pending() -> &'static Pending<Self>;
    fn fragments() -> &'static Fragments<Self>;
    fn lines() -> &'static Lines<Self>;
    fn noted() -> &'static NotedPlaces;
    fn scratch() -> &'static Scratches<Self>;
    fn sockets() -> &'static SocketTable<Self>;

    /// Writes source and destination into a query.
    fn ask(fib: &mut bpf_fib_lookup, source: &Self, destination: &Self);
    /// The source address of an answer.
    fn source(fib: &bpf_fib_lookup) -> Self;
    /// The address as log lines take it.
    fn to_ip(self) -> Self::Ip;
    /// The address of this family that a device has.
    fn of(device: &nodeport_common::Device) -> Self;
}

impl KernelFamily for V4 {
    const AF: u8 = 2;
    type Ip = Ipv4Addr;

    fn addresses() -> &'static Addresses<V4> {
        &maps::ADDRESSES4
    }
    fn frontends() -> &'static Frontends<V4> {
        &maps::FRONTENDS4
    }
    fn backends() -> &'static Backends<V4> {
        &maps::BACKENDS4
    }
    fn serving() -> &'static Serving<V4> {
        &maps::SERVING4
    }
    fn affinity() -> &'static Affinities<V4> {
        &maps::AFFINITY4
    }
    fn sources() -> &'static Sources<V4> {
        &maps::SOURCES4
    }
    fn flows() -> &'static Flows<V4> {
        &maps::FLOWS4
    }
    fn pending() -> &'static Pending<V4> {
        &maps::PENDING4
    }
    fn fragments() -> &'static Fragments<V4> {
        &maps::FRAGMENTS4
    }
    fn lines() -> &'static Lines<V4> {
        &maps::LINES4
    }
    fn noted() -> &'static NotedPlaces {
        &maps::NOTED4
    }
    fn scratch() -> &'static Scratches<V4> {
        &maps::SCRATCH4
    }
    fn sockets() -> &'static SocketTable<V4> {
        &maps::SOCKETS4
    }

    #[inline(always)]
    fn ask(fib: &mut bpf_fib_lookup, source: &V4, destination: &V4) {
        fib.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(*source);
        fib.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(*destination);
    }

    #[inline(always)]
    fn source(fib: &bpf_fib_lookup) -> V4 {
        // SAFETY: `family` is AF_INET in a query of this type, so the union holds an IPv4 address; any bits are valid.
        unsafe { fib.__bindgen_anon_3.ipv4_src }.to_ne_bytes()
    }

    #[inline(always)]
    fn to_ip(self) -> Ipv4Addr {
        Ipv4Addr::from(self)
    }

    #[inline(always)]
    fn of(device: &nodeport_common::Device) -> V4 {
        device.address4
    }
}

impl KernelFamily for V6 {
    const AF: u8 = 10;
    type Ip = Ipv6Addr;

    fn addresses() -> &'static Addresses<V6> {
        &maps::ADDRESSES6
    }
    fn frontends() -> &'static Frontends<V6> {
        &maps::FRONTENDS6
    }
    fn backends() -> &'static Backends<V6> {
        &maps::BACKENDS6
    }
    fn serving() -> &'static Serving<V6> {
        &maps::SERVING6
    }
    fn affinity() -> &'static Affinities<V6> {
        &maps::AFFINITY6
    }
    fn sources() -> &'static Sources<V6> {
        &maps::SOURCES6
    }
    fn flows() -> &'static Flows<V6> {
        &maps::FLOWS6
    }
    fn pending() -> &'static Pending<V6> {
        &maps::PENDING6
    }
    fn fragments() -> &'static Fragments<V6> {
        &maps::FRAGMENTS6
    }
    fn lines() -> &'static Lines<V6> {
        &maps::LINES6
    }
    fn noted() -> &'static NotedPlaces {
        &maps::NOTED6
    }
    fn scratch() -> &'static Scratches<V6> {
        &maps::SCRATCH6
    }
    fn sockets() -> &'static SocketTable<V6> {
        &maps::SOCKETS6
    }

    #[inline(always)]
    fn ask(fib: &mut bpf_fib_lookup, source: &V6, destination: &V6) {
        // SAFETY: four integers from sixteen bytes, kept in network order as the kernel wants them.
        unsafe {
            fib.__bindgen_anon_3.ipv6_src = core::mem::transmute::<V6, [u32; 4]>(*source);
            fib.__bindgen_anon_4.ipv6_dst = core::mem::transmute::<V6, [u32; 4]>(*destination);
        }
    }

    #[inline(always)]
    fn source(fib: &bpf_fib_lookup) -> V6 {
        // SAFETY: `family` is AF_INET6 in a query of this type, so the union holds an IPv6 address; any bits are valid.
        unsafe { core::mem::transmute::<[u32; 4], V6>(fib.__bindgen_anon_3.ipv6_src) }
    }

    #[inline(always)]
    fn to_ip(self) -> Ipv6Addr {
        Ipv6Addr::from(self)
    }

    #[inline(always)]
    fn of(device: &nodeport_common::Device) -> V6 {
        device.address6
    }
}

/// This CPU's working memory for a hook.
#[inline(always)]
pub(crate) fn scratch<A: KernelFamily>(hook: Hook) -> Option<&'static mut Scratch<A>> {
    let scratch = A::scratch().get_ptr_mut(hook as u32)?;
    // SAFETY: this CPU's own slot for this hook. Programs of one hook do not interrupt each other on a CPU (XDP and TC run with bottom halves
    // off), and none keeps the reference beyond its packet. Zero, and whatever an earlier packet left, are valid values: every field is
    // an integer, a byte array, `bool` or `Fragment`, which are only ever written as a whole.
    Some(unsafe { &mut *scratch })
}
