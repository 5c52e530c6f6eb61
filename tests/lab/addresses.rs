//! The addresses of the lab: one readable place.
//!
//! Invariant: an address is a function of the number of the node, Pod or link, so a test can write it out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The outside client's first address of each family; a second one ends in 11.
pub const CLIENT: [IpAddr; 2] = [
    v4(203, 0, 113, 10),
    v6([0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10]),
];
/// Another outside client: the same machine under another address.
pub const SECOND_CLIENT: [IpAddr; 2] = [
    v4(203, 0, 113, 11),
    v6([0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x11]),
];
/// The router's address towards the client.
pub const ROUTER_TO_CLIENT: [IpAddr; 2] = [
    v4(203, 0, 113, 1),
    v6([0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1]),
];
/// Prefix lengths of the client's network.
pub const CLIENT_PREFIX: [u8; 2] = [24, 64];
/// Where a Pod sends everything in the routed network: an address that nobody has, with a fixed neighbour entry.
pub const POD_GATEWAY: [IpAddr; 2] = [v4(169, 254, 1, 1), v6([0xfe80, 0, 0, 0, 0, 0, 0, 1])];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(s: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(
        s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7],
    ))
}

/// `10 + number` written in decimal digits but read as hexadecimal, so that `fd00:88::11` stands beside `192.168.88.11`.
fn digits(number: u8) -> u16 {
    let n = u16::from(number) + 10;
    n / 100 * 256 + n / 10 % 10 * 16 + n % 10
}

/// Address of node `number` (from 1) on uplink 0 (`192.168.88.0/24`, `fd00:88::/64`) or 1 (`192.168.89.0/24`, `fd00:89::/64`).
#[must_use]
pub fn node(number: u8, uplink: u8) -> [IpAddr; 2] {
    let net = 0x88 + u16::from(uplink);
    [
        v4(192, 168, 88 + uplink, 10 + number),
        v6([0xfd00, net, 0, 0, 0, 0, 0, digits(number)]),
    ]
}

/// Pod networks of node `number`: `10.244.N.0/24` and `fd00:10:244:N::/64`.
#[must_use]
pub fn pod_cidrs(number: u8) -> [IpNet; 2] {
    [
        net(Ipv4Addr::new(10, 244, number, 0).into(), 24),
        net(
            Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(number), 0, 0, 0, 0).into(),
            64,
        ),
    ]
}

/// Address of Pod `pod` (from 1) of node `number`: `10.244.N.(10+P)` and `fd00:10:244:N::(10+P)`.
#[must_use]
pub fn pod(number: u8, pod: u8) -> [IpAddr; 2] {
    [
        v4(10, 244, number, 10 + pod),
        v6([0xfd00, 0x10, 0x244, u16::from(number), 0, 0, 0, digits(pod)]),
    ]
}

/// Networks that cluster addresses of Services are taken from: `10.96.0.0/16` and `fd00:10:96::/112`.
#[must_use]
pub fn service_cidrs() -> [IpNet; 2] {
    [
        net(Ipv4Addr::new(10, 96, 0, 0).into(), 16),
        net(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0).into(), 112),
    ]
}

/// A network from an address and a prefix length; the length is cut to what the family has.
#[must_use]
pub fn net(address: IpAddr, prefix: u8) -> IpNet {
    match address {
        IpAddr::V4(a) => IpNet::V4(Ipv4Net::new_assert(a, prefix.min(32))),
        IpAddr::V6(a) => IpNet::V6(Ipv6Net::new_assert(a, prefix.min(128))),
    }
}

/// The network of one address.
#[must_use]
pub fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// The smallest network that holds all these addresses of one family: a node's connected network, at most /24 or /64.
#[must_use]
pub fn common_network(addresses: &[IpAddr]) -> Option<IpNet> {
    let first = *addresses.first()?;
    let longest = if first.is_ipv4() { 24 } else { 64 };
    (1..=longest)
        .rev()
        .map(|len| net(first, len).trunc())
        .find(|net| addresses.iter().all(|a| net.contains(a)))
}

/// The first host address of a network that is not taken.
#[must_use]
pub fn free_host(network: IpNet, taken: &[IpAddr]) -> Option<IpAddr> {
    network
        .hosts()
        .skip(usize::from(network.network().is_ipv6()))
        .find(|a| !taken.contains(a))
}

/// A hardware address of the lab: locally administered, `kind` and numbers in the last octets.
#[must_use]
pub fn mac(kind: u8, node: u8, index: u8) -> String {
    format!("02:4e:50:{kind:02x}:{node:02x}:{index:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_documented() {
        assert_eq!(
            node(1, 0).map(|a| a.to_string()),
            ["192.168.88.11", "fd00:88::11"]
        );
        assert_eq!(
            node(2, 1).map(|a| a.to_string()),
            ["192.168.89.12", "fd00:89::12"]
        );
        assert_eq!(
            pod(3, 2).map(|a| a.to_string()),
            ["10.244.3.12", "fd00:10:244:3::12"]
        );
        assert_eq!(
            pod(3, 95).map(|a| a.to_string()),
            ["10.244.3.105", "fd00:10:244:3::105"]
        );
        assert_eq!(
            pod_cidrs(2).map(|a| a.to_string()),
            ["10.244.2.0/24", "fd00:10:244:2::/64"]
        );
    }

    #[test]
    fn a_connected_network_holds_all_nodes() {
        let parse = |list: &[&str]| -> Vec<IpAddr> {
            list.iter()
                .map(|a| a.parse().expect("an address"))
                .collect()
        };
        let common = |list: &[&str]| common_network(&parse(list)).map(|n| n.to_string());
        assert_eq!(
            common(&["172.18.0.2", "172.18.0.4"]).as_deref(),
            Some("172.18.0.0/24")
        );
        assert_eq!(
            common(&["10.0.1.5", "10.0.2.7"]).as_deref(),
            Some("10.0.0.0/22")
        );
        assert_eq!(common(&["fd00:88::11"]).as_deref(), Some("fd00:88::/64"));
        assert_eq!(common(&["10.0.0.1", "200.0.0.1"]), None);
        assert_eq!(common(&[]), None);
    }

    #[test]
    fn the_router_takes_an_address_that_no_node_has() {
        let net: IpNet = "172.18.0.0/24".parse().expect("a network");
        let taken: Vec<IpAddr> = ["172.18.0.1", "172.18.0.2"]
            .iter()
            .map(|a| a.parse().expect("an address"))
            .collect();
        assert_eq!(
            free_host(net, &taken).map(|a| a.to_string()).as_deref(),
            Some("172.18.0.3")
        );
        let net6: IpNet = "fd00:88::/64".parse().expect("a network");
        assert_eq!(
            free_host(net6, &[]).map(|a| a.to_string()).as_deref(),
            Some("fd00:88::1")
        );
    }
}
