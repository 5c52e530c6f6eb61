//! The node that the stories happen on, the packets that reach it, and what became of them.
//!
//! One node with two uplinks (the outside is behind the first, other nodes behind the second) and two Pods, in both families. Clients are
//! outside, remote Pods on other nodes.

use nodeport_common::{
    Address, Backend, Control, Device, Flow, FlowKey, Frontend, FrontendKey, NextHop, Outcome,
    PortSegment, address_flags, backend_flags, control_flags, device_flags, frontend_flags,
    protocol,
};
use nodeport_ebpf::sim::{FamilyTables, Frame, Journey, Node, Route};
use nodeport_ebpf::tables::{Entry, RouteStatus};

use crate::packets::{ACK, Build, End, SYN, Wire};
pub use crate::places::*;
pub use crate::trip::Trip;

/// The settings that the agent would have written.
pub fn control() -> Control {
    Control {
        route_generation: 1,
        endpoint_generation: 1,
        seed: 1,
        flags: control_flags::FIB_SOURCE,
        hz: HZ,
        next_hop_max_age: 30 * HZ / 1024,
        fragment_max_age_secs: 30,
        rejects_per_second: 1000,
        reject_burst: 50,
        snat: [
            PortSegment {
                first: 1024,
                count: 28976,
            },
            PortSegment {
                first: 61000,
                count: 4536,
            },
        ],
        host_netns: [0; 2],
        lines_per_cpu: 1024,
        node4: [0; 4],
        node6: [0; 16],
        pad: 0,
    }
}

/// A node, seen in one family.
pub struct World<A: Places> {
    pub node: Node,
    family: std::marker::PhantomData<A>,
}

/// A route to each place: clients by the uplink, other nodes' Pods by the fabric, this node's Pods by their devices.
fn routes<A: Places>() -> Vec<Route<A>> {
    let via = |network, prefix, device, source_mac, destination_mac, source| Route {
        network,
        prefix,
        status: RouteStatus::Known,
        hop: NextHop {
            device,
            mtu: 1500,
            destination_mac,
            source_mac,
            ..NextHop::default()
        },
        source,
    };
    let bits = size_of::<A>() * 8;
    let pod_mac = |n| [2, 0, 0, 0, 8, n];
    let (client, remote) = (A::client(0), A::remote(0));
    vec![
        via(client, A::PREFIX, UPLINK, UPLINK_MAC, ROUTER_MAC, A::NODE),
        via(
            remote,
            A::PREFIX,
            FABRIC,
            FABRIC_MAC,
            PEER_MAC,
            A::FABRIC_ADDRESS,
        ),
        via(A::local(1), bits, POD1, POD1_MAC, pod_mac(1), A::GATEWAY),
        via(A::local(2), bits, POD2, POD2_MAC, pod_mac(2), A::GATEWAY),
    ]
}

impl<A: Places> World<A> {
    /// The node without any Service.
    pub fn new() -> Self {
        let mut node = Node::new(control());
        node.jiffies = 0x4000_0000;
        let uplink = device_flags::UPLINK | device_flags::XDP_TARGET;
        for (index, flags, mac, address) in [
            (UPLINK, uplink, UPLINK_MAC, A::NODE),
            (FABRIC, uplink, FABRIC_MAC, A::FABRIC_ADDRESS),
            (POD1, device_flags::POD, POD1_MAC, A::GATEWAY),
            (POD2, device_flags::POD, POD2_MAC, A::GATEWAY),
        ] {
            let mut device = Device {
                flags,
                mac,
                mtu: 1500,
                ..Device::default()
            };
            A::set(&mut device, address);
            node.devices.insert(index, device);
        }
        let tables = A::of_mut(&mut node);
        let host = address_flags::HOST;
        for (address, flags) in [
            (A::NODE, host | address_flags::NODE_PORT),
            (A::NODE_ALIAS, host | address_flags::NODE_PORT),
            (A::FABRIC_ADDRESS, host | address_flags::NODE_PORT),
            (A::GATEWAY, host),
            (
                A::CLUSTER_IP,
                address_flags::VIRTUAL | address_flags::CLUSTER_IP,
            ),
        ] {
            tables.addresses.insert(address, Address { flags });
        }
        tables.routes = routes();
        Self {
            node,
            family: std::marker::PhantomData,
        }
    }

    /// The same without XDP: TC does everything.
    pub fn without_xdp(mut self) -> Self {
        self.node.xdp = false;
        self
    }

    pub fn tables(&self) -> &FamilyTables<A> {
        A::of(&self.node)
    }

    pub fn tables_mut(&mut self) -> &mut FamilyTables<A> {
        A::of_mut(&mut self.node)
    }

    /// Programs a front end: these backends for clients that are not on this node, those for Pods of this node.
    pub fn front_end(
        &mut self,
        key: FrontendKey<A>,
        flags: u32,
        outside: &[End<A>],
        from_pods: &[End<A>],
    ) {
        let backends = &mut self.tables_mut().backends;
        let mut set = |ends: &[End<A>]| {
            let base = backends.len() as u32;
            backends.extend(ends.iter().map(|end| backend(*end)));
            (base, ends.len() as u32)
        };
        let (base, len) = set(outside);
        let (local_base, local_len) = set(from_pods);
        let frontend = Frontend {
            base,
            len,
            local_base,
            local_len,
            serving: 0,
            service: 1,
            flags,
            affinity_secs: 0,
        };
        self.tables_mut().frontends.insert(key, frontend);
    }

