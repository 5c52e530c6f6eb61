//! One line for each packet that did not just pass by, where the operator asked for it when the programs were loaded.
//!
//! Off, it costs nothing: the level is a constant of the loaded program, and the verifier removes what it rules out. Lines are written after the
//! verdict, from the entry point, where the stack is free again.

use aya_log_ebpf::macro_support::{Level, level_enabled};
use nodeport_common::{Hook, Outcome};

use super::family::{KernelFamily, scratch};

/// Whether lines are wanted: `debug` for packets that were touched, `trace` for all that could be parsed.
#[inline(always)]
pub(crate) fn is_enabled(outcome: Outcome) -> bool {
    let touched = !matches!(
        outcome,
        Outcome::Untouched
            | Outcome::OtherProtocol
            | Outcome::NotToUs
            | Outcome::Tagged
            | Outcome::Malformed
    );
    level_enabled(if touched { Level::Debug } else { Level::Trace })
}

/// Bytes of a name in a line. One length for all, because the verifier copies only what it can count.
const NAME_LEN: usize = 26;

static NAMES: [[u8; NAME_LEN]; Outcome::ALL.len()] = {
    let mut names = [[b' '; NAME_LEN]; Outcome::ALL.len()];
    let mut index = 0;
    while index < names.len() {
        let name = Outcome::ALL[index].name().as_bytes();
        let mut at = 0;
        while at < name.len() {
            names[index][at] = name[at];
            at += 1;
        }
        index += 1;
    }
    names
};

/// Writes the line of the packet that this CPU's working memory still holds.
#[inline(never)]
pub(crate) fn line<A: KernelFamily>(hook: Hook, outcome: Outcome) {
    let (Some(scratch), Some(name)) = (scratch::<A>(hook), NAMES.get(outcome as usize)) else {
        return;
    };
    // SAFETY: names of outcomes are identifiers, padded with spaces: ASCII.
    let name = unsafe { core::str::from_utf8_unchecked(name) };
    let key = &scratch.segment.key;
    aya_log_ebpf::debug!(
        (),
        "{} at hook {}: {:i}:{} -> {:i}:{} protocol {}",
        name,
        hook as u32,
        A::to_ip(key.source),
        u16::from_be_bytes(key.source_port),
        A::to_ip(key.destination),
        u16::from_be_bytes(key.destination_port),
        key.protocol,
    );
}
