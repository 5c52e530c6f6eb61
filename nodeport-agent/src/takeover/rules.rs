//! What kube-proxy leaves in nftables: its own tables, and its chains in the tables of the `iptables` that writes to nftables.
//!
//! Owns which of it is kube-proxy's. Refuses to touch what kubelet makes (`KUBE-FIREWALL`, its canaries) and everything else.

mod removal;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, ExpressionAttribute, Expressions, Immediate,
    ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
    VerdictAttribute,
};
use netlink_packet_netfilter::{NetfilterMessageInner, NetfilterProtoFamily};

use super::netfilter::Netfilter;
pub(super) use removal::{remove, remove_keepers};

/// kube-proxy's table in nftables mode, in both families.
const TABLE: &str = "kube-proxy";
/// Our table that keeps translation going.
const KEEPER: &str = "nodeport-keep-nat";
/// Tables in which kube-proxy has chains in iptables mode (and in IPVS mode).
const IPTABLES: [&str; 3] = ["nat", "filter", "mangle"];
/// Chains with kube-proxy's prefix that are kubelet's.
const KUBELETS: [&str; 4] = [
    "KUBE-FIREWALL",
    "KUBE-KUBELET-CANARY",
    "KUBE-MARK-DROP",
    "KUBE-IPTABLES-HINT",
];

/// A family of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    const ALL: [Self; 2] = [Self::Ip, Self::Ip6];

    fn of(family: NetfilterProtoFamily) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.netlink() == family)
    }

    fn netlink(self) -> NetfilterProtoFamily {
        match self {
            Self::Ip => NetfilterProtoFamily::IPv4,
            Self::Ip6 => NetfilterProtoFamily::IPv6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

/// A table by its family and name.
type Place = (Family, String);

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// Families that have kube-proxy's own table.
    pub(super) tables: BTreeSet<Family>,
    /// Families that have our table that keeps translation going.
    pub(super) keepers: BTreeSet<Family>,
    /// kube-proxy's chains in tables of iptables.
    pub(super) chains: BTreeMap<Place, BTreeSet<String>>,
    /// Rules in other chains of these tables that lead to them: chain and handle.
    jumps: BTreeMap<Place, Vec<(String, u64)>>,
}

impl Rules {
    /// Whether there is nothing of kube-proxy's.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.chains.is_empty()
    }

    /// In words, one line for each table.
    pub(super) fn describe(&self) -> Vec<String> {
        let own = self
            .tables
            .iter()
            .map(|family| format!("nftables: table {family} {TABLE}"));
        let chains = self.chains.iter().map(|((family, table), chains)| {
            let jumps = self.jumps.get(&(*family, table.clone())).map_or(0, Vec::len);
            format!(
                "iptables: table {family} {table}: {} chains KUBE-*, {jumps} rules that lead to them",
                chains.len()
            )
        });
        own.chain(chains).collect()
    }
}

/// Reads what there is.
pub(super) fn read(netfilter: &mut Netfilter) -> io::Result<Rules> {
    let mut rules = Rules::default();
    let mut others: BTreeMap<Place, Vec<String>> = BTreeMap::new();
    netfilter.list(
        NetfilterProtoFamily::Unspec,
        NfTablesMessage::GetTable(TableMessage { attributes: vec![] }),
        &mut |message| {
            let family = Family::of(message.header.family);
            if let (Some(family), Some(name)) = (family, table_name(&message.inner)) {
                match name.as_str() {
                    TABLE => drop(rules.tables.insert(family)),
                    KEEPER => drop(rules.keepers.insert(family)),
                    _ => {}
                }
            }
        },
    )?;
    netfilter.list(
        NetfilterProtoFamily::Unspec,
        NfTablesMessage::GetChain(ChainMessage { attributes: vec![] }),
        &mut |message| {
            let Some(family) = Family::of(message.header.family) else {
                return;
            };
            let Some((table, chain)) = chain_name(&message.inner) else {
                return;
            };
            if !IPTABLES.contains(&table.as_str()) {
                return;
            }
            let place = (family, table);
            if is_kube_proxys(&chain) {
                rules.chains.entry(place).or_default().insert(chain);
            } else {
                others.entry(place).or_default().push(chain);
            }
        },
    )?;
    for (place, chains) in &rules.chains {
        for other in others.get(place).into_iter().flatten() {
            let found = jumps(netfilter, place, other, chains)?;
            let found = found.into_iter().map(|handle| (other.clone(), handle));
            rules.jumps.entry(place.clone()).or_default().extend(found);
        }
    }
    Ok(rules)
}

/// Whether a chain of iptables is kube-proxy's.
pub(super) fn is_kube_proxys(chain: &str) -> bool {
    chain.starts_with("KUBE-") && !KUBELETS.contains(&chain)
}

