//! `run`: brings the parts of the agent together and keeps them going.
//!
//! Owns the order of start and end. Refuses to know packets, objects and map layouts. Invariants: whatever fails before the
//! programs are loaded leaves the machine as it was; ending touches nothing in the kernel.

mod shared;
mod surface;
mod sync;
mod totals;
mod waiting;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::RunArgs;
use crate::config::{ConfigFile, Settings, until_changed};
use crate::datapath::devices::{Cover, Criteria, DeviceTable, Follower, Observed, UsedHops};
use crate::datapath::{
    Attacher, Config, ControlMap, DatapathError, Loaded, Lock, Pins, Refusals, SocketScope,
    SocketState, TcApi, cover_sockets, load, preflight, snat_ranges,
};
use crate::flows::{Expiry, Lifetimes, Tally};
use crate::host::{self, Asked, Proc};
use crate::maps::{KernelStore, StoreError};
use crate::model::node_port_addresses::InvalidNodePortAddresses;
use crate::model::{Compiler, NodePortAddresses, snapshot};
use crate::object::OBJECT;
use crate::observe::metrics::MetricsError;
use crate::observe::server::{self, Question, SocketError};
use crate::reconcile::{Monotonic, Reconciler};
use crate::sockets::StaleSockets;
use crate::source::{Source, SourceError};
use crate::takeover::{Takeover, TakeoverError};
use shared::Shared;
use sync::Sync;
use totals::Totals;

/// Why the agent cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The datapath.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The status socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The maps.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The objects.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A flag.
    #[error(transparent)]
    NodePortAddresses(#[from] InvalidNodePortAddresses),
    /// A server whose address cannot be had, and `bindAddressHardFail`.
    #[error("cannot listen on {address} for {what}")]
    Bind {
        /// What it is for.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The metrics.
    #[error("cannot make the metrics")]
    Metrics(#[from] MetricsError),
    /// kube-proxy's part.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// A flag.
    #[error("the node has no name: give --node-name")]
    NodeName,
    /// The asynchronous runtime or its signals.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The file of `--config` says something else now.
    #[error("{0} changed: ending, to be started anew with what it says now")]
    ConfigChanged(String),
    /// A task ended although none does by itself.
    #[error("a part of the agent ended: {0}")]
    PartEnded(String),
}

/// Runs the agent until SIGTERM or SIGINT, or until the file that it was configured by changes.
///
/// # Errors
/// [`RunError`] if it cannot start, or if a part of it broke.
pub fn run(args: &RunArgs, settings: &Settings, file: Option<&ConfigFile>) -> Result<(), RunError> {
    let options = snapshot::Options {
        node_port_addresses: NodePortAddresses::parse(&args.objects.nodeport_addresses)?,
        node_address: settings.node_address(),
    };
    if let Some(family) = options.node_port_addresses.open_by_omission() {
        tracing::warn!(
            "--nodeport-addresses names no {family} address: {family} NodePorts answer on all addresses"
        );
    }
    let node_name = args.objects.node_name().ok_or(RunError::NodeName)?;
    let config = Config {
        pin_dir: args.places.pin_dir.clone(),
        xdp: args.xdp,
        tc: None,
        sizes: args.sizes,
        redirect_local: args.redirect_local,
        sockets: args.sockets.clone(),
        node_ports: args.service_node_port_range,
        log: args.datapath_log,
    };
    preflight::check(&config, OBJECT)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = Agent::run(args, &config, settings, options, node_name) => result,
            path = changed(file) => Err(RunError::ConfigChanged(path)),
        }
    });
    // A walk over flows may be stopped anywhere, and a file system that does not answer is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// What of the host's settings is to be written.
#[must_use]
pub fn asked(args: &RunArgs) -> Asked {
    let node_ports = args.service_node_port_range;
    let ours = snat_ranges(node_ports);
    let reserve = [node_ports].into_iter().chain(ours);
    Asked {
        conntrack: args.host.conntrack_sysctls,
        reserve: reserve.filter(|_| args.host.reserve_ports).collect(),
    }
}

