//! Which slots of a `BACKENDS` array are free, and which rest.
//!
//! Owns runs of slot numbers. It refuses to know what is in them. Invariant: a run that was in use comes back only through
//! [`Slots::retire`] and [`Slots::release`], so that a program which still holds an old front end value never reads a slot
//! that was written again in the meantime.

use std::collections::VecDeque;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};

/// The free and the resting runs of one array. All numbers are slots. A copy, to plan with, costs next to nothing.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    capacity: u32,
    /// Free runs, never adjacent to each other: first slot -> length.
    free: OrdMap<u32, u32>,
    /// The same runs as (length, first slot), to find the smallest that fits.
    by_len: OrdSet<(u32, u32)>,
    available: u32,
    resting: VecDeque<Resting>,
}

/// A run that programs may still read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resting {
    /// First slot.
    pub base: u32,
    /// Number of slots.
    pub len: u32,
    /// When the last front end that named it was replaced, on the caller's clock.
    pub since: Duration,
}

impl Slots {
    /// An array of which every slot is free.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let mut slots = Self {
            capacity,
            ..Self::default()
        };
        slots.insert(0, capacity);
        slots
    }

    /// Number of slots of the array.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Number of slots that are free, in whatever runs.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.available
    }

    /// Number of slots that will be free after the grace period.
    #[must_use]
    pub fn resting(&self) -> u32 {
        self.resting.iter().map(|run| run.len).sum()
    }

    /// Takes the smallest free run that holds `len` slots, the lowest of several. `None` if there is none or `len` is 0.
    pub fn take(&mut self, len: u32) -> Option<u32> {
        if len == 0 {
            return None;
        }
        let &(_, base) = self.by_len.range((len, 0)..).next()?;
        self.claim(base, len);
        Some(base)
    }

    /// Takes what is free of a given run (all of it, in a sane state) and returns the parts taken.
    pub fn claim(&mut self, base: u32, len: u32) -> Vec<(u32, u32)> {
        let end = base.saturating_add(len).min(self.capacity);
        let mut taken = Vec::new();
        let first = self
            .free
            .range(..=base)
            .next_back()
            .map_or(base, |(&start, _)| start);
        let overlapping: Vec<(u32, u32)> = self
            .free
            .range(first..end.max(first))
            .map(|(&start, &len)| (start, start + len))
            .filter(|&(_, stop)| stop > base)
            .collect();
        for (start, stop) in overlapping {
            self.remove(start, stop - start);
            let (from, to) = (start.max(base), stop.min(end));
            self.insert(start, from - start);
            self.insert(to, stop - to);
            taken.push((from, to - from));
        }
        taken
    }

    /// Gives back a run that no front end ever named.
    pub fn give_back(&mut self, base: u32, len: u32) {
        let (mut base, mut len) = (base, len);
        if let Some((&start, &before)) = self.free.range(..base).next_back()
            && start + before == base
        {
            self.remove(start, before);
            base = start;
            len += before;
        }
        if let Some(&after) = self.free.get(&(base + len)) {
            self.remove(base + len, after);
            len += after;
        }
        self.insert(base, len);
    }

    /// Puts aside a run that is no longer named by any front end.
    pub fn retire(&mut self, base: u32, len: u32, now: Duration) {
        if len > 0 {
            self.resting.push_back(Resting {
                base,
                len,
                since: now,
            });
        }
    }

    /// Frees the runs that have rested for at least `grace`.
    pub fn release(&mut self, now: Duration, grace: Duration) {
        while let Some(run) = self.resting.front().copied()
            && now.saturating_sub(run.since) >= grace
        {
            self.resting.pop_front();
            self.give_back(run.base, run.len);
        }
    }

    /// The runs that rest, oldest first.
    pub fn resting_runs(&self) -> impl Iterator<Item = Resting> + '_ {
        self.resting.iter().copied()
    }

    fn insert(&mut self, base: u32, len: u32) {
        if len > 0 {
            self.free.insert(base, len);
            self.by_len.insert((len, base));
            self.available += len;
        }
    }

    fn remove(&mut self, base: u32, len: u32) {
        self.free.remove(&base);
        self.by_len.remove(&(len, base));
        self.available -= len;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn takes_the_smallest_run_that_fits() {
        let mut slots = Slots::new(20);
        let (a, b, c) = (slots.take(3), slots.take(5), slots.take(2));
        assert_eq!((a, b, c), (Some(0), Some(3), Some(8)));
        slots.give_back(0, 3);
        slots.give_back(8, 2);
        // Free: 0..3 and 8..20.
        assert_eq!(slots.take(2), Some(0));
        assert_eq!(slots.take(4), Some(8));
        assert_eq!(slots.take(9), None);
        assert_eq!(slots.available(), 1 + 8);
        assert_eq!(slots.take(8), Some(12));
        assert_eq!(slots.take(0), None);
    }

    #[test]
    fn a_retired_run_comes_back_only_after_the_grace_period() {
        let mut slots = Slots::new(4);
        let base = slots.take(4).expect("room");
        slots.retire(base, 4, 10 * SECOND);
        assert_eq!((slots.available(), slots.resting()), (0, 4));
        slots.release(10 * SECOND + Duration::from_millis(999), SECOND);
        assert_eq!(slots.take(1), None);
        slots.release(11 * SECOND, SECOND);
        assert_eq!((slots.take(4), slots.resting()), (Some(0), 0));
    }

    #[test]
    fn claiming_what_is_partly_in_use_takes_only_the_free_parts() {
        let mut slots = Slots::new(10);
        assert_eq!(slots.claim(2, 3), [(2, 3)]);
        assert_eq!(slots.claim(0, 8), [(0, 2), (5, 3)]);
        assert_eq!(slots.claim(8, 100), [(8, 2)]);
        assert_eq!(slots.claim(0, 10), []);
        assert_eq!(slots.claim(50, 3), []);
    }

    proptest! {
        /// Runs never overlap, nothing is lost, and neighbours grow together again.
        #[test]
        fn no_slot_is_given_twice_or_lost(lens in prop::collection::vec(1_u32..9, 1..40), order in any::<u64>()) {
            let mut slots = Slots::new(128);
            let mut owned: Vec<(u32, u32)> = Vec::new();
            let mut random = order;
            for len in lens {
                if let Some(base) = slots.take(len) {
                    for &(other, other_len) in &owned {
                        prop_assert!(base + len <= other || other + other_len <= base);
                    }
                    prop_assert!(base + len <= 128);
                    owned.push((base, len));
                }
                random = random.rotate_left(7).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                if random % 3 == 0 && !owned.is_empty() {
                    let (base, len) = owned.swap_remove((random >> 8) as usize % owned.len());
                    slots.give_back(base, len);
                }
                let used: u32 = owned.iter().map(|run| run.1).sum();
                prop_assert_eq!(slots.available() + used, 128);
            }
            for (base, len) in owned {
                slots.give_back(base, len);
            }
            prop_assert_eq!(slots.take(128), Some(0));
        }
    }
}
