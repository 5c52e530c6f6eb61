//! Counters of an agent's programs, and what changed between two looks at them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// Packets by hook and outcome: `("xdp", "to_remote_backend")`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes(pub BTreeMap<(String, String), u64>);

impl Outcomes {
    pub(crate) fn parse(dump: &Value) -> Result<Self> {
        let hooks = dump.as_object().context("outcomes by hook")?;
        let mut all = BTreeMap::new();
        for (hook, outcomes) in hooks {
            for (outcome, packets) in outcomes.as_object().context("packets by outcome")? {
                let packets = packets.as_u64().context("a number of packets")?;
                all.insert((hook.clone(), outcome.clone()), packets);
            }
        }
        Ok(Self(all))
    }

    /// Packets of one hook and outcome.
    #[must_use]
    pub fn get(&self, hook: &str, outcome: &str) -> u64 {
        self.0
            .get(&(hook.to_owned(), outcome.to_owned()))
            .copied()
            .unwrap_or(0)
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let difference = self.0.iter().map(|(key, now)| {
            (
                key.clone(),
                now.saturating_sub(before.0.get(key).copied().unwrap_or(0)),
            )
        });
        Self(difference.filter(|(_, packets)| *packets > 0).collect())
    }

    /// Which hooks decided about packets of front ends: `xdp`, `tc`, `xdp+tc`, or nothing.
    #[must_use]
    pub fn carried_by(&self) -> String {
        let decided = |(hook, outcome): &(String, String)| {
            const PASSED_BY: [&str; 12] = [
                "untouched",
                "other_protocol",
                "malformed",
                "not_to_us",
                "tagged",
                "unknown_headers",
                "martian_source",
                "ttl_expired",
                "fragment_unknown",
                "left_to_tc",
                "awaits_egress",
                "socket_table_failed",
            ];
            (!PASSED_BY.contains(&outcome.as_str()))
                .then(|| hook.split('_').next().unwrap_or(hook).to_owned())
        };
        let mut hooks: Vec<_> = self.0.keys().filter_map(decided).collect();
        hooks.dedup();
        hooks.reverse();
        hooks.join("+")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hook_that_carried_is_the_one_that_decided() {
        let counted = |list: &[(&str, &str, u64)]| {
            Outcomes(
                list.iter()
                    .map(|(h, o, n)| ((String::from(*h), String::from(*o)), *n))
                    .collect(),
            )
        };
        let before = counted(&[("xdp", "untouched", 5), ("tc_ingress", "untouched", 5)]);
        let xdp = counted(&[
            ("xdp", "to_remote_backend", 6),
            ("xdp", "untouched", 6),
            ("tc_ingress", "untouched", 6),
        ]);
        assert_eq!(xdp.since(&before).carried_by(), "xdp");
        let tc = counted(&[
            ("xdp", "left_to_tc", 1),
            ("tc_ingress", "to_local_backend", 1),
            ("tc_egress", "reply_from_stack", 1),
        ]);
        assert_eq!(tc.since(&before).carried_by(), "tc");
        let both = counted(&[
            ("xdp", "to_remote_backend", 1),
            ("tc_ingress", "to_remote_backend", 1),
        ]);
        assert_eq!(both.since(&before).carried_by(), "xdp+tc");
        assert_eq!(before.since(&before).carried_by(), "");
    }
}