/// Waits until the file changes, and returns its path. Without a file it waits for ever.
async fn changed(file: Option<&ConfigFile>) -> String {
    match file {
        Some(file) => until_changed(file).await,
        None => std::future::pending().await,
    }
    file.map_or_else(String::new, |file| file.path.display().to_string())
}

/// Everything that lives as long as the agent.
struct Agent {
    _lock: Lock,
    ends: Ends,
    tasks: JoinSet<&'static str>,
}

/// What is loaded and pinned.
struct Kernel {
    pins: Pins,
    loaded: Arc<Mutex<Loaded>>,
    control: Arc<ControlMap>,
    store: KernelStore,
    hops: Arc<UsedHops>,
    sockets: SocketState,
}

impl Agent {
    async fn run(
        args: &RunArgs,
        config: &Config,
        settings: &Settings,
        options: snapshot::Options,
        node_name: String,
    ) -> Result<(), RunError> {
        let mut agent = Self {
            ends: Ends::new().map_err(RunError::Runtime)?,
            _lock: Lock::take(&config.pin_dir)?,
            tasks: JoinSet::new(),
        };
        let listener = server::listen(&args.places.run_dir)?;
        let mut warnings = host::prepare(&Proc::default(), settings, &asked(args));
        warnings.extend(host::set_oom_score(&Proc::default(), settings));
        warnings.extend(preflight::warnings(config.node_ports));
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let (seen, observed) = watch::channel(Observed::default());
        let shared =
            Shared::new(&node_name, config, warnings, observed.clone()).with_settings(settings);
        let shared = Arc::new(shared);
        // Who asks while the programs are loaded, which takes its time on a busy machine, gets an answer.
        agent.serve(listener, &shared);
        let surface = agent.show(args, settings, &shared)?;
        // Objects are read while the kernel verifies programs.
        let choice = args.objects.source().map_err(SourceError::from)?;
        let source = Source::follow(choice, &node_name).await?;
        shared.follows(source.progress());
        agent.complain(source.voice(), &shared);
        let kernel = agent.load(config).await?;
        shared.opened(kernel.store.clone());
        shared.covers_sockets(kernel.sockets.clone());
        agent.follow_kube_proxy(args, &kernel, &shared)?;
        let criteria = agent.follow_devices(args, config, &kernel, seen)?;
        agent.expire_flows(&kernel, settings.lifetimes(), surface.tally(), &shared)?;
        if args.sockets.socket_lb != SocketScope::Off {
            let stale = StaleSockets::new(kernel.store.clone(), Arc::clone(&kernel.control));
            agent.spawn("stale sockets", stale.run());
        }
        let sync = Sync {
            source,
            observed,
            criteria,
            control: kernel.control,
            reconciler: Reconciler::adopt(kernel.store, Monotonic::default())?,
            shared,
            surface,
            compiler: Compiler::default(),
            totals: Totals::default(),
            node_name,
            options,
            holds_node_ports: args.sockets.hold_node_ports,
            min_period: args.min_sync_period.map_or(Duration::ZERO, |given| given.0),
        };
        agent.spawn("sync", sync.run());
        tracing::info!(pin_dir = %config.pin_dir.display(), "started");
        agent.wait().await
    }

    /// Loads the programs and opens their maps.
    async fn load(&mut self, config: &Config) -> Result<Kernel, RunError> {
        let pins = Pins::new(&config.pin_dir);
        let (to, what) = (pins.clone(), config.clone());
        let loading = tokio::task::spawn_blocking(move || load(OBJECT, &to, &what));
        let mut loaded = loading
            .await
            .map_err(|error| RunError::PartEnded(error.to_string()))??;
        if let Some(lines) = loaded.log_lines(config.log)? {
            self.spawn("log lines", lines.forward());
        }
        if config.sockets.hold_node_ports {
            self.spawn("refusals", Refusals::open(&pins)?.tell());
        }
        let control = ControlMap::open(&pins, config)?;
        let control = Arc::new(control);
        let sockets = cover_sockets(&mut loaded, &pins, &config.sockets);
        for problem in sockets.error.iter().chain(&sockets.warning) {
            tracing::warn!("{problem}");
        }
        let raised = Arc::clone(&control);
        let store =
            KernelStore::open(&pins.maps())?.raising(move || raised.raise_endpoints().map(drop));
        Ok(Kernel {
            pins,
            loaded: Arc::new(Mutex::new(loaded)),
            control,
            store,
            hops: Arc::default(),
            sockets,
        })
    }

