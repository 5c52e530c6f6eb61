//! The node that a scenario happens on: its name, devices, addresses and routes, as a file describes them.
//!
//! ```text
//! name n1
//! device eth0 uplink 192.168.88.11
//! device pod1 pod 10.244.1.1
//! route 10.244.2.0/24 eth0 via 192.168.88.12
//! ```
//!
//! Kinds of devices: `uplink`, `overlay`, `pod`. After a device's kind come its addresses, the first of a family being its primary one, and
//! `mtu=N`. After a route's device: `via` a neighbour (without, the destination itself), `mtu=N`, `from` a source address (else the device's
//! own), `unresolved` (the neighbour's link-layer address is not known).
//!
//! Owns that description and what follows from it: routing and link-layer addresses. Refuses to know the datapath's decisions. Invariant: the
//! kernel's answers to the datapath and the stack's own routing come from the same lines.

use std::net::IpAddr;

use ipnet::IpNet;
use nodeport_common::{Device, NextHop, V4, V6, device_flags};
use nodeport_ebpf::sim::{Node, Route as SimRoute, SimFamily};
use nodeport_ebpf::tables::RouteStatus;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// The node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// Device `n` has the index `n + FIRST_INDEX`.
    pub(crate) devices: Vec<NodeDevice>,
    pub(crate) routes: Vec<Route>,
}

const FIRST_INDEX: u32 = 2;

/// A device.
#[derive(Clone, Debug)]
pub(crate) struct NodeDevice {
    pub(crate) name: String,
    pub(crate) flags: u32,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mtu: u16,
}

/// A route.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) to: IpNet,
    pub(crate) device: u32,
    pub(crate) via: IpAddr,
    pub(crate) source: Option<IpAddr>,
    pub(crate) mtu: u16,
    pub(crate) is_resolved: bool,
}

