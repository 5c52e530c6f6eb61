//! Devices and addresses that come and go while the agent runs (edge-cases H4, H5; behaviours 12.6).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nodeport_tests::clients::{self, Options, Verdict};
use nodeport_tests::{Family, LabSpec, Netns};

use crate::world::{WEB, World};

/// A second is promised; a busy machine may need twice that.
const WITHIN: Duration = Duration::from_secs(2);

/// Waits until `to` answers; returns how long that took.
fn answers(from: &Netns, to: SocketAddr, limit: Duration) -> Duration {
    let start = Instant::now();
    let short = Options {
        limit: Some(Duration::from_millis(300)),
        ..Options::default()
    };
    loop {
        let verdict = clients::http(from, to, short).expect("curl runs");
        if matches!(verdict, Verdict::Answered(_)) {
            return start.elapsed();
        }
        assert!(
            start.elapsed() < limit,
            "{to} does not answer {}: {verdict:?}",
            from.name()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A Pod gets a new device, as when it is made again with the same addresses: it is covered within a second.
#[test]
fn a_pods_new_device_is_covered_within_a_second() {
    for xdp in ["auto", "off"] {
        let world = World::new(LabSpec::nodes(2).pods(3), &["n2-p1"], xdp);
        let (node, pod) = (&world.lab.node("n1").netns, world.lab.pod("n1-p3"));
        for turn in 0..5 {
            replace_pod_device(&world, node, turn);
            for v6 in [false, true] {
                let to = SocketAddr::new(world.manifest.cluster_ip("web", v6), 8080);
                let took = answers(&pod.netns, to, Duration::from_secs(3));
                assert!(took < WITHIN, "covered only after {took:?} in turn {turn}");
            }
        }
    }
}

/// The third Pod of n1 loses its veth and gets another.
fn replace_pod_device(world: &World, node: &Netns, turn: u32) {
    let pod = world.lab.pod("n1-p3");
    node.sh("ip link delete vpod3")
        .expect("the old device goes");
    let (outer, inner) = (
        format!("02:4e:50:aa:00:{turn:02x}"),
        format!("02:4e:50:bb:00:{turn:02x}"),
    );
    node.sh(&format!(
        "ip link add vpod3 address {outer} type veth peer name eth0 netns {} address {inner}",
        pod.netns.name()
    ))
    .expect("a new device");
    let [v4, v6] = Family::BOTH.map(|family| pod.address(family));
    pod.netns
        .ip(&[
            "link set eth0 up".to_owned(),
            format!("address add {v4}/32 dev eth0"),
            format!("address add {v6}/128 dev eth0 nodad"),
            format!("neigh replace 169.254.1.1 lladdr {outer} dev eth0 nud permanent"),
            format!("neigh replace fe80::1 lladdr {outer} dev eth0 nud permanent"),
            "route add default via 169.254.1.1 dev eth0 onlink".to_owned(),
            "route add default via fe80::1 dev eth0 onlink".to_owned(),
        ])
        .expect("the Pod's end");
    node.ip(&[
        "link set vpod3 up".to_owned(),
        format!("route add {v4}/32 dev vpod3"),
        format!("route add {v6}/128 dev vpod3"),
        format!("neigh replace {v4} lladdr {inner} dev vpod3 nud permanent"),
        format!("neigh replace {v6} lladdr {inner} dev vpod3 nud permanent"),
    ])
    .expect("the node's end");
}

/// H5: a node address that appears answers NodePorts within a second; one that goes does not answer any more.
#[test]
fn addresses_are_followed() {
    for xdp in ["auto", "off"] {
        let world = World::new(LabSpec::nodes(2), &["n1-p1", "n2-p1"], xdp);
        let node = &world.lab.node("n1").netns;
        for (address, add) in [
            ("192.168.88.77", "192.168.88.77/24 dev eth0"),
            ("fd00:88::77", "fd00:88::77/64 dev eth0 nodad"),
            // An address of no uplink: the router is told where it is.
            ("198.51.100.7", "198.51.100.7/32 dev lo"),
        ] {
            if add.ends_with("lo") {
                world
                    .lab
                    .router
                    .sh(&format!("ip route add {address} via 192.168.88.11"))
                    .expect("a route");
            }
            let to = SocketAddr::new(address.parse().expect("an address"), WEB);
            node.sh(&format!("ip address add {add}")).expect("added");
            let took = answers(&world.lab.client, to, Duration::from_secs(3));
            assert!(took < WITHIN, "{to} answers only after {took:?}");
            let delete = add.trim_end_matches(" nodad");
            node.sh(&format!("ip address delete {delete}"))
                .expect("removed");
            std::thread::sleep(Duration::from_secs(1));
            let short = Options {
                limit: Some(Duration::from_millis(500)),
                ..Options::default()
            };
            let verdict = clients::http(&world.lab.client, to, short).expect("curl runs");
            assert!(
                !matches!(verdict, Verdict::Answered(_)),
                "{to} still answers"
            );
        }
    }
}

/// Behaviours 12.4: NodePorts answer only on addresses of the given networks.
#[test]
fn node_port_addresses_restrict() {
    let world = World::with(
        LabSpec::nodes(2).two_uplinks(),
        |spec| spec.arguments("--nodeport-addresses 192.168.88.0/24,fd00:88::/64"),
        |lab, manifest| crate::world::web_and_dns(lab, manifest, &["n2-p1"]),
    );
    let node = world.lab.node("n1");
    for family in Family::BOTH {
        let first = SocketAddr::new(node.address(family), WEB);
        world.http(&world.lab.client, first);
        let second = SocketAddr::new(
            node.second_addresses[family as usize].expect("an address"),
            WEB,
        );
        let verdict =
            clients::http(&world.lab.client, second, Options::default()).expect("curl runs");
        assert_eq!(verdict, Verdict::Refused, "{second} is not in the list");
    }
}
