//! What is in the maps, in rows for people and scripts.
//!
//! Owns the rows and their names. Refuses to write. Invariant: what is shown is what the programs follow, read from the maps
//! themselves, not what the agent believes.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use nodeport_common::{Backend, Flow, FlowKey, V4, V6, backend_flags, flow_flags, tcp_flags};
use serde::Serialize;

use super::text::{table, trimmed};
use crate::flows::pair::is_pair;
use crate::maps::{Flows, IpBytes, Pending, Store, StoreError, read_contents};
use crate::plan::{Contents, frontend_flag_names, frontend_text, protocol_name, socket_address};

/// A front end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FrontendRow {
    /// In words, as `plan` prints it.
    pub frontend: String,
    /// Its address; `None` for a NodePort, which answers on all accepted node addresses.
    pub address: Option<std::net::IpAddr>,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: String,
    /// Number of its service port.
    pub service: u32,
    /// Names of its flags.
    pub flags: Vec<String>,
    /// Endpoints for clients that are not on this node.
    pub outside: Vec<BackendRow>,
    /// Endpoints for Pods of this node.
    pub inside: Vec<BackendRow>,
    /// Endpoints that existing UDP flows may keep.
    pub serving: u32,
}

/// An endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BackendRow {
    /// Where it is.
    pub address: SocketAddr,
    /// Whether it is on this node.
    pub local: bool,
}

/// An endpoint of a front end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendOfRow {
    /// The front end in words.
    pub frontend: String,
    /// The endpoint.
    #[serde(flatten)]
    pub backend: BackendRow,
    /// Whether clients that are not on this node may get it.
    pub outside: bool,
    /// Whether Pods of this node may get it.
    pub inside: bool,
}

/// A flow: both of its entries, or the one that there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowRow {
    /// `established` or `pending`.
    pub table: &'static str,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// Who speaks.
    pub client: SocketAddr,
    /// To which front end.
    pub frontend: SocketAddr,
    /// With which source it appears to the backend.
    pub source: SocketAddr,
    /// The backend.
    pub backend: SocketAddr,
    /// Whether packets pass the host's stack or are redirected.
    pub way: &'static str,
    /// Names of what was seen of the connection.
    pub state: Vec<&'static str>,
    /// Packets of the client.
    pub packets: u64,
    /// Bytes of the client.
    pub bytes: u64,
    /// Packets of the backend.
    pub reply_packets: u64,
    /// Bytes of the backend.
    pub reply_bytes: u64,
    /// Which of the two entries is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<&'static str>,
}

/// Front ends of both families with their endpoints.
///
/// # Errors
/// A map cannot be read.
pub fn frontends(store: &impl Store) -> Result<Vec<FrontendRow>, StoreError> {
    let mut rows = frontends_of::<V4>(&read_contents(store)?);
    rows.extend(frontends_of::<V6>(&read_contents(store)?));
    Ok(rows)
}

fn frontends_of<A: IpBytes>(contents: &Contents<A>) -> Vec<FrontendRow> {
    let mut frontends = contents.frontends.clone();
    frontends.sort_unstable_by_key(|(key, _)| *key);
    let rows = frontends.iter().map(|(key, value)| FrontendRow {
        frontend: frontend_text(key),
        address: Some(key.address.ip()).filter(|address| !address.is_unspecified()),
        family: A::FAMILY.to_string(),
        port: u16::from_be_bytes(key.port),
        protocol: protocol_name(key.protocol),
        service: value.service,
        flags: frontend_flag_names(value.flags),
        outside: set(&contents.backends, value.base, value.len),
        inside: set(&contents.backends, value.local_base, value.local_len),
        serving: value.serving,
    });
    rows.collect()
}

/// The endpoints of a set, each once: a set may hold one in many slots.
fn set<A: IpBytes>(slots: &[Backend<A>], base: u32, len: u32) -> Vec<BackendRow> {
    let slots = slots.iter().skip(base as usize).take(len as usize);
    let rows: BTreeSet<BackendRow> = slots
        .map(|slot| BackendRow {
            address: socket_address(slot.address, slot.port),
            local: slot.flags & backend_flags::LOCAL != 0,
        })
        .collect();
    rows.into_iter().collect()
}

/// Each endpoint of each front end.
///
/// # Errors
/// A map cannot be read.
pub fn backends(store: &impl Store) -> Result<Vec<BackendOfRow>, StoreError> {
    let mut rows = Vec::new();
    for frontend in frontends(store)? {
        let all: BTreeSet<BackendRow> = frontend
            .outside
            .iter()
            .chain(&frontend.inside)
            .copied()
            .collect();
        rows.extend(all.into_iter().map(|backend| BackendOfRow {
            frontend: frontend.frontend.clone(),
            outside: frontend.outside.contains(&backend),
            inside: frontend.inside.contains(&backend),
            backend,
        }));
    }
    Ok(rows)
}

/// Flows of both families, established ones first.
///
/// # Errors
/// A map cannot be read.
pub fn flows(store: &impl Store) -> Result<Vec<FlowRow>, StoreError> {
    let mut rows = flows_of::<V4>(store.entries::<Flows<V4>>()?, "established");
    rows.extend(flows_of::<V6>(store.entries::<Flows<V6>>()?, "established"));
    rows.extend(flows_of::<V4>(store.entries::<Pending<V4>>()?, "pending"));
    rows.extend(flows_of::<V6>(store.entries::<Pending<V6>>()?, "pending"));
    Ok(rows)
}

