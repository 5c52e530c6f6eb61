//! What is in the maps now, as far as the plan needs it.
//!
//! Owns the picture of the kernel's tables with its indexes, and keeps it in step with each change that was made. It refuses
//! to know what should be there. Invariant: it can be rebuilt from the maps alone, except for names, which only save work.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use nodeport_common::{Frontend, FrontendKey, ServingKey, SourceRangeKey, V4, V6};

use super::contents::{Contents, Limits};
use super::diff::Plan;
use super::family::Ip;
use super::ids::Ids;
use super::noted::Noted;
use super::sets::Sets;
use super::step::{Change, Step};

/// The state of all tables that the plan writes.
#[derive(Clone, Debug)]
pub struct Installed {
    pub(super) v4: Tables<V4>,
    pub(super) v6: Tables<V6>,
    pub(super) ids: Ids,
    /// A former life may have ended between the removal of an endpoint and the raise of the generation.
    pub(super) generation_due: bool,
    /// Numbers that may have lost their last entry.
    idle: Vec<u32>,
}

/// The tables of one address family.
#[derive(Clone, Debug)]
pub struct Tables<A> {
    pub(super) limits: Limits,
    pub(super) frontends: BTreeMap<FrontendKey<A>, Frontend>,
    pub(super) by_service: HashMap<u32, BTreeSet<FrontendKey<A>>>,
    pub(super) sets: Sets<A>,
    pub(super) addresses: BTreeMap<A, u32>,
    pub(super) serving: BTreeMap<u32, BTreeSet<ServingKey<A>>>,
    pub(super) serving_len: u32,
    pub(super) sources: BTreeMap<u32, BTreeSet<SourceRangeKey<A>>>,
    pub(super) sources_len: u32,
    pub(super) noted: Noted,
    /// Something that was found may not be noted.
    pub(super) notes_due: bool,
}

impl Installed {
    /// The state that was found in the maps.
    #[must_use]
    pub fn adopt(v4: &Contents<V4>, v6: &Contents<V6>) -> Self {
        let v4 = Tables::adopt(v4);
        let v6 = Tables::adopt(v6);
        let seen = (v4.services().chain(v6.services())).collect::<Vec<_>>();
        Self {
            generation_due: !v4.frontends.is_empty() || !v6.frontends.is_empty(),
            v4,
            v6,
            ids: Ids::adopt(seen.into_iter()),
            idle: Vec::new(),
        }
    }

    /// Empty maps.
    #[must_use]
    pub fn empty(limits: Limits) -> Self {
        Self::adopt(&Contents::empty(limits), &Contents::empty(limits))
    }

    /// The state that was found when the maps were read again, for example after a write failed: names are kept, and slots
    /// that may have been in use a moment ago rest from `now` on.
    #[must_use]
    pub fn adopt_again(&self, v4: &Contents<V4>, v6: &Contents<V6>, now: Duration) -> Self {
        let mut again = Self::adopt(v4, v6);
        again.v4.sets.inherit(&self.v4.sets, now);
        again.v6.sets.inherit(&self.v6.sets, now);
        again.ids = self.ids.clone();
        again.generation_due = self.generation_due;
        again
    }

    /// Notes the numbers that a plan gives to service ports. Call it before the plan's steps are carried out.
    pub fn begin(&mut self, plan: &Plan) {
        for (name, id) in &plan.names {
            self.ids.assign(name, *id);
            self.idle.push(*id);
        }
    }

    /// Notes that one step was carried out.
    pub fn record(&mut self, step: &Step) {
        match step {
            Step::V4(change) => self.idle.extend(self.v4.record(change)),
            Step::V6(change) => self.idle.extend(self.v6.record(change)),
            Step::RaiseEndpointGeneration => self.generation_due = false,
        }
    }

