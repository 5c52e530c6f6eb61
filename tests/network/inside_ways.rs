//! Sockets and devices, either without the other; what a restart does; endpoints that lead back (edge-cases G1-G3, G5-G9; behaviours 9.9,
//! 9.12, 13.5, 18.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use nodeport_tests::clients::{self, Options, Verdict};
use nodeport_tests::process::Process;
use nodeport_tests::servers::{self, HTTP_PORT};
use nodeport_tests::{Family, LabSpec};
use serde_json::json;

use crate::world::{DNS, WEB, World, seen, web_and_dns};

fn world(pods: &'static [&str], arguments: &'static str) -> World {
    World::with(
        LabSpec::nodes(2),
        |spec| spec.arguments(arguments),
        |lab, manifest| web_and_dns(lab, manifest, pods),
    )
}

fn cluster_ip(world: &World, family: Family) -> SocketAddr {
    let address = world.manifest.cluster_ip("web", family == Family::V6);
    SocketAddr::new(address, HTTP_PORT)
}

/// G9: a Pod reaches Services by its socket, by TC if sockets are not covered, and by its socket if its packets are not; the node itself only by
/// sockets.
#[test]
fn pods_are_served_by_sockets_or_by_tc_and_each_is_enough() {
    for (arguments, of_pod, of_node) in [
        ("--socket-lb=all", "socket", "socket"),
        ("--socket-lb=host", "tc", "socket"),
        ("--socket-lb=off", "tc", ""),
    ] {
        let world = world(&["n2-p1"], arguments);
        let node = world.lab.node("n1");
        let (own, pod) = (node.inside(&node.netns), node.inside(&node.pod(1).netns));
        for family in Family::BOTH {
            for to in [
                cluster_ip(&world, family),
                world.node_port("n1", family, WEB),
            ] {
                let (counted, answer) = world.counted("n1", || world.http(&pod, to));
                assert_eq!(answer.name, "n2-p1");
                // A NodePort is masqueraded by TC: then XDP may take the reply.
                let carried = counted.carried_by().replace("xdp+", "");
                assert_eq!(carried, of_pod, "{arguments} {to}: {counted:?}");
                if of_node.is_empty() {
                    let verdict = clients::http(&own, to, Options::default()).expect("curl runs");
                    assert!(!matches!(verdict, Verdict::Answered(_)), "{verdict:?}");
                } else {
                    let (counted, answer) = world.counted("n1", || world.http(&own, to));
                    assert_eq!(answer.name, "n2-p1");
                    assert_eq!(
                        counted.carried_by(),
                        of_node,
                        "{arguments} {to}: {counted:?}"
                    );
                }
            }
            // A Pod of another cgroup (a sandboxed runtime): the same Pod, its commands outside the node's cgroup.
            let outside = &node.pod(1).netns;
            let to = cluster_ip(&world, family);
            let (counted, answer) = world.counted("n1", || world.http(outside, to));
            assert_eq!(answer.name, "n2-p1");
            assert_eq!(counted.carried_by(), "tc", "{arguments}: {counted:?}");
        }
    }
}

/// The other way round: no program on any device. (Only the uplink is a device of nodeport's, and it is let go.)
#[test]
fn sockets_alone_serve_pods_and_the_node() {
    let world = world(&["n1-p2", "n2-p1"], "");
    let node = world.lab.node("n1");
    let links = world.agent("n1").link_dir();
    let mut agents = world.agents;
    for agent in &mut agents {
        agent.stop().expect("stops");
    }
    for entry in std::fs::read_dir(&links).expect("links").flatten() {
        if !entry.file_name().to_string_lossy().starts_with("cgroup-") {
            std::fs::remove_file(entry.path()).expect("let go");
        }
    }
    for netns in [node.inside(&node.netns), node.inside(&node.pod(1).netns)] {
        for family in [false, true] {
            let to = SocketAddr::new(world.manifest.cluster_ip("web", family), HTTP_PORT);
            for _ in 0..4 {
                let verdict = clients::http(&netns, to, Options::default()).expect("curl runs");
                assert!(matches!(verdict, Verdict::Answered(_)), "{to}: {verdict:?}");
            }
        }
    }
}

