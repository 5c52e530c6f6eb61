//! One walk over a table of flows: what is over goes, what lost its other half is mended.
//!
//! Owns the order of reading and deleting. Refuses to know how a table is kept and what a lifetime is. Invariants: nothing is
//! deleted but what was read again a moment before and was over then; the client's entry goes first, so that a crash in between
//! leaves at worst an entry that holds a source port, never a client whose replies are lost.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::ControlFlow;

use nodeport_common::{Flow, FlowKey, flow_flags};

use super::pair::{is_pair, mirror};
use super::snat::SnatPorts;
use super::verdict::{Lifetimes, Now, Table, Verdict, surely_lives, verdict};

/// How long an entry without its other half is left alone: the programs may be about to make or to remove the other one.
const GRACE_SECS: u32 = 10;
/// Most entries without their other half that are remembered. More of them wait for a later walk.
const ORPHANS_MAX: usize = 65536;

/// One walk of so many looks for the other half of every established entry, also of those that need no look to be kept.
const THOROUGH: u32 = 6;

/// Entries of one walk's portion.
pub type Entries<A> = [(FlowKey<A>, Flow<A>)];

/// A table of flows of one address family.
pub trait FlowTable<A> {
    /// Why an operation failed.
    type Error;

    /// Visits all entries in portions, until the visitor breaks off.
    ///
    /// # Errors
    /// The table cannot be read.
    fn scan(
        &self,
        visit: &mut dyn FnMut(&Entries<A>) -> ControlFlow<()>,
    ) -> Result<(), Self::Error>;

    /// One entry.
    ///
    /// # Errors
    /// The table cannot be read.
    fn get(&self, key: &FlowKey<A>) -> Result<Option<Flow<A>>, Self::Error>;

    /// Removes an entry. One that is not there is fine.
    ///
    /// # Errors
    /// The table cannot be written.
    fn remove(&self, key: &FlowKey<A>) -> Result<(), Self::Error>;

    /// Adds an entry, unless there is one with this key. Returns whether it was added.
    ///
    /// # Errors
    /// The table cannot be written, or is full.
    fn add(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<bool, Self::Error>;
}

/// What one walk did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Entries seen.
    pub seen: u64,
    /// Flows (pairs) removed.
    pub expired: u64,
    /// Entries without their other half that were removed.
    pub orphans: u64,
    /// Flows that got their other half back.
    pub mended: u64,
    /// Source ports that the flows hold.
    pub snat: SnatPorts,
}

/// Walks one table again and again.
#[derive(Debug)]
pub struct Walker<A> {
    table: Table,
    /// Entries without their other half, and when that was first noted.
    orphans: HashMap<FlowKey<A>, u32>,
    walks: u32,
}

