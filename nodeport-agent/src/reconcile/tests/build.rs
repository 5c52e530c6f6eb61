//! Desired states for tests, written in a few words.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::desired::{
    BackendSet, Desired, DesiredBackend, DesiredFrontend, Family, FrontendId, FrontendKind,
    IfEmpty, Listen, Protocol, ServicePortName,
};
use crate::reconcile::Clock;

/// A clock that a test moves.
#[derive(Clone, Debug, Default)]
pub(super) struct TestClock(Rc<Cell<Duration>>);

impl TestClock {
    pub(super) fn advance(&self, by: Duration) {
        self.0.set(self.0.get() + by);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        self.0.get()
    }
}

/// One service port. Endpoints that start with `+` are on this node.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) cluster_ips: Vec<String>,
    pub(super) node_port: u16,
    pub(super) endpoints: Vec<String>,
    pub(super) policy_local: bool,
    pub(super) affinity_secs: u32,
    pub(super) sources: Vec<String>,
}

pub(super) fn service(name: &str) -> Service {
    Service {
        name: name.to_owned(),
        protocol: Protocol::Tcp,
        cluster_ips: Vec::new(),
        node_port: 0,
        endpoints: Vec::new(),
        policy_local: false,
        affinity_secs: 0,
        sources: Vec::new(),
    }
}

impl Service {
    pub(super) fn udp(mut self) -> Self {
        self.protocol = Protocol::Udp;
        self
    }

    pub(super) fn cluster_ip(mut self, ip: &str) -> Self {
        self.cluster_ips.push(ip.to_owned());
        self
    }

    pub(super) fn node_port(mut self, port: u16) -> Self {
        self.node_port = port;
        self
    }

    pub(super) fn endpoints(mut self, endpoints: &[&str]) -> Self {
        self.endpoints = endpoints.iter().map(|text| (*text).to_owned()).collect();
        self
    }

    pub(super) fn local_policy(mut self) -> Self {
        self.policy_local = true;
        self
    }

    pub(super) fn affinity(mut self, secs: u32) -> Self {
        self.affinity_secs = secs;
        self
    }

    /// Restricts its NodePorts, which the model never does; the plan does not know better.
    pub(super) fn sources(mut self, ranges: &[&str]) -> Self {
        self.sources = ranges.iter().map(|text| (*text).to_owned()).collect();
        self
    }

    fn ranges(&self) -> BTreeSet<IpNet> {
        let ranges = self.sources.iter().map(|text| text.parse());
        ranges.map(|range| range.expect("a range")).collect()
    }

    pub(super) fn name(&self) -> ServicePortName {
        ServicePortName {
            namespace: "default".into(),
            name: self.name.as_str().into(),
            port: "".into(),
            protocol: self.protocol,
        }
    }

    fn backends(&self, family: Family, local_only: bool) -> BTreeSet<DesiredBackend> {
        let all = self.endpoints.iter().map(|text| {
            let local = text.starts_with('+');
            let address: SocketAddr = text.trim_start_matches('+').parse().expect("an endpoint");
            DesiredBackend { address, local }
        });
        all.filter(|backend| backend.address.is_ipv4() == (family == Family::V4))
            .filter(|backend| backend.local || !local_only)
            .collect()
    }

    fn frontend(&self, kind: FrontendKind, family: Family) -> DesiredFrontend {
        let external_local = self.policy_local && kind != FrontendKind::ClusterIp;
        let inside = self.backends(family, false);
        let if_empty = if external_local && !inside.is_empty() {
            IfEmpty::Drop
        } else {
            IfEmpty::Reject
        };
        DesiredFrontend {
            kind,
            service_port: self.name(),
            policy_local: external_local,
            affinity_secs: self.affinity_secs,
            restricted: kind == FrontendKind::NodePort
                && (self.ranges().iter()).any(|range| family_of(range.addr()) == family),
            outside: Arc::new(BackendSet {
                backends: self.backends(family, external_local),
                if_empty,
            }),
            inside: Arc::new(BackendSet {
                backends: inside,
                if_empty: IfEmpty::Reject,
            }),
        }
    }
}

/// The desired state of a node with these services, in both families. The first owner of a front end keeps it.
pub(super) fn desired(services: &[Service]) -> Desired {
    let mut desired = Desired::default();
    for service in services {
        let id = |listen, port| FrontendId {
            listen,
            port,
            protocol: service.protocol,
        };
        for ip in &service.cluster_ips {
            let ip = ip.parse().expect("an address");
            let family = family_of(ip);
            desired
                .frontends
                .entry(id(Listen::Address(ip), 80))
                .or_insert_with(|| Arc::new(service.frontend(FrontendKind::ClusterIp, family)));
        }
        for family in [Family::V4, Family::V6] {
            if service.node_port != 0 {
                desired
                    .frontends
                    .entry(id(Listen::Node(family), service.node_port))
                    .or_insert_with(|| Arc::new(service.frontend(FrontendKind::NodePort, family)));
            }
        }
        if service.node_port != 0 && !service.sources.is_empty() {
            let ranges = Arc::new(service.ranges());
            desired.sources.insert(service.name(), ranges);
        }
        if service.protocol == Protocol::Udp {
            let all = [Family::V4, Family::V6].map(|family| service.backends(family, false));
            let endpoints = all.into_iter().flatten().map(|backend| backend.address);
            let endpoints = Arc::new(endpoints.collect());
            desired.serving.insert(service.name(), endpoints);
        }
    }
    desired
}

fn family_of(ip: std::net::IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}