impl Place {
    /// Reads a description.
    ///
    /// # Panics
    /// It has another form.
    pub(crate) fn parse(text: &str) -> Self {
        let mut place = Self::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [] => {}
                ["name", name] => name.clone_into(&mut place.name),
                ["device", name, kind, ref more @ ..] => place.add_device(name, kind, more),
                ["route", to, device, ref more @ ..] => place.add_route(to, device, more),
                _ => panic!("{line:?} says nothing about a node"),
            }
        }
        place
    }

    fn add_device(&mut self, name: &str, kind: &str, more: &[&str]) {
        let flags = match kind {
            "uplink" => device_flags::UPLINK | device_flags::XDP_TARGET,
            "overlay" => device_flags::OVERLAY,
            "pod" => device_flags::POD,
            _ => panic!("{kind:?} is no kind of device"),
        };
        let mut device = NodeDevice {
            name: name.to_owned(),
            flags,
            addresses: Vec::new(),
            mtu: 1500,
        };
        for word in more {
            match word.strip_prefix("mtu=") {
                Some(mtu) => device.mtu = mtu.parse().expect("an MTU"),
                None => device.addresses.push(word.parse().expect("an address")),
            }
        }
        self.devices.push(device);
    }

    fn add_route(&mut self, to: &str, device: &str, more: &[&str]) {
        let to: IpNet = to.parse().unwrap_or_else(|_| panic!("{to:?}: no network"));
        let device = self.index(device);
        let mut route = Route {
            to,
            device,
            via: to.addr(),
            source: None,
            mtu: self.device(device).mtu,
            is_resolved: true,
        };
        let mut words = more.iter();
        while let Some(word) = words.next() {
            let mut address = || {
                let next = words.next().expect("an address");
                next.parse().expect("an address")
            };
            match *word {
                "via" => route.via = address(),
                "from" => route.source = Some(address()),
                "unresolved" => route.is_resolved = false,
                _ => {
                    let mtu = word.strip_prefix("mtu=").expect("via, from, mtu=");
                    route.mtu = mtu.parse().expect("an MTU");
                }
            }
        }
        self.routes.push(route);
    }

    /// The index of a device.
    pub(crate) fn index(&self, name: &str) -> u32 {
        let position = self.devices.iter().position(|device| device.name == name);
        let position = position.unwrap_or_else(|| panic!("no device {name:?}"));
        position as u32 + FIRST_INDEX
    }

    /// The device with an index.
    pub(crate) fn device(&self, index: u32) -> &NodeDevice {
        &self.devices[(index - FIRST_INDEX) as usize]
    }

    /// Every device with its index.
    pub(crate) fn indexed(&self) -> impl Iterator<Item = (u32, &NodeDevice)> {
        (FIRST_INDEX..).zip(&self.devices)
    }

    /// Whether an address is one of the node's own.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        self.devices
            .iter()
            .any(|device| device.addresses.contains(&address))
    }

    /// The route towards an address.
    pub(crate) fn route(&self, to: IpAddr) -> Option<&Route> {
        self.routes
            .iter()
            .filter(|route| route.to.contains(&to))
            .max_by_key(|route| route.to.prefix_len())
    }

    /// What the kernel knows: the routing tables of a simulated node.
    pub(crate) fn equip(&self, node: &mut Node) {
        node.v4.routes = self.sim_routes(|ip| match ip {
            IpAddr::V4(ip) => Some(ip.octets()),
            IpAddr::V6(_) => None,
        });
        node.v6.routes = self.sim_routes(|ip| match ip {
            IpAddr::V6(ip) => Some(ip.octets()),
            IpAddr::V4(_) => None,
        });
    }

    fn sim_routes<A: SimFamily>(&self, own: impl Fn(IpAddr) -> Option<A>) -> Vec<SimRoute<A>> {
        let none = A::UNSPECIFIED;
        let forwarding = self.routes.iter().map(|route| {
            let status = if route.is_resolved {
                RouteStatus::Known
            } else {
                RouteStatus::NeedsNeighbour
            };
            let hop = NextHop {
                device: route.device,
                mtu: route.mtu,
                destination_mac: neighbour_mac(route.via),
                source_mac: device_mac(route.device),
                ..NextHop::default()
            };
            let primary = self.device(route.device).addresses.iter();
            let primary = primary.copied().find_map(&own);
            let source = route.source.and_then(&own).or(primary).unwrap_or(none);
            (route.to, status, hop, source)
        });
        let addresses = self.devices.iter().flat_map(|device| &device.addresses);
        let local = addresses.map(|address| {
            let hop = NextHop::default();
            (IpNet::from(*address), RouteStatus::None, hop, none)
        });
        forwarding
            .chain(local)
            .filter_map(|(to, status, hop, source)| {
                Some(SimRoute {
                    network: own(to.addr())?,
                    prefix: usize::from(to.prefix_len()),
                    status,
                    hop,
                    source,
                })
            })
            .collect()
    }
}

impl NodeDevice {
    /// What the agent tells the programs about the device.
    pub(crate) fn entry(&self, index: u32) -> Device {
        let v4 = self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(ip) => Some(ip.octets()),
            IpAddr::V6(_) => None,
        });
        let v6 = self.addresses.iter().find_map(|address| match address {
            IpAddr::V6(ip) => Some(ip.octets()),
            IpAddr::V4(_) => None,
        });
        Device {
            flags: self.flags,
            address4: v4.unwrap_or(V4::default()),
            address6: v6.unwrap_or(V6::default()),
            mac: device_mac(index),
            mtu: self.mtu,
            pad: [0; 2],
        }
    }
}

/// The hardware address of one of the node's devices.
pub(crate) fn device_mac(index: u32) -> Mac {
    [2, 0xaa, 0, 0, 0, index as u8]
}

/// The hardware address of a neighbour, which is told by its address.
pub(crate) fn neighbour_mac(address: IpAddr) -> Mac {
    let octets = match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => [&ip.octets()[5..8], &ip.octets()[15..]].concat(),
    };
    [2, 0xbb, octets[0], octets[1], octets[2], octets[3]]
}
