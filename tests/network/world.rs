//! A lab with servers, objects and agents: where most stories begin.

use std::net::{IpAddr, SocketAddr};

use nodeport_tests::agent::{Agent, AgentSpec};
use nodeport_tests::clients::{self, Answer, Options, Verdict};
use nodeport_tests::manifest::Manifest;
use nodeport_tests::outcomes::Outcomes;
use nodeport_tests::servers::{self, DNS_PORT, HTTP_PORT, Servers};
use nodeport_tests::{Family, Lab, LabSpec, Netns};

/// Node port of the TCP Service `web`.
pub(crate) const WEB: u16 = 30080;
/// Node port of the UDP Service `dns`.
pub(crate) const DNS: u16 = 30053;

/// Agents and servers before the lab: they are dropped first.
pub(crate) struct World {
    pub(crate) agents: Vec<Agent>,
    pub(crate) servers: Servers,
    pub(crate) manifest: Manifest,
    pub(crate) lab: Lab,
}

impl World {
    /// A lab whose every node has an agent; `web` (TCP) and `dns` (UDP) have these Pods as endpoints.
    pub(crate) fn new(spec: LabSpec, pods: &[&str], xdp: &str) -> Self {
        Self::with(
            spec,
            |spec| spec.xdp(xdp),
            |lab, manifest| web_and_dns(lab, manifest, pods),
        )
    }

    pub(crate) fn with(
        spec: LabSpec,
        agent: impl Fn(AgentSpec) -> AgentSpec,
        objects: impl Fn(&Lab, &mut Manifest),
    ) -> Self {
        let lab = spec.start().expect("the lab starts");
        let servers = servers::start_all(&lab).expect("the servers start");
        let mut manifest = Manifest::new(&lab);
        objects(&lab, &mut manifest);
        let path = manifest.write().expect("the objects are written");
        let spec = agent(AgentSpec::new(&[path]));
        let agents = nodeport_tests::agent::start_all(&lab, &spec).expect("the agents start");
        Self {
            agents,
            servers,
            manifest,
            lab,
        }
    }

    pub(crate) fn agent(&self, node: &str) -> &Agent {
        self.agents
            .iter()
            .find(|agent| agent.node == node)
            .expect("an agent of this node")
    }

    /// What the programs of a node counted while something was done, and what came of it.
    pub(crate) fn counted<T>(&self, node: &str, work: impl FnOnce() -> T) -> (Outcomes, T) {
        let agent = self.agent(node);
        let before = agent.outcomes().expect("counters");
        let result = work();
        (agent.outcomes().expect("counters").since(&before), result)
    }

    pub(crate) fn node_port(&self, node: &str, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.lab.node(node).address(family), port)
    }

    /// Asks by curl and expects an answer.
    pub(crate) fn http(&self, from: &Netns, to: SocketAddr) -> Answer {
        self.http_with(from, to, Options::default())
    }

    pub(crate) fn http_with(&self, from: &Netns, to: SocketAddr, options: Options) -> Answer {
        match clients::http(from, to, options).expect("curl runs") {
            Verdict::Answered(answer) => answer,
            other => panic!("{} asks {to}: {other:?}\n{}", from.name(), self.evidence()),
        }
    }

    /// Asks by dig and expects an answer.
    pub(crate) fn dns(&self, from: &Netns, to: SocketAddr) -> Answer {
        match clients::dns(from, to, &self.servers, Options::default()).expect("dig runs") {
            Verdict::Answered(answer) => answer,
            other => panic!("{} asks {to}: {other:?}\n{}", from.name(), self.evidence()),
        }
    }

    /// Once from each outside client to each of these, so that neighbours are known: what comes after needs no help of the stack.
    pub(crate) fn warm_up(&self, node: &str) {
        for family in Family::BOTH
            .into_iter()
            .filter(|family| self.lab.spec.families[*family as usize])
        {
            for _ in 0..8 {
                self.http(&self.lab.client, self.node_port(node, family, WEB));
            }
        }
    }

    /// What every node counted so far: said where something went wrong.
    pub(crate) fn evidence(&self) -> String {
        let of = |agent: &Agent| format!("{}: {:?}", agent.node, agent.outcomes().map(|o| o.0));
        self.agents.iter().map(of).collect::<Vec<_>>().join("\n")
    }
}

/// The usual objects: `web` at 30080 (TCP) and `dns` at 30053 (UDP), both served by these Pods.
pub(crate) fn web_and_dns(lab: &Lab, manifest: &mut Manifest, pods: &[&str]) {
    let endpoints = || pods.iter().map(|name| lab.pod(name));
    manifest
        .service("web")
        .node_port(WEB, HTTP_PORT)
        .endpoints(lab, endpoints());
    manifest
        .service("dns")
        .udp_node_port(DNS, DNS_PORT)
        .endpoints(lab, endpoints());
}

/// The address that the server saw.
pub(crate) fn seen(answer: &Answer) -> IpAddr {
    answer.client.expect("the server says whom it saw").ip()
}
