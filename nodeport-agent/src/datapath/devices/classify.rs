//! Which devices get programs, and what each is for (design, "Which devices").
//!
//! Owns the rules. Refuses to know names of CNIs, netlink and maps. Invariant: it is a pure function of inventory and criteria;
//! a device that carries packets into or out of this node's IP stack is covered, every other one is not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nodeport_common::{Device, device_flags};

use super::inventory::{Inventory, Link, hardware};

/// Kinds of devices behind which Pods of other nodes are.
const OVERLAYS: &[&str] = &[
    "vxlan",
    "geneve",
    "gre",
    "gretap",
    "erspan",
    "ip6gre",
    "ip6gretap",
    "ip6erspan",
    "ipip",
    "ip6tnl",
    "sit",
    "vti",
    "vti6",
    "xfrm",
    "wireguard",
    "bareudp",
    "amt",
    "gtp",
    "ovpn",
];
/// Kinds that no packet from outside comes out of.
const IGNORED: &[&str] = &["dummy", "ifb", "nlmon", "vrf", "vcan", "vxcan", "netdevsim"];
/// Kinds that a cluster's wire may end in; hardware has no kind.
const WIRES: &[&str] = &["", "veth", "vlan", "bond", "team", "macvlan", "ipvlan"];

/// What the operator and the cluster say about this node.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Criteria {
    /// Names of the uplinks; found out if empty.
    pub devices: Vec<String>,
    /// `status.addresses` of the own Node object, as far as it is known.
    pub node_addresses: BTreeSet<IpAddr>,
}

/// What a device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Clients behind it are not Pods of this node.
    Uplink,
    /// Pods of other nodes are behind it.
    Overlay,
    /// Leads to Pods of this node.
    Pod,
}

/// A device that gets programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// Name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Whether an XDP program belongs on it.
    pub xdp: bool,
    /// What the programs are told of it, without [`device_flags::XDP_TARGET`].
    pub value: Device,
}

/// The devices that get programs, by index.
#[must_use]
pub fn classify(inventory: &Inventory, criteria: &Criteria) -> BTreeMap<u32, Covered> {
    let roles: BTreeMap<u32, Role> = inventory
        .links
        .iter()
        .filter_map(|(&index, link)| Some((index, role(inventory, index, link, criteria)?)))
        .collect();
    let fallback = Fallback::of(inventory, &roles);
    roles
        .into_iter()
        .filter_map(|(index, role)| {
            let link = inventory.links.get(&index)?;
            let value = value(link, role, &fallback);
            let ethernet = value.flags & device_flags::NO_ETHERNET == 0;
            let covered = Covered {
                name: link.name.clone(),
                role,
                xdp: role == Role::Uplink && ethernet,
                value,
            };
            Some((index, covered))
        })
        .collect()
}

/// What a device is for; `None` if it gets no programs.
fn role(inventory: &Inventory, index: u32, link: &Link, criteria: &Criteria) -> Option<Role> {
    let known =
        link.hardware == hardware::ETHER || hardware::WITHOUT_HEADER.contains(&link.hardware);
    if !known || IGNORED.contains(&link.kind.as_str()) || is_port(inventory, link) {
        return None;
    }
    if criteria.devices.contains(&link.name) {
        return Some(Role::Uplink);
    }
    // A tun device has no Ethernet header and leads into a tunnel; a tap device, of the same kind, leads to a virtual machine.
    let tunnel = OVERLAYS.contains(&link.kind.as_str())
        || (link.kind == "tun" && link.hardware != hardware::ETHER);
    if tunnel {
        // Every network namespace has such devices as soon as their module is loaded, down and unused.
        return link.up.then_some(Role::Overlay);
    }
    let uplink = criteria.devices.is_empty() && is_uplink(inventory, index, link, criteria);
    Some(if uplink { Role::Uplink } else { Role::Pod })
}

/// Whether packets of this device go to its controller instead of the IP stack. A VRF is a controller that does not take them.
fn is_port(inventory: &Inventory, link: &Link) -> bool {
    link.controller.is_some_and(|controller| {
        inventory
            .links
            .get(&controller)
            .is_none_or(|device| device.kind != "vrf")
    })
}

/// Carries a default route or a node address; or is a wire with a network of its own, such as a second uplink. A host's end of a
/// Pod's veth has no address, or one without a network (/32, /128, link-local).
fn is_uplink(inventory: &Inventory, index: u32, link: &Link, criteria: &Criteria) -> bool {
    let carries_node_address = link
        .addresses
        .iter()
        .any(|assigned| criteria.node_addresses.contains(&assigned.address));
    let has_network = link.addresses.iter().any(|assigned| {
        let bits = if assigned.address.is_ipv4() { 32 } else { 128 };
        assigned.global && assigned.prefix < bits && !is_link_local(assigned.address)
    });
    inventory.default_routes.contains(&index)
        || carries_node_address
        || (has_network && WIRES.contains(&link.kind.as_str()))
}

/// 169.254/16 is often configured with global scope.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Addresses for packets that leave by a device without one, as the kernel borrows them from another device.
#[derive(Debug, Default)]
struct Fallback {
    v4: [u8; 4],
    v6: [u8; 16],
}

impl Fallback {
    /// Of the uplinks with a default route first, then of the other uplinks.
    fn of(inventory: &Inventory, roles: &BTreeMap<u32, Role>) -> Self {
        let mut uplinks: Vec<(bool, u32)> = roles
            .iter()
            .filter(|(_, role)| **role == Role::Uplink)
            .map(|(&index, _)| (!inventory.default_routes.contains(&index), index))
            .collect();
        uplinks.sort_unstable();
        let links = || {
            uplinks
                .iter()
                .filter_map(|(_, index)| inventory.links.get(index))
        };
        Self {
            v4: links().find_map(primary4).unwrap_or_default(),
            v6: links().find_map(primary6).unwrap_or_default(),
        }
    }
}

fn primary4(link: &Link) -> Option<[u8; 4]> {
    link.addresses.iter().find_map(|one| match one.address {
        IpAddr::V4(address) if one.global && one.primary => Some(address.octets()),
        _ => None,
    })
}

fn primary6(link: &Link) -> Option<[u8; 16]> {
    link.addresses.iter().find_map(|one| match one.address {
        IpAddr::V6(address) if one.global && one.primary => Some(address.octets()),
        _ => None,
    })
}

/// What the programs are told of a device.
fn value(link: &Link, role: Role, fallback: &Fallback) -> Device {
    let mut flags = match role {
        Role::Uplink => device_flags::UPLINK,
        Role::Overlay => device_flags::OVERLAY,
        Role::Pod => device_flags::POD,
    };
    if link.hardware != hardware::ETHER {
        flags |= device_flags::NO_ETHERNET;
    }
    if role == Role::Pod && link.has_peer {
        flags |= device_flags::PEER;
    }
    Device {
        flags,
        address4: primary4(link).unwrap_or(fallback.v4),
        address6: primary6(link).unwrap_or(fallback.v6),
        mac: link.mac,
        mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        pad: [0; 2],
    }
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