    /// Programs [`NODE_PORT`] for TCP and UDP, policy Cluster.
    pub fn node_port(mut self, backends: &[End<A>]) -> Self {
        for number in [protocol::TCP, protocol::UDP] {
            let key = node_port_key(NODE_PORT, number);
            self.front_end(key, frontend_flags::NODE_PORT, backends, backends);
        }
        self
    }

    /// Programs [`PORT`] of the ClusterIP for TCP and UDP, policy Cluster.
    pub fn cluster_ip(mut self, backends: &[End<A>]) -> Self {
        for number in [protocol::TCP, protocol::UDP] {
            let key = frontend_key(A::CLUSTER_IP, PORT, number);
            self.front_end(key, frontend_flags::CLUSTER_IP, backends, backends);
        }
        self
    }

    /// A packet comes in by a device, addressed to it.
    pub fn enters(&self, device: u32, build: &Build<A>) -> Trip<A> {
        self.enters_as(device, Frame::new(self.addressed(device, build).frame()))
    }

    /// The packet with the link-layer addresses that it has at a device.
    pub fn addressed(&self, device: u32, build: &Build<A>) -> Build<A> {
        Build {
            to_mac: self.node.devices[&device].mac,
            from_mac: if device == UPLINK {
                ROUTER_MAC
            } else {
                PEER_MAC
            },
            ..build.clone()
        }
    }

    /// A frame comes in by a device.
    pub fn enters_as(&self, device: u32, mut frame: Frame) -> Trip<A> {
        let sent = frame.clone();
        let Journey { xdp, tc } = self.node.receive(device, &mut frame);
        Trip::new(xdp, tc, frame, sent)
    }

    /// The stack sends a packet by a device.
    pub fn leaves(&self, device: u32, build: &Build<A>) -> Trip<A> {
        let mut frame = Frame::new(self.addressed(device, build).frame());
        let sent = frame.clone();
        let tc = self.node.tc_egress(device, &mut frame);
        Trip::new(None, tc, frame, sent)
    }

    /// A client opens a connection to a front end, which goes to a remote backend, and the backend accepts: three packets, each of
    /// which must pass. Returns the tuple that the backend sees, source first.
    pub fn connect(&self, client: End<A>, front_end: End<A>) -> (End<A>, End<A>) {
        let syn = self.enters(UPLINK, &Build::tcp(client, front_end, SYN));
        syn.is(Outcome::ToRemoteBackend);
        let (source, backend) = syn.seen().ends();
        let answer = self.enters(FABRIC, &Build::tcp(backend, source, SYN | ACK));
        answer.is(Outcome::ReplyRedirected);
        assert_eq!(answer.seen().ends(), (front_end, client));
        let third = self.enters(UPLINK, &Build::tcp(client, front_end, ACK));
        third.is(Outcome::ToRemoteBackend);
        assert_eq!(third.seen().ends(), (source, backend));
        (source, backend)
    }

    /// Time goes by.
    pub fn wait(&mut self, seconds: u32) {
        self.node.jiffies = self.node.jiffies.wrapping_add(seconds * HZ);
    }

    /// The entry for packets from one end to another, wherever it is.
    pub fn flow(&self, number: u8, from: End<A>, to: End<A>) -> Option<Flow<A>> {
        self.tables()
            .entry(&flow_key(number, from, to))
            .map(Entry::get)
    }

    /// Entries in the established and in the pending table.
    pub fn sizes(&self) -> (usize, usize) {
        (self.tables().flows.len(), self.tables().pending.len())
    }
}

/// A slot of a backend set; Pods of this node and the node itself are local.
pub fn backend<A: Places>((address, port): End<A>) -> Backend<A> {
    let is_local = [A::local(1), A::local(2), A::NODE].contains(&address);
    Backend {
        address,
        port: port.to_be_bytes(),
        flags: if is_local { backend_flags::LOCAL } else { 0 },
    }
}

pub fn frontend_key<A>(address: A, port: u16, number: u8) -> FrontendKey<A> {
    FrontendKey {
        address,
        port: port.to_be_bytes(),
        protocol: number,
        pad: 0,
    }
}

pub fn node_port_key<A: Wire>(port: u16, number: u8) -> FrontendKey<A> {
    frontend_key(A::UNSPECIFIED, port, number)
}

pub fn flow_key<A>(number: u8, from: End<A>, to: End<A>) -> FlowKey<A> {
    FlowKey {
        source: from.0,
        destination: to.0,
        source_port: from.1.to_be_bytes(),
        destination_port: to.1.to_be_bytes(),
        protocol: number,
        pad: [0; 3],
    }
}

/// Stories that happen alike in both families: each becomes a test for IPv4 and one for IPv6.
#[macro_export]
macro_rules! both {
    ($($(#[$meta:meta])* fn $name:ident<$family:ident>() $story:block)+) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports, reason = "a story takes what it needs of its file's imports")]
            use super::*;
            fn story<$family: $crate::world::Places>() $story
            #[test]
            fn ipv4() {
                story::<nodeport_common::V4>();
            }
            #[test]
            fn ipv6() {
                story::<nodeport_common::V6>();
            }
        }
    )+};
}
