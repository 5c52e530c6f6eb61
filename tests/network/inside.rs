//! Services as the node's own processes and its Pods reach them, by their sockets (edge-cases G2-G5, G8, G9, J12; behaviours 6.8, 7.1, 7.2,
//! 9.3, 9.5, 9.6, 10.1).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use nodeport_tests::clients::{self, Options, Verdict};
use nodeport_tests::process::Process;
use nodeport_tests::servers::{self, DNS_PORT, HTTP_PORT, IPERF_PORT};
use nodeport_tests::{Family, LabSpec, Netns};

use crate::world::{DNS, WEB, World, seen};

/// So many connections that it is no chance if one of two endpoints gets none.
const MANY: u64 = 24;

/// The node n1 and its first Pod, each with the address that servers should see of it. The node has more than one: any will do.
fn insiders(world: &World) -> [(&'static str, Netns); 2] {
    let node = world.lab.node("n1");
    [
        ("the node", node.inside(&node.netns)),
        ("a Pod", node.inside(&node.pod(1).netns)),
    ]
}

/// The cluster address and the node's own NodePort of `web` and of `dns`.
fn front_ends(world: &World, family: Family) -> [[SocketAddr; 2]; 2] {
    let v6 = family == Family::V6;
    let of = |service, port, node_port| {
        [
            SocketAddr::new(world.manifest.cluster_ip(service, v6), port),
            world.node_port("n1", family, node_port),
        ]
    };
    [of("web", HTTP_PORT, WEB), of("dns", DNS_PORT, DNS)]
}

/// G2, G4, G8: TCP and UDP, both families, cluster address and own NodePort. Sockets are aimed, and no program on a device translates.
#[test]
fn processes_and_pods_reach_services_by_their_sockets() {
    let world = World::new(LabSpec::nodes(2), &["n1-p2", "n2-p1"], "auto");
    for (who, netns) in insiders(&world) {
        for family in Family::BOTH {
            let [web, dns] = front_ends(&world, family);
            for (web, dns) in web.into_iter().zip(dns) {
                let (counted, answers) = world.counted("n1", || {
                    let asked = (0..MANY).map(|_| world.http(&netns, web));
                    let http: Vec<_> = asked.collect();
                    (http, world.dns(&netns, dns))
                });
                let names: BTreeSet<_> = answers.0.iter().map(|a| a.name.as_str()).collect();
                assert_eq!(
                    names,
                    BTreeSet::from(["n1-p2", "n2-p1"]),
                    "{who} asks {web}"
                );
                for answer in answers.0.iter().chain([&answers.1]) {
                    let client = seen(answer);
                    let own = if who == "a Pod" {
                        world.lab.pod("n1-p1").address(family) == client
                    } else {
                        world.lab.node("n1").own_addresses().any(|a| a == client)
                    };
                    assert!(own, "{who} asks {web}, {} saw {client}", answer.name);
                }
                let aimed = counted.get("socket", "to_local_backend")
                    + counted.get("socket", "to_routed_backend");
                assert!(aimed > MANY, "{who} asks {web}, {dns}: {counted:?}");
                assert_eq!(counted.carried_by(), "socket", "{who}: {counted:?}");
            }
        }
    }
}

/// J12: sockets of IPv6 that ask for IPv4-mapped addresses.
#[test]
fn mapped_addresses_reach_ipv4_services() {
    let world = World::new(LabSpec::nodes(2), &["n2-p1"], "auto");
    let IpAddr::V4(cluster_ip) = world.manifest.cluster_ip("web", false) else {
        panic!("an IPv4 address");
    };
    let mapped = SocketAddr::new(cluster_ip.to_ipv6_mapped().into(), HTTP_PORT);
    for (who, netns) in insiders(&world) {
        let (counted, answer) = world.counted("n1", || world.http(&netns, mapped));
        assert_eq!(answer.name, "n2-p1", "{who}");
        assert_eq!(counted.carried_by(), "socket", "{who}: {counted:?}");
    }
}

/// 6.8: no endpoint at all is refused at once, TCP and UDP; internal policy Local without one here is no route, at once.
#[test]
fn without_an_endpoint_connecting_fails_at_once() {
    let world = World::with(
        LabSpec::nodes(2),
        |spec| spec,
        |lab, manifest| {
            manifest.service("web").node_port(WEB, HTTP_PORT);
            manifest.service("dns").udp_node_port(DNS, DNS_PORT);
            let elsewhere = manifest.service("elsewhere").port(HTTP_PORT, HTTP_PORT);
            elsewhere
                .internal_local()
                .endpoints(lab, [lab.pod("n2-p1")]);
        },
    );
    for (who, netns) in insiders(&world) {
        for family in Family::BOTH {
            let start = Instant::now();
            let [web, dns] = front_ends(&world, family);
            for (web, dns) in web.into_iter().zip(dns) {
                let verdict = clients::http(&netns, web, Options::default()).expect("curl runs");
                assert_eq!(verdict, Verdict::Refused, "{who} asks {web}");
                let verdict = clients::dns(&netns, dns, &world.servers, Options::default());
                assert_eq!(
                    verdict.expect("dig runs"),
                    Verdict::Refused,
                    "{who} asks {dns}"
                );
            }
            let elsewhere = world.manifest.cluster_ip("elsewhere", family == Family::V6);
            let to = SocketAddr::new(elsewhere, HTTP_PORT);
            match clients::http(&netns, to, Options::default()).expect("curl runs") {
                Verdict::Failed(why) => assert!(why.contains("No route"), "{who}: {why}"),
                other => panic!("{who} asks {to}: {other:?}"),
            }
            assert!(start.elapsed() < Duration::from_secs(2), "{who}: at once");
        }
    }
}

/// G4, 10.1: a socket that is not connected sends to the Service's address, and believes only answers that come from there. (dnsmasq passes
/// a question on, and ignores what did not come from the server that it asked.)
#[test]
fn a_socket_that_is_not_connected_hears_from_the_address_that_it_asked() {
    let world = World::new(LabSpec::nodes(2), &["n2-p1"], "auto");
    for (who, netns) in insiders(&world) {
        for family in Family::BOTH {
            let [_, [cluster_ip, node_port]] = front_ends(&world, family);
            for upstream in [cluster_ip, node_port] {
                let log = world.lab.dir().join("forwarder.log");
                let mut command = Command::new("dnsmasq");
                command.args([
                    "--keep-in-foreground",
                    "--conf-file=/dev/null",
                    "--no-resolv",
                ]);
                command.args(["--no-hosts", "--user=root"]);
                command.arg(format!(
                    "--pid-file={}",
                    log.with_extension("pid").display()
                ));
                command.args([
                    "--port=5300",
                    "--listen-address=127.0.0.1",
                    "--bind-interfaces",
                ]);
                command.arg(format!("--server={}#{}", upstream.ip(), upstream.port()));
                let (counted, ()) = world.counted("n1", || {
                    let mut forwarder =
                        Process::start(world.lab.record(), &netns, &mut command, &log)
                            .expect("dnsmasq starts");
                    let ask =
                        || netns.sh("dig +short +tries=1 +time=1 -p 5300 @127.0.0.1 pod1.test TXT");
                    let answered = || ask().is_ok_and(|said| said.trim() == "\"n2-p1\"");
                    let limit = Duration::from_secs(5);
                    if let Err(error) = forwarder.wait_until(limit, answered) {
                        panic!("{who} by {upstream}: {error:#}\n{}", world.evidence());
                    }
                });
                assert!(counted.get("socket", "peer_named") > 0, "{counted:?}");
            }
        }
    }
}

/// 10.1: whom a process believes to be connected to (iperf3 asks by `getpeername`).
#[test]
fn the_peer_of_a_socket_is_the_front_end() {
    let world = World::with(
        LabSpec::nodes(2),
        |spec| spec,
        |lab, manifest| {
            let service = manifest.service("web").node_port(WEB, IPERF_PORT);
            service.endpoints(lab, [lab.pod("n2-p1")]);
        },
    );
    let _server = servers::iperf3(&world.lab, &world.lab.pod("n2-p1").netns).expect("iperf3");
    for (who, netns) in insiders(&world) {
        for family in Family::BOTH {
            let cluster_ip = world.manifest.cluster_ip("web", family == Family::V6);
            for to in [
                SocketAddr::new(cluster_ip, IPERF_PORT),
                world.node_port("n1", family, WEB),
            ] {
                let line = format!(
                    "iperf3 --client {} --port {} --bytes 1000",
                    to.ip(),
                    to.port()
                );
                let said = netns.sh(&line).expect("iperf3 runs");
                let peer = format!("connected to {} port {}", to.ip(), to.port());
                assert!(said.contains(&peer), "{who}: {said}");
            }
        }
    }
}

/// 17.3: a UDP socket that is connected to an endpoint that no longer serves is ended, so that its process is told; that of another Service is
/// not.
#[test]
fn a_connected_udp_socket_is_told_when_its_endpoint_goes() {
    let mut world = World::new(LabSpec::nodes(2), &["n2-p1"], "auto");
    let other = world.manifest.service("other");
    other.udp_port(DNS_PORT, DNS_PORT);
    other.endpoints(&world.lab, [world.lab.pod("n2-p2")]);
    world.manifest.write().expect("written");
    let other = world.manifest.cluster_ip("other", false);
    let mut clients = Vec::new();
    for (who, netns) in insiders(&world) {
        for family in Family::BOTH {
            let [_, [cluster_ip, _]] = front_ends(&world, family);
            let addresses = [(cluster_ip.ip(), true), (other, false)];
            for (number, (address, stale)) in addresses.into_iter().enumerate() {
                let log = world
                    .lab
                    .dir()
                    .join(format!("{who} {family:?} {number}.log"));
                let mut command = Command::new("bash");
                let line = "until exec 3<>/dev/udp/$0/$1; do sleep 0.1; done; echo connected; exec cat <&3";
                command.args(["-c", line, &address.to_string(), &DNS_PORT.to_string()]);
                let mut client = Process::start(world.lab.record(), &netns, &mut command, &log)
                    .expect("a client");
                let connected =
                    || std::fs::read_to_string(&log).is_ok_and(|said| said.contains("connected"));
                client
                    .wait_until(Duration::from_secs(5), connected)
                    .expect("connected");
                clients.push((client, stale));
            }
        }
    }
    let service = world.manifest.service("dns").udp_node_port(DNS, DNS_PORT);
    service.endpoints(&world.lab, [world.lab.pod("n1-p2")]);
    world.manifest.write().expect("written");
    for (client, _) in clients.iter_mut().filter(|(_, stale)| *stale) {
        client.wait(Duration::from_secs(5)).expect("told");
        let said = client.log();
        assert!(said.contains("Software caused connection abort"), "{said}");
    }
    for (client, _) in clients.iter().filter(|(_, stale)| !stale) {
        assert!(!client.log().contains("abort"), "{}", client.log());
    }
}
