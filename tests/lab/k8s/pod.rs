//! A Pod object, as far as the stand-in kubelet reads and writes it.
//!
//! Pure. Invariant: null, absent and empty are alike.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

/// Annotation: `"false"` has the Pod run but not be ready.
pub(super) const READY: &str = "lab.nodeport/ready";
/// Annotation: for how many seconds the Pod serves after it was deleted.
pub(super) const DRAIN: &str = "lab.nodeport/drain-seconds";
/// Ports of a Pod that names none.
const USUAL_PORTS: [u16; 2] = [80, 8080];

/// What matters of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiPod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// Where it is bound to.
    pub(super) node: Option<String>,
    /// The only node that it may be bound to.
    pub(super) only_node: Option<String>,
    pub(super) host_network: bool,
    /// TCP ports of its containers.
    pub(super) ports: Vec<u16>,
    /// If it is deleted: the time between that and its end, at most.
    pub(super) grace: Option<Duration>,
    /// For how long it serves after its deletion, if it says.
    pub(super) drain: Option<Duration>,
    /// Whether it shall be ready.
    pub(super) wanted_ready: bool,
    /// Whether it is ready, if its status says.
    pub(super) reported_ready: Option<bool>,
    /// It has succeeded or failed.
    pub(super) is_over: bool,
    containers: Vec<(String, String)>,
}

impl ApiPod {
    /// Reads an item of a list; `None` if it has no name.
    pub(super) fn read(object: &Value) -> Option<Self> {
        let text = |pointer: &str| object.pointer(pointer)?.as_str().map(str::to_owned);
        let annotation = |name: &str| {
            let annotations = object.pointer("/metadata/annotations")?;
            annotations.get(name)?.as_str().map(str::to_owned)
        };
        let phase = text("/status/phase").unwrap_or_default();
        let deleted = text("/metadata/deletionTimestamp").is_some();
        let grace = object.pointer("/metadata/deletionGracePeriodSeconds");
        let seconds = |text: String| text.parse().ok().map(Duration::from_secs);
        Some(Self {
            namespace: text("/metadata/namespace")?,
            name: text("/metadata/name")?,
            uid: text("/metadata/uid")?,
            node: text("/spec/nodeName").filter(|name| !name.is_empty()),
            only_node: text("/spec/nodeSelector/kubernetes.io~1hostname")
                .or_else(|| affinity(object)),
            host_network: object.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)),
            ports: ports(object),
            grace: deleted.then(|| Duration::from_secs(grace.and_then(Value::as_u64).unwrap_or(0))),
            drain: annotation(DRAIN).and_then(seconds),
            wanted_ready: annotation(READY).is_none_or(|ready| ready != "false"),
            reported_ready: condition(object, "Ready"),
            is_over: matches!(phase.as_str(), "Succeeded" | "Failed"),
            containers: containers(object)
                .filter_map(|one| {
                    Some((
                        one["name"].as_str()?.to_owned(),
                        one["image"].as_str()?.to_owned(),
                    ))
                })
                .collect(),
        })
    }

    /// Its path in the API.
    pub(super) fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name)
    }
}

fn containers(object: &Value) -> impl Iterator<Item = &Value> {
    let containers = object.pointer("/spec/containers").and_then(Value::as_array);
    containers.into_iter().flatten()
}

fn ports(object: &Value) -> Vec<u16> {
    let all = containers(object)
        .filter_map(|container| container["ports"].as_array())
        .flatten();
    let tcp = all.filter(|port| matches!(port["protocol"].as_str(), None | Some("TCP")));
    let mut ports: Vec<u16> = tcp
        .filter_map(|port| u16::try_from(port["containerPort"].as_u64()?).ok())
        .collect();
    if ports.is_empty() {
        ports.extend(USUAL_PORTS);
    }
    ports
}

/// Pods of a DaemonSet name their node so.
fn affinity(object: &Value) -> Option<String> {
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let fields = object.pointer(terms)?.get(0)?.get("matchFields")?.get(0)?;
    (fields["key"].as_str() == Some("metadata.name")).then_some(())?;
    fields["values"].get(0)?.as_str().map(str::to_owned)
}

fn condition(object: &Value, kind: &str) -> Option<bool> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let found = conditions
        .iter()
        .find(|one| one["type"].as_str() == Some(kind))?;
    Some(found["status"].as_str() == Some("True"))
}

/// A patch of the status: it runs, with these addresses, and is ready as wanted.
pub(super) fn ready_status(pod: &ApiPod, addresses: &[IpAddr], hosts: &[IpAddr]) -> Value {
    let now = now();
    let ready = pod.wanted_ready;
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        json!({"type": kind, "status": status, "lastTransitionTime": now})
    };
    let containers: Vec<_> = pod
        .containers
        .iter()
        .map(|(name, image)| {
            json!({
                "name": name, "image": image, "imageID": image, "containerID": format!("lab://{}/{name}", pod.uid),
                "ready": ready, "started": true, "restartCount": 0, "state": {"running": {"startedAt": now}},
            })
        })
        .collect();
    let ips = |all: &[IpAddr]| all.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
    json!({"status": {
        "phase": "Running",
        "hostIP": hosts.first(), "hostIPs": ips(hosts),
        "podIP": addresses.first(), "podIPs": ips(addresses),
        "startTime": now,
        "conditions": [
            condition("PodScheduled", true), condition("Initialized", true),
            condition("ContainersReady", ready), condition("Ready", ready),
        ],
        "containerStatuses": containers,
    }})
}

/// Now, as the API writes times.
fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_read() {
        let object = json!({
            "metadata": {"namespace": "shop", "name": "web-1", "uid": "u", "annotations": {READY: "false", DRAIN: "7"}},
            "spec": {
                "nodeName": "",
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]},
                ]}}},
                "containers": [
                    {"name": "a", "image": "x", "ports": [{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]},
                    {"name": "b", "image": "y", "ports": null},
                ],
            },
            "status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]},
        });
        let pod = ApiPod::read(&object).expect("it has a name");
        assert_eq!(pod.path(), "/api/v1/namespaces/shop/pods/web-1");
        assert_eq!((pod.node, pod.only_node.as_deref()), (None, Some("n2")));
        assert_eq!(pod.ports, [8080]);
        assert_eq!((pod.wanted_ready, pod.reported_ready), (false, Some(false)));
        assert_eq!(pod.drain, Some(Duration::from_secs(7)));
        assert!(pod.grace.is_none() && !pod.is_over && !pod.host_network);
        assert_eq!(pod.containers.len(), 2);
        assert_eq!(ApiPod::read(&json!({"metadata": {"name": "x"}})), None);
    }

    #[test]
    fn a_pod_that_names_no_port_has_the_usual_ones() {
        let object = json!({"metadata": {"namespace": "a", "name": "b", "uid": "c"}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
        let pod = ApiPod::read(&object).expect("it has a name");
        assert_eq!(pod.ports, [80, 8080]);
        assert!(pod.wanted_ready && pod.reported_ready.is_none());
    }

    #[test]
    fn a_status_has_both_families() {
        let object = json!({"metadata": {"namespace": "a", "name": "b", "uid": "c"}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
        let pod = ApiPod::read(&object).expect("it has a name");
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let status = ready_status(&pod, &[ip("10.0.0.1"), ip("fd00::1")], &[ip("192.0.2.1")]);
        assert_eq!(status["status"]["podIP"], "10.0.0.1");
        assert_eq!(status["status"]["podIPs"][1]["ip"], "fd00::1");
        assert_eq!(status["status"]["conditions"][3]["status"], "True");
    }
}
