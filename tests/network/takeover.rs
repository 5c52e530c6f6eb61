//! From kube-proxy to nodeport on a live node, and back: no connection is broken, none refused, no packet lost.
//!
//! What stands for kube-proxy here is rules as it writes them and a listener where it listens; the cluster tier has the real one.

use std::net::{SocketAddr, TcpListener};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nodeport_tests::addresses::CLIENT;
use nodeport_tests::agent::{Agent, AgentSpec};
use nodeport_tests::echo::{ECHO_PORT, Echo, Talk};
use nodeport_tests::manifest::Manifest;
use nodeport_tests::outcomes::Outcomes;
use nodeport_tests::servers::{self, HTTP_PORT, Servers};
use nodeport_tests::stream::Stream;
use nodeport_tests::{Family, Lab, LabSpec, Netns};

use crate::world::{WEB, web_and_dns};

/// Node port of the echo Service.
const ECHO: u16 = 30007;
/// The Pods behind both Services: one on the node that is asked, one on the other.
const PODS: [&str; 2] = ["n1-p1", "n2-p1"];

/// How kube-proxy writes its rules.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// Tables of its own.
    Nftables,
    /// Chains in the tables of iptables.
    Iptables,
}

/// A lab without agents, its objects written; what is dropped first is named first.
struct Node {
    agent: Agent,
    _echo: Vec<Echo>,
    _servers: Servers,
    lab: Lab,
}

