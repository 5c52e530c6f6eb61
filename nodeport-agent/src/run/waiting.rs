//! Changes of endpoints on their way into the maps, by the time at which they happened in the cluster (behaviours 22.11).
//!
//! Owns which are still waited for. Refuses to know clocks and metrics. Invariant: a change is told of once, when everything of its family is
//! written.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::model::desired::Family;

/// Most changes that are waited for at a time.
const MAX: usize = 65_536;

/// Changes that are not in the maps yet.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<(Family, Timestamp)>);

impl Waiting {
    /// Changes that are to be written.
    pub(super) fn add(&mut self, triggers: Vec<(Family, Timestamp)>) {
        let room = MAX.saturating_sub(self.0.len());
        self.0.extend(triggers.into_iter().take(room));
    }

    /// Everything of a family is written: how long each change took.
    pub(super) fn written(&mut self, family: Family, now: Timestamp) -> Vec<Duration> {
        let mut took = Vec::new();
        self.0.retain(|(of, triggered)| {
            if *of == family {
                // Clocks differ from machine to machine: no change was written before it happened.
                let duration = Duration::try_from(now.duration_since(*triggered));
                took.push(duration.unwrap_or_default());
            }
            *of != family
        });
        took
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_for_its_family_from_when_it_happened() {
        let at = |second: i64| Timestamp::from_second(1_000 + second).expect("a time");
        let mut waiting = Waiting::default();
        waiting.add(vec![
            (Family::V4, at(0)),
            (Family::V6, at(1)),
            (Family::V4, at(9)),
        ]);
        let of_v4 = waiting.written(Family::V4, at(3));
        assert_eq!(of_v4, [Duration::from_secs(3), Duration::ZERO]);
        assert!(waiting.written(Family::V4, at(4)).is_empty());
        waiting.add(vec![(Family::V4, at(5))]);
        assert_eq!(
            waiting.written(Family::V6, at(61)),
            [Duration::from_mins(1)]
        );
        assert_eq!(waiting.written(Family::V4, at(6)), [Duration::from_secs(1)]);
    }

    #[test]
    fn what_is_never_written_takes_bounded_memory() {
        let mut waiting = Waiting::default();
        waiting.add(vec![(Family::V4, Timestamp::UNIX_EPOCH); MAX]);
        waiting.add(vec![(Family::V4, Timestamp::UNIX_EPOCH); 5]);
        assert_eq!(
            waiting.written(Family::V4, Timestamp::UNIX_EPOCH).len(),
            MAX
        );
    }
}
