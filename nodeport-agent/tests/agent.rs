//! The agent as a process: start, status, changes of devices, kill, adoption, refusals.

mod inside;

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nodeport_common::ABI_VERSION;
use serde_json::Value;

use inside::{isolated, sh};

const PIN_DIR: &str = "/sys/fs/bpf/nodeport";

/// A second is what is promised; the rest is for a machine that runs other tests beside.
const SOON: Duration = Duration::from_secs(3);

const OBJECTS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.2.5], nodeName: n2}]
---
apiVersion: v1
kind: Service
metadata: {name: broken, namespace: shop}
spec:
  clusterIP: 10.96.0.11
  ports: [{port: 99999}]
";

/// A node with one agent's files. What runs is killed at the end.
struct Node {
    place: tempfile::TempDir,
    child: Option<Child>,
}

impl Node {
    fn new() -> Self {
        sh(
            "ip link add eth0 type veth peer name wire && ip link set eth0 up && ip link set wire up",
        );
        sh("ip addr add 192.0.2.11/24 dev eth0 && ip route add default via 192.0.2.1");
        sh("sysctl -qw net.ipv4.ip_forward=1");
        let place = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(place.path().join("objects.yaml"), OBJECTS).expect("objects");
        Self { place, child: None }
    }

    fn objects(&self) -> PathBuf {
        self.place.path().join("objects.yaml")
    }

    fn agent(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodeport-agent"));
        command.args(words.split_whitespace());
        command.arg("--run-dir").arg(self.place.path().join("run"));
        command
    }

    fn run_command(&self, more: &str) -> Command {
        let mut command = self.agent(&format!("run --node-name n1 {more}"));
        command.arg("--manifests").arg(self.objects());
        command
    }

    /// Starts the agent and waits until it is ready.
    fn start(&mut self) {
        let log = std::fs::File::create(self.place.path().join("log")).expect("a log");
        let mut command = self.run_command("");
        self.child = Some(command.stderr(log).spawn().expect("started"));
        self.wait("ready", |status| status["ready"] == true);
    }

