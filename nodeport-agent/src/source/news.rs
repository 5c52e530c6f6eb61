//! What changed between two sets of objects: how much, and which changes of endpoints are waited for.
//!
//! Owns the counts and the times at which the cluster asked for a change. It refuses to know what is written. Invariant: what was counted
//! for a set that nobody took is counted for the next one.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use k8s_openapi::jiff::Timestamp;

use crate::model::Objects;
use crate::model::desired::Family;
use crate::model::objects::{EndpointSlice, Object};

/// Most times that are kept: more changes than this at once are the cluster's problem, and its latency is known by then.
const TRIGGERS_MAX: usize = 16_384;

/// What changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Changes of Services: additions, updates and removals.
    pub services: u64,
    /// Changes of EndpointSlices that are for us.
    pub endpoint_slices: u64,
    /// Of each changed slice, its family and when what it says happened in the cluster, if it tells (behaviours 22.11).
    pub triggers: Vec<(Family, Timestamp)>,
}

impl News {
    /// Takes note of an object that is there, or is another one now. What happened before `started` was for an earlier agent to follow.
    pub(super) fn set(&mut self, object: &Object, started: Timestamp) {
        match object {
            Object::Service(_) => self.services += 1,
            Object::EndpointSlice(slice) if slice.service.is_some() => {
                self.endpoint_slices += 1;
                self.trigger(slice, started);
            }
            Object::EndpointSlice(_) | Object::Node(_) => {}
        }
    }

    /// Takes note of an object that is gone. When that was asked for, it does not say: its annotation tells of its last change.
    pub(super) fn gone(&mut self, object: &Object) {
        match object {
            Object::Service(_) => self.services += 1,
            Object::EndpointSlice(slice) => {
                self.endpoint_slices += u64::from(slice.service.is_some());
            }
            Object::Node(_) => {}
        }
    }

    /// Adds what changed later.
    pub fn add(&mut self, later: Self) {
        self.services += later.services;
        self.endpoint_slices += later.endpoint_slices;
        let room = TRIGGERS_MAX.saturating_sub(self.triggers.len());
        self.triggers.extend(later.triggers.into_iter().take(room));
    }

    /// What differs between two complete sets.
    #[must_use]
    pub(super) fn between(before: &Objects, now: &Objects, started: Timestamp) -> Self {
        let mut news = Self::default();
        news.differ(&before.services, &now.services, started, |one| {
            Object::Service(Arc::clone(one))
        });
        news.differ(
            &before.endpoint_slices,
            &now.endpoint_slices,
            started,
            |one| Object::EndpointSlice(Arc::clone(one)),
        );
        news
    }

    fn differ<K: Ord + Clone, V: PartialEq>(
        &mut self,
        before: &OrdMap<K, Arc<V>>,
        now: &OrdMap<K, Arc<V>>,
        started: Timestamp,
        object: impl Fn(&Arc<V>) -> Object,
    ) {
        for item in before.diff(now) {
            match item {
                DiffItem::Add(_, one) | DiffItem::Update { new: (_, one), .. } => {
                    self.set(&object(one), started);
                }
                DiffItem::Remove(_, one) => self.gone(&object(one)),
            }
        }
    }

    fn trigger(&mut self, slice: &EndpointSlice, started: Timestamp) {
        let after = slice.triggered.filter(|triggered| *triggered > started);
        if let Some(triggered) = after
            && self.triggers.len() < TRIGGERS_MAX
        {
            self.triggers.push((slice.family, triggered));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decode::{Decoded, decode};
    use serde_json::{Value, json};

    fn set(documents: &[Value]) -> Objects {
        let mut objects = Objects::default();
        for document in documents {
            let Decoded::Object(object) = decode(document, None) else {
                panic!("{document} is no object");
            };
            objects.insert(object);
        }
        objects
    }

    fn slice(name: &str, service: &str, triggered: &str) -> Value {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv6",
            "metadata": {
                "namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": triggered},
            },
            "endpoints": [], "ports": [],
        })
    }

    fn service(port: u16) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]},
        })
    }

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn changes_are_counted_and_triggers_kept_but_for_older_ones_and_removals_22_11() {
        let started = time("2026-01-01T00:00:10Z");
        let before = set(&[
            service(80),
            slice("same", "web", "2026-01-01T00:00:11Z"),
            slice("goes", "web", "2026-01-01T00:00:12Z"),
            slice("changes", "web", "2026-01-01T00:00:13Z"),
        ]);
        let now = set(&[
            service(81),
            slice("same", "web", "2026-01-01T00:00:11Z"),
            slice("changes", "web", "2026-01-01T00:00:14Z"),
            slice("comes", "web", "2026-01-01T00:00:09Z"),
            slice("nobodys", "", "2026-01-01T00:00:15Z"),
        ]);
        let news = News::between(&before, &now, started);
        assert_eq!((news.services, news.endpoint_slices), (1, 3));
        assert_eq!(news.triggers, [(Family::V6, time("2026-01-01T00:00:14Z"))]);
        assert_eq!(News::between(&now, &now, started), News::default());
    }

    #[test]
    fn what_comes_later_is_added_up_to_a_bound() {
        let mut news = News {
            services: 1,
            endpoint_slices: 2,
            triggers: vec![(Family::V4, Timestamp::UNIX_EPOCH); TRIGGERS_MAX - 1],
        };
        news.add(News {
            services: 10,
            endpoint_slices: 20,
            triggers: vec![(Family::V4, Timestamp::UNIX_EPOCH); 2],
        });
        assert_eq!((news.services, news.endpoint_slices), (11, 22));
        assert_eq!(news.triggers.len(), TRIGGERS_MAX);
    }
}
