//! From a spec to what each namespace needs: settings, devices, addresses and routes.
//!
//! Pure: it makes nothing itself. Invariant: a [`Setup`] touches one namespace only, so all can be applied side by side.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::addresses::{POD_GATEWAY, free_host, host, mac, net};
use crate::spec::{LabSpec, NodeSpec, PodNetwork, PodSpec, ReversePath};
use crate::topology::{
    FABRIC_MAC, Fabric, VTEP_MAC, family_of, node_address, pod_networks, port_name,
};

/// What a namespace does with packets that are not for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Drops them.
    Host,
    /// Forwards them.
    Router,
    /// Forwards them, after it looked at where they come from.
    Node,
}

/// What one namespace needs.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Its name.
    pub(crate) netns: String,
    /// Written before any device is made, because devices copy the defaults.
    pub(crate) sysctls: Vec<(String, String)>,
    /// Lines for `ip -batch`, once the links are there.
    pub(crate) lines: Vec<String>,
    /// Lines for `bridge -batch`, after those.
    pub(crate) fdb: Vec<String>,
    /// Devices that stand for an end of a wire: see [`WIRE_OFFLOADS`].
    pub(crate) wires: Vec<String>,
}

/// `ethtool -K` words for an end of a wire. A wire carries whole packets with whole checksums (after `XDP_REDIRECT` the mark
/// of a partial checksum is lost), and `XDP_REDIRECT` towards a veth needs the NAPI that GRO makes at the other end.
pub(crate) const WIRE_OFFLOADS: [&str; 8] = ["tx", "off", "sg", "off", "tso", "off", "gro", "on"];

impl Setup {
    pub(crate) fn new(netns: String, spec: &LabSpec, role: Role) -> Self {
        let lines = vec!["link set lo up".to_owned()];
        Self {
            netns,
            sysctls: sysctls(spec, role),
            lines,
            fdb: Vec::new(),
            wires: Vec::new(),
        }
    }

    pub(crate) fn line(&mut self, line: String) {
        self.lines.push(line);
    }

    pub(crate) fn wire(&mut self, device: &str) {
        self.wires.push(device.to_owned());
        self.line(format!("link set {device} up"));
    }

    pub(crate) fn address(&mut self, address: IpNet, device: &str) {
        self.line(format!(
            "address add {address} dev {device} {}",
            nodad(address)
        ));
    }

    /// An address that is used only by those who ask for it: deprecated, as the kernel would prefer the newest one of IPv6.
    pub(crate) fn spare_address(&mut self, address: IpNet, device: &str) {
        self.line(format!(
            "address add {address} dev {device} preferred_lft 0 {}",
            nodad(address)
        ));
    }

    /// The family is that of `to`, or of the gateway in `how` if `to` is `default`.
    pub(crate) fn route(&mut self, to: &str, how: &str) {
        self.line(format!("route add {to} {how}"));
    }

    /// The bridge that is the fabric, the router's addresses on it, and the ports of all nodes.
    pub(crate) fn fabric_bridge(&mut self, spec: &LabSpec, fabric: &Fabric) {
        let bridge = format!("fabric{}", fabric.number);
        let address = mac(FABRIC_MAC, 0, fabric.number);
        self.line(format!(
            "link add {bridge} address {address} type bridge stp_state 0 mcast_snooping 0"
        ));
        self.line(format!("link set {bridge} up"));
        let mut ports: Vec<_> = (1..=spec.nodes.len())
            .map(|n| port_name(n as u8, fabric.number))
            .collect();
        if fabric.number == 0 && !spec.outsider.is_empty() {
            ports.push("outsider0".to_owned());
        }
        for port in ports {
            self.line(format!("link set {port} addrgenmode none master {bridge}"));
            self.wire(&port);
        }
        for family in spec.used_families() {
            self.address(fabric.attach(fabric.router[family]), &bridge);
            if fabric.network[family].is_none() {
                for index in 0..spec.nodes.len() {
                    if let Some(node) = node_address(spec, index, fabric.number, family) {
                        self.route(&host(node).to_string(), &format!("dev {bridge}"));
                    }
                }
            }
        }
    }

