//! Stories of nodes: which devices they have, and what each is taken for.

use std::net::IpAddr;

use nodeport_common::device_flags;

use super::super::inventory::{Assigned, Inventory, Link, hardware};
use super::*;
use crate::datapath::attach::XdpState;

fn link(name: &str, kind: &str) -> Link {
    Link {
        name: name.to_owned(),
        kind: kind.to_owned(),
        hardware: hardware::ETHER,
        up: true,
        controller: None,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        has_peer: false,
        xdp: XdpState::default(),
        addresses: Vec::new(),
    }
}

#[test]
fn a_pod_is_handed_its_packets_if_its_veth_leads_into_another_namespace() {
    let role = |role| {
        let mut there = link("pod", "veth");
        there.has_peer = true;
        let flags = |link| value(link, role, &Fallback::default()).flags & device_flags::PEER;
        (flags(&there), flags(&link("pod", "veth")))
    };
    assert_eq!(role(Role::Pod), (device_flags::PEER, 0));
    assert_eq!(role(Role::Uplink), (0, 0));
}

fn assigned(text: &str) -> Assigned {
    let (address, prefix) = text.split_once('/').expect("address/prefix");
    let address: IpAddr = address.parse().expect("an address");
    Assigned {
        address,
        prefix: prefix.parse().expect("a prefix"),
        global: !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()),
        primary: true,
    }
}

fn with(mut link: Link, addresses: &[&str]) -> Link {
    link.addresses = addresses.iter().map(|text| assigned(text)).collect();
    link
}

fn inventory<const N: usize>(links: [(u32, Link); N], default_routes: &[u32]) -> Inventory {
    Inventory {
        links: links.into(),
        default_routes: default_routes.iter().copied().collect(),
    }
}

fn roles(inventory: &Inventory, criteria: &Criteria) -> Vec<(String, Role, bool)> {
    classify(inventory, criteria)
        .into_values()
        .map(|device| (device.name, device.role, device.xdp))
        .collect()
}

fn row(name: &str, role: Role, xdp: bool) -> (String, Role, bool) {
    (name.to_owned(), role, xdp)
}

#[test]
fn a_node_with_a_routing_cni() {
    let mut lo = with(link("lo", ""), &["127.0.0.1/8", "::1/128"]);
    lo.hardware = hardware::LOOPBACK;
    let node = inventory(
        [
            (1, lo),
            (
                2,
                with(link("eth0", "veth"), &["192.0.2.11/24", "fe80::1/64"]),
            ),
            (3, link("cali1", "veth")),
            (
                4,
                with(link("cali2", "veth"), &["10.244.1.1/32", "fe80::1/64"]),
            ),
            (5, with(link("cali3", "veth"), &["169.254.1.1/16"])),
        ],
        &[2],
    );
    assert_eq!(
        roles(&node, &Criteria::default()),
        [
            row("eth0", Role::Uplink, true),
            row("cali1", Role::Pod, false),
            row("cali2", Role::Pod, false),
            row("cali3", Role::Pod, false),
        ]
    );
}

#[test]
fn a_bridge_is_covered_and_its_ports_are_not() {
    let mut port = link("veth1", "veth");
    port.controller = Some(3);
    let node = inventory(
        [
            (2, with(link("eth0", ""), &["192.0.2.11/24"])),
            (3, with(link("cni0", "bridge"), &["10.244.1.1/24"])),
            (4, port),
        ],
        &[2],
    );
    assert_eq!(
        roles(&node, &Criteria::default()),
        [
            row("eth0", Role::Uplink, true),
            row("cni0", Role::Pod, false)
        ]
    );
}

#[test]
fn a_bridge_over_the_wire_is_the_uplink() {
    let mut nic = link("eth0", "");
    nic.controller = Some(3);
    let node = inventory(
        [
            (2, nic),
            (3, with(link("br-ex", "bridge"), &["192.0.2.11/24"])),
        ],
        &[3],
    );
    assert_eq!(
        roles(&node, &Criteria::default()),
        [row("br-ex", Role::Uplink, true)]
    );
    // Without a default route, the Node object tells.
    let node = Inventory {
        default_routes: BTreeSet::new(),
        ..node
    };
    assert_eq!(
        roles(&node, &Criteria::default()),
        [row("br-ex", Role::Pod, false)]
    );
    let criteria = Criteria {
        node_addresses: ["192.0.2.11".parse().expect("an address")].into(),
        ..Criteria::default()
    };
    assert_eq!(roles(&node, &criteria), [row("br-ex", Role::Uplink, true)]);
}

