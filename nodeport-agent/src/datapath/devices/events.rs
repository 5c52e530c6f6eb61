//! What netlink's events ask for.
//!
//! Owns the reading of single events. Refuses to know when and how they are answered. Invariant: an event that changes nothing for a
//! remembered next hop does not raise the generation; whatever may have been missed is read anew.

use std::collections::BTreeSet;

use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::neighbours::Neighbours;
use super::netlink;

/// What a burst of events asks for.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent requests that merge by or"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Devices, addresses and default routes must be read anew.
    pub(super) read: bool,
    /// Neighbours must be read anew.
    pub(super) neighbours: bool,
    /// Remembered next hops may be wrong.
    pub(super) raise: bool,
    /// Attachments are checked, and those that failed tried again.
    pub(super) retry: bool,
    /// Devices that were removed: their index may be taken again at once.
    pub(super) gone: BTreeSet<u32>,
}

impl Due {
    /// A slow pass: whatever events missed. It raises nothing by itself; what it finds changed does.
    pub(super) fn everything() -> Self {
        Self {
            read: true,
            neighbours: true,
            retry: true,
            ..Self::default()
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.read |= other.read;
        self.neighbours |= other.neighbours;
        self.raise |= other.raise;
        self.retry |= other.retry;
        self.gone.extend(other.gone);
    }
}

/// What one event asks for.
pub(super) fn consider(message: &RouteNetlinkMessage, neighbours: &mut Neighbours) -> Due {
    let read = Due {
        read: true,
        ..Due::default()
    };
    let raise = |raise| Due {
        raise,
        ..Due::default()
    };
    match message {
        // Bridges tell of their ports by messages of another family.
        RouteNetlinkMessage::DelLink(link)
            if link.header.interface_family == AddressFamily::Unspec =>
        {
            Due {
                gone: BTreeSet::from([link.header.index]),
                ..read
            }
        }
        RouteNetlinkMessage::NewLink(_)
        | RouteNetlinkMessage::DelLink(_)
        | RouteNetlinkMessage::NewAddress(_)
        | RouteNetlinkMessage::DelAddress(_) => read,
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => Due {
            read: !netlink::default_route(route).is_empty(),
            ..raise(true)
        },
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => raise(true),
        RouteNetlinkMessage::NewNeighbour(message) => raise(
            netlink::neighbour(message)
                .is_some_and(|(key, neighbour)| neighbours.changed(key, &neighbour)),
        ),
        RouteNetlinkMessage::DelNeighbour(message) => {
            raise(netlink::neighbour(message).is_some_and(|(key, _)| neighbours.gone(key)))
        }
        _ => Due::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::link::LinkMessage;
    use rtnetlink::packet_route::neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
    };
    use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};

    fn due(message: &RouteNetlinkMessage) -> Due {
        consider(message, &mut Neighbours::default())
    }

    #[test]
    fn a_removed_device_is_forgotten_before_its_index_is_taken_again() {
        let mut link = LinkMessage::default();
        link.header.index = 7;
        let found = due(&RouteNetlinkMessage::DelLink(link.clone()));
        assert!(found.read && found.gone.contains(&7));
        // A port that leaves a bridge is no removed device.
        link.header.interface_family = AddressFamily::Bridge;
        assert!(due(&RouteNetlinkMessage::DelLink(link)).gone.is_empty());
    }

    #[test]
    fn every_route_raises_and_only_a_default_route_is_read() {
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        route.header.destination_prefix_length = 24;
        route.attributes.push(RouteAttribute::Oif(2));
        let found = due(&RouteNetlinkMessage::NewRoute(route.clone()));
        assert!(found.raise && !found.read);
        route.header.destination_prefix_length = 0;
        let found = due(&RouteNetlinkMessage::DelRoute(route));
        assert!(found.raise && found.read);
    }

    #[test]
    fn a_neighbour_raises_when_its_hardware_address_changes() {
        let mut neighbours = Neighbours::default();
        let mut event = |state, mac: u8| {
            let mut message = NeighbourMessage::default();
            message.header.family = AddressFamily::Inet;
            message.header.state = state;
            message.attributes = vec![
                NeighbourAttribute::Destination(NeighbourAddress::Inet([192, 0, 2, 1].into())),
                NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, mac]),
            ];
            consider(&RouteNetlinkMessage::NewNeighbour(message), &mut neighbours).raise
        };
        assert!(!event(NeighbourState::Reachable, 1));
        assert!(!event(NeighbourState::Stale, 1));
        assert!(event(NeighbourState::Stale, 2));
        assert!(event(NeighbourState::Failed, 2));
        assert!(!event(NeighbourState::Incomplete, 2));
    }

    #[test]
    fn a_slow_pass_raises_nothing_by_itself() {
        let due = Due::everything();
        assert!(due.read && due.neighbours && due.retry && !due.raise);
    }
}
