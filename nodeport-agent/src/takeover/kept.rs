//! kube-proxy's connections in our table of flows: entries that say "not ours, leave it alone".
//!
//! Owns these entries. Refuses to decide which connections are meant. Invariant: an entry of our own is never overwritten or removed.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;

use nodeport_common::{Flow, FlowKey, NextHop, V4, V6, flow_flags};

use super::conntrack::Connection;
use crate::maps::{Flows, IpBytes, KernelMap, KernelStore, Map, StoreError};

/// The connections that have an entry.
pub(super) struct Kept {
    flows4: KernelMap<Flows<V4>>,
    flows6: KernelMap<Flows<V6>>,
    connections: HashSet<Connection>,
}

impl Kept {
    /// Finds what an earlier agent noted.
    pub(super) fn adopt(store: &KernelStore) -> Result<Self, StoreError> {
        let (flows4, flows6) = (store.map()?, store.map()?);
        let mut connections = HashSet::new();
        scan::<V4, Flows<V4>>(&flows4, &mut connections)?;
        scan::<V6, Flows<V6>>(&flows6, &mut connections)?;
        Ok(Self {
            flows4,
            flows6,
            connections,
        })
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Notes connections. Returns how many were new.
    pub(super) fn add(&mut self, found: &[Connection]) -> Result<usize, StoreError> {
        let mut added = 0;
        for connection in found {
            let is_new = match (connection.client.ip(), connection.frontend.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    note(&self.flows4, &key(connection, from.octets(), to.octets()))?
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    note(&self.flows6, &key(connection, from.octets(), to.octets()))?
                }
                _ => false,
            };
            if is_new {
                self.connections.insert(*connection);
                added += 1;
            }
        }
        Ok(added)
    }

    /// Forgets those that are not among `found`.
    pub(super) fn retain(&mut self, found: &[Connection]) -> Result<(), StoreError> {
        let found: HashSet<&Connection> = found.iter().collect();
        let over: Vec<Connection> = self
            .connections
            .iter()
            .filter(|connection| !found.contains(connection))
            .copied()
            .collect();
        for connection in over {
            match (connection.client.ip(), connection.frontend.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    forget(&self.flows4, &key(&connection, from.octets(), to.octets()))?;
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    forget(&self.flows6, &key(&connection, from.octets(), to.octets()))?;
                }
                _ => {}
            }
            self.connections.remove(&connection);
        }
        Ok(())
    }
}

/// The key of the packets of the client.
fn key<A>(connection: &Connection, source: A, destination: A) -> FlowKey<A> {
    FlowKey {
        source,
        destination,
        source_port: connection.client.port().to_be_bytes(),
        destination_port: connection.frontend.port().to_be_bytes(),
        protocol: connection.protocol,
        pad: [0; 3],
    }
}

/// An entry that changes nothing.
fn entry<A: Copy>(key: &FlowKey<A>) -> Flow<A> {
    Flow {
        packets: 0,
        bytes: 0,
        last_seen: 0,
        endpoint_generation: 0,
        flags: flow_flags::FOREIGN,
        tcp: 0,
        source_port: key.source_port,
        destination_port: key.destination_port,
        pad: [0; 2],
        source: key.source,
        destination: key.destination,
        next_hop: NextHop::default(),
    }
}

/// Adds one, unless the table has an entry with this key.
fn note<A, M>(flows: &KernelMap<M>, key: &FlowKey<A>) -> Result<bool, StoreError>
where
    A: Copy,
    M: Map<Key = FlowKey<A>, Value = Flow<A>>,
{
    flows.add(key, &entry(key))
}

/// Removes an entry, unless it is one of ours by now (a new connection with the same addresses and ports).
fn forget<A, M>(flows: &KernelMap<M>, key: &FlowKey<A>) -> Result<(), StoreError>
where
    M: Map<Key = FlowKey<A>, Value = Flow<A>>,
{
    let is_foreign = flows
        .get(key)?
        .is_some_and(|flow| flow.flags & flow_flags::FOREIGN != 0);
    if is_foreign {
        flows.remove(key)?;
    }
    Ok(())
}

fn scan<A, M>(flows: &KernelMap<M>, into: &mut HashSet<Connection>) -> Result<(), StoreError>
where
    A: IpBytes + Into<IpAddr>,
    M: Map<Key = FlowKey<A>, Value = Flow<A>>,
{
    flows.scan(&mut |entries| {
        let foreign = entries
            .iter()
            .filter(|(_, flow)| flow.flags & flow_flags::FOREIGN != 0);
        into.extend(foreign.map(|(key, _)| Connection {
            protocol: key.protocol,
            client: SocketAddr::new(key.source.into(), u16::from_be_bytes(key.source_port)),
            frontend: SocketAddr::new(
                key.destination.into(),
                u16::from_be_bytes(key.destination_port),
            ),
        }));
        ControlFlow::Continue(())
    })
}
