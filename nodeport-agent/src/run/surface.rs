//! Health, metrics and health checks of Services: what the loop tells them, and the servers that show it.
//!
//! Owns the way from an update to what others may ask. Refuses to know the forms of answers. Invariant: a server that cannot listen
//! stops nothing, unless the operator wants it so.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;
use nodeport_common::protocol;
use tokio::sync::watch;

use super::shared::{HEALTH_SERVER, Shared};
use super::sync::Took;
use super::totals::{Renamed, Totals, Traffic};
use super::waiting::Waiting;
use super::{Agent, RunError};
use crate::cli::RunArgs;
use crate::config::Settings;
use crate::flows::Tally;
use crate::flows::tally::FrontendOf;
use crate::model::desired::{Family, FrontendId, Listen, Protocol};
use crate::model::{Compiled, Snapshot};
use crate::observe::health::{ProxyHealth, moment};
use crate::observe::http::{self, Answers};
use crate::observe::metrics::Metrics;
use crate::observe::service_health::{ServiceHealth, Wanted};
use crate::observe::surface::{self, Shown};
use crate::reconcile::Report;
use crate::source::News;
use crate::source::kubernetes::Voice;

/// What the loop tells.
pub(super) struct Surface {
    health: Arc<ProxyHealth>,
    metrics: Arc<Metrics>,
    checks: watch::Sender<Wanted>,
    tally: Arc<Mutex<Tally>>,
    waiting: Mutex<Waiting>,
}

impl Surface {
    /// Where packets of Services are summed up.
    pub(super) fn tally(&self) -> Arc<Mutex<Tally>> {
        Arc::clone(&self.tally)
    }

    /// Tells the tally which front ends have another owner.
    pub(super) fn rename(&self, renamed: Renamed) {
        if !renamed.is_empty() {
            let renamed = renamed
                .into_iter()
                .map(|(id, name)| (frontend_of(id), name));
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.rename(renamed);
        }
    }

    /// Tells the metrics what is desired.
    pub(super) fn count(&self, totals: &Totals) {
        for family in Family::ALL {
            for (name, traffic) in [
                ("internal", Traffic::Internal),
                ("external", Traffic::External),
            ] {
                let count = totals.no_local(family, traffic);
                self.metrics.set_no_local(family, name, count);
            }
        }
    }

    /// What changed, as the source tells it.
    pub(super) fn news(&self, news: News) {
        self.metrics.changed(news.services, news.endpoint_slices);
        self.waiting().add(news.triggers);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is to be written.
    pub(super) fn queued(&self) {
        self.health.queued(Instant::now());
        self.metrics.queued();
    }

    /// An update ended.
    pub(super) fn synced(
        &self,
        snapshot: &Snapshot,
        compiled: &Compiled,
        report: &Report,
        took: Took,
        full: bool,
    ) {
        self.metrics.synced(took.pass, full);
        if let Some(latency) = took.latency.filter(|_| report.failed.is_empty()) {
            self.metrics.applied(latency);
        }
        for family in Family::ALL {
            if !report
                .failed
                .iter()
                .any(|failed| concerns(failed.map, family))
            {
                self.health.updated(family, moment(SystemTime::now()));
                self.metrics.written(family);
                for took in self.waiting().written(family, Timestamp::now()) {
                    self.metrics.programmed(family, took);
                }
            }
        }
        if report.failed.is_empty() {
            self.metrics.nothing_pending();
        }
        self.health
            .set_node_eligible(snapshot.node().is_some_and(|node| !node.is_leaving));
        let wanted = wanted(snapshot, compiled);
        self.checks.send_if_modified(|now| {
            let changed = *now != wanted;
            *now = wanted;
            changed
        });
    }
}

/// A front end as flows have it.
fn frontend_of(id: FrontendId) -> FrontendOf {
    let address = match id.listen {
        Listen::Address(address) => address,
        Listen::Node(Family::V4) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Listen::Node(Family::V6) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let protocol = match id.protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
        Protocol::Sctp => protocol::SCTP,
    };
    (address, id.port, protocol)
}

/// Whether a map is one of a family; one without a family concerns both.
fn concerns(map: &str, family: Family) -> bool {
    let other = match family {
        Family::V4 => '6',
        Family::V6 => '4',
    };
    !map.ends_with(other)
}

/// The health checks, and where they listen: everywhere, or where NodePorts answer if those are restricted (behaviours 15.7).
fn wanted(snapshot: &Snapshot, compiled: &Compiled) -> Wanted {
    let option = &snapshot.options.node_port_addresses;
    let restricted = Family::ALL
        .into_iter()
        .filter(|family| !option.is_open(*family));
    let addresses: BTreeMap<Family, Vec<IpAddr>> = restricted
        .map(|family| {
            let accepted = compiled.desired.node_port_addresses.iter().copied();
            (
                family,
                accepted.filter(|one| Family::of(*one) == family).collect(),
            )
        })
        .collect();
    Wanted {
        checks: compiled.health_checks.clone(),
        addresses,
    }
}

impl Agent {
    /// Starts the servers.
    pub(super) fn show(
        &mut self,
        args: &RunArgs,
        settings: &Settings,
        shared: &Arc<Shared>,
    ) -> Result<Surface, RunError> {
        let health = Arc::new(ProxyHealth::new(settings.health_timeout()));
        let metrics = Arc::new(Metrics::new()?);
        let service_health = Arc::new(ServiceHealth::new(Arc::clone(&health)));
        shared.checks(Arc::clone(&service_health));
        let (checks, wanted) = watch::channel(Wanted::default());
        self.spawn("health checks of Services", service_health.run(wanted));
        let hard = settings.kube_proxy.bind_address_hard_fail;
        let answers = surface::health(Arc::clone(&health), Arc::clone(&metrics));
        self.serve_at(HEALTH_SERVER, settings.health(), answers, hard, shared)?;
        let (of, judge, status) = (
            Arc::clone(&metrics),
            Arc::clone(&health),
            Arc::clone(shared),
        );
        let tally = Arc::new(Mutex::new(Tally::new(args.metrics_backends_max)));
        let summed = Arc::clone(&tally);
        let sums = move || summed.lock().unwrap_or_else(PoisonError::into_inner).sums();
        let shown = Shown {
            configz: serde_json::to_string(&settings.kube_proxy).unwrap_or_default(),
            flags: flags(args),
            proxy_mode: args.proxy_mode_answer.clone(),
            started: SystemTime::now(),
            metrics: Arc::new(move |path| match path {
                "/metrics/slis" => Metrics::slis(judge.is_healthy(Instant::now())),
                _ => of.answer(&status.status(), &sums()),
            }),
        };
        self.serve_at(
            "the metrics server",
            settings.metrics(),
            surface::metrics(shown),
            hard,
            shared,
        )?;
        Ok(Surface {
            health,
            metrics,
            checks,
            tally,
            waiting: Mutex::default(),
        })
    }

