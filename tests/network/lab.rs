//! The lab itself, without any agent: everything reaches everything as in a cluster without Services.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nodeport_tests::clients::{self, Options, Verdict};
use nodeport_tests::record::Record;
use nodeport_tests::{Family, Lab, LabSpec, Netns, servers};

fn ping(from: &Netns, to: IpAddr) {
    ping_with(from, to, 56);
}

fn ping_with(from: &Netns, to: IpAddr, payload: usize) {
    if let Err(error) = nodeport_tests::ping::ping(from, to, payload) {
        panic!("{error:#}");
    }
}

/// Client to nodes and Pods, Pods to each other, to nodes and to the client; both families.
fn everything_reaches_everything(lab: &Lab, families: &[Family]) {
    for &family in families {
        for node in &lab.nodes {
            ping(&lab.client, node.address(family));
            ping(&node.netns, lab.nodes[0].address(family));
        }
        for pod in lab.pods() {
            ping(&lab.client, pod.address(family));
            ping(&lab.nodes[0].netns, pod.address(family));
            ping(
                &pod.netns,
                nodeport_tests::addresses::CLIENT[family as usize],
            );
            for other in lab.pods().filter(|other| other.spec.name != pod.spec.name) {
                ping(&pod.netns, other.address(family));
            }
        }
    }
}

#[test]
fn routed_dual_stack() {
    let start = Instant::now();
    let lab = LabSpec::nodes(3).start().expect("the lab starts");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "the lab took {took:?}");
    everything_reaches_everything(&lab, &Family::BOTH);
}

#[test]
fn bridge_dual_stack() {
    let lab = LabSpec::nodes(2).bridge().start().expect("the lab starts");
    everything_reaches_everything(&lab, &Family::BOTH);
}

#[test]
fn strict_source_validation_lets_everything_through() {
    let lab = LabSpec::nodes(2)
        .strict_reverse_path()
        .start()
        .expect("the lab starts");
    everything_reaches_everything(&lab, &[Family::V4]);
}

#[test]
fn vxlan_has_a_smaller_mtu() {
    let lab = LabSpec::nodes(3).vxlan().start().expect("the lab starts");
    everything_reaches_everything(&lab, &Family::BOTH);
    let (from, to) = (
        &lab.pod("n1-p1").netns,
        lab.pod("n2-p1").address(Family::V4),
    );
    ping_with(from, to, 3000);
    assert!(
        from.sh(&format!("ip route get {to}"))
            .expect("a route")
            .contains("dev eth0")
    );
    let device = lab
        .node("n1")
        .netns
        .sh("ip link show vxlan0")
        .expect("the overlay device");
    assert!(device.contains("mtu 1450"), "{device}");
}

#[test]
fn vxlan_over_ipv6() {
    let lab = LabSpec::nodes(2)
        .v6_only()
        .vxlan()
        .start()
        .expect("the lab starts");
    everything_reaches_everything(&lab, &[Family::V6]);
}

#[test]
fn two_uplinks_are_two_fabrics() {
    let lab = LabSpec::nodes(2)
        .two_uplinks()
        .start()
        .expect("the lab starts");
    everything_reaches_everything(&lab, &Family::BOTH);
    for address in lab.nodes[1].second_addresses.iter().flatten() {
        ping(&lab.client, *address);
        ping(&lab.nodes[0].netns, *address);
    }
}

#[test]
fn nodes_without_a_network_in_common() {
    let mut spec = LabSpec::nodes(2);
    spec.nodes[0].addresses = vec!["10.1.0.1".parse().expect("an address")];
    spec.nodes[1].addresses = vec!["198.18.0.1".parse().expect("an address")];
    spec.nodes[1].pods[0]
        .addresses
        .push("192.0.2.77".parse().expect("an address"));
    let outside: IpAddr = "198.51.100.61".parse().expect("an address");
    let lab = spec
        .v4_only()
        .outsider(&[outside])
        .start()
        .expect("the lab starts");
    everything_reaches_everything(&lab, &[Family::V4]);
    let stray: IpAddr = "192.0.2.77".parse().expect("an address");
    for from in [&lab.client, &lab.node("n1").netns, &lab.pod("n1-p1").netns] {
        ping(from, stray);
        ping(from, outside);
    }
}

#[test]
fn a_dropped_lab_leaves_nothing() {
    let lab = LabSpec::nodes(1).start().expect("the lab starts");
    let (dir, netns) = (lab.dir().to_owned(), lab.client.path());
    let cgroup = lab.nodes[0].cgroup.clone();
    assert!(dir.exists() && netns.exists());
    drop(lab);
    assert!(!dir.exists(), "{} is left", dir.display());
    assert!(!netns.exists(), "{} is left", netns.display());
    assert!(cgroup.is_none_or(|dir| !dir.exists()), "a cgroup is left");
}

