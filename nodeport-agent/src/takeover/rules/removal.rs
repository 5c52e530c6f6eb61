//! The removal of kube-proxy's rules, as transactions of nftables.
//!
//! Owns the order. Invariant: translation of connections goes on: in the same transaction in which kube-proxy's tables go, a table of ours
//! comes that has nothing but a hook and a look at conntrack: the kernel translates packets of known connections only while some chain of
//! type nat exists, and tracks connections only while some rule asks for them.

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Expressions, Hook, HookNumber, InetHookNumber, NfTablesMessage,
    RuleAttribute, RuleMessage, TableAttribute, TableMessage,
};

use super::{Family, KEEPER, Place, Rules, TABLE};
use crate::takeover::netfilter::{Change, Netfilter};

/// Priority of destination translation (`NF_IP_PRI_NAT_DST`).
const PRIORITY: i32 = -100;
/// The only chain of our table.
const KEEPER_CHAIN: &str = "prerouting";
// Of the expression `ct`, from the kernel's include/uapi/linux/netfilter/nf_tables.h.
const CT_REGISTER: u16 = 1;
const CT_KEY: u16 = 2;
const CT_STATUS: u32 = 2;
const FIRST_REGISTER: u32 = 8;
/// Changes in one transaction: one must fit into a socket's buffer.
const PORTION: usize = 400;

/// Removes what there is, and keeps translation going.
pub(in crate::takeover) fn remove(netfilter: &mut Netfilter, rules: &Rules) -> io::Result<()> {
    for portion in removal(rules) {
        netfilter.transact(portion)?;
    }
    Ok(())
}

/// Removes our table: no connection needs it any more.
pub(in crate::takeover) fn remove_keepers(
    netfilter: &mut Netfilter,
    rules: &Rules,
) -> io::Result<()> {
    let changes = rules
        .keepers
        .iter()
        .map(|family| table(*family, KEEPER, false));
    netfilter.transact(changes.collect())
}

/// The transactions: first what switches translation over, at once; then, in portions, what nothing leads to any more.
fn removal(rules: &Rules) -> Vec<Vec<Change>> {
    let mut first: Vec<Change> = Vec::new();
    let nat = |family: &Family| rules.chains.contains_key(&(*family, "nat".to_owned()));
    for family in Family::ALL
        .iter()
        .filter(|family| rules.tables.contains(family) || nat(family))
    {
        first.push(table(*family, KEEPER, true));
        first.push(keeper_chain(*family));
        first.push(keeper_rule(*family));
    }
    first.extend(
        rules
            .tables
            .iter()
            .map(|family| table(*family, TABLE, false)),
    );
    for (place, jumps) in &rules.jumps {
        first.extend(
            jumps
                .iter()
                .map(|(chain, handle)| rule(place, chain, Some(*handle))),
        );
    }
    let all = || {
        let places = rules.chains.iter();
        places.flat_map(|(place, chains)| chains.iter().map(move |chain| (place, chain)))
    };
    let flushed = all().map(|(place, name)| rule(place, name, None));
    let deleted = all().map(|(place, name)| chain(place, name));
    let mut rest: Vec<Change> = flushed.chain(deleted).collect();
    let mut portions = vec![first];
    while !rest.is_empty() {
        let tail = rest.split_off(rest.len().min(PORTION));
        portions.push(std::mem::replace(&mut rest, tail));
    }
    portions
}

fn table(family: Family, name: &str, comes: bool) -> Change {
    let attributes = vec![TableAttribute::Name(name.to_owned())];
    let message = TableMessage { attributes };
    let message = if comes {
        NfTablesMessage::NewTable(message)
    } else {
        NfTablesMessage::DeleteTable(message)
    };
    change(family, message, if comes { NLM_F_CREATE } else { 0 })
}

/// A chain of type nat: its hook is what counts.
fn keeper_chain(family: Family) -> Change {
    let attributes = vec![
        ChainAttribute::Table(KEEPER.to_owned()),
        ChainAttribute::Name(KEEPER_CHAIN.to_owned()),
        ChainAttribute::Hook(vec![
            Hook::Number(HookNumber::Inet(InetHookNumber::PreRouting)),
            Hook::Priority(PRIORITY.cast_unsigned()),
        ]),
        ChainAttribute::Type("nat".to_owned()),
    ];
    let message = ChainMessage { attributes };
    change(family, NfTablesMessage::NewChain(message), NLM_F_CREATE)
}

/// A rule that reads the status of a connection, and that is all.
fn keeper_rule(family: Family) -> Change {
    let number = |kind, value: u32| DefaultNla::new(kind, value.to_be_bytes().to_vec());
    let read = Expressions::Other {
        expression_type: "ct".to_owned(),
        attributes: vec![
            number(CT_REGISTER, FIRST_REGISTER),
            number(CT_KEY, CT_STATUS),
        ],
    };
    let attributes = vec![
        RuleAttribute::Table(KEEPER.to_owned()),
        RuleAttribute::Chain(KEEPER_CHAIN.to_owned()),
        RuleAttribute::Expressions(vec![read.into()]),
    ];
    let message = NfTablesMessage::NewRule(RuleMessage { attributes });
    change(family, message, NLM_F_CREATE | NLM_F_APPEND)
}

/// Deletes one rule, or all of a chain.
fn rule(place: &Place, chain: &str, handle: Option<u64>) -> Change {
    let mut attributes = vec![
        RuleAttribute::Table(place.1.clone()),
        RuleAttribute::Chain(chain.to_owned()),
    ];
    attributes.extend(handle.map(RuleAttribute::Handle));
    change(
        place.0,
        NfTablesMessage::DeleteRule(RuleMessage { attributes }),
        0,
    )
}

fn chain(place: &Place, name: &str) -> Change {
    let attributes = vec![
        ChainAttribute::Table(place.1.clone()),
        ChainAttribute::Name(name.to_owned()),
    ];
    change(
        place.0,
        NfTablesMessage::DeleteChain(ChainMessage { attributes }),
        0,
    )
}

fn change(family: Family, message: NfTablesMessage, flags: u16) -> Change {
    Change {
        family: family.netlink(),
        message: message.into(),
        flags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_netfilter::NetfilterMessageInner;

    #[test]
    fn first_the_switch_with_translation_kept_then_the_rest_in_portions() {
        let portions = removal(&crate::takeover::rules::tests::iptables());
        // Both families: a table, a chain and a rule that keep translation; then kube-proxy's table goes, and the rule that leads to its chains.
        assert_eq!(portions[0].len(), 3 + 3 + 1 + 1);
        let is_new = |change: &Change| {
            matches!(
                change.message,
                NetfilterMessageInner::NfTables(
                    NfTablesMessage::NewTable(_)
                        | NfTablesMessage::NewChain(_)
                        | NfTablesMessage::NewRule(_)
                )
            )
        };
        assert!(portions[0][..6].iter().all(is_new));
        assert!(!portions[0][6..].iter().any(is_new));
        let sizes: Vec<usize> = portions[1..].iter().map(Vec::len).collect();
        assert_eq!(sizes, [400, 400, 200]);
        // All rules go before the first chain does.
        let rest: Vec<&Change> = portions[1..].iter().flatten().collect();
        let is_rule = |change: &&Change| {
            matches!(
                change.message,
                NetfilterMessageInner::NfTables(NfTablesMessage::DeleteRule(_))
            )
        };
        assert!(rest[..500].iter().all(is_rule) && !rest[500..].iter().any(is_rule));
    }
}
