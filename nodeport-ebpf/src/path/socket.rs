//! A process asks something of its socket: connect, send, receive, who is the peer. There is no packet yet, or none any more.
//!
//! What a process asks for is a front end, what its socket gets is an endpoint, and what the process is told is the front end again. The
//! packets of such a socket carry the endpoint's address from the start: programs on devices have nothing to do with them.
//!
//! Invariants: a socket is only aimed at an endpoint whose front end the process can be told again. What is aimed here is not aimed again by
//! TC: an endpoint that is itself a front end is left to TC as a whole (edge-cases G8, G14), where TC sees the socket's packets.

use nodeport_common::{
    Affinity, AffinityKey, Backend, FlowKey, Frontend, FrontendKey, Outcome, ServingKey, Socket,
    SocketKey, SourceRangeKey, address_flags, backend_flags, control_flags, frontend_flags,
    protocol, socket_flags, socket_roles,
};

pub use super::call::{Action, Answer, Call, mapped};
use super::{affinity, opening};
use crate::select;
use crate::tables::{Services, Sockets};
use crate::wire::Family;

/// What lies on a program's stack: the verifier wants its words where words of 8 bytes are, and LLVM copies addresses in such.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Aligned<T>(T);

/// Whether it depends on the client's address what becomes of the call (source ranges, session affinity): a socket has none yet. Of Pods, TC sees
/// to it; processes of the node count as one client, with the node's own address.
#[inline(always)]
fn needs_the_client<A: Family, T: Services<A>>(
    tables: &T,
    call: &Call<A>,
    frontend: &Frontend,
) -> bool {
    let depends =
        frontend.flags & frontend_flags::SOURCE_RANGES != 0 || frontend.affinity_secs != 0;
    depends && !is_host(tables, call)
}

/// `connect(2)`.
#[inline(always)]
pub fn connect<A: Family, T: Sockets<A>>(tables: &T, call: &Call<A>) -> Answer<A> {
    match find(tables, call) {
        Ok(frontend) if needs_the_client(tables, call, frontend) => Answer::pass(Outcome::LeftToTc),
        Ok(frontend) => aim(tables, call, frontend, true),
        Err(outcome) => Answer::pass(outcome),
    }
}

/// `sendmsg(2)` with an address, of a UDP socket. A socket's datagrams to one front end go to one endpoint as long as that serves
/// (behaviours 8.2, 17.3), as if they were a flow.
#[inline(always)]
pub fn send<A: Family, T: Sockets<A>>(tables: &T, call: &Call<A>) -> Answer<A> {
    let frontend = match find(tables, call) {
        Ok(frontend) => frontend,
        Err(outcome) => return Answer::pass(outcome),
    };
    if needs_the_client(tables, call, frontend) {
        return Answer::pass(Outcome::LeftToTc);
    }
    let key = Aligned(key(call, socket_roles::ASKED));
    let generation = tables.control().endpoint_generation;
    if let Some(got) = tables.socket(&key.0)
        && (got.endpoint_generation == generation || still_serves(tables, frontend, got))
        && tables.socket(&Aligned(reverse(&key.0, got)).0).is_some()
    {
        return Answer::rewrite(outcome_of(got.flags), got);
    }
    aim(tables, call, frontend, false)
}

/// `recvmsg(2)` with room for an address, of a UDP socket, and `getpeername(2)`: the address is that of an endpoint, perhaps.
#[inline(always)]
pub fn name<A: Family, T: Sockets<A>>(tables: &T, call: &Call<A>) -> Answer<A> {
    match tables.socket(&Aligned(key(call, socket_roles::GOT)).0) {
        Some(asked) => Answer::rewrite(Outcome::PeerNamed, asked),
        None => Answer::pass(Outcome::Untouched),
    }
}

