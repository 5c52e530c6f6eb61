//! A Node out of its JSON.
//!
//! Owns which fields of a Node count: its zone and its addresses. It refuses to know this node's devices.
//! Invariant: at most one primary address of each family.

use std::net::IpAddr;

use crate::model::address::parse_address;
use crate::model::desired::Family;
use crate::model::field::Field;
use crate::model::objects::{Meta, Node};
use crate::model::report::Reason;

/// The only label of a Node that counts (behaviours 5.7).
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Reads what follows the metadata.
pub(super) fn read(root: &Field<'_, '_>, meta: Meta) -> Option<Node> {
    let status = root.key("status");
    let status = status.object()?;
    let of_type = |wanted: &str| -> Vec<IpAddr> {
        status
            .key("addresses")
            .items()
            .filter(|entry| entry.key("type").raw_text() == Some(wanted))
            .filter_map(|entry| address(&entry.key("address")))
            .collect()
    };
    let candidates = [of_type("InternalIP"), of_type("ExternalIP")].concat();
    let primary_addresses = Family::ALL
        .into_iter()
        .filter_map(|family| {
            let mut of_family = candidates.iter().filter(|one| Family::of(**one) == family);
            of_family.next().copied()
        })
        .collect();
    Some(Node {
        meta,
        zone: super::label(root, ZONE_LABEL)
            .filter(|zone| !zone.is_empty())
            .map(ToOwned::to_owned),
        primary_addresses,
    })
}

fn address(field: &Field<'_, '_>) -> Option<IpAddr> {
    let text = field.text()?;
    let address = parse_address(text);
    if address.is_none() {
        field.problem(Reason::NotAnAddress(text.to_owned()));
    }
    address
}
