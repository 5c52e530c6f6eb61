//! A packet's way through the node: XDP, TC ingress, the host's stack, TC egress.
//!
//! Owns what the stack does between the hooks, and the lines that tell of the way. Refuses to know what a scenario expects. Invariant: what
//! leaves the node is read anew, with all checksums computed in full, and its link-layer addresses are those of its next hop.
//!
//! The lines: `xdp OUTCOME`, `tc OUTCOME`, `egress OUTCOME` for each hook that saw the packet, then where it ended:
//! `out DEVICE PACKET`, `resolve DEVICE PACKET` (the kernel finds the neighbour), `host PACKET` (a socket of the node),
//! `dropped`, or `stack ...` if the stack would not carry it. `whole PACKET` follows the last fragment of a datagram that came out.

use std::net::IpAddr;

use nodeport_ebpf::path::{Action, Verdict};
use nodeport_ebpf::sim::{Frame, Node};

use crate::packet::{Packet, Piece};
use crate::place::{Mac, Place, device_mac, neighbour_mac};
use crate::wire;

const ETHERNET_LEN: usize = 14;

/// A node's hooks and stack.
#[derive(Clone, Copy)]
pub(crate) struct Way<'n> {
    pub(crate) node: &'n Node,
    pub(crate) place: &'n Place,
}

/// What became of a packet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trip {
    /// In words.
    pub(crate) lines: Vec<String>,
    /// What left the node or reached a socket of it, from the network header on.
    pub(crate) end: Vec<Vec<u8>>,
}

/// A packet at a device, and where it came from.
#[derive(Clone, Copy)]
struct Arrival {
    device: u32,
    neighbour: Mac,
}

impl Way<'_> {
    /// A packet comes in by a device.
    pub(crate) fn receive(self, device: &str, packet: &Packet) -> Trip {
        let device = self.place.index(device);
        let via = self.place.route(packet.from).map(|route| route.via);
        let arrival = Arrival {
            device,
            neighbour: neighbour_mac(via.unwrap_or(packet.from)),
        };
        let mut trip = Trip::default();
        for bytes in wire::write(packet) {
            let mut frame = framed(device_mac(device), arrival.neighbour, &bytes);
            let journey = self.node.receive(device, &mut frame);
            if let Some(verdict) = journey.xdp {
                trip.tell("xdp", verdict);
            }
            if let Some(verdict) = journey.tc {
                trip.tell("tc", verdict);
            }
            let last = journey.tc.or(journey.xdp).expect("a hook saw the packet");
            if last.action == Action::Pass {
                self.stack(&mut frame, &mut trip);
            } else {
                self.leave(last, &frame, Some(arrival), &mut trip);
            }
        }
        trip.put_together();
        trip
    }

    /// The node's own stack sends a packet.
    pub(crate) fn send(self, packet: &Packet) -> Trip {
        let mut trip = Trip::default();
        for bytes in wire::write(packet) {
            self.forward(packet.to, &bytes, &mut trip);
        }
        trip.put_together();
        trip
    }

    /// The stack has a packet that a device delivered.
    fn stack(self, frame: &mut Frame, trip: &mut Trip) {
        let bytes = &mut frame.bytes[ETHERNET_LEN..];
        let Some(packet) = wire::read(bytes) else {
            trip.lines.push("stack cannot read it".to_owned());
            return;
        };
        if self.place.owns(packet.to) {
            trip.lines.push(format!("host {packet}"));
            trip.end.push(bytes.to_vec());
        } else if self.place.owns(packet.from) {
            // ip_route_input: a source address of this node that comes in from outside.
            trip.lines.push(format!("stack drops a martian: {packet}"));
        } else if packet.ttl <= 1 {
            trip.lines.push(format!("stack ends it, ttl: {packet}"));
        } else {
            decrement_ttl(bytes);
            let bytes = bytes.to_vec();
            self.forward(packet.to, &bytes, trip);
        }
    }

    /// The stack sends a packet on: by the device of its route, past TC egress.
    fn forward(self, to: IpAddr, bytes: &[u8], trip: &mut Trip) {
        let Some(route) = self.place.route(to) else {
            trip.lines.push(format!("stack has no route to {to}"));
            return;
        };
        let source = device_mac(route.device);
        let mut frame = framed(neighbour_mac(route.via), source, bytes);
        let verdict = self.node.tc_egress(route.device, &mut frame);
        let verdict = verdict.expect("a device of the node");
        trip.tell("egress", verdict);
        let verdict = Verdict {
            action: match verdict.action {
                Action::Pass => Action::Transmit,
                other => other,
            },
            device: route.device,
            ..verdict
        };
        self.leave(verdict, &frame, None, trip);
    }

    /// A hook has decided that the packet leaves, or that it does not.
    fn leave(self, verdict: Verdict, frame: &Frame, from: Option<Arrival>, trip: &mut Trip) {
        let verb = match verdict.action {
            Action::Drop => {
                trip.lines.push("dropped".to_owned());
                return;
            }
            Action::Pass | Action::Transmit => "out",
            Action::Resolve => "resolve",
            Action::Deliver => "deliver",
        };
        let name = &self.place.device(verdict.device).name;
        let (link, bytes) = frame.bytes.split_at(ETHERNET_LEN);
        let Some(mut packet) = wire::read(bytes) else {
            trip.lines
                .push(format!("{verb} {name} what cannot be read"));
            return;
        };
        if verb == "out" && !self.is_addressed(link, packet.to, verdict.device, from) {
            packet.faults.push(format!("link {link:02x?}"));
        }
        trip.lines.push(format!("{verb} {name} {packet}"));
        trip.end.push(bytes.to_vec());
    }

    /// Whether the frame goes from the device to the packet's next hop, or back to where it came from.
    fn is_addressed(self, link: &[u8], to: IpAddr, device: u32, from: Option<Arrival>) -> bool {
        let next = self.place.route(to).filter(|route| route.device == device);
        let next = next.map(|route| neighbour_mac(route.via));
        let back = from.filter(|from| from.device == device);
        let back = back.map(|from| from.neighbour);
        let is_right = |mac: Mac| link.starts_with(&[mac, device_mac(device)].concat());
        next.is_some_and(is_right) || back.is_some_and(is_right)
    }
}

impl Trip {
    fn tell(&mut self, hook: &str, verdict: Verdict) {
        let outcome = verdict.outcome.name();
        self.lines.push(format!("{hook} {outcome}"));
    }

    /// If what came out are all the pieces of a datagram, it is told as a whole.
    fn put_together(&mut self) {
        let mut pieces = self.end.iter().filter_map(|bytes| wire::read(bytes)?.piece);
        let is_last = |piece: Piece| !piece.more;
        if pieces.any(is_last) {
            let whole = wire::reassemble(&self.end);
            self.lines.push(match whole {
                Some(packet) => format!("whole {packet}"),
                None => "in pieces".to_owned(),
            });
        }
    }
}

fn framed(to: Mac, from: Mac, packet: &[u8]) -> Frame {
    let ethertype = if packet[0] >> 4 == 4 {
        [0x08, 0x00]
    } else {
        [0x86, 0xdd]
    };
    Frame::new([&to[..], &from, &ethertype, packet].concat())
}

/// What a router does: one hop less, and in IPv4 the header's checksum follows (RFC 1141).
fn decrement_ttl(packet: &mut [u8]) {
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
        return;
    }
    packet[8] -= 1;
    let sum = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0x0100;
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(sum as u16).to_be_bytes());
}
