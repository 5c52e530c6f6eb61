//! The generators: each run makes one frame and redirects it.
//!
//! A frame that comes back to the kernel's pool keeps what others wrote into it, so everything is written anew each time. Invariant: flows
//! come in a scattered order that visits each of them once in a round.

use super::abi::{FIRST_PORT, FORTH, MAGIC, PAYLOAD, PORTS, Plan, Seen};
use super::frame::{fold, sum, window};
use super::{PLANS, SEEN, SENT};
use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::programs::XdpContext;

/// A prime: multiples of it, modulo any smaller number of flows, visit all of them.
const STEP: u64 = 2_654_435_761;
const ETHERNET: usize = 14;

/// Who sends to whom. IPv4 addresses in the first four bytes.
struct Tuple {
    source: [u8; 16],
    destination: [u8; 16],
    source_port: [u8; 2],
    destination_port: [u8; 2],
}

#[inline(always)]
pub(crate) fn run<const WAY: u32>(ctx: &XdpContext) -> Option<u32> {
    let plan = PLANS.get(WAY)?;
    let sent = SENT.get_ptr_mut(WAY)?;
    // SAFETY: this CPU's own slot; a test run is not interrupted by another one.
    let count = unsafe {
        *sent += 1;
        *sent
    };
    let nth = (count.wrapping_mul(STEP) % u64::from(plan.flows.max(1))) as u32;
    let flow = plan.first_flow.wrapping_add(nth);
    let seen = SEEN.get(flow)?;
    if plan.pass != 0 && u32::from(seen.pass[WAY as usize & 1]) == plan.pass {
        return Some(XDP_DROP);
    }
    if plan.is_v6 == 0 {
        let tuple = tuple::<WAY, 4>(plan, seen, flow, 26);
        write::<4, 42>(ctx, plan, &tuple, flow)?;
        let header_sum = plan.header_sum + sum(&tuple.source) + sum(&tuple.destination);
        *window::<2>(ctx, 24)? = (!fold(header_sum)).to_be_bytes();
    } else {
        let tuple = tuple::<WAY, 16>(plan, seen, flow, 22);
        write::<16, 62>(ctx, plan, &tuple, flow)?;
    }
    // SAFETY: no pointers. The result is an action.
    let action = unsafe { bpf_redirect(plan.device, 0) };
    Some(action.unsigned_abs() as u32)
}

/// Of the client: made from the flow's number. Answers: what was seen at the far end, turned round. `at`: where the source address is.
#[inline(always)]
fn tuple<const WAY: u32, const N: usize>(plan: &Plan, seen: &Seen, flow: u32, at: usize) -> Tuple {
    if WAY != FORTH {
        return Tuple {
            source: seen.destination,
            destination: seen.source,
            source_port: seen.destination_port,
            destination_port: seen.source_port,
        };
    }
    let mut source = [0; 16];
    let mut destination = [0; 16];
    let mut i = 0;
    while i < N {
        source[i] = plan.headers[at + i];
        destination[i] = plan.headers[at + N + i];
        i += 1;
    }
    let host = ((flow / PORTS) as u16 + 10).to_be_bytes();
    source[N - 2] = host[0];
    source[N - 1] = host[1];
    destination[N - 1] = destination[N - 1].wrapping_add((flow % plan.destinations.max(1)) as u8);
    Tuple {
        source,
        destination,
        source_port: ((flow % PORTS + FIRST_PORT) as u16).to_be_bytes(),
        destination_port: [plan.headers[at + 2 * N + 2], plan.headers[at + 2 * N + 3]],
    }
}

/// Headers and payload. `N`: bytes of an address; `HEADERS`: of all headers.
#[inline(always)]
fn write<const N: usize, const HEADERS: usize>(
    ctx: &XdpContext,
    plan: &Plan,
    tuple: &Tuple,
    flow: u32,
) -> Option<()> {
    let at = HEADERS - 8 - 2 * N;
    let number = flow.to_be_bytes();
    let frame = window::<HEADERS>(ctx, 0)?;
    frame.copy_from_slice(plan.headers.first_chunk::<HEADERS>()?);
    frame[at..at + N].copy_from_slice(&tuple.source[..N]);
    frame[at + N..at + 2 * N].copy_from_slice(&tuple.destination[..N]);
    frame[at + 2 * N..at + 2 * N + 2].copy_from_slice(&tuple.source_port);
    frame[at + 2 * N + 2..at + 2 * N + 4].copy_from_slice(&tuple.destination_port);
    let total = plan.payload_sum
        + sum(&tuple.source)
        + sum(&tuple.destination)
        + sum(&tuple.source_port)
        + sum(&tuple.destination_port)
        + sum(&number);
    let checksum = !fold(total);
    // RFC 768: a sum of zero is sent as all ones; zero means that there is none.
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    frame[HEADERS - 2..HEADERS].copy_from_slice(&checksum.to_be_bytes());
    let payload = window::<PAYLOAD>(ctx, HEADERS)?;
    *payload = [0; PAYLOAD];
    payload[..4].copy_from_slice(&MAGIC);
    payload[4..8].copy_from_slice(&number);
    Some(())
}

const _: () = assert!(ETHERNET + 20 + 8 == 42 && ETHERNET + 40 + 8 == 62);
