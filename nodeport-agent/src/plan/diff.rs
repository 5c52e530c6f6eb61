//! Desired state and installed state in, ordered steps out.
//!
//! Owns the order of steps across both address families. It refuses to know how a step is carried out and what time it is.
//! Invariants: after every prefix of the steps each front end names complete sets, its old ones or its new ones; a front end
//! that is wanted before and after is never absent in between; the plan of a state that is in place is empty.

use nodeport_common::{V4, V6};

use std::collections::BTreeSet;

use super::differ::{FamilyPlan, Phase, Scope, plan_family};
use super::installed::Installed;
use super::refusal::Refused;
use super::step::{Change, Step};
use super::unit::{Units, changed_units, units};
use crate::model::desired::{Desired, ServicePortName};

/// What to do, in order, and what stays undone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Planned>,
    /// What does not fit or cannot be carried; it stays as it was.
    pub refused: Vec<Refused>,
    /// Numbers of service ports that had none.
    pub names: Vec<(ServicePortName, u32)>,
}

/// A step, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What to do.
    pub step: Step,
    /// Number of the service port. If a step fails, the later ones of the same service port and family must not be carried
    /// out, nor those that name a set which was not written. `None` for steps that stand alone.
    pub service: Option<u32>,
}

/// The steps from what is installed to what is desired.
#[must_use]
pub fn diff(desired: &Desired, installed: &Installed) -> Plan {
    plan(
        units(desired, installed),
        &Scope::Everything,
        desired,
        installed,
    )
}

/// As [`diff`], if `before` is in place as a whole: the same steps, found by looking at nothing but what changed since. `None` if that
/// is not enough: something does not fit, addresses of the node changed, or a former life left something to be done.
#[must_use]
pub fn diff_since(before: &Desired, desired: &Desired, installed: &Installed) -> Option<Plan> {
    let same_node = before.host_addresses == desired.host_addresses
        && before.node_port_addresses == desired.node_port_addresses;
    let is_due = installed.generation_due || installed.v4.notes_due || installed.v6.notes_due;
    if !same_node || is_due {
        return None;
    }
    let names = desired.changed_since(before);
    let known = names.iter().filter_map(|name| installed.ids().id(name));
    let known: BTreeSet<u32> = known.collect();
    let units = changed_units(&names, before, desired, installed);
    let plan = plan(units, &Scope::Only(known), desired, installed);
    plan.refused.is_empty().then_some(plan)
}

fn plan(units: Units<'_>, scope: &Scope, desired: &Desired, installed: &Installed) -> Plan {
    let v4 = plan_family::<V4>(&units.v4, scope, installed.v4(), installed.ids(), desired);
    let v6 = plan_family::<V6>(&units.v6, scope, installed.v6(), installed.ids(), desired);
    let generation = v4.stale_flows
        || v6.stale_flows
        || (installed.generation_due && (v4.has_endpoints || v6.has_endpoints));
    let mut plan = Plan {
        names: units.names,
        ..Plan::default()
    };
    plan.merge(v4, v6);
    if generation {
        plan.steps.push(Planned {
            step: Step::RaiseEndpointGeneration,
            service: None,
        });
    }
    plan
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many map entries the steps change.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.steps
            .iter()
            .map(|planned| planned.step.entries())
            .sum()
    }

    fn merge(&mut self, mut v4: FamilyPlan<V4>, mut v6: FamilyPlan<V6>) {
        for phase in Phase::ALL {
            self.extend(v4.take(phase));
            self.extend(v6.take(phase));
        }
        self.refused.append(&mut v4.refused);
        self.refused.append(&mut v6.refused);
    }

    fn extend<A>(&mut self, changes: Vec<(Option<u32>, Change<A>)>)
    where
        Step: From<Change<A>>,
    {
        let planned = changes.into_iter().map(|(service, change)| Planned {
            step: change.into(),
            service,
        });
        self.steps.extend(planned);
    }
}
