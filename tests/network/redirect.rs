//! XDP redirects only to devices that take redirected frames; the kernel drops those of all others in silence (edge-cases F5).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nodeport_tests::addresses::CLIENT;
use nodeport_tests::clients::{self, Options, Verdict};
use nodeport_tests::outcomes::Outcomes;
use nodeport_tests::{Family, Lab, LabSpec};

use crate::world::{DNS, WEB, World, web_and_dns};

/// A second is promised; a busy machine may need more.
const WITHIN: Duration = Duration::from_secs(5);

/// GRO at the other ends of the nodes' uplinks: a veth takes redirected frames only while its peer has the NAPI that GRO makes.
fn gro(lab: &Lab, state: &str) {
    for port in ["port1u0", "port2u0"] {
        lab.router
            .sh(&format!("ethtool -K {port} gro {state}"))
            .expect("GRO is switched");
    }
}

/// Several connections of each kind to Pods of the other node, and datagrams of two flows that are always the same.
fn ask(world: &World) {
    for family in Family::BOTH {
        let web = world.node_port("n1", family, WEB);
        let dns = world.node_port("n1", family, DNS);
        for _ in 0..5 {
            world.http(&world.lab.client, web);
            world.dns(&world.lab.client, dns);
            same_flow(world, dns);
        }
    }
}

/// The next hop of this flow is remembered from the first time on.
fn same_flow(world: &World, to: SocketAddr) {
    let options = Options {
        from: Some(CLIENT[Family::of(to.ip()) as usize]),
        from_port: Some(40053),
        ..Options::default()
    };
    let verdict = clients::dns(&world.lab.client, to, &world.servers, options).expect("dig runs");
    assert!(
        matches!(verdict, Verdict::Answered(_)),
        "{to}: {verdict:?}\n{}",
        world.evidence()
    );
}

/// What `status` says of `eth0` of n1.
fn note(world: &World) -> Option<String> {
    let status = world.agent("n1").status().expect("a status");
    let warnings = status["warnings"].as_array().expect("warnings").iter();
    let texts = warnings.filter_map(|warning| warning.as_str());
    texts
        .filter(|text| text.contains("eth0") && text.contains("take TC"))
        .map(str::to_owned)
        .next()
}

/// Waits until `status` has, or no longer has, that note.
fn wait_for_note(world: &World, expected: bool) {
    let start = Instant::now();
    while note(world).is_some() != expected {
        assert!(
            start.elapsed() < WITHIN,
            "GRO was switched {:?} ago, and status says {:?}",
            start.elapsed(),
            note(world)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn assert_carried_by(hook: &str, other: &str, counted: &Outcomes) {
    // Two families, fifteen requests each, at least one packet a direction.
    for outcome in ["to_remote_backend", "reply_redirected"] {
        assert!(counted.get(hook, outcome) >= 30, "{hook}: {counted:?}");
        assert_eq!(counted.get(other, outcome), 0, "{other}: {counted:?}");
    }
}

/// The uplink has native XDP, but was never a target.
#[test]
fn an_uplink_that_takes_no_redirected_frames_is_left_to_tc() {
    let world = World::with(
        LabSpec::nodes(2),
        |spec| spec.xdp("native"),
        |lab, manifest| {
            gro(lab, "off");
            web_and_dns(lab, manifest, &["n2-p1"]);
        },
    );
    world.warm_up("n1");
    let (counted, ()) = world.counted("n1", || ask(&world));
    assert_carried_by("tc_ingress", "xdp", &counted);
    assert!(counted.get("xdp", "left_to_tc") >= 60, "{counted:?}");
    let note = note(&world).expect("status tells it");
    assert!(note.contains("switch GRO on at the other end"), "{note}");
}

/// A device stops being a target, and becomes one again, under flows that remember it as their next hop.
#[test]
fn a_change_of_what_an_uplink_takes_is_followed_by_live_flows() {
    let world = World::new(LabSpec::nodes(2), &["n2-p1"], "native");
    world.warm_up("n1");
    let (counted, ()) = world.counted("n1", || ask(&world));
    assert_carried_by("xdp", "tc_ingress", &counted);
    assert_eq!(note(&world), None);

    gro(&world.lab, "off");
    wait_for_note(&world, true);
    let (counted, ()) = world.counted("n1", || ask(&world));
    assert_carried_by("tc_ingress", "xdp", &counted);
    assert!(counted.get("xdp", "left_to_tc") >= 60, "{counted:?}");

    gro(&world.lab, "on");
    wait_for_note(&world, false);
    let (counted, ()) = world.counted("n1", || ask(&world));
    assert_carried_by("xdp", "tc_ingress", &counted);
}
