//! From one snapshot to the next: what [`compile()`](super::compile()) makes of a snapshot, found by looking at what changed.
//!
//! Owns what is kept from one snapshot to the next. It refuses to know who changed what: two sets of objects tell it themselves.
//! Invariant: what it says of a snapshot is what [`compile()`](super::compile()) says of it, whatever it was shown before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::compile::{CompiledService, compile_node, compile_service, problems};
use super::conflict::Claims;
use super::desired::{Desired, FrontendId};
use super::health_check::{HealthCheck, health_check};
use super::objects::{EndpointSlice, Kind, Meta, Node, ObjectKey, Objects, Service};
use super::report::Report;
use super::reports::Reports;
use super::select::Place;
use super::snapshot::Snapshot;

/// What is made of a snapshot. A copy costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// What the maps should say.
    pub desired: Desired,
    /// What could not be followed.
    pub reports: Reports,
    /// What load balancers may ask (behaviours 15).
    pub health_checks: OrdMap<ObjectKey, HealthCheck>,
}

/// Compiles snapshots one after the other.
#[derive(Debug, Default)]
pub struct Compiler {
    objects: Arc<Objects>,
    node_name: String,
    node: Option<Arc<Node>>,
    /// The slices of each Service, whether it exists or not.
    slices: HashMap<ObjectKey, Vec<ObjectKey>>,
    services: HashMap<ObjectKey, Known>,
    claims: Claims,
    /// What is told of front ends that several Services ask for.
    taken: BTreeMap<FrontendId, Vec<Report>>,
    /// What is told of the node.
    node_reports: Vec<Report>,
    out: Compiled,
}

/// What is known of a Service.
#[derive(Debug)]
struct Known {
    service: Arc<Service>,
    compiled: CompiledService,
}

impl Compiler {
    /// What the snapshot means.
    pub fn compile(&mut self, snapshot: &Snapshot) -> &Compiled {
        let before = std::mem::replace(&mut self.objects, Arc::clone(&snapshot.objects));
        let now = Arc::clone(&snapshot.objects);
        let mut changed = self.changed_services(&before, &now);
        self.changed_slices(&before, &now, &mut changed);
        let node = now.nodes.get(&*snapshot.node_name).cloned();
        let zone = |node: &Option<Arc<Node>>| node.as_ref().and_then(|node| node.zone.clone());
        if snapshot.node_name != self.node_name || zone(&node) != zone(&self.node) {
            changed.extend(now.services.keys().cloned());
        }
        self.node_name.clone_from(&snapshot.node_name);
        if !Arc::ptr_eq(&before, &now) && before.reports != now.reports {
            self.replace(&before.reports, now.reports.iter().cloned());
        }
        let zone = zone(&node);
        let place = Place {
            node: &snapshot.node_name,
            zone: zone.as_deref(),
        };
        let mut touched = BTreeSet::new();
        for key in changed {
            self.service(&key, &now, place, &mut touched);
        }
        for id in touched {
            self.settle(id);
        }
        self.node(snapshot, node);
        &self.out
    }

    /// What was made of the last snapshot.
    #[must_use]
    pub fn compiled(&self) -> &Compiled {
        &self.out
    }

    /// The Services that are others than before.
    fn changed_services(&mut self, before: &Objects, now: &Objects) -> BTreeSet<ObjectKey> {
        let mut changed = BTreeSet::new();
        for item in before.services.diff(&now.services) {
            let (key, old, new) = match item {
                DiffItem::Add(key, new) => (key, None, Some(new)),
                DiffItem::Update { old, new } => (new.0, Some(old.1), Some(new.1)),
                DiffItem::Remove(key, old) => (key, Some(old), None),
            };
            self.object(
                Kind::Service,
                old.map(|one| &one.meta),
                new.map(|one| &one.meta),
            );
            changed.insert(key.clone());
        }
        changed
    }

    /// Adds the Services of which a slice is another than before.
    fn changed_slices(
        &mut self,
        before: &Objects,
        now: &Objects,
        changed: &mut BTreeSet<ObjectKey>,
    ) {
        for item in before.endpoint_slices.diff(&now.endpoint_slices) {
            let (key, old, new) = match item {
                DiffItem::Add(key, new) => (key, None, Some(new)),
                DiffItem::Update { old, new } => (new.0, Some(old.1), Some(new.1)),
                DiffItem::Remove(key, old) => (key, Some(old), None),
            };
            self.object(
                Kind::EndpointSlice,
                old.map(|one| &one.meta),
                new.map(|one| &one.meta),
            );
            let old = old.and_then(|slice| slice.service_key());
            let new = new.and_then(|slice| slice.service_key());
            if old != new {
                if let Some(service) = &old {
                    self.forget_slice(service, key);
                }
                if let Some(service) = &new {
                    let slices = self.slices.entry(service.clone());
                    let slices = slices.or_insert_with(|| Vec::with_capacity(1));
                    slices.push(key.clone());
                }
            }
            changed.extend(old.into_iter().chain(new));
        }
    }

