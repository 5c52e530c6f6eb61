//! The command line: what each verb takes, and where it goes.
//!
//! Owns flag names, defaults and exit codes. It refuses to know maps, programs and objects: each verb's module calls those.
//! Invariant: nothing is touched before the whole command line was found valid.

mod allocator;
mod clean;
mod dump;
mod line;
mod plan;
mod run;
mod status;
mod takeover;
mod values;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use dump::{DumpArgs, DumpWhat};
pub use takeover::TakeoverArgs;
pub use values::{GoDuration, LogLevel};

use crate::config::{ConfigFile, KubeProxyFlags};
use crate::datapath::{DatapathLog, PortRange, Sizes, SocketArgs, XdpPolicy, chain};
use crate::model::snapshot::node_name;
use crate::observe::logging;
use crate::source::Choice;
use crate::source::kubernetes::{Access, AccessError};

/// Reads the command line and does what it says. Errors go to standard error, with exit status 1; those of the command line itself
/// have exit status 2.
#[must_use]
pub fn main() -> ExitCode {
    allocator::keep_little();
    let result = line::read(std::env::args_os().collect())
        .map_err(anyhow::Error::from)
        .and_then(|(cli, file)| execute(cli, file.as_ref()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `eprintln!` panics if nobody reads it.
            let _written = writeln!(io::stderr(), "error: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli, file: Option<&ConfigFile>) -> anyhow::Result<()> {
    // What a file says of logging counts for `run`, which starts it itself.
    if !matches!(cli.verb, Verb::Run(_)) {
        logging::init(cli.log.level.0, cli.log.format == LogFormat::Json);
    }
    match cli.verb {
        Verb::Run(args) => run::run(*args, &cli.log, file),
        Verb::Plan(args) => plan::plan(&args),
        Verb::Status(args) => status::status(&args),
        Verb::Dump(args) => dump::dump(&args),
        Verb::Clean(args) => clean::clean(&args),
        Verb::Takeover(args) => takeover::takeover(&args),
    }
}

/// Prints a document as JSON.
fn print_json(document: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(document).context("cannot write JSON")?;
    print(&text)
}

/// Prints text. A reader that went away (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "nodeport-agent", version, about = "Kubernetes Services by eBPF: the agent of one node", long_about = None)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Program this node and keep it in step with the objects
    Run(Box<RunArgs>),
    /// Print the steps that would bring the maps in step with the objects; needs no privileges
    Plan(PlanArgs),
    /// Show health, devices, counts, rejected objects and outcomes
    Status(StatusArgs),
    /// Print what is in the maps
    Dump(DumpArgs),
    /// Detach and remove everything: programs, links, maps. Live connections through this node end
    Clean(CleanArgs),
    /// Remove kube-proxy's rules from this node, whose connections an agent carries; kube-proxy must be gone
    Takeover(TakeoverArgs),
}

/// How to log. Log lines go to standard error.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// error, warn, info, debug, trace, or a klog verbosity (0-2 info, 3-4 debug, 5 and more trace)
    #[arg(
        short = 'v',
        long = "log-level",
        alias = "v",
        global = true,
        default_value = "info",
        env = "NODEPORT_LOG_LEVEL",
        value_name = "LEVEL"
    )]
    pub level: LogLevel,
    /// Form of log lines
    #[arg(
        long = "log-format",
        alias = "logging-format",
        global = true,
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub format: LogFormat,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Form of what a verb prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// One JSON document.
    Json,
}

