//! What load balancers ask nodes for: a listener for each `healthCheckNodePort` (behaviours 15).
//!
//! Owns the listeners and their answers. Refuses to count endpoints. Invariant: a port that cannot be had stops no other one, and is tried
//! again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hyper::header::HeaderName;
use imbl::OrdMap;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::health::ProxyHealth;
use super::http::{self, Answer, Answers};
use crate::model::desired::Family;
use crate::model::health_check::HealthCheck;
use crate::model::objects::ObjectKey;
use crate::source::Trouble;

/// Tells a load balancer how many endpoints are here.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// What is to be answered, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The Services.
    pub checks: OrdMap<ObjectKey, HealthCheck>,
    /// Addresses of each family; none of a family's own stands for all of them (15.7).
    pub addresses: BTreeMap<Family, Vec<IpAddr>>,
}

impl Wanted {
    /// Where each Service listens.
    fn places(&self) -> BTreeMap<Place, usize> {
        let mut places = BTreeMap::new();
        for (service, check) in &self.checks {
            for (family, count) in &check.local_endpoints {
                let any = match family {
                    Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                };
                let addresses = self.addresses.get(family).cloned();
                for address in addresses.unwrap_or_else(|| vec![any]) {
                    let place = Place {
                        service: service.clone(),
                        address: SocketAddr::new(address, check.port),
                    };
                    places.insert(place, *count);
                }
            }
        }
        places
    }
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    service: ObjectKey,
    address: SocketAddr,
}

/// The listeners, and what they answer.
#[derive(Debug)]
pub struct ServiceHealth {
    health: Arc<ProxyHealth>,
    counts: Mutex<BTreeMap<Place, usize>>,
    failed: Mutex<BTreeMap<Place, String>>,
    uids: Mutex<BTreeMap<ObjectKey, Option<Box<str>>>>,
}

/// Ends its task when it goes.
#[derive(Debug)]
struct Listening(AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ServiceHealth {
    /// Without listeners.
    #[must_use]
    pub fn new(health: Arc<ProxyHealth>) -> Self {
        Self {
            health,
            counts: Mutex::default(),
            failed: Mutex::default(),
            uids: Mutex::default(),
        }
    }

    /// Which ports cannot be had, in words.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        lock(&self.failed).values().cloned().collect()
    }

    /// The same, for whoever wrote the Services (15.9).
    #[must_use]
    pub fn troubles(&self) -> Vec<Trouble> {
        let uids = lock(&self.uids);
        let trouble = |(place, note): (&Place, &String)| Trouble {
            service: Some((
                place.service.clone(),
                uids.get(&place.service).cloned().flatten(),
            )),
            reason: "FailedToStartServiceHealthcheck",
            action: "Listen",
            note: note.clone(),
        };
        lock(&self.failed).iter().map(trouble).collect()
    }

    /// Follows what is wanted until nobody wants anything any more.
    pub async fn run(self: Arc<Self>, mut wanted: watch::Receiver<Wanted>) {
        let mut listening: BTreeMap<Place, Listening> = BTreeMap::new();
        loop {
            let places = {
                let wanted = wanted.borrow_and_update();
                let checks = wanted.checks.iter();
                *lock(&self.uids) = checks
                    .map(|(key, one)| (key.clone(), one.uid.clone()))
                    .collect();
                wanted.places()
            };
            self.follow(&mut listening, places);
            let changed = if self.problems().is_empty() {
                wanted.changed().await
            } else {
                let again = tokio::time::timeout(http::AGAIN, wanted.changed());
                again.await.unwrap_or(Ok(()))
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn follow(
        self: &Arc<Self>,
        listening: &mut BTreeMap<Place, Listening>,
        places: BTreeMap<Place, usize>,
    ) {
        listening.retain(|place, _| places.contains_key(place));
        lock(&self.failed).retain(|place, _| places.contains_key(place));
        lock(&self.counts).clone_from(&places);
        for place in places.into_keys() {
            if listening.contains_key(&place) {
                continue;
            }
            match http::listen(place.address, true) {
                Ok(listener) => {
                    lock(&self.failed).remove(&place);
                    let task = tokio::spawn(http::serve(listener, self.answers(&place)));
                    listening.insert(place, Listening(task.abort_handle()));
                }
                Err(error) => {
                    let Place { service, address } = &place;
                    let text = format!(
                        "Service {service}: spec.healthCheckNodePort: cannot listen on {address}: {error}"
                    );
                    if lock(&self.failed)
                        .insert(place.clone(), text.clone())
                        .is_none()
                    {
                        tracing::warn!("{text}; tried again");
                    }
                }
            }
        }
    }

    fn answers(self: &Arc<Self>, place: &Place) -> Answers {
        let (this, place) = (Arc::clone(self), place.clone());
        Arc::new(move |_path| {
            let count = lock(&this.counts).get(&place).copied().unwrap_or_default();
            answer(
                &place.service,
                count,
                this.health.is_healthy(Instant::now()),
            )
        })
    }
}

/// 200 if there are endpoints and the agent keeps up (15.4); the body in both cases (15.6).
fn answer(service: &ObjectKey, count: usize, healthy: bool) -> Answer {
    let body = Body {
        service: Named {
            namespace: &service.namespace,
            name: &service.name,
        },
        local_endpoints: count,
        service_proxy_healthy: healthy,
    };
    let mut answer = Answer::json(count > 0 && healthy, tabbed(&body));
    answer.headers.push((WEIGHT, count.to_string()));
    answer
}

/// The fields in kube-proxy's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Named<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Named<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// JSON with tabs, as kube-proxy writes it.
fn tabbed(value: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    // Writing to memory does not fail.
    let _written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, form));
    text
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "service_health_tests.rs"]
mod tests;