/// `bind(2)` of a socket to an address and port of this node: whether that is a live NodePort, which would take all that comes in.
#[inline(always)]
pub fn takes_node_port<A: Family, T: Services<A>>(tables: &T, call: &Call<A>) -> bool {
    let control = tables.control();
    if control.flags & control_flags::HOLD_NODE_PORTS == 0
        || !is_host(tables, call)
        || !matches!(call.protocol, protocol::TCP | protocol::UDP)
    {
        return false;
    }
    let answers = if call.address == A::UNSPECIFIED {
        true
    } else if call.address.means_this_host() {
        control.flags & control_flags::LOOPBACK_NODE_PORTS != 0
    } else {
        tables.address(&call.address) & address_flags::NODE_PORT != 0
    };
    let key = Aligned(FrontendKey {
        address: A::UNSPECIFIED,
        port: call.port,
        protocol: call.protocol,
        pad: 0,
    });
    answers && tables.frontend(&key.0).is_some()
}

#[inline(always)]
fn is_host<A: Family, T: Services<A>>(tables: &T, call: &Call<A>) -> bool {
    tables.control().host_netns == call.netns
}

/// The front end that a call names: one with that very address first, then a NodePort (behaviours 2.9, 6.2). On loopback, only a process of
/// the node finds one: every other namespace has a loopback of its own (behaviours 13.5, edge-cases G5).
///
/// # Errors
/// It names none, or its socket is not to be touched.
#[inline(always)]
fn find<'t, A: Family, T: Services<A>>(
    tables: &'t T,
    call: &Call<A>,
) -> Result<&'t Frontend, Outcome> {
    let control = tables.control();
    let is_host = is_host(tables, call);
    if control.host_netns == [0; 2]
        || control.flags & control_flags::HOST_SOCKETS_ONLY != 0 && !is_host
    {
        return Err(Outcome::Untouched);
    }
    if !matches!(call.protocol, protocol::TCP | protocol::UDP) {
        return Err(Outcome::OtherProtocol);
    }
    let mut wanted = Aligned(FrontendKey {
        address: call.address,
        port: call.port,
        protocol: call.protocol,
        pad: 0,
    });
    let wanted = &mut wanted.0;
    if call.address.means_this_host() {
        if !is_host || control.flags & control_flags::LOOPBACK_NODE_PORTS == 0 {
            return Err(Outcome::Untouched);
        }
        wanted.address = A::UNSPECIFIED;
        return tables.frontend(wanted).ok_or(Outcome::Untouched);
    }
    let flags = tables.address(&call.address);
    if flags & address_flags::VIRTUAL != 0
        && let Some(frontend) = tables.frontend(wanted)
    {
        return Ok(frontend);
    }
    if flags & address_flags::NODE_PORT == 0 {
        return Err(Outcome::Untouched);
    }
    wanted.address = A::UNSPECIFIED;
    tables.frontend(wanted).ok_or(Outcome::Untouched)
}

/// Chooses an endpoint of a front end, and remembers what the process asked for. All sockets are of this node, so they get what clients
/// inside get (behaviours 7.1, 7.2).
#[inline(always)]
fn aim<A: Family, T: Sockets<A>>(
    tables: &T,
    call: &Call<A>,
    frontend: &Frontend,
    connects: bool,
) -> Answer<A> {
    if frontend.flags & frontend_flags::SOURCE_RANGES != 0 {
        let mut range = Aligned(SourceRangeKey::default());
        if !opening::may_come(tables, frontend, A::of_node(tables.control()), &mut range.0) {
            return Answer::without_address(Outcome::DroppedSourceRange, Action::Unreachable);
        }
    }
    let mut key = Aligned(key(call, socket_roles::ASKED));
    let backend = if frontend.local_len == 0 {
        None
    } else {
        choose(tables, frontend, &key.0)
    };
    let Some(backend) = backend else {
        return if frontend.flags & frontend_flags::LOCAL_DROP_IF_EMPTY != 0 {
            Answer::without_address(Outcome::DroppedNoLocalEndpoint, Action::Unreachable)
        } else {
            Answer::without_address(Outcome::RejectedNoEndpoint, Action::Refuse)
        };
    };
    let is_host = is_host(tables, call);
    if !is_host && is_frontend(tables, call, backend) {
        return Answer::pass(Outcome::LeftToTc);
    }
    let mut socket = Aligned(Socket {
        netns: call.netns,
        address: backend.address,
        port: backend.port,
        flags: flags(backend, is_host, connects),
        service: frontend.service,
        endpoint_generation: tables.control().endpoint_generation,
        process: call.process,
    });
    let answer = Answer::rewrite(outcome_of(socket.0.flags), &socket.0);
    let is_kept = connects || tables.remember(&key.0, &socket.0);
    key.0 = reverse(&key.0, &socket.0);
    socket.0.address = call.address;
    socket.0.port = call.port;
    let is_kept = is_kept && tables.remember(&key.0, &socket.0);
    // A TCP client needs the front end only for `getpeername`; a UDP client throws away datagrams from whom it did not ask.
    if !is_kept && call.protocol != protocol::TCP {
        return Answer::pass(Outcome::SocketTableFailed);
    }
    if frontend.affinity_secs != 0 {
        let mut sent = Aligned(Affinity::default());
        affinity::remember(tables, &client(tables, frontend).0, backend, &mut sent.0);
    }
    answer
}

