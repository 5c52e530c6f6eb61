//! What the agent does instead of running, and for readers that go away, as a process: `--cleanup`, `--init-only`, `| head`.

#[path = "inside/mod.rs"]
mod inside;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use inside::{isolated, sh};

const PIN_DIR: &str = "/sys/fs/bpf/nodeport";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

const OBJECTS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: NodePort, clusterIP: 10.96.0.10, ports: [{port: 80, nodePort: 30080}]}
";

fn agent(words: &str, place: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodeport-agent"));
    command
        .args(words.split_whitespace())
        .env("NODE_NAME", "n1")
        .stdin(Stdio::null());
    if words.starts_with("run") {
        command.arg("--run-dir").arg(place.join("run"));
        command.args(["--metrics-bind-address", "", "--healthz-bind-address", ""]);
        command.arg("--manifests").arg(place.join("objects.yaml"));
    }
    command
}

fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a temporary directory");
    fs::write(place.path().join("objects.yaml"), OBJECTS).expect("objects");
    place
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// An agent that runs, and is killed at the end.
struct Running(Child);

impl Running {
    fn start(place: &Path, stderr: Stdio) -> Self {
        let mut command = agent("run --xdp off", place);
        let this = Self(command.stderr(stderr).spawn().expect("started"));
        let socket = place.join("run");
        wait("it is ready", || {
            let status = agent("status -o json --run-dir", place)
                .arg(&socket)
                .output();
            let status = status.expect("status").stdout;
            String::from_utf8_lossy(&status).contains("\"ready\": true")
        });
        this
    }

    fn stop(mut self) -> Option<i32> {
        sh(&format!("kill -TERM {}", self.0.id()));
        self.0.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait(what: &str, mut met: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !met() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(50));
    }
}

/// The writing end of a pipe that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    Stdio::from(File::from(OwnedFd::from(writer)))
}

#[test]
fn cleanup_removes_everything_but_never_from_under_an_agent() {
    isolated(
        "cleanup_removes_everything_but_never_from_under_an_agent",
        || {
            let place = place();
            let running = Running::start(place.path(), Stdio::null());
            let cleanup = || {
                agent("run --cleanup", place.path())
                    .output()
                    .expect("the agent")
            };
            let refused = cleanup();
            assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
            assert!(
                said(&refused).contains("another nodeport-agent uses"),
                "{}",
                said(&refused)
            );
            assert!(Path::new(PIN_DIR).exists());
            assert_eq!(running.stop(), Some(0));
            assert!(Path::new(PIN_DIR).exists(), "stopping removes nothing");
            let done = cleanup();
            assert!(done.status.success(), "{}", said(&done));
            assert!(said(&done).contains("maps of"), "{}", said(&done));
            assert!(!Path::new(PIN_DIR).exists());
            assert!(cleanup().status.success(), "again, with nothing there");
        },
    );
}

#[test]
fn init_only_writes_what_is_asked_for_and_nothing_else() {
    isolated(
        "init_only_writes_what_is_asked_for_and_nothing_else",
        || {
            let place = place();
            let reserved = || {
                fs::read_to_string(RESERVED)
                    .expect("the setting")
                    .trim()
                    .to_owned()
            };
            sh(&format!("echo 8080 > {RESERVED}"));
            sh("echo '32768 60999' > /proc/sys/net/ipv4/ip_local_port_range");
            let output = agent("run --init-only", place.path())
                .output()
                .expect("run");
            assert!(output.status.success(), "{}", said(&output));
            assert_eq!(reserved(), "8080", "not asked for");
            let line = "run --init-only --reserve-ports";
            let output = agent(line, place.path()).output().expect("run");
            assert!(output.status.success(), "{}", said(&output));
            // NodePorts, and the source ports around them: all but the host's own range.
            assert_eq!(reserved(), "1024-32767,61000-65535");
            assert!(!Path::new(PIN_DIR).exists(), "nothing else is made");
            let output = agent(
                "run --init-only=false --init-only --cleanup=false",
                place.path(),
            );
            let output = { output }.output().expect("run");
            assert!(output.status.success(), "{}", said(&output));
        },
    );
}

#[test]
fn overlapping_ports_are_warned_of_unless_they_are_reserved() {
    isolated(
        "overlapping_ports_are_warned_of_unless_they_are_reserved",
        || {
            let place = place();
            sh("ip link add eth0 type veth peer name wire && ip link set eth0 up");
            sh("echo '30000 60999' > /proc/sys/net/ipv4/ip_local_port_range");
            let overlap = |log: &Path| {
                let log = fs::read_to_string(log).expect("a log");
                log.contains("overlaps net.ipv4.ip_local_port_range")
            };
            let log = place.path().join("log");
            let file = || Stdio::from(File::create(&log).expect("a log"));
            assert_eq!(Running::start(place.path(), file()).stop(), Some(0));
            assert!(overlap(&log));
            let line = "run --init-only --reserve-ports";
            let output = agent(line, place.path()).output().expect("run");
            assert!(output.status.success(), "{}", said(&output));
            assert_eq!(Running::start(place.path(), file()).stop(), Some(0));
            assert!(!overlap(&log));
        },
    );
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    let place = place();
    let objects = place.path().join("objects.yaml");
    let plan = || {
        let mut command = agent("plan --manifests", place.path());
        command.arg(&objects);
        command
    };
    let output = plan().stdout(unread()).output().expect("plan");
    // What it reports of the objects is on standard error, which is read.
    let told = said(&output);
    let quiet = output.status.success() && !told.contains("panicked");
    assert!(quiet, "{told}");
    // Neither its output nor its errors are read.
    let mut wrong = agent("dump frontends --pin-dir /nowhere", place.path());
    let status = wrong.stdout(unread()).stderr(unread()).status();
    assert_eq!(status.expect("dump").code(), Some(1));
    let status = agent("status --pin-dir /nowhere --run-dir /nowhere", place.path())
        .stdout(unread())
        .stderr(unread())
        .status();
    assert_eq!(status.expect("status").code(), Some(0));
}

#[test]
fn an_agent_whose_log_nobody_reads_goes_on() {
    isolated("an_agent_whose_log_nobody_reads_goes_on", || {
        let place = place();
        sh("ip link add eth0 type veth peer name wire && ip link set eth0 up");
        let mut running = Running::start(place.path(), unread());
        // Each change is worth a line.
        for index in 0..3 {
            let broken = OBJECTS.replace("port: 80,", &format!("port: {},", 70_000 + index));
            fs::write(place.path().join("objects.yaml"), broken).expect("objects");
            sleep(Duration::from_millis(500));
        }
        assert_eq!(running.0.try_wait().expect("a child"), None);
        assert_eq!(running.stop(), Some(0));
    });
}
