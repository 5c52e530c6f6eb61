//! Which endpoint a new connection gets: any of the set, or, with session affinity, the one that its client got last (behaviours 8, 11).
//!
//! Invariant: an endpoint is chosen from the set that the front end's policies leave, and from no other; where a client was sent before
//! only decides among those (11.4, 11.5).

use core::cmp::Ordering;

use nodeport_common::{Affinity, Backend, Frontend};

use crate::scratch::Scratch;
use crate::select;
use crate::tables::Tables;
use crate::wire::Family;

/// Looks at most this often into a set: enough for a million endpoints. In a larger one a client may be sent elsewhere.
const STEPS: u32 = 20;

/// The endpoint of a set that is not empty.
#[inline(always)]
pub(super) fn choose<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    scratch: &mut Scratch<A>,
    frontend: &Frontend,
    base: u32,
    len: u32,
) -> Option<&'t Backend<A>> {
    let Scratch {
        segment,
        other,
        client,
        ..
    } = scratch;
    let key = &segment.key;
    let seed = tables.control().seed;
    if frontend.affinity_secs == 0 {
        return tables.backend(base.wrapping_add(select::index(key, seed, len)));
    }
    key.source.copy_to(&mut client.client);
    client.service = frontend.service;
    if let Some(last) = tables.affinity(client)
        && is_fresh(tables, frontend, last)
        && let Some(backend) = find(tables, base, len, last)
    {
        return Some(backend);
    }
    // Of the client and the service port alone, so that CPUs that see its first connections at once send them to one endpoint.
    let [s0, s1, s2, s3] = frontend.service.to_be_bytes();
    key.source.copy_to(&mut other.source);
    A::UNSPECIFIED.copy_to(&mut other.destination);
    other.source_port = [s0, s1];
    other.destination_port = [s2, s3];
    other.protocol = key.protocol;
    tables.backend(base.wrapping_add(select::index(other, seed, len)))
}

/// Remembers where a client was sent, from its new connection on (11.3).
#[inline(always)]
pub(super) fn remember<A: Family, T: Tables<A>>(
    tables: &T,
    scratch: &mut Scratch<A>,
    frontend: &Frontend,
    backend: &Backend<A>,
) {
    if frontend.affinity_secs == 0 {
        return;
    }
    let sent = &mut scratch.sent;
    backend.address.copy_to(&mut sent.address);
    sent.port = backend.port;
    sent.pad = [0; 2];
    sent.used = tables.now();
    tables.remember_affinity(&scratch.client, sent);
}

/// Whether the client's last new connection is not too long ago.
#[inline(always)]
fn is_fresh<A: Family, T: Tables<A>>(tables: &T, frontend: &Frontend, last: &Affinity<A>) -> bool {
    let age = tables.now().wrapping_sub(last.used);
    age <= frontend.affinity_secs.wrapping_mul(tables.control().hz)
}

/// The endpoint in the set, whose slots are in order.
#[inline(always)]
fn find<'t, A: Family, T: Tables<A>>(
    tables: &'t T,
    base: u32,
    len: u32,
    wanted: &Affinity<A>,
) -> Option<&'t Backend<A>> {
    let (mut low, mut high) = (0, len);
    for _ in 0..STEPS {
        if low >= high {
            break;
        }
        let middle = low + (high - low) / 2;
        let backend = tables.backend(base.wrapping_add(middle))?;
        let port = u16::from_be_bytes(backend.port);
        let order = backend.address.order(&wanted.address);
        match order.then(port.cmp(&u16::from_be_bytes(wanted.port))) {
            Ordering::Equal => return Some(backend),
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
        }
    }
    None
}