#[test]
fn a_second_uplink_needs_neither_default_route_nor_node_object() {
    let node = inventory(
        [
            (2, with(link("eth0", ""), &["192.0.2.11/24"])),
            (3, with(link("eth1", ""), &["198.51.100.11/24"])),
            (4, with(link("eth0.100", "vlan"), &["203.0.113.11/28"])),
        ],
        &[2],
    );
    let found = roles(&node, &Criteria::default());
    assert!(
        found
            .iter()
            .all(|(_, role, xdp)| *role == Role::Uplink && *xdp),
        "{found:?}"
    );
    assert_eq!(found.len(), 3);
}

#[test]
fn a_member_of_a_vrf_is_covered_and_the_vrf_is_not() {
    let mut member = with(link("eth0", ""), &["192.0.2.11/24"]);
    member.controller = Some(3);
    let node = inventory([(2, member), (3, link("red", "vrf"))], &[2]);
    assert_eq!(
        roles(&node, &Criteria::default()),
        [row("eth0", Role::Uplink, true)]
    );
}

#[test]
fn overlays_are_known_by_their_kind() {
    let mut wireguard = with(link("wg0", "wireguard"), &["10.9.0.1/24"]);
    wireguard.hardware = 0xfffe;
    let mut unused = link("tunl0", "ipip");
    unused.hardware = 768;
    unused.up = false;
    let mut tun = link("tun0", "tun");
    tun.hardware = 0xfffe;
    let node = inventory(
        [
            (2, with(link("flannel.1", "vxlan"), &["10.244.1.0/32"])),
            (3, wireguard),
            (4, unused),
            (5, tun),
            (6, link("tap0", "tun")),
            (7, link("kube-ipvs0", "dummy")),
        ],
        &[],
    );
    assert_eq!(
        roles(&node, &Criteria::default()),
        [
            row("flannel.1", Role::Overlay, false),
            row("wg0", Role::Overlay, false),
            row("tun0", Role::Overlay, false),
            row("tap0", Role::Pod, false),
        ]
    );
    let devices = classify(&node, &Criteria::default());
    assert_eq!(
        devices[&3].value.flags,
        device_flags::OVERLAY | device_flags::NO_ETHERNET
    );
    assert_eq!(devices[&2].value.flags, device_flags::OVERLAY);
}

#[test]
fn named_devices_are_the_only_uplinks() {
    let mut wireguard = link("wg0", "wireguard");
    wireguard.hardware = 0xfffe;
    let node = inventory(
        [
            (2, with(link("eth0", ""), &["192.0.2.11/24"])),
            (3, with(link("eth1", ""), &["198.51.100.11/24"])),
            (4, wireguard),
        ],
        &[2],
    );
    let criteria = Criteria {
        devices: vec!["eth1".to_owned(), "wg0".to_owned()],
        ..Criteria::default()
    };
    assert_eq!(
        roles(&node, &criteria),
        [
            row("eth0", Role::Pod, false),
            row("eth1", Role::Uplink, true),
            row("wg0", Role::Uplink, false),
        ]
    );
}

#[test]
fn hardware_that_cannot_be_parsed_is_not_covered() {
    let mut infiniband = with(link("ib0", ""), &["192.0.2.11/24"]);
    infiniband.hardware = 32;
    assert_eq!(
        roles(&inventory([(2, infiniband)], &[2]), &Criteria::default()),
        []
    );
}

#[test]
fn the_source_address_is_the_device_s_own_or_that_of_the_default_uplink() {
    let mut eth0 = with(
        link("eth0", ""),
        &[
            "169.254.7.7/16",
            "192.0.2.11/24",
            "fe80::1/64",
            "2001:db8::b/64",
        ],
    );
    eth0.addresses[0].global = false;
    let mut eth1 = with(link("eth1", ""), &["198.51.100.1/24", "198.51.100.2/24"]);
    eth1.addresses[0].primary = false;
    let node = inventory([(2, eth1), (3, eth0), (4, link("cali1", "veth"))], &[3]);
    let devices = classify(&node, &Criteria::default());
    assert_eq!(devices[&3].value.address4, [192, 0, 2, 11]);
    assert_eq!(devices[&2].value.address4, [198, 51, 100, 2]);
    assert_eq!(devices[&4].value.address4, [192, 0, 2, 11]);
    let v6: std::net::Ipv6Addr = "2001:db8::b".parse().expect("an address");
    for index in [2, 3, 4] {
        assert_eq!(devices[&index].value.address6, v6.octets());
    }
}

#[test]
fn an_mtu_beyond_16_bits_is_cut() {
    let mut big = link("eth0", "");
    big.mtu = 65536;
    let devices = classify(&inventory([(2, big)], &[2]), &Criteria::default());
    assert_eq!(devices[&2].value.mtu, 65535);
}