    fn status(&self) -> Value {
        let output = self.agent("status -o json").output().expect("status");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn dump(&self, what: &str) -> Value {
        let output = self.agent(&format!("dump {what} -o json")).output();
        serde_json::from_slice(&output.expect("dump").stdout).expect("JSON")
    }

    /// Waits until the status is as told, for half a minute at most. Returns how long that took.
    fn wait(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Duration {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            let status = self.status();
            if holds(&status) {
                return start.elapsed();
            }
            sleep(Duration::from_millis(20));
        }
        panic!("not {what}: {:#}\n{}", self.status(), self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    fn end(&mut self, signal: &str) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("it runs");
        sh(&format!("kill -{signal} {}", child.id()));
        child.wait().expect("its end")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn device<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    let devices = status["devices"].as_array()?;
    devices.iter().find(|device| device["name"] == name)
}

fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn programs() -> String {
    sh("ip -details link show dev eth0 | grep -o 'prog/xdp id [0-9]*'")
}

#[test]
fn from_objects_to_maps_and_back_to_nothing() {
    isolated("from_objects_to_maps_and_back_to_nothing", || {
        let mut node = Node::new();
        node.start();
        let status = node.status();
        assert_eq!(status["healthy"], true, "{status:#}");
        let eth0 = device(&status, "eth0").expect("covered");
        assert_eq!(eth0["role"], "uplink");
        assert_eq!(eth0["xdp"]["mode"], "native");
        assert_eq!(eth0["tc_ingress"]["mode"], "tcx");
        let rejected = status["rejected"].as_array().expect("a list");
        assert!(
            rejected
                .iter()
                .any(|report| report["object"]["name"] == "broken"),
            "{rejected:#?}"
        );

        let frontends = node.dump("frontends");
        let frontends = frontends.as_array().expect("a list");
        let node_port = frontends
            .iter()
            .find(|one| one["port"] == 30080)
            .expect("a NodePort");
        assert_eq!(node_port["service_port"], "shop/web:http TCP");
        let backends = node.dump("backends");
        assert_eq!(backends[0]["address"], "10.244.2.5:8080");
        assert!(node.dump("outcomes").is_object());
        assert_eq!(node.dump("flows"), Value::Array(Vec::new()));

        // A change of the file arrives; nothing else is touched.
        let objects = OBJECTS.replace("10.244.2.5", "10.244.3.9");
        std::fs::write(node.objects(), objects).expect("objects");
        node.wait("synced again", |status| {
            status["sync"]["total"].as_u64() > Some(1) && status["sync"]["steps"].as_u64() > Some(0)
        });
        assert_eq!(node.dump("backends")[0]["address"], "10.244.3.9:8080");

        // clean is refused while it runs.
        let output = node.agent("clean").output().expect("clean");
        assert!(
            error_of(&output).contains("another nodeport-agent"),
            "{}",
            error_of(&output)
        );
        assert!(node.end("TERM").success());
        assert!(node.agent("clean").status().expect("clean").success());
        assert!(!PathBuf::from(PIN_DIR).exists());
        let status = node.status();
        assert_eq!(status["running"], false);
    });
}

#[test]
fn a_killed_agent_leaves_all_in_place_and_the_next_one_takes_it_over() {
    isolated(
        "a_killed_agent_leaves_all_in_place_and_the_next_one_takes_it_over",
        || {
            let mut node = Node::new();
            node.start();
            let (before, programs_before) = (node.dump("state"), programs());
            let eth0 = device(&node.status(), "eth0").cloned();
            node.end("KILL");

            let status = node.status();
            assert_eq!(
                (&status["running"], &status["ready"]),
                (&Value::Bool(false), &Value::Bool(false))
            );
            assert!(
                status["problems"][0]
                    .as_str()
                    .is_some_and(|text| text.contains("goes on"))
            );
            assert_eq!(status["devices"].as_array().map(Vec::len), Some(2));
            assert_eq!(programs(), programs_before);
            assert_eq!(node.dump("state"), before);

            sleep(Duration::from_millis(1100));
            node.start();
            let same = "of the same object: taken as they are";
            assert_eq!(programs(), programs_before, "{same}");
            let again = device(&node.status(), "eth0").cloned();
            assert_eq!(again, eth0, "the same links, as old as before");
            assert_eq!(node.dump("state"), before);
            // The one step raises the endpoint generation: the killed one may have died just before it.
            let steps = node.status()["sync"]["steps"].as_u64();
            assert_eq!(steps, Some(1), "nothing else to write");
        },
    );
}

#[test]
fn devices_are_covered_as_they_come_and_let_go_as_they_go_h4() {
    isolated(
        "devices_are_covered_as_they_come_and_let_go_as_they_go_h4",
        || {
            let mut node = Node::new();
            node.start();
            let links = || {
                let directory = format!("/sys/fs/bpf/nodeport/v{ABI_VERSION}/links");
                sh(&format!("ls {directory} | wc -l")).trim().to_owned()
            };
            let before = links();
            sh("ip link add pod1 index 77 type veth peer name pod1p index 78");
            let covered = |status: &Value| {
                device(status, "pod1").is_some_and(|pod| pod["tc_egress"]["mode"] == "tcx")
            };
            let took = node.wait("covered", covered);
            assert!(took < SOON, "{took:?}");
            // Another device takes its name and index at once.
            sh("ip link del pod1 && ip link add pod1 index 77 type veth peer name pod1p index 78");
            node.wait("covered again", |status| {
                covered(status) && tcx_program("pod1").is_some()
            });
            sh("ip link add br0 type bridge && ip link set pod1 master br0");
            node.wait("a port is let go", |status| {
                device(status, "pod1").is_none() && device(status, "br0").is_some()
            });
            sh("ip link del pod1 && ip link del br0");
            node.wait("gone", |status| device(status, "br0").is_none());
            assert_eq!(links(), before);
        },
    );
}

/// The TCX program that runs on a device, if there is one.
fn tcx_program(device: &str) -> Option<u32> {
    use aya::programs::{SchedClassifier, TcAttachType};
    let (_, programs) = SchedClassifier::query_tcx(device, TcAttachType::Ingress).ok()?;
    programs.first().map(aya::programs::ProgramInfo::id)
}

#[test]
fn addresses_are_followed_h5() {
    isolated("addresses_are_followed_h5", || {
        let mut node = Node::new();
        node.start();
        let accepts = |address: &str| {
            let state = node.dump("state");
            let addresses = state["v4"]["addresses"].as_array().expect("a list").clone();
            addresses.iter().any(|one| {
                one["address"] == address
                    && one["flags"]
                        .as_array()
                        .is_some_and(|flags| flags.contains(&"node_port".into()))
            })
        };
        assert!(accepts("192.0.2.11") && !accepts("192.0.2.12") && !accepts("127.0.0.1"));
        sh("ip addr add 192.0.2.12/24 dev eth0");
        let took = node.wait("added", |_| accepts("192.0.2.12"));
        assert!(took < SOON, "{took:?}");
        sh("ip addr del 192.0.2.12/24 dev eth0");
        node.wait("removed", |_| !accepts("192.0.2.12"));
    });
}

#[test]
fn whatever_is_missing_is_named_and_nothing_is_left() {
    isolated("whatever_is_missing_is_named_and_nothing_is_left", || {
        let mut node = Node::new();
        let refused = |mut command: Command, words: &[&str]| {
            let output = command.stdout(Stdio::null()).output().expect("run");
            assert_eq!(output.status.code(), Some(1), "{}", error_of(&output));
            for word in words {
                assert!(
                    error_of(&output).contains(word),
                    "{word}: {}",
                    error_of(&output)
                );
            }
        };
        refused(
            node.run_command("--pin-dir /tmp/nodeport"),
            &["BPF file system", "mount -t bpf"],
        );
        assert!(!PathBuf::from("/tmp/nodeport").exists());
        let mut unprivileged = Command::new("setpriv");
        let inner = node.run_command("");
        unprivileged
            .args(["--bounding-set=-all", "--inh-caps=-all"])
            .arg(inner.get_program())
            .args(inner.get_args());
        refused(unprivileged, &["CAP_BPF", "CAP_NET_ADMIN", "run as root"]);
        refused(
            node.run_command("--nodeport-addresses nonsense"),
            &["nodePortAddresses[0]", "nonsense"],
        );
        assert!(!PathBuf::from(PIN_DIR).exists(), "nothing half done");

        // A second agent: by the pin directory, then by the run directory.
        node.start();
        refused(
            node.run_command(""),
            &[
                "another nodeport-agent uses /sys/fs/bpf/nodeport",
                "--pin-dir",
            ],
        );
        refused(
            node.run_command("--pin-dir /sys/fs/bpf/other"),
            &["--run-dir"],
        );
        assert_eq!(node.status()["running"], true);
    });
}

#[test]
fn a_plan_needs_no_privileges_and_starts_from_where_it_is_told() {
    isolated(
        "a_plan_needs_no_privileges_and_starts_from_where_it_is_told",
        || {
            let mut node = Node::new();
            let objects = node.objects();
            let plan = |more: &str| {
                let mut command = Command::new("setpriv");
                command
                    .args(["--bounding-set=-all", "--inh-caps=-all"])
                    .arg(env!("CARGO_BIN_EXE_nodeport-agent"))
                    .args(format!("plan --node-name n1 {more}").split_whitespace())
                    .arg("--manifests")
                    .arg(&objects);
                let output = command.output().expect("plan");
                assert!(output.status.success(), "{}", error_of(&output));
                String::from_utf8_lossy(&output.stdout).into_owned()
            };
            let steps = plan("");
            assert!(steps.contains("FRONTENDS4: put node:30080/TCP"), "{steps}");
            node.start();
            let state = node.place.path().join("state.json");
            std::fs::write(&state, node.dump("state").to_string()).expect("state");
            let steps = plan(&format!("--against {}", state.display()));
            // The running agent has raised the generation; a plan from a file cannot know that.
            assert!(!steps.contains("FRONTENDS4"), "{steps}");
        },
    );
}
