//! The command line: what each verb takes, and where it goes.
//!
//! Owns flag names, defaults and exit codes. It refuses to know maps, programs and objects: each verb's module calls those.
//! Invariant: nothing is touched before the whole command line was found valid.

mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use values::{GoDuration, LogLevel, PortRange};

use crate::datapath::{DatapathLog, Sizes, XdpPolicy};

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
    /// Name of this node, as Node objects and endpoints' nodeName have it
    #[arg(
        long,
        alias = "hostname-override",
        env = "NODE_NAME",
        value_name = "NAME"
    )]
    pub node_name: String,
    /// Files and directories of objects (YAML or JSON): Service, EndpointSlice, Node, List
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    pub manifests: Vec<PathBuf>,
    /// Node addresses on which NodePorts answer: `primary`, or CIDRs; all of them if not given
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub nodeport_addresses: Vec<String>,
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
    /// Shortest time between two updates of the maps
    #[arg(
        long,
        alias = "iptables-min-sync-period",
        default_value = "0s",
        value_name = "DURATION"
    )]
    pub min_sync_period: GoDuration,
    /// Sizes.
    #[command(flatten)]
    pub sizes: Sizes,
    /// Level of the log lines of the programs in the kernel: error, warn, info, debug or trace
    #[arg(long, default_value = "off", value_name = "LEVEL")]
    pub datapath_log: DatapathLog,
}

/// `plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// Objects.
    #[command(flatten)]
    pub objects: ObjectArgs,
    /// Plan against the state in this file (made by `dump state -o json`), not against empty maps
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

/// What to dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DumpWhat {
    /// Front ends and how many backends each has.
    Frontends,
    /// Front ends with each of their backends.
    Backends,
    /// Flows, established and pending.
    Flows,
    /// Counters of packets by outcome and hook.
    Outcomes,
}

/// `dump`.
#[derive(Clone, Debug, Args)]
pub struct DumpArgs {
    /// What to print
    pub what: DumpWhat,
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
}