fn flows_of<A: IpBytes>(
    mut entries: Vec<(FlowKey<A>, Flow<A>)>,
    table: &'static str,
) -> Vec<FlowRow> {
    entries.sort_unstable_by_key(|(key, _)| *key);
    let by_key: HashMap<FlowKey<A>, Flow<A>> = entries.iter().copied().collect();
    let mut rows = Vec::new();
    for (key, flow) in &entries {
        let is_reply = flow.flags & flow_flags::REPLY != 0;
        let pair = by_key
            .get(&flow.pair(key.protocol))
            .filter(|pair| is_pair(key, pair));
        if is_reply && pair.is_some() {
            continue;
        }
        rows.push(row(table, key, flow, pair));
    }
    rows
}

/// The row of a flow, from the client's entry, or from the backend's if that is all there is.
fn row<A: IpBytes>(
    table: &'static str,
    key: &FlowKey<A>,
    flow: &Flow<A>,
    pair: Option<&Flow<A>>,
) -> FlowRow {
    let is_reply = flow.flags & flow_flags::REPLY != 0;
    let (incoming, outgoing) = if is_reply {
        (flow.pair(key.protocol), key.reversed())
    } else {
        (*key, flow.translated(key.protocol))
    };
    let (forward, reply) = if is_reply {
        (None, Some(flow))
    } else {
        (Some(flow), pair)
    };
    let count = |side: Option<&Flow<A>>| side.map_or((0, 0), |flow| (flow.packets, flow.bytes));
    let (packets, bytes) = count(forward);
    let (reply_packets, reply_bytes) = count(reply);
    FlowRow {
        table,
        protocol: protocol_name(key.protocol),
        client: socket_address(incoming.source, incoming.source_port),
        frontend: socket_address(incoming.destination, incoming.destination_port),
        source: socket_address(outgoing.source, outgoing.source_port),
        backend: socket_address(outgoing.destination, outgoing.destination_port),
        way: if flow.flags & flow_flags::REDIRECT != 0 {
            "redirected"
        } else {
            "stack"
        },
        state: state(forward, reply),
        packets,
        bytes,
        reply_packets,
        reply_bytes,
        missing: match (forward, reply) {
            (None, _) => Some("forward"),
            (_, None) => Some("reply"),
            _ => None,
        },
    }
}

fn state<A>(forward: Option<&Flow<A>>, reply: Option<&Flow<A>>) -> Vec<&'static str> {
    let tcp = |side: Option<&Flow<A>>, bit: u8| side.is_some_and(|flow| flow.tcp & bit != 0);
    let seen = |side: Option<&Flow<A>>| side.is_some_and(|flow| flow.flags & flow_flags::SEEN != 0);
    [
        (seen(reply), "answered"),
        (tcp(forward, tcp_flags::FIN), "client_fin"),
        (tcp(reply, tcp_flags::FIN), "backend_fin"),
        (
            tcp(forward, tcp_flags::RST) || tcp(reply, tcp_flags::RST),
            "reset",
        ),
    ]
    .into_iter()
    .filter_map(|(holds, name)| holds.then_some(name))
    .collect()
}

/// Front ends as a table.
#[must_use]
pub fn frontends_text(rows: &[FrontendRow]) -> String {
    let mut table = table(&[
        "FRONTEND", "SERVICE", "OUTSIDE", "INSIDE", "SERVING", "FLAGS",
    ]);
    for row in rows {
        table.add_row([
            row.frontend.clone(),
            row.service.to_string(),
            row.outside.len().to_string(),
            row.inside.len().to_string(),
            row.serving.to_string(),
            row.flags.join(","),
        ]);
    }
    trimmed(&table)
}

/// Endpoints as a table.
#[must_use]
pub fn backends_text(rows: &[BackendOfRow]) -> String {
    let mut table = table(&["FRONTEND", "BACKEND", "WHERE", "FOR"]);
    for row in rows {
        table.add_row([
            row.frontend.clone(),
            row.backend.address.to_string(),
            if row.backend.local { "here" } else { "remote" }.to_owned(),
            match (row.outside, row.inside) {
                (true, true) => "all",
                (true, false) => "outside",
                _ => "inside",
            }
            .to_owned(),
        ]);
    }
    trimmed(&table)
}

/// Flows as a table.
#[must_use]
pub fn flows_text(rows: &[FlowRow]) -> String {
    let mut table = table(&[
        "TABLE", "PROTO", "CLIENT", "FRONTEND", "SOURCE", "BACKEND", "WAY", "PACKETS", "STATE",
    ]);
    for row in rows {
        let mut state = row.state.join(",");
        if let Some(missing) = row.missing {
            state = format!("{state} (no {missing} entry)");
        }
        table.add_row([
            row.table.to_owned(),
            row.protocol.clone(),
            row.client.to_string(),
            row.frontend.to_string(),
            row.source.to_string(),
            row.backend.to_string(),
            row.way.to_owned(),
            format!("{}/{}", row.packets, row.reply_packets),
            state,
        ]);
    }
    trimmed(&table)
}

#[cfg(test)]
#[path = "contents_tests.rs"]
mod tests;
