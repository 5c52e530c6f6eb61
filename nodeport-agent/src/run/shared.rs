//! What the parts of the agent tell each other for `status`.
//!
//! Owns the collected picture. Refuses to act on it. Invariant: `healthy` means that everything that is wanted is in effect.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use imbl::OrdMap;
use nodeport_common::Hook;
use tokio::sync::watch;

use crate::config::{Ignored, Settings};
use crate::datapath::devices::{DeviceState, Observed};
use crate::datapath::{Config, SocketState, XdpPolicy};
use crate::flows::{SnatPorts, Walked};
use crate::maps::{KernelStore, Store as _};
use crate::model::Reports;
use crate::model::desired::ServicePortName;
use crate::observe::contents::Names;
use crate::observe::service_health::ServiceHealth;
use crate::observe::{Status, SyncStatus, counters};
use crate::source::{self, Trouble, kubernetes::Progress};

/// What the server of `--healthz-bind-address` is called.
pub(super) const HEALTH_SERVER: &str = "the health server";

/// The collected picture.
#[derive(Debug)]
pub(super) struct Shared {
    node: String,
    pin_dir: String,
    /// The maps, once they are open.
    store: OnceLock<KernelStore>,
    started: u64,
    /// Conditions of the machine that were found at the start.
    warnings: Vec<String>,
    /// Settings that are asked for and have no effect.
    not_honoured: Vec<Ignored>,
    /// XDP that cannot be had is a problem only for who asked for it.
    xdp_required: bool,
    observed: watch::Receiver<Observed>,
    synced: Mutex<Synced>,
    flows: Mutex<BTreeMap<String, u64>>,
    snat: Mutex<BTreeMap<String, SnatPorts>>,
    /// Servers that cannot listen, and why.
    deaf: Mutex<BTreeMap<&'static str, String>>,
    service_health: OnceLock<Arc<ServiceHealth>>,
    sockets: OnceLock<SocketState>,
    /// Of kube-proxy, if it or its rules are on this node.
    beside: Mutex<Vec<String>>,
    /// Whether the ports of our servers are lent to kube-proxy.
    lent: watch::Sender<bool>,
    /// Of the source, once there is one.
    source: OnceLock<Progress>,
}

/// What the last update of the maps left.
#[derive(Clone, Debug, Default)]
pub(super) struct Synced {
    /// Whether the maps were completely written at least once.
    pub(super) ready: bool,
    pub(super) sync: Option<SyncStatus>,
    pub(super) rejected: Reports,
    pub(super) counts: BTreeMap<String, u64>,
    /// Entries of the maps that the plan fills.
    pub(super) entries: BTreeMap<String, u64>,
    /// Service ports by number.
    pub(super) names: OrdMap<u32, Arc<ServicePortName>>,
    /// What listened on NodePorts when they were first written.
    pub(super) listeners: Vec<String>,
}

impl Shared {
    pub(super) fn new(
        node: &str,
        config: &Config,
        warnings: Vec<String>,
        observed: watch::Receiver<Observed>,
    ) -> Self {
        Self {
            node: node.to_owned(),
            pin_dir: config.pin_dir.display().to_string(),
            store: OnceLock::new(),
            started: seconds(SystemTime::now()),
            warnings,
            not_honoured: Vec::new(),
            xdp_required: config.xdp == XdpPolicy::Native,
            observed,
            synced: Mutex::default(),
            flows: Mutex::default(),
            snat: Mutex::default(),
            deaf: Mutex::default(),
            service_health: OnceLock::new(),
            sockets: OnceLock::new(),
            beside: Mutex::default(),
            lent: watch::Sender::new(false),
            source: OnceLock::new(),
        }
    }

    /// With what is wrong with the settings, for `status`.
    pub(super) fn with_settings(mut self, settings: &Settings) -> Self {
        self.not_honoured.clone_from(&settings.ignored);
        self.warnings.extend(settings.warnings.iter().cloned());
        self
    }

