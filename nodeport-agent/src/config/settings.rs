//! What is in effect: flags, file and defaults brought together.
//!
//! Owns the order in which they count, which is kube-proxy's: with a file, its own flags do not count but for a few. Refuses to
//! carry settings out. Invariant: what is asked for and has no effect is in `ignored` or in `warnings`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::error::ConfigError;
use super::flags::KubeProxyFlags;
use super::go_duration::GoDuration;
use super::kube_proxy::KubeProxyConfiguration;
use super::table::{BESIDE_CONFIG, SETTINGS, Use};
use super::{ConfigFile, document, validate};
use crate::flows::Lifetimes;
use crate::model::NodePortAddresses;
use crate::model::address::parse_address;

/// What is in effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The configuration with its defaults: what `/configz` shows.
    pub kube_proxy: KubeProxyConfiguration,
    /// The configuration without defaults.
    pub given: KubeProxyConfiguration,
    /// What is asked for and has no effect.
    pub ignored: Vec<Ignored>,
    /// What else the operator should know.
    pub warnings: Vec<String>,
}

/// A setting that is asked for and has no effect.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ignored {
    /// Path of the field.
    pub setting: String,
    /// Its value.
    pub value: String,
    /// Why it has none.
    pub reason: String,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} = {} is not honoured: {}",
            self.setting, self.value, self.reason
        )
    }
}

impl Settings {
    /// Brings flags and file together.
    ///
    /// # Errors
    /// [`ConfigError`] if a value means nothing.
    pub fn resolve(flags: &KubeProxyFlags, file: Option<&ConfigFile>) -> Result<Self, ConfigError> {
        let (mut given, warnings) = match file {
            Some(file) => of_file(flags, file),
            None => (of_flags(flags)?, Vec::new()),
        };
        if let Some(name) = flags
            .get("hostname-override")
            .filter(|name| !name.is_empty())
        {
            name.clone_into(&mut given.hostname_override);
        }
        let mut kube_proxy = given.clone().defaulted();
        if file.is_none() {
            disable(&mut kube_proxy, flags);
        }
        let invalid = validate(&kube_proxy);
        if !invalid.is_empty() {
            return Err(ConfigError::Invalid(invalid));
        }
        Ok(Self {
            ignored: ignored(&given),
            kube_proxy,
            given,
            warnings,
        })
    }

    /// Where the health server listens, if there is one.
    #[must_use]
    pub fn health(&self) -> Option<SocketAddr> {
        self.kube_proxy.healthz_bind_address.parse().ok()
    }

    /// Where the metrics server listens, if there is one.
    #[must_use]
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.kube_proxy.metrics_bind_address.parse().ok()
    }

    /// The address that counts as this node's, if one is given (behaviours 20.2).
    #[must_use]
    pub fn node_address(&self) -> Option<IpAddr> {
        let address = parse_address(&self.kube_proxy.bind_address)?;
        (!address.is_unspecified()).then_some(address)
    }

    /// Whether NodePorts on loopback addresses are asked for in kube-proxy's words: said, not by default, and in the mode that has them
    /// (behaviours 13.1, 13.2).
    #[must_use]
    pub fn localhost_node_ports(&self) -> bool {
        self.kube_proxy.mode == "iptables" && self.given.iptables.localhost_node_ports == Some(true)
    }

    /// How long an update may wait at most in a healthy agent (behaviours 16.2).
    #[must_use]
    pub fn health_timeout(&self) -> Duration {
        let (period, _) = self.kube_proxy.periods();
        2 * period.get().unwrap_or(Duration::from_secs(30))
    }

    /// The shortest time between two updates, if one is given.
    #[must_use]
    pub fn min_sync_period(&self) -> Option<Duration> {
        let (_, given) = self.given.periods();
        given.get().filter(|period| !period.is_zero())
    }

    /// How long flows live without a packet (behaviours 17.11). A timeout of 0 leaves ours as it is.
    #[must_use]
    pub fn lifetimes(&self) -> Lifetimes {
        let conntrack = &self.kube_proxy.conntrack;
        let usual = Lifetimes::default();
        Lifetimes {
            tcp_established: seconds(conntrack.tcp_established_timeout, usual.tcp_established),
            tcp_half_closed: seconds(conntrack.tcp_close_wait_timeout, usual.tcp_half_closed),
            udp_unreplied: seconds(Some(conntrack.udp_timeout), usual.udp_unreplied),
            udp_replied: seconds(Some(conntrack.udp_stream_timeout), usual.udp_replied),
            ..usual
        }
    }
}

