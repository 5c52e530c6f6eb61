//! Each capability of the DaemonSet taken away in turn: what the kernel refuses then, and how the agent says so.
//!
//! Owns the proof that none can be spared. That the three together are enough is for tests/network/capabilities.rs to show, with traffic.

#[path = "inside/mod.rs"]
mod inside;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use inside::{isolated, sh};
use nodeport_agent::datapath::{
    Config, DatapathLog, Pins, Sizes, SocketArgs, XdpPolicy, chain, load,
};
use nodeport_agent::object::OBJECT;

/// What deploy/ gives to the agent.
const ALL: [&str; 3] = ["bpf", "net_admin", "perfmon"];

/// In this variable of a process that starts itself again: what it is to try.
const TRY: &str = "NODEPORT_TEST_TRY";

/// A command line with the capabilities of [`ALL`] but one, as a container has them: nothing else, and no way to more.
fn without(dropped: &str) -> Command {
    let kept = ALL.into_iter().filter(|name| *name != dropped);
    let bounds = kept.fold("-all".to_owned(), |list, name| format!("{list},+{name}"));
    let mut command = Command::new("setpriv");
    command.args(["--no-new-privs", "--inh-caps=-all"]);
    command.arg(format!("--bounding-set={bounds}"));
    command
}

fn text(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr];
    streams.map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// What the agent says, and that it left nothing.
#[test]
fn an_agent_without_one_of_them_names_it_and_leaves_nothing_behind() {
    isolated(
        "an_agent_without_one_of_them_names_it_and_leaves_nothing_behind",
        || {
            for (dropped, name) in ALL
                .into_iter()
                .zip(["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"])
            {
                let output = without(dropped)
                    .arg(env!("CARGO_BIN_EXE_nodeport-agent"))
                    .args(["run", "--node-name", "n1", "--manifests", "/nowhere"])
                    .output()
                    .expect("setpriv");
                let said = text(&output);
                assert_eq!(output.status.code(), Some(1), "{said}");
                let missing = format!("missing privileges ({name}):");
                assert!(said.contains(&missing), "{said}");
                assert!(!Path::new("/sys/fs/bpf/nodeport").exists(), "{dropped}");
            }
        },
    );
}

/// The agent's own check set aside: what the kernel says to the same work.
#[test]
fn the_kernel_refuses_the_work_without_any_one_of_them() {
    if let Ok(what) = std::env::var(TRY) {
        attempt(&what);
        return;
    }
    isolated(
        "the_kernel_refuses_the_work_without_any_one_of_them",
        || {
            sh(
                "ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up",
            );
            let tried = |dropped: &str, what: &str| {
                let output = without(dropped)
                    .arg(std::env::current_exe().expect("this executable"))
                    .args([
                        "--exact",
                        "the_kernel_refuses_the_work_without_any_one_of_them",
                        "--nocapture",
                    ])
                    .env(TRY, what)
                    .output()
                    .expect("setpriv");
                let said = text(&output);
                let answer = said.lines().find_map(|line| line.strip_prefix("answer: "));
                answer.unwrap_or_else(|| panic!("{said}")).to_owned()
            };
            assert_eq!(tried("none of them", "load"), "done");
            assert_eq!(tried("none of them", "attach"), "done");
            let maps = tried("bpf", "load");
            assert!(
                maps.contains("map") && maps.contains("Operation not permitted"),
                "{maps}"
            );
            let programs = tried("net_admin", "load");
            assert!(programs.contains("Operation not permitted"), "{programs}");
            // Programs compare pointers, which says where kernel memory lies.
            let pointers = tried("perfmon", "load");
            assert!(
                pointers.contains("nodeport_") && pointers != programs,
                "{pointers}"
            );
            let qdisc = tried("net_admin", "attach");
            assert!(qdisc.contains("Operation not permitted"), "{qdisc}");
        },
    );
}

/// In a process with fewer capabilities: does the work and prints what came of it.
fn attempt(what: &str) {
    let answer = match what {
        "load" => load_programs(),
        _ => attach_qdisc(),
    };
    println!(
        "\nanswer: {}",
        answer.unwrap_or_else(|error| error.replace('\n', " "))
    );
}

fn load_programs() -> Result<String, String> {
    let pins = Pins::new("/sys/fs/bpf/nodeport-try");
    let config = Config {
        pin_dir: "/sys/fs/bpf/nodeport-try".into(),
        xdp: XdpPolicy::Off,
        tc: None,
        sizes: Sizes::default(),
        redirect_local: false,
        sockets: SocketArgs::default(),
        node_ports: "30000-32767".parse().expect("a range"),
        log: DatapathLog::Off,
    };
    let result = load(OBJECT, &pins, &config);
    let _ = fs::remove_dir_all("/sys/fs/bpf/nodeport-try");
    result
        .map(|_| "done".to_owned())
        .map_err(|error| chain(&error))
}

fn attach_qdisc() -> Result<String, String> {
    let output = Command::new("tc")
        .args(["qdisc", "replace", "dev", "up0", "clsact"])
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok("done".to_owned())
    } else {
        Err(text(&output))
    }
}
