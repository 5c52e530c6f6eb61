//! `run`, and what kube-proxy does by flags instead of running: `--version`, `--write-config-to`, `--cleanup`, `--init-only`.
//!
//! Owns what comes before the agent runs: settings brought together and told of. Refuses to know the agent's parts. Invariant:
//! nothing is touched before every setting was found valid.

use std::path::Path;

use anyhow::{Result, bail};

use super::{CleanArgs, LogArgs, LogFormat, LogLevel, RunArgs, clean, print};
use crate::config::{ConfigError, ConfigFile, Settings, write_yaml};
use crate::host::{self, Proc};
use crate::observe::logging;

/// Runs the agent, or does what a flag asks for instead.
pub(super) fn run(mut args: RunArgs, log: &LogArgs, file: Option<&ConfigFile>) -> Result<()> {
    let flags = &args.kube_proxy;
    if flags.get("version").is_some_and(|value| value != "false") {
        return print(concat!("nodeport-agent ", env!("CARGO_PKG_VERSION")));
    }
    let settings = Settings::resolve(flags, file)?;
    start_logging(log, &args, &settings);
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    for ignored in &settings.ignored {
        tracing::warn!("{ignored}");
    }
    if let Some(path) = flags.get("write-config-to") {
        return Ok(write_config(Path::new(path), &settings)?);
    }
    if flags.is_set("cleanup") {
        return clean::clean(&CleanArgs {
            stay: false,
            places: args.places.clone(),
        });
    }
    if flags.is_set("init-only") {
        let problems = host::prepare(&Proc::default(), &settings, &crate::run::asked(&args));
        return match problems.as_slice() {
            [] => Ok(()),
            problems => bail!("{}", problems.join("; ")),
        };
    }
    apply(&mut args, &settings);
    Ok(crate::run::run(&args, &settings, file)?)
}

/// The level and form of log lines: our flags, then the configuration.
fn start_logging(log: &LogArgs, args: &RunArgs, settings: &Settings) {
    let given = |flag| args.kube_proxy.get(flag).is_some();
    let logging = &settings.kube_proxy.logging;
    let level = if given("v") || logging.verbosity == 0 {
        log.level
    } else {
        LogLevel::of_verbosity(logging.verbosity)
    };
    let json = if given("logging-format") {
        log.format == LogFormat::Json
    } else {
        log.format == LogFormat::Json || logging.format == "json"
    };
    logging::init(level.0, json);
}

/// Settings that have a flag of ours are carried by it.
fn apply(args: &mut RunArgs, settings: &Settings) {
    let config = &settings.kube_proxy;
    if !config.hostname_override.is_empty() {
        args.objects.node_name = Some(config.hostname_override.clone());
    }
    let kubeconfig = &config.client_connection.kubeconfig;
    if args.objects.kubeconfig.is_none()
        && !kubeconfig.is_empty()
        && args.objects.manifests.is_empty()
    {
        args.objects.kubeconfig = Some(kubeconfig.into());
    }
    args.sockets.localhost_nodeports |= settings.localhost_node_ports();
    args.objects.nodeport_addresses = config.node_port_addresses.clone().unwrap_or_default();
    if args.min_sync_period.is_none() {
        args.min_sync_period = settings.min_sync_period().map(super::GoDuration);
    }
}

/// Writes the configuration in effect, as kube-proxy does.
fn write_config(path: &Path, settings: &Settings) -> Result<(), ConfigError> {
    let failed = |source| ConfigError::Write {
        path: path.to_owned(),
        source,
    };
    let config = serde_json::to_value(&settings.kube_proxy)
        .map_err(|error| failed(std::io::Error::other(error)))?;
    std::fs::write(path, write_yaml(&config)).map_err(failed)?;
    tracing::info!(file = %path.display(), "wrote the configuration");
    Ok(())
}
