//! The devices of this network namespace, as far as a service proxy looks at them.
//!
//! Owns their lean form. Refuses to know netlink messages and what is made of a device. Invariant: two equal inventories lead to
//! equal device tables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::datapath::attach::XdpState;

/// Hardware types (`ARPHRD_*`, `linux/if_arp.h`) that we know how to parse frames of.
pub mod hardware {
    /// Ethernet.
    pub const ETHER: u16 = 1;
    /// The loopback device.
    pub const LOOPBACK: u16 = 772;
    /// Types whose packets start at the network header: PPP, IPIP, IP6IP6, SIT, GRE, GRE over IPv6, raw IP, none (tun, wireguard).
    pub const WITHOUT_HEADER: &[u16] = &[512, 768, 769, 776, 778, 823, 519, 0xfffe];
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Name.
    pub name: String,
    /// Kind (`veth`, `vxlan`, ...), empty for hardware.
    pub kind: String,
    /// Hardware type, see [`hardware`].
    pub hardware: u16,
    /// Whether it is administratively up.
    pub up: bool,
    /// Index of the device that it is a port of.
    pub controller: Option<u32>,
    /// Hardware address, zero if it has none.
    pub mac: [u8; 6],
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is a veth whose other end is in another network namespace.
    pub has_peer: bool,
    /// Its XDP program. Says nothing about what the device is for.
    pub xdp: XdpState,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<Assigned>,
}

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// Whether its scope is global (for IPv6 that includes unique local addresses).
    pub global: bool,
    /// Whether the kernel may choose it as a source: not secondary, temporary, deprecated or tentative.
    pub primary: bool,
}

/// All devices, and which of them default routes lead to.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Devices by index.
    pub links: BTreeMap<u32, Link>,
    /// Indexes of devices that a default route of either family leads to.
    pub default_routes: BTreeSet<u32>,
}

impl Inventory {
    /// Every address that is assigned to a device, with the device's index.
    pub fn addresses(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        self.links.iter().flat_map(|(&index, link)| {
            link.addresses
                .iter()
                .map(move |assigned| (index, assigned.address))
        })
    }

    /// The same without what changes as programs come and go.
    #[must_use]
    pub fn without_xdp(&self) -> Self {
        let mut copy = self.clone();
        for link in copy.links.values_mut() {
            link.xdp = XdpState::default();
        }
        copy
    }
}
