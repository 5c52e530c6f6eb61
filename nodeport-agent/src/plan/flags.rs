//! Names of the bits in map values, for people and for JSON.
//!
//! Owns the spelling. It refuses to know when a bit is set. Invariant: every bit of the ABI has a name, and an unknown bit is
//! shown as a number rather than left out.

use nodeport_common::{address_flags, frontend_flags};

const FRONTEND: &[(u32, &str)] = &[
    (frontend_flags::CLUSTER_IP, "cluster_ip"),
    (frontend_flags::NODE_PORT, "node_port"),
    (frontend_flags::EXTERNAL_IP, "external_ip"),
    (frontend_flags::LOAD_BALANCER, "load_balancer"),
    (frontend_flags::DROP_IF_EMPTY, "drop_if_empty"),
    (frontend_flags::LOCAL_DROP_IF_EMPTY, "local_drop_if_empty"),
    (frontend_flags::POLICY_LOCAL, "policy_local"),
    (frontend_flags::SOURCE_RANGES, "source_ranges"),
];

const ADDRESS: &[(u32, &str)] = &[
    (address_flags::NODE_PORT, "node_port"),
    (address_flags::VIRTUAL, "virtual"),
    (address_flags::HOST, "host"),
    (address_flags::CLUSTER_IP, "cluster_ip"),
];

/// Names of the bits of [`Frontend::flags`](nodeport_common::Frontend::flags).
#[must_use]
pub fn frontend_flag_names(flags: u32) -> Vec<String> {
    names(flags, FRONTEND)
}

/// Names of the bits of [`Address::flags`](nodeport_common::Address::flags).
#[must_use]
pub fn address_flag_names(flags: u32) -> Vec<String> {
    names(flags, ADDRESS)
}

/// The bits that these names stand for; the first unknown name is the error.
pub(super) fn frontend_flags_of(names: &[String]) -> Result<u32, String> {
    bits(names, FRONTEND)
}

/// The bits that these names stand for; the first unknown name is the error.
pub(super) fn address_flags_of(names: &[String]) -> Result<u32, String> {
    bits(names, ADDRESS)
}

fn names(flags: u32, table: &[(u32, &str)]) -> Vec<String> {
    let known = table.iter().fold(0, |all, (bit, _)| all | bit);
    let mut names: Vec<String> = table
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    if flags & !known != 0 {
        names.push(format!("{:#x}", flags & !known));
    }
    names
}

fn bits(names: &[String], table: &[(u32, &str)]) -> Result<u32, String> {
    names.iter().try_fold(0, |all, name| {
        let named = table.iter().find(|entry| entry.1 == name);
        let number = || u32::from_str_radix(name.strip_prefix("0x")?, 16).ok();
        let bit = named.map(|entry| entry.0).or_else(number);
        bit.map(|bit| all | bit).ok_or_else(|| name.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_names_convert_both_ways() {
        let flags = frontend_flags::NODE_PORT | frontend_flags::POLICY_LOCAL | 0x400;
        let names = frontend_flag_names(flags);
        assert_eq!(names, ["node_port", "policy_local", "0x400"]);
        assert_eq!(frontend_flags_of(&names), Ok(flags));
        assert_eq!(address_flag_names(0), Vec::<String>::new());
        assert_eq!(
            address_flags_of(&["host".to_owned(), "moon".to_owned()]),
            Err("moon".to_owned())
        );
    }
}
