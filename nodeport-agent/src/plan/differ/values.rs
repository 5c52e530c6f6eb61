//! The values of a service port's front ends, and the slots of the sets that they name.
//!
//! Owns which sets are shared and which are written. It refuses to know the order of steps. Invariant: if not all sets of a
//! service port find room, none takes any.

use std::collections::BTreeSet;
use std::sync::Arc;

use nodeport_common::{Backend, Frontend, frontend_flags};

use super::{Differ, Phase};
use crate::model::desired::{BackendSet, DesiredBackend, DesiredFrontend, FrontendKind, IfEmpty};
use crate::plan::family::{Ip, backend};
use crate::plan::refusal::Reason;
use crate::plan::step::Change;
use crate::plan::unit::Unit;

/// New service ports leave one slot in so many free, so that changes of what is installed find room when the array is full.
const RESERVE: u32 = 16;

impl<A: Ip> Differ<'_, A> {
    /// The values of a service port's front ends. On an error no slot is taken.
    pub(super) fn values(&mut self, unit: &Unit<'_, A>) -> Result<Vec<Frontend>, Reason> {
        let keep_free = if self.tables.by_service.contains_key(&unit.id) {
            0
        } else {
            self.slots.capacity() / RESERVE
        };
        let mut sets = UnitSets {
            differ: self,
            keep_free,
            known: Vec::new(),
            written: Vec::new(),
        };
        let values: Result<Vec<_>, _> = unit
            .members
            .iter()
            .map(|(_, frontend)| {
                let outside = sets.range(&frontend.outside.backends)?;
                let inside = sets.range(&frontend.inside.backends)?;
                Ok(value(unit, frontend, outside, inside))
            })
            .collect();
        let written = sets.written;
        if values.is_err() {
            for (base, backends) in written {
                self.fresh.remove(&backends);
                self.slots.give_back(base, backends.len() as u32);
            }
            return values;
        }
        for (base, backends) in written {
            let change = Change::WriteSet { base, backends };
            self.emit(Phase::WriteSets, Some(unit.id), change);
        }
        values
    }
}

/// The sets of one service port while it is planned.
struct UnitSets<'d, 'a, 'u, A> {
    differ: &'d mut Differ<'a, A>,
    /// Slots that must stay free.
    keep_free: u32,
    known: Vec<(&'u BTreeSet<DesiredBackend>, (u32, u32))>,
    written: Vec<(u32, Arc<[Backend<A>]>)>,
}

impl<'u, A: Ip> UnitSets<'_, '_, 'u, A> {
    /// The slots of a set: those where it already is, or free ones that it will be written to.
    fn range(&mut self, set: &'u BTreeSet<DesiredBackend>) -> Result<(u32, u32), Reason> {
        if set.is_empty() {
            return Ok((0, 0));
        }
        if let Some((_, range)) = self.known.iter().find(|(known, _)| *known == set) {
            return Ok(*range);
        }
        let content: Option<Vec<Backend<A>>> = set.iter().map(backend).collect();
        let content = content.ok_or(Reason::MixedFamilies)?;
        let installed = self.differ.tables.sets.find(&content);
        let found = installed.or_else(|| self.differ.fresh.get(content.as_slice()).copied());
        let base = found.map_or_else(|| self.write(Arc::from(content)), Ok)?;
        let range = (base, set.len() as u32);
        self.known.push((set, range));
        Ok(range)
    }

    fn write(&mut self, content: Arc<[Backend<A>]>) -> Result<u32, Reason> {
        let wanted = content.len() as u32;
        let slots = &mut self.differ.slots;
        let available = slots.available();
        let fits = available >= wanted.saturating_add(self.keep_free);
        let base = (if fits { slots.take(wanted) } else { None }).ok_or(Reason::NoSlots {
            map: A::BACKENDS,
            wanted,
            available,
            resting: slots.resting(),
            capacity: slots.capacity(),
        })?;
        self.differ.fresh.insert(content.clone(), base);
        self.written.push((base, content));
        Ok(base)
    }
}

/// The value of a front end.
fn value<A>(
    unit: &Unit<'_, A>,
    frontend: &DesiredFrontend,
    outside: (u32, u32),
    inside: (u32, u32),
) -> Frontend {
    let drops = |set: &BackendSet| set.backends.is_empty() && set.if_empty == IfEmpty::Drop;
    let mut flags = match frontend.kind {
        FrontendKind::ClusterIp => frontend_flags::CLUSTER_IP,
        FrontendKind::NodePort => frontend_flags::NODE_PORT,
        FrontendKind::ExternalIp => frontend_flags::EXTERNAL_IP,
        FrontendKind::LoadBalancer => frontend_flags::LOAD_BALANCER,
    };
    if drops(&frontend.outside) {
        flags |= frontend_flags::DROP_IF_EMPTY;
    }
    if drops(&frontend.inside) {
        flags |= frontend_flags::LOCAL_DROP_IF_EMPTY;
    }
    if frontend.policy_local {
        flags |= frontend_flags::POLICY_LOCAL;
    }
    if frontend.restricted {
        flags |= frontend_flags::SOURCE_RANGES;
    }
    Frontend {
        base: outside.0,
        len: outside.1,
        local_base: inside.0,
        local_len: inside.1,
        serving: unit.serving.len() as u32,
        service: unit.id,
        flags,
        affinity_secs: frontend.affinity_secs,
    }
}
