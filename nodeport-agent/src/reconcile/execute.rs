//! Carrying out the steps of a plan.
//!
//! Owns batches, and what is left out after a failure. It refuses to know how the steps were found. Invariant: a step is
//! carried out only if everything that it relies on was: the earlier steps of its service port, and the sets that it names.

use std::collections::HashSet;

use nodeport_common::{Address, NOTED_TRUST, NOTED_TRUSTED};

use super::report::{Failed, Report};
use crate::maps::{
    Addresses, Backends, Entry, Frontends, HashMap, IpBytes, Map, NotedPlaces, Partial, Serving,
    Sources, Store, StoreError,
};
use crate::model::desired::Family;
use crate::plan::{Action, Change, Installed, Plan, Planned, Step};

/// A plan on its way into a store.
pub(super) struct Execution<'a, S> {
    pub(super) store: &'a mut S,
    pub(super) installed: &'a mut Installed,
    pub(super) report: Report,
    /// Service ports of which a step failed, by family: the rest of their steps is left out.
    stopped: HashSet<(Family, u32)>,
    /// First slots of sets that were not written.
    unwritten: HashSet<(Family, u32)>,
}

impl<'a, S: Store> Execution<'a, S> {
    pub(super) fn new(store: &'a mut S, installed: &'a mut Installed) -> Self {
        Self {
            store,
            installed,
            report: Report::default(),
            stopped: HashSet::new(),
            unwritten: HashSet::new(),
        }
    }

    /// Carries out all steps that can be.
    pub(super) fn run(mut self, plan: &Plan) -> Report {
        self.installed.begin(plan);
        let alike = |a: &Planned, b: &Planned| {
            (family(&a.step), a.step.action()) == (family(&b.step), b.step.action())
        };
        for run in plan.steps.chunk_by(alike) {
            let mut rest = self.ready(run);
            while !rest.is_empty() {
                let (done, error) = self.batch(&rest);
                for planned in &rest[..done] {
                    self.installed.record(&planned.step);
                    self.report.steps += 1;
                    self.report.entries += planned.step.entries();
                }
                if let Some(error) = error {
                    self.fail(rest[done], error.to_string());
                }
                let next = rest.split_off((done + 1).min(rest.len()));
                rest = self.ready(next);
            }
        }
        self.report
    }

