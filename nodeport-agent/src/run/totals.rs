//! Sums over the desired state, kept in step with what changes.
//!
//! Owns counts of front ends and endpoints, and which front end belongs to whom. It refuses to know who shows them. Invariant: the cost
//! of a change does not depend on how much there is.

use std::collections::HashMap;
use std::sync::Arc;

use imbl::ordmap::DiffItem;

use crate::model::Desired;
use crate::model::desired::{
    DesiredFrontend, Family, FrontendId, FrontendKind, IfEmpty, Listen, ServicePortName,
};

/// Where traffic to a front end comes from, as kube-proxy's metrics have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Traffic {
    Internal,
    External,
}

/// The sums, of the state that was last followed.
#[derive(Debug, Default)]
pub(super) struct Totals {
    desired: Desired,
    /// Endpoints for clients outside, over all front ends.
    backends: usize,
    /// Front ends whose policy is Local and that have no endpoint here, by service port.
    no_local: HashMap<(Family, Traffic), HashMap<ServicePortName, usize>>,
}

/// Front ends that belong to another service port than before, or to none.
pub(super) type Renamed = Vec<(FrontendId, Option<ServicePortName>)>;

impl Totals {
    /// Follows a new state, and says which front ends have another owner.
    pub(super) fn follow(&mut self, desired: &Desired) -> Renamed {
        let before = std::mem::replace(&mut self.desired, desired.clone());
        let mut renamed = Vec::new();
        for item in before.frontends.diff(&desired.frontends) {
            let (id, old, new) = match item {
                DiffItem::Add(id, new) => (*id, None, Some(new)),
                DiffItem::Update { old, new } => (*new.0, Some(old.1), Some(new.1)),
                DiffItem::Remove(id, old) => (*id, Some(old), None),
            };
            let owner =
                |one: Option<&Arc<DesiredFrontend>>| one.map(|one| one.service_port.clone());
            if owner(old) != owner(new) {
                renamed.push((id, owner(new)));
            }
            if let Some(old) = old {
                self.backends -= old.outside.backends.len();
                self.count(id, old, false);
            }
            if let Some(new) = new {
                self.backends += new.outside.backends.len();
                self.count(id, new, true);
            }
        }
        renamed
    }

    /// Endpoints for clients outside, over all front ends.
    pub(super) fn backends(&self) -> usize {
        self.backends
    }

    /// Service ports whose policy is Local and that have no endpoint here.
    pub(super) fn no_local(&self, family: Family, traffic: Traffic) -> usize {
        self.no_local
            .get(&(family, traffic))
            .map_or(0, HashMap::len)
    }

    fn count(&mut self, id: FrontendId, frontend: &DesiredFrontend, comes: bool) {
        let set = &frontend.outside;
        if !set.backends.is_empty() || set.if_empty != IfEmpty::Drop {
            return;
        }
        let family = match id.listen {
            Listen::Address(address) => Family::of(address),
            Listen::Node(family) => family,
        };
        let traffic = if frontend.kind == FrontendKind::ClusterIp {
            Traffic::Internal
        } else {
            Traffic::External
        };
        let ports = self.no_local.entry((family, traffic)).or_default();
        let count = ports.entry(frontend.service_port.clone()).or_default();
        if comes {
            *count += 1;
        } else {
            *count -= 1;
            if *count == 0 {
                ports.remove(&frontend.service_port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::desired::{BackendSet, DesiredBackend, Protocol};

    fn frontend(name: &str, endpoints: &[&str]) -> Arc<DesiredFrontend> {
        let backends: BTreeSet<DesiredBackend> = endpoints
            .iter()
            .map(|text| DesiredBackend {
                address: text.parse().expect("an endpoint"),
                local: true,
            })
            .collect();
        let set = Arc::new(BackendSet {
            backends,
            if_empty: IfEmpty::Drop,
        });
        Arc::new(DesiredFrontend {
            kind: FrontendKind::NodePort,
            service_port: ServicePortName {
                namespace: "d".into(),
                name: name.into(),
                port: "".into(),
                protocol: Protocol::Tcp,
            },
            policy_local: true,
            affinity_secs: 0,
            restricted: false,
            outside: Arc::clone(&set),
            inside: set,
        })
    }

    fn node_port(port: u16) -> FrontendId {
        FrontendId {
            listen: Listen::Node(Family::V4),
            port,
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn sums_and_owners_follow_what_comes_changes_and_goes() {
        let mut totals = Totals::default();
        let mut state = Desired::default();
        let none = |totals: &Totals| totals.no_local(Family::V4, Traffic::External);
        state
            .frontends
            .insert(node_port(1), frontend("a", &["10.0.0.1:80", "10.0.0.2:80"]));
        state.frontends.insert(node_port(2), frontend("b", &[]));
        state.frontends.insert(node_port(3), frontend("b", &[]));
        assert_eq!(totals.follow(&state).len(), 3);
        assert_eq!((totals.backends(), none(&totals)), (2, 1));

        state.frontends.insert(node_port(1), frontend("a", &[]));
        state.frontends.remove(&node_port(2));
        let renamed = totals.follow(&state);
        assert_eq!(renamed, [(node_port(2), None)]);
        assert_eq!((totals.backends(), none(&totals)), (0, 2));

        state
            .frontends
            .insert(node_port(3), frontend("c", &["10.0.0.3:80"]));
        let renamed = totals.follow(&state);
        let owner = frontend("c", &[]).service_port.clone();
        assert_eq!(renamed, [(node_port(3), Some(owner))]);
        assert_eq!((totals.backends(), none(&totals)), (1, 1));
        assert_eq!(totals.no_local(Family::V4, Traffic::Internal), 0);
        assert_eq!(totals.no_local(Family::V6, Traffic::External), 0);
    }
}
