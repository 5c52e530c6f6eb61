//! Changes into complete sets of objects. Pure but for the clock that it is given.
//!
//! Owns completeness (behaviours 22.1), the order of versions, and what an interrupted list means. It refuses to know connections.
//! Invariant: while a list is being received the former state stays; an object that did not change stays the same one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::lean::Found;
use crate::model::objects::{Kind, Object, ObjectKey, ObjectRef, Objects};
use crate::model::report::Report;
use crate::source::News;

/// How long the own Node is waited for (behaviours 20.3). Services must not wait for ever for topology hints.
pub(super) const NODE_PATIENCE: Duration = Duration::from_secs(30);

/// Of so many objects that are gone it is remembered in which version: longer than a watch says one thing twice.
const GRAVES: usize = 1024;

/// What a watch says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A list begins. What an unfinished one brought is void.
    Begin,
    /// An object of the list.
    Listed(Found),
    /// The list is complete: what it has not is gone.
    Complete,
    /// An object is there, or changed.
    Set(Found),
    /// An object is gone, or matches no more.
    Gone(Found),
}

/// All objects that are known.
#[derive(Debug, Default)]
pub(super) struct Cache {
    objects: Objects,
    services: OfKind,
    slices: OfKind,
    node: OfKind,
    /// Since when all but the Node is complete.
    waiting: Option<Instant>,
    /// When we began: triggers of earlier changes are not ours.
    started: Timestamp,
    news: News,
}

#[derive(Debug, Default)]
struct OfKind {
    complete: bool,
    /// The list that is being received.
    listing: Option<BTreeMap<ObjectKey, Found>>,
    versions: HashMap<ObjectKey, u64>,
    /// The last objects that a change said are gone since the list, oldest first.
    gone: VecDeque<(ObjectKey, u64)>,
    refused: BTreeMap<ObjectKey, Vec<Report>>,
}

impl Cache {
    /// Nothing is known yet.
    pub(super) fn started(now: Timestamp) -> Self {
        Self {
            started: now,
            ..Self::default()
        }
    }

    /// What changed since this was last asked.
    pub(super) fn news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// Takes a change; says whether the objects are others than before.
    pub(super) fn apply(&mut self, kind: Kind, change: Change) -> bool {
        match change {
            Change::Begin => self.of(kind).listing = Some(BTreeMap::new()),
            Change::Listed(found) => {
                let listing = self.of(kind).listing.get_or_insert_default();
                listing.insert(found.key.clone(), found);
            }
            Change::Complete => return self.complete(kind),
            Change::Set(found) if self.is_news(kind, &found) => return self.set(kind, found),
            Change::Gone(found) if self.is_news(kind, &found) => {
                self.of(kind).bury(&found);
                return self.remove(kind, &found.key);
            }
            Change::Set(_) | Change::Gone(_) => {}
        }
        false
    }

    /// The objects, if they are a complete set.
    pub(super) fn complete_set(&mut self, now: Instant) -> Option<&Objects> {
        if !self.services.complete || !self.slices.complete {
            return None;
        }
        let since = *self.waiting.get_or_insert(now);
        let has_node = self.node.complete && !self.objects.nodes.is_empty();
        (has_node || now >= since + NODE_PATIENCE).then_some(&self.objects)
    }

    /// When a set without the Node is complete all the same; `None` while something else is missing.
    pub(super) fn node_deadline(&self) -> Option<Instant> {
        self.waiting.map(|since| since + NODE_PATIENCE)
    }

    fn of(&mut self, kind: Kind) -> &mut OfKind {
        match kind {
            Kind::Service => &mut self.services,
            Kind::EndpointSlice => &mut self.slices,
            Kind::Node => &mut self.node,
        }
    }

    /// Whether a change is later than what is known. Versions of one cluster only grow; after its data base was put back to an earlier
    /// state it is a list that says so, not a change.
    fn is_news(&mut self, kind: Kind, found: &Found) -> bool {
        let known = self.of(kind).known(&found.key);
        found.version == 0 || known.is_none_or(|known| known < found.version)
    }

    fn complete(&mut self, kind: Kind) -> bool {
        let of_kind = self.of(kind);
        let first = !std::mem::replace(&mut of_kind.complete, true);
        let listed = of_kind.listing.take().unwrap_or_default();
        of_kind.gone.clear();
        let gone: Vec<ObjectKey> = (of_kind.versions.keys())
            .filter(|key| !listed.contains_key(*key))
            .cloned()
            .collect();
        let mut changed = first;
        for key in gone {
            self.of(kind).versions.remove(&key);
            changed |= self.remove(kind, &key);
        }
        for found in listed.into_values() {
            changed |= self.set(kind, found);
        }
        changed
    }

    fn set(&mut self, kind: Kind, found: Found) -> bool {
        self.of(kind)
            .versions
            .insert(found.key.clone(), found.version);
        match found.content {
            Ok(object) => {
                let was_refused = self.of(kind).refused.remove(&found.key).is_some();
                if was_refused {
                    self.report();
                }
                if self.held(kind, &found.key).as_ref() == Some(&object) {
                    return was_refused;
                }
                self.news.set(&object, self.started);
                self.objects.insert(object);
                true
            }
            Err(reports) => {
                if self.of(kind).refused.get(&found.key) == Some(&reports) {
                    return false;
                }
                self.remove(kind, &found.key);
                self.of(kind).refused.insert(found.key, reports);
                self.report();
                true
            }
        }
    }

    fn held(&self, kind: Kind, key: &ObjectKey) -> Option<Object> {
        match kind {
            Kind::Service => self.objects.services.get(key).cloned().map(Object::Service),
            Kind::EndpointSlice => {
                let slice = self.objects.endpoint_slices.get(key);
                slice.cloned().map(Object::EndpointSlice)
            }
            Kind::Node => self.objects.nodes.get(&key.name).cloned().map(Object::Node),
        }
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey) -> bool {
        let refused = self.of(kind).refused.remove(key).is_some();
        if refused {
            self.report();
        }
        if let Some(object) = self.held(kind, key) {
            self.news.gone(&object);
        }
        let key = key.clone();
        self.objects.remove(&ObjectRef { kind, key }) || refused
    }

    fn report(&mut self) {
        let all = [&self.services, &self.slices, &self.node];
        let reports = all
            .iter()
            .flat_map(|of_kind| of_kind.refused.values().flatten().cloned());
        self.objects.reports = reports.collect();
    }
}

impl OfKind {
    /// The last version that is known of an object, also of one that is gone.
    fn known(&self, key: &ObjectKey) -> Option<u64> {
        let there = self.versions.get(key).copied();
        there.or_else(|| {
            let mut gone = self.gone.iter().rev();
            gone.find_map(|(one, version)| (one == key).then_some(*version))
        })
    }

    /// An object is gone in this version.
    fn bury(&mut self, found: &Found) {
        self.versions.remove(&found.key);
        if self.gone.len() == GRAVES {
            self.gone.pop_front();
        }
        self.gone.push_back((found.key.clone(), found.version));
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
