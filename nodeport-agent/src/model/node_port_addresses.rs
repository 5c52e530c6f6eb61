//! On which of this node's addresses NodePorts answer: `--nodeport-addresses` (behaviours 12).
//!
//! Owns the option's syntax and meaning. It refuses to know how addresses are watched.
//! Invariant: a loopback address is never accepted (12.3, 13.3), and an address that no device carries neither.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::address::parse_cidr;
use super::desired::Family;
use super::objects::Node;
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
    /// kube-proxy's keyword for NodePorts on loopback, which are not offered (13.5).
    #[error(
        "--nodeport-addresses: `localhost` is not supported: NodePorts do not answer on loopback addresses"
    )]
    Localhost,
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
                "localhost" => Err(InvalidNodePortAddresses::Localhost),
                _ => match parse_cidr(value) {
                    Some(net) => Ok(Entry::Cidr(net)),
                    None => Err(InvalidNodePortAddresses::NotACidr(value.to_owned())),
                },
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
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
            Entry::Primary => false,
            Entry::Cidr(net) => net.prefix_len() == 0 && Family::of(net.addr()) == family,
        };
        let named = self.entries.iter().any(|entry| entry.names(family));
        !named || self.entries.iter().any(open)
    }

    /// The addresses that are accepted.
    #[must_use]
    pub fn select(&self, host: &BTreeSet<HostAddress>, node: Option<&Node>) -> BTreeSet<IpAddr> {
        let primary = node.map_or(&[][..], |node| &node.primary_addresses);
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
            Entry::Cidr(net) => net.contains(&address),
        })
    }
}

impl Entry {
    /// Whether the entry says something about a family.
    fn names(&self, family: Family) -> bool {
        match self {
            Self::All | Self::Primary => true,
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
        assert!(refused("localhost").contains("not supported"));
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
