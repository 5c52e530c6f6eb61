//! Runs packets of one kind through the datapath on the host, so that somebody else can count the instructions: `cargo xtask verify`.
//!
//! `packets established|new|foreign COUNT`. Owns the node and the packets. Invariant: all packets of a kind take the same path, and the
//! outcome of each is checked, so that a count is never that of another path.

use std::process::ExitCode;

use nodeport_common::{
    Address, Backend, Control, Device, Frontend, FrontendKey, NextHop, Outcome, PortSegment, V4,
    address_flags, control_flags, device_flags, frontend_flags, protocol,
};
use nodeport_ebpf::sim::{Frame, Node, Route};
use nodeport_ebpf::tables::RouteStatus;
use nodeport_ebpf::wire::tcp::{ACK, SYN};

const UPLINK: u32 = 3;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OURS: V4 = [192, 168, 88, 11];
const CLIENT: V4 = [203, 0, 113, 7];
const POD: V4 = [10, 244, 2, 11];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().unwrap_or_default();
    let count = arguments.next().and_then(|count| count.parse().ok());
    let (Some(count), Some(run)) = (count, kind_named(&kind)) else {
        eprintln!("packets established|new|foreign COUNT");
        return ExitCode::FAILURE;
    };
    run(&node(), count);
    ExitCode::SUCCESS
}

fn kind_named(kind: &str) -> Option<fn(&Node, u16)> {
    match kind {
        "established" => Some(established),
        "new" => Some(new),
        "foreign" => Some(foreign),
        _ => None,
    }
}

/// Third and later packets of one connection.
fn established(node: &Node, count: u16) {
    let sent = pass(
        node,
        CLIENT,
        OURS,
        [40000, 30080],
        SYN,
        Outcome::ToRemoteBackend,
    );
    let source = u16::from_be_bytes([sent.bytes[34], sent.bytes[35]]);
    pass(
        node,
        POD,
        OURS,
        [8080, source],
        SYN | ACK,
        Outcome::ReplyRedirected,
    );
    for _ in 0..count {
        pass(
            node,
            CLIENT,
            OURS,
            [40000, 30080],
            ACK,
            Outcome::ToRemoteBackend,
        );
    }
}

/// First packets, each of a connection of its own.
fn new(node: &Node, count: u16) {
    for port in 0..count {
        pass(
            node,
            CLIENT,
            OURS,
            [10000 + port, 30080],
            SYN,
            Outcome::ToRemoteBackend,
        );
    }
}

/// Packets that this node routes to somebody else.
fn foreign(node: &Node, count: u16) {
    for port in 0..count {
        pass(
            node,
            CLIENT,
            POD,
            [10000 + port, 8080],
            ACK,
            Outcome::Untouched,
        );
    }
}

/// Shows XDP one TCP packet, and returns what became of it.
fn pass(node: &Node, from: V4, to: V4, ports: [u16; 2], flags: u8, outcome: Outcome) -> Frame {
    let [source, destination] = ports.map(u16::to_be_bytes);
    let mut bytes = Vec::with_capacity(54);
    bytes.extend(MAC);
    bytes.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    bytes.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol::TCP, 0, 0]);
    bytes.extend(from);
    bytes.extend(to);
    bytes.extend(source);
    bytes.extend(destination);
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 255, 255, 0, 0, 0, 0]);
    let mut frame = Frame::new(bytes);
    let verdict = node.xdp_ingress(UPLINK, &mut frame);
    assert_eq!(verdict.map(|verdict| verdict.outcome), Some(outcome));
    frame
}

/// A node with one uplink and one NodePort, whose backend is on another node.
fn node() -> Node {
    let mut node = Node::new(control());
    node.devices.insert(
        UPLINK,
        Device {
            flags: device_flags::UPLINK | device_flags::XDP_TARGET,
            address4: OURS,
            mac: MAC,
            mtu: 1500,
            ..Device::default()
        },
    );
    let flags = address_flags::HOST | address_flags::NODE_PORT;
    node.v4.addresses.insert(OURS, Address { flags });
    node.v4.frontends.insert(
        FrontendKey {
            address: [0; 4],
            port: 30080_u16.to_be_bytes(),
            protocol: protocol::TCP,
            pad: 0,
        },
        Frontend {
            len: 1,
            local_len: 1,
            flags: frontend_flags::NODE_PORT,
            ..Frontend::default()
        },
    );
    node.v4.backends.push(Backend {
        address: POD,
        port: 8080_u16.to_be_bytes(),
        flags: 0,
    });
    node.v4.routes.push(Route {
        network: [0; 4],
        prefix: 0,
        status: RouteStatus::Known,
        hop: NextHop {
            device: UPLINK,
            mtu: 1500,
            ..NextHop::default()
        },
        source: OURS,
    });
    node
}

fn control() -> Control {
    Control {
        route_generation: 1,
        endpoint_generation: 1,
        seed: 1,
        flags: control_flags::FIB_SOURCE,
        hz: 250,
        next_hop_max_age: 7,
        snat: [
            PortSegment {
                first: 1024,
                count: 28976,
            },
            PortSegment::default(),
        ],
        ..Control::default()
    }
}
