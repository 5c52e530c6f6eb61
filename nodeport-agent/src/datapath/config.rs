//! What the operator wants of the datapath.
//!
//! Owns the choices that flags make. Refuses to know how they are carried out.

use std::path::PathBuf;

use super::kernel::{TCX, Version};
use super::ports::PortRange;

/// Which mode XDP programs are attached in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpPolicy {
    /// Native where the driver has it, generic elsewhere.
    Auto,
    /// Native or not at all.
    Native,
    /// Generic.
    Generic,
    /// TC only.
    Off,
}

/// Level of the log lines of the programs in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DatapathLog {
    /// None; costs nothing.
    Off,
    /// Errors.
    Error,
    /// And warnings.
    Warn,
    /// And information.
    Info,
    /// And details.
    Debug,
    /// And every packet.
    Trace,
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcApi {
    /// TCX links (kernel 6.6).
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl TcApi {
    /// What the running kernel offers. An unknown version is taken for a new one.
    #[must_use]
    pub fn of_this_kernel() -> Self {
        match Version::running() {
            Some(version) if version < TCX => Self::Clsact,
            _ => Self::Tcx,
        }
    }
}

/// Sizes of tables, for each address family. Tables that exist keep their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Sizes {
    /// Most entries of the table of established flows (a flow is two entries)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub flows_max: Option<u32>,
    /// Most entries of the table of pending flows (a flow is two entries)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub pending_max: Option<u32>,
    /// Most sockets whose destinations were translated (a socket is up to two entries); the oldest make room
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub sockets_max: Option<u32>,
    /// Most slots of all backend sets together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub backends_max: Option<u32>,
    /// Most front ends
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub frontends_max: Option<u32>,
}

/// Whose sockets are translated.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum SocketScope {
    /// Those of all processes of the cgroup.
    All,
    /// Those in the node's own network namespace: of its processes, and of Pods in the host network.
    Host,
    /// None.
    #[default]
    Off,
}

/// Sockets that are translated before there is a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct SocketArgs {
    /// Whose sockets are aimed at endpoints as they connect and send: all (of Pods and of the node), host (of the node), off
    #[arg(long, default_value = "all", value_name = "WHOSE")]
    pub socket_lb: SocketScope,
    /// The cgroup whose processes that is about; by default where cgroup v2 is mounted
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// NodePorts answer on loopback addresses, too, to processes of the node
    #[arg(long)]
    pub localhost_nodeports: bool,
    /// Refuse processes of the node to bind ports that are live NodePorts, and log who tried
    #[arg(long)]
    pub hold_node_ports: bool,
}

/// What the operator wants of the datapath.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory on a BPF file system.
    pub pin_dir: PathBuf,
    /// Mode of the XDP programs.
    pub xdp: XdpPolicy,
    /// How TC programs are attached; by the kernel's version if not given.
    pub tc: Option<TcApi>,
    /// Sizes of tables.
    pub sizes: Sizes,
    /// Range of port numbers of NodePorts.
    pub node_ports: PortRange,
    /// Whether packets for Pods of this node pass the host's stack by.
    pub redirect_local: bool,
    /// Sockets.
    pub sockets: SocketArgs,
    /// Log lines of the programs.
    pub log: DatapathLog,
}