/// Programs of sockets outlive the agent, and the next one takes over without a call in between that is not translated; `clean` ends it.
#[test]
fn sockets_are_translated_while_the_agent_is_replaced() {
    let mut world = world(&["n2-p1"], "");
    let node = world.lab.node("n1");
    let own = node.inside(&node.netns);
    let to = cluster_ip(&world, Family::V4);
    let links = world.agent("n1").link_dir();
    let names = || {
        let entries = std::fs::read_dir(&links).expect("links").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("cgroup-")).collect();
        names.sort_unstable();
        names
    };
    let before = names();
    assert_eq!(before.len(), 8, "{before:?}");
    let index = world.agents.iter().position(|agent| agent.node == "n1");
    let mut agent = world.agents.remove(index.expect("an agent"));
    let mut line = Command::new("sh");
    line.args([
        "-c",
        "while :; do curl -s --noproxy '*' -m 2 -o /dev/null http://$0/ && echo ok || echo lost; done",
        &to.to_string(),
    ]);
    let log = world.lab.dir().join("stream.log");
    let mut stream = Process::start(world.lab.record(), &own, &mut line, &log).expect("a stream");
    for round in 0..3 {
        if round == 1 {
            agent.kill().expect("killed");
        } else {
            agent.stop().expect("stops");
        }
        std::thread::sleep(Duration::from_millis(200));
        agent.start(&world.lab).expect("starts");
        assert_eq!(names(), before, "the same places");
    }
    stream.kill().expect("ended");
    let said = stream.log();
    assert!(said.matches("ok").count() > 20, "{said}");
    assert_eq!(said.matches("lost").count(), 0, "{said}");
    agent.stop().expect("stops");
    agent.clean().expect("cleaned");
    let verdict = clients::http(&own, to, Options::default()).expect("curl runs");
    assert!(!matches!(verdict, Verdict::Answered(_)), "{verdict:?}");
}

/// G1, G3: connected to itself, a Pod needs nobody's help; it sees its own address, where TC has to masquerade.
#[test]
fn a_pod_reaches_itself_by_its_socket() {
    let world = world(&["n1-p1"], "");
    let node = world.lab.node("n1");
    let pod = world.lab.pod("n1-p1");
    let netns = node.inside(&pod.netns);
    for family in Family::BOTH {
        for to in [
            cluster_ip(&world, family),
            world.node_port("n1", family, WEB),
        ] {
            let (counted, answer) = world.counted("n1", || world.http(&netns, to));
            assert_eq!(
                (answer.name.as_str(), seen(&answer)),
                ("n1-p1", pod.address(family))
            );
            assert_eq!(counted.carried_by(), "socket", "{counted:?}");
        }
        world.dns(&netns, world.node_port("n1", family, DNS));
    }
}

/// G6: an endpoint in the node's own network, asked by the node and by a Pod; and a server of the node where there is no front end.
#[test]
fn the_node_reaches_its_own_servers_by_a_service_and_directly() {
    let world = World::with(
        LabSpec::nodes(2),
        |spec| spec,
        |lab, manifest| {
            let addresses: Vec<_> = lab.node("n1").own_addresses().collect();
            let service = manifest.service("web").node_port(WEB, 9100);
            service.endpoint(&addresses, "n1", &json!({"ready": true}));
        },
    );
    let node = world.lab.node("n1");
    let own = node.inside(&node.netns);
    let addresses: Vec<_> = node.own_addresses().collect();
    let listen = addresses.iter().map(|a| SocketAddr::new(*a, 9100));
    let listen: Vec<_> = listen.collect();
    let _server = servers::nginx(&world.lab, &own, "host", &listen).expect("nginx starts");
    for netns in [&own, &node.inside(&node.pod(1).netns)] {
        for family in Family::BOTH {
            let cluster_ip = world.manifest.cluster_ip("web", family == Family::V6);
            for to in [
                SocketAddr::new(cluster_ip, 9100),
                world.node_port("n1", family, WEB),
                SocketAddr::new(node.address(family), 9100),
            ] {
                let answer = world.http(netns, to);
                assert_eq!(answer.name, "host", "{} asks {to}", netns.name());
            }
        }
    }
}

