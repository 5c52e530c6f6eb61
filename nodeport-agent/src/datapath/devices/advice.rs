//! Settings of devices that keep packets from being carried (edge-cases F10, H2).
//!
//! Owns the conditions and their words. Refuses to change a setting. Invariant: whatever is said names the setting and its remedy.

use std::collections::BTreeMap;

use super::classify::{Covered, Criteria, Role};
use super::inventory::Inventory;

/// Reads a setting below `/proc/sys/net`, such as `ipv4/conf/eth0/forwarding`.
pub type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What the operator should know about the settings of covered devices.
#[must_use]
pub fn advice(
    inventory: &Inventory,
    covered: &BTreeMap<u32, Covered>,
    criteria: &Criteria,
    read: Read<'_>,
) -> Vec<String> {
    let names = criteria.devices.iter();
    let missing = names.filter(|&name| inventory.links.values().all(|link| link.name != *name));
    let mut found: Vec<String> = missing
        .map(|name| format!("--devices names {name}, which does not exist (yet)"))
        .collect();
    let uplinks = covered
        .iter()
        .filter(|(_, device)| device.role == Role::Uplink);
    let several = uplinks.clone().count() > 1;
    for (index, device) in uplinks {
        let name = &device.name;
        let is = |family: &str, setting: &str, value: &str| {
            read(&format!("{family}/conf/{name}/{setting}")).as_deref() == Some(value)
        };
        let addresses = inventory
            .links
            .get(index)
            .map_or(&[][..], |link| &link.addresses);
        for (family, used) in [
            ("ipv4", addresses.iter().any(|one| one.address.is_ipv4())),
            (
                "ipv6",
                addresses
                    .iter()
                    .any(|one| one.global && one.address.is_ipv6()),
            ),
        ] {
            if used && is(family, "forwarding", "0") {
                found.push(format!(
                    "net.{family}.conf.{name}.forwarding is 0: packets that come in by {name} cannot be forwarded to Pods; set it to 1"
                ));
            }
        }
        // The kernel takes the stricter of the device's own setting and that for all.
        let strict = |name: &str| {
            let setting = read(&format!("ipv4/conf/{name}/rp_filter"))?;
            setting.parse::<u8>().ok()
        };
        if several && strict("all").max(strict(name)) == Some(1) {
            found.push(format!(
                "net.ipv4.conf.{name}.rp_filter is strict and there are several uplinks: packets of clients that are reached by another one are \
                 dropped by the kernel; set it to 2 (loose)"
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::classify::classify;
    use super::super::inventory::{Assigned, Link, hardware};
    use super::*;
    use crate::datapath::attach::XdpState;

    fn node(uplinks: &[(u32, &str, &str)]) -> (Inventory, BTreeMap<u32, Covered>) {
        let mut inventory = Inventory::default();
        for &(index, name, address) in uplinks {
            let link = Link {
                name: name.to_owned(),
                kind: String::new(),
                hardware: hardware::ETHER,
                up: true,
                controller: None,
                mac: [0; 6],
                mtu: 1500,
                has_peer: false,
                xdp: XdpState::default(),
                addresses: vec![Assigned {
                    address: address.parse().expect("an address"),
                    prefix: 24,
                    global: true,
                    primary: true,
                }],
            };
            inventory.links.insert(index, link);
        }
        let covered = classify(&inventory, &Criteria::default());
        (inventory, covered)
    }

    fn said(uplinks: &[(u32, &str, &str)], settings: &[(&str, &str)]) -> Vec<String> {
        let (inventory, covered) = node(uplinks);
        let read = |path: &str| {
            let found = settings.iter().find(|(name, _)| *name == path);
            found.map(|(_, value)| (*value).to_owned())
        };
        advice(&inventory, &covered, &Criteria::default(), &read)
    }

    #[test]
    fn a_named_device_that_is_missing_is_told() {
        let (inventory, _) = node(&[(2, "eth0", "192.0.2.11")]);
        let criteria = Criteria {
            devices: vec!["eth0".to_owned(), "eth7".to_owned()],
            ..Criteria::default()
        };
        let covered = classify(&inventory, &criteria);
        assert_eq!(
            advice(&inventory, &covered, &criteria, &|_| None),
            ["--devices names eth7, which does not exist (yet)"]
        );
    }

    #[test]
    fn forwarding_is_only_missed_where_the_family_is_used_f10() {
        let off = [
            ("ipv4/conf/eth0/forwarding", "0"),
            ("ipv6/conf/eth0/forwarding", "0"),
        ];
        let found = said(&[(2, "eth0", "192.0.2.11")], &off);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("net.ipv4.conf.eth0.forwarding is 0"),
            "{found:?}"
        );
        let found = said(&[(2, "eth0", "2001:db8::1")], &off);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("net.ipv6.conf.eth0.forwarding is 0"),
            "{found:?}"
        );
        let on = [("ipv4/conf/eth0/forwarding", "1")];
        assert!(said(&[(2, "eth0", "192.0.2.11")], &on).is_empty());
    }

    #[test]
    fn a_strict_path_filter_matters_with_several_uplinks_h2() {
        let two = [(2, "eth0", "192.0.2.11"), (3, "eth1", "198.51.100.11")];
        let strict = [
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/eth0/rp_filter", "1"),
            ("ipv4/conf/eth1/rp_filter", "2"),
        ];
        let found = said(&two, &strict);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("eth0.rp_filter is strict"), "{found:?}");
        assert!(said(&two[..1], &strict).is_empty());
        let loose = [
            ("ipv4/conf/all/rp_filter", "2"),
            ("ipv4/conf/eth0/rp_filter", "1"),
        ];
        assert!(said(&two, &loose).is_empty());
    }
}
