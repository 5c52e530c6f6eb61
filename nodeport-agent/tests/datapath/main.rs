//! The datapath in the kernel: loading, attaching, adopting, cleaning.

#[path = "../inside/mod.rs"]
mod inside;
mod node;
mod restart;

use aya::programs::TcAttachType;
use nodeport_agent::datapath::{
    Config, ControlMap, Lock, Mode, PINNED, Pins, Removed, Sizes, TcApi, XdpPolicy, XdpState,
    clean, kernel, load,
};
use nodeport_agent::object::OBJECT;
use nodeport_common::{ABI_VERSION, Hook};

use inside::{isolated, sh};
use node::{Node, add_veth, another_object, config, tcx_of, xdp_of};

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
            let map = format!("/sys/fs/bpf/nodeport/v{ABI_VERSION}/maps/FLOWS4");
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
