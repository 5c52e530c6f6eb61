//! Who gets a front end that several Services ask for (behaviours 2.8, 18.1).
//!
//! Owns the order of claims. It refuses to know how claims come about.
//! Invariant: the winner depends on the claims that exist, not on their order in time; when it goes, the next one follows.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use k8s_openapi::jiff::Timestamp;

use super::compile::Claim;
use super::desired::{DesiredFrontend, FrontendId, FrontendKind};
use super::objects::{Kind, Meta, ObjectKey, ObjectRef};
use super::report::{Reason, Report};

/// The claims on every front end, the best one first.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_frontend: BTreeMap<FrontendId, Vec<Held>>,
}

/// A claim and what it weighs. The fields of the order come first: smaller is better.
#[derive(Debug)]
struct Held {
    /// A ClusterIP was allocated by the API server, an external address only claimed by its author: no Service can take
    /// another one's ClusterIP away, however old it is (CVE-2020-8554 shows the way).
    claimed: bool,
    /// Without a time: after all that have one.
    created: Age,
    service: ObjectKey,
    origin: Option<Arc<str>>,
    claim: Claim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    Since(Timestamp),
    Unknown,
}

/// What became of the claims on one front end.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// The best one.
    pub(super) frontend: Option<Arc<DesiredFrontend>>,
    /// What is told of the others.
    pub(super) reports: Vec<Report>,
}

impl Claims {
    pub(super) fn add(&mut self, meta: &Meta, claim: Claim) {
        let held = Held {
            claimed: claim.frontend.kind != FrontendKind::ClusterIp,
            created: meta.created.map_or(Age::Unknown, Age::Since),
            service: meta.key.clone(),
            origin: meta.origin.clone(),
            claim,
        };
        let claims = self
            .by_frontend
            .entry(held.claim.id)
            .or_insert_with(|| Vec::with_capacity(1));
        let at = claims.partition_point(|other| other.order() <= held.order());
        claims.insert(at, held);
    }

    /// Forgets what a Service claims of a front end.
    pub(super) fn remove(&mut self, service: &ObjectKey, id: &FrontendId) {
        if let Some(claims) = self.by_frontend.get_mut(id) {
            claims.retain(|held| held.service != *service);
            if claims.is_empty() {
                self.by_frontend.remove(id);
            }
        }
    }

    /// Gives a front end to its best claim, and tells the others.
    pub(super) fn settle(&self, id: &FrontendId) -> Settled {
        let mut settled = Settled::default();
        let Some((first, others)) = self
            .by_frontend
            .get(id)
            .and_then(|claims| claims.split_first())
        else {
            return settled;
        };
        // A service port that asks for one address twice has it: nobody lost anything.
        let port = &first.claim.frontend.service_port;
        for loser in others
            .iter()
            .filter(|other| other.claim.frontend.service_port != *port)
        {
            settled.reports.push(Report {
                origin: loser.origin.as_deref().map(ToOwned::to_owned),
                object: Some(ObjectRef {
                    kind: Kind::Service,
                    key: loser.service.clone(),
                }),
                field: loser.claim.field.clone(),
                reason: Reason::Taken {
                    frontend: id.to_string(),
                    winner: first.service.clone(),
                },
            });
        }
        settled.frontend = Some(Arc::clone(&first.claim.frontend));
        settled
    }

    /// Gives each front end to its best claim, and tells the others.
    pub(super) fn settle_all(
        &self,
        reports: &mut Vec<Report>,
    ) -> OrdMap<FrontendId, Arc<DesiredFrontend>> {
        let settled = self.by_frontend.keys().filter_map(|id| {
            let settled = self.settle(id);
            reports.extend(settled.reports);
            Some((*id, settled.frontend?))
        });
        settled.collect()
    }
}

impl Held {
    fn order(&self) -> impl Ord {
        let Self { claim, .. } = self;
        (
            self.claimed,
            self.created,
            &self.service,
            claim.frontend.kind,
            &claim.field,
            &self.origin,
        )
    }
}
