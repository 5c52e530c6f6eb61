//! The plan of one address family.
//!
//! Owns which changes are needed and in which phase each comes. It refuses to know the other family. Invariant: the slots,
//! hash map entries and front ends that the changes count on are there at the moment of each step, not only at the end.

mod addresses;
mod notes;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use nodeport_common::{Backend, Frontend, FrontendKey, ServingKey};

use super::family::{Ip, backend};
use super::ids::Ids;
use super::installed::Tables;
use super::refusal::{MapNames, Need, Reason, Refused, Room};
use super::slots::Slots;
use super::step::Change;
use super::unit::Unit;
use crate::model::desired::{BackendSet, Desired, DesiredFrontend, Protocol};

/// The order of changes: everything that a front end needs is there before it, and goes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Destinations of front ends, before programs may have to find them.
    Note,
    /// Front ends of service ports that are gone, and those that must make room.
    DeleteFirst,
    WriteSets,
    AddServing,
    AddSources,
    PutFrontends,
    PutAddresses,
    DeleteFrontends,
    DeleteAddresses,
    RemoveServing,
    RemoveSources,
}

impl Phase {
    pub(super) const ALL: [Self; 11] = [
        Self::Note,
        Self::DeleteFirst,
        Self::WriteSets,
        Self::AddServing,
        Self::AddSources,
        Self::PutFrontends,
        Self::PutAddresses,
        Self::DeleteFrontends,
        Self::DeleteAddresses,
        Self::RemoveServing,
        Self::RemoveSources,
    ];
}

/// What a plan looks at.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    /// All that is desired and all that is installed.
    Everything,
    /// The units, and what is installed for these numbers; all else is in place.
    Only(BTreeSet<u32>),
}

/// The changes of one family by phase, each with the number of its service port.
pub(super) struct FamilyPlan<A> {
    phases: [Vec<(Option<u32>, Change<A>)>; 11],
    pub(super) refused: Vec<Refused>,
    /// A flow may now be with an endpoint that its front end no longer has.
    pub(super) stale_flows: bool,
    /// Some service port has endpoints.
    pub(super) has_endpoints: bool,
}

impl<A> FamilyPlan<A> {
    /// The changes of one phase.
    pub(super) fn take(&mut self, phase: Phase) -> Vec<(Option<u32>, Change<A>)> {
        std::mem::take(&mut self.phases[phase as usize])
    }
}

struct Differ<'a, A> {
    scope: &'a Scope,
    tables: &'a Tables<A>,
    ids: &'a Ids,
    units: &'a [Unit<'a, A>],
    /// Which unit wants a front end.
    claims: HashMap<FrontendKey<A>, usize>,
    slots: Slots,
    /// Sets that this plan writes.
    fresh: HashMap<Arc<[Backend<A>]>, u32>,
    room: Room,
    /// Addresses that this plan adds.
    added: BTreeSet<A>,
    /// Numbers of the units that stay as they were.
    kept: HashSet<u32>,
    out: FamilyPlan<A>,
}

