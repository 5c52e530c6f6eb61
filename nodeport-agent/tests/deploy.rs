//! What deploy/ says, against what the agent takes and does: settings, rights, privileges, ports, places.
//!
//! That deploy/nodeport.yaml is the chart with its default values is for the cluster tier to see: it has Helm.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use nodeport_agent::cli::Cli;
use nodeport_agent::config::table::SETTINGS;
use nodeport_agent::config::{ConfigFile, own};
use serde_json::{Value, json};

fn text(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("YAML")
}

fn schema() -> Value {
    serde_json::from_str(&text("chart/values.schema.json")).expect("JSON")
}

/// The objects of the plain manifest.
fn objects() -> Vec<Value> {
    let text = text("nodeport.yaml");
    let documents = text.split("\n---\n").map(yaml);
    documents.filter(|document| !document.is_null()).collect()
}

fn object(kind: &str) -> Value {
    let mut found = objects();
    found.retain(|object| object["kind"] == kind);
    assert_eq!(found.len(), 1, "objects of kind {kind}");
    found.remove(0)
}

fn keys(object: &Value) -> BTreeSet<String> {
    object
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect()
}

fn agent() -> Value {
    let daemon_set = object("DaemonSet");
    let containers = &daemon_set["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().expect("a list").len(), 1);
    containers[0].clone()
}

#[test]
fn the_chart_has_a_value_for_every_setting_and_for_nothing_else() {
    let schema = schema();
    let properties = |name: &str| keys(&schema["properties"][name]["properties"]);
    let mut cli = Cli::command();
    cli.build();
    let run = cli.find_subcommand("run").expect("the verb");
    let ours: BTreeSet<String> = own::fields(run).map(|(field, _)| field).collect();
    assert_eq!(properties("nodeport"), ours);
    let kube_proxys: BTreeSet<String> = SETTINGS
        .iter()
        .filter_map(|setting| setting.field.split('.').next())
        .filter(|field| !field.is_empty())
        .map(str::to_owned)
        .collect();
    assert_eq!(properties("kubeProxy"), kube_proxys);
}

#[test]
fn the_schema_knows_every_value_and_takes_no_other() {
    let (schema, values) = (schema(), yaml(&text("chart/values.yaml")));
    let mut known = keys(&schema["properties"]);
    assert!(known.remove("global"), "Helm gives it to every chart");
    assert_eq!(known, keys(&values));
    assert_eq!(schema["additionalProperties"], false);
    for section in ["image", "apiServer", "host", "serviceAccount", "rbac"] {
        let section_schema = &schema["properties"][section];
        assert_eq!(section_schema["additionalProperties"], false, "{section}");
        assert_eq!(
            keys(&section_schema["properties"]),
            keys(&values[section]),
            "{section}"
        );
    }
}

#[test]
fn the_manifest_has_what_a_node_agent_needs_and_no_more() {
    let mut kinds: Vec<String> = objects()
        .iter()
        .map(|object| object["kind"].as_str().expect("a kind").to_owned())
        .collect();
    kinds.sort_unstable();
    let wanted = [
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
        "ServiceAccount",
    ];
    assert_eq!(kinds, wanted);
}

/// The requests of `source/kubernetes`: lists and watches, and Events in the group in which they are created.
#[test]
fn the_rights_are_those_of_the_requests_that_are_made() {
    let wanted = json!([
        {"apiGroups": [""], "resources": ["services", "nodes"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ]);
    assert_eq!(object("ClusterRole")["rules"], wanted);
    let binding = object("ClusterRoleBinding");
    assert_eq!(
        binding["subjects"][0]["name"],
        object("ServiceAccount")["metadata"]["name"]
    );
    assert_eq!(
        object("DaemonSet")["spec"]["template"]["spec"]["serviceAccountName"],
        binding["subjects"][0]["name"]
    );
}

/// Which of the capabilities is needed for what: tests/network/capabilities.rs.
#[test]
fn the_agent_has_three_capabilities_and_no_other_privilege() {
    let agent = agent();
    let security = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"]},
    });
    assert_eq!(agent["securityContext"], security);
    let pod = &object("DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    assert!(pod["initContainers"].is_null() && pod["hostPID"].is_null());
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    for volume in pod["volumes"].as_array().expect("a list") {
        let path = &volume["hostPath"]["path"];
        assert!(
            path.is_null() || path == "/sys/fs/bpf" || path == "/run/nodeport",
            "{volume}"
        );
    }
}

#[test]
fn the_configuration_is_one_that_the_agent_takes_without_a_warning() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let file = place.path().join("config.yaml");
    let config = object("ConfigMap")["data"]["config.yaml"].clone();
    fs::write(&file, config.as_str().expect("text")).expect("written");
    let read = ConfigFile::read(&file).expect("a configuration");
    assert_eq!(read.documents.warnings, Vec::<String>::new());
    let arguments = agent()["args"].clone();
    assert_eq!(
        arguments,
        json!(["run", "--config=/etc/nodeport/config.yaml"])
    );
}

#[test]
fn probes_and_places_are_those_of_the_agents_defaults() {
    let agent = agent();
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &agent[probe]["httpGet"];
        assert_eq!(
            (&get["path"], &get["port"]),
            (&json!("/livez"), &json!(10256))
        );
    }
    let mounts = agent["volumeMounts"].as_array().expect("a list");
    let places: Vec<_> = mounts
        .iter()
        .map(|mount| mount["mountPath"].as_str().expect("a path"))
        .collect();
    assert_eq!(places, ["/etc/nodeport", "/sys/fs/bpf", "/run/nodeport"]);
    let run = ["nodeport-agent", "status"];
    let cli = <Cli as clap::Parser>::parse_from(run);
    let nodeport_agent::cli::Verb::Status(status) = cli.verb else {
        panic!("another verb");
    };
    assert!(status.places.pin_dir.starts_with("/sys/fs/bpf"));
    assert_eq!(status.places.run_dir, Path::new("/run/nodeport"));
}

/// A surge would start a second agent beside the first, which a lock and the ports refuse.
#[test]
fn agents_are_replaced_one_node_after_the_other() {
    let strategy = object("DaemonSet")["spec"]["updateStrategy"].clone();
    let wanted =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}});
    assert_eq!(strategy, wanted);
}

#[test]
fn versions_are_the_packages() {
    let chart = yaml(&text("chart/Chart.yaml"));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&json!(version), &json!(version))
    );
    let image = format!("localhost/nodeport-agent:{version}");
    assert_eq!(agent()["image"], image.as_str());
}
