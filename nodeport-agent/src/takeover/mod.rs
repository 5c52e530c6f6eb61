//! Beside kube-proxy, after it, and before it again: who carries which connection.
//!
//! While kube-proxy runs, what has no flow of ours is left to it: it carries new connections, and ours go on. When it is gone, new ones are
//! ours, and its connections go on by the kernel's connection tracking: each gets an entry in the table of flows that says so. Then, if asked
//! for, its rules are removed. Owns these steps and when they are taken. Refuses to stop kube-proxy. Invariant: at every moment, and in whatever
//! order the two are started and stopped, each connection has exactly one that translates it.

mod conntrack;
mod kept;
mod legacy;
mod netfilter;
mod presence;
mod rules;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nodeport_common::control_flags;

use crate::datapath::{ControlMap, DatapathError, chain};
use crate::maps::{KernelStore, StoreError};
use kept::Kept;
use legacy::Legacy;
use netfilter::Netfilter;
use rules::Rules;

/// How often kube-proxy is looked for while it is there, and how often while it is not.
const BESIDE: Duration = Duration::from_secs(1);
const ALONE: Duration = Duration::from_secs(10);
/// How long kube-proxy may take to listen on the ports that our servers left to it (it tries every 5 seconds).
const PATIENCE: Duration = Duration::from_secs(30);
/// Time in which packets on their way through the kernel arrive, between two stages of the change.
const SETTLE: Duration = Duration::from_secs(1);

/// What is said of a node where kube-proxy ran in IPVS mode.
const IPVS: &str = "IPVS: kube-proxy's device kube-ipvs0 is here, and with it virtual services that this program does not remove; \
                    `kube-proxy --cleanup` does, as does a restart of the node";

/// How a warning begins that says that kube-proxy runs.
pub const RUNS: &str = "kube-proxy runs beside";

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// Netfilter, as nftables and conntrack are asked.
    #[error("netfilter: {operation}")]
    Netfilter {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The old iptables.
    #[error("cannot remove kube-proxy's rules of iptables-legacy")]
    Legacy(#[source] io::Error),
    /// The table of flows.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the programs are told.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}

fn netfilter_error(operation: &'static str) -> impl FnOnce(io::Error) -> TakeoverError {
    move |source| TakeoverError::Netfilter { operation, source }
}

/// What of kube-proxy's is on this node.
#[derive(Debug, Default)]
pub struct Leftovers {
    rules: Rules,
    legacy: Legacy,
    ipvs: bool,
}

impl Leftovers {
    /// Looks.
    ///
    /// # Errors
    /// [`TakeoverError::Netfilter`].
    pub fn read() -> Result<Self, TakeoverError> {
        Ok(Self {
            rules: rules::read(&mut open()?).map_err(netfilter_error("list tables and chains"))?,
            legacy: legacy::read(),
            ipvs: presence::ipvs(Path::new("/proc")),
        })
    }

    /// Whether there is nothing that could be removed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.legacy.is_empty()
    }

    /// In words, one line for each place.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let mut lines = self.rules.describe();
        lines.extend(self.legacy.describe());
        if self.legacy.unread {
            lines.push(
                "iptables-legacy: tables are in use that this program cannot read; on the node, `iptables-legacy-save | grep KUBE-` shows \
                 whether kube-proxy's rules are among them, and `kube-proxy --cleanup` removes them"
                    .to_owned(),
            );
        }
        lines.extend(self.ipvs.then(|| IPVS.to_owned()));
        lines
    }

    /// Whether there is, or may be, more than can be removed from here.
    fn is_more(&self) -> bool {
        self.legacy.unread || self.ipvs
    }

    /// Removes it. Connections that it began go on.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn remove(&self) -> Result<(), TakeoverError> {
        let mut netfilter = open()?;
        rules::remove(&mut netfilter, &self.rules).map_err(netfilter_error("remove rules"))?;
        legacy::remove(&self.legacy).map_err(TakeoverError::Legacy)
    }
}

/// Removes what kept translation going, if it is there: connections that kube-proxy's rules began go on only by rules of others.
///
/// # Errors
/// [`TakeoverError::Netfilter`].
pub fn remove_keepers() -> Result<(), TakeoverError> {
    let mut netfilter = open()?;
    let rules = rules::read(&mut netfilter).map_err(netfilter_error("list tables and chains"))?;
    rules::remove_keepers(&mut netfilter, &rules).map_err(netfilter_error("remove a table"))
}

/// The port on which kube-proxy (or who does as it does) listens.
#[must_use]
pub fn listener() -> Option<u16> {
    presence::listener(Path::new("/proc"))
}

fn open() -> Result<Netfilter, TakeoverError> {
    Netfilter::open().map_err(netfilter_error("open a socket"))
}

/// Who carries new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// kube-proxy. If nobody listens where it does, it counts as gone after this moment.
    Beside(Instant),
    /// We do. Whether rules of kube-proxy's are there all the same.
    Alone(bool),
}

/// Follows kube-proxy for as long as the agent lives.
pub struct Takeover {
    control: Arc<ControlMap>,
    kept: Kept,
    mode: Mode,
    /// `--takeover`.
    remove: bool,
}

