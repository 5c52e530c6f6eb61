//! Desired front ends, grouped by the service port and the address family that they belong to.
//!
//! Owns what is planned as a whole, and under which number. It refuses to know slots and maps' free space. Invariant: a front
//! end that still belongs to the same service port keeps that service port's number, also across a restart.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use nodeport_common::{FrontendKey, ServingKey, SourceRangeKey, V4, V6, frontend_flags};

use super::family::{Ip, frontend_id, frontend_key, serving_key, source_key};
use super::ids::Fresh;
use super::installed::{Installed, Tables};
use super::refusal::Reason;
use crate::model::desired::{
    Desired, DesiredFrontend, Family, FrontendId, Listen, Protocol, ServicePortName,
};

/// A service port in one address family: all of it is planned, or nothing.
pub(super) struct Unit<'a, A> {
    pub(super) name: &'a ServicePortName,
    pub(super) id: u32,
    pub(super) members: Vec<(FrontendKey<A>, &'a DesiredFrontend)>,
    /// Endpoints that its UDP flows may keep.
    pub(super) serving: BTreeSet<ServingKey<A>>,
    /// Who may use its restricted front ends.
    pub(super) sources: BTreeSet<SourceRangeKey<A>>,
    /// Why it cannot be planned, whatever the maps hold.
    pub(super) fault: Option<Reason>,
}

/// All units, and the numbers that were not known before.
pub(super) struct Units<'a> {
    pub(super) v4: Vec<Unit<'a, V4>>,
    pub(super) v6: Vec<Unit<'a, V6>>,
    pub(super) names: Vec<(ServicePortName, u32)>,
}

struct Group<'a> {
    name: &'a ServicePortName,
    v4: Vec<(FrontendKey<V4>, &'a DesiredFrontend)>,
    v6: Vec<(FrontendKey<V6>, &'a DesiredFrontend)>,
    faults: Vec<(Family, Reason)>,
}

/// Groups the front ends. Units that have a number come first, in order of their numbers; then the new ones, in order of names.
pub(super) fn units<'a>(desired: &'a Desired, installed: &Installed) -> Units<'a> {
    numbered(groups(&desired.frontends), desired, installed)
}

/// Those of the named service ports, `before` being what is installed, in the same order. One that is gone has none.
pub(super) fn changed_units<'a>(
    names: &BTreeSet<&ServicePortName>,
    before: &'a Desired,
    desired: &'a Desired,
    installed: &Installed,
) -> Units<'a> {
    let mut ids: BTreeSet<FrontendId> = BTreeSet::new();
    for id in names.iter().filter_map(|name| installed.ids().id(name)) {
        ids.extend(installed.v4().keys_of(id).filter_map(frontend_id));
        ids.extend(installed.v6().keys_of(id).filter_map(frontend_id));
    }
    for item in before.frontends.diff(&desired.frontends) {
        if let DiffItem::Add(id, _) | DiffItem::Update { new: (id, _), .. } = item {
            ids.insert(*id);
        }
    }
    let found = ids
        .iter()
        .filter_map(|id| desired.frontends.get_key_value(id));
    let members = found.filter(|(_, frontend)| names.contains(&frontend.service_port));
    numbered(groups(members), desired, installed)
}

fn numbered<'a>(groups: Vec<Group<'a>>, desired: &'a Desired, installed: &Installed) -> Units<'a> {
    let (known, mut unknown): (Vec<_>, Vec<_>) = groups
        .into_iter()
        .map(|group| (installed.ids().id(group.name), group))
        .partition(|(id, _)| id.is_some());
    unknown.sort_unstable_by_key(|(_, group)| group.name);
    let names = number(&mut unknown, installed);
    let mut known: Vec<_> = known
        .into_iter()
        .filter_map(|(id, group)| Some((id?, group)))
        .collect();
    known.sort_unstable_by_key(|(id, _)| *id);
    let unknown = unknown.into_iter().zip(&names);
    let unknown = unknown.map(|((_, group), (_, id))| (*id, group));
    let mut v4 = Vec::with_capacity(known.len());
    let mut v6 = Vec::with_capacity(known.len());
    for (id, group) in known.into_iter().chain(unknown) {
        v4.extend(unit(desired, group.name, id, group.v4, &group.faults));
        v6.extend(unit(desired, group.name, id, group.v6, &group.faults));
    }
    Units { v4, v6, names }
}