fn table_name(message: &NetfilterMessageInner) -> Option<String> {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = message else {
        return None;
    };
    table
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            TableAttribute::Name(name) => Some(name.clone()),
            _ => None,
        })
}

fn chain_name(message: &NetfilterMessageInner) -> Option<(String, String)> {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message else {
        return None;
    };
    let (mut table, mut name) = (None, None);
    for attribute in &chain.attributes {
        match attribute {
            ChainAttribute::Table(text) => table = Some(text.clone()),
            ChainAttribute::Name(text) => name = Some(text.clone()),
            _ => {}
        }
    }
    Some((table?, name?))
}

/// Handles of the rules of a chain that lead to one of `targets`.
fn jumps(
    netfilter: &mut Netfilter,
    place: &Place,
    chain: &str,
    targets: &BTreeSet<String>,
) -> io::Result<Vec<u64>> {
    let question = RuleMessage {
        attributes: vec![
            RuleAttribute::Table(place.1.clone()),
            RuleAttribute::Chain(chain.to_owned()),
        ],
    };
    let mut handles = Vec::new();
    netfilter.list(
        place.0.netlink(),
        NfTablesMessage::GetRule(question),
        &mut |message| {
            if let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message.inner {
                handles.extend(leads_to(&rule.attributes, targets));
            }
        },
    )?;
    Ok(handles)
}

/// The handle of a rule that jumps or goes to one of `targets`.
fn leads_to(attributes: &[RuleAttribute], targets: &BTreeSet<String>) -> Option<u64> {
    let (mut handle, mut leads) = (None, false);
    for attribute in attributes {
        match attribute {
            RuleAttribute::Handle(number) => handle = Some(*number),
            RuleAttribute::Expressions(list) => {
                leads |= list
                    .iter()
                    .filter_map(verdict_chain)
                    .any(|chain| targets.contains(chain));
            }
            _ => {}
        }
    }
    handle.filter(|_| leads)
}

/// The chain that an expression leads to.
fn verdict_chain(element: &ListAttribute<ExpressionAttribute>) -> Option<&str> {
    let ListAttribute::Element(parts) = element else {
        return None;
    };
    let immediates = parts.iter().filter_map(|part| match part {
        ExpressionAttribute::Data(Expressions::Immediate(parts)) => Some(parts),
        _ => None,
    });
    let data = immediates.flatten().filter_map(|part| match part {
        Immediate::Data(DataAttribute::Verdict(verdict)) => Some(verdict),
        _ => None,
    });
    data.flatten().find_map(|part| match part {
        VerdictAttribute::Chain(name) => Some(name.as_str()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn iptables() -> Rules {
        let nat = (Family::Ip, "nat".to_owned());
        let names = (0..500).map(|number| format!("KUBE-SVC-{number:03}"));
        Rules {
            tables: BTreeSet::from([Family::Ip6]),
            keepers: BTreeSet::new(),
            chains: BTreeMap::from([(nat.clone(), names.collect())]),
            jumps: BTreeMap::from([(nat, vec![("PREROUTING".to_owned(), 7)])]),
        }
    }

    #[test]
    fn what_kubelet_and_others_make_is_not_kube_proxys() {
        for chain in [
            "KUBE-SERVICES",
            "KUBE-SVC-TCOU7JCQXEZGVUNU",
            "KUBE-PROXY-CANARY",
        ] {
            assert!(is_kube_proxys(chain), "{chain}");
        }
        for chain in [
            "KUBE-FIREWALL",
            "KUBE-KUBELET-CANARY",
            "PREROUTING",
            "CNI-HOSTPORT-DNAT",
        ] {
            assert!(!is_kube_proxys(chain), "{chain}");
        }
    }

    #[test]
    fn a_rule_that_leads_to_a_chain_is_told_from_others() {
        let rule = |chain: &str| {
            let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Chain(chain.to_owned())]);
            let jump = Expressions::Immediate(vec![Immediate::Data(verdict)]);
            vec![
                RuleAttribute::Handle(9),
                RuleAttribute::Expressions(vec![jump.into()]),
            ]
        };
        let targets = BTreeSet::from(["KUBE-SERVICES".to_owned()]);
        assert_eq!(leads_to(&rule("KUBE-SERVICES"), &targets), Some(9));
        assert_eq!(leads_to(&rule("DOCKER"), &targets), None);
        assert_eq!(leads_to(&[RuleAttribute::Handle(9)], &targets), None);
    }

    #[test]
    fn each_table_is_told_of_in_a_line() {
        let wanted = [
            "nftables: table ip6 kube-proxy",
            "iptables: table ip nat: 500 chains KUBE-*, 1 rules that lead to them",
        ];
        assert_eq!(iptables().describe(), wanted);
        assert!(Rules::default().is_empty() && !iptables().is_empty());
    }
}
