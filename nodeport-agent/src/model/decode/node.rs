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

/// Taint of a Node that the cluster autoscaler is about to remove.
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

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
        is_leaving: is_leaving(root),
    })
}

/// Whether the Node is being deleted, or has the taint by which the cluster autoscaler announces that it will be (behaviours 16.4).
fn is_leaving(root: &Field<'_, '_>) -> bool {
    let metadata = root.key("metadata");
    let spec = root.key("spec");
    let taints = spec.key("taints");
    let mut keys = taints.items();
    metadata.key("deletionTimestamp").present()
        || keys.any(|taint| taint.key("key").raw_text() == Some(LEAVING_TAINT))
}

fn address(field: &Field<'_, '_>) -> Option<IpAddr> {
    let text = field.text()?;
    let address = parse_address(text);
    if address.is_none() {
        field.problem(Reason::NotAnAddress(text.to_owned()));
    }
    address
}
