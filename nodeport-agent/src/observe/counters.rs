//! The counters of packets by hook and outcome.
//!
//! Owns reading and naming them. Invariant: what is shown is the sum over all CPUs at one moment.

use std::collections::BTreeMap;

use aya::maps::{Map, MapData, PerCpuArray};
use nodeport_common::{Counters, Hook, Outcome, maps};

use crate::datapath::{DatapathError, Pins};

/// A value of the map: one word for each outcome, in order.
type Words = [u64; Outcome::ALL.len()];

/// Packets by hook, in order.
pub type ByHook = Vec<(Hook, Counters)>;

/// Reads the pinned counters.
///
/// # Errors
/// [`DatapathError::Map`].
pub fn read(pins: &Pins) -> Result<ByHook, DatapathError> {
    let name = maps::OUTCOMES;
    let data = MapData::from_pin(pins.map(name)).map_err(DatapathError::map("open", name))?;
    let map: PerCpuArray<_, Words> = Map::PerCpuArray(data)
        .try_into()
        .map_err(DatapathError::map("open", name))?;
    Hook::ALL
        .iter()
        .map(|&hook| {
            let values = map
                .get(&(hook as u32), 0)
                .map_err(DatapathError::map("read", name))?;
            Ok((hook, sum(values.iter())))
        })
        .collect()
}

/// The sum over CPUs.
fn sum<'a>(values: impl Iterator<Item = &'a Words>) -> Counters {
    let mut total = Counters::default();
    for words in values {
        for (outcome, word) in Outcome::ALL.iter().zip(words) {
            let counter = total.get_mut(*outcome);
            *counter = counter.wrapping_add(*word);
        }
    }
    total
}

/// By names, without outcomes that never happened.
#[must_use]
pub fn named(counters: &ByHook) -> BTreeMap<String, BTreeMap<String, u64>> {
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
    fn cpus_are_summed_and_what_never_happened_is_left_out() {
        let mut first = [0; Outcome::ALL.len()];
        let mut second = first;
        first[Outcome::Untouched as usize] = 3;
        second[Outcome::Untouched as usize] = 4;
        second[Outcome::NoRoute as usize] = 1;
        let total = sum([first, second].iter());
        assert_eq!(
            (total.untouched, total.no_route, total.malformed),
            (7, 1, 0)
        );
        let names = named(&vec![(Hook::Xdp, total)]);
        let xdp: Vec<_> = names["xdp"]
            .iter()
            .map(|(name, n)| (name.as_str(), *n))
            .collect();
        assert_eq!(xdp, [("no_route", 1), ("untouched", 7)]);
    }
}
