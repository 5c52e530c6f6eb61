//! Reads devices, addresses, default routes and neighbours from the kernel, and hears of their changes.
//!
//! Owns netlink messages; nothing else names them. Refuses to know what a change means for the datapath. Invariant: it configures nothing.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::inventory::{Assigned, Inventory, Link};
use super::neighbours::{Neighbour, NeighbourKey};
use crate::datapath::attach::XdpState;
use crate::datapath::error::DatapathError;

/// Asks the kernel.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    handle: Handle,
}

impl Reader {
    /// Opens a netlink socket in the caller's network namespace. The returned future must be polled for answers to arrive.
    ///
    /// # Errors
    /// [`DatapathError::Netlink`] if the socket cannot be opened.
    pub(super) fn open() -> Result<(Self, impl Future<Output = ()> + Send + 'static), DatapathError>
    {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(failed("open a socket"))?;
        Ok((Self { handle }, connection))
    }

    /// All devices with their addresses, and where default routes lead.
    ///
    /// # Errors
    /// [`DatapathError::Netlink`].
    pub(super) async fn inventory(&self) -> Result<Inventory, DatapathError> {
        let mut inventory = Inventory::default();
        let mut links = self.handle.link().get().execute();
        while let Some(message) = links.try_next().await.map_err(failed("list devices"))? {
            inventory.links.insert(message.header.index, link(&message));
        }
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses
            .try_next()
            .await
            .map_err(failed("list addresses"))?
        {
            let owner = inventory.links.get_mut(&message.header.index);
            if let (Some(link), Some(address)) = (owner, assigned(&message)) {
                link.addresses.push(address);
            }
        }
        inventory.default_routes = self.default_routes().await?;
        Ok(inventory)
    }

    /// Indexes of the devices that default routes lead to, in any routing table.
    async fn default_routes(&self) -> Result<std::collections::BTreeSet<u32>, DatapathError> {
        let mut devices = std::collections::BTreeSet::new();
        let requests: [RouteMessage; 2] = [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ];
        for request in requests {
            let mut routes = self.handle.route().get(all(request)).execute();
            while let Some(route) = routes.try_next().await.map_err(failed("list routes"))? {
                devices.extend(default_route(&route));
            }
        }
        Ok(devices)
    }

    /// All neighbours of both families.
    ///
    /// # Errors
    /// [`DatapathError::Netlink`].
    pub(super) async fn neighbours(&self) -> Result<Vec<(NeighbourKey, Neighbour)>, DatapathError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = self.handle.neighbours().get().set_address_family(family);
            let mut neighbours = request.execute();
            while let Some(message) = neighbours
                .try_next()
                .await
                .map_err(failed("list neighbours"))?
            {
                found.extend(neighbour(&message));
            }
        }
        Ok(found)
    }
}

impl Reader {
    /// Lets the kernel ask a neighbour whether it is still there, as it does when its own stack sends to it.
    ///
    /// # Errors
    /// [`DatapathError::Netlink`].
    pub(super) async fn probe(&self, key: NeighbourKey) -> Result<(), DatapathError> {
        self.handle
            .neighbours()
            .add(key.device, key.address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await
            .map_err(failed("probe a neighbour"))
    }
}

/// A failed netlink operation, to be used with `map_err`.
pub(super) fn failed<E>(operation: &'static str) -> impl FnOnce(E) -> DatapathError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| DatapathError::Netlink {
        operation,
        source: Box::new(source),
    }
}

/// A request for every route of a family: the builder fills in what a new route would need.
fn all(mut request: RouteMessage) -> RouteMessage {
    let family = request.header.address_family;
    request.header = rtnetlink::packet_route::route::RouteHeader::default();
    request.header.address_family = family;
    request.attributes.clear();
    request
}

/// A device without its addresses.
fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        name: String::new(),
        kind: String::new(),
        hardware: message.header.link_layer_type.into(),
        up: message.header.flags.contains(LinkFlags::Up),
        controller: None,
        mac: [0; 6],
        mtu: 0,
        has_peer: false,
        xdp: XdpState::default(),
        addresses: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::LinkInfo(infos) => {
                if let Some(kind) = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                }) {
                    link.kind = kind;
                }
            }
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.as_slice().try_into().unwrap_or_default();
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            // Told only of what is in another namespace.
            LinkAttribute::LinkNetNsId(_) => link.has_peer = true,
            LinkAttribute::Xdp(states) => link.xdp = xdp(states),
            _ => {}
        }
    }
    // Of others, such as tunnels, the namespace says something else.
    link.has_peer &= link.kind == "veth";
    link
}