/// kube-proxy on n1: it runs for as long as this lives, and leaves its rules behind.
struct KubeProxy(#[expect(dead_code, reason = "it listens until it is dropped")] TcpListener);

impl Node {
    fn new(arguments: &str) -> Self {
        let lab = LabSpec::nodes(2).start().expect("the lab starts");
        let servers = servers::start_all(&lab).expect("the servers start");
        let echo = |pod| Echo::in_pod(lab.pod(pod)).expect("echo starts");
        let echo = PODS.map(echo).into();
        let mut manifest = Manifest::new(&lab);
        web_and_dns(&lab, &mut manifest, &PODS);
        let endpoints = PODS.iter().map(|pod| lab.pod(pod));
        let service = manifest.service("echo").node_port(ECHO, ECHO_PORT);
        service.endpoints(&lab, endpoints);
        let objects = manifest.write().expect("the objects are written");
        let spec = AgentSpec::new(&[objects]).arguments(arguments);
        Self {
            agent: Agent::new(lab.node("n1"), spec),
            _echo: echo,
            _servers: servers,
            lab,
        }
    }

    fn netns(&self) -> &Netns {
        &self.lab.node("n1").netns
    }

    fn start_kube_proxy(&self, mode: Mode) -> KubeProxy {
        let rules: String = Family::BOTH
            .map(|family| rules(&self.lab, family, mode))
            .concat();
        let path = self.lab.dir().join("kube-proxy.nft");
        std::fs::write(&path, rules).expect("written");
        let line = format!("nft -f {}", path.display());
        self.netns().sh(&line).expect("the rules are loaded");
        let bind = || TcpListener::bind("127.0.0.1:10256");
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match self.netns().run(bind).expect("entered") {
                Ok(listener) => return KubeProxy(listener),
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            sleep(Duration::from_millis(100));
        }
    }

    fn tables(&self) -> String {
        self.netns().sh("nft list ruleset").expect("the rules")
    }

    /// Conversations through n1 with all backends.
    fn talks(&self) -> Vec<Talk> {
        let talk = |family: Family| {
            let from = SocketAddr::new(CLIENT[family as usize], 0);
            let to = SocketAddr::new(self.lab.node("n1").address(family), ECHO);
            Talk::connect(&self.lab.client, from, to).expect("connected")
        };
        (0..12).flat_map(|_| Family::BOTH.map(talk)).collect()
    }

    fn stream(&self) -> Stream {
        let to =
            Family::BOTH.map(|family| SocketAddr::new(self.lab.node("n1").address(family), WEB));
        Stream::start(&self.lab.client, &to, Duration::from_millis(2)).expect("it starts")
    }

    fn outcomes(&self) -> Outcomes {
        self.agent.outcomes().expect("counters")
    }

    /// Packets to backends that the agent's programs carried since then.
    fn carried(&self, before: &Outcomes) -> u64 {
        let since = self.outcomes().since(before);
        let carried = since.0.iter().filter(|((_, outcome), _)| {
            ["to_local_backend", "to_remote_backend"].contains(&outcome.as_str())
        });
        carried.map(|(_, packets)| packets).sum()
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_mins(2);
        while !holds() {
            let status = self
                .agent
                .status()
                .map(|status| status["warnings"].to_string());
            assert!(
                Instant::now() < end,
                "{what}\n{status:?}\n{}\n{}",
                self.tables(),
                self.netns()
                    .sh("cat /proc/net/nf_conntrack")
                    .unwrap_or_default()
            );
            sleep(Duration::from_millis(100));
        }
    }

    fn warns_of(&self, words: &str) -> bool {
        let status = self.agent.status().expect("it answers");
        status["warnings"].to_string().contains(words)
    }
}

/// Rules for both Services, as kube-proxy has them: translated at random, masqueraded.
fn rules(lab: &Lab, family: Family, mode: Mode) -> String {
    let ip = if family == Family::V4 { "ip" } else { "ip6" };
    let node = lab.node("n1").address(family);
    let to = |pod: &str, port: u16| SocketAddr::new(lab.pod(pod).address(family), port);
    let service = |port: u16, target: u16| {
        let (first, second) = (to(PODS[0], target), to(PODS[1], target));
        let asked = format!("{ip} daddr {node} tcp dport {port}");
        format!("{asked} numgen random mod 2 == 0 dnat to {first}\n{asked} dnat to {second}\n")
    };
    let services = service(WEB, HTTP_PORT) + &service(ECHO, ECHO_PORT);
    let (before, after) = (
        "type nat hook prerouting priority dstnat;",
        "type nat hook postrouting priority srcnat;",
    );
    match mode {
        Mode::Nftables => format!(
            "table {ip} kube-proxy {{
             chain nat-prerouting {{ {before} jump services; }}
             chain services {{ {services} }}
             chain nat-postrouting {{ {after} ct status dnat masquerade; }}
             }}\n"
        ),
        Mode::Iptables => format!(
            "table {ip} nat {{
             chain PREROUTING {{ {before} counter jump KUBE-SERVICES; counter; }}
             chain POSTROUTING {{ {after} counter jump KUBE-POSTROUTING; }}
             chain KUBE-SERVICES {{ {services} }}
             chain KUBE-POSTROUTING {{ ct status dnat masquerade; }}
             }}
             table {ip} filter {{
             chain INPUT {{ type filter hook input priority filter; jump KUBE-FIREWALL; }}
             chain KUBE-FIREWALL {{ counter; }}
             }}\n"
        ),
    }
}

fn all_go_on(talks: &mut [Talk], word: &str) {
    for talk in talks {
        talk.say(word).expect("the connection lives");
    }
}

fn there_and_back(mode: Mode) {
    let mut node = Node::new("--takeover");
    let kube_proxy = node.start_kube_proxy(mode);
    let stream = node.stream();
    let mut begun_before = node.talks();

    // Beside kube-proxy: it goes on carrying what is new.
    node.agent.start(&node.lab).expect("it starts");
    node.until("it says that kube-proxy runs", || {
        node.warns_of("kube-proxy runs beside")
    });
    let before = node.outcomes();
    let mut begun_beside = node.talks();
    assert_eq!(node.carried(&before), 0, "kube-proxy carries what is new");

    // kube-proxy goes, and its rules with it. What it began goes on.
    drop(kube_proxy);
    node.until("the rules are gone", || {
        let tables = node.tables();
        !tables.contains("kube-proxy") && !tables.contains("KUBE-SERVICES")
    });
    assert_eq!(
        node.tables().contains("KUBE-FIREWALL"),
        mode == Mode::Iptables,
        "kubelet's stays"
    );
    all_go_on(&mut begun_before, "after kube-proxy");
    all_go_on(&mut begun_beside, "after kube-proxy");
    let before = node.outcomes();
    let mut ours = node.talks();
    assert!(node.carried(&before) > 0, "we carry what is new");
    assert!(!node.warns_of("kube-proxy"));

    // When its last connection is over, nothing of it is left.
    drop((begun_before, begun_beside));
    node.until("the last table is gone", || {
        !node.tables().contains("nodeport-keep-nat")
    });

    // And back: kube-proxy starts, carries what is new, and ours go on until we are removed.
    let _kube_proxy = node.start_kube_proxy(mode);
    node.until("it says that kube-proxy runs", || {
        node.warns_of("kube-proxy runs beside")
    });
    let before = node.outcomes();
    let mut given_back = node.talks();
    assert_eq!(node.carried(&before), 0, "kube-proxy carries what is new");
    all_go_on(&mut ours, "beside kube-proxy");
    drop(ours);
    node.agent.stop().expect("it ends");
    node.agent.clean().expect("everything is removed");
    all_go_on(&mut given_back, "after nodeport");
    let report = stream.finish().expect("the stream ends");
    assert!(report.is_perfect(), "{report:?}");
    assert!(
        report.answered > 1000,
        "too few to say anything: {report:?}"
    );
}

