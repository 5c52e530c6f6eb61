//! A loaded datapath in namespaces of its own, and what the kernel says of it.

use std::path::PathBuf;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{SchedClassifier, TcAttachType};
use nodeport_agent::datapath::{
    Attached, Attacher, Config, DatapathError, DatapathLog, Loaded, Pins, Place, Sizes, SocketArgs,
    Target, TcApi, XdpPolicy, XdpState, load,
};
use nodeport_agent::object::OBJECT;
use nodeport_common::Hook;

use crate::inside::sh;

pub(crate) fn config() -> Config {
    Config {
        pin_dir: PathBuf::from("/sys/fs/bpf/nodeport"),
        xdp: XdpPolicy::Auto,
        tc: None,
        sizes: Sizes::default(),
        redirect_local: false,
        sockets: SocketArgs::default(),
        node_ports: "30000-32767".parse().expect("a range"),
        log: DatapathLog::Off,
    }
}

/// A loaded datapath in these namespaces.
pub(crate) struct Node {
    pub(crate) pins: Pins,
    pub(crate) config: Config,
    pub(crate) loaded: Loaded,
    pub(crate) attacher: Attacher,
}

impl Node {
    pub(crate) fn start(config: &Config) -> Self {
        Self::start_with(OBJECT, config)
    }

    pub(crate) fn start_with(object: &[u8], config: &Config) -> Self {
        let pins = Pins::new(&config.pin_dir);
        let loaded = load(object, &pins, config).expect("loaded");
        let attacher = Attacher::new(pins.clone(), config.tc.unwrap_or(TcApi::Tcx));
        Self {
            pins,
            config: config.clone(),
            loaded,
            attacher,
        }
    }

    pub(crate) fn attach_xdp(&mut self, device: &str) -> Result<Attached, DatapathError> {
        let (policy, xdp) = (self.config.xdp, xdp_of(device));
        let target = Target {
            index: index(device),
            name: device,
            xdp,
        };
        let attached = self.attacher.attach_xdp(&mut self.loaded, target, policy)?;
        Ok(attached.expect("XDP is wanted"))
    }

    pub(crate) fn attach_tc(&mut self, device: &str, hook: Hook) -> Attached {
        let target = Target {
            index: index(device),
            name: device,
            xdp: XdpState::default(),
        };
        let attached = self.attacher.attach_tc(&mut self.loaded, target, hook);
        attached.expect("attached")
    }
}

pub(crate) fn link_json(device: &str) -> serde_json::Value {
    let text = sh(&format!("ip -json -details link show dev {device}"));
    let mut links: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
    links.remove(0)
}

pub(crate) fn index(device: &str) -> u32 {
    link_json(device)["ifindex"].as_u64().expect("an index") as u32
}

/// The XDP programs of a device, as `ip` tells: mode 1 is native, 2 generic.
pub(crate) fn xdp_of(device: &str) -> XdpState {
    let link = link_json(device);
    let id = link["xdp"]["prog"]["id"].as_u64().map(|id| id as u32);
    match link["xdp"]["mode"].as_u64() {
        Some(1) => XdpState {
            native: id,
            generic: None,
        },
        Some(2) => XdpState {
            native: None,
            generic: id,
        },
        _ => XdpState::default(),
    }
}

/// Ids of the TCX programs of a device, in their order.
pub(crate) fn tcx_of(device: &str, direction: TcAttachType) -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx(device, direction).expect("a query");
    programs
        .iter()
        .map(aya::programs::ProgramInfo::id)
        .collect()
}

/// Id of a pinned link.
pub(crate) fn link_id(pins: &Pins, device: &str, hook: Hook) -> u32 {
    let place = Place {
        device: index(device),
        hook,
    };
    let link = FdLink::from(PinnedLink::from_pin(pins.link(place)).expect("a link"));
    link.info().expect("readable").id()
}

pub(crate) fn add_veth() {
    sh("ip link add eth0 type veth peer name wire && ip link set eth0 up && ip link set wire up");
}

/// The same programs with other bytes behind them, as a build of another version has.
pub(crate) fn another_object() -> Vec<u8> {
    [OBJECT, &[0; 64]].concat()
}
