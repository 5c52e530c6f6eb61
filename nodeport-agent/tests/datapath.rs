//! The datapath in the kernel: loading, attaching, adopting, cleaning.

mod inside;

use std::path::PathBuf;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{SchedClassifier, TcAttachType};
use nodeport_agent::datapath::{
    Attached, Attacher, Config, ControlMap, DatapathError, DatapathLog, Loaded, Lock, Mode, PINNED,
    Pins, Place, Removed, Sizes, SocketArgs, Target, TcApi, XdpPolicy, XdpState, clean, kernel,
    load, pinned_places,
};
use nodeport_agent::object::OBJECT;
use nodeport_common::Hook;

use inside::{isolated, sh};

fn config() -> Config {
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
struct Node {
    pins: Pins,
    config: Config,
    loaded: Loaded,
    attacher: Attacher,
}

impl Node {
    fn start(config: &Config) -> Self {
        Self::start_with(OBJECT, config)
    }

    fn start_with(object: &[u8], config: &Config) -> Self {
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

    fn attach_xdp(&mut self, device: &str) -> Result<Attached, DatapathError> {
        let (policy, xdp) = (self.config.xdp, xdp_of(device));
        let target = Target {
            index: index(device),
            name: device,
            xdp,
        };
        let attached = self.attacher.attach_xdp(&mut self.loaded, target, policy)?;
        Ok(attached.expect("XDP is wanted"))
    }

    fn attach_tc(&mut self, device: &str, hook: Hook) -> Attached {
        let target = Target {
            index: index(device),
            name: device,
            xdp: XdpState::default(),
        };
        let attached = self.attacher.attach_tc(&mut self.loaded, target, hook);
        attached.expect("attached")
    }
}

fn link_json(device: &str) -> serde_json::Value {
    let text = sh(&format!("ip -json -details link show dev {device}"));
    let mut links: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
    links.remove(0)
}

fn index(device: &str) -> u32 {
    link_json(device)["ifindex"].as_u64().expect("an index") as u32
}

/// The XDP programs of a device, as `ip` tells: mode 1 is native, 2 generic.
fn xdp_of(device: &str) -> XdpState {
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
fn tcx_of(device: &str, direction: TcAttachType) -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx(device, direction).expect("a query");
    programs
        .iter()
        .map(aya::programs::ProgramInfo::id)
        .collect()
}

/// Id of a pinned link.
fn link_id(pins: &Pins, device: &str, hook: Hook) -> u32 {
    let place = Place {
        device: index(device),
        hook,
    };
    let link = FdLink::from(PinnedLink::from_pin(pins.link(place)).expect("a link"));
    link.info().expect("readable").id()
}

fn add_veth() {
    sh("ip link add eth0 type veth peer name wire && ip link set eth0 up && ip link set wire up");
}

#[test]
fn programs_load_and_maps_are_pinned() {
    isolated("programs_load_and_maps_are_pinned", || {
        let config = config();
        let pins = Pins::new(&config.pin_dir);
        let mut loaded = load(OBJECT, &pins, &config).expect("loaded");
        let control = ControlMap::open(&pins, &config).expect("control");
        assert_eq!(control.get().hz, kernel::hz());
        let before = loaded.jiffies().expect("jiffies");
        std::thread::sleep(std::time::Duration::from_millis(500));
        let ticks = loaded.jiffies().expect("jiffies").wrapping_sub(before);
        let expected = kernel::hz() / 2;
        assert!(
            ticks.abs_diff(expected) <= expected / 10 + 1,
            "{ticks} ticks, expected {expected}"
        );
    });
}

#[test]
fn another_object_takes_over_links_and_replaces_their_programs_i8() {
    isolated(
        "another_object_takes_over_links_and_replaces_their_programs_i8",
        || {
            add_veth();
            let mut first = Node::start(&config());
            assert_eq!(first.attach_xdp("eth0").expect("XDP").mode, Mode::Native);
            assert_eq!(first.attach_tc("eth0", Hook::TcIngress).mode, Mode::Tcx);
            assert_eq!(first.attach_tc("eth0", Hook::TcEgress).mode, Mode::Tcx);
            let links = Hook::ON_DEVICES
                .iter()
                .map(|&hook| (hook, link_id(&first.pins, "eth0", hook)));
            let links: Vec<_> = links.collect();
            drop(first);

            // Nothing is detached because an agent ends.
            let xdp = xdp_of("eth0");
            let ingress = tcx_of("eth0", TcAttachType::Ingress);
            assert!(xdp.native.is_some());
            assert_eq!(
                (ingress.len(), tcx_of("eth0", TcAttachType::Egress).len()),
                (1, 1)
            );

            let mut second = Node::start_with(&another_object(), &config());
            second.attach_xdp("eth0").expect("XDP");
            second.attach_tc("eth0", Hook::TcIngress);
            let taken = xdp_of("eth0");
            assert!(taken.native.is_some() && taken != xdp, "another program");
            let now = tcx_of("eth0", TcAttachType::Ingress);
            assert_eq!(now.len(), 1, "replaced, not added");
            assert_ne!(now, ingress, "another program");
            for (hook, before) in links {
                assert_eq!(link_id(&second.pins, "eth0", hook), before, "the same link");
            }
        },
    );
}

#[test]
fn a_restart_with_the_same_object_leaves_the_programs_that_run() {
    isolated(
        "a_restart_with_the_same_object_leaves_the_programs_that_run",
        || {
            add_veth();
            let mut first = Node::start(&config());
            assert!(!first.loaded.is_adopted());
            first.attach_xdp("eth0").expect("XDP");
            first.attach_tc("eth0", Hook::TcIngress);
            let programs = || (xdp_of("eth0"), tcx_of("eth0", TcAttachType::Ingress));
            let before = programs();
            drop(first);

            let mut second = Node::start(&config());
            assert!(second.loaded.is_adopted());
            assert!(second.attach_xdp("eth0").expect("XDP").taken_over);
            assert!(second.attach_tc("eth0", Hook::TcIngress).taken_over);
            assert_eq!(programs(), before);
            second.loaded.jiffies().expect("the clock runs");
            second.attach_xdp("wire").expect("a later device");
            assert_eq!(xdp_of("wire").native, before.0.native);
            drop(second);

            let log = DatapathLog::Debug;
            let logging = Config { log, ..config() };
            assert!(!Node::start(&logging).loaded.is_adopted());
            let adopted = || Node::start(&config()).loaded.is_adopted();
            assert!(!adopted() && adopted(), "of another level first");

            // Programs that use another map than the one that is pinned now are of no use.
            let pins = Pins::new(&config().pin_dir);
            std::fs::remove_file(pins.map("FRONTENDS4")).expect("a pin");
            assert!(!adopted() && adopted());
        },
    );
}

/// The same programs with other bytes behind them, as a build of another version has.
fn another_object() -> Vec<u8> {
    [OBJECT, &[0; 64]].concat()
}

#[test]
fn a_pinned_link_of_another_device_with_this_index_is_not_taken_over() {
    isolated(
        "a_pinned_link_of_another_device_with_this_index_is_not_taken_over",
        || {
            add_veth();
            let mut node = Node::start(&config());
            node.attach_xdp("eth0").expect("XDP");
            node.attach_tc("eth0", Hook::TcIngress);
            let at = index("eth0");
            // While no agent looks, the device goes and another one takes its index: the pinned links are dead.
            sh(&format!(
                "ip link del eth0 && ip link add eth1 index {at} type veth peer name wire1"
            ));
            let mut node = Node::start(&config());
            assert_eq!(node.attach_xdp("eth1").expect("XDP").mode, Mode::Native);
            node.attach_tc("eth1", Hook::TcIngress);
            assert!(xdp_of("eth1").native.is_some());
            assert_eq!(tcx_of("eth1", TcAttachType::Ingress).len(), 1);
            assert_eq!(pinned_places(&node.pins).expect("pins").len(), 2);
        },
    );
}

#[test]
fn xdp_falls_back_to_generic_and_changes_its_mode_when_told() {
    isolated(
        "xdp_falls_back_to_generic_and_changes_its_mode_when_told",
        || {
            // A bridge's driver has no XDP.
            sh("ip link add br0 type bridge && ip link set br0 up");
            let mut node = Node::start(&config());
            assert_eq!(node.attach_xdp("br0").expect("XDP").mode, Mode::Generic);
            node.config.xdp = XdpPolicy::Native;
            let error = node
                .attach_xdp("br0")
                .expect_err("no native XDP")
                .to_string();
            assert!(error.contains("--xdp=generic"), "{error}");

            add_veth();
            node.config.xdp = XdpPolicy::Generic;
            assert_eq!(node.attach_xdp("eth0").expect("XDP").mode, Mode::Generic);
            node.config.xdp = XdpPolicy::Native;
            assert_eq!(node.attach_xdp("eth0").expect("XDP").mode, Mode::Native);
            let now = xdp_of("eth0");
            assert!(now.native.is_some() && now.generic.is_none());
        },
    );
}

#[test]
fn another_xdp_program_is_left_alone_f12() {
    isolated("another_xdp_program_is_left_alone_f12", || {
        add_veth();
        let mut other = aya::EbpfLoader::new().load(OBJECT).expect("loaded");
        let program: &mut aya::programs::Xdp = other
            .program_mut("nodeport_clock")
            .and_then(|program| program.try_into().ok())
            .expect("a program");
        program.load().expect("loaded");
        program
            .attach("eth0", aya::programs::XdpMode::Driver)
            .expect("attached");
        let foreign = xdp_of("eth0");

        let mut node = Node::start(&config());
        let error = node.attach_xdp("eth0").expect_err("taken").to_string();
        assert!(
            error.contains("another XDP program") && error.contains("left alone"),
            "{error}"
        );
        assert_eq!(xdp_of("eth0"), foreign);
        assert_eq!(node.attach_tc("eth0", Hook::TcIngress).mode, Mode::Tcx);
    });
}

#[test]
fn without_tcx_a_filter_is_replaced_in_its_place() {
    isolated("without_tcx_a_filter_is_replaced_in_its_place", || {
        add_veth();
        let config = Config {
            tc: Some(TcApi::Clsact),
            ..config()
        };
        let filters = || sh("tc filter show dev eth0 ingress");
        let mut first = Node::start(&config);
        assert_eq!(first.attach_tc("eth0", Hook::TcIngress).mode, Mode::Clsact);
        drop(first);
        let before = filters();
        assert_eq!(before.matches("direct-action").count(), 1, "{before}");
        let mut second = Node::start_with(&another_object(), &config);
        second.attach_tc("eth0", Hook::TcIngress);
        let after = filters();
        assert_eq!(after.matches("direct-action").count(), 1, "{after}");
        assert_ne!(after, before, "another program");
        drop(second);
        clean(&config.pin_dir, &["eth0".to_owned(), "wire".to_owned()]).expect("clean");
        assert!(!filters().contains("nodeport_in"));
    });
}

#[test]
fn a_pinned_map_of_another_layout_is_named_and_nothing_is_touched_i7() {
    isolated(
        "a_pinned_map_of_another_layout_is_named_and_nothing_is_touched_i7",
        || {
            let config = config();
            drop(Node::start(&config));
            let map = "/sys/fs/bpf/nodeport/v1/maps/FLOWS4";
            sh(&format!(
                "rm {map} && bpftool map create {map} type hash key 16 value 56 entries 100 name FLOWS4"
            ));
            let pins = Pins::new(&config.pin_dir);
            let error = load(OBJECT, &pins, &config)
                .expect_err("refused")
                .to_string();
            assert!(error.contains("FLOWS4 has value_size 56"), "{error}");
            assert!(
                error.contains("wants 64") && error.contains("clean"),
                "{error}"
            );
            // Another size is fine unless a flag asks for one.
            sh(&format!("rm {map}"));
            drop(Node::start(&config));
            let sizes = Sizes {
                flows_max: Some(1000),
                ..Sizes::default()
            };
            let wanted = Config { sizes, ..config };
            let error = load(OBJECT, &pins, &wanted)
                .expect_err("refused")
                .to_string();
            assert!(error.contains("FLOWS4 has max_entries"), "{error}");
        },
    );
}

#[test]
fn clean_removes_everything_unless_an_agent_runs() {
    isolated("clean_removes_everything_unless_an_agent_runs", || {
        add_veth();
        let config = config();
        let lock = Lock::take(&config.pin_dir).expect("locked");
        let mut node = Node::start(&config);
        node.attach_xdp("eth0").expect("XDP");
        node.attach_tc("eth0", Hook::TcIngress);
        drop(node);
        let error = clean(&config.pin_dir, &[]).expect_err("locked").to_string();
        assert!(error.contains("another nodeport-agent"), "{error}");
        drop(lock);
        let removed = clean(&config.pin_dir, &[]).expect("clean");
        assert_eq!((removed.programs, removed.maps), (2, PINNED.len()));
        assert!(!config.pin_dir.exists());
        // The kernel lets go of links a moment after their pins are gone.
        let gone = || {
            xdp_of("eth0") == XdpState::default()
                && tcx_of("eth0", TcAttachType::Ingress).is_empty()
        };
        assert!((0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            gone()
        }));
        assert_eq!(
            clean(&config.pin_dir, &[]).expect("twice"),
            Removed::default()
        );
    });
}