    /// A server listens, or cannot.
    pub(super) fn listens(&self, what: &'static str, problem: Option<String>) {
        let mut deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => deaf.insert(what, problem),
            None => deaf.remove(what),
        };
    }

    /// What is wrong with parts of this agent, for whoever looks after Services and Node (behaviours 15.9, 16.6).
    pub(super) fn troubles(&self) -> Vec<Trouble> {
        let deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
        let servers = deaf.iter().map(|(what, note)| Trouble {
            service: None,
            reason: if *what == HEALTH_SERVER {
                "FailedToStartProxierHealthcheck"
            } else {
                "FailedToStartMetricServer"
            },
            action: "StartKubeProxy",
            note: note.clone(),
        });
        let checks = self.service_health.get().into_iter();
        servers
            .chain(checks.flat_map(|checks| checks.troubles()))
            .collect()
    }

    /// Health checks of Services have listeners from now on.
    pub(super) fn checks(&self, service_health: Arc<ServiceHealth>) {
        let _first: Result<(), _> = self.service_health.set(service_health);
    }

    /// Whether our servers are to leave their ports to kube-proxy.
    pub(super) fn lent(&self) -> watch::Receiver<bool> {
        self.lent.subscribe()
    }

    /// What is to be known of kube-proxy, and whether it gets the ports of our servers. News are logged.
    pub(super) fn beside(&self, notes: Vec<String>, lent: bool) {
        self.lent.send_replace(lent);
        let mut beside = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        for note in notes.iter().filter(|note| !beside.contains(note)) {
            tracing::warn!("{note}");
        }
        *beside = notes;
    }

    /// Whether everything is written, and every device was looked at.
    pub(super) fn is_ready(&self) -> bool {
        self.synced().ready && self.observed.borrow().complete
    }

    /// Objects come from a source that is doing so.
    pub(super) fn follows(&self, source: Progress) {
        let _first: Result<(), _> = self.source.set(source);
    }

    /// The maps are open.
    pub(super) fn opened(&self, store: KernelStore) {
        let _first: Result<(), _> = self.store.set(store);
    }

    /// Names of service ports by number.
    pub(super) fn names(&self) -> Names {
        let names = self.synced().names.clone();
        names
            .iter()
            .map(|(id, name)| (*id, format!("{name} {}", name.protocol)))
            .collect()
    }

    /// The programs of sockets are where they can be.
    pub(super) fn covers_sockets(&self, sockets: SocketState) {
        let _first: Result<(), _> = self.sockets.set(sockets);
    }

    /// The last update, to be changed.
    pub(super) fn synced(&self) -> MutexGuard<'_, Synced> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a walk over flows.
    pub(super) fn walked(&self, map: &'static str, walked: Walked) {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        let name = map.to_lowercase();
        self.snat().insert(name.clone(), walked.snat);
        flows.insert(format!("{name}_entries"), walked.seen);
        *flows.entry("flows_expired".to_owned()).or_default() += walked.expired;
        *flows.entry("flows_mended".to_owned()).or_default() += walked.mended;
        *flows.entry("flow_orphans_removed".to_owned()).or_default() += walked.orphans;
    }

    fn snat(&self) -> MutexGuard<'_, BTreeMap<String, SnatPorts>> {
        self.snat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Source ports towards one backend.
    fn snat_ports(&self) -> u64 {
        let control = self.store.get().and_then(|store| store.control().ok());
        let segments = control.map(|control| control.snat).unwrap_or_default();
        segments.iter().map(|one| u64::from(one.count)).sum()
    }

    fn capacities(&self) -> BTreeMap<String, u64> {
        let maps = self.store.get().into_iter();
        maps.flat_map(KernelStore::capacities)
            .map(|(name, entries)| (name.to_lowercase(), u64::from(entries)))
            .collect()
    }

    /// The status of the moment. Reads the counters.
    pub(super) fn status(&self) -> Status {
        let observed = self.observed.borrow().clone();
        let synced = self.synced().clone();
        let mut problems: Vec<String> = observed.error.iter().cloned().collect();
        problems.extend(
            observed
                .devices
                .iter()
                .flat_map(|device| device_problems(device, self.xdp_required)),
        );
        problems.extend(self.deaf());
        let health = self.service_health.get().into_iter();
        problems.extend(health.flat_map(|one| one.problems()));
        let sockets = self.sockets.get().cloned().unwrap_or_default();
        problems.extend(sockets.error.clone());
        problems.extend(synced.sync.iter().flat_map(|sync| sync.errors.clone()));
        let outcomes = self.outcomes(&mut problems);
        let source = self.source.get().map(Progress::status).unwrap_or_default();
        let ready = synced.ready && observed.complete;
        let mut counts = synced.counts;
        let flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        counts.extend(flows.clone());
        drop(flows);
        Status {
            running: true,
            ready,
            healthy: ready && problems.is_empty(),
            problems,
            warnings: [
                self.warnings.clone(),
                observed.warnings,
                source::warnings(&source),
                sockets.warning.iter().cloned().collect(),
                synced.listeners.clone(),
                self.notes(),
            ]
            .concat(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.clone(),
            pid: Some(std::process::id()),
            started: Some(self.started),
            pin_dir: self.pin_dir.clone(),
            devices: observed.devices,
            sockets,
            counts,
            sync: synced.sync,
            source,
            rejected: (synced.rejected.iter())
                .filter_map(|report| serde_json::to_value(report).ok())
                .collect(),
            capacities: self.capacities(),
            entries: synced.entries,
            snat_ports: self.snat_ports(),
            snat: self.snat().clone(),
            not_honoured: self.not_honoured.clone(),
            outcomes,
        }
    }

    /// What is to be known of kube-proxy.
    fn notes(&self) -> Vec<String> {
        let beside = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        beside.clone()
    }

    /// Servers that cannot listen, in words.
    fn deaf(&self) -> Vec<String> {
        let deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
        deaf.values().cloned().collect()
    }

    /// Packets by hook and outcome; what keeps them from being read goes to `problems`.
    fn outcomes(&self, problems: &mut Vec<String>) -> BTreeMap<String, BTreeMap<String, u64>> {
        match self.store.get().map(KernelStore::outcomes) {
            Some(Ok(outcomes)) => counters::named(&outcomes),
            Some(Err(error)) => {
                problems.push(crate::datapath::chain(&error));
                BTreeMap::new()
            }
            None => {
                problems.push("starting: the programs are being loaded".to_owned());
                BTreeMap::new()
            }
        }
    }
}

