//! What processes ask of their sockets, and what they get: calls without a packet.
//!
//! ```text
//! connect host 1 tcp 10.96.0.80:80       the node's socket 1 connects
//!   socket to_routed_backend             the outcome that is counted
//!   gets 10.244.2.11:8080                where the connection goes; or `as asked`, or the error
//! send pod 2 udp 10.96.0.53:53           a Pod's socket 2 sends a datagram
//! peer 1 tcp 10.244.2.11:8080            who the process is told that this is
//! ```
//!
//! Owns the notation. Refuses to know how an endpoint is chosen. Invariant: a socket's number is its cookie, which no other socket has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nodeport_common::{V4, V6, protocol};
use nodeport_ebpf::path::socket::{Action, Answer, Call};
use nodeport_ebpf::sim::{Node, SimFamily};

/// Cookies of network namespaces: the node's own, and that of a Pod.
pub(crate) const HOST_NETNS: [u32; 2] = [1, 0];
const POD_NETNS: [u32; 2] = [2, 0];

/// Makes the call, and says what came of it.
///
/// # Panics
/// The words are no call.
pub(crate) fn call(node: &Node, verb: &str, words: &str) -> Vec<String> {
    let words: Vec<&str> = words.split_whitespace().collect();
    let (netns, rest) = match (verb, words.split_first()) {
        ("peer", _) => ([0; 2], &words[..]),
        (_, Some((&"host", rest))) => (HOST_NETNS, rest),
        (_, Some((&"pod", rest))) => (POD_NETNS, rest),
        _ => panic!("{verb} {words:?}: host or pod"),
    };
    let [number, protocol, to] = rest else {
        panic!("{verb} {words:?}: NUMBER PROTOCOL ADDRESS:PORT");
    };
    let to: SocketAddr = to.parse().expect("an address and a port");
    let asked = Asked {
        verb,
        netns,
        cookie: number.parse().expect("a number"),
        protocol: match *protocol {
            "tcp" => protocol::TCP,
            "udp" => protocol::UDP,
            _ => panic!("{protocol}: tcp or udp"),
        },
        port: to.port(),
    };
    match to.ip() {
        IpAddr::V4(ip) => asked.of::<V4>(node, ip.octets(), |octets| Ipv4Addr::from(octets).into()),
        IpAddr::V6(ip) => asked.of::<V6>(node, ip.octets(), |octets| Ipv6Addr::from(octets).into()),
    }
}

/// A call but for its address.
struct Asked<'t> {
    verb: &'t str,
    netns: [u32; 2],
    cookie: u32,
    protocol: u8,
    port: u16,
}

impl Asked<'_> {
    fn of<A: SimFamily>(&self, node: &Node, address: A, ip: fn(A) -> IpAddr) -> Vec<String> {
        let call = Call {
            address,
            port: self.port.to_be_bytes(),
            protocol: self.protocol,
            cookie: [self.cookie, 0],
            netns: self.netns,
            process: 1,
        };
        let answer = match self.verb {
            "connect" => node.connect(&call),
            "send" => node.send(&call),
            _ => node.name(&call),
        };
        let Answer {
            outcome,
            action,
            address,
            port,
        } = answer;
        let becomes = match action {
            Action::Pass => "as asked".to_owned(),
            Action::Refuse => "ECONNREFUSED".to_owned(),
            Action::Unreachable => "EHOSTUNREACH".to_owned(),
            Action::Rewrite => {
                let to = SocketAddr::new(ip(address), u16::from_be_bytes(port));
                format!("{} {to}", if self.verb == "peer" { "is" } else { "gets" })
            }
        };
        vec![format!("socket {}", outcome.name()), becomes]
    }
}
