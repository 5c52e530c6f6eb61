//! A Service out of its JSON.
//!
//! Owns which fields of a Service count. It refuses to know other objects: conflicts between Services are found later.
//! Invariant: at most one ClusterIP of each family, and no port without a number.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::address::{parse_address, parse_cidr, special};
use crate::model::desired::{Family, Protocol};
use crate::model::field::Field;
use crate::model::objects::{
    Entry, Exemption, Meta, Service, ServicePort, ServiceType, TrafficPolicy,
};
use crate::model::report::Reason;

/// How long a client is sent to the same endpoint again, unless the Service says, in seconds (behaviours 2.5).
const AFFINITY_SECS: u32 = 10_800;
/// The longest such time that the API allows, in seconds (behaviours 11.3).
const AFFINITY_SECS_MAX: u32 = 86_400;

/// Label that gives a Service to another proxy (behaviours 1.3).
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// Reads what follows the metadata. `None` if there is no telling what kind of thing it is.
pub(super) fn read(root: &Field<'_, '_>, meta: Meta) -> Option<Service> {
    let spec = root.key("spec");
    let spec = spec.object()?;
    let service_type = spec.key("type").word_or(
        ServiceType::ClusterIp,
        "ClusterIP, NodePort, LoadBalancer, ExternalName",
        &[
            ("ClusterIP", ServiceType::ClusterIp),
            ("NodePort", ServiceType::NodePort),
            ("LoadBalancer", ServiceType::LoadBalancer),
            ("ExternalName", ServiceType::ExternalName),
        ],
    );
    let exemption = if super::label(root, PROXY_NAME_LABEL).is_some() {
        Some(Exemption::OtherProxy)
    } else if service_type == ServiceType::ExternalName {
        Some(Exemption::ExternalName)
    } else {
        without_cluster_ip(&spec)
    };
    let mut service = Service {
        meta,
        exemption,
        service_type,
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: Vec::new(),
        external_policy: policy(&spec.key("externalTrafficPolicy")),
        internal_policy: policy(&spec.key("internalTrafficPolicy")),
        health_check_node_port: spec.key("healthCheckNodePort").port(),
        affinity_secs: 0,
        source_ranges: BTreeSet::new(),
    };
    if exemption.is_none() {
        service.cluster_ips = cluster_ips(&spec);
        service.external_ips = external_ips(&spec);
        if let Some(ranges) = source_ranges(&spec) {
            service.load_balancer_ips = load_balancer_ips(root);
            service.source_ranges = ranges;
        }
        service.ports = ports(&spec);
        service.affinity_secs = affinity_secs(&spec);
    } else if exemption == Some(Exemption::NoClusterIp) {
        spec.key("clusterIP").problem(Reason::NoClusterIp);
    }
    Some(service)
}

fn without_cluster_ip(spec: &Field<'_, '_>) -> Option<Exemption> {
    let first = spec.key("clusterIP");
    let all = spec.key("clusterIPs");
    let text = first
        .text()
        .or_else(|| all.items().next().and_then(|entry| entry.raw_text()));
    match text {
        None if first.present() && !first.is_empty_text() => None,
        None => Some(Exemption::NoClusterIp),
        Some("None") => Some(Exemption::Headless),
        Some(_) => None,
    }
}

/// The ClusterIPs, the family of each being what `ipFamilies` says at the same index (behaviours 19.2).
fn cluster_ips(spec: &Field<'_, '_>) -> Vec<Entry<IpAddr>> {
    let families = families(spec);
    let mut found: Vec<Entry<IpAddr>> = Vec::new();
    let list = spec.key("clusterIPs");
    let single = spec.key("clusterIP");
    let mut add = |index: usize, field: &Field<'_, '_>| {
        let Some(address) = address(field, false) else {
            return;
        };
        let family = Family::of(address);
        let announced = match families.get(index) {
            Some(announced) => *announced,
            None if families.is_empty() => Some(family),
            // A ClusterIP that is left over from the time when the Service had this family (behaviours 19.7).
            None => return,
        };
        if announced != Some(family) {
            if let Some(expected) = announced {
                field.problem(Reason::OtherFamily {
                    address: address.to_string(),
                    expected,
                });
            }
        } else if found.iter().any(|one| Family::of(one.value) == family) {
            field.problem(Reason::Repeats(format!("the {family} ClusterIP")));
        } else {
            found.push(Entry {
                index,
                value: address,
            });
        }
    };
    let mut any = false;
    for entry in list.items() {
        add(entry.index(), &entry);
        any = true;
    }
    if !any {
        add(0, &single);
    }
    found
}

/// `spec.ipFamilies`, an unknown word as `None` in its place.
fn families(spec: &Field<'_, '_>) -> Vec<Option<Family>> {
    let words = &[("IPv4", Family::V4), ("IPv6", Family::V6)];
    spec.key("ipFamilies")
        .items()
        .map(|entry| entry.word("IPv4, IPv6", words).ok().flatten())
        .collect()
}