    /// A node's device on a fabric: addresses, the way to the other nodes, the default route by the first.
    pub(crate) fn uplink(&mut self, spec: &LabSpec, fabric: &Fabric, index: usize, device: &str) {
        self.wire(device);
        for family in spec.used_families() {
            let Some(address) = node_address(spec, index, fabric.number, family) else {
                continue;
            };
            self.address(fabric.attach(address), device);
            if fabric.network[family].is_none() {
                let others = (0..spec.nodes.len()).filter(|i| *i != index);
                for other in others.filter_map(|i| node_address(spec, i, fabric.number, family)) {
                    self.route(&host(other).to_string(), &format!("dev {device}"));
                }
            }
            if fabric.number == 0 {
                self.route(
                    "default",
                    &format!("via {} dev {device} onlink", fabric.router[family]),
                );
            }
        }
    }

    /// Routes to the Pods of the other nodes, as a routing CNI or an overlay CNI sets them.
    pub(crate) fn other_nodes(&mut self, spec: &LabSpec, index: usize) {
        let vxlan = spec.pod_network == PodNetwork::Vxlan;
        if vxlan {
            self.vxlan_device(spec, index);
        }
        for (other, node) in spec.nodes.iter().enumerate().filter(|(i, _)| *i != index) {
            for cidr in pod_networks(spec, node) {
                let family = family_of(cidr.addr());
                let how = if vxlan {
                    vtep_address(node, family).map(|via| format!("via {via} dev vxlan0 onlink"))
                } else {
                    node_address(spec, other, 0, family).map(|via| format!("via {via} dev eth0"))
                };
                if let Some(how) = how {
                    self.route(&cidr.to_string(), &how);
                }
            }
        }
    }

    /// `vxlan0` with fixed forwarding and neighbour entries: nothing is learnt, nothing is flooded.
    fn vxlan_device(&mut self, spec: &LabSpec, index: usize) {
        let underlay = usize::from(!spec.families[0]);
        let Some(local) = node_address(spec, index, 0, underlay) else {
            return;
        };
        self.line(format!(
            "link add vxlan0 address {} mtu {} type vxlan id 1 dev eth0 local {local} dstport 8472 nolearning",
            mac(VTEP_MAC, index as u8 + 1, 0),
            pod_mtu(spec),
        ));
        self.line("link set vxlan0 up".to_owned());
        for family in spec.used_families() {
            if let Some(address) = vtep_address(&spec.nodes[index], family) {
                self.address(host(address), "vxlan0");
            }
        }
        for (other, node) in spec.nodes.iter().enumerate().filter(|(i, _)| *i != index) {
            let vtep = mac(VTEP_MAC, other as u8 + 1, 0);
            if let Some(remote) = node_address(spec, other, 0, underlay) {
                self.fdb
                    .push(format!("fdb append {vtep} dev vxlan0 dst {remote}"));
            }
            for address in spec
                .used_families()
                .filter_map(|family| vtep_address(node, family))
            {
                self.line(format!(
                    "neigh replace {address} lladdr {vtep} dev vxlan0 nud permanent"
                ));
            }
        }
    }

    pub(crate) fn pod_bridge(&mut self, spec: &LabSpec, node: &NodeSpec) {
        self.line("link add cni0 type bridge stp_state 0 mcast_snooping 0".to_owned());
        self.line("link set cni0 up".to_owned());
        for address in spec
            .used_families()
            .filter_map(|family| bridge_address(node, family))
        {
            self.address(address, "cni0");
        }
    }

    /// The node's end of a Pod's veth.
    pub(crate) fn pod_peer(&mut self, spec: &LabSpec, pod: &PodSpec, device: &str, pod_mac: &str) {
        if spec.pod_network == PodNetwork::Bridge {
            self.line(format!("link set {device} master cni0 up"));
            self.line(format!("link set {device} type bridge_slave hairpin on"));
            return;
        }
        self.line(format!("link set {device} mtu {} up", pod_mtu(spec)));
        for address in pod.addresses.iter().filter(|a| spec.uses(**a)) {
            self.route(&host(*address).to_string(), &format!("dev {device}"));
            self.line(format!(
                "neigh replace {address} lladdr {pod_mac} dev {device} nud permanent"
            ));
        }
    }
}

