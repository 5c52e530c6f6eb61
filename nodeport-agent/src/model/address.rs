//! Addresses as Kubernetes reads them.
//!
//! Owns the lenient reading of addresses (behaviours 2.2) and the question which addresses Service traffic cannot go to.
//! Invariant: whatever the standard parser reads, this one reads alike.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::desired::Family;

impl Family {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Reads an address. Octets of IPv4 with leading zeros are decimal, as Kubernetes has them, not octal and not an error
/// (CVE-2021-29923 is about programs that disagree); an IPv4-mapped IPv6 address is the IPv4 address.
#[must_use]
pub fn parse_address(text: &str) -> Option<IpAddr> {
    let address = match text.parse() {
        Ok(address) => address,
        Err(_) if text.contains('.') => without_leading_zeros(text)?.parse().ok()?,
        Err(_) => return None,
    };
    Some(IpAddr::to_canonical(&address))
}

/// Reads a CIDR, as leniently. Host bits may be set and are ignored, as Kubernetes does.
#[must_use]
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.trim().split_once('/')?;
    if !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let net = IpNet::new(parse_address(address)?, length.parse().ok()?).ok()?;
    Some(net.trunc())
}

/// The dotted part (all of it, or what follows the last colon) with its octets in their shortest form.
fn without_leading_zeros(text: &str) -> Option<String> {
    let at = text.rfind(':').map_or(0, |colon| colon + 1);
    let (head, dotted) = text.split_at(at);
    let octets: Option<Vec<&str>> = dotted.split('.').map(shortest).collect();
    Some(format!("{head}{}", octets?.join(".")))
}

fn shortest(octet: &str) -> Option<&str> {
    if octet.is_empty() || !octet.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let trimmed = octet.trim_start_matches('0');
    Some(if trimmed.is_empty() { "0" } else { trimmed })
}

/// What makes an address unusable for endpoints and external addresses, with its article; `None` if nothing does.
///
/// The API server refuses these too. Objects from files did not pass one, and an endpoint on loopback or on a link-local
/// address would lend outside clients the node's own reach (its loopback services, its cloud's metadata service).
#[must_use]
pub fn special(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("the unspecified address");
    }
    if address.is_loopback() {
        return Some("a loopback address");
    }
    if address.is_multicast() {
        return Some("a multicast address");
    }
    match address {
        IpAddr::V4(v4) if v4 == Ipv4Addr::BROADCAST => Some("the broadcast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        _ => None,
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        parse_address(text).map(|address| address.to_string())
    }

    #[test]
    fn leading_zeros_are_decimal_2_2() {
        assert_eq!(read("10.96.0.011").as_deref(), Some("10.96.0.11"));
        assert_eq!(read("010.000.0.08").as_deref(), Some("10.0.0.8"));
        assert_eq!(read("::ffff:010.0.0.01").as_deref(), Some("10.0.0.1"));
        assert_eq!(
            read("64:ff9b::010.0.0.01").as_deref(),
            Some("64:ff9b::a00:1")
        );
    }

    #[test]
    fn usual_addresses_are_read_as_usual() {
        assert_eq!(read("10.96.0.1").as_deref(), Some("10.96.0.1"));
        assert_eq!(read("fd00:10:96::1").as_deref(), Some("fd00:10:96::1"));
        assert_eq!(read("::ffff:10.0.0.1").as_deref(), Some("10.0.0.1"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "10.96.0",
            "10.96.0.256",
            "10.96.0.0256",
            "10.96.0.-1",
            "10.96.0.+1",
            "10.96.0.0x1",
            "10.96..1",
            " 10.96.0.1",
            "10.96.0.1.",
            "fd00::g",
            "fd00::1%eth0",
            "example.com",
            "10.96.0.1:80",
            "None",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn cidrs() {
        let read = |text| parse_cidr(text).map(|net| net.to_string());
        assert_eq!(read("192.168.88.7/24").as_deref(), Some("192.168.88.0/24"));
        assert_eq!(read(" 010.0.0.0/8 ").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(read("0.0.0.0/0").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(read("fd00:88::/64").as_deref(), Some("fd00:88::/64"));
        for text in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "/8",
            "fd00::/129",
            "primary",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn addresses_that_lead_into_the_node_itself_are_special() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "169.254.169.254",
            "fe80::1",
        ] {
            assert!(special(text.parse().unwrap()).is_some(), "{text}");
        }
        for text in [
            "10.0.0.1",
            "192.168.88.11",
            "198.51.100.1",
            "fd00::1",
            "2001:db8::1",
        ] {
            assert_eq!(special(text.parse().unwrap()), None, "{text}");
        }
    }
}
