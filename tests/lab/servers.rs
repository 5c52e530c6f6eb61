//! Real servers in Pods: nginx for HTTP, dnsmasq for DNS over UDP, iperf3.
//!
//! Each answers with the name of its Pod; the client's address is told by nginx itself and by dnsmasq's log.
//! Invariant: when a server is returned it answers.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::{Lab, Pod};
use crate::netns::Netns;
use crate::process::Process;

/// Port of nginx in every Pod of the example.
pub const HTTP_PORT: u16 = 8080;
/// Port of dnsmasq in every Pod of the example.
pub const DNS_PORT: u16 = 5353;
/// Port of iperf3.
pub const IPERF_PORT: u16 = 5201;
/// How many names have the name of the Pod as their TXT record, see [`dns_name`].
const DNS_NAMES: u32 = 64;

/// How long a server may take to begin.
const START: Duration = Duration::from_secs(5);

/// A name whose TXT record is the name of the Pod: another one with each call, so that a server's log tells who asked which.
pub(crate) fn dns_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "pod{}.test",
        NEXT.fetch_add(1, Ordering::Relaxed) % DNS_NAMES
    )
}

/// A DNS server whose log tells who asked.
#[derive(Debug)]
pub struct Dns {
    process: Process,
    /// The name it answers with.
    pub name: String,
}

/// The servers of all Pods.
#[derive(Debug)]
pub struct Servers {
    /// nginx, one for each Pod.
    pub http: Vec<Process>,
    /// dnsmasq, one for each Pod.
    pub dns: Vec<Dns>,
}

/// Starts nginx and dnsmasq in every Pod of the lab.
///
/// # Errors
/// If one does not start.
pub fn start_all(lab: &Lab) -> Result<Servers> {
    // All processes first, then the waiting: they start side by side.
    let mut servers = Servers {
        http: Vec::new(),
        dns: Vec::new(),
    };
    for pod in lab.pods() {
        servers.http.push(spawn_nginx(
            lab,
            &pod.netns,
            &pod.spec.name,
            &listen(pod, HTTP_PORT),
        )?);
        servers.dns.push(spawn_dnsmasq(lab, pod)?);
    }
    for (pod, (http, dns)) in lab
        .pods()
        .zip(servers.http.iter_mut().zip(&mut servers.dns))
    {
        await_listener(http, &pod.netns, "-tln", HTTP_PORT)?;
        await_listener(&mut dns.process, &pod.netns, "-uln", DNS_PORT)?;
    }
    Ok(servers)
}

/// Starts nginx in a namespace; it answers each request with the name and both addresses of the connection.
///
/// # Errors
/// If it does not start.
pub fn nginx(lab: &Lab, netns: &Netns, name: &str, listen: &[SocketAddr]) -> Result<Process> {
    let mut process = spawn_nginx(lab, netns, name, listen)?;
    for address in listen {
        await_listener(&mut process, netns, "-tln", address.port())?;
    }
    Ok(process)
}

/// Starts an iperf3 server that serves one client after the other.
///
/// # Errors
/// If it does not start.
pub fn iperf3(lab: &Lab, netns: &Netns) -> Result<Process> {
    let log = lab.dir().join(format!("{}.iperf3.log", netns.name()));
    let mut command = Command::new("iperf3");
    command.args(["--server", "--port", &IPERF_PORT.to_string()]);
    let mut process = Process::start(lab.record(), netns, &mut command, &log)?;
    await_listener(&mut process, netns, "-tln", IPERF_PORT)?;
    Ok(process)
}

/// Where a Pod's server listens: all its addresses.
#[must_use]
pub fn listen(pod: &Pod, port: u16) -> Vec<SocketAddr> {
    pod.addresses()
        .map(|address| SocketAddr::new(address, port))
        .collect()
}

fn spawn_nginx(lab: &Lab, netns: &Netns, name: &str, listen: &[SocketAddr]) -> Result<Process> {
    let dir = server_dir(lab, name, "nginx")?;
    let listen: Vec<_> = listen
        .iter()
        .map(|address| format!("listen {address};"))
        .collect();
    let temporary: Vec<_> = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {};", dir.join(kind).display()))
        .collect();
    let conf = format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {pid};\nerror_log stderr;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  default_type text/plain;\n  {temporary}\n  server {{\n    {listen}\n    \
         location / {{ return 200 \"name={name} server=$server_addr server_port=$server_port \
         client=$remote_addr client_port=$remote_port\\n\"; }}\n  }}\n}}\n",
        pid = dir.join("pid").display(),
        temporary = temporary.join("\n  "),
        listen = listen.join("\n    "),
    );
    let path = dir.join("nginx.conf");
    fs::write(&path, conf).with_context(|| format!("write {}", path.display()))?;
    let mut command = Command::new("nginx");
    command
        .arg("-p")
        .arg(&dir)
        .arg("-c")
        .arg(&path)
        .args(["-e", "stderr"]);
    Process::start(lab.record(), netns, &mut command, &dir.join("log"))
}

fn spawn_dnsmasq(lab: &Lab, pod: &Pod) -> Result<Dns> {
    let name = &pod.spec.name;
    let dir = server_dir(lab, name, "dnsmasq")?;
    let mut command = Command::new("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
    ]);
    command.args([
        "--user=root",
        "--bind-interfaces",
        "--log-facility=-",
        "--log-queries=extra",
    ]);
    command.arg(format!("--pid-file={}", dir.join("pid").display()));
    command.arg(format!("--port={DNS_PORT}"));
    command.args((0..DNS_NAMES).map(|n| format!("--txt-record=pod{n}.test,{name}")));
    for address in pod.addresses() {
        command.arg(format!("--listen-address={address}"));
    }
    let process = Process::start(lab.record(), &pod.netns, &mut command, &dir.join("log"))?;
    Ok(Dns {
        process,
        name: name.clone(),
    })
}

impl Dns {
    /// Address and port of whoever asked last for this name, as the server saw it.
    #[must_use]
    pub fn last_client(&self, asked: &str) -> Option<SocketAddr> {
        let log = self.process.log();
        // With extra logging a line reads: `dnsmasq: 7 203.0.113.10/40312 query[TXT] pod3.test from 203.0.113.10`.
        let query = format!(" query[TXT] {asked} ");
        let line = log.lines().rev().find(|line| line.contains(&query))?;
        let (address, port) = line.split(' ').find_map(|word| word.split_once('/'))?;
        Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
    }
}

fn server_dir(lab: &Lab, name: &str, server: &str) -> Result<PathBuf> {
    let dir = lab.dir().join("servers").join(name).join(server);
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}

fn await_listener(process: &mut Process, netns: &Netns, kind: &str, port: u16) -> Result<()> {
    let table = Path::new("/proc/thread-self/net").join(if kind == "-tln" { "tcp" } else { "udp" });
    let wanted = format!(":{port:04X} ");
    // State 0A is listening (TCP), 07 is open (UDP).
    let state = if kind == "-tln" { " 0A " } else { " 07 " };
    process.wait_until(START, || {
        let listens = |path: &Path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.lines().any(|line| {
                let local = line.split_whitespace().nth(1).unwrap_or_default();
                format!("{local} ").ends_with(&wanted) && line.contains(state)
            })
        };
        let v6 = PathBuf::from(format!("{}6", table.display()));
        netns
            .run(|| listens(&table) || listens(&v6))
            .unwrap_or(false)
    })
}
