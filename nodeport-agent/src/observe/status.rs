//! The document that `status` prints and the agent's socket serves.
//!
//! Owns its fields and their names. Invariant: fields are added, never renamed: scripts read it.

use std::collections::BTreeMap;

use crate::config::Ignored;
use crate::datapath::SocketState;
use crate::datapath::devices::DeviceState;
use crate::flows::SnatPorts;
use crate::source::kubernetes::SourceStatus;

/// What the agent says of itself.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Status {
    /// Whether an agent answered; if not, everything else is what its pins show.
    pub running: bool,
    /// Whether a first complete state is in the maps and every device was looked at.
    pub ready: bool,
    /// Whether everything that is wanted is in effect.
    pub healthy: bool,
    /// What is not as it should be, in words.
    pub problems: Vec<String>,
    /// What the operator should know although everything wanted is in effect.
    pub warnings: Vec<String>,
    /// Version of the agent.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// Process id.
    pub pid: Option<u32>,
    /// When the agent started, in seconds since 1970.
    pub started: Option<u64>,
    /// Directory of pins.
    pub pin_dir: String,
    /// Covered devices.
    pub devices: Vec<DeviceState>,
    /// Sockets that are translated.
    pub sockets: SocketState,
    /// How many of each thing there are.
    pub counts: BTreeMap<String, u64>,
    /// The last update of the maps.
    pub sync: Option<SyncStatus>,
    /// How the source of objects is doing.
    pub source: SourceStatus,
    /// Objects and fields that could not be used.
    pub rejected: Vec<serde_json::Value>,
    /// How many entries fit into each map, by its name in lower case.
    pub capacities: BTreeMap<String, u64>,
    /// How many entries each map has that the agent fills, likewise.
    pub entries: BTreeMap<String, u64>,
    /// Source ports that there are for translated flows towards one backend, from one address of this node.
    pub snat_ports: u64,
    /// Source ports that flows hold, by table.
    pub snat: BTreeMap<String, SnatPorts>,
    /// Settings that are asked for and have no effect.
    pub not_honoured: Vec<Ignored>,
    /// Packets by hook and outcome; outcomes that never happened are left out.
    pub outcomes: BTreeMap<String, BTreeMap<String, u64>>,
}

/// One update of the maps.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct SyncStatus {
    /// When it ended, in seconds since 1970.
    pub at: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// How many updates there were since the agent started.
    pub total: u64,
    /// Steps of the last one.
    pub steps: u64,
    /// How many of them left something to be tried again.
    pub retries: u64,
    /// What went wrong in the last one.
    pub errors: Vec<String>,
    /// From the receipt of the oldest change in it to the maps, in microseconds; `None` if nothing had come.
    pub latency_micros: Option<u64>,
}