    /// Notes that a plan is over: sets that nothing names in the end rest from `now` on, names without entries are forgotten.
    pub fn finish(&mut self, complete: bool, now: Duration) {
        self.generation_due |= !complete;
        self.v4.notes_due &= !complete;
        self.v6.notes_due &= !complete;
        self.v4.sets.drop_unused(now);
        self.v6.sets.drop_unused(now);
        for id in std::mem::take(&mut self.idle) {
            if !self.v4.has(id) && !self.v6.has(id) {
                self.ids.forget(id);
            }
        }
    }

    /// Frees slots that have rested for at least `grace`.
    pub fn release(&mut self, now: Duration, grace: Duration) {
        self.v4.sets.release(now, grace);
        self.v6.sets.release(now, grace);
    }

    /// The tables of IPv4.
    #[must_use]
    pub fn v4(&self) -> &Tables<V4> {
        &self.v4
    }

    /// The tables of IPv6.
    #[must_use]
    pub fn v6(&self) -> &Tables<V6> {
        &self.v6
    }

    /// The names of the numbers, as far as they are known.
    #[must_use]
    pub fn ids(&self) -> &Ids {
        &self.ids
    }
}

impl<A: Ip> Tables<A> {
    fn adopt(contents: &Contents<A>) -> Self {
        let values: Vec<Frontend> = contents.frontends.iter().map(|entry| entry.1).collect();
        let mut tables = Self {
            limits: contents.limits,
            frontends: BTreeMap::new(),
            by_service: HashMap::new(),
            sets: Sets::adopt(contents.limits.backends, &contents.backends, &values),
            addresses: (contents.addresses.iter())
                .map(|(address, value)| (*address, value.flags))
                .collect(),
            serving: BTreeMap::new(),
            serving_len: 0,
            sources: BTreeMap::new(),
            sources_len: 0,
            noted: Noted::adopt(&contents.noted),
            notes_due: false,
        };
        for (key, value) in &contents.frontends {
            let value = if tables.sets.knows(value) {
                *value
            } else {
                unsound(value)
            };
            tables.insert(*key, value);
        }
        for key in &contents.serving {
            tables.record_serving(*key);
        }
        for key in &contents.sources {
            tables.record_source(*key);
        }
        tables.notes_due = !tables.noted.is_trusted() || !tables.is_noted();
        tables
    }

    /// Front ends with their values.
    #[must_use]
    pub fn frontends(&self) -> &BTreeMap<FrontendKey<A>, Frontend> {
        &self.frontends
    }

    /// The backend sets.
    #[must_use]
    pub fn sets(&self) -> &Sets<A> {
        &self.sets
    }

    /// Addresses with their flags.
    #[must_use]
    pub fn addresses(&self) -> &BTreeMap<A, u32> {
        &self.addresses
    }