/// 13.3, 13.5, G5: refused on loopback unless asked for; then all of 127.0.0.0/8 and `::1`, for the node's own processes only.
#[test]
fn node_ports_answer_on_loopback_if_asked_for() {
    let loopback = |last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    let addresses = [loopback(1), loopback(9), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let ways = [
        ("", false),
        ("--localhost-nodeports", true),
        ("--iptables-localhost-nodeports=true", true),
    ];
    for (arguments, answers) in ways {
        let world = world(&["n2-p1"], arguments);
        let node = world.lab.node("n1");
        let (own, pod) = (node.inside(&node.netns), node.inside(&node.pod(1).netns));
        for address in addresses {
            let to = SocketAddr::new(address, WEB);
            let verdict = clients::http(&own, to, Options::default()).expect("curl runs");
            match verdict {
                Verdict::Answered(answer) if answers => assert_eq!(answer.name, "n2-p1"),
                other => assert!(other == Verdict::Refused && !answers, "{to}: {other:?}"),
            }
            let verdict = clients::http(&pod, to, Options::default()).expect("curl runs");
            assert_eq!(verdict, Verdict::Refused, "a Pod has a loopback of its own");
            if answers {
                world.dns(&own, SocketAddr::new(address, DNS));
            }
        }
        let setting = "/proc/sys/net/ipv4/conf/all/route_localnet";
        assert_eq!(own.sh(&format!("cat {setting}")).expect("read").trim(), "0");
    }
}

/// 6.14, 18.2: with `--hold-node-ports` a process of the node is refused a live NodePort, and the log names it; other ports, Pods, and a NodePort
/// that is gone are free.
#[test]
fn a_live_node_port_is_held_and_the_log_names_who_wanted_it() {
    let mut world = world(&["n2-p1"], "--hold-node-ports");
    let node = world.lab.node("n1");
    let (own, pod) = (node.inside(&node.netns), node.inside(&node.pod(1).netns));
    let pid_file = world.lab.dir().join("bound.pid");
    // dnsmasq ends with an error if it cannot bind, and goes on otherwise until `timeout` ends it.
    let binds = |netns: &nodeport_tests::Netns, address: &str, port: u16| {
        let words = "--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root --bind-interfaces";
        let line = format!(
            "timeout 3 dnsmasq {words} --pid-file={} --port={port} --listen-address={address}",
            pid_file.display()
        );
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("timeout"));
        let output = netns.output(command.args(words)).expect("runs");
        let ended = output.status.code() != Some(124);
        ended.then(|| String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let address = node.address(Family::V4).to_string();
    for address in [address.as_str(), &node.address(Family::V6).to_string()] {
        for port in [WEB, DNS] {
            let error = binds(&own, address, port).expect("refused");
            assert!(error.contains("Address already in use"), "{error}");
        }
    }
    for (protocol, port) in [("TCP", WEB), ("UDP", DNS)] {
        let said = format!("was refused to bind {protocol} port {port}");
        let log = || world.agent("n1").log();
        // The agent reads what its programs say ten times a second.
        let named = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            let is_it = |line: &str| line.contains("dnsmasq (process ") && line.contains(&said);
            log().lines().any(is_it)
        });
        assert!(named, "{}", log());
    }
    let (counted, _) = world.counted("n1", || binds(&own, &address, WEB));
    assert!(counted.get("socket", "bind_refused") > 0, "{counted:?}");
    assert_eq!(
        binds(&own, "127.0.0.1", WEB),
        None,
        "not a NodePort's address"
    );
    assert_eq!(binds(&own, &address, 5300), None, "not a NodePort");
    let of_pod = world.lab.pod("n1-p1").address(Family::V4).to_string();
    assert_eq!(binds(&pod, &of_pod, WEB), None, "another network namespace");
    world.manifest.service("web").port(HTTP_PORT, HTTP_PORT);
    world.manifest.service("dns").port(HTTP_PORT, HTTP_PORT);
    world.manifest.write().expect("written");
    let free = || {
        std::thread::sleep(Duration::from_millis(300));
        binds(&own, &address, WEB).is_none()
    };
    assert!(
        (0..10).any(|_| free()),
        "a NodePort that is gone is nobody's"
    );
}
