//! The backend sets that are in one `BACKENDS` array, shared by content.
//!
//! Owns which run of slots holds which set and how many front ends name it. It refuses to know front ends' keys and services.
//! Invariant: a run is used by someone, or resting, or free, and never two of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use nodeport_common::{Backend, Frontend};

use super::family::Ip;
use super::slots::Slots;

/// The sets of one address family.
#[derive(Clone, Debug)]
pub struct Sets<A> {
    slots: Slots,
    runs: BTreeMap<u32, Run<A>>,
    by_content: HashMap<Arc<[Backend<A>]>, u32>,
    /// First slots of runs that nothing may name any more.
    idle: BTreeSet<u32>,
}

/// A run of slots in use.
#[derive(Clone, Debug)]
struct Run<A> {
    len: u32,
    /// How many front end fields name it; a set that was just written has none yet.
    references: u32,
    content: Arc<[Backend<A>]>,
}

impl<A: Ip> Sets<A> {
    /// Rebuilds the table from what is in the maps. `head` is the beginning of the array, at least up to the last slot that
    /// a front end names.
    ///
    /// We never write ranges that overlap or that leave the array. Where some are found, the shorter are believed, and
    /// [`Sets::knows`] tells the rest apart: they hold no slots, or one bad entry could hold all of them.
    #[must_use]
    pub fn adopt(capacity: u32, head: &[Backend<A>], frontends: &[Frontend]) -> Self {
        let named: BTreeSet<(u32, u32)> = frontends
            .iter()
            .flat_map(ranges)
            .map(|(base, len)| (len, base))
            .collect();
        let mut sets = Self {
            slots: Slots::new(capacity),
            runs: BTreeMap::new(),
            by_content: HashMap::new(),
            idle: BTreeSet::new(),
        };
        for (len, base) in named {
            let end = base.saturating_add(len);
            let overlaps = sets
                .runs
                .range(..end)
                .next_back()
                .is_some_and(|(&start, run)| start + run.len > base);
            let content = head.get(base as usize..end as usize);
            if let Some(content) = content
                && !overlaps
                && end <= capacity
            {
                sets.written(base, Arc::from(content));
            }
        }
        for frontend in frontends {
            if sets.knows(frontend) {
                sets.hold(frontend);
            }
        }
        sets
    }

    /// Whether every range that a front end value names is a set of this table.
    #[must_use]
    pub fn knows(&self, frontend: &Frontend) -> bool {
        ranges(frontend).all(|(base, len)| self.content(base, len).is_some())
    }

    /// Where a set with exactly these backends in this order starts.
    #[must_use]
    pub fn find(&self, content: &[Backend<A>]) -> Option<u32> {
        self.by_content.get(content).copied()
    }

    /// What a range of slots holds; `None` if it is no set of this table.
    #[must_use]
    pub fn content(&self, base: u32, len: u32) -> Option<&[Backend<A>]> {
        if len == 0 {
            return Some(&[]);
        }
        let run = self.runs.get(&base).filter(|run| run.len == len)?;
        Some(&run.content)
    }

    /// Free and resting slots.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Notes that a set was written; nothing names it yet.
    pub fn written(&mut self, base: u32, content: Arc<[Backend<A>]>) {
        let len = content.len() as u32;
        self.slots.claim(base, len);
        self.by_content.entry(content.clone()).or_insert(base);
        self.idle.insert(base);
        self.runs.insert(
            base,
            Run {
                len,
                references: 0,
                content,
            },
        );
    }

    /// Notes that a front end value is in the map.
    pub fn hold(&mut self, frontend: &Frontend) {
        for (base, len) in ranges(frontend) {
            if let Some(run) = self.runs.get_mut(&base).filter(|run| run.len == len) {
                run.references += 1;
            }
        }
    }

    /// Notes that a front end value is no longer in the map. What it named may still be named by a later step of the same plan,
    /// so nothing comes to rest before [`Sets::drop_unused`].
    pub fn let_go(&mut self, frontend: &Frontend) {
        for (base, len) in ranges(frontend) {
            if let Some(run) = self.runs.get_mut(&base).filter(|run| run.len == len) {
                run.references = run.references.saturating_sub(1);
                if run.references == 0 {
                    self.idle.insert(base);
                }
            }
        }
    }

    /// Lets the sets that no front end names rest from `now` on: call it when a plan is over.
    pub fn drop_unused(&mut self, now: Duration) {
        for base in std::mem::take(&mut self.idle) {
            if self.runs.get(&base).is_some_and(|run| run.references == 0) {
                self.retire(base, now);
            }
        }
    }