/// What keeps a device from being carried.
fn device_problems(device: &DeviceState, xdp_required: bool) -> Vec<String> {
    let hooks = [
        (Hook::Xdp, device.xdp.as_ref().filter(|_| xdp_required)),
        (Hook::TcIngress, Some(&device.tc_ingress)),
        (Hook::TcEgress, Some(&device.tc_egress)),
    ];
    hooks
        .into_iter()
        .filter_map(|(hook, state)| {
            let error = state?.error.as_ref()?;
            Some(format!("{} {}: {error}", device.name, hook.name()))
        })
        .collect()
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::Mode;
    use crate::datapath::devices::{HookState, Role};

    fn attached(mode: Mode) -> HookState {
        HookState {
            mode: Some(mode),
            since: Some(1),
            error: None,
        }
    }

    fn failed(error: &str) -> HookState {
        HookState {
            mode: None,
            since: None,
            error: Some(error.to_owned()),
        }
    }

    #[test]
    fn missing_xdp_is_a_problem_only_for_who_asked_for_it() {
        let mut device = DeviceState {
            index: 2,
            name: "eth0".to_owned(),
            role: Role::Uplink,
            xdp: Some(failed("another program")),
            tc_ingress: attached(Mode::Tcx),
            tc_egress: attached(Mode::Tcx),
        };
        assert!(device_problems(&device, false).is_empty());
        assert_eq!(
            device_problems(&device, true),
            ["eth0 xdp: another program"]
        );
        device.tc_egress = failed("no room");
        assert_eq!(device_problems(&device, false), ["eth0 tc_egress: no room"]);
    }
}
