//! An agent with the capabilities of the DaemonSet and nothing else: the three are enough for everything that it does.
//!
//! What fails without any one of them: nodeport-agent/tests/capabilities.rs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nodeport_tests::agent::binary;
use nodeport_tests::stream::Stream;
use nodeport_tests::{Family, LabSpec};

use crate::world::{DNS, WEB, World, web_and_dns};

/// A program that starts the agent as a container does: capabilities bounded, and no way to more.
fn wrapper(place: &Path) -> PathBuf {
    let path = place.join("nodeport-agent");
    let agent = binary().display().to_string();
    let text = format!(
        "#!/bin/sh\nexec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+bpf,+net_admin,+perfmon {agent} \"$@\"\n"
    );
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("changed");
    path
}

/// The links of the first agent to devices, and the kernel's numbers of them.
fn links(world: &World) -> BTreeMap<PathBuf, u64> {
    let entries = fs::read_dir(world.agents[0].link_dir()).expect("links");
    let paths = entries.map(|entry| entry.expect("a link").path());
    let id = |path: &Path| {
        let show = format!("bpftool -j link show pinned {}", path.display());
        let text = world.lab.node("n1").netns.sh(&show).expect("bpftool");
        let link: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        link["id"].as_u64().expect("a number")
    };
    let found: BTreeMap<_, _> = paths
        .filter(|path| !path.display().to_string().contains("cgroup-"))
        .map(|path| (path.clone(), id(&path)))
        .collect();
    assert!(found.len() > 2, "{found:?}");
    found
}

#[test]
fn three_capabilities_are_enough_for_all_ways_and_for_a_restart() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let program = wrapper(place.path());
    for xdp in ["auto", "off"] {
        let mut world = World::with(
            LabSpec::nodes(2),
            |mut spec| {
                spec.binary.clone_from(&program);
                spec.xdp(xdp)
            },
            |lab, manifest| web_and_dns(lab, manifest, &["n1-p1", "n2-p1"]),
        );
        let to = Family::BOTH.map(|family| world.node_port("n1", family, WEB));
        let stream = Stream::start(&world.lab.client, &to, Duration::from_millis(2));
        let stream = stream.expect("the stream starts");
        for round in 0..2 {
            for family in Family::BOTH {
                for node in ["n1", "n2"] {
                    for _ in 0..6 {
                        world.http(&world.lab.client, world.node_port(node, family, WEB));
                        world.dns(&world.lab.client, world.node_port(node, family, DNS));
                    }
                }
            }
            if round == 0 {
                let before = links(&world);
                world.agents[0].stop().expect("it ends");
                world.agents[0].start(&world.lab).expect("it starts again");
                assert_eq!(links(&world), before, "each link is the one that it was");
            }
        }
        let report = stream.finish().expect("the stream ends");
        assert!(report.is_perfect(), "{report:?}");
        let status = world.agents[0].status().expect("it answers");
        let problems = status["problems"].to_string();
        assert!(
            !problems.contains("ermi"),
            "nothing was not permitted: {problems}"
        );
    }
}