/// The front ends of each service port.
fn groups<'a>(
    frontends: impl IntoIterator<Item = (&'a FrontendId, &'a Arc<DesiredFrontend>)>,
) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut by_name: HashMap<&ServicePortName, usize> = HashMap::new();
    for (id, frontend) in frontends {
        let name = &frontend.service_port;
        let index = *by_name.entry(name).or_insert_with(|| {
            groups.push(Group {
                name,
                v4: Vec::new(),
                v6: Vec::new(),
                faults: Vec::new(),
            });
            groups.len() - 1
        });
        let group = &mut groups[index];
        if let Some(fault) = fault(id) {
            group.faults.push(fault);
        } else if let Some(key) = frontend_key::<V4>(id) {
            group.v4.push((key, frontend));
        } else if let Some(key) = frontend_key::<V6>(id) {
            group.v6.push((key, frontend));
        }
    }
    groups
}

/// One unit; none if the service port has nothing in this family.
fn unit<'a, A: Ip>(
    desired: &Desired,
    name: &'a ServicePortName,
    id: u32,
    members: Vec<(FrontendKey<A>, &'a DesiredFrontend)>,
    faults: &[(Family, Reason)],
) -> Option<Unit<'a, A>> {
    let fault = faults
        .iter()
        .find(|(family, _)| *family == A::FAMILY)
        .map(|(_, reason)| reason.clone());
    if members.is_empty() && fault.is_none() {
        return None;
    }
    let serving = if name.protocol == Protocol::Udp {
        let endpoints = desired.serving.get(name);
        let endpoints = endpoints.into_iter().flat_map(|all| all.iter());
        endpoints
            .filter_map(|endpoint| serving_key(id, *endpoint))
            .collect()
    } else {
        BTreeSet::new()
    };
    let sources = desired.sources.get(name);
    let sources = sources.into_iter().flat_map(|ranges| ranges.iter());
    Some(Unit {
        name,
        id,
        members,
        serving,
        sources: sources.filter_map(|range| source_key(id, *range)).collect(),
        fault,
    })
}

fn fault(id: &FrontendId) -> Option<(Family, Reason)> {
    let family = match id.listen {
        Listen::Node(family) => family,
        Listen::Address(ip) if ip.is_ipv4() => Family::V4,
        Listen::Address(_) => Family::V6,
    };
    if id.protocol == Protocol::Sctp {
        return Some((family, Reason::Sctp));
    }
    match id.listen {
        Listen::Address(ip) if ip.is_unspecified() => Some((family, Reason::UnspecifiedAddress)),
        _ => None,
    }
}

/// A number for each service port that has none: one that its front ends have in the maps, or a fresh one.
fn number(
    unknown: &mut [(Option<u32>, Group<'_>)],
    installed: &Installed,
) -> Vec<(ServicePortName, u32)> {
    let ids = installed.ids();
    let mut taken = HashSet::new();
    for (id, group) in &mut *unknown {
        let v4 = inherited(&group.v4, installed.v4());
        let mut found = v4.chain(inherited(&group.v6, installed.v6()));
        *id = found.find(|id| !ids.is_named(*id) && !taken.contains(id));
        taken.extend(*id);
    }
    let in_use = |id: u32| {
        taken.contains(&id) || ids.is_named(id) || installed.v4.has(id) || installed.v6.has(id)
    };
    let mut fresh = Fresh::after(ids.last());
    let named = unknown.iter().map(|(id, group)| {
        let id = id.unwrap_or_else(|| fresh.next(in_use));
        (group.name.clone(), id)
    });
    named.collect()
}

/// The numbers that are in the map for front ends of a group; those of ClusterIPs, which never move, come first.
fn inherited<A: Ip>(
    members: &[(FrontendKey<A>, &DesiredFrontend)],
    tables: &Tables<A>,
) -> impl Iterator<Item = u32> + use<A> {
    let mut found: Vec<(bool, u32)> = members
        .iter()
        .filter_map(|(key, _)| tables.frontends().get(key))
        .filter(|value| value.service != 0)
        .map(|value| {
            let moves = value.flags & frontend_flags::CLUSTER_IP == 0;
            (moves, value.service)
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, id)| id)
}
