//! The ends: count what arrives, learn how a flow's packets look there, and check a sample to the last bit.
//!
//! Invariant: a packet is ours by its payload alone, so a datapath cannot lose one by sending it wrongly: it then counts as wrong.

use super::abi::{Arrived, FORTH, MAGIC, PAYLOAD, Plan, SAMPLE};
use super::frame::{Bounds, fold, sum, window};
use super::{ARRIVED, PLANS, SEEN};

/// Whether the packet is ours, and was counted.
#[inline(always)]
pub(crate) fn run<const WAY: u32>(ctx: &impl Bounds) -> bool {
    counted::<WAY>(ctx).is_some()
}

#[inline(always)]
fn counted<const WAY: u32>(ctx: &impl Bounds) -> Option<()> {
    let plan = PLANS.get(WAY)?;
    let arrived = ARRIVED.get_ptr_mut(WAY)?;
    // SAFETY: this CPU's own slot; programs of one device do not interrupt each other.
    let arrived = unsafe { &mut *arrived };
    let ours = if plan.is_v6 == 0 {
        arrive::<WAY, 4, 42>(ctx, plan, arrived)
    } else {
        arrive::<WAY, 16, 62>(ctx, plan, arrived)
    };
    if ours.is_none() {
        arrived.others += 1;
    }
    ours
}

#[inline(always)]
fn arrive<const WAY: u32, const N: usize, const HEADERS: usize>(
    ctx: &impl Bounds,
    plan: &Plan,
    arrived: &mut Arrived,
) -> Option<()> {
    let payload = window::<PAYLOAD>(ctx, HEADERS)?;
    if payload[..4] != MAGIC {
        return None;
    }
    let flow = u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]);
    arrived.packets += 1;
    if plan.pass != 0 {
        learn::<WAY, N, HEADERS>(ctx, plan.pass as u16, flow, arrived)?;
    }
    if arrived.packets % SAMPLE == 0 {
        arrived.sampled += 1;
        if !is_right::<N, HEADERS>(ctx, plan)? {
            arrived.wrong += 1;
        }
    }
    Some(())
}

/// Writes down a flow's tuple and the pass.
#[inline(always)]
fn learn<const WAY: u32, const N: usize, const HEADERS: usize>(
    ctx: &impl Bounds,
    pass: u16,
    flow: u32,
    arrived: &mut Arrived,
) -> Option<()> {
    let seen = SEEN.get_ptr_mut(flow)?;
    // SAFETY: an element of an array map; the generator reads it, and each direction writes its own fields.
    let seen = unsafe { &mut *seen };
    if seen.pass[WAY as usize & 1] == pass {
        return Some(());
    }
    arrived.fresh += 1;
    if WAY == FORTH {
        let frame = window::<HEADERS>(ctx, 0)?;
        let at = HEADERS - 8 - 2 * N;
        seen.source[..N].copy_from_slice(&frame[at..at + N]);
        seen.destination[..N].copy_from_slice(&frame[at + N..at + 2 * N]);
        seen.source_port
            .copy_from_slice(&frame[at + 2 * N..at + 2 * N + 2]);
        seen.destination_port
            .copy_from_slice(&frame[at + 2 * N + 2..at + 2 * N + 4]);
    }
    seen.pass[WAY as usize & 1] = pass;
    Some(())
}

/// Both checksums over every byte, and the ports.
#[inline(always)]
fn is_right<const N: usize, const HEADERS: usize>(ctx: &impl Bounds, plan: &Plan) -> Option<bool> {
    let frame = *window::<HEADERS>(ctx, 0)?;
    let payload = window::<PAYLOAD>(ctx, HEADERS)?;
    let at = HEADERS - 8 - 2 * N;
    let mut header = 0;
    let mut words = 14;
    while N == 4 && words < at + 2 * N {
        header += u32::from(u16::from_be_bytes([frame[words], frame[words + 1]]));
        words += 2;
    }
    // Pseudo header (addresses, length, protocol 17), UDP header, payload.
    let mut total = sum(payload) + 17 + 8 + PAYLOAD as u32;
    let mut words = at;
    while words < HEADERS {
        total += u32::from(u16::from_be_bytes([frame[words], frame[words + 1]]));
        words += 2;
    }
    let ports = at + 2 * N;
    let source = u32::from(u16::from_be_bytes([frame[ports], frame[ports + 1]]));
    let destination = u32::from(u16::from_be_bytes([frame[ports + 2], frame[ports + 3]]));
    let is_port = |expected: u32, port: u32| expected == 0 || expected == port;
    Some(
        (N == 16 || fold(header) == 0xffff)
            && fold(total) == 0xffff
            && is_port(plan.expected_source_port, source)
            && is_port(plan.expected_destination_port, destination),
    )
}