/// Where the objects come from and which of them concern this node.
#[derive(Clone, Debug, Args)]
pub struct ObjectArgs {
    /// Name of this node, as Node objects and endpoints' nodeName have it; by default the host's name
    #[arg(
        long,
        alias = "hostname-override",
        env = "NODE_NAME",
        value_name = "NAME"
    )]
    pub node_name: Option<String>,
    /// File that says where the API server is and who we are; without it and `--manifests` a Pod's service account is used
    #[arg(long, conflicts_with = "manifests", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// API servers (https://ADDRESS:PORT), tried in turn, in the place of the one that the kubeconfig or the environment names
    #[arg(
        long,
        conflicts_with = "manifests",
        value_delimiter = ',',
        value_name = "URLS"
    )]
    pub master: Vec<String>,
    /// Files and directories of objects (YAML or JSON) in the place of an API server: Service, EndpointSlice, Node, List
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub manifests: Vec<PathBuf>,
    /// Node addresses on which NodePorts answer: `primary`, or CIDRs; all of them if not given
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub nodeport_addresses: Vec<String>,
}

impl ObjectArgs {
    /// This node's name; `None` if it has none (behaviours 20.1).
    #[must_use]
    pub fn node_name(&self) -> Option<String> {
        match &self.node_name {
            Some(given) => node_name(given),
            None => node_name(&rustix::system::uname().nodename().to_string_lossy()),
        }
    }

    /// Where objects come from.
    ///
    /// # Errors
    /// A flag that makes no sense.
    pub fn source(&self) -> Result<Choice, AccessError> {
        if self.manifests.is_empty() {
            let access = Access::new(self.kubeconfig.as_deref(), &self.master)?;
            return Ok(Choice::Kubernetes(access));
        }
        Ok(Choice::Manifests(self.manifests.clone()))
    }
}

/// Where this agent keeps its state.
#[derive(Clone, Debug, Args)]
pub struct PlaceArgs {
    /// Directory on a BPF file system for maps and links
    #[arg(long, default_value = "/sys/fs/bpf/nodeport", value_name = "DIR")]
    pub pin_dir: PathBuf,
    /// Directory for the socket that `status` asks
    #[arg(long, default_value = "/run/nodeport", value_name = "DIR")]
    pub run_dir: PathBuf,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// kube-proxy's flags; first, because what is read after it takes values away.
    #[command(flatten)]
    pub kube_proxy: KubeProxyFlags,
    /// Objects.
    #[command(flatten)]
    pub objects: ObjectArgs,
    /// Places.
    #[command(flatten)]
    pub places: PlaceArgs,
    /// Mode of the XDP programs on uplinks
    #[arg(long, default_value = "auto", value_name = "MODE")]
    pub xdp: XdpPolicy,
    /// Uplinks; by default the devices that carry node addresses or a default route
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub devices: Vec<String>,
    /// Range of port numbers that the API server gives to NodePorts
    #[arg(long, default_value = "30000-32767", value_name = "FIRST-LAST")]
    pub service_node_port_range: PortRange,
    /// Shortest time between two updates of the maps; none unless given (also in KubeProxyConfiguration)
    #[arg(long, value_name = "DURATION")]
    pub min_sync_period: Option<GoDuration>,
    /// Send packets for Pods of this node, and their replies, from device to device, past the host's stack and its firewall
    #[arg(long)]
    pub redirect_local: bool,
    /// Sockets.
    #[command(flatten)]
    pub sockets: SocketArgs,
    /// Sizes.
    #[command(flatten)]
    pub sizes: Sizes,
    /// What `/proxyMode` answers: some CNIs choose their own rules by it
    #[arg(long, default_value = "ebpf", value_name = "NAME")]
    pub proxy_mode_answer: String,
    /// Most endpoints with series of their own in `/metrics`; what exceeds them is one series, 0 is none
    #[arg(long, default_value = "10000", value_name = "N")]
    pub metrics_backends_max: usize,
    /// Host.
    #[command(flatten)]
    pub host: HostArgs,
    /// Level of the log lines of the programs in the kernel: error, warn, info, debug or trace
    #[arg(long, default_value = "off", value_name = "LEVEL")]
    pub datapath_log: DatapathLog,
}