    fn forget_slice(&mut self, service: &ObjectKey, slice: &ObjectKey) {
        if let Some(slices) = self.slices.get_mut(service) {
            slices.retain(|one| one != slice);
            if slices.is_empty() {
                self.slices.remove(service);
            }
        }
    }

    /// Compiles a Service anew and notes the front ends that are asked for otherwise.
    fn service(
        &mut self,
        key: &ObjectKey,
        now: &Objects,
        place: Place<'_>,
        touched: &mut BTreeSet<FrontendId>,
    ) {
        let slices: Vec<&EndpointSlice> = (self.slices.get(key).into_iter().flatten())
            .filter_map(|slice| now.endpoint_slices.get(slice).map(AsRef::as_ref))
            .collect();
        let new = now.services.get(key).map(|service| {
            let mut compiled = compile_service(service, &slices, place);
            compiled.claims.shrink_to_fit();
            Known {
                service: Arc::clone(service),
                compiled,
            }
        });
        let check = now.services.get(key);
        match check.and_then(|service| health_check(service, &slices, place.node)) {
            Some(check) if self.out.health_checks.get(key) == Some(&check) => {}
            Some(check) => drop(self.out.health_checks.insert(key.clone(), check)),
            None => drop(self.out.health_checks.remove(key)),
        }
        let old = self.services.remove(key);
        let same = match (&old, &new) {
            (Some(old), Some(new)) => old.is_as(new),
            (old, new) => old.is_none() && new.is_none(),
        };
        if !same {
            if let Some(old) = &old {
                self.drop_service(key, old, touched);
            }
            if let Some(new) = &new {
                self.take_service(new, touched);
            }
        }
        if let Some(new) = new {
            self.services.insert(key.clone(), new);
        }
    }

    fn drop_service(&mut self, key: &ObjectKey, old: &Known, touched: &mut BTreeSet<FrontendId>) {
        for claim in &old.compiled.claims {
            self.claims.remove(key, &claim.id);
            touched.insert(claim.id);
        }
        for name in old.compiled.serving.keys() {
            self.out.desired.serving.remove(name);
        }
        for name in old.compiled.sources.keys() {
            self.out.desired.sources.remove(name);
        }
        for report in &old.compiled.reports {
            self.out.reports.retract(report);
        }
    }

    fn take_service(&mut self, new: &Known, touched: &mut BTreeSet<FrontendId>) {
        for claim in &new.compiled.claims {
            self.claims.add(&new.service.meta, claim.clone());
            touched.insert(claim.id);
        }
        let serving = new.compiled.serving.iter();
        let serving = serving.map(|(name, endpoints)| (name.clone(), Arc::clone(endpoints)));
        self.out.desired.serving.extend(serving);
        let sources = new.compiled.sources.iter();
        let sources = sources.map(|(name, ranges)| (name.clone(), Arc::clone(ranges)));
        self.out.desired.sources.extend(sources);
        let reports = new.compiled.reports.iter().cloned();
        self.out.reports.extend(reports);
    }

    /// Decides anew who has a front end.
    fn settle(&mut self, id: FrontendId) {
        let settled = self.claims.settle(&id);
        let frontends = &mut self.out.desired.frontends;
        match settled.frontend {
            Some(frontend) if frontends.get(&id) == Some(&frontend) => {}
            Some(frontend) => drop(frontends.insert(id, frontend)),
            None => drop(frontends.remove(&id)),
        }
        let before = if settled.reports.is_empty() {
            self.taken.remove(&id)
        } else {
            self.taken.insert(id, settled.reports.clone())
        };
        self.replace(&before.unwrap_or_default(), settled.reports.into_iter());
    }

    /// What depends on the node, and on whether there are NodePorts.
    fn node(&mut self, snapshot: &Snapshot, node: Option<Arc<Node>>) {
        let before = std::mem::replace(&mut self.node, node);
        let node = self.node.clone();
        if before != node {
            let meta = |node: &'_ Option<Arc<Node>>| node.as_ref().map(|node| node.meta.clone());
            self.object(Kind::Node, meta(&before).as_ref(), meta(&node).as_ref());
        }
        let reports = compile_node(snapshot, node.as_deref(), &mut self.out.desired);
        if reports != self.node_reports {
            let before = std::mem::replace(&mut self.node_reports, reports.clone());
            self.replace(&before, reports.into_iter());
        }
    }

    /// What is wrong with an object itself.
    fn object(&mut self, kind: Kind, old: Option<&Meta>, new: Option<&Meta>) {
        let of = |meta: Option<&Meta>| -> Vec<Report> {
            meta.into_iter()
                .flat_map(|meta| problems(meta, kind))
                .collect()
        };
        self.replace(&of(old), of(new).into_iter());
    }

    fn replace(&mut self, old: &[Report], new: impl Iterator<Item = Report>) {
        for report in old {
            self.out.reports.retract(report);
        }
        self.out.reports.extend(new);
    }
}

impl Known {
    /// Whether it is the same Service and asks for the same with the same weight.
    fn is_as(&self, other: &Self) -> bool {
        let (old, new) = (&self.service.meta, &other.service.meta);
        self.compiled == other.compiled
            && (old.created, &old.origin, &old.uid) == (new.created, &new.origin, &new.uid)
    }
}