    /// Tells the source, again and again, what of this agent does not work.
    pub(super) fn complain(&mut self, voice: Option<Voice>, shared: &Arc<Shared>) {
        let Some(voice) = voice else { return };
        let shared = Arc::clone(shared);
        self.spawn("events", async move {
            loop {
                voice.say(&shared.troubles());
                tokio::time::sleep(http::AGAIN).await;
            }
        });
    }

    /// Starts a server, if it has an address. One whose address is taken is tried again, or an error if the operator wants that (16.6).
    fn serve_at(
        &mut self,
        what: &'static str,
        address: Option<SocketAddr>,
        answers: Answers,
        hard: bool,
        shared: &Arc<Shared>,
    ) -> Result<(), RunError> {
        let Some(address) = address else {
            return Ok(());
        };
        if hard {
            let listener = http::listen(address, false).map_err(|source| RunError::Bind {
                what,
                address,
                source,
            })?;
            self.spawn(what, http::serve(listener, answers));
            return Ok(());
        }
        let lent = shared.lent();
        let shared = Arc::clone(shared);
        let mut before = None;
        let tell = move |error: Option<io::Error>| {
            let problem = error.map(|error| {
                format!("{what} cannot listen on {address}: {error}; tried again every 5 seconds")
            });
            if problem != before {
                if let Some(problem) = &problem {
                    tracing::warn!("{problem}");
                } else {
                    tracing::info!("{what} listens on {address}");
                }
            }
            before.clone_from(&problem);
            shared.listens(what, problem);
        };
        self.spawn(what, http::serve_at(address, answers, lent, tell));
        Ok(())
    }
}

/// kube-proxy's flags that were given, and where ours keep their state.
fn flags(args: &RunArgs) -> Vec<(String, String)> {
    let given = args.kube_proxy.0.iter();
    let mut flags: Vec<(String, String)> = given
        .map(|(flag, values)| ((*flag).to_owned(), values.join(",")))
        .collect();
    flags.push((
        "node-name".to_owned(),
        args.objects.node_name().unwrap_or_default(),
    ));
    flags.push((
        "pin-dir".to_owned(),
        args.places.pin_dir.display().to_string(),
    ));
    flags.push((
        "run-dir".to_owned(),
        args.places.run_dir.display().to_string(),
    ));
    flags.sort();
    flags
}
