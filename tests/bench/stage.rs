//! The stage: client, node, the far end of the wire and a Pod of the node, as four namespaces.
//!
//! ```text
//!  client  bc ──── bu  node  bf ──── bs  sink (backends on other nodes)
//!                            bl ──── bp  pod  (backends on this node)
//! ```
//! Invariant: every address and route is static; nobody asks for neighbours while something is measured.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nodeport_tests::{Netns, Spaces};

use crate::napi::{self, NODE_CORE};

/// The four namespaces.
pub(crate) struct Stage {
    /// What they are made of.
    pub(crate) spaces: Spaces,
}

/// Port of the `NodePort` Service that is measured.
pub(crate) const NODE_PORT: u16 = 30080;
/// Port of its backends.
pub(crate) const BACKEND_PORT: u16 = 8080;
/// Endpoints of each Service.
pub(crate) const ENDPOINTS: u8 = 3;

/// A device of the stage.
pub(crate) struct Device {
    /// Its namespace.
    pub(crate) space: &'static str,
    /// Its name.
    pub(crate) name: &'static str,
    /// Its peer's name.
    peer: &'static str,
    /// Last byte of its link-layer address.
    number: u8,
}

/// Towards the client.
pub(crate) const UPLINK: Device = device("node", "bu", "bc", 2);
/// Towards other nodes.
pub(crate) const FABRIC: Device = device("node", "bf", "bs", 3);
/// Towards the Pod.
pub(crate) const LOCAL: Device = device("node", "bl", "bp", 4);
/// The client's.
pub(crate) const CLIENT: Device = device("client", "bc", "bu", 1);
/// The far end's.
pub(crate) const SINK: Device = device("sink", "bs", "bf", 5);
/// The Pod's.
pub(crate) const POD: Device = device("pod", "bp", "bl", 6);

const OF_NODE: [&Device; 3] = [&UPLINK, &FABRIC, &LOCAL];
const DEVICES: [&Device; 6] = [&UPLINK, &FABRIC, &LOCAL, &CLIENT, &SINK, &POD];

const fn device(space: &'static str, name: &'static str, peer: &'static str, number: u8) -> Device {
    Device {
        space,
        name,
        peer,
        number,
    }
}

impl Device {
    /// Link-layer address.
    pub(crate) fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0xbe, self.number]
    }

    fn mac_text(&self) -> String {
        format!("02:00:00:00:be:{:02x}", self.number)
    }
}

/// The first address of the clients: flows count up its last two bytes.
pub(crate) fn client(v6: bool) -> IpAddr {
    address(v6, "172.16.0.0", "fd00:172::")
}

/// The node's address, with the port of the Service.
pub(crate) fn front_end(v6: bool) -> SocketAddr {
    SocketAddr::new(address(v6, "192.168.88.11", "fd00:88::11"), NODE_PORT)
}

/// An endpoint of the Service, `index` from 0: on the other node, or on this one.
pub(crate) fn backend(v6: bool, local: bool, index: u8) -> SocketAddr {
    let node = if local { 1 } else { 2 };
    let text = if v6 {
        format!("fd00:10:244:{node}::{}", 10 + index)
    } else {
        format!("10.244.{node}.{}", 10 + index)
    };
    let address = text.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]));
    SocketAddr::new(address, BACKEND_PORT)
}

fn address(v6: bool, v4: &str, other: &str) -> IpAddr {
    let text = if v6 { other } else { v4 };
    text.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]))
}

impl Stage {
    /// Makes the namespaces, devices, addresses and routes.
    pub(crate) fn make() -> Result<Self> {
        let stage = Self {
            spaces: Spaces::make(&["client", "node", "sink", "pod"])?,
        };
        stage.settings()?;
        stage.links()?;
        stage.node_lines()?;
        stage.end_lines()?;
        for device in OF_NODE {
            napi::make_threaded(stage.space(device), device.name)?;
        }
        Ok(stage)
    }

    /// The namespace of a device.
    pub(crate) fn space(&self, device: &Device) -> &Netns {
        self.spaces.get(device.space)
    }

    /// Index of a device.
    pub(crate) fn index(&self, device: &Device) -> Result<u32> {
        let text = self
            .space(device)
            .sh(&format!("ip -o link show dev {}", device.name))?;
        let (index, _) = text.split_once(':').context("an interface index")?;
        Ok(index.trim().parse()?)
    }

    /// Puts the node's NAPI threads on their core, and returns them, with the one that carries on what they raised. To be done again after XDP was attached or GRO switched.
    ///
    /// The ends have no such threads: they receive within those of the node that sent to them.
    pub(crate) fn pin() -> Result<Vec<rustix::process::Pid>> {
        let mut threads = vec![napi::softirq_thread(NODE_CORE)?];
        for device in OF_NODE {
            threads.extend(napi::pin(device.name, NODE_CORE)?);
        }
        Ok(threads)
    }

