//! Who is sent where: session affinity, and source ranges.

use anyhow::Result;
use nodeport_common::{Hook, Outcome, SourceRangeKey, frontend_flags};

use super::{Both, front_end, pair};
use crate::kernel::Kernel;
use crate::packets::{Build, End, SYN};
use crate::world::{TARGET, UPLINK};

fn remotes<A: Both>(last: u8) -> Vec<End<A>> {
    (1..=last).map(|n| (A::remote(n), TARGET)).collect()
}

/// Clients stay with their endpoints, in a set that grows and loses endpoints; hosts and kernel agree on each of them.
pub(super) fn affinity<A: Both>(kernel: &mut Kernel) -> Result<()> {
    for hook in [Hook::Xdp, Hook::TcIngress] {
        let mut pair = pair::<A>(kernel, &remotes(9))?;
        let sets = pair.world.tables_mut().frontends.values_mut();
        sets.for_each(|frontend| frontend.affinity_secs = 60);
        pair.tell()?;
        for len in [9, 4, 9, 1] {
            let sets = pair.world.tables_mut().frontends.values_mut();
            sets.for_each(|frontend| frontend.len = len);
            pair.tell()?;
            for client in 1..=12 {
                let from = (A::client(client), 20000 + len as u16);
                let syn = Build::tcp(from, front_end(), SYN);
                pair.packet(hook, UPLINK, &syn)?
                    .is(Outcome::ToRemoteBackend);
            }
        }
        assert_eq!(pair.world.tables().affinity.len(), 12);
    }
    Ok(())
}

/// Half of the clients' network is let in, and one more client.
pub(super) fn source_ranges<A: Both>(kernel: &mut Kernel) -> Result<()> {
    let bits = 8 * size_of::<A>();
    let range = |service: u32, address: A, bits: usize| SourceRangeKey {
        prefix_len: 32 + bits as u32,
        service: service.to_be_bytes(),
        address,
    };
    for hook in [Hook::Xdp, Hook::TcIngress] {
        let mut pair = pair::<A>(kernel, &remotes(3))?;
        let tables = pair.world.tables_mut();
        let sets = tables.frontends.values_mut();
        sets.for_each(|frontend| frontend.flags |= frontend_flags::SOURCE_RANGES);
        tables.sources.extend([
            range(1, A::client(0), bits - 7),
            range(1, A::client(200), bits),
            range(2, A::client(0), 0),
        ]);
        pair.tell()?;
        for (client, outcome) in [
            (1, Outcome::ToRemoteBackend),
            (127, Outcome::ToRemoteBackend),
            (128, Outcome::DroppedSourceRange),
            (199, Outcome::DroppedSourceRange),
            (200, Outcome::ToRemoteBackend),
            (201, Outcome::DroppedSourceRange),
        ] {
            let syn = Build::tcp((A::client(client), 20000), front_end(), SYN);
            pair.packet(hook, UPLINK, &syn)?.is(outcome);
        }
    }
    Ok(())
}