#[test]
fn from_kube_proxys_nftables_mode_and_back_nothing_is_lost() {
    there_and_back(Mode::Nftables);
}

#[test]
fn from_kube_proxys_iptables_mode_and_back_nothing_is_lost() {
    there_and_back(Mode::Iptables);
}

/// Without `--takeover` the rules stay, are told of, and go when the command is given; while kube-proxy runs, and without an agent, it refuses.
#[test]
fn rules_are_removed_by_command_and_only_when_nobody_needs_them() {
    let mut node = Node::new("");
    let kube_proxy = node.start_kube_proxy(Mode::Nftables);
    let command = |node: &Node, words: &[&str]| {
        let words = [&["takeover"], words].concat();
        node.agent.run(&words).map_err(|error| format!("{error:#}"))
    };
    let shown = command(&node, &["--dry-run"]).expect("it says what there is");
    assert!(shown.contains("nftables: table ip6 kube-proxy"), "{shown}");
    let refused = command(&node, &[]).expect_err("kube-proxy runs");
    assert!(
        refused.contains("kube-proxy runs on this node"),
        "{refused}"
    );
    drop(kube_proxy);
    let refused = command(&node, &[]).expect_err("nobody would carry anything");
    assert!(refused.contains("no agent answers"), "{refused}");
    node.agent.start(&node.lab).expect("it starts");
    node.until("new connections are ours", || {
        node.warns_of("but not its rules")
    });
    let mut talks = node.talks();
    assert!(
        node.tables().contains("table ip kube-proxy"),
        "nobody asked for their removal"
    );
    let stream = node.stream();
    command(&node, &[]).expect("removed");
    assert!(!node.tables().contains("kube-proxy"));
    all_go_on(&mut talks, "after the rules");
    let report = stream.finish().expect("the stream ends");
    assert!(report.is_perfect(), "{report:?}");
    let nothing = command(&node, &[]).expect("there is nothing");
    assert!(nothing.contains("nothing of kube-proxy's"), "{nothing}");
}

/// What IPVS mode leaves cannot be removed from here: that is said for as long as its device is there, and new connections are ours.
#[test]
fn the_device_of_ipvs_mode_is_told_of() {
    let mut node = Node::new("");
    // A bridge: not every kernel has the kind of device that it is.
    node.netns()
        .sh("ip link add kube-ipvs0 type bridge")
        .expect("added");
    node.agent.start(&node.lab).expect("it starts");
    node.until("it is told of", || node.warns_of("kube-ipvs0"));
    let stream = node.stream();
    node.until("connections are ours", || {
        node.carried(&Outcomes::default()) > 20
    });
    let said = node.agent.run(&["takeover", "--dry-run"]).expect("it runs");
    assert!(said.contains("kube-ipvs0"), "{said}");
    let report = stream.finish().expect("it ran");
    assert!(report.failed.is_empty(), "{report:?}");
    node.netns()
        .sh("ip link delete kube-ipvs0")
        .expect("deleted");
    node.until("nothing is left to tell", || !node.warns_of("kube-ipvs0"));
}
