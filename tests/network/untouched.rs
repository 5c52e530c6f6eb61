//! What is no front end is left alone (edge-cases D4, J1, J4, J5; behaviours 6.12, 6.13).

use std::net::SocketAddr;

use nodeport_tests::addresses::CLIENT;
use nodeport_tests::clients::{self, Options, Verdict};
use nodeport_tests::{Family, LabSpec, ping, servers};

use crate::world::{WEB, World};

#[test]
fn a_port_of_the_range_without_a_service_reaches_the_hosts_socket() {
    let world = World::new(LabSpec::nodes(2), &["n2-p1"], "auto");
    let node = world.lab.node("n1");
    let listen: Vec<_> = node
        .own_addresses()
        .map(|address| SocketAddr::new(address, 31999))
        .collect();
    let _server = servers::nginx(&world.lab, &node.netns, "host", &listen).expect("nginx starts");
    for to in listen {
        assert_eq!(world.http(&world.lab.client, to).name, "host");
        // Where nobody listens the host itself refuses.
        let nobody = SocketAddr::new(to.ip(), 31998);
        let verdict =
            clients::http(&world.lab.client, nobody, Options::default()).expect("curl runs");
        assert_eq!(verdict, Verdict::Refused);
    }
}

/// J3, behaviours 6.14: the Service wins over a socket of the host.
#[test]
fn a_node_port_wins_over_a_socket_of_the_host() {
    let world = World::new(LabSpec::nodes(2), &["n2-p1"], "auto");
    let node = world.lab.node("n1");
    let listen: Vec<_> = node
        .own_addresses()
        .map(|address| SocketAddr::new(address, WEB))
        .collect();
    let _server = servers::nginx(&world.lab, &node.netns, "host", &listen).expect("nginx starts");
    for to in listen {
        assert_eq!(world.http(&world.lab.client, to).name, "n2-p1");
    }
}

/// J4: a Pod asks a host outside at a port number that is a NodePort here: transit is no front end.
#[test]
fn transit_to_the_same_port_number_is_untouched() {
    for xdp in ["auto", "off"] {
        let world = World::new(LabSpec::nodes(2), &["n2-p1"], xdp);
        let listen = CLIENT.map(|address| SocketAddr::new(address, WEB));
        let _server = servers::nginx(&world.lab, &world.lab.client, "outside", &listen)
            .expect("nginx starts");
        for to in listen {
            assert_eq!(
                world.http(&world.lab.pod("n1-p1").netns, to).name,
                "outside"
            );
            // And from outside to a Pod at its own address and at that number: nobody listens there.
            let pod = SocketAddr::new(world.lab.pod("n1-p1").address(Family::of(to.ip())), WEB);
            let verdict =
                clients::http(&world.lab.client, pod, Options::default()).expect("curl runs");
            assert_eq!(verdict, Verdict::Refused);
        }
    }
}

/// J5: the cluster address has the Service's port, not its NodePort.
#[test]
fn a_cluster_address_does_not_answer_at_the_node_port() {
    let world = World::new(LabSpec::nodes(2), &["n2-p1"], "auto");
    for v6 in [false, true] {
        let cluster_ip = world.manifest.cluster_ip("web", v6);
        let pod = &world.lab.pod("n1-p1").netns;
        assert_eq!(
            world.http(pod, SocketAddr::new(cluster_ip, 8080)).name,
            "n2-p1"
        );
        let limit = Options {
            limit: Some(std::time::Duration::from_secs(1)),
            ..Options::default()
        };
        let verdict =
            clients::http(pod, SocketAddr::new(cluster_ip, WEB), limit).expect("curl runs");
        assert!(!matches!(verdict, Verdict::Answered(_)), "{verdict:?}");
    }
}

#[test]
fn nodes_and_pods_answer_echo_requests() {
    let world = World::new(LabSpec::nodes(2), &["n2-p1"], "auto");
    for family in Family::BOTH {
        for node in &world.lab.nodes {
            for payload in [8, 56, 1400, 4000] {
                ping::ping(&world.lab.client, node.address(family), payload)
                    .expect("the node answers");
            }
        }
        for pod in world.lab.pods() {
            ping::ping(&world.lab.client, pod.address(family), 56).expect("the Pod answers");
            ping::ping(&pod.netns, CLIENT[family as usize], 4000).expect("the client answers");
        }
    }
}

/// Pods reach Pods and nodes directly, whatever Services they belong to (edge-cases G11).
#[test]
fn direct_connections_are_untouched() {
    let world = World::new(LabSpec::nodes(2), &["n2-p1"], "auto");
    for family in Family::BOTH {
        let to = SocketAddr::new(world.lab.pod("n2-p1").address(family), servers::HTTP_PORT);
        for from in [
            &world.lab.client,
            &world.lab.node("n1").netns,
            &world.lab.node("n2").netns,
            &world.lab.pod("n1-p1").netns,
        ] {
            assert_eq!(world.http(from, to).server, Some(to));
        }
    }
}