/// The programs in driver and stack. The kernel names the mode (`IFLA_XDP_ATTACHED`) and repeats the id under its mode's name.
fn xdp(attributes: &[LinkXdp]) -> XdpState {
    let mut state = XdpState::default();
    for attribute in attributes {
        match attribute {
            LinkXdp::DrvProgId(id) | LinkXdp::HwProgId(id) => state.native = Some(*id),
            LinkXdp::SkbProgId(id) => state.generic = Some(*id),
            _ => {}
        }
    }
    state
}

/// An address of a device; `None` if it cannot be used (duplicate on the wire).
fn assigned(message: &AddressMessage) -> Option<Assigned> {
    let mut address = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point device, `Address` is the peer's.
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) => address = address.or(Some(*other)),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    if flags.contains(AddressFlags::Dadfailed) {
        return None;
    }
    let unfit = AddressFlags::Secondary | AddressFlags::Deprecated | AddressFlags::Tentative;
    Some(Assigned {
        address: address?,
        prefix: message.header.prefix_len,
        global: matches!(
            message.header.scope,
            AddressScope::Universe | AddressScope::Site
        ),
        primary: !flags.intersects(unfit),
    })
}

/// Devices that a route leads to, if it is a default route.
pub(super) fn default_route(route: &RouteMessage) -> Vec<u32> {
    if route.header.destination_prefix_length != 0 || route.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let mut devices = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(hops) => {
                devices.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    devices
}

/// A neighbour of an IP address; other neighbours (of bridges) are `None`.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, Neighbour)> {
    // Forwarding tables of bridges and VXLAN devices arrive as neighbours of another family.
    if !matches!(
        message.header.family,
        AddressFamily::Inet | AddressFamily::Inet6
    ) {
        return None;
    }
    let mut address = None;
    let mut mac = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac.clone_from(bytes),
            _ => {}
        }
    }
    let usable = !matches!(
        message.header.state,
        NeighbourState::None | NeighbourState::Incomplete | NeighbourState::Failed
    );
    let key = NeighbourKey {
        device: message.header.ifindex,
        address: address?,
    };
    let stale = message.header.state == NeighbourState::Stale;
    Some((key, Neighbour { mac, usable, stale }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::address::AddressHeaderFlags;

    fn address(attributes: Vec<AddressAttribute>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.prefix_len = 24;
        message.header.scope = AddressScope::Universe;
        message.attributes = attributes;
        message
    }

    #[test]
    fn the_local_end_of_a_point_to_point_address_is_ours() {
        let peer = IpAddr::from([10, 0, 0, 2]);
        let local = IpAddr::from([10, 0, 0, 1]);
        let message = address(vec![
            AddressAttribute::Address(peer),
            AddressAttribute::Local(local),
        ]);
        assert_eq!(assigned(&message).map(|one| one.address), Some(local));
    }

    #[test]
    fn a_tentative_address_is_no_source_and_a_duplicate_is_no_address() {
        let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
        let flagged = |flags| {
            assigned(&address(vec![
                AddressAttribute::Address(v6),
                AddressAttribute::Flags(flags),
            ]))
        };
        assert!(flagged(AddressFlags::Permanent).is_some_and(|one| one.primary));
        assert!(flagged(AddressFlags::Tentative).is_some_and(|one| !one.primary));
        assert!(flagged(AddressFlags::Dadfailed).is_none());
        let mut secondary = address(vec![AddressAttribute::Local(IpAddr::from([10, 0, 0, 2]))]);
        secondary.header.flags = AddressHeaderFlags::Secondary;
        assert!(assigned(&secondary).is_some_and(|one| !one.primary));
    }

    #[test]
    fn only_unicast_routes_of_length_zero_are_default_routes() {
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        route.attributes.push(RouteAttribute::Oif(3));
        assert_eq!(default_route(&route), [3]);
        route.header.destination_prefix_length = 8;
        assert!(default_route(&route).is_empty());
        route.header.destination_prefix_length = 0;
        route.header.kind = RouteType::Unreachable;
        assert!(default_route(&route).is_empty());
    }
}
