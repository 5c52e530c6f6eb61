//! On which of this node's addresses NodePorts answer: `--nodeport-addresses` (behaviours 12).
//!
//! Owns the option's syntax and meaning. It refuses to know how addresses are watched.
//! Invariant: a loopback address is never accepted (12.3, 13.3), and an address that no device carries neither.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::address::parse_cidr;
use super::desired::Family;
use super::snapshot::HostAddress;

/// The option. The default, no entries, accepts every address that is not loopback.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodePortAddresses {
    entries: BTreeSet<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    All,
    Primary,
    /// Loopback addresses, on which nothing answers.
    Localhost,
    Cidr(IpNet),
}

/// An entry of the option that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNodePortAddresses {
    /// Neither a keyword nor a CIDR.
    #[error(
        "--nodeport-addresses: {0:?} is neither `primary`, `all` nor a CIDR such as 192.168.0.0/16"
    )]
    NotACidr(String),
}

impl NodePortAddresses {
    /// Reads the option's values. No values, or only empty ones, are the default.
    ///
    /// # Errors
    ///
    /// The first value that means nothing.
    pub fn parse<T: AsRef<str>>(values: &[T]) -> Result<Self, InvalidNodePortAddresses> {
        let values = values.iter().flat_map(|value| value.as_ref().split(','));
        let entries = values
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .map(|value| match value {
                "all" => Ok(Entry::All),
                "primary" => Ok(Entry::Primary),
                "localhost" => Ok(Entry::Localhost),
                _ => match parse_cidr(value) {
                    Some(net) => Ok(Entry::Cidr(net)),
                    None => Err(InvalidNodePortAddresses::NotACidr(value.to_owned())),
                },
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }

    /// Whether an entry means loopback addresses only, on which NodePorts do not answer (13.3, 13.5): `localhost`, or a CIDR within
    /// `127.0.0.0/8` or of `::1`.
    #[must_use]
    pub fn is_loopback(value: &str) -> bool {
        let within = |net: IpNet| net.addr().is_loopback() && net.broadcast().is_loopback();
        value.trim() == "localhost" || parse_cidr(value).is_some_and(within)
    }

    /// Families that are not restricted although the other one is (12.1): worth a warning, because few expect it.
    #[must_use]
    pub fn open_by_omission(&self) -> Option<Family> {
        let named = |family| self.entries.iter().any(|entry| entry.names(family));
        match (named(Family::V4), named(Family::V6)) {
            (true, false) => Some(Family::V6),
            (false, true) => Some(Family::V4),
            _ => None,
        }
    }

    /// Whether every address of a family is accepted that is not loopback (12.1, 12.2).
    #[must_use]
    pub fn is_open(&self, family: Family) -> bool {
        let open = |entry: &Entry| match entry {
            Entry::All => true,
            Entry::Primary | Entry::Localhost => false,
            Entry::Cidr(net) => net.prefix_len() == 0 && Family::of(net.addr()) == family,
        };
        let named = self.entries.iter().any(|entry| entry.names(family));
        !named || self.entries.iter().any(open)
    }

    /// The addresses that are accepted; `primary` are the node's.
    #[must_use]
    pub fn select(&self, host: &BTreeSet<HostAddress>, primary: &[IpAddr]) -> BTreeSet<IpAddr> {
        host.iter()
            .map(|one| one.address)
            .filter(|address| !address.is_loopback() && self.accepts(*address, primary))
            .collect()
    }

    fn accepts(&self, address: IpAddr, primary: &[IpAddr]) -> bool {
        let family = Family::of(address);
        if !self.entries.iter().any(|entry| entry.names(family)) {
            return true;
        }
        self.entries.iter().any(|entry| match entry {
            Entry::All => true,
            Entry::Primary => primary.contains(&address),
            Entry::Localhost => false,
            Entry::Cidr(net) => net.contains(&address),
        })
    }
}

impl Entry {
    /// Whether the entry says something about a family.
    fn names(&self, family: Family) -> bool {
        match self {
            Self::All | Self::Primary | Self::Localhost => true,
            Self::Cidr(net) => Family::of(net.addr()) == family,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&str]) -> Result<NodePortAddresses, String> {
        NodePortAddresses::parse(values).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_and_empty_values_are_the_default() {
        for values in [&[][..], &[""], &[" ", ","]] {
            assert_eq!(
                parse(values),
                Ok(NodePortAddresses::default()),
                "{values:?}"
            );
        }
    }

    #[test]
    fn values_may_be_given_apart_or_with_commas() {
        let apart = parse(&["primary", "10.0.0.0/8", "fd00::/8"]);
        assert_eq!(apart, parse(&["fd00::/8, 10.1.2.3/8,primary"]));
        assert_ne!(apart, parse(&["primary"]));
    }

    #[test]
    fn what_means_nothing_is_refused_with_the_value() {
        let refused = |value: &str| parse(&["primary", value]).expect_err(value);
        assert!(refused("10.0.0.1").contains("\"10.0.0.1\""));
        assert!(refused("Primary").contains("\"Primary\""));
        assert!(refused("10.0.0.0/40").contains("\"10.0.0.0/40\""));
    }

    #[test]
    fn loopback_is_told_from_what_merely_contains_it_and_accepts_nothing_13_3() {
        for value in ["localhost", "127.0.0.0/8", "127.0.0.1/32", "::1/128"] {
            assert!(NodePortAddresses::is_loopback(value), "{value}");
            let host = ["127.0.0.1", "192.0.2.1"].map(|text| HostAddress {
                address: text.parse().expect("an address"),
                device: 1,
            });
            let accepted = parse(&[value]).expect("valid").select(&host.into(), &[]);
            let open = value == "::1/128";
            assert_eq!(accepted.len(), usize::from(open), "{value}: 12.1");
        }
        for value in ["0.0.0.0/0", "126.0.0.0/7", "primary", "::/0", "10.0.0.0/8"] {
            assert!(!NodePortAddresses::is_loopback(value), "{value}");
        }
    }

    #[test]
    fn a_family_is_open_by_omission_if_only_the_other_is_named_12_1() {
        let open = |values: &[&str]| parse(values).expect("values").open_by_omission();
        assert_eq!(open(&["10.0.0.0/8"]), Some(Family::V6));
        assert_eq!(open(&["fd00::/8"]), Some(Family::V4));
        assert_eq!(open(&["10.0.0.0/8", "fd00::/8"]), None);
        assert_eq!(open(&["10.0.0.0/8", "primary"]), None);
        assert_eq!(open(&[]), None);
    }
}
