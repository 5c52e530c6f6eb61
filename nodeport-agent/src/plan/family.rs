//! The two address families, and how names of the model become keys and values of maps.
//!
//! Owns the conversion between host addresses and ports and the byte arrays of the ABI. It refuses to know which map an entry
//! is written to and when. Invariant: everything else in the plan is written once, generic over [`Ip`].

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use nodeport_common::{
    Backend, FrontendKey, ServingKey, SourceRangeKey, V4, V6, backend_flags, maps, protocol,
};

use crate::model::desired::{DesiredBackend, Family, FrontendId, Listen, Protocol};

/// An address as the ABI holds it, in network order. Only [`V4`] and [`V6`] are.
pub trait Ip: sealed::Sealed + Copy + Ord + Hash + Debug + Send + Sync + 'static {
    /// Which family it belongs to.
    const FAMILY: Family;
    /// The unspecified address: in a [`FrontendKey`] it stands for every node address.
    const UNSPECIFIED: Self;
    /// Name of the map of front ends.
    const FRONTENDS: &'static str;
    /// Name of the array of backends.
    const BACKENDS: &'static str;
    /// Name of the map of addresses.
    const ADDRESSES: &'static str;
    /// Name of the map of endpoints that UDP flows may keep.
    const SERVING: &'static str;
    /// Name of the table of clients that are sent to the same endpoint again.
    const AFFINITY: &'static str;
    /// Name of the trie of source ranges.
    const SOURCES: &'static str;
    /// Name of the array of destinations that may be those of front ends.
    const NOTED: &'static str;
    /// Name of the table of established flows.
    const FLOWS: &'static str;
    /// Name of the table of pending flows.
    const PENDING: &'static str;

    /// The address in network order; `None` if it is of the other family.
    fn from_ip(ip: IpAddr) -> Option<Self>;
    /// The address as the standard library has it.
    fn ip(self) -> IpAddr;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for nodeport_common::V4 {}
    impl Sealed for nodeport_common::V6 {}
}

impl Ip for V4 {
    const FAMILY: Family = Family::V4;
    const UNSPECIFIED: Self = [0; 4];
    const FRONTENDS: &'static str = maps::FRONTENDS4;
    const BACKENDS: &'static str = maps::BACKENDS4;
    const ADDRESSES: &'static str = maps::ADDRESSES4;
    const SERVING: &'static str = maps::SERVING4;
    const AFFINITY: &'static str = maps::AFFINITY4;
    const SOURCES: &'static str = maps::SOURCES4;
    const NOTED: &'static str = maps::NOTED4;
    const FLOWS: &'static str = maps::FLOWS4;
    const PENDING: &'static str = maps::PENDING4;

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Some(ip.octets()),
            IpAddr::V6(_) => None,
        }
    }

    fn ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
}

impl Ip for V6 {
    const FAMILY: Family = Family::V6;
    const UNSPECIFIED: Self = [0; 16];
    const FRONTENDS: &'static str = maps::FRONTENDS6;
    const BACKENDS: &'static str = maps::BACKENDS6;
    const ADDRESSES: &'static str = maps::ADDRESSES6;
    const SERVING: &'static str = maps::SERVING6;
    const AFFINITY: &'static str = maps::AFFINITY6;
    const SOURCES: &'static str = maps::SOURCES6;
    const NOTED: &'static str = maps::NOTED6;
    const FLOWS: &'static str = maps::FLOWS6;
    const PENDING: &'static str = maps::PENDING6;

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V6(ip) => Some(ip.octets()),
            IpAddr::V4(_) => None,
        }
    }

    fn ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }
}

/// The IANA number of a protocol.
#[must_use]
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
        Protocol::Sctp => protocol::SCTP,
    }
}

/// The name of an IANA number as Kubernetes spells it, or the number.
#[must_use]
pub fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "TCP".to_owned(),
        protocol::UDP => "UDP".to_owned(),
        protocol::SCTP => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

/// The key under which a front end is looked up; `None` if it is of the other family.
#[must_use]
pub fn frontend_key<A: Ip>(id: &FrontendId) -> Option<FrontendKey<A>> {
    let address = match id.listen {
        Listen::Address(ip) => A::from_ip(ip)?,
        Listen::Node(family) if family == A::FAMILY => A::UNSPECIFIED,
        Listen::Node(_) => return None,
    };
    Some(FrontendKey {
        address,
        port: id.port.to_be_bytes(),
        protocol: protocol_number(id.protocol),
        pad: 0,
    })
}

