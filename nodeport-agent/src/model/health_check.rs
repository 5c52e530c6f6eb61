//! What load balancers ask nodes for: `healthCheckNodePort` (behaviours 15).
//!
//! Owns which Services have one and how many of their endpoints count. Pure. Refuses to listen. Invariant: whether the agent is healthy
//! is no matter of objects, so it is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::desired::Family;
use super::objects::{EndpointSlice, ObjectKey, Service, ServiceType, TrafficPolicy};
use super::snapshot::Snapshot;

/// The health check of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`, host order.
    pub port: u16,
    /// `metadata.uid` of the Service.
    pub uid: Option<Box<str>>,
    /// For each family of the Service: different addresses of ready endpoints on this node, over all of its ports (15.3).
    pub local_endpoints: BTreeMap<Family, usize>,
}

/// The health checks of all Services that have one (15.1).
#[must_use]
pub fn health_checks(snapshot: &Snapshot) -> BTreeMap<ObjectKey, HealthCheck> {
    let objects = &snapshot.objects;
    let mut slices: BTreeMap<ObjectKey, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in objects.endpoint_slices.values() {
        if let Some(key) = slice.service_key() {
            slices.entry(key).or_default().push(slice);
        }
    }
    let check = |(key, service): (&ObjectKey, &Arc<Service>)| {
        let slices = slices.get(key).map_or(&[][..], Vec::as_slice);
        let check = health_check(service, slices, &snapshot.node_name)?;
        Some((key.clone(), check))
    };
    objects.services.iter().filter_map(check).collect()
}

/// The health check of one Service, its slices being those that name it.
#[must_use]
pub(super) fn health_check(
    service: &Service,
    slices: &[&EndpointSlice],
    node_name: &str,
) -> Option<HealthCheck> {
    let port = service.health_check_port()?;
    let used = slices.iter().filter(|slice| !slice.ports.is_empty());
    let here = used
        .flat_map(|slice| &slice.endpoints)
        .filter(|one| one.ready && one.node == node_name);
    let addresses: BTreeSet<IpAddr> = here.map(|one| one.address).collect();
    let of = |family| (addresses.iter().filter(|one| Family::of(**one) == family)).count();
    let families = (service.cluster_ips.iter()).map(|entry| Family::of(entry.value));
    Some(HealthCheck {
        port,
        uid: service.meta.uid.clone(),
        local_endpoints: families.map(|family| (family, of(family))).collect(),
    })
}

impl Service {
    /// Its port, if it is a load balancer's that looks for local endpoints.
    fn health_check_port(&self) -> Option<u16> {
        let wanted = self.exemption.is_none()
            && self.service_type == ServiceType::LoadBalancer
            && self.external_policy == TrafficPolicy::Local;
        self.health_check_node_port.filter(|_| wanted)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::decode::{Decoded, decode};
    use crate::model::objects::Objects;

    fn service(name: &str, spec: &serde_json::Value) -> serde_json::Value {
        let mut whole = json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000, "ports": [{"port": 80}],
        });
        for (field, value) in spec.as_object().expect("an object") {
            whole[field] = value.clone();
        }
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "a", "name": name}, "spec": whole})
    }

    fn slice(number: usize, family: &str, endpoints: &serde_json::Value) -> serde_json::Value {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"namespace": "a", "name": format!("s{number}"), "labels": {"kubernetes.io/service-name": "web"}},
            "endpoints": endpoints, "ports": [{"port": 8080}],
        })
    }

    fn checks(objects: &[serde_json::Value]) -> Vec<(String, u16, Vec<usize>)> {
        let mut all = Objects::default();
        for object in objects {
            match decode(object, None) {
                Decoded::Object(object) => all.insert(object),
                other => panic!("no object: {other:?}"),
            };
        }
        let snapshot = Snapshot {
            objects: Arc::new(all),
            node_name: "n1".to_owned(),
            ..Snapshot::default()
        };
        let found = health_checks(&snapshot).into_iter();
        found
            .map(|(key, check)| {
                (
                    key.name.to_string(),
                    check.port,
                    check.local_endpoints.into_values().collect(),
                )
            })
            .collect()
    }

    #[test]
    fn ready_endpoints_of_this_node_count_once_in_their_family_15_3() {
        let endpoint = |address: &str, node: &str, ready: bool| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": ready, "serving": true, "terminating": !ready}});
        let v4 = [
            endpoint("10.1.0.1", "n1", true),
            endpoint("10.1.0.2", "n1", true),
            endpoint("10.1.0.3", "n1", false),
            endpoint("10.2.0.1", "n2", true),
        ];
        let again = [endpoint("10.1.0.1", "n1", true)];
        let v6 = [endpoint("fd01::1", "n1", true)];
        let found = checks(&[
            service("web", &json!({})),
            slice(1, "IPv4", &json!(v4)),
            slice(2, "IPv4", &json!(again)),
            slice(3, "IPv6", &json!(v6)),
        ]);
        assert_eq!(found, [("web".to_owned(), 32000, vec![2, 1])]);
        assert_eq!(
            checks(&[service("web", &json!({}))]),
            [("web".to_owned(), 32000, vec![0, 0])]
        );
    }

    #[test]
    fn only_load_balancers_with_the_local_policy_and_a_port_have_one_15_1() {
        let not = [
            json!({"type": "NodePort"}),
            json!({"externalTrafficPolicy": "Cluster"}),
            json!({"healthCheckNodePort": 0}),
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        ];
        let all: Vec<_> = not
            .into_iter()
            .enumerate()
            .map(|(n, spec)| service(&format!("s{n}"), &spec))
            .collect();
        assert!(checks(&all).is_empty());
    }
}
