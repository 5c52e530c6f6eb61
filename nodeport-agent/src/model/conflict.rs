//! Who gets a front end that several Services ask for (behaviours 2.8, 18.1).
//!
//! Owns the order of claims. It refuses to know how claims come about.
//! Invariant: the winner depends on the claims that exist, not on their order in time; when it goes, the next one follows.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::compile::Claim;
use super::desired::{DesiredFrontend, FrontendId, FrontendKind};
use super::objects::{Kind, Meta, ObjectKey, ObjectRef};
use super::report::{Reason, Report};

/// The claims on every front end.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_frontend: BTreeMap<FrontendId, Vec<(Precedence, Claim)>>,
}

/// Smaller is better.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Precedence {
    /// A ClusterIP was allocated by the API server, an external address only claimed by its author: no Service can take
    /// another one's ClusterIP away, however old it is (CVE-2020-8554 shows the way).
    claimed: bool,
    /// Without a time: after all that have one.
    created: Age,
    service: ObjectKey,
    kind: FrontendKind,
    field: String,
    origin: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    Since(Timestamp),
    Unknown,
}

impl Claims {
    pub(super) fn add(&mut self, meta: &Meta, claim: Claim) {
        let precedence = Precedence {
            claimed: claim.frontend.kind != FrontendKind::ClusterIp,
            created: meta.created.map_or(Age::Unknown, Age::Since),
            service: meta.key.clone(),
            kind: claim.frontend.kind,
            field: claim.field.clone(),
            origin: meta.origin.as_deref().map(ToOwned::to_owned),
        };
        let claims = self.by_frontend.entry(claim.id).or_default();
        claims.push((precedence, claim));
    }

    /// Gives each front end to its best claim, and tells the others.
    pub(super) fn settle(self, reports: &mut Vec<Report>) -> BTreeMap<FrontendId, DesiredFrontend> {
        let mut settled = BTreeMap::new();
        for (id, mut claims) in self.by_frontend {
            claims.sort_by(|(a, _), (b, _)| a.cmp(b));
            let mut claims = claims.into_iter();
            let Some((first, winner)) = claims.next() else {
                continue;
            };
            // A service port that asks for one address twice has it: nobody lost anything.
            let port = &winner.frontend.service_port;
            for (loser, _) in claims.filter(|(_, other)| other.frontend.service_port != *port) {
                reports.push(Report {
                    origin: loser.origin,
                    object: Some(ObjectRef {
                        kind: Kind::Service,
                        key: loser.service,
                    }),
                    field: loser.field,
                    reason: Reason::Taken {
                        frontend: id.to_string(),
                        winner: first.service.clone(),
                    },
                });
            }
            settled.insert(id, winner.frontend);
        }
        settled
    }
}