impl Takeover {
    /// Looks for kube-proxy and tells the programs, before they are attached, whom new connections belong to.
    ///
    /// # Errors
    /// The maps. If netfilter cannot be asked, there is nobody to yield to.
    pub fn begin(
        store: &KernelStore,
        control: Arc<ControlMap>,
        remove: bool,
    ) -> Result<Self, TakeoverError> {
        let leftovers = Leftovers::read().unwrap_or_else(|error| {
            tracing::warn!(error = %chain(&error), "cannot look for kube-proxy");
            Leftovers::default()
        });
        let found = control.get();
        let runs = listener().is_some();
        // An agent before this one may have found that kube-proxy is gone: its rules, if they are still there, know nothing of what came since.
        let was_alone = found.route_generation > 1 && found.flags & control_flags::YIELDING == 0;
        let beside = runs && (!leftovers.is_empty() || leftovers.is_more())
            || !leftovers.is_empty() && !was_alone;
        control.set_yielding(if beside { control_flags::YIELD } else { 0 })?;
        if beside {
            tracing::info!("kube-proxy's rules are here: they carry new connections for now");
        }
        Ok(Self {
            control,
            kept: Kept::adopt(store)?,
            mode: if beside {
                Mode::Beside(Instant::now())
            } else {
                Mode::Alone(!leftovers.is_empty())
            },
            remove,
        })
    }

    /// Follows it. `ready` says whether everything is written and attached; `tell` hears what the operator should know, and whether our servers
    /// are to leave their ports to kube-proxy.
    pub async fn run(
        self,
        ready: impl Fn() -> bool + Send,
        tell: impl Fn(Vec<String>, bool) + Send,
    ) {
        let mut this = self;
        loop {
            let is_ready = ready();
            let step = tokio::task::spawn_blocking(move || {
                let result = this.step(is_ready);
                (this, result)
            });
            let Ok((back, result)) = step.await else {
                return;
            };
            this = back;
            let notes = result.unwrap_or_else(|error| {
                vec![format!(
                    "looking after kube-proxy's rules: {}",
                    chain(&error)
                )]
            });
            let beside = matches!(this.mode, Mode::Beside(_));
            tell(notes, beside);
            tokio::time::sleep(if beside { BESIDE } else { ALONE }).await;
        }
    }

    /// Looks once, and does what is due. Returns what the operator should know.
    fn step(&mut self, ready: bool) -> Result<Vec<String>, TakeoverError> {
        match self.mode {
            Mode::Beside(patience) => self.beside(patience, ready),
            Mode::Alone(had_rules) => self.alone(had_rules),
        }
    }

    fn beside(&mut self, patience: Instant, ready: bool) -> Result<Vec<String>, TakeoverError> {
        if let Some(port) = listener() {
            self.mode = Mode::Beside(Instant::now());
            return Ok(vec![format!(
                "{RUNS} this agent (another process listens on port {port}, and its rules are here): it carries new connections; \
                 remove it, and they are ours within seconds"
            )]);
        }
        if Instant::now() < patience {
            return Ok(vec![
                "kube-proxy writes rules on this node: they carry new connections".to_owned(),
            ]);
        }
        if !ready {
            return Ok(vec![
                "kube-proxy is gone; its rules carry new connections until every Service is written"
                    .to_owned(),
            ]);
        }
        self.succeed()?;
        if self.remove {
            let leftovers = Leftovers::read()?;
            leftovers.remove()?;
            tracing::info!(removed = ?leftovers.describe(), "removed kube-proxy's rules");
        }
        Ok(Vec::new())
    }

    fn alone(&mut self, had_rules: bool) -> Result<Vec<String>, TakeoverError> {
        let leftovers = Leftovers::read()?;
        let has_rules = !leftovers.is_empty();
        if has_rules && (!had_rules || listener().is_some()) {
            self.control.set_yielding(control_flags::YIELD)?;
            self.mode = Mode::Beside(Instant::now() + PATIENCE);
            tracing::info!("kube-proxy writes rules: it carries new connections from now on");
            return Ok(Vec::new());
        }
        self.mode = Mode::Alone(has_rules);
        self.look_after(&leftovers.rules)?;
        let note = format!(
            "kube-proxy is gone, but not its rules: {}; `nodeport-agent takeover` removes them, as does --takeover",
            leftovers.describe().join("; ")
        );
        let note = has_rules.then_some(note);
        // Tables of the old iptables are often somebody else's: of these only `takeover` tells.
        let ipvs = leftovers.ipvs.then(|| IPVS.to_owned());
        Ok(note.or(ipvs).into_iter().collect())
    }

    /// New connections are ours from here on, and kube-proxy's go on. First only connections that begin with a SYN, while those that it has are
    /// noted; then all.
    fn succeed(&mut self) -> Result<(), TakeoverError> {
        let mut netfilter = open()?;
        let mut note = |kept: &mut Kept| -> Result<usize, TakeoverError> {
            let found = conntrack::translated(&mut netfilter)
                .map_err(netfilter_error("list connections"))?;
            Ok(kept.add(&found)?)
        };
        self.control.set_yielding(control_flags::YIELD_BUT_SYN)?;
        sleep(SETTLE);
        let mut connections = note(&mut self.kept)?;
        self.control.set_yielding(0)?;
        connections += note(&mut self.kept)?;
        self.mode = Mode::Alone(!self.remove);
        tracing::info!(
            connections,
            "kube-proxy is gone: new connections are ours, its own go on"
        );
        Ok(())
    }

    /// Forgets kube-proxy's connections that are over, and at last what kept them going.
    fn look_after(&mut self, rules: &Rules) -> Result<(), TakeoverError> {
        if self.kept.is_empty() && rules.keepers.is_empty() {
            return Ok(());
        }
        let mut netfilter = open()?;
        let found =
            conntrack::translated(&mut netfilter).map_err(netfilter_error("list connections"))?;
        self.kept.retain(&found)?;
        if self.kept.is_empty() && !rules.keepers.is_empty() {
            rules::remove_keepers(&mut netfilter, rules)
                .map_err(netfilter_error("remove a table"))?;
            tracing::info!("the last connection of kube-proxy's is over");
        }
        Ok(())
    }
}
