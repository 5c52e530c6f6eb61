//! Sockets of a cgroup that were bound to an address and a port: those that take a live NodePort are refused, and the agent is told.

use core::mem::offset_of;

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated;
use aya_ebpf::programs::SockContext;
use nodeport_common::{Bind, Hook, Outcome, V4, V6};
use nodeport_ebpf::path::socket::{self, Call};
use nodeport_ebpf::wire::Family;

use super::context::Context;
use super::family::KernelFamily;
use super::maps::BINDS;
use super::outcomes::count;
use super::sockets::halves;
use super::tables::{AtSocket, KernelTables};

const GRANTED: i32 = 1;
const REFUSED: i32 = 0;
/// `EADDRINUSE`, negated as the kernel returns it.
const IN_USE: i32 = -98;

/// A socket has an IPv4 address and port.
#[inline(always)]
pub(crate) fn bind4(ctx: &SockContext) -> i32 {
    let bound = Bound(ctx.into());
    let address = bound.0.word(offset_of!(bpf_sock, src_ip4));
    if bound.takes_node_port::<V4>(address) {
        bound.refuse(4)
    } else {
        GRANTED
    }
}

/// A socket has an IPv6 address and port. The unspecified one takes the ports of IPv4 as well, and a mapped one takes them alone.
#[inline(always)]
pub(crate) fn bind6(ctx: &SockContext) -> i32 {
    let bound = Bound(ctx.into());
    let address = bound.0.words(offset_of!(bpf_sock, src_ip6));
    if let Some(mapped) = socket::mapped(&address) {
        return if bound.takes_node_port::<V4>(mapped) {
            bound.refuse(4)
        } else {
            GRANTED
        };
    }
    let both = address == V6::UNSPECIFIED && bound.takes_node_port::<V4>(V4::UNSPECIFIED);
    if both || bound.takes_node_port::<V6>(address) {
        bound.refuse(6)
    } else {
        GRANTED
    }
}

/// The context of a socket that was bound.
struct Bound<'a>(Context<'a, bpf_sock>);

impl Bound<'_> {
    /// In network order; the kernel's field is in host order.
    #[inline(always)]
    fn port(&self) -> [u8; 2] {
        (u32::from_ne_bytes(self.0.word(offset_of!(bpf_sock, src_port))) as u16).to_be_bytes()
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        let protocol = self.0.word(offset_of!(bpf_sock, protocol));
        u8::try_from(u32::from_ne_bytes(protocol)).unwrap_or(0)
    }

    #[inline(always)]
    fn takes_node_port<A: KernelFamily>(&self, address: A) -> bool {
        let ctx = self.0.at.cast();
        let Some(tables) = KernelTables::<AtSocket>::of_socket(ctx) else {
            return false;
        };
        let call = Call {
            address,
            port: self.port(),
            protocol: self.protocol(),
            cookie: [0; 2],
            // SAFETY: `ctx` is this program's context.
            netns: halves(unsafe { generated::bpf_get_netns_cookie(ctx) }),
            process: 0,
        };
        socket::takes_node_port(&tables, &call)
    }

    #[inline(always)]
    fn refuse(&self, family: u8) -> i32 {
        count(Hook::Socket, Outcome::BindRefused);
        // A buffer that nobody reads is full at some time: then nobody is told.
        if let Some(mut entry) = BINDS.reserve(0) {
            let bind: *mut Bind = entry.as_mut_ptr();
            // SAFETY: memory of the buffer, for this entry alone; every field is written, the name by the kernel (zeros behind it).
            unsafe {
                (*bind).process = (generated::bpf_get_current_pid_tgid() >> 32) as u32;
                generated::bpf_get_current_comm((&raw mut (*bind).name).cast(), 16);
                (*bind).port = self.port();
                (*bind).protocol = self.protocol();
                (*bind).family = family;
            }
            entry.submit(0);
        }
        // SAFETY: no pointers.
        unsafe { generated::bpf_set_retval(IN_USE) };
        REFUSED
    }
}