/// The endpoint of a set that is not empty: any, or that of the node's processes.
#[inline(always)]
fn choose<'t, A: Family, T: Sockets<A>>(
    tables: &'t T,
    frontend: &Frontend,
    key: &SocketKey<A>,
) -> Option<&'t Backend<A>> {
    let (base, len) = (frontend.local_base, frontend.local_len);
    if frontend.affinity_secs == 0 {
        let index = select::socket_index(key, tables.control().seed, len);
        return tables.backend(base.wrapping_add(index));
    }
    let mut blank = Aligned(FlowKey::default());
    let client = client(tables, frontend);
    affinity::choose(
        tables,
        frontend,
        &client.0,
        key.protocol,
        (base, len),
        &mut blank.0,
    )
}

/// The node's processes as a client of a front end.
#[inline(always)]
fn client<A: Family, T: Services<A>>(tables: &T, frontend: &Frontend) -> Aligned<AffinityKey<A>> {
    Aligned(AffinityKey {
        client: *A::of_node(tables.control()),
        service: frontend.service,
    })
}

#[inline(always)]
fn flags<A>(backend: &Backend<A>, is_host: bool, connects: bool) -> u16 {
    let mut flags = 0;
    if backend.flags & backend_flags::LOCAL != 0 {
        flags |= socket_flags::LOCAL_BACKEND;
    }
    if is_host {
        flags |= socket_flags::HOST;
    }
    if connects {
        flags |= socket_flags::CONNECTED;
    }
    flags
}

#[inline(always)]
const fn outcome_of(flags: u16) -> Outcome {
    if flags & socket_flags::LOCAL_BACKEND != 0 {
        Outcome::ToLocalBackend
    } else {
        Outcome::ToRoutedBackend
    }
}

/// Whether an endpoint is a front end of another Service, so that TC would translate once more.
#[inline(always)]
fn is_frontend<A: Family, T: Services<A>>(
    tables: &T,
    call: &Call<A>,
    backend: &Backend<A>,
) -> bool {
    let next = Call {
        address: backend.address,
        port: backend.port,
        ..*call
    };
    find(tables, &next).is_ok()
}

/// Behaviours 17.3: an endpoint may be kept while it serves, or while none serves.
#[inline(always)]
fn still_serves<A: Family, T: Services<A>>(
    tables: &T,
    frontend: &Frontend,
    got: &Socket<A>,
) -> bool {
    let key = Aligned(ServingKey {
        address: got.address,
        port: got.port,
        pad: [0; 2],
        service: frontend.service,
    });
    frontend.serving == 0 || tables.serves(&key.0)
}

#[inline(always)]
const fn key<A: Family>(call: &Call<A>, role: u8) -> SocketKey<A> {
    SocketKey {
        address: call.address,
        port: call.port,
        protocol: call.protocol,
        role,
        cookie: call.cookie,
    }
}

/// The key by which the endpoint of a socket leads back to its front end.
#[inline(always)]
const fn reverse<A: Family>(key: &SocketKey<A>, got: &Socket<A>) -> SocketKey<A> {
    SocketKey {
        address: got.address,
        port: got.port,
        protocol: key.protocol,
        role: socket_roles::GOT,
        cookie: key.cookie,
    }
}
