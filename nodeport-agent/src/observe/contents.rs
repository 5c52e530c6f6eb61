//! What is in the maps, in rows for people and scripts.
//!
//! Owns the rows and their names. Refuses to write. Invariant: what is shown is what the programs follow, read from the maps
//! themselves, not what the agent believes.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use nodeport_common::{Flow, FlowKey, V4, V6, flow_flags, tcp_flags};
use serde::Serialize;

use super::text::{table, trimmed};
use crate::flows::pair::is_pair;
use crate::maps::{Flows, IpBytes, Pending, Store, StoreError, read_contents};
use crate::plan::{BackendView, FrontendView, Installed, State, protocol_name, socket_address};

/// Names of service ports by number, as the running agent knows them.
pub type Names = BTreeMap<u32, String>;

/// A front end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FrontendRow {
    /// The front end in words.
    pub frontend: String,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// What is in its maps.
    #[serde(flatten)]
    pub view: FrontendView,
}

/// An endpoint of a front end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendRow {
    /// The front end in words.
    pub frontend: String,
    /// The endpoint.
    #[serde(flatten)]
    pub backend: BackendView,
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

/// Everything that plans are about.
///
/// # Errors
/// A map cannot be read.
pub fn state(store: &impl Store) -> Result<State, StoreError> {
    let installed = Installed::adopt(&read_contents(store)?, &read_contents(store)?);
    Ok(State::of(&installed))
}

/// Front ends of both families, with the names of their service ports as far as `names` has them.
#[must_use]
pub fn frontends(state: State, names: &Names) -> Vec<FrontendRow> {
    let families = [("IPv4", state.v4), ("IPv6", state.v6)];
    let mut rows = Vec::new();
    for (family, state) in families {
        rows.extend(state.frontends.into_iter().map(|mut view| {
            view.service_port = names.get(&view.service).cloned();
            FrontendRow {
                frontend: text_of(&view, family),
                family,
                view,
            }
        }));
    }
    rows
}

/// A front end in words. Only its family tells one NodePort from the other.
fn text_of(view: &FrontendView, family: &str) -> String {
    match view.address {
        Some(address) => format!("{}/{}", SocketAddr::new(address, view.port), view.protocol),
        None => format!("{family} node:{}/{}", view.port, view.protocol),
    }
}

/// Each endpoint of each front end.
#[must_use]
pub fn backends(state: &State) -> Vec<BackendRow> {
    let families = [("IPv4", &state.v4), ("IPv6", &state.v6)];
    let mut rows = Vec::new();
    for (family, state) in families {
        for frontend in &state.frontends {
            let sets = [&frontend.outside.backends, &frontend.inside.backends];
            let mut all: Vec<BackendView> = sets.into_iter().flatten().copied().collect();
            all.sort_unstable_by_key(|one| (one.address, one.local));
            // A set may hold an endpoint in many slots.
            all.dedup();
            rows.extend(all.into_iter().map(|backend| BackendRow {
                frontend: text_of(frontend, family),
                outside: frontend.outside.backends.contains(&backend),
                inside: frontend.inside.backends.contains(&backend),
                backend,
            }));
        }
    }
    rows
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
    let ours = |(_, flow): &&(FlowKey<A>, Flow<A>)| flow.flags & flow_flags::FOREIGN == 0;
    for (key, flow) in entries.iter().filter(ours) {
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
        state: seen(forward, reply),
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

fn seen<A>(forward: Option<&Flow<A>>, reply: Option<&Flow<A>>) -> Vec<&'static str> {
    let tcp = |side: Option<&Flow<A>>, bit: u8| side.is_some_and(|flow| flow.tcp & bit != 0);
    let spoke =
        |side: Option<&Flow<A>>| side.is_some_and(|flow| flow.flags & flow_flags::SEEN != 0);
    [
        (spoke(reply), "answered"),
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
        "FRONTEND",
        "SERVICE PORT",
        "OUTSIDE",
        "INSIDE",
        "SERVING",
        "FLAGS",
    ]);
    for FrontendRow { frontend, view, .. } in rows {
        let name = view.service_port.clone();
        table.add_row([
            frontend.clone(),
            name.unwrap_or_else(|| format!("#{}", view.service)),
            view.outside.backends.len().to_string(),
            view.inside.backends.len().to_string(),
            view.serving.to_string(),
            view.flags.join(","),
        ]);
    }
    trimmed(&table)
}

/// Endpoints as a table.
#[must_use]
pub fn backends_text(rows: &[BackendRow]) -> String {
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
