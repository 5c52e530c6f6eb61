//! Where a packet's parts lie while it is looked at: in memory that the hook owns, because a BPF program's stack has 512 bytes.
//!
//! Invariant: one packet uses it at a time; nothing in it outlives the packet.

use core::cell::Cell;

use nodeport_common::{FlowKey, FragmentKey, FrontendKey, NextHop, ServingKey};

use crate::tables::{Entry, Route, RouteQuery, RouteStatus};
use crate::wire::parse::Segment;
use crate::wire::{Family, Fragment, Headers};

/// Working memory for one packet of one address family.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct Scratch<A> {
    /// The packet.
    pub segment: Segment<A>,
    /// The packet that an ICMP error quotes.
    pub quoted: Headers<A>,
    /// The key of the other direction, or of an entry about to be made.
    pub other: FlowKey<A>,
    /// An entry about to be made.
    pub entry: Entry<A>,
    /// The datagram that a fragment belongs to.
    pub fragment: FragmentKey<A>,
    /// The front end that is looked for.
    pub frontend: FrontendKey<A>,
    /// The endpoint that is looked for among those that serve.
    pub serving: ServingKey<A>,
    /// A question to the routing tables.
    pub query: RouteQuery<A>,
    /// Their answer.
    pub route: Route<A>,
}

impl<A: Family> Scratch<A> {
    /// Empty working memory.
    #[must_use]
    pub const fn new() -> Self {
        const fn headers<A: Family>() -> Headers<A> {
            Headers {
                network: 0,
                transport: 0,
                length: 0,
                fragment_id: [0; 4],
                fragment: Fragment::Whole,
                protocol: 0,
                ttl: 0,
                source: A::UNSPECIFIED,
                destination: A::UNSPECIFIED,
            }
        }
        const fn key<A: Family>() -> FlowKey<A> {
            FlowKey {
                source: A::UNSPECIFIED,
                destination: A::UNSPECIFIED,
                source_port: [0; 2],
                destination_port: [0; 2],
                protocol: 0,
                pad: [0; 3],
            }
        }
        Self {
            segment: Segment {
                headers: headers(),
                key: key(),
                tcp: 0,
            },
            quoted: headers(),
            other: key(),
            entry: Entry {
                packets: Cell::new(0),
                bytes: Cell::new(0),
                last_seen: Cell::new(0),
                endpoint_generation: Cell::new(0),
                flags: Cell::new(0),
                tcp: Cell::new(0),
                source_port: [0; 2],
                destination_port: [0; 2],
                pad: [0; 2],
                source: A::UNSPECIFIED,
                destination: A::UNSPECIFIED,
                next_hop: Cell::new(NextHop {
                    generation: 0,
                    device: 0,
                    mtu: 0,
                    looked_up: 0,
                    destination_mac: [0; 6],
                    source_mac: [0; 6],
                }),
            },
            fragment: FragmentKey {
                source: A::UNSPECIFIED,
                destination: A::UNSPECIFIED,
                id: [0; 4],
                protocol: 0,
                pad: [0; 3],
            },
            frontend: FrontendKey {
                address: A::UNSPECIFIED,
                port: [0; 2],
                protocol: 0,
                pad: 0,
            },
            serving: ServingKey {
                service: 0,
                address: A::UNSPECIFIED,
                port: [0; 2],
                pad: [0; 2],
            },
            query: RouteQuery {
                source: A::UNSPECIFIED,
                destination: A::UNSPECIFIED,
                protocol: 0,
            },
            route: Route {
                status: RouteStatus::None,
                xdp_target: false,
                source: A::UNSPECIFIED,
                hop: NextHop {
                    generation: 0,
                    device: 0,
                    mtu: 0,
                    looked_up: 0,
                    destination_mac: [0; 6],
                    source_mac: [0; 6],
                },
            },
        }
    }
}

impl<A: Family> Default for Scratch<A> {
    fn default() -> Self {
        Self::new()
    }
}
