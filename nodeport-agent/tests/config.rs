//! The agent and the file that it is configured by, as a process (behaviours 22.10).

#[path = "inside/mod.rs"]
mod inside;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use inside::isolated;

const CONFIG: &str = "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
hostnameOverride: n1
metricsBindAddress: 127.0.0.1:20249
clusterCIDR: 10.244.0.0/16
---
apiVersion: nodeport.dev/v1alpha1
kind: NodeportConfiguration
xdp: 'off'
proxyModeAnswer: mine
";

fn wait<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = get() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(50));
    }
}

fn curl(url: &str) -> Option<String> {
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "5", url])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_file_configures_the_agent_and_ends_it_when_it_changes() {
    isolated(
        "a_file_configures_the_agent_and_ends_it_when_it_changes",
        || {
            let place = tempfile::tempdir().expect("a temporary directory");
            let (config, objects, log) = (
                place.path().join("c.yaml"),
                place.path().join("objects"),
                place.path().join("log"),
            );
            fs::create_dir(&objects).expect("a directory");
            let whole = format!("{CONFIG}manifests: [{}]\n", objects.display());
            fs::write(&config, &whole).expect("written");
            let mut command = Command::new(env!("CARGO_BIN_EXE_nodeport-agent"));
            command
                .args(["run", "--node-name", "n1", "--config"])
                .arg(&config)
                .arg("--run-dir")
                .arg(place.path().join("run"));
            command.args(["--nodeport-addresses", "primary"]);
            command
                .stdin(Stdio::null())
                .stderr(fs::File::create(&log).expect("a log"));
            let mut agent = Running(command.spawn().expect("started"));
            let serves = || {
                let ended = agent.0.try_wait().expect("a child");
                let log = fs::read_to_string(&log).unwrap_or_default();
                assert_eq!(ended, None, "{log}");
                curl("http://127.0.0.1:20249/proxyMode")
            };
            let mode = wait("it serves where the file says", serves);
            assert_eq!(mode, "mine");
            let configz = curl("http://127.0.0.1:20249/configz").expect("an answer");
            assert!(configz.contains("\"hostnameOverride\":\"n1\""), "{configz}");
            let told = fs::read_to_string(&log).expect("a log");
            assert!(
                told.contains("clusterCIDR = 10.244.0.0/16 is not honoured"),
                "{told}"
            );
            assert!(told.contains("--nodeport-addresses is ignored"), "{told}");
            fs::write(&config, whole.replace("mine", "other")).expect("written");
            let status = wait("it ends", || agent.0.try_wait().expect("a child"));
            assert_eq!(status.code(), Some(1));
            let told = fs::read_to_string(&log).expect("a log");
            assert!(told.contains("c.yaml changed"), "{told}");
        },
    );
}

/// A value of each setting without effect that kube-proxy takes and that is not its default.
fn not_usual(field: &str, usual: &serde_json::Value) -> serde_json::Value {
    use serde_json::{Value, json};
    match (field, usual) {
        ("featureGates", _) => json!({"SomeGate": true}),
        ("mode", _) => json!("nftables"),
        ("detectLocalMode", _) => json!("InterfaceNamePrefix"),
        ("clusterCIDR", _) => json!("10.244.0.0/16"),
        ("ipvs.excludeCIDRs", _) => json!(["10.0.0.0/8"]),
        ("logging.vmodule", _) => json!([{"filePattern": "proxier", "verbosity": 5}]),
        ("configSyncPeriod", _) => json!("1m0s"),
        (_, Value::Bool(value)) => json!(!value),
        (_, Value::Number(value)) => json!(value.as_i64().unwrap_or_default() + 1),
        (name, _) if name.ends_with("Timeout") || name.ends_with("Frequency") => json!("7s"),
        (name, _) if name.ends_with("BufferSize") => json!("1Mi"),
        (name, _) if name.ends_with("splitStream") || name == "windowsRunAsService" => json!(true),
        (_, _) => json!("x1"),
    }
}

