//! Packets that a device received, as the kernel counts them.
//!
//! Invariant: for a veth with NAPI these are the packets that its NAPI took out of the ring: what was dropped because the ring was full is not
//! among them.

use anyhow::{Context as _, Result};
use nodeport_tests::Netns;

/// Packets received by a device.
pub(crate) fn received(netns: &Netns, device: &str) -> Result<u64> {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?;
    parse(&text.context("read net/dev")?, device)
        .with_context(|| format!("{}: no counters of {device}", netns.name()))
}

fn parse(text: &str, device: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| {
        let (name, rest) = line.split_once(':')?;
        (name.trim() == device).then_some(rest)
    })?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn received_packets_are_the_second_number() {
        let text = "Inter-|   Receive\n face |bytes    packets errs\n    lo:     100       7    0\n   eth0: 600 10 0 2\n";
        assert_eq!(parse(text, "eth0"), Some(10));
        assert_eq!(parse(text, "eth"), None);
    }
}