impl<A: Copy + Eq + Hash> Walker<A> {
    /// A walker for a table.
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self {
            table,
            orphans: HashMap::new(),
            walks: 0,
        }
    }

    /// Walks once. `clock` is asked before each portion and each deletion; `pause` is called between portions.
    ///
    /// # Errors
    /// The first operation that failed; what was done before stays done.
    pub fn walk<T: FlowTable<A>, E: From<T::Error>>(
        &mut self,
        table: &T,
        lifetimes: &Lifetimes,
        clock: &mut dyn FnMut() -> Result<Now, E>,
        pause: &mut dyn FnMut(),
    ) -> Result<Walked, E> {
        let thorough = self.table == Table::Established && self.walks.is_multiple_of(THOROUGH);
        self.walks = self.walks.wrapping_add(1);
        let mut walked = Walked::default();
        let mut noted = HashMap::new();
        let mut failure = None;
        table.scan(&mut |entries| {
            let mut portion = Portion {
                kind: self.table,
                table,
                lifetimes,
                thorough,
                before: &self.orphans,
                noted: &mut noted,
                walked: &mut walked,
            };
            match portion.visit(entries, clock) {
                Ok(()) => {
                    pause();
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        self.orphans = noted;
        failure.map_or(Ok(walked), Err)
    }
}

/// One portion of a walk.
struct Portion<'a, A, T> {
    kind: Table,
    table: &'a T,
    lifetimes: &'a Lifetimes,
    thorough: bool,
    before: &'a HashMap<FlowKey<A>, u32>,
    noted: &'a mut HashMap<FlowKey<A>, u32>,
    walked: &'a mut Walked,
}

impl<A: Copy + Eq + Hash, T: FlowTable<A>> Portion<'_, A, T> {
    fn visit<E: From<T::Error>>(
        &mut self,
        entries: &Entries<A>,
        clock: &mut dyn FnMut() -> Result<Now, E>,
    ) -> Result<(), E> {
        let now = clock()?;
        // Those of kube-proxy's connections have no other half, and are looked after elsewhere.
        let ours = |(_, flow): &&(FlowKey<A>, Flow<A>)| flow.flags & flow_flags::FOREIGN == 0;
        for (key, flow) in entries.iter().filter(ours) {
            self.walked.seen += 1;
            let suspect = self.thorough || self.before.contains_key(key);
            if !suspect && surely_lives(self.lifetimes, self.kind, key.protocol, flow, now) {
                continue;
            }
            let pair_key = flow.pair(key.protocol);
            let pair = self.table.get(&pair_key)?;
            match pair.filter(|pair| is_pair(key, pair)) {
                Some(pair) if flow.flags & flow_flags::REPLY == 0 => {
                    if self.judge(key, Some(flow), Some(&pair), now) == Verdict::Expire {
                        self.expire(key, &pair_key, clock()?)?;
                    }
                }
                // Judged when its other half is visited.
                Some(_) => {}
                None => self.orphan(key, clock()?)?,
            }
        }
        Ok(())
    }

    fn judge(
        &self,
        key: &FlowKey<A>,
        forward: Option<&Flow<A>>,
        reply: Option<&Flow<A>>,
        now: Now,
    ) -> Verdict {
        verdict(self.lifetimes, self.kind, key.protocol, forward, reply, now)
    }

    /// Removes a flow if it still is over: both entries are read again first.
    fn expire(
        &mut self,
        forward_key: &FlowKey<A>,
        reply_key: &FlowKey<A>,
        now: Now,
    ) -> Result<(), T::Error> {
        let forward = self.table.get(forward_key)?;
        let reply = self.table.get(reply_key)?;
        if self.judge(forward_key, forward.as_ref(), reply.as_ref(), now) == Verdict::Keep {
            return Ok(());
        }
        // If either now belongs to another flow, that one is younger, and was kept just above.
        self.table.remove(forward_key)?;
        self.table.remove(reply_key)?;
        self.walked.expired += 1;
        Ok(())
    }

    /// An entry whose other half is missing, or belongs to another flow.
    fn orphan(&mut self, key: &FlowKey<A>, now: Now) -> Result<(), T::Error> {
        let since = self.before.get(key).copied();
        if since.is_none_or(|since| now.age(since) < now.jiffies_of(GRACE_SECS)) {
            if self.noted.len() < ORPHANS_MAX {
                self.noted.insert(*key, since.unwrap_or(now.jiffies));
            }
            return Ok(());
        }
        let Some(flow) = self.table.get(key)? else {
            return Ok(());
        };
        let is_reply = flow.flags & flow_flags::REPLY != 0;
        let (forward, reply) = if is_reply {
            (None, Some(&flow))
        } else {
            (Some(&flow), None)
        };
        let over = self.judge(key, forward, reply, now) == Verdict::Expire;
        if !over && self.mend(key, &flow)? {
            return Ok(());
        }
        // Over, or the place of its other half is taken by another flow: nothing can use it any more.
        if over || self.kind == Table::Established {
            self.table.remove(key)?;
            self.walked.orphans += 1;
        }
        Ok(())
    }

    /// Gives an established entry its other half back. Pending ones are mended by the programs themselves, when they are used.
    fn mend(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<bool, T::Error> {
        if self.kind == Table::Pending {
            return Ok(false);
        }
        let (pair_key, pair) = mirror(key, flow);
        if let Some(found) = self.table.get(&pair_key)?
            && is_pair(key, &found)
        {
            return Ok(true);
        }
        // A full table has no room for it; a later walk tries again.
        let Ok(added) = self.table.add(&pair_key, &pair) else {
            return Ok(true);
        };
        self.walked.mended += u64::from(added);
        Ok(added)
    }
}

#[cfg(test)]
#[path = "pass_tests.rs"]
mod tests;