/// The front end that a key stands for; `None` if its protocol is unknown.
pub(super) fn frontend_id<A: Ip>(key: &FrontendKey<A>) -> Option<FrontendId> {
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    Some(FrontendId {
        listen: if key.address == A::UNSPECIFIED {
            Listen::Node(A::FAMILY)
        } else {
            Listen::Address(key.address.ip())
        },
        port: u16::from_be_bytes(key.port),
        protocol: (protocols.into_iter()).find(|one| protocol_number(*one) == key.protocol)?,
    })
}

/// The slot of an endpoint; `None` if it is of the other family.
#[must_use]
pub fn backend<A: Ip>(desired: &DesiredBackend) -> Option<Backend<A>> {
    Some(Backend {
        address: A::from_ip(desired.address.ip())?,
        port: desired.address.port().to_be_bytes(),
        flags: if desired.local {
            backend_flags::LOCAL
        } else {
            0
        },
    })
}

/// The key that lets UDP flows of a service stay with an endpoint; `None` if it is of the other family.
#[must_use]
pub fn serving_key<A: Ip>(service: u32, endpoint: SocketAddr) -> Option<ServingKey<A>> {
    Some(ServingKey {
        service,
        address: A::from_ip(endpoint.ip())?,
        port: endpoint.port().to_be_bytes(),
        pad: [0; 2],
    })
}

/// The key of a range of sources of a service port; `None` if it is of the other family.
#[must_use]
pub fn source_key<A: Ip>(service: u32, range: IpNet) -> Option<SourceRangeKey<A>> {
    Some(SourceRangeKey {
        prefix_len: SERVICE_BITS + u32::from(range.prefix_len()),
        service: service.to_be_bytes(),
        address: A::from_ip(range.network())?,
    })
}

/// The range that a key stands for; `None` if it is none.
#[must_use]
pub fn source_range<A: Ip>(key: &SourceRangeKey<A>) -> Option<IpNet> {
    let bits = key.prefix_len.checked_sub(SERVICE_BITS)?;
    IpNet::new(key.address.ip(), u8::try_from(bits).ok()?).ok()
}

/// Bits of a source range's prefix that the service port takes.
const SERVICE_BITS: u32 = 32;

/// Address and port in host order, as people write them.
#[must_use]
pub fn socket_address<A: Ip>(address: A, port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(address.ip(), u16::from_be_bytes(port))
}

/// `10.0.0.1:80/TCP`, or `node:30080/TCP` for a NodePort.
#[must_use]
pub fn frontend_text<A: Ip>(key: &FrontendKey<A>) -> String {
    let protocol = protocol_name(key.protocol);
    let port = u16::from_be_bytes(key.port);
    if key.address == A::UNSPECIFIED {
        format!("node:{port}/{protocol}")
    } else {
        format!("{}/{protocol}", socket_address(key.address, key.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_network_order_and_of_one_family_only() {
        let id = FrontendId {
            listen: Listen::Node(Family::V4),
            port: 30080,
            protocol: Protocol::Udp,
        };
        let key = frontend_key::<V4>(&id).expect("an IPv4 NodePort");
        assert_eq!(key.address, [0, 0, 0, 0]);
        assert_eq!(key.port, [0x75, 0x80]);
        assert_eq!(key.protocol, 17);
        assert_eq!(frontend_key::<V6>(&id), None);
        assert_eq!(frontend_id(&key), Some(id));
        assert_eq!(frontend_text(&key), "node:30080/UDP");

        let id = FrontendId {
            listen: Listen::Address("fd00::a".parse().expect("an address")),
            port: 443,
            protocol: Protocol::Tcp,
        };
        let key = frontend_key::<V6>(&id).expect("an IPv6 address");
        assert_eq!(key.address[..2], [0xfd, 0x00]);
        assert_eq!(frontend_text(&key), "[fd00::a]:443/TCP");
        assert_eq!(frontend_id(&key), Some(id));
        assert_eq!(frontend_key::<V4>(&id), None);
    }

    #[test]
    fn a_mapped_address_stays_ipv6() {
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().expect("an address");
        assert_eq!(V4::from_ip(mapped), None);
        assert_eq!(V6::from_ip(mapped).map(V6::ip), Some(mapped));
    }
}