/// `/proc/sys` settings; written before devices are made.
fn sysctls(spec: &LabSpec, role: Role) -> Vec<(String, String)> {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut all = Vec::new();
    for scope in ["all", "default"] {
        let v4 = format!("net/ipv4/conf/{scope}");
        let v6 = format!("?net/ipv6/conf/{scope}");
        all.push(set(&format!("{v6}/accept_dad"), "0"));
        all.push(set(&format!("{v6}/accept_ra"), "0"));
        all.push(set(&format!("{v6}/router_solicitations"), "0"));
        // A router that sends a packet back to where it came from would teach the sender another way.
        all.push(set(&format!("{v4}/send_redirects"), "0"));
        // Only nodes validate: the router has no route to sources that tests make up.
        let reverse_path = match spec.reverse_path {
            ReversePath::Strict if role == Role::Node => "1",
            ReversePath::Loose if role == Role::Node => "2",
            _ => "0",
        };
        all.push(set(&format!("{v4}/rp_filter"), reverse_path));
        if role != Role::Host {
            all.push(set(&format!("{v6}/forwarding"), "1"));
        }
    }
    if role != Role::Host {
        all.push(set("net/ipv4/ip_forward", "1"));
    }
    // Rejects are ICMP errors: with the usual limit some of them would be missing.
    all.push(set("net/ipv4/icmp_ratelimit", "0"));
    all.push(set("?net/ipv6/icmp/ratelimit", "0"));
    all.push(set("net/ipv4/ping_group_range", "0 2147483647"));
    all
}

/// A Pod: its device, addresses and the way out.
pub(crate) fn pod_setup(
    spec: &LabSpec,
    node: &NodeSpec,
    pod: &PodSpec,
    netns: String,
    peer_mac: &str,
) -> Setup {
    let mut setup = Setup::new(netns, spec, Role::Host);
    setup.line(format!("link set eth0 mtu {} up", pod_mtu(spec)));
    for address in pod.addresses.iter().copied().filter(|a| spec.uses(*a)) {
        let prefix = match (spec.pod_network, cidr_of(node, address)) {
            (PodNetwork::Bridge, Some(cidr)) => cidr.prefix_len(),
            _ => host(address).prefix_len(),
        };
        setup.address(net(address, prefix), "eth0");
    }
    for family in spec.used_families() {
        let bridge = (spec.pod_network == PodNetwork::Bridge).then(|| bridge_address(node, family));
        let gateway = bridge
            .flatten()
            .map_or(POD_GATEWAY[family], |bridge| bridge.addr());
        if gateway == POD_GATEWAY[family] {
            setup.line(format!(
                "neigh replace {gateway} lladdr {peer_mac} dev eth0 nud permanent"
            ));
        }
        setup.route("default", &format!("via {gateway} dev eth0 onlink"));
    }
    setup
}

/// Without duplicate address detection an IPv6 address is there at once.
fn nodad(address: IpNet) -> &'static str {
    if address.addr().is_ipv6() {
        "nodad"
    } else {
        ""
    }
}

fn cidr_of(node: &NodeSpec, address: IpAddr) -> Option<IpNet> {
    node.pod_cidrs
        .iter()
        .copied()
        .find(|cidr| cidr.contains(&address))
}

/// Address of `vxlan0`: the network address of the node's Pods, which no Pod has.
fn vtep_address(node: &NodeSpec, family: usize) -> Option<IpAddr> {
    node.pod_cidrs
        .iter()
        .map(IpNet::network)
        .find(|a| family_of(*a) == family)
}

/// The addresses of a node's `vxlan0`, if the lab has an overlay.
pub(crate) fn overlay_addresses(spec: &LabSpec, node: &NodeSpec) -> Vec<IpAddr> {
    if spec.pod_network != PodNetwork::Vxlan {
        return Vec::new();
    }
    spec.used_families()
        .filter_map(|family| vtep_address(node, family))
        .collect()
}

/// Address of `cni0`: the first of the node's Pod network.
pub(crate) fn bridge_address(node: &NodeSpec, family: usize) -> Option<IpNet> {
    let cidr = node
        .pod_cidrs
        .iter()
        .find(|c| family_of(c.addr()) == family)?;
    free_host(*cidr, &[]).map(|address| net(address, cidr.prefix_len()))
}

/// MTU of Pods and of the overlay: what is left of 1500 bytes.
fn pod_mtu(spec: &LabSpec) -> u16 {
    match (spec.pod_network, spec.families[0]) {
        (PodNetwork::Vxlan, true) => 1450,
        (PodNetwork::Vxlan, false) => 1430,
        _ => 1500,
    }
}