    /// Starts to follow the devices.
    fn follow_devices(
        &mut self,
        args: &RunArgs,
        config: &Config,
        kernel: &Kernel,
        seen: watch::Sender<Observed>,
    ) -> Result<watch::Sender<Criteria>, RunError> {
        let tc = config.tc.unwrap_or_else(TcApi::of_this_kernel);
        let cover = Cover::new(
            Arc::clone(&kernel.loaded),
            Attacher::new(kernel.pins.clone(), tc),
            DeviceTable::open(&kernel.pins)?,
            config.xdp,
            tc,
        );
        let (criteria, criteria_seen) = watch::channel(Criteria {
            devices: args.devices.clone(),
            ..Criteria::default()
        });
        let control = Arc::clone(&kernel.control);
        let hops = Arc::clone(&kernel.hops);
        let follower = Follower::new(cover, control, hops, criteria_seen, seen);
        self.spawn("devices", follower.run());
        Ok(criteria)
    }

    /// Before devices are followed: whom new connections belong to is settled before the first program is attached.
    fn follow_kube_proxy(
        &mut self,
        args: &RunArgs,
        kernel: &Kernel,
        shared: &Arc<Shared>,
    ) -> Result<(), RunError> {
        let control = Arc::clone(&kernel.control);
        let takeover = Takeover::begin(&kernel.store, control, args.host.takeover)?;
        let (asked, told) = (Arc::clone(shared), Arc::clone(shared));
        let ready = move || asked.is_ready();
        let tell = move |notes, lent| told.beside(notes, lent);
        self.spawn("takeover", takeover.run(ready, tell));
        Ok(())
    }

    fn expire_flows(
        &mut self,
        kernel: &Kernel,
        lifetimes: Lifetimes,
        tally: Arc<Mutex<Tally>>,
        shared: &Arc<Shared>,
    ) -> Result<(), RunError> {
        let shared = Arc::clone(shared);
        let tell = Box::new(move |map: &'static str, walked| shared.walked(map, walked));
        let loaded = Arc::clone(&kernel.loaded);
        let hz = kernel.control.get().hz;
        let hops = Arc::clone(&kernel.hops);
        let expiry = Expiry::new(kernel.store.clone(), loaded, hz, hops, tell)?
            .living(lifetimes)
            .tallying(tally);
        self.spawn("flows", expiry.run());
        Ok(())
    }

    fn serve(&mut self, listener: UnixListener, shared: &Arc<Shared>) {
        let shared = Arc::clone(shared);
        let answers = Arc::new(move |question| match question {
            Question::Status => serde_json::to_vec(&shared.status()),
            Question::Names => serde_json::to_vec(&shared.names()),
        });
        self.spawn("status", server::serve(listener, answers));
    }

    fn spawn(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            part.await;
            name
        });
    }

    /// Waits for the end. Programs, links and maps stay as they are: traffic goes on.
    async fn wait(mut self) -> Result<(), RunError> {
        let ended = tokio::select! {
            signal = self.ends.next() => {
                tracing::info!(signal, "ending; the datapath goes on");
                Ok(())
            }
            // None ends by itself. The next start finds everything pinned.
            part = self.tasks.join_next() => Err(RunError::PartEnded(match part {
                Some(Ok(name)) => name.to_owned(),
                Some(Err(error)) => error.to_string(),
                None => "all".to_owned(),
            })),
        };
        self.tasks.shutdown().await;
        ended
    }
}

/// The signals that end the agent, and one that must not.
/// Signals that end a program.
pub(crate) struct Ends {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Ends {
    /// Listens to them from here on.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one, and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.term.recv() => return "SIGTERM",
                _ = self.int.recv() => return "SIGINT",
                _ = self.hup.recv() => tracing::info!("SIGHUP: nothing to do, files are followed anyway"),
            }
        }
    }
}
