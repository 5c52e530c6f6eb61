//! The agent's walks over the flows of the simulated node.
//!
//! Owns the bridge from its tables to [`FlowTable`]. Refuses to know lifetimes. Invariant: it walks as the agent does after its start:
//! established and pending flows, both families, and the same walkers again and again.

use std::ops::ControlFlow;

use nodeport_agent::flows::pass::Entries;
use nodeport_agent::flows::{FlowTable, Lifetimes, Now, Table, Walker};
use nodeport_common::{Flow, FlowKey, V4, V6};
use nodeport_ebpf::sim::{Map, Node};
use nodeport_ebpf::tables::{Entry, InsertError};

use crate::agent::HZ;

/// A walker for each table.
pub(crate) struct Walkers {
    flows4: Walker<V4>,
    flows6: Walker<V6>,
    pending4: Walker<V4>,
    pending6: Walker<V6>,
}

/// A table of the simulated node.
struct SimTable<'n, A: 'static>(&'n Map<FlowKey<A>, Entry<A>>);

impl<A: Ord + Copy> FlowTable<A> for SimTable<'_, A> {
    type Error = InsertError;

    fn scan(
        &self,
        visit: &mut dyn FnMut(&Entries<A>) -> ControlFlow<()>,
    ) -> Result<(), InsertError> {
        let entries = self.0.entries().into_iter();
        let entries: Vec<_> = entries.map(|(key, entry)| (key, entry.get())).collect();
        let _ = visit(&entries);
        Ok(())
    }

    fn get(&self, key: &FlowKey<A>) -> Result<Option<Flow<A>>, InsertError> {
        Ok(self.0.get(key).map(Entry::get))
    }

    fn remove(&self, key: &FlowKey<A>) -> Result<(), InsertError> {
        self.0.remove(key);
        Ok(())
    }

    fn add(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<bool, InsertError> {
        match self.0.add(*key, Entry::new(flow)) {
            Ok(()) => Ok(true),
            Err(InsertError::Exists) => Ok(false),
            Err(full) => Err(full),
        }
    }
}

impl Walkers {
    pub(crate) fn new() -> Self {
        Self {
            flows4: Walker::new(Table::Established),
            flows6: Walker::new(Table::Established),
            pending4: Walker::new(Table::Pending),
            pending6: Walker::new(Table::Pending),
        }
    }

    /// One walk over each table.
    pub(crate) fn walk(&mut self, node: &Node) {
        let now = Now {
            jiffies: node.jiffies,
            hz: HZ,
        };
        walk(&mut self.flows4, &node.v4.flows, now);
        walk(&mut self.flows6, &node.v6.flows, now);
        walk(&mut self.pending4, &node.v4.pending, now);
        walk(&mut self.pending6, &node.v6.pending, now);
    }
}

fn walk<A: Ord + Copy + std::hash::Hash>(
    walker: &mut Walker<A>,
    table: &Map<FlowKey<A>, Entry<A>>,
    now: Now,
) {
    let walked = walker.walk::<_, InsertError>(
        &SimTable(table),
        &Lifetimes::default(),
        &mut || Ok(now),
        &mut || {},
    );
    walked.expect("room for the other half of a flow");
}
