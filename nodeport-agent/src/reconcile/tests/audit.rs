//! A store that looks at the whole state after each written entry.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use nodeport_common::{NOTED_TRUST, NOTED_TRUSTED, NotedBit, V4, V6, address_flags, noted_place};

use super::build::TestClock;
use super::view::{Seen, View, seen};
use crate::maps::{
    Addresses, ArrayMap, Bytes, Entry, Frontends, HashMap, IpBytes, Map, NotedPlaces, Partial,
    Store, StoreError,
};
use crate::reconcile::{Clock, GRACE};

/// Passes everything on, one entry at a time, and panics when a front end is neither as before nor as wanted.
pub(super) struct AuditStore<S> {
    pub(super) inner: S,
    clock: TestClock,
    before: View,
    after: View,
    allowed: BTreeMap<String, Seen>,
    /// When a slot was last named by a front end.
    named: BTreeMap<(&'static str, u32), Duration>,
    /// Failed writes may leave a front end of a service port that is gone; its entries in `SERVING` go all the same.
    pub(super) lenient: bool,
    /// Entries written.
    pub(super) written: Vec<&'static str>,
}

impl<S: Store> AuditStore<S> {
    pub(super) fn new(inner: S, clock: TestClock) -> Self {
        Self {
            inner,
            clock,
            before: View::default(),
            after: View::default(),
            allowed: BTreeMap::new(),
            named: BTreeMap::new(),
            lenient: false,
            written: Vec::new(),
        }
    }

    /// Starts a transition to `after`. Front ends may be as they are now, or as in `after`.
    pub(super) fn expect(&mut self, after: View) {
        self.before = seen(&self.inner);
        self.after = after;
        self.allowed.clear();
        self.written.clear();
    }

    /// Front ends that may be as in `frontends`, and may be absent all the same: some of them are refused.
    pub(super) fn allow(&mut self, frontends: BTreeMap<String, Seen>) {
        self.allowed = frontends;
    }

    fn audit(&mut self) {
        let now = seen(&self.inner);
        let (before, after) = (&self.before.frontends, &self.after.frontends);
        for (name, found) in &now.frontends {
            assert!(
                [before, after, &self.allowed]
                    .iter()
                    .any(|state| state.get(name) == Some(found)),
                "{name} is {found:?}, was {:?}, should be {:?}",
                before.get(name),
                after.get(name)
            );
        }
        for name in before.keys().filter(|name| after.contains_key(*name)) {
            assert!(now.frontends.contains_key(name), "{name} is absent");
        }
        for (name, found) in now.frontends.iter().filter(|_| !self.lenient) {
            let kept = now.serving.get(name).map_or(0, BTreeSet::len);
            assert!(
                kept >= found.serving as usize,
                "{name} counts {} endpoints that UDP flows may keep, but there are {kept}",
                found.serving
            );
        }
        // Whoever may use a front end before and after may do so in between.
        for (name, found) in now.sources.iter().filter(|_| !self.lenient) {
            let may = |view: &View| view.sources.get(name).cloned();
            if let (Some(before), Some(after)) = (may(&self.before), may(&self.after)) {
                let always: BTreeSet<_> = before.intersection(&after).collect();
                assert!(
                    always.iter().all(|range| found.contains(*range)),
                    "{name} is open to {found:?}, not to all of {always:?}"
                );
            }
            assert!(!found.is_empty(), "{name} is open to nobody");
        }
        self.check_noted::<V4>();
        self.check_noted::<V6>();
        self.note_named::<V4>();
        self.note_named::<V6>();
    }

    /// Once the notes are trusted, programs find every front end and address by them.
    fn check_noted<A: IpBytes>(&self) {
        let word = |index: u32| self.inner.get::<NotedPlaces<A>>(&index).expect("readable");
        if word(NOTED_TRUST) != Some(NOTED_TRUSTED) {
            return;
        }
        let check = |at: NotedBit, what: &dyn std::fmt::Debug| {
            let bits = word(at.word).expect("in range");
            assert!(bits & at.bit != 0, "{what:?} is not noted");
        };
        let place = |address: A| match address.ip() {
            std::net::IpAddr::V4(ip) => noted_place([u32::from(ip)]),
            std::net::IpAddr::V6(ip) => {
                let words = ip.octets();
                let (words, _) = words.as_chunks::<4>();
                noted_place::<4>(std::array::from_fn(|index| {
                    u32::from_be_bytes(words[index])
                }))
            }
        };
        for (key, _) in self.inner.entries::<Frontends<A>>().expect("readable") {
            check(NotedBit::of_port(key.port), &key);
        }
        for (address, value) in self.inner.entries::<Addresses<A>>().expect("readable") {
            if value.flags & (address_flags::NODE_PORT | address_flags::VIRTUAL) != 0 {
                check(NotedBit::of_address(place(address)), &address.ip());
            }
        }
    }

    fn note_named<A: IpBytes>(&mut self) {
        for (_, value) in self.inner.entries::<Frontends<A>>().expect("readable") {
            let ranges = [(value.base, value.len), (value.local_base, value.local_len)];
            for slot in ranges.into_iter().flat_map(|(base, len)| base..base + len) {
                self.named.insert((A::BACKENDS, slot), self.clock.now());
            }
        }
    }

    /// A slot is written only if no front end named it for the grace period.
    fn check_rested(&self, map: &'static str, slot: u32) {
        if let Some(&at) = self.named.get(&(map, slot)) {
            let rested = self.clock.now().saturating_sub(at);
            assert!(rested >= GRACE, "slot {slot} of {map} rested {rested:?}");
        }
    }
}

impl<S: Store> Store for AuditStore<S> {
    fn limit<M: Map>(&self) -> Result<u32, StoreError> {
        self.inner.limit::<M>()
    }

    fn get<M: Map>(&self, key: &M::Key) -> Result<Option<M::Value>, StoreError> {
        self.inner.get::<M>(key)
    }

    fn head<M: ArrayMap>(&self, len: u32) -> Result<Vec<M::Value>, StoreError> {
        self.inner.head::<M>(len)
    }

    fn scan<M: HashMap>(
        &self,
        visit: &mut dyn FnMut(&[Entry<M>]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.scan::<M>(visit)
    }

    fn put<M: Map>(&mut self, entries: &[Entry<M>]) -> Result<(), Partial> {
        // What is named now was named until now.
        self.note_named::<V4>();
        self.note_named::<V6>();
        for (done, entry) in entries.iter().enumerate() {
            if M::NAME.starts_with("BACKENDS") {
                let mut index = [0; 4];
                entry.0.put(&mut index);
                self.check_rested(M::NAME, u32::from_ne_bytes(index));
            }
            self.written.push(M::NAME);
            let result = self.inner.put::<M>(&[*entry]);
            self.audit();
            result.map_err(|partial| Partial {
                done,
                error: partial.error,
            })?;
        }
        Ok(())
    }

    fn delete<M: HashMap>(&mut self, keys: &[M::Key]) -> Result<(), Partial> {
        self.note_named::<V4>();
        self.note_named::<V6>();
        for (done, key) in keys.iter().enumerate() {
            self.written.push(M::NAME);
            let result = self.inner.delete::<M>(&[*key]);
            self.audit();
            result.map_err(|partial| Partial {
                done,
                error: partial.error,
            })?;
        }
        Ok(())
    }

    fn raise_endpoint_generation(&mut self) -> Result<(), StoreError> {
        self.written.push("CONTROL");
        self.inner.raise_endpoint_generation()
    }
}