#[test]
fn servers_say_who_they_are_and_who_asked() {
    let lab = LabSpec::nodes(2).start().expect("the lab starts");
    let servers = servers::start_all(&lab).expect("the servers start");
    for family in Family::BOTH {
        let client = nodeport_tests::addresses::CLIENT[family as usize];
        let pod = lab.pod("n2-p1").address(family);
        let to = |port| std::net::SocketAddr::new(pod, port);
        let http = clients::http(&lab.client, to(servers::HTTP_PORT), Options::default());
        let Ok(Verdict::Answered(answer)) = http else {
            panic!("no answer: {http:?}")
        };
        assert_eq!(answer.name, "n2-p1");
        assert_eq!(answer.server, Some(to(servers::HTTP_PORT)));
        assert_eq!(answer.client.expect("a client").ip(), client);

        let options = Options {
            from: Some(client),
            from_port: Some(4711),
            ..Options::default()
        };
        let dns = clients::dns(&lab.client, to(servers::DNS_PORT), &servers, options);
        let Ok(Verdict::Answered(answer)) = dns else {
            panic!("no answer: {dns:?}")
        };
        assert_eq!(answer.name, "n2-p1");
        assert_eq!(answer.client, Some(std::net::SocketAddr::new(client, 4711)));

        let refused = clients::http(&lab.client, to(9), Options::default());
        assert!(matches!(refused, Ok(Verdict::Refused)), "{refused:?}");
        let refused = clients::dns(&lab.client, to(9), &servers, Options::default());
        assert!(matches!(refused, Ok(Verdict::Refused)), "{refused:?}");
    }
}

/// What a process that was killed leaves: a record whose owner does not run, a namespace, a process, a pin directory.
#[test]
fn a_crashed_lab_is_cleaned_up() {
    let id = format!("crashed{}", std::process::id());
    let record = Record::create(&id).expect("a record");
    let name = format!("npl{id}-client");
    record
        .netns(&[name.clone(), format!("npl{id}-never-made")])
        .expect("recorded");
    nodeport_tests::netns::ip_batch(&[format!("netns add {name}")]).expect("a namespace");
    let netns = Netns::open(&name).expect("the namespace");
    let mut server = Command::new("sleep")
        .arg("600")
        .spawn()
        .expect("sleep runs");
    record.process(server.id()).expect("recorded");
    let pins = PathBuf::from(format!("/sys/fs/bpf/nodeport-lab-{id}"));
    record.pins(&pins).expect("recorded");
    std::fs::create_dir(&pins).expect("a directory on the bpffs");
    let (cgroup, mut unrecorded) = child_in_a_cgroup(&id, &record);
    // Process 1 did not start at tick 1: the owner is gone.
    std::fs::write(record.dir().join("owner"), "1 1\n").expect("an owner");

    let cleaned = nodeport_tests::clean_all().expect("it is cleaned up");

    assert!(cleaned.labs.contains(&id), "{cleaned:?}");
    assert!(!netns.path().exists() && !pins.exists() && !record.dir().exists());
    assert!(!cgroup.exists());
    for process in [&mut server, &mut unrecorded] {
        let status = process.wait().expect("it ended");
        assert!(!status.success(), "it was killed, not finished");
    }
}

/// A recorded cgroup, and in it a process that is in no record, as a child of a program that was killed.
fn child_in_a_cgroup(id: &str, record: &Record) -> (PathBuf, Child) {
    let mounts = std::fs::read_to_string("/proc/mounts").expect("mounts");
    let unified = mounts.lines().find_map(|line| {
        line.split(' ')
            .nth(1)
            .filter(|_| line.contains(" cgroup2 "))
    });
    let cgroup = Path::new(unified.expect("cgroup v2")).join(format!("nodeport-lab-{id}"));
    record.cgroup(&cgroup).expect("recorded");
    std::fs::create_dir(&cgroup).expect("a cgroup");
    let child = Command::new("sleep").arg("600").spawn();
    let child = child.expect("sleep runs");
    std::fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).expect("moved");
    (cgroup, child)
}

#[test]
fn a_lab_in_use_is_not_cleaned_up() {
    let lab = LabSpec::nodes(1).start().expect("the lab starts");
    let cleaned = nodeport_tests::clean_all().expect("others are cleaned up");
    assert!(cleaned.in_use.contains(&lab.id), "{cleaned:?}");
    ping(&lab.client, lab.nodes[0].address(Family::V4));
}
