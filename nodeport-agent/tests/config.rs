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
