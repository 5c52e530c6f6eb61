//! Which endpoint a new connection gets with session affinity: the one that its client got last (behaviours 11).
//!
//! Invariant: an endpoint is chosen from the set that the front end's policies leave, and from no other; where a client was sent before
//! only decides among those (11.4, 11.5).

use core::cmp::Ordering;

use nodeport_common::{Affinity, AffinityKey, Backend, FlowKey, Frontend};

use crate::select;
use crate::tables::Clients;
use crate::wire::Family;

/// Looks at most this often into a set: enough for a million endpoints. In a larger one a client may be sent elsewhere.
const STEPS: u32 = 20;

/// The endpoint of a set for a client of a front end with affinity. `blank` is working memory.
#[inline(always)]
pub(super) fn choose<'t, A: Family, T: Clients<A>>(
    tables: &'t T,
    frontend: &Frontend,
    client: &AffinityKey<A>,
    protocol: u8,
    (base, len): (u32, u32),
    blank: &mut FlowKey<A>,
) -> Option<&'t Backend<A>> {
    if let Some(last) = tables.affinity(client)
        && is_fresh(tables, frontend, last)
        && let Some(backend) = find(tables, base, len, last)
    {
        return Some(backend);
    }
    // Of the client and the service port alone, so that CPUs that see its first connections at once send them to one endpoint.
    let [s0, s1, s2, s3] = client.service.to_be_bytes();
    client.client.copy_to(&mut blank.source);
    A::UNSPECIFIED.copy_to(&mut blank.destination);
    blank.source_port = [s0, s1];
    blank.destination_port = [s2, s3];
    blank.protocol = protocol;
    let seed = tables.control().seed;
    tables.backend(base.wrapping_add(select::index(blank, seed, len)))
}

/// Remembers where a client of a front end with affinity was sent, from its new connection on (11.3). `blank` is working memory.
#[inline(always)]
pub(super) fn remember<A: Family, T: Clients<A>>(
    tables: &T,
    client: &AffinityKey<A>,
    backend: &Backend<A>,
    blank: &mut Affinity<A>,
) {
    backend.address.copy_to(&mut blank.address);
    blank.port = backend.port;
    blank.pad = [0; 2];
    blank.used = tables.now();
    tables.remember_affinity(client, blank);
}

/// Whether the client's last new connection is not too long ago.
#[inline(always)]
fn is_fresh<A: Family, T: Clients<A>>(tables: &T, frontend: &Frontend, last: &Affinity<A>) -> bool {
    let age = tables.now().wrapping_sub(last.used);
    age <= frontend.affinity_secs.wrapping_mul(tables.control().hz)
}

/// The endpoint in the set, whose slots are in order.
#[inline(always)]
fn find<'t, A: Family, T: Clients<A>>(
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