/// Ages are told by 32 bits of jiffies: beyond this they could not be.
const LONGEST_LIFE_SECS: u64 = 20 * 24 * 3600;

fn seconds(given: Option<GoDuration>, usual: u32) -> u32 {
    let given = given
        .and_then(GoDuration::get)
        .filter(|given| !given.is_zero());
    given.map_or(usual, |given| {
        given.as_secs().clamp(1, LONGEST_LIFE_SECS) as u32
    })
}

/// With a file, what it says; flags that do not count then are warned of.
fn of_file(flags: &KubeProxyFlags, file: &ConfigFile) -> (KubeProxyConfiguration, Vec<String>) {
    let mut warnings = file.documents.warnings.clone();
    let unheard = flags.0.keys().filter(|flag| !BESIDE_CONFIG.contains(flag));
    warnings.extend(unheard.map(|flag| {
        format!(
            "--{flag} is ignored: as for kube-proxy, {} decides (--config)",
            file.path.display()
        )
    }));
    (file.documents.kube_proxy.clone(), warnings)
}

/// Without a file, the flags.
fn of_flags(flags: &KubeProxyFlags) -> Result<KubeProxyConfiguration, ConfigError> {
    let path = Path::new("command line");
    let mut given = document::decode(path, flags.document()?, &mut Vec::new())?;
    for (address, port) in [
        (&mut given.healthz_bind_address, "healthz-port"),
        (&mut given.metrics_bind_address, "metrics-port"),
    ] {
        if let (Ok(ip), Some(port)) = (address.parse::<IpAddr>(), port_flag(flags, port)?) {
            *address = SocketAddr::new(ip, port).to_string();
        }
    }
    // The flags of iptables mode stand for nftables mode as well.
    if given.mode == "nftables" {
        given.nftables.masquerade_all = given.iptables.masquerade_all;
        given.nftables.sync_period = given.iptables.sync_period;
        given.nftables.min_sync_period = given.iptables.min_sync_period;
    }
    Ok(given)
}

fn port_flag(flags: &KubeProxyFlags, flag: &str) -> Result<Option<u16>, ConfigError> {
    let parse = |text: &str| {
        text.parse().map_err(|_| ConfigError::Flag {
            flag: flag.to_owned(),
            problem: format!("{text:?} is no port"),
        })
    };
    flags.get(flag).map(parse).transpose()
}

/// An empty address, or port 0, means that there is no such server.
fn disable(config: &mut KubeProxyConfiguration, flags: &KubeProxyFlags) {
    for (address, flag, port) in [
        (
            &mut config.healthz_bind_address,
            "healthz-bind-address",
            "healthz-port",
        ),
        (
            &mut config.metrics_bind_address,
            "metrics-bind-address",
            "metrics-port",
        ),
    ] {
        if flags.get(flag) == Some("") || flags.get(port) == Some("0") {
            address.clear();
        }
    }
}

/// Entries that ask for NodePorts on loopback addresses.
fn on_loopback(given: &KubeProxyConfiguration) -> Vec<Ignored> {
    let entries = given.node_port_addresses.iter().flatten().enumerate();
    entries
        .filter(|(_, value)| NodePortAddresses::is_loopback(value))
        .map(|(index, value)| Ignored {
            setting: format!("nodePortAddresses[{index}]"),
            value: value.clone(),
            reason: "NodePorts do not answer on loopback addresses".to_owned(),
        })
        .collect()
}

/// What is given, differs from kube-proxy's default, and has no effect.
fn ignored(given: &KubeProxyConfiguration) -> Vec<Ignored> {
    let json = |config: &KubeProxyConfiguration| serde_json::to_value(config).unwrap_or_default();
    let (empty, usual) = (
        KubeProxyConfiguration::default(),
        KubeProxyConfiguration::default().defaulted(),
    );
    let mut found = on_loopback(given);
    let (given, empty, usual) = (json(given), json(&empty), json(&usual));
    for setting in SETTINGS {
        let Use::Ignored(reason) = setting.used else {
            continue;
        };
        let pointer = format!("/{}", setting.field.replace('.', "/"));
        let of = |document: &Value| document.pointer(&pointer).cloned().unwrap_or_default();
        let value = of(&given);
        // Its mode is what a proxy is known by: worth a word even if it is the usual one.
        let is_usual = value == of(&usual) && setting.field != "mode";
        if value == of(&empty) || is_usual || value == "ebpf" {
            continue;
        }
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), ToOwned::to_owned);
        found.push(Ignored {
            setting: setting.field.to_owned(),
            value,
            reason: reason.to_owned(),
        });
    }
    found
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
