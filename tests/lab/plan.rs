//! Which trials a set of objects calls for.
//!
//! Owns who asks whom; what should come of it is [`crate::expect`]'s. Invariant: the client of a trial is never one of its
//! endpoints.

use std::net::{IpAddr, SocketAddr};

use crate::addresses::CLIENT;
use crate::expect::{Asked, Client, Endpoints};
use crate::lab::{Family, Lab, Node, Pod};
use crate::netns::Netns;
use crate::objects::{Objects, Protocol, Service, ServicePort};
use crate::trial::Trial;

/// How much to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breadth {
    /// Every kind of client at every front end.
    Full,
    /// Each front end once from a Pod, each node port at each node from outside.
    Once,
}

/// The trials that these objects call for, and how many service ports were left out because they are SCTP.
#[must_use]
pub fn trials(lab: &Lab, objects: &Objects, breadth: Breadth) -> (Vec<Trial>, usize) {
    let mut all = Vec::new();
    let mut left_out = 0;
    let mut turn = 0;
    for service in &objects.services {
        for port in &service.ports {
            if port.protocol == Protocol::Sctp {
                left_out += 1;
                continue;
            }
            for address in service.cluster_ips.iter().filter(|a| lab.spec.uses(**a)) {
                let endpoints = Endpoints::of(objects, service, port, address.is_ipv6());
                let target = Target {
                    lab,
                    service,
                    port,
                    endpoints,
                    cluster_ip: *address,
                };
                target.trials(breadth, turn, &mut all);
                turn += 1;
            }
        }
    }
    (all, left_out)
}

/// A service port in one family.
struct Target<'a> {
    lab: &'a Lab,
    service: &'a Service,
    port: &'a ServicePort,
    endpoints: Endpoints,
    cluster_ip: IpAddr,
}

impl Target<'_> {
    fn trials(&self, breadth: Breadth, turn: usize, all: &mut Vec<Trial>) {
        let nodes = &self.lab.nodes;
        let own = turn % nodes.len();
        let other = (own + 1) % nodes.len();
        all.extend(self.pod_asks(own, own, Asked::Cluster));
        if breadth == Breadth::Full {
            all.extend(self.sockets_ask(own, Asked::Cluster));
            // The router sends cluster addresses to the first node.
            all.push(self.outside_asks(0, Asked::Cluster));
        }
        if self.port.node_port.is_none() {
            return;
        }
        all.extend((0..nodes.len()).map(|node| self.outside_asks(node, Asked::NodePort)));
        all.extend(self.pod_asks(own, own, Asked::NodePort));
        if breadth == Breadth::Full {
            all.extend(self.sockets_ask(own, Asked::NodePort));
        }
        if breadth == Breadth::Full && other != own {
            all.extend(self.pod_asks(own, other, Asked::NodePort));
        }
    }

    fn family(&self) -> Family {
        Family::of(self.cluster_ip)
    }

    /// The outside client asks `node`.
    fn outside_asks(&self, node: usize, asked: Asked) -> Trial {
        let from = CLIENT[self.family() as usize];
        self.trial(
            "client",
            &self.lab.client,
            from,
            node,
            asked,
            Client::Outside,
        )
    }

    /// The last Pod of node `of` asks `node`: its own or another.
    fn pod_asks(&self, of: usize, node: usize, asked: Asked) -> Option<Trial> {
        let pod: &Pod = self.lab.nodes[of].pods.last()?;
        let client = if of == node {
            Client::PodOfNode
        } else {
            Client::Outside
        };
        let from = pod.address(self.family());
        Some(self.trial(&pod.spec.name, &pod.netns, from, node, asked, client))
    }

    /// Processes in the node's cgroup, as all of a real node are: one in its last Pod, one of the node itself. Nothing where cgroup v2 is
    /// not mounted.
    fn sockets_ask(&self, of: usize, asked: Asked) -> Vec<Trial> {
        let node = &self.lab.nodes[of];
        let Some(cgroup) = &node.cgroup else {
            return Vec::new();
        };
        let family = self.family();
        let mut all = Vec::new();
        if let Some(pod) = node.pods.last() {
            let name = format!("{} (socket)", pod.spec.name);
            let netns = pod.netns.in_cgroup(cgroup);
            let from = pod.address(family);
            let trial = self.trial(&name, &netns, from, of, asked, Client::PodOfNode);
            all.push(Trial {
                seen_there: vec![from],
                seen_elsewhere: vec![from],
                by_socket: true,
                ..trial
            });
        }
        let name = format!("{} (socket)", node.name);
        let netns = node.netns.in_cgroup(cgroup);
        let from = node.address(family);
        let trial = self.trial(&name, &netns, from, of, asked, Client::PodOfNode);
        let own: Vec<_> = (node.own_addresses())
            .chain(self.lab.bridge(of, family))
            .collect();
        all.push(Trial {
            seen_there: own.clone(),
            seen_elsewhere: own,
            by_socket: true,
            ..trial
        });
        all
    }

    fn trial(
        &self,
        name: &str,
        netns: &Netns,
        from: IpAddr,
        node: usize,
        asked: Asked,
        client: Client,
    ) -> Trial {
        let at: &Node = &self.lab.nodes[node];
        let to = match asked {
            Asked::Cluster => SocketAddr::new(self.cluster_ip, self.port.port),
            Asked::NodePort => SocketAddr::new(
                at.address(self.family()),
                self.port.node_port.unwrap_or_default(),
            ),
        };
        let translator: Vec<_> = at.own_addresses().collect();
        let keeps = match asked {
            // A Pod keeps its address towards a cluster address (9.6), everyone under policy Local (9.2, 9.4).
            Asked::Cluster => client == Client::PodOfNode,
            Asked::NodePort => self.service.external_local,
        };
        let seen_elsewhere = match (keeps, client) {
            (true, _) => vec![from],
            (false, Client::Outside) => translator,
            // 9.3 has the node's address here; the Pod's own does as well, as replies pass its node anyway.
            (false, Client::PodOfNode) => translator.into_iter().chain([from]).collect(),
        };
        // Where Pods of one node share a bridge, its address stands for the client: the reply would pass by the node else.
        let bridge = self.lab.bridge(node, self.family());
        let seen_there = match (bridge, client) {
            (Some(bridge), Client::PodOfNode) => vec![bridge],
            _ => vec![from],
        };
        Trial {
            client: name.to_owned(),
            from: netns.clone(),
            from_address: from,
            service: self.name(),
            protocol: self.port.protocol,
            asked,
            to,
            node,
            expected: self
                .endpoints
                .expected(self.service, asked, &at.name, client),
            seen_there,
            seen_elsewhere,
            by_socket: false,
        }
    }

    fn name(&self) -> String {
        let Service {
            namespace, name, ..
        } = self.service;
        match (self.port.name.as_str(), self.service.ports.len()) {
            ("", _) | (_, 1) => format!("{namespace}/{name}"),
            (port, _) => format!("{namespace}/{name}:{port}"),
        }
    }
}