fn external_ips(spec: &Field<'_, '_>) -> Vec<Entry<IpAddr>> {
    spec.key("externalIPs")
        .items()
        .filter_map(|entry| {
            let value = address(&entry, true)?;
            let index = entry.index();
            Some(Entry { index, value })
        })
        .collect()
}

/// Entries with an address (a hostname alone is no front end, behaviours 2.4) whose mode is not `Proxy`.
fn load_balancer_ips(root: &Field<'_, '_>) -> Vec<Entry<IpAddr>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mode {
        Vip,
        Proxy,
    }
    let status = root.key("status");
    let load_balancer = status.key("loadBalancer");
    load_balancer
        .key("ingress")
        .items()
        .filter_map(|entry| {
            let words = &[("VIP", Mode::Vip), ("Proxy", Mode::Proxy)];
            let mode = entry.key("ipMode").word("VIP, Proxy", words).ok()?;
            if mode == Some(Mode::Proxy) || !entry.key("ip").present() {
                return None;
            }
            let value = address(&entry.key("ip"), false)?;
            let index = entry.index();
            Some(Entry { index, value })
        })
        .collect()
}

/// An address, unless it is one that Service traffic cannot go to.
fn address(field: &Field<'_, '_>, refuse_link_local: bool) -> Option<IpAddr> {
    let text = field.text()?;
    let Some(address) = parse_address(text) else {
        field.problem(Reason::NotAnAddress(text.to_owned()));
        return None;
    };
    match special(address) {
        Some(what) if refuse_link_local || what != "a link-local address" => {
            field.problem(Reason::SpecialAddress {
                address: text.to_owned(),
                what,
            });
            None
        }
        _ => Some(address),
    }
}

fn ports(spec: &Field<'_, '_>) -> Vec<Entry<ServicePort>> {
    let mut ports: Vec<Entry<ServicePort>> = Vec::new();
    for entry in spec.key("ports").items() {
        let Some(value) = port(&entry) else { continue };
        let index = entry.index();
        let repeats = ports.iter().find(|earlier| {
            earlier.value.protocol == value.protocol
                && (earlier.value.name == value.name || earlier.value.port == value.port)
        });
        if let Some(earlier) = repeats {
            entry.problem(Reason::Repeats(format!("spec.ports[{}]", earlier.index)));
            continue;
        }
        if value.protocol == Protocol::Sctp {
            let what = Reason::ProtocolNotSupported(Protocol::Sctp);
            entry.key("protocol").problem(what);
        }
        ports.push(Entry { index, value });
    }
    ports
}

fn port(entry: &Field<'_, '_>) -> Option<ServicePort> {
    let entry = entry.object()?;
    let protocol = super::protocol(&entry)?;
    let number = entry.key("port");
    let Some(port) = number.port() else {
        if !number.present() || number.is_zero() {
            number.problem(Reason::Missing);
        }
        return None;
    };
    Some(ServicePort {
        name: entry.key("name").text().unwrap_or_default().to_owned(),
        protocol,
        port,
        node_port: entry.key("nodePort").port(),
    })
}

/// Anything but `Local` is `Cluster`, as for kube-proxy; a word that is neither is reported.
fn policy(field: &Field<'_, '_>) -> TrafficPolicy {
    field.word_or(
        TrafficPolicy::Cluster,
        "Cluster, Local",
        &[
            ("Cluster", TrafficPolicy::Cluster),
            ("Local", TrafficPolicy::Local),
        ],
    )
}

/// `sessionAffinity`; 0 is none. A time that is missing or invalid is the usual one.
fn affinity_secs(spec: &Field<'_, '_>) -> u32 {
    let words = &[("None", false), ("ClientIP", true)];
    if !(spec.key("sessionAffinity")).word_or(false, "None, ClientIP", words) {
        return 0;
    }
    let config = spec.key("sessionAffinityConfig");
    let client_ip = config.key("clientIP");
    let given = client_ip.key("timeoutSeconds").within(1, AFFINITY_SECS_MAX);
    given.unwrap_or(AFFINITY_SECS)
}

/// The networks that may use the load balancer's addresses; entries that are none are left out (behaviours 2.3). `None` if there are
/// entries and none of them is one.
fn source_ranges(spec: &Field<'_, '_>) -> Option<BTreeSet<IpNet>> {
    let list = spec.key("loadBalancerSourceRanges");
    let mut any = false;
    let mut ranges = BTreeSet::new();
    for entry in list.items() {
        any = true;
        let Some(text) = entry.text() else { continue };
        match parse_cidr(text) {
            Some(range) => {
                ranges.insert(range);
            }
            None => entry.problem(Reason::NotACidr(text.to_owned())),
        }
    }
    if any && ranges.is_empty() {
        list.problem(Reason::NoSourceRange);
        return None;
    }
    Some(ranges)
}
