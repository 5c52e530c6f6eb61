//! Our desired state against what the real kube-proxy (nftables mode) programmed for exactly the same objects.
//!
//! The recording is not part of the project: where it is absent this test says so and proves nothing. `NODEPORT_SHARED`
//! names the directory that holds `data/`; by default it is `shared` beside the repository.
//!
//! Everything is compared: which front ends there are and whose they are, their endpoints for outside clients and for Pods,
//! what happens if there are none, whose address the backend sees, which endpoints are local, on which addresses NodePorts
//! answer. What nodeport does not do yet is listed in [`LEFT_OUT`] with its exact number of differences, so that
//! the list can only shrink: a difference more fails, and one fewer fails until the list says so.

#[path = "oracle/nft.rs"]
mod nft;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nft::{Frontend, Key, Table};
use nodeport_agent::model::desired::{Desired, Family, FrontendKind, IfEmpty, Listen};
use nodeport_agent::model::{HostAddress, NodePortAddresses, Objects, Options, Snapshot, compile};
use nodeport_agent::source::manifests::read_once;

/// What nodeport leaves out: node, aspect, number of front ends (or addresses) that differ because of it, both families together.
const LEFT_OUT: &[(&str, Aspect, usize)] = &[
    ("n1", Aspect::Sctp, 2),
    ("n1", Aspect::SctpClusterIp, 1),
    ("n1", Aspect::SctpLocalEndpoint, 2),
    ("n2", Aspect::Sctp, 2),
    ("n2", Aspect::SctpClusterIp, 1),
    ("n2", Aspect::SctpLocalEndpoint, 1),
    ("n3", Aspect::Sctp, 2),
    ("n3", Aspect::SctpClusterIp, 1),
    ("n3", Aspect::SctpLocalEndpoint, 1),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Aspect {
    /// SCTP is not programmed: the whole front end is missing.
    Sctp,
    /// ... and so is a Service that has nothing else from the set of active ClusterIPs.
    SctpClusterIp,
    /// ... and its endpoints here from the set of local endpoints.
    SctpLocalEndpoint,
}

#[test]
fn desired_state_is_what_the_real_kube_proxy_programmed() {
    let data = shared().join("data");
    if !data.join("oracle-nft").is_dir() {
        eprintln!(
            "SKIPPED: recorded data absent ({} is no directory)",
            data.display()
        );
        return;
    }
    let objects = Arc::new(read_once(vec![data.join("cluster.json")]).expect("cluster.json"));
    let mut left_out: BTreeMap<(&str, Aspect), usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut compared = 0;
    for node in ["n1", "n2", "n3"] {
        let desired = desired(&objects, node);
        for (family, suffix) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
            let file = data.join(format!("oracle-nft/{node}-{suffix}.nft"));
            let table = Table::parse(&std::fs::read_to_string(&file).expect("ruleset"));
            let told = table.frontends();
            compared += told.len();
            let differences = compare(&desired, family, &told, &table);
            for (what, aspect) in differences {
                match aspect {
                    Some(aspect) => *left_out.entry((node, aspect)).or_default() += 1,
                    None => wrong.push(format!("{}: {what}", file.display())),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        compared > 400,
        "the recording has {compared} front ends only"
    );
    let listed = LEFT_OUT
        .iter()
        .map(|(node, aspect, count)| ((*node, *aspect), *count));
    assert_eq!(left_out, listed.collect(), "LEFT_OUT is not what differs");
    eprintln!("compared {compared} front ends with the real kube-proxy's");
}

/// The same objects as `kubectl get -o yaml` and `-o json`, and each application in a file of its own.
#[test]
fn yaml_and_json_of_the_same_cluster_are_the_same_objects() {
    let data = shared().join("data");
    if !data.join("cluster.yaml").is_file() {
        eprintln!("SKIPPED: recorded data absent ({})", data.display());
        return;
    }
    let read = |names: &[&str]| {
        let paths = names.iter().map(|name| data.join(name)).collect();
        Arc::new(read_once(paths).expect("recorded data"))
    };
    let json = read(&["cluster.json"]);
    assert!(json.reports.is_empty(), "{:?}", json.reports);
    let sizes = (
        json.services.len(),
        json.endpoint_slices.len(),
        json.nodes.len(),
    );
    assert_eq!(sizes, (91, 107, 3), "as its README says");
    for other in [read(&["cluster.yaml"]), read(&["apps", "nodes.yaml"])] {
        assert!(other.reports.is_empty(), "{:?}", other.reports);
        assert!(json.services.keys().eq(other.services.keys()));
        assert!(json.endpoint_slices.keys().eq(other.endpoint_slices.keys()));
        for node in ["n1", "n2", "n3"] {
            assert_eq!(desired(&json, node), desired(&other, node));
        }
    }
}

fn shared() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    std::env::var_os("NODEPORT_SHARED").map_or_else(beside, PathBuf::from)
}

/// The node's devices are as its Node object says, with some addresses more that `primary` must not let in.
fn desired(objects: &Arc<Objects>, node_name: &str) -> Desired {
    let node = &objects.nodes[node_name];
    let more = ["127.0.0.1", "::1", "10.244.9.1", "fe80::1"];
    let more = more.into_iter().map(|text| text.parse().expect("address"));
    let addresses = node.primary_addresses.iter().copied().chain(more);
    let snapshot = Snapshot {
        objects: objects.clone(),
        node_name: node_name.to_owned(),
        host_addresses: addresses
            .map(|address| HostAddress { address, device: 2 })
            .collect(),
        options: Options {
            node_port_addresses: NodePortAddresses::parse(&["primary"]).expect("option"),
            ..Options::default()
        },
    };
    compile(&snapshot).0
}

type Difference = (String, Option<Aspect>);

fn compare(
    desired: &Desired,
    family: Family,
    told: &BTreeMap<Key, Frontend>,
    table: &Table,
) -> Vec<Difference> {
    let ours = ours(desired, family);
    let mut differences = Vec::new();
    let keys: BTreeSet<&Key> = ours.keys().chain(told.keys()).collect();
    for key in keys {
        match (ours.get(key), told.get(key)) {
            (Some(ours), Some(told)) => compare_frontend(key, ours, told, &mut differences),
            (Some(_), None) => differences.push((format!("{key:?} is ours alone"), None)),
            (None, _) => {
                let aspect = (key.1 == "sctp").then_some(Aspect::Sctp);
                differences.push((format!("{key:?} is missing"), aspect));
            }
        }
    }
    let accepted = desired.node_port_addresses.iter().copied();
    let accepted: BTreeSet<_> = accepted.filter(|one| Family::of(*one) == family).collect();
    if accepted != table.addresses("nodeport-ips") {
        differences.push((format!("NodePort addresses {accepted:?}"), None));
    }
    compare_sets(desired, family, table, &mut differences);
    differences
}

/// The set of ClusterIPs in use, and the set of endpoints on this node.
fn compare_sets(
    desired: &Desired,
    family: Family,
    table: &Table,
    differences: &mut Vec<Difference>,
) {
    let mut cluster_ips = BTreeSet::new();
    let mut local = BTreeSet::new();
    for (id, frontend) in &desired.frontends {
        if let Listen::Address(address) = id.listen
            && frontend.kind == FrontendKind::ClusterIp
            && Family::of(address) == family
        {
            cluster_ips.insert(address);
        }
        let backends = frontend
            .inside
            .backends
            .iter()
            .chain(&frontend.outside.backends);
        for backend in backends.filter(|one| one.local && Family::of(one.address.ip()) == family) {
            local.insert((id.protocol.lower().to_owned(), backend.address));
        }
    }
    for difference in cluster_ips.symmetric_difference(&table.addresses("cluster-ips")) {
        let sctp_only = !cluster_ips.contains(difference) && table.serves_only(*difference, "sctp");
        let aspect = sctp_only.then_some(Aspect::SctpClusterIp);
        differences.push((format!("ClusterIP {difference}"), aspect));
    }
    for difference in local.symmetric_difference(&table.hairpins()) {
        let sctp = !local.contains(difference) && difference.0 == "sctp";
        let aspect = sctp.then_some(Aspect::SctpLocalEndpoint);
        differences.push((format!("local endpoint {difference:?}"), aspect));
    }
}

fn compare_frontend(
    key: &Key,
    ours: &Frontend,
    told: &Frontend,
    differences: &mut Vec<Difference>,
) {
    let comparable = |one: &Frontend| {
        let Frontend {
            service_port,
            outside,
            pods,
            refused,
            keeps_client,
            affinity,
            source_ranges,
        } = one;
        // Whose address is kept says nothing where nobody is translated.
        let keeps_client = *keeps_client && !outside.is_empty();
        (
            service_port.clone(),
            outside.clone(),
            pods.clone(),
            *refused,
            keeps_client,
            // Nor is anyone sent anywhere again where there is nothing.
            *affinity && !(outside.is_empty() && pods.is_empty()),
            *source_ranges,
        )
    };
    let (our_side, their_side) = (comparable(ours), comparable(told));
    if our_side != their_side {
        differences.push((
            format!("{key:?}\n  ours:   {our_side:?}\n  theirs: {their_side:?}"),
            None,
        ));
    }
}

/// Our front ends of a family in the oracle's terms.
fn ours(desired: &Desired, family: Family) -> BTreeMap<Key, Frontend> {
    let mut ours = BTreeMap::new();
    for (id, frontend) in &desired.frontends {
        let address = match id.listen {
            Listen::Address(address) if Family::of(address) == family => Some(address),
            Listen::Node(of) if of == family => None,
            _ => continue,
        };
        let endpoints = |set: &nodeport_agent::model::desired::BackendSet| {
            set.backends
                .iter()
                .map(|one| one.address)
                .collect::<BTreeSet<SocketAddr>>()
        };
        let refused = match frontend.outside.if_empty {
            _ if !frontend.outside.backends.is_empty() => None,
            IfEmpty::Reject => Some("reject"),
            IfEmpty::Drop => Some("drop"),
        };
        let told = Frontend {
            service_port: frontend.service_port.to_string(),
            outside: endpoints(&frontend.outside),
            pods: endpoints(&frontend.inside),
            refused,
            keeps_client: frontend.policy_local,
            affinity: frontend.affinity_secs > 0,
            source_ranges: frontend.restricted,
        };
        ours.insert((address, id.protocol.lower().to_owned(), id.port), told);
    }
    ours
}
