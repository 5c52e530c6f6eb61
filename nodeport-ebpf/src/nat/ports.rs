//! Taking a source port: inserting the reply entry is the allocation (edge-cases A1-A5, B15).
//!
//! Invariant: when [`take`] returns a port, the reply entry with it is in the pending table and no established entry has its key.

use nodeport_common::{Control, FlowKey, Outcome};

use crate::path::{known, state};
use crate::select;
use crate::tables::{Entry, InsertError, Tables};
use crate::wire::Family;

/// Ports that are tried before giving up. Half of them may be taken over from connections that are closed. With nine ports in ten in use
/// the first half fails once in a thousand times; a retransmission goes on where this search ended.
const PROBES: u32 = 128;

/// The `n`-th port of the configured segments, going round; `None` if there are none.
#[must_use]
#[inline(always)]
pub fn nth(control: &Control, n: u32) -> Option<[u8; 2]> {
    let [first, second] = control.snat;
    let total = u32::from(first.count) + u32::from(second.count);
    let n = n.checked_rem(total)?;
    let port = match n.checked_sub(u32::from(first.count)) {
        None => u32::from(first.first) + n,
        Some(rest) => u32::from(second.first) + rest,
    };
    Some((port as u16).to_be_bytes())
}

/// Takes a free port towards the backend that `key.source` and `key.source_port` name by inserting `reply` under `key` with that
/// destination port: the port that `key` has, if `keep` says so and it is free, else the least recently used.
///
/// # Errors
/// [`Outcome::SnatPortsExhausted`] if no port was found, [`Outcome::PendingTableFailed`] if the kernel refused.
#[inline(always)]
pub fn take<A: Family, T: Tables<A>>(
    tables: &T,
    key: &mut FlowKey<A>,
    reply: &Entry<A>,
    keep: bool,
) -> Result<[u8; 2], Outcome> {
    // Not an outcome: the verifier does not know which values of it the steps may leave.
    let (mut is_taken, mut is_refused) = (false, false);
    tables.repeat(PROBES, |probe| {
        let is_own = keep && probe == 0;
        if !is_own {
            let bucket = select::cursor_bucket(&key.source, key.source_port);
            let cursor = tables.next_port_cursor(bucket);
            match nth(tables.control(), cursor) {
                Some(port) => key.destination_port = port,
                None => return false,
            }
        }
        // Not its own: a closed connection by another front end holds it, and the backend may still wait for that one's late packets (B15).
        match claim(tables, key, reply, probe >= PROBES / 2) {
            Ok(()) => is_taken = true,
            Err(InsertError::Exists) => return true,
            Err(InsertError::Full) => is_refused = true,
        }
        false
    });
    if is_taken {
        Ok(key.destination_port)
    } else if is_refused {
        Err(Outcome::PendingTableFailed)
    } else {
        Err(Outcome::SnatPortsExhausted)
    }
}

/// Claims exactly `key`. The pending entry goes in before the established table is looked at, and whoever moves a flow does it in
/// the same order, so no two flows can hold one key.
///
/// # Errors
/// [`InsertError::Exists`] if another flow holds it, [`InsertError::Full`] if the kernel refused.
#[inline(always)]
pub fn claim<A: Family, T: Tables<A>>(
    tables: &T,
    key: &FlowKey<A>,
    reply: &Entry<A>,
    reclaim_closed: bool,
) -> Result<(), InsertError> {
    if let Some(holder) = tables.flow(key) {
        if !reclaim_closed || !state::is_closed(holder.tcp.get()) {
            return Err(InsertError::Exists);
        }
        let mut pair = *key;
        known::forget(tables, key, &mut pair, holder, true);
    }
    tables.add_pending(key, reply)?;
    if tables.flow(key).is_some() {
        tables.remove_pending(key);
        return Err(InsertError::Exists);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeport_common::PortSegment;

    #[test]
    fn goes_round_both_segments() {
        let control = Control {
            snat: [
                PortSegment {
                    first: 61000,
                    count: 2,
                },
                PortSegment {
                    first: 1024,
                    count: 3,
                },
            ],
            ..Control::default()
        };
        let ports: Vec<u16> = (0..6)
            .filter_map(|n| nth(&control, n))
            .map(u16::from_be_bytes)
            .collect();
        assert_eq!(ports, [61000, 61001, 1024, 1025, 1026, 61000]);
    }

    #[test]
    fn without_segments_there_is_no_port() {
        assert_eq!(nth(&Control::default(), 7), None);
    }
}