    fn settings(&self) -> Result<()> {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for part in ["client", "node", "sink", "pod"] {
            let mut all = Vec::new();
            for scope in ["all", "default"] {
                all.push(set(&format!("net/ipv4/conf/{scope}/rp_filter"), "0"));
                all.push(set(&format!("net/ipv4/conf/{scope}/send_redirects"), "0"));
                all.push(set(&format!("?net/ipv6/conf/{scope}/accept_dad"), "0"));
                all.push(set(&format!("?net/ipv6/conf/{scope}/accept_ra"), "0"));
                all.push(set(
                    &format!("?net/ipv6/conf/{scope}/router_solicitations"),
                    "0",
                ));
                if part == "node" {
                    all.push(set(&format!("?net/ipv6/conf/{scope}/forwarding"), "1"));
                }
            }
            if part == "node" {
                all.push(set("net/ipv4/ip_forward", "1"));
                all.push(set("net/ipv4/ip_local_port_range", "40000 60999"));
            }
            self.spaces.get(part).sysctl(&all)?;
        }
        Ok(())
    }

    fn links(&self) -> Result<()> {
        for device in [&UPLINK, &FABRIC, &LOCAL] {
            let peer = DEVICES
                .into_iter()
                .find(|end| end.name == device.peer)
                .context("a device's peer")?;
            self.space(device).sh(&format!(
                "ip link add {} address {} type veth peer name {} address {} netns {}",
                device.name,
                device.mac_text(),
                peer.name,
                peer.mac_text(),
                self.space(peer).name(),
            ))?;
        }
        // A wire carries whole packets with whole checksums, and takes redirected ones only with NAPI at its receiving end: GRO makes one.
        for device in DEVICES {
            let mut command = Command::new("ethtool");
            command.args(["-K", device.name, "tx", "off", "sg", "off", "tso", "off"]);
            // A Pod's device is as in any cluster: what arrives waits for this core's backlog.
            let gro = if device.name == POD.name { "off" } else { "on" };
            command.args(["gro", gro]);
            let output = self.space(device).output(&mut command)?;
            if !output.status.success() {
                let error = String::from_utf8_lossy(&output.stderr);
                bail!("ethtool -K {}: {}", device.name, error.trim());
            }
        }
        for device in DEVICES {
            self.space(device)
                .sh(&format!("ip link set {} up", device.name))?;
            self.space(device).sh("ip link set lo up")?;
        }
        Ok(())
    }

    fn node_lines(&self) -> Result<()> {
        let mut lines = vec![
            "address add 192.168.88.11/24 dev bu".to_owned(),
            "address add fd00:88::11/64 dev bu nodad".to_owned(),
            "address add 192.168.99.11/24 dev bf".to_owned(),
            "address add fd00:99::11/64 dev bf nodad".to_owned(),
        ];
        let neighbour = |address: &str, peer: &Device, device: &Device| {
            format!(
                "neighbour replace {address} lladdr {} dev {} nud permanent",
                peer.mac_text(),
                device.name
            )
        };
        for (address, peer, device) in [
            ("192.168.88.1", &CLIENT, &UPLINK),
            ("fd00:88::1", &CLIENT, &UPLINK),
            ("192.168.99.12", &SINK, &FABRIC),
            ("fd00:99::12", &SINK, &FABRIC),
        ] {
            lines.push(neighbour(address, peer, device));
        }
        lines.push("route add 172.16.0.0/16 via 192.168.88.1".to_owned());
        lines.push("route add fd00:172::/64 via fd00:88::1".to_owned());
        lines.push("route add 10.244.2.0/24 via 192.168.99.12".to_owned());
        lines.push("route add fd00:10:244:2::/64 via fd00:99::12".to_owned());
        for index in 0..ENDPOINTS {
            for (v6, bits) in [(false, 32), (true, 128)] {
                let address = backend(v6, true, index).ip();
                lines.push(neighbour(&address.to_string(), &POD, &LOCAL));
                lines.push(format!("route add {address}/{bits} dev bl"));
            }
        }
        self.spaces.get("node").ip(&lines)
    }

    fn end_lines(&self) -> Result<()> {
        let end = |part: &str, device: &Device, peer: &Device, own: [&str; 2], via: [&str; 2]| {
            let mut lines = vec![
                format!("address add {} dev {}", own[0], device.name),
                format!("address add {} dev {} nodad", own[1], device.name),
            ];
            for gateway in via {
                lines.push(format!(
                    "neighbour replace {gateway} lladdr {} dev {} nud permanent",
                    peer.mac_text(),
                    device.name
                ));
                // On-link, because a Pod's gateway is in no network of its own.
                lines.push(format!(
                    "route add default via {gateway} dev {} onlink",
                    device.name
                ));
            }
            if part != "client" {
                for index in 0..ENDPOINTS {
                    for (v6, bits) in [(false, 32), (true, 128)] {
                        let address = backend(v6, part == "pod", index).ip();
                        lines.push(format!("address add {address}/{bits} dev lo"));
                    }
                }
            }
            self.spaces.get(part).ip(&lines)
        };
        end(
            "client",
            &CLIENT,
            &UPLINK,
            ["192.168.88.1/24", "fd00:88::1/64"],
            ["192.168.88.11", "fd00:88::11"],
        )?;
        end(
            "sink",
            &SINK,
            &FABRIC,
            ["192.168.99.12/24", "fd00:99::12/64"],
            ["192.168.99.11", "fd00:99::11"],
        )?;
        end(
            "pod",
            &POD,
            &LOCAL,
            ["10.244.1.9/32", "fd00:10:244:1::9/128"],
            ["169.254.1.1", "fe80::1"],
        )
    }
}