    /// Those of some steps that rely on nothing that failed.
    fn ready<'p>(&mut self, steps: impl IntoIterator<Item = &'p Planned>) -> Vec<&'p Planned> {
        let mut ready = Vec::new();
        for planned in steps {
            if let Some(missing) = self.missing(&planned.step) {
                self.fail(planned, missing);
            } else if !self.is_stopped(planned) {
                ready.push(planned);
            }
        }
        ready
    }

    /// What a step relies on and that was not written.
    fn missing(&self, step: &Step) -> Option<String> {
        let noted = match step {
            Step::V4(change) => self.installed.v4().allows(change),
            Step::V6(change) => self.installed.v6().allows(change),
            Step::RaiseEndpointGeneration => true,
        };
        if !noted {
            return Some("what it needs could not be noted".to_owned());
        }
        let (Step::V4(Change::PutFrontend { value, .. })
        | Step::V6(Change::PutFrontend { value, .. })) = step
        else {
            return None;
        };
        let family = family(step)?;
        [(value.base, value.len), (value.local_base, value.local_len)]
            .into_iter()
            .filter(|&(_, len)| len > 0)
            .map(|(base, _)| base)
            .find(|&base| self.unwritten.contains(&(family, base)))
            .map(|base| format!("the set at slot {base} was not written"))
    }

    /// Whether an earlier step of the same service port failed. Sets are written all the same: others may share them.
    fn is_stopped(&self, planned: &Planned) -> bool {
        planned.step.action() != Action::WriteSet
            && family(&planned.step)
                .zip(planned.service)
                .is_some_and(|key| self.stopped.contains(&key))
    }

    fn fail(&mut self, planned: &Planned, error: String) {
        let family = family(&planned.step);
        if let Some(key) = family.zip(planned.service)
            && !self.stopped.insert(key)
            && planned.step.action() != Action::WriteSet
        {
            // Reported already.
            return;
        }
        if let Some(family) = family
            && let Step::V4(Change::WriteSet { base, .. }) | Step::V6(Change::WriteSet { base, .. }) =
                &planned.step
        {
            self.unwritten.insert((family, *base));
        }
        let name = planned
            .service
            .and_then(|id| self.installed.ids().name(id).cloned());
        self.report.failed.push(Failed {
            service_port: name,
            map: planned.step.map(),
            step: planned.step.to_string(),
            error,
        });
    }

    /// Carries out steps of one kind; says how many, from the first on, and why not the next one.
    fn batch(&mut self, steps: &[&Planned]) -> (usize, Option<StoreError>) {
        let action = steps[0].step.action();
        match &steps[0].step {
            Step::V4(_) => self.batch_of(action, steps.iter().filter_map(|step| v4(&step.step))),
            Step::V6(_) => self.batch_of(action, steps.iter().filter_map(|step| v6(&step.step))),
            Step::RaiseEndpointGeneration => match self.store.raise_endpoint_generation() {
                Ok(()) => (1, None),
                Err(error) => (0, Some(error)),
            },
        }
    }

    fn batch_of<'s, A: IpBytes>(
        &mut self,
        action: Action,
        changes: impl Iterator<Item = &'s Change<A>> + Clone,
    ) -> (usize, Option<StoreError>) {
        let steps = changes.clone().count();
        let written = match action {
            Action::WriteSet => return self.write_sets(changes),
            Action::Note | Action::TrustNotes => self.put::<NotedPlaces<A>, A>(changes, note),
            Action::PutFrontend => self.put::<Frontends<A>, A>(changes, |change| match change {
                Change::PutFrontend { key, value } => Some((*key, *value)),
                _ => None,
            }),
            Action::AddServing => self.put::<Serving<A>, A>(changes, |change| match change {
                Change::AddServing(key) => Some((*key, 1)),
                _ => None,
            }),
            Action::AddSource => self.put::<Sources<A>, A>(changes, |change| match change {
                Change::AddSource(key) => Some((*key, 1)),
                _ => None,
            }),
            Action::PutAddress => self.put::<Addresses<A>, A>(changes, |change| match change {
                Change::PutAddress { address, flags } => {
                    Some((*address, Address { flags: *flags }))
                }
                _ => None,
            }),
            Action::DeleteFrontend => {
                self.delete::<Frontends<A>, A>(changes, |change| match change {
                    Change::DeleteFrontend { key } => Some(*key),
                    _ => None,
                })
            }
            Action::DeleteAddress => {
                self.delete::<Addresses<A>, A>(changes, |change| match change {
                    Change::DeleteAddress { address } => Some(*address),
                    _ => None,
                })
            }
            Action::RemoveServing => self.delete::<Serving<A>, A>(changes, |change| match change {
                Change::RemoveServing(key) => Some(*key),
                _ => None,
            }),
            Action::RemoveSource => self.delete::<Sources<A>, A>(changes, |change| match change {
                Change::RemoveSource(key) => Some(*key),
                _ => None,
            }),
            // Not a change of a family's map.
            Action::RaiseEndpointGeneration => Ok(()),
        };
        match written {
            Ok(()) => (steps, None),
            Err(Partial { done, error }) => (done, Some(error)),
        }
    }

    fn put<'s, M: Map, A: 's>(
        &mut self,
        changes: impl Iterator<Item = &'s Change<A>>,
        entry: impl Fn(&Change<A>) -> Option<Entry<M>>,
    ) -> Result<(), Partial> {
        let entries: Vec<Entry<M>> = changes.filter_map(entry).collect();
        self.store.put::<M>(&entries)
    }

    fn delete<'s, M: HashMap, A: 's>(
        &mut self,
        changes: impl Iterator<Item = &'s Change<A>>,
        key: impl Fn(&Change<A>) -> Option<M::Key>,
    ) -> Result<(), Partial> {
        let keys: Vec<M::Key> = changes.filter_map(key).collect();
        self.store.delete::<M>(&keys)
    }

    /// Writes the slots of several sets in one go. A set counts as written only if all of its slots were.
    fn write_sets<'s, A: IpBytes>(
        &mut self,
        changes: impl Iterator<Item = &'s Change<A>>,
    ) -> (usize, Option<StoreError>) {
        let mut slots: Vec<Entry<Backends<A>>> = Vec::new();
        let mut ends = Vec::new();
        for change in changes {
            if let Change::WriteSet { base, backends } = change {
                slots.extend((*base..).zip(backends.iter().copied()));
                ends.push(slots.len());
            }
        }
        match self.store.put::<Backends<A>>(&slots) {
            Ok(()) => (ends.len(), None),
            Err(Partial { done, error }) => {
                let sets = ends.iter().take_while(|&&end| end <= done).count();
                (sets, Some(error))
            }
        }
    }
}

/// The entry of `NOTED` that a change writes.
fn note<A>(change: &Change<A>) -> Option<(u32, u64)> {
    match change {
        Change::Note { word, value } => Some((*word, *value)),
        Change::TrustNotes => Some((NOTED_TRUST, NOTED_TRUSTED)),
        _ => None,
    }
}

fn v4(step: &Step) -> Option<&Change<nodeport_common::V4>> {
    match step {
        Step::V4(change) => Some(change),
        _ => None,
    }
}

fn v6(step: &Step) -> Option<&Change<nodeport_common::V6>> {
    match step {
        Step::V6(change) => Some(change),
        _ => None,
    }
}

fn family(step: &Step) -> Option<Family> {
    match step {
        Step::V4(_) => Some(Family::V4),
        Step::V6(_) => Some(Family::V6),
        Step::RaiseEndpointGeneration => None,
    }
}
