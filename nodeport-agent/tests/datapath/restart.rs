//! The next agent on the same pins: what it takes over, and what it replaces.

use aya::programs::TcAttachType;
use nodeport_agent::datapath::{Config, DatapathLog, Mode, PINNED, Pins, clean, pinned_places};
use nodeport_common::Hook;

use crate::inside::{isolated, sh};
use crate::node::{Node, add_veth, another_object, config, index, link_id, tcx_of, xdp_of};

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

#[test]
fn an_agent_with_other_layouts_is_replaced_in_place() {
    isolated("an_agent_with_other_layouts_is_replaced_in_place", || {
        add_veth();
        let config = config();
        let mut first = Node::start(&config);
        first.attach_xdp("eth0").expect("XDP");
        first.attach_tc("eth0", Hook::TcIngress);
        let (pins, xdp) = (first.pins.clone(), xdp_of("eth0"));
        let id = |hook| link_id(&pins, "eth0", hook);
        let links = [id(Hook::Xdp), id(Hook::TcIngress)];
        drop(first);
        // What its pins would be if its maps had another layout.
        let old = pins.root().join("v1");
        std::fs::rename(pins.version(), &old).expect("renamed");
        sh(&format!(
            "bpftool map create {}/maps/GONE type hash key 4 value 4 entries 1 name GONE",
            old.display()
        ));

        let mut second = Node::start(&config);
        assert!(!second.loaded.is_adopted());
        assert!(!old.exists());
        assert_eq!(
            xdp_of("eth0"),
            xdp,
            "the old program runs until it is replaced"
        );
        assert!(second.attach_xdp("eth0").expect("XDP").taken_over);
        assert!(second.attach_tc("eth0", Hook::TcIngress).taken_over);
        assert_ne!(xdp_of("eth0"), xdp);
        assert_eq!([id(Hook::Xdp), id(Hook::TcIngress)], links);
        drop(second);

        // `clean` of any version ends all of them.
        std::fs::rename(pins.version(), &old).expect("renamed");
        let removed = clean(&config.pin_dir, &[]).expect("clean");
        assert_eq!(removed.programs, 2);
        assert_eq!(removed.maps, PINNED.len());
        assert!(!pins.root().exists());
    });
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