/// Plans one family.
pub(super) fn plan_family<A: Ip>(
    units: &[Unit<'_, A>],
    scope: &Scope,
    tables: &Tables<A>,
    ids: &Ids,
    desired: &Desired,
) -> FamilyPlan<A> {
    let mut differ = Differ::new(units, scope, tables, ids);
    let node = differ.node_addresses(desired);
    differ.gone();
    // What is installed comes first: when space is short, changes win over new service ports.
    let (old, new): (Vec<_>, Vec<_>) = units
        .iter()
        .partition(|unit| tables.by_service.contains_key(&unit.id));
    for unit in old.into_iter().chain(new) {
        if let Err(reason) = differ.unit(unit) {
            differ.kept.insert(unit.id);
            differ.out.refused.push(Refused {
                service_port: Some(unit.name.clone()),
                family: A::FAMILY,
                reason,
            });
        }
    }
    differ.orphans();
    differ.addresses(node, desired);
    differ.notes();
    differ.out
}

impl<'a, A: Ip> Differ<'a, A> {
    fn new(
        units: &'a [Unit<'a, A>],
        scope: &'a Scope,
        tables: &'a Tables<A>,
        ids: &'a Ids,
    ) -> Self {
        let members = |(index, unit): (usize, &Unit<'_, A>)| {
            let keys: Vec<_> = unit.members.iter().map(|member| member.0).collect();
            keys.into_iter().map(move |key| (key, index))
        };
        Self {
            scope,
            tables,
            ids,
            units,
            claims: units.iter().enumerate().flat_map(members).collect(),
            slots: tables.sets.slots().clone(),
            fresh: HashMap::new(),
            room: Room::new(
                tables.limits,
                Need {
                    frontends: tables.frontends.len() as u32,
                    frontends_given: 0,
                    addresses: tables.addresses.len() as u32,
                    serving: tables.serving_len,
                    sources: tables.sources_len,
                },
            ),
            added: BTreeSet::new(),
            kept: HashSet::new(),
            out: FamilyPlan {
                phases: Default::default(),
                refused: Vec::new(),
                stale_flows: false,
                has_endpoints: false,
            },
        }
    }

    fn emit(&mut self, phase: Phase, service: Option<u32>, change: Change<A>) {
        self.out.phases[phase as usize].push((service, change));
    }

    /// Removes what belongs to service ports that no longer exist, but for front ends that others take over.
    fn gone(&mut self) {
        let tables = self.tables;
        let living: HashSet<u32> = self.units.iter().map(|unit| unit.id).collect();
        let dead: BTreeSet<u32> = match self.scope {
            Scope::Everything => tables
                .services()
                .filter(|id| !living.contains(id))
                .collect(),
            Scope::Only(ids) => ids
                .difference(&living.into_iter().collect())
                .copied()
                .collect(),
        };
        let frontends = dead
            .iter()
            .flat_map(|&id| tables.keys_of(id).map(move |key| (*key, id)));
        let gone: BTreeMap<FrontendKey<A>, u32> = frontends.collect();
        for (key, service) in gone {
            if !self.claims.contains_key(&key) {
                let change = Change::DeleteFrontend { key };
                self.emit(Phase::DeleteFirst, Some(service), change);
                self.room.frontends += 1;
            }
        }
        for service in dead {
            for key in tables.serving.get(&service).into_iter().flatten() {
                let change = Change::RemoveServing(*key);
                self.emit(Phase::RemoveServing, Some(service), change);
            }
            for key in tables.sources.get(&service).into_iter().flatten() {
                let change = Change::RemoveSource(*key);
                self.emit(Phase::RemoveSources, Some(service), change);
            }
        }
    }

    /// Plans one service port, or leaves all of it as it is.
    fn unit(&mut self, unit: &Unit<'_, A>) -> Result<(), Reason> {
        if let Some(fault) = &unit.fault {
            return Err(fault.clone());
        }
        let tables = self.tables;
        let abandoned = self.abandoned(unit.id);
        let none = BTreeSet::new();
        let served = tables.serving.get(&unit.id).unwrap_or(&none);
        let (need, vips) = self.need(unit, &abandoned, served);
        let delete_first = self.room.check(&need, names::<A>())?;
        let values = self.values(unit)?;
        self.room.take(&need, delete_first);
        self.added.extend(vips);
        self.sources(unit);

        self.note_flows(unit, served, &values);
        for key in unit.serving.difference(served) {
            self.emit(Phase::AddServing, Some(unit.id), Change::AddServing(*key));
        }
        for (&(key, _), value) in unit.members.iter().zip(values) {
            if tables.frontends.get(&key) != Some(&value) {
                let change = Change::PutFrontend { key, value };
                self.emit(Phase::PutFrontends, Some(unit.id), change);
            }
        }
        let phase = if delete_first {
            Phase::DeleteFirst
        } else {
            Phase::DeleteFrontends
        };
        for key in abandoned {
            self.emit(phase, Some(unit.id), Change::DeleteFrontend { key });
        }
        for key in served.difference(&unit.serving) {
            let change = Change::RemoveServing(*key);
            self.emit(Phase::RemoveServing, Some(unit.id), change);
        }
        Ok(())
    }

    /// Who may use a service port's restricted front ends: more of them before the front ends change, fewer after.
    fn sources(&mut self, unit: &Unit<'_, A>) {
        let none = BTreeSet::new();
        let installed = self.tables.sources.get(&unit.id).unwrap_or(&none);
        for key in unit.sources.difference(installed) {
            self.emit(Phase::AddSources, Some(unit.id), Change::AddSource(*key));
        }
        for key in installed.difference(&unit.sources) {
            let change = Change::RemoveSource(*key);
            self.emit(Phase::RemoveSources, Some(unit.id), change);
        }
    }

    /// Front ends that are installed for a service port and that nobody wants.
    fn abandoned(&self, service: u32) -> Vec<FrontendKey<A>> {
        let installed = self.tables.by_service.get(&service).into_iter().flatten();
        installed
            .filter(|key| !self.claims.contains_key(key))
            .copied()
            .collect()
    }

    /// The entries that a service port needs in addition, and the addresses among them.
    fn need(
        &self,
        unit: &Unit<'_, A>,
        abandoned: &[FrontendKey<A>],
        served: &BTreeSet<ServingKey<A>>,
    ) -> (Need, BTreeSet<A>) {
        let tables = self.tables;
        let mut need = Need {
            frontends_given: abandoned.len() as u32,
            serving: unit.serving.difference(served).count() as u32,
            sources: self.new_sources(unit),
            ..Need::default()
        };
        let mut vips = BTreeSet::new();
        for (key, _) in &unit.members {
            if !tables.frontends.contains_key(key) {
                need.frontends += 1;
            }
            if key.address != A::UNSPECIFIED
                && !tables.addresses.contains_key(&key.address)
                && !self.added.contains(&key.address)
            {
                vips.insert(key.address);
            }
        }
        need.addresses = vips.len() as u32;
        (need, vips)
    }

    fn new_sources(&self, unit: &Unit<'_, A>) -> u32 {
        let installed = self.tables.sources.get(&unit.id);
        let is_new = |key: &&_| installed.is_none_or(|installed| !installed.contains(*key));
        unit.sources.iter().filter(is_new).count() as u32
    }

    /// Notes whether flows must look again at their endpoint once the new sets are in place.
    ///
    /// UDP (behaviours 17.3): one that served went away, or the front end has endpoints that are not those of the service port
    /// to which it belonged, or that had none (17.5, 17.6). TCP (edge-cases B11): a set lost an endpoint, and a client may
    /// still be knocking there.
    fn note_flows(
        &mut self,
        unit: &Unit<'_, A>,
        served: &BTreeSet<ServingKey<A>>,
        values: &[Frontend],
    ) {
        let has = |set: &BackendSet| !set.backends.is_empty();
        let members = &unit.members;
        self.out.has_endpoints |= (members.iter()).any(|member| has(&member.1.inside));
        self.out.stale_flows |= if unit.name.protocol == Protocol::Udp {
            let owner = |key| Some(self.tables.frontends.get(key)?.service);
            let taken_over = || (members.iter()).any(|(key, _)| owner(key) != Some(unit.id));
            let lost = !served.is_subset(&unit.serving);
            !unit.serving.is_empty() && (served.is_empty() || lost || taken_over())
        } else {
            (members.iter().zip(values))
                .any(|((key, wanted), value)| self.loses_endpoint(key, wanted, value))
        };
    }

    /// Whether a front end names an endpoint that it is not to have any more.
    fn loses_endpoint(
        &self,
        key: &FrontendKey<A>,
        wanted: &DesiredFrontend,
        value: &Frontend,
    ) -> bool {
        let Some(old) = self.tables.frontends.get(key) else {
            return false;
        };
        let loses = |base, len, wanted: &BackendSet| {
            let content = self.tables.sets.content(base, len).unwrap_or_default();
            let wanted: BTreeSet<_> = wanted.backends.iter().filter_map(backend).collect();
            content.iter().any(|slot| !wanted.contains(slot))
        };
        let outside = (old.base, old.len);
        let inside = (old.local_base, old.local_len);
        (outside != (value.base, value.len) && loses(old.base, old.len, &wanted.outside))
            || (inside != (value.local_base, value.local_len)
                && loses(old.local_base, old.local_len, &wanted.inside))
    }

    /// Removes front ends that a refused service port was to take over from one that no longer wants them.
    fn orphans(&mut self) {
        let tables = self.tables;
        for unit in self.units {
            if !self.kept.contains(&unit.id) {
                continue;
            }
            for (key, _) in &unit.members {
                if let Some(value) = tables.frontends.get(key)
                    && value.service != unit.id
                    && !self.kept.contains(&value.service)
                {
                    let change = Change::DeleteFrontend { key: *key };
                    self.emit(Phase::DeleteFrontends, Some(value.service), change);
                }
            }
        }
    }
}

fn names<A: Ip>() -> MapNames {
    MapNames {
        frontends: A::FRONTENDS,
        addresses: A::ADDRESSES,
        serving: A::SERVING,
        sources: A::SOURCES,
    }
}
