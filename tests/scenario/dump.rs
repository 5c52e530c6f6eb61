//! The maps and the flows as text.
//!
//! ```text
//! tcp node-v4:30081 shop/web:http node-port local -> 10.244.1.60:8080(local) | pods -> 10.244.1.60:8080(local) 10.244.2.60:8080
//! udp 10.96.0.10:53 kube-system/kube-dns:dns cluster-ip -> reject
//! serving udp kube-system/kube-dns:dns -> 10.244.2.7:53
//! sources shop/web:http -> 192.0.2.0/24
//! ```
//!
//! As the model writes what it wants; but read from the maps' bytes. Owns the notation. Invariant: two states of the maps by which some
//! packet fares differently have different texts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nodeport_agent::maps::{Flows, IpBytes, MemoryStore, Pending, Store};
use nodeport_agent::observe::contents;
use nodeport_agent::plan::{BackendView, FamilyState, FrontendView, SetView};
use nodeport_common::{V4, V6};
use nodeport_ebpf::sim::{Node, SimFamily};
use nodeport_ebpf::tables::Entry;

use crate::agent::Agent;

/// Front ends, and the endpoints that UDP flows may keep.
pub(crate) fn maps(agent: &Agent) -> Vec<String> {
    let state = contents::state(agent.store()).expect("readable maps");
    let mut lines = Vec::new();
    let mut serving: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (node, family) in [("node-v4", &state.v4), ("node-v6", &state.v6)] {
        for frontend in &family.frontends {
            lines.push(frontend_line(agent, node, frontend));
            if frontend.protocol == "UDP" {
                let endpoints = serving_of(family, frontend);
                let name = agent.service_port(frontend.service);
                serving.entry(name).or_default().extend(endpoints);
            }
        }
    }
    lines.extend(sources(agent, [&state.v4, &state.v6]));
    lines.extend(serving.into_iter().map(|(name, endpoints)| {
        let endpoints: Vec<String> = endpoints.into_iter().collect();
        let endpoints = if endpoints.is_empty() {
            "none".to_owned()
        } else {
            endpoints.join(" ")
        };
        format!("serving udp {name} -> {endpoints}")
    }));
    lines
}

fn frontend_line(agent: &Agent, node: &str, view: &FrontendView) -> String {
    let has = |name: &str| view.flags.iter().any(|flag| flag == name);
    let protocol = view.protocol.to_lowercase();
    let port = view.port;
    let at = match view.address {
        None => format!("{node}:{port}"),
        Some(IpAddr::V4(ip)) => format!("{ip}:{port}"),
        Some(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
    };
    let name = agent.service_port(view.service);
    let kind = view.flags.first().cloned().unwrap_or_default();
    let kind = kind.replace('_', "-");
    let policy = if has("policy_local") { " local" } else { "" };
    let restricted = if has("source_ranges") {
        " restricted"
    } else {
        ""
    };
    let affinity = match view.affinity_secs {
        0 => String::new(),
        secs => format!(" affinity={secs}s"),
    };
    let outside = set(&view.outside, has("drop_if_empty"));
    let inside = set(&view.inside, has("local_drop_if_empty"));
    let pods = if inside == outside {
        String::new()
    } else {
        format!(" | pods -> {inside}")
    };
    format!("{protocol} {at} {name} {kind}{policy}{restricted}{affinity} -> {outside}{pods}")
}

/// Who may use restricted front ends.
fn sources(agent: &Agent, families: [&FamilyState; 2]) -> Vec<String> {
    let mut sources: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for view in families.into_iter().flat_map(|family| &family.sources) {
        let name = agent.service_port(view.service);
        sources
            .entry(name)
            .or_default()
            .push(view.range.to_string());
    }
    let line =
        |(name, ranges): (String, Vec<String>)| format!("sources {name} -> {}", ranges.join(" "));
    sources.into_iter().map(line).collect()
}

fn set(set: &SetView, drops: bool) -> String {
    let text = |backend: &BackendView| {
        let local = if backend.local { "(local)" } else { "" };
        format!("{}{local}", backend.address)
    };
    let backends: Vec<String> = set.backends.iter().map(text).collect();
    match (backends.is_empty(), drops) {
        (false, _) => backends.join(" "),
        (true, true) => "drop".to_owned(),
        (true, false) => "reject".to_owned(),
    }
}

/// The serving endpoints of a front end's service port; their number as the front end has it is checked.
fn serving_of(family: &FamilyState, frontend: &FrontendView) -> Vec<String> {
    let own = family.serving.iter();
    let own = own.filter(|serving| serving.service == frontend.service);
    let mut endpoints: Vec<String> = own.map(|serving| serving.endpoint.to_string()).collect();
    if endpoints.len() != frontend.serving as usize {
        endpoints.push(format!("(but the front end says {})", frontend.serving));
    }
    endpoints
}

/// What addresses are to the node.
pub(crate) fn addresses(agent: &Agent) -> Vec<String> {
    let state = contents::state(agent.store()).expect("readable maps");
    let all = state.v4.addresses.iter().chain(&state.v6.addresses);
    all.map(|known| format!("{} {}", known.address, known.flags.join(" ")))
        .collect()
}

/// The flows of a node, as the agent's own dump tells them.
///
/// `tcp CLIENT > FRONTEND as SOURCE > BACKEND, TABLE, WAY, PACKETS/REPLIES, STATE`
pub(crate) fn flows(node: &Node) -> Vec<String> {
    let mut store = MemoryStore::new();
    copy::<V4>(node, &mut store);
    copy::<V6>(node, &mut store);
    let rows = contents::flows(&store).expect("readable maps");
    rows.iter()
        .map(|row| {
            let protocol = row.protocol.to_lowercase();
            let mut text = format!(
                "{protocol} {} > {} as {} > {}, {}, {}, {}/{}",
                row.client,
                row.frontend,
                row.source,
                row.backend,
                row.table,
                row.way,
                row.packets,
                row.reply_packets
            );
            for word in row.state.iter().copied().chain(row.missing) {
                text.push_str(", ");
                text.push_str(word);
            }
            text
        })
        .collect()
}

fn copy<A: IpBytes + SimFamily>(node: &Node, store: &mut MemoryStore) {
    let tables = A::of(node);
    let read = |entries: Vec<(_, &Entry<A>)>| -> Vec<_> {
        let entries = entries.into_iter();
        entries.map(|(key, entry)| (key, entry.get())).collect()
    };
    let room = "room for the flows";
    store
        .put::<Flows<A>>(&read(tables.flows.entries()))
        .expect(room);
    store
        .put::<Pending<A>>(&read(tables.pending.entries()))
        .expect(room);
}
