//! Names for the counters of packets by hook and outcome.
//!
//! Owns the form in which they are shown. Refuses to read maps. Invariant: an outcome that is shown happened.

use std::collections::BTreeMap;

use nodeport_common::{Counters, Hook, Outcome};

/// Packets by names of hook and outcome, without outcomes that never happened.
pub type Named = BTreeMap<String, BTreeMap<String, u64>>;

/// Names counters.
#[must_use]
pub fn named(counters: &[(Hook, Counters)]) -> Named {
    counters
        .iter()
        .map(|(hook, counters)| {
            let outcomes = Outcome::ALL
                .iter()
                .map(|&outcome| (outcome.name().to_owned(), counters.get(outcome)))
                .filter(|(_, packets)| *packets > 0);
            (hook.name().to_owned(), outcomes.collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_is_left_out() {
        let counters = Counters {
            untouched: 7,
            no_route: 1,
            ..Counters::default()
        };
        let names = named(&[(Hook::Xdp, counters), (Hook::TcEgress, Counters::default())]);
        let xdp: Vec<_> = names["xdp"]
            .iter()
            .map(|(name, packets)| (name.as_str(), *packets))
            .collect();
        assert_eq!(xdp, [("no_route", 1), ("untouched", 7)]);
        assert!(names["tc_egress"].is_empty());
    }
}