/// What is changed of the host, beside the datapath, if asked.
#[derive(Clone, Copy, Debug, Args)]
pub struct HostArgs {
    /// Raise the limits of the kernel's conntrack to what KubeProxyConfiguration says, as kube-proxy does
    #[arg(long)]
    pub conntrack_sysctls: bool,
    /// Keep the NodePort range and our source ports from connections of the host (`net.ipv4.ip_local_reserved_ports`)
    #[arg(long)]
    pub reserve_ports: bool,
    /// Remove kube-proxy's rules once it is gone and everything is written
    #[arg(long)]
    pub takeover: bool,
}

/// `plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// Objects.
    #[command(flatten)]
    pub objects: ObjectArgs,
    /// Plan against the state in this file (made by `dump state`), not against empty maps
    #[arg(long, value_name = "FILE", conflicts_with = "pin_dir")]
    pub against: Option<PathBuf>,
    /// Plan against the maps pinned in this directory (needs privileges)
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// Form of the output
    #[arg(short, long, default_value = "table", value_name = "FORM")]
    pub output: Output,
}

/// `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Places.
    #[command(flatten)]
    pub places: PlaceArgs,
    /// Form of the output
    #[arg(short, long, default_value = "table", value_name = "FORM")]
    pub output: Output,
}

/// `clean`.
#[derive(Clone, Debug, Args)]
pub struct CleanArgs {
    /// Places.
    #[command(flatten)]
    pub places: PlaceArgs,
    /// Stay until a signal comes, as the container of a DaemonSet has to
    #[arg(long)]
    pub stay: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::SocketScope;
    use clap::CommandFactory as _;

    fn run(line: &str) -> RunArgs {
        match Cli::try_parse_from(line.split(' ')).expect("valid").verb {
            Verb::Run(args) => *args,
            other => panic!("not run: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_has_the_defaults_that_the_help_says() {
        let args = run("agent run --node-name n1 --manifests a.yaml b");
        assert_eq!(
            args.objects.manifests,
            [PathBuf::from("a.yaml"), PathBuf::from("b")]
        );
        assert_eq!(args.places.pin_dir, PathBuf::from("/sys/fs/bpf/nodeport"));
        assert_eq!(args.places.run_dir, PathBuf::from("/run/nodeport"));
        assert_eq!(args.xdp, XdpPolicy::Auto);
        assert_eq!(args.min_sync_period, None);
        let range = "30000-32767".parse().expect("a range");
        assert_eq!(args.service_node_port_range, range);
        assert!(!args.redirect_local);
        assert_eq!(args.sizes, Sizes::default());
        assert_eq!(args.sockets.socket_lb, SocketScope::All);
        assert_eq!(args.sockets.cgroup_root, None);
        assert_eq!(args.datapath_log, DatapathLog::Off);
    }

    #[test]
    fn flags_are_spelled_as_kube_proxy_spells_them() {
        let args = run(
            "agent run --hostname-override=n1 --manifests a --nodeport-addresses=primary,10.0.0.0/8 --v=4 \
             --iptables-min-sync-period=1s --devices eth0,eth1",
        );
        assert_eq!(args.objects.node_name.as_deref(), Some("n1"));
        assert_eq!(args.objects.nodeport_addresses, ["primary", "10.0.0.0/8"]);
        assert_eq!(args.devices, ["eth0", "eth1"]);
        let given: Vec<&str> = args.kube_proxy.0.keys().copied().collect();
        let wanted = [
            "hostname-override",
            "iptables-min-sync-period",
            "nodeport-addresses",
            "v",
        ];
        assert_eq!(given, wanted);
    }

    #[test]
    fn what_is_missing_or_senseless_is_refused() {
        for line in [
            "agent",
            "agent run --node-name n1 --manifests a --kubeconfig k",
            "agent run --node-name n1 --manifests a --master m",
            "agent run --node-name n1 --manifests",
            "agent run --node-name n1 --manifests a --flows-max 0",
            "agent run --node-name n1 --manifests a --xdp fast",
            "agent run --node-name n1 --manifests a --socket-lb some",
            "agent run --node-name n1 --manifests a --service-node-port-range 9-8",
            "agent dump everything",
            "agent plan --node-name n1 --manifests a --against f --pin-dir d",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