/// A file that gives every setting that has no effect, and two fields that do not exist.
fn everything_in_vain() -> (String, Vec<&'static str>) {
    use nodeport_agent::config::KubeProxyConfiguration;
    use nodeport_agent::config::table::{SETTINGS, Use};
    let usual = serde_json::to_value(KubeProxyConfiguration::default().defaulted()).expect("JSON");
    let mut file = serde_json::json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "resourceContainer": "/kube-proxy", "conntrack": {"max": 5},
        "metricsBindAddress": "127.0.0.1:20249", "nodePortAddresses": ["primary", "localhost", "127.0.0.0/8"],
    });
    let mut fields = Vec::new();
    for setting in SETTINGS {
        if let Use::Ignored(_) = setting.used {
            let pointer = format!("/{}", setting.field.replace('.', "/"));
            let value = not_usual(
                setting.field,
                usual.pointer(&pointer).unwrap_or(&serde_json::Value::Null),
            );
            let mut place = &mut file;
            for part in setting.field.split('.') {
                place = &mut place[part];
            }
            *place = value;
            fields.push(setting.field);
        }
    }
    assert!(fields.len() > 20, "{fields:?}");
    (file.to_string(), fields)
}

/// Read leniently after all, and named at the start.
#[test]
fn every_setting_without_effect_is_named_at_the_start() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let (text, fields) = everything_in_vain();
    let (config, out) = (place.path().join("c.yaml"), place.path().join("out"));
    fs::write(&config, text).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_nodeport-agent"))
        .args(["run", "--node-name", "n1", "--manifests", "/none"])
        .arg("--config")
        .arg(&config)
        .arg("--write-config-to")
        .arg(&out)
        .output()
        .expect("the agent");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    for field in fields {
        assert!(told.contains(&format!("{field} = ")), "{field}:\n{told}");
    }
    for entry in [
        "nodePortAddresses[1] = localhost",
        "nodePortAddresses[2] = 127.0.0.0/8",
    ] {
        assert!(told.contains(entry), "{entry}:\n{told}");
    }
    for unknown in ["no field resourceContainer", "no field conntrack.max"] {
        assert!(told.contains(unknown), "{unknown}:\n{told}");
    }
    let written = fs::read_to_string(out).expect("written");
    assert!(!written.contains("resourceContainer"), "{written}");
}

#[test]
fn every_setting_without_effect_is_in_the_status() {
    isolated("every_setting_without_effect_is_in_the_status", || {
        let place = tempfile::tempdir().expect("a temporary directory");
        let (text, fields) = everything_in_vain();
        let own =
            "\n---\napiVersion: nodeport.dev/v1alpha1\nkind: NodeportConfiguration\nxdp: 'off'\n";
        let (config, objects) = (place.path().join("c.yaml"), place.path().join("objects"));
        fs::create_dir(&objects).expect("a directory");
        fs::write(&config, text + own).expect("written");
        let run_dir = place.path().join("run");
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodeport-agent"));
        command.args(["run", "--node-name", "n1", "--config"]);
        command.arg(&config).arg("--manifests").arg(&objects);
        command.arg("--run-dir").arg(&run_dir).stdin(Stdio::null());
        let _agent = Running(command.spawn().expect("started"));
        let status = || {
            let output = Command::new(env!("CARGO_BIN_EXE_nodeport-agent"))
                .args(["status", "-o", "json", "--run-dir"])
                .arg(&run_dir)
                .output()
                .ok()?;
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            (status["running"] == true).then_some(status)
        };
        let status = wait("a status", status);
        let named: Vec<&str> = status["not_honoured"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|one| one["setting"].as_str())
            .collect();
        let wanted: Vec<&str> = ["nodePortAddresses[1]", "nodePortAddresses[2]"]
            .into_iter()
            .chain(fields)
            .collect();
        assert_eq!(named, wanted);
        let warnings = status["warnings"].to_string();
        for unknown in ["no field resourceContainer", "no field conntrack.max"] {
            assert!(warnings.contains(unknown), "{warnings}");
        }
    });
}
