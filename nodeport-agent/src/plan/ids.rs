//! Numbers of service ports.
//!
//! Owns which service port has which [`Frontend::service`](nodeport_common::Frontend::service). It refuses to know where the
//! numbers are written. Invariants: a number has one name at a time, 0 is never given, and a number given back is given
//! again as late as possible.

use std::collections::HashMap;
use std::sync::Arc;

use imbl::OrdMap;

use crate::model::desired::ServicePortName;

/// The names of the numbers in use. Names are not in the kernel: after a restart it is filled again from the front ends found.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    by_name: HashMap<Arc<ServicePortName>, u32>,
    by_id: OrdMap<u32, Arc<ServicePortName>>,
    /// The largest number ever seen or given.
    last: u32,
}

impl Ids {
    /// Numbers that are in the maps, without their names.
    #[must_use]
    pub fn adopt(seen: impl Iterator<Item = u32>) -> Self {
        Self {
            last: seen.max().unwrap_or(0),
            ..Self::default()
        }
    }

    /// The number of a service port.
    #[must_use]
    pub fn id(&self, name: &ServicePortName) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The service port that has a number.
    #[must_use]
    pub fn name(&self, id: u32) -> Option<&ServicePortName> {
        self.by_id.get(&id).map(AsRef::as_ref)
    }

    /// All names by number, as they are now.
    #[must_use]
    pub fn names(&self) -> OrdMap<u32, Arc<ServicePortName>> {
        self.by_id.clone()
    }

    /// Whether a number has a name.
    #[must_use]
    pub fn is_named(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The largest number that was ever in use.
    #[must_use]
    pub fn last(&self) -> u32 {
        self.last
    }

    /// Gives a name to a number.
    pub fn assign(&mut self, name: &ServicePortName, id: u32) {
        let name = Arc::new(name.clone());
        if let Some(old) = self.by_name.insert(name.clone(), id) {
            self.by_id.remove(&old);
        }
        self.by_id.insert(id, name);
        // Numbers given after the wrap are small; they must not move the mark.
        if id.wrapping_sub(self.last) < u32::MAX / 2 {
            self.last = id;
        }
    }

    /// Forgets the name of a number.
    pub fn forget(&mut self, id: u32) {
        if let Some(name) = self.by_id.remove(&id) {
            self.by_name.remove(&name);
        }
    }
}

/// Gives fresh numbers: upward from the largest ever used, over the end to 1, never one that `in_use` knows.
pub(super) struct Fresh {
    last: u32,
}

impl Fresh {
    pub(super) fn after(last: u32) -> Self {
        Self { last }
    }

    pub(super) fn next(&mut self, in_use: impl Fn(u32) -> bool) -> u32 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !in_use(self.last) {
                return self.last;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::desired::Protocol;

    fn port(name: &str) -> ServicePortName {
        ServicePortName {
            namespace: "default".into(),
            name: name.into(),
            port: "".into(),
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn a_number_that_was_given_back_is_not_the_next_one() {
        let mut ids = Ids::adopt([3, 9, 4].into_iter());
        assert_eq!(ids.last(), 9);
        let fresh = Fresh::after(ids.last()).next(|id| ids.is_named(id));
        assert_eq!(fresh, 10);
        ids.assign(&port("a"), fresh);
        ids.forget(fresh);
        assert_eq!(ids.id(&port("a")), None);
        assert_eq!(ids.name(10), None);
        assert_eq!(Fresh::after(ids.last()).next(|id| ids.is_named(id)), 11);
    }

    #[test]
    fn numbers_wrap_past_zero_and_past_those_in_use() {
        let mut ids = Ids::adopt([u32::MAX].into_iter());
        ids.assign(&port("old"), 1);
        let fresh = Fresh::after(ids.last()).next(|id| ids.is_named(id));
        assert_eq!(fresh, 2);
        ids.assign(&port("new"), 2);
        assert_eq!(ids.last(), 2);
        assert_eq!(ids.name(1), Some(&port("old")));
    }

    #[test]
    fn a_service_port_has_one_number() {
        let mut ids = Ids::default();
        ids.assign(&port("a"), 1);
        ids.assign(&port("a"), 2);
        assert_eq!((ids.id(&port("a")), ids.name(1)), (Some(2), None));
    }
}
