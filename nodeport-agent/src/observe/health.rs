//! Whether the agent keeps up, and whether its node is a place for new connections: `/healthz` and `/livez` (behaviours 16).
//!
//! Owns the judgement and the documents. Refuses to listen. Invariant: an agent that has nothing to write is healthy, however long ago
//! the last update was.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::model::desired::Family;

/// When a time is shown that never was, as Go shows it.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The state of updates.
#[derive(Debug)]
pub struct ProxyHealth {
    /// How long an update may wait (16.2).
    timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when an update waits.
    pending: BTreeMap<Family, Instant>,
    updated: BTreeMap<Family, Timestamp>,
    node_eligible: bool,
}

/// The body of an answer, its fields in kube-proxy's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: BTreeMap<&'static str, FamilyBody>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyBody {
    last_updated: String,
    healthy: bool,
}

impl ProxyHealth {
    /// Nothing waits yet, and no Node is known.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is to be written. If something waits already, that one counts.
    pub fn queued(&self, now: Instant) {
        let mut state = self.state();
        for family in Family::ALL {
            state.pending.entry(family).or_insert(now);
        }
    }

    /// Everything of a family is written.
    pub fn updated(&self, family: Family, now: Timestamp) {
        let mut state = self.state();
        state.pending.remove(&family);
        state.updated.insert(family, now);
    }

    /// Whether the own Node is known and stays (16.4).
    pub fn set_node_eligible(&self, eligible: bool) {
        self.state().node_eligible = eligible;
    }

    /// Whether no update waits too long (16.2).
    #[must_use]
    pub fn is_healthy(&self, now: Instant) -> bool {
        let state = self.state();
        Family::ALL
            .into_iter()
            .all(|family| self.is_family_healthy(&state, family, now))
    }

    fn is_family_healthy(&self, state: &State, family: Family, now: Instant) -> bool {
        let since = state.pending.get(&family);
        since.is_none_or(|since| now.saturating_duration_since(*since) < self.timeout)
    }

    /// The answer of `/livez`: whether it is 200, and the body.
    #[must_use]
    pub fn livez(&self, now: Instant) -> (bool, Body) {
        let body = self.body(now);
        (body.healthy, body)
    }

    /// The answer of `/healthz`: as `/livez`, and the node has to stay as well (16.3).
    #[must_use]
    pub fn healthz(&self, now: Instant) -> (bool, Body) {
        let mut body = self.body(now);
        let eligible = self.state().node_eligible;
        body.node_eligible = Some(eligible);
        (body.healthy && eligible, body)
    }

    fn body(&self, now: Instant) -> Body {
        let state = self.state();
        let status: BTreeMap<_, _> = Family::ALL
            .into_iter()
            .map(|family| {
                let updated = state.updated.get(&family);
                let of_family = FamilyBody {
                    last_updated: updated.map_or_else(|| NEVER.to_owned(), Timestamp::to_string),
                    healthy: self.is_family_healthy(&state, family, now),
                };
                (name(family), of_family)
            })
            .collect();
        let healthy = status.values().all(|one| one.healthy);
        let current_time = moment(SystemTime::now()).to_string();
        // 16.5: a healthy proxy is up to date as of now; another one tells when it last was.
        let last = state.updated.values().min();
        let last_updated = match last {
            _ if healthy => current_time.clone(),
            Some(last) => last.to_string(),
            None => NEVER.to_owned(),
        };
        Body {
            last_updated,
            current_time,
            node_eligible: None,
            healthy,
            status,
        }
    }
}

/// A moment of the system's clock, as Kubernetes writes moments. What lies before 1970 is shown as 1970.
#[must_use]
pub fn moment(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp::new(seconds, since.subsec_nanos().cast_signed()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A family as kube-proxy names it.
#[must_use]
pub const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_mins(1);

    fn json(body: &Body) -> serde_json::Value {
        serde_json::to_value(body).expect("JSON")
    }

    #[test]
    fn an_update_that_waits_too_long_makes_its_family_unhealthy_16_2() {
        let health = ProxyHealth::new(TIMEOUT);
        let start = Instant::now();
        assert!(health.is_healthy(start + 10 * TIMEOUT), "nothing waits");
        health.queued(start);
        health.queued(start + TIMEOUT / 2);
        assert!(health.is_healthy(start + TIMEOUT / 2));
        assert!(!health.is_healthy(start + TIMEOUT));
        health.updated(Family::V4, Timestamp::UNIX_EPOCH);
        let (good, body) = health.livez(start + TIMEOUT);
        let body = json(&body);
        assert!(!good);
        assert_eq!(
            body["status"]["IPv4"],
            serde_json::json!({"lastUpdated": "1970-01-01T00:00:00Z", "healthy": true})
        );
        assert_eq!(
            body["status"]["IPv6"],
            serde_json::json!({"lastUpdated": NEVER, "healthy": false})
        );
        assert_eq!(
            body["lastUpdated"], "1970-01-01T00:00:00Z",
            "16.5: the real time of the last one"
        );
        health.updated(Family::V6, Timestamp::UNIX_EPOCH);
        assert!(health.is_healthy(start + 10 * TIMEOUT));
    }

    #[test]
    fn a_node_that_is_unknown_or_leaves_is_not_healthz_but_livez_16_3() {
        let health = ProxyHealth::new(TIMEOUT);
        let now = Instant::now();
        let (good, body) = health.healthz(now);
        assert!(!good && health.livez(now).0);
        assert_eq!(json(&body)["nodeEligible"], false);
        assert_eq!(json(&health.livez(now).1).get("nodeEligible"), None);
        health.set_node_eligible(true);
        assert!(health.healthz(now).0);
        health.set_node_eligible(false);
        assert!(!health.healthz(now).0);
    }

    #[test]
    fn fields_stand_in_kube_proxys_order() {
        let health = ProxyHealth::new(TIMEOUT);
        let text = serde_json::to_string(&health.healthz(Instant::now()).1).expect("JSON");
        let recorded = include_str!("../../tests/kube-proxy-1.37/10256-healthz.txt");
        let order = |text: &str| -> Vec<String> {
            let parts = text.split('"').skip(1).step_by(2);
            parts
                .filter(|part| !part.contains(':'))
                .map(ToOwned::to_owned)
                .collect()
        };
        let body = recorded.split('{').skip(1).collect::<Vec<_>>().join("{");
        assert_eq!(order(&text), order(&format!("{{{body}")));
    }
}
