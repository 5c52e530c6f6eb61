//! Whole sets of objects: the example that `cargo xtask run` shows, and a recorded cluster.

use std::path::{Path, PathBuf};

use nodeport_tests::agent::{self, AgentSpec};
use nodeport_tests::cluster::Cluster;
use nodeport_tests::objects::Objects;
use nodeport_tests::plan::{Breadth, trials};
use nodeport_tests::trial::{self, Asker, Row};
use nodeport_tests::{LabSpec, servers};

fn all_right(rows: &[Row]) {
    let wrong: Vec<_> = rows
        .iter()
        .filter(|row| row.wrong.is_some())
        .map(describe)
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {} rows are wrong:\n{}",
        wrong.len(),
        rows.len(),
        wrong.join("\n")
    );
}

fn describe(row: &Row) -> String {
    let trial = &row.trial;
    format!(
        "{} asks {} ({:?} {:?}) of {}: {:?}, by {:?}: {}",
        trial.client,
        trial.to,
        trial.asked,
        trial.protocol,
        trial.service,
        row.verdict,
        row.hook,
        row.wrong.as_deref().unwrap_or_default()
    )
}

#[test]
fn the_example_is_right_with_and_without_xdp_and_in_every_pod_network() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/example.yaml");
    let objects = Objects::read(std::slice::from_ref(&path)).expect("the example is read");
    let three = || LabSpec::nodes(3).pods(3);
    for (spec, xdp) in [
        (three(), "auto"),
        (three(), "off"),
        (three().vxlan(), "auto"),
        (three().bridge(), "auto"),
        (three().two_uplinks(), "auto"),
    ] {
        let lab = spec.start().expect("the lab starts");
        let servers = servers::start_all(&lab).expect("the servers start");
        let spec = AgentSpec::new(std::slice::from_ref(&path)).xdp(xdp);
        let agents = agent::start_all(&lab, &spec).expect("the agents start");
        let (trials, _) = trials(&lab, &objects, Breadth::Full);
        assert!(trials.len() > 50, "the example has {} trials", trials.len());
        all_right(
            &trial::run(&lab, &agents, &trials, Asker::Programs(&servers)).expect("all is tried"),
        );
    }
}

/// Objects of a real API server, recorded; they are not part of this repository. `NODEPORT_SHARED` names the directory that
/// holds `data/`; by default it is `shared` beside the repository.
#[test]
fn a_recorded_cluster_is_right() {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("NODEPORT_SHARED").map_or_else(beside, PathBuf::from);
    let path = shared.join("data/cluster.yaml");
    if !path.exists() {
        eprintln!("skipped: there is no recording at {}", path.display());
        return;
    }
    let paths: Vec<PathBuf> = vec![path];
    let objects = Objects::read(&paths).expect("the recording is read");
    let cluster = Cluster::new(&objects, 3).expect("it has nodes");
    let lab = cluster.spec.clone().start().expect("the lab starts");
    let (_stand_ins, _) = cluster
        .stand_ins(&lab, &objects)
        .expect("the stand-ins start");
    let agents = agent::start_all(&lab, &AgentSpec::new(&paths)).expect("the agents start");
    let (trials, _) = trials(&lab, &objects, Breadth::Once);
    assert!(
        trials.len() > 200,
        "the recording has {} trials",
        trials.len()
    );
    all_right(&trial::run(&lab, &agents, &trials, Asker::Sockets).expect("all is tried"));
}
