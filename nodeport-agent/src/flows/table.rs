//! The tables of flows in the kernel, as a walk needs them.

use std::ops::ControlFlow;

use nodeport_common::{Flow, FlowKey};

use super::pass::{Entries, FlowTable};
use crate::maps::{IpBytes, KernelMap, Map, StoreError};

/// `FLOWS` and `PENDING` have the same keys and values.
impl<A, M> FlowTable<A> for KernelMap<M>
where
    A: IpBytes,
    M: Map<Key = FlowKey<A>, Value = Flow<A>>,
{
    type Error = StoreError;

    fn scan(
        &self,
        visit: &mut dyn FnMut(&Entries<A>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        Self::scan(self, visit)
    }

    fn get(&self, key: &FlowKey<A>) -> Result<Option<Flow<A>>, StoreError> {
        Self::get(self, key)
    }

    fn remove(&self, key: &FlowKey<A>) -> Result<(), StoreError> {
        Self::remove(self, key).map(drop)
    }

    fn add(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<bool, StoreError> {
        Self::add(self, key, flow)
    }
}
