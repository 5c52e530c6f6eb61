//! Who is sent where: a client stays with its endpoint (behaviours 11), and load balancer addresses are for some only (behaviours 14).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nodeport_tests::clients::{self, Options, Verdict};
use nodeport_tests::servers::{DNS_PORT, HTTP_PORT};
use nodeport_tests::{Family, LabSpec};

use crate::world::World;

const STICKY: u16 = 30082;
const STICKY_DNS: u16 = 30054;
/// Addresses that no device has.
const BALANCER: [&str; 2] = ["198.18.0.77", "2001:db8:77::77"];
/// The affinity's timeout.
const SECS: u32 = 3;

fn sticky(xdp: &str) -> World {
    let pods = ["n1-p1", "n1-p2", "n2-p1", "n2-p2"];
    World::with(
        LabSpec::nodes(2).pods(3),
        |spec| spec.xdp(xdp),
        |lab, manifest| {
            let endpoints = || pods.iter().map(|name| lab.pod(name));
            let service = manifest.service("sticky");
            service.node_port(STICKY, HTTP_PORT).sticky(SECS);
            service.endpoints(lab, endpoints());
            let service = manifest.service("sticky-dns");
            service.udp_node_port(STICKY_DNS, DNS_PORT).sticky(SECS);
            service.endpoints(lab, endpoints());
        },
    )
}

/// 11.1, 11.3, 11.7: TCP and UDP, from outside and from a Pod, by NodePort and by ClusterIP; after the time it may be another one.
#[test]
fn a_client_stays_with_its_endpoint() {
    for xdp in ["auto", "off"] {
        let world = sticky(xdp);
        for family in Family::BOTH {
            let to = world.node_port("n1", family, STICKY);
            let asked: BTreeSet<String> = (0..12)
                .map(|_| world.http(&world.lab.client, to).name)
                .collect();
            assert_eq!(asked.len(), 1, "{family:?} XDP {xdp}: {asked:?}");
            let to = world.node_port("n1", family, STICKY_DNS);
            let asked: BTreeSet<String> = (0..12)
                .map(|_| world.dns(&world.lab.client, to).name)
                .collect();
            assert_eq!(asked.len(), 1, "{family:?} XDP {xdp}: {asked:?}");
            // Whichever front end a Pod asks, by its socket or without, and the node.
            let node = world.lab.node("n1");
            let pod = &node.pod(3).netns;
            let insiders = [pod.clone(), node.inside(pod), node.inside(&node.netns)];
            let cluster_ip = world.manifest.cluster_ip("sticky", family == Family::V6);
            let cluster_ip = SocketAddr::new(cluster_ip, HTTP_PORT);
            let node_port = world.node_port("n1", family, STICKY);
            for (who, netns) in insiders.iter().enumerate() {
                let asked: BTreeSet<String> = (0..12)
                    .map(|turn| [cluster_ip, node_port][turn % 2])
                    .map(|to| world.http(netns, to).name)
                    .collect();
                assert_eq!(asked.len(), 1, "{family:?} XDP {xdp} {who}: {asked:?}");
            }
        }
    }
}

/// 11.4: when its endpoint goes, the client goes elsewhere, and stays there though the first one comes back.
#[test]
fn a_client_leaves_an_endpoint_that_goes_for_good() {
    let mut world = sticky("auto");
    let (client, pods) = (
        world.lab.client.clone(),
        ["n1-p1", "n1-p2", "n2-p1", "n2-p2"],
    );
    let to = world.node_port("n2", Family::V4, STICKY);
    let first = world.http(&client, to).name;
    let serve = |world: &mut World, without: Option<&str>| {
        let pods = pods.into_iter().filter(|pod| Some(*pod) != without);
        let endpoints: Vec<_> = pods.map(|pod| world.lab.pod(pod)).collect();
        let service = world.manifest.service("sticky");
        service.node_port(STICKY, HTTP_PORT).sticky(3600);
        service.endpoints(&world.lab, endpoints);
        world.manifest.write().expect("written");
    };
    serve(&mut world, Some(&first));
    let end = std::time::Instant::now() + Duration::from_secs(10);
    let second = loop {
        let name = world.http(&client, to).name;
        if name != first {
            break name;
        }
        assert!(std::time::Instant::now() < end, "the endpoint is gone");
    };
    serve(&mut world, None);
    std::thread::sleep(Duration::from_secs(2));
    for _ in 0..12 {
        assert_eq!(world.http(&client, to).name, second);
    }
}

/// 14.1, 14.2: one Pod may, its neighbour may not; both may by the NodePort. The node whose address is in a range may, the other is told at once.
#[test]
fn a_load_balancer_s_addresses_are_for_its_source_ranges() {
    let world = World::with(
        LabSpec::nodes(2).pods(3),
        |spec| spec,
        |lab, manifest| {
            let addresses = BALANCER.map(|text| text.parse::<IpAddr>().expect("an address"));
            let node = Family::BOTH.map(|family| lab.node("n2").address(family));
            let pod = lab.pod("n1-p3").spec.addresses.iter();
            let ranges = pod
                .chain(&node)
                .map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }));
            let ranges: Vec<String> = ranges.collect();
            let service = manifest.service("balanced");
            service.node_port(STICKY, HTTP_PORT);
            service.load_balancer(&addresses, &ranges);
            service.endpoints(lab, ["n1-p1", "n2-p1"].map(|pod| lab.pod(pod)));
        },
    );
    for (family, address) in Family::BOTH.into_iter().zip(BALANCER) {
        let to = SocketAddr::new(address.parse().expect("an address"), HTTP_PORT);
        for _ in 0..4 {
            world.http(&world.lab.pod("n1-p3").netns, to);
        }
        let limit = Options {
            limit: Some(Duration::from_secs(1)),
            ..Options::default()
        };
        let (counted, verdict) = world.counted("n1", || {
            clients::http(&world.lab.pod("n1-p2").netns, to, limit).expect("curl runs")
        });
        assert_eq!(verdict, Verdict::Silent, "{to}");
        assert!(
            counted.get("tc_ingress", "dropped_source_range") > 0,
            "{counted:?}"
        );
        for name in ["n1", "n2"] {
            let node = world.lab.node(name);
            let inside = node.inside(&node.netns);
            let verdict = clients::http(&inside, to, limit).expect("curl runs");
            match (name, &verdict) {
                ("n2", Verdict::Answered(_)) => {}
                ("n1", Verdict::Failed(why)) if why.contains("No route") => {}
                _ => panic!("{name} asks {to}: {verdict:?}"),
            }
        }
        let node_port = world.node_port("n1", family, STICKY);
        world.http(&world.lab.pod("n1-p2").netns, node_port);
        world.http(&world.lab.client, node_port);
    }
}