    /// Frees the sets that have rested for at least `grace`.
    pub fn release(&mut self, now: Duration, grace: Duration) {
        self.slots.release(now, grace);
    }

    /// Lets everything rest that `before` had in use or resting and that is free here: for a table that was read again.
    pub fn inherit(&mut self, before: &Self, now: Duration) {
        let resting: Vec<_> = before.slots.resting_runs().collect();
        let used = before.runs.iter().map(|(&base, run)| (base, run.len, now));
        let inherited = resting.iter().map(|run| (run.base, run.len, run.since));
        for (base, len, since) in inherited.chain(used) {
            for (base, len) in self.slots.claim(base, len) {
                self.slots.retire(base, len, since);
            }
        }
    }

    fn retire(&mut self, base: u32, now: Duration) {
        let Some(run) = self.runs.remove(&base) else {
            return;
        };
        if self.by_content.get(&run.content) == Some(&base) {
            self.by_content.remove(&run.content);
        }
        self.slots.retire(base, run.len, now);
    }
}

/// The ranges that a front end value names: none, one or two, as (first slot, length).
fn ranges(frontend: &Frontend) -> impl Iterator<Item = (u32, u32)> + use<> {
    [
        (frontend.base, frontend.len),
        (frontend.local_base, frontend.local_len),
    ]
    .into_iter()
    .filter(|&(_, len)| len > 0)
}

#[cfg(test)]
mod tests {
    use nodeport_common::V4;

    use super::*;

    const GRACE: Duration = Duration::from_secs(1);

    fn slot(last: u8) -> Backend<V4> {
        Backend {
            address: [10, 0, 0, last],
            port: [0, 80],
            flags: 0,
        }
    }

    fn names(base: u32, len: u32, local_base: u32, local_len: u32) -> Frontend {
        Frontend {
            base,
            len,
            local_base,
            local_len,
            ..Frontend::default()
        }
    }

    #[test]
    fn a_set_is_shared_until_its_last_front_end_goes() {
        let mut sets = Sets::adopt(8, &[], &[]);
        sets.written(0, Arc::from([slot(1), slot(2)]));
        assert_eq!(sets.find(&[slot(1), slot(2)]), Some(0));
        assert_eq!(sets.find(&[slot(2), slot(1)]), None);
        let frontend = names(0, 2, 0, 2);
        sets.hold(&frontend);
        sets.hold(&frontend);
        sets.let_go(&frontend);
        sets.drop_unused(GRACE);
        assert_eq!(sets.find(&[slot(1), slot(2)]), Some(0));
        sets.let_go(&frontend);
        sets.drop_unused(GRACE);
        assert_eq!(sets.find(&[slot(1), slot(2)]), None);
        assert_eq!((sets.slots().available(), sets.slots().resting()), (6, 2));
        sets.release(2 * GRACE, GRACE);
        assert_eq!(sets.slots().available(), 8);
    }

    #[test]
    fn adoption_finds_the_sets_and_what_is_free() {
        let head = [slot(1), slot(2), slot(9), slot(3)];
        let sets = Sets::adopt(8, &head, &[names(0, 2, 3, 1), names(0, 2, 0, 2)]);
        assert_eq!(sets.content(0, 2), Some(&head[..2]));
        assert_eq!(sets.find(&[slot(3)]), Some(3));
        assert_eq!(sets.find(&[slot(9)]), None);
        assert_eq!(sets.slots().available(), 5);
    }

    #[test]
    fn of_overlapping_and_oversized_ranges_the_sane_ones_are_believed() {
        let head = [slot(1), slot(2), slot(3), slot(4), slot(5), slot(6)];
        let good = names(1, 2, 0, 0);
        let bad = [
            names(0, 6, 2, 2),
            names(5, 9, 0, 0),
            names(u32::MAX, 2, 0, 0),
        ];
        let sets = Sets::adopt(6, &head, &[good, bad[0], bad[1], bad[2]]);
        assert!(sets.knows(&good));
        assert!(bad.iter().all(|frontend| !sets.knows(frontend)));
        assert_eq!(sets.find(&head[1..3]), Some(1));
        assert_eq!(sets.slots().available(), 4);
    }

    #[test]
    fn a_table_read_again_keeps_the_grace_of_what_was_in_use() {
        let mut before = Sets::adopt(8, &[], &[]);
        before.written(0, Arc::from([slot(1), slot(2)]));
        before.hold(&names(0, 2, 0, 0));
        let mut after = Sets::<V4>::adopt(8, &[], &[]);
        after.inherit(&before, 5 * GRACE);
        assert_eq!((after.slots().available(), after.slots().resting()), (6, 2));
    }
}
