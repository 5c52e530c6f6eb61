//! An EndpointSlice out of its JSON.
//!
//! Owns which fields of a slice count and their defaults (behaviours 3.4). It refuses to know the Service.
//! Invariant: every endpoint has an address of the slice's family, every port a number.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::model::address::{parse_address, special};
use crate::model::desired::Family;
use crate::model::field::Field;
use crate::model::objects::{Endpoint, EndpointPort, EndpointSlice, Meta};
use crate::model::report::Reason;

/// The only tie between a slice and its Service (behaviours 1.8).
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// When the change happened that made the controller write the slice (behaviours 22.11).
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Slices with either label are not for us (behaviours 1.3, 1.4); the controller copies them from the Service.
const FOREIGN_LABELS: [&str; 2] = [
    "service.kubernetes.io/headless",
    "service.kubernetes.io/service-proxy-name",
];

/// Reads what follows the metadata. `None` if its address type is unknown.
pub(super) fn read(root: &Field<'_, '_>, meta: Meta) -> Option<EndpointSlice> {
    let kind = root.key("addressType");
    let words = &[
        ("IPv4", Some(Family::V4)),
        ("IPv6", Some(Family::V6)),
        ("FQDN", None),
    ];
    let Some(family) = kind.word("IPv4, IPv6, FQDN", words).ok()? else {
        kind.problem(Reason::Missing);
        return None;
    };
    let foreign = FOREIGN_LABELS
        .iter()
        .any(|label| super::label(root, label).is_some());
    let service = super::label(root, SERVICE_NAME_LABEL)
        .filter(|name| !name.is_empty() && !foreign && family.is_some());
    let mut slice = EndpointSlice {
        meta,
        service: service.map(Arc::from),
        family: family.unwrap_or(Family::V4),
        endpoints: Vec::new(),
        ports: Vec::new(),
        triggered: triggered(root),
    };
    if slice.service.is_some() {
        slice.endpoints = root
            .key("endpoints")
            .items()
            .filter_map(|entry| endpoint(&entry, slice.family))
            .collect();
        slice.ports = root
            .key("ports")
            .items()
            .filter_map(|entry| port(&entry))
            .collect();
    }
    Some(slice)
}

/// When the change happened that the slice's state is due to. Only latencies are made of it, so that nonsense is no problem.
fn triggered(root: &Field<'_, '_>) -> Option<Timestamp> {
    let metadata = root.key("metadata");
    let annotations = metadata.key("annotations");
    let time = annotations.key(TRIGGER_TIME).raw_text()?;
    time.parse().ok()
}

fn endpoint(entry: &Field<'_, '_>, family: Family) -> Option<Endpoint> {
    let entry = entry.object()?;
    let addresses = entry.key("addresses");
    let Some(first) = addresses.items().next() else {
        if !addresses.present() || addresses.is_list() {
            addresses.problem(Reason::Missing);
        }
        return None;
    };
    let text = first.text()?;
    let reason = match parse_address(text) {
        None => Reason::NotAnAddress(text.to_owned()),
        Some(address) if Family::of(address) != family => Reason::OtherFamily {
            address: text.to_owned(),
            expected: family,
        },
        Some(address) => match special(address) {
            None => {
                let conditions = entry.key("conditions");
                let hints = entry.key("hints");
                return Some(Endpoint {
                    address,
                    node: entry.key("nodeName").text().unwrap_or_default().to_owned(),
                    ready: conditions.key("ready").boolean_or(true),
                    serving: conditions.key("serving").boolean_or(true),
                    terminating: conditions.key("terminating").boolean_or(false),
                    node_hints: names(&hints.key("forNodes")),
                    zone_hints: names(&hints.key("forZones")),
                });
            }
            Some(what) => Reason::SpecialAddress {
                address: text.to_owned(),
                what,
            },
        },
    };
    first.problem(reason);
    None
}

fn names(list: &Field<'_, '_>) -> BTreeSet<String> {
    list.items()
        .filter_map(|entry| entry.key("name").text().map(ToOwned::to_owned))
        .collect()
}

fn port(entry: &Field<'_, '_>) -> Option<EndpointPort> {
    let entry = entry.object()?;
    let protocol = super::protocol(&entry)?;
    let number = entry.key("port");
    let Some(port) = number.port() else {
        if !number.present() || number.is_zero() {
            number.problem(Reason::NotHonoured(
                "has no number (meaning all ports): the port is ignored",
            ));
        }
        return None;
    };
    Some(EndpointPort {
        name: entry.key("name").text().unwrap_or_default().to_owned(),
        protocol,
        port,
    })
}