    /// Endpoints that UDP flows may keep, in order.
    pub fn serving(&self) -> impl Iterator<Item = ServingKey<A>> + '_ {
        self.serving.values().flatten().copied()
    }

    /// Number of endpoints that UDP flows may keep.
    #[must_use]
    pub fn serving_len(&self) -> u32 {
        self.serving_len
    }

    /// Ranges of sources, in order.
    pub fn sources(&self) -> impl Iterator<Item = SourceRangeKey<A>> + '_ {
        self.sources.values().flatten().copied()
    }

    /// Number of ranges of sources.
    #[must_use]
    pub fn sources_len(&self) -> u32 {
        self.sources_len
    }

    /// The destinations at which programs look for front ends.
    #[must_use]
    pub fn noted(&self) -> &Noted {
        &self.noted
    }

    /// Whether all that is installed is noted.
    #[must_use]
    pub fn is_noted(&self) -> bool {
        let mut frontends = self.frontends.keys();
        frontends.all(|key| self.noted.has_frontend(key))
            && (self.addresses.iter())
                .all(|(&address, &flags)| self.noted.has_address(address, flags))
    }

    /// Whether a change keeps the promise of `NOTED`: it puts what is noted, or says that all is when it is.
    #[must_use]
    pub fn allows(&self, change: &Change<A>) -> bool {
        match change {
            Change::PutFrontend { key, .. } => self.noted.has_frontend(key),
            Change::PutAddress { address, flags } => self.noted.has_address(*address, *flags),
            Change::TrustNotes => self.is_noted(),
            _ => true,
        }
    }

    /// How much fits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether any entry belongs to a service port.
    pub(super) fn has(&self, service: u32) -> bool {
        self.by_service.contains_key(&service)
            || self.serving.contains_key(&service)
            || self.sources.contains_key(&service)
    }

    /// The front ends of a service port.
    pub(super) fn keys_of(&self, service: u32) -> impl Iterator<Item = &FrontendKey<A>> {
        self.by_service.get(&service).into_iter().flatten()
    }

    pub(super) fn services(&self) -> impl Iterator<Item = u32> + '_ {
        let serving = self.serving.keys().copied();
        let sources = self.sources.keys().copied();
        self.by_service
            .keys()
            .copied()
            .chain(serving)
            .chain(sources)
    }

    /// Notes a change; returns the number that may have lost its last entry by it.
    fn record(&mut self, change: &Change<A>) -> Option<u32> {
        match change {
            Change::Note { word, value } => self.noted.set(*word, *value),
            Change::TrustNotes => self.noted.trust(),
            Change::WriteSet { base, backends } => self.sets.written(*base, backends.clone()),
            Change::AddServing(key) => self.record_serving(*key),
            Change::RemoveServing(key) => {
                if let Some(keys) = self.serving.get_mut(&key.service)
                    && keys.remove(key)
                {
                    self.serving_len -= 1;
                    if keys.is_empty() {
                        self.serving.remove(&key.service);
                        return Some(key.service);
                    }
                }
            }
            Change::AddSource(key) => self.record_source(*key),
            Change::RemoveSource(key) => {
                let service = u32::from_be_bytes(key.service);
                if let Some(keys) = self.sources.get_mut(&service)
                    && keys.remove(key)
                {
                    self.sources_len -= 1;
                    if keys.is_empty() {
                        self.sources.remove(&service);
                        return Some(service);
                    }
                }
            }
            Change::PutFrontend { key, value } => {
                let former = self.remove(key);
                self.sets.hold(value);
                self.insert(*key, *value);
                return former;
            }
            Change::DeleteFrontend { key } => return self.remove(key),
            Change::PutAddress { address, flags } => {
                self.addresses.insert(*address, *flags);
            }
            Change::DeleteAddress { address } => {
                self.addresses.remove(address);
            }
        }
        None
    }

    fn record_serving(&mut self, key: ServingKey<A>) {
        if self.serving.entry(key.service).or_default().insert(key) {
            self.serving_len += 1;
        }
    }

    fn record_source(&mut self, key: SourceRangeKey<A>) {
        let service = u32::from_be_bytes(key.service);
        if self.sources.entry(service).or_default().insert(key) {
            self.sources_len += 1;
        }
    }

    fn insert(&mut self, key: FrontendKey<A>, value: Frontend) {
        self.frontends.insert(key, value);
        self.by_service
            .entry(value.service)
            .or_default()
            .insert(key);
    }

    /// Takes a front end out; returns the number of its service port if that was the last one.
    fn remove(&mut self, key: &FrontendKey<A>) -> Option<u32> {
        let old = self.frontends.remove(key)?;
        self.sets.let_go(&old);
        let keys = self.by_service.get_mut(&old.service)?;
        keys.remove(key);
        if !keys.is_empty() {
            return None;
        }
        self.by_service.remove(&old.service);
        Some(old.service)
    }
}

/// A value that names no slots and that no desired value equals, so that the next plan replaces it.
fn unsound(value: &Frontend) -> Frontend {
    Frontend {
        service: value.service,
        affinity_secs: u32::MAX,
        ..Frontend::default()
    }
}
