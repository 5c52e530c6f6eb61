//! kube-proxy's connections in our table of flows: entries that say "not ours, leave it alone".
//!
//! One for each direction: packets of the client are left alone, and the port that its connection has towards the backend is not given to a
//! connection of ours. Owns these entries. Refuses to decide which connections are meant. Invariant: an entry of our own is never
//! overwritten or removed.

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
            let is_new = match (entries(connection, v4), entries(connection, v6)) {
                (Some(entries), _) => note(&self.flows4, &entries)?,
                (_, Some(entries)) => note(&self.flows6, &entries)?,
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
        let is_over = |connection: &&Connection| !found.contains(connection);
        let over: Vec<Connection> = self.connections.iter().filter(is_over).copied().collect();
        for connection in over {
            match (entries(&connection, v4), entries(&connection, v6)) {
                (Some(entries), _) => forget(&self.flows4, &entries)?,
                (_, Some(entries)) => forget(&self.flows6, &entries)?,
                _ => {}
            }
            self.connections.remove(&connection);
        }
        Ok(())
    }
}

fn v4(address: IpAddr) -> Option<V4> {
    match address {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    }
}

fn v6(address: IpAddr) -> Option<V6> {
    match address {
        IpAddr::V6(address) => Some(address.octets()),
        IpAddr::V4(_) => None,
    }
}

/// The entries of both directions, which say what the other one makes of them; `None` for a connection of the other family.
fn entries<A: Copy>(
    connection: &Connection,
    bytes: fn(IpAddr) -> Option<A>,
) -> Option<[(FlowKey<A>, Flow<A>); 2]> {
    let end = |at: SocketAddr| Some((bytes(at.ip())?, at.port().to_be_bytes()));
    let (client, frontend) = (end(connection.client)?, end(connection.frontend)?);
    let (backend, seen) = (end(connection.backend)?, end(connection.seen)?);
    let entry = |from: (A, [u8; 2]), to: (A, [u8; 2]), becomes: [(A, [u8; 2]); 2], flags| {
        let key = FlowKey {
            source: from.0,
            destination: to.0,
            source_port: from.1,
            destination_port: to.1,
            protocol: connection.protocol,
            pad: [0; 3],
        };
        let [source, destination] = becomes;
        let flow = Flow {
            packets: 0,
            bytes: 0,
            last_seen: 0,
            endpoint_generation: 0,
            flags: flow_flags::FOREIGN | flags,
            tcp: 0,
            source_port: source.1,
            destination_port: destination.1,
            pad: [0; 2],
            source: source.0,
            destination: destination.0,
            next_hop: NextHop::default(),
        };
        (key, flow)
    };
    Some([
        entry(client, frontend, [seen, backend], 0),
        entry(backend, seen, [frontend, client], flow_flags::REPLY),
    ])
}

/// Adds entries, but where the table has one with the same key. Returns whether any was added.
fn note<A, M>(flows: &KernelMap<M>, entries: &[(FlowKey<A>, Flow<A>)]) -> Result<bool, StoreError>
where
    M: Map<Key = FlowKey<A>, Value = Flow<A>>,
{
    let mut added = false;
    for (key, flow) in entries {
        added |= flows.add(key, flow)?;
    }
    Ok(added)
}

/// Removes entries, but those that are ours by now (a new connection with the same addresses and ports).
fn forget<A, M>(flows: &KernelMap<M>, entries: &[(FlowKey<A>, Flow<A>)]) -> Result<(), StoreError>
where
    M: Map<Key = FlowKey<A>, Value = Flow<A>>,
{
    for (key, _) in entries {
        let is_foreign = flows
            .get(key)?
            .is_some_and(|flow| flow.flags & flow_flags::FOREIGN != 0);
        if is_foreign {
            flows.remove(key)?;
        }
    }
    Ok(())
}

fn scan<A, M>(flows: &KernelMap<M>, into: &mut HashSet<Connection>) -> Result<(), StoreError>
where
    A: IpBytes + Into<IpAddr>,
    M: Map<Key = FlowKey<A>, Value = Flow<A>>,
{
    let of_a_client = |(_, flow): &&(FlowKey<A>, Flow<A>)| {
        flow.flags & (flow_flags::FOREIGN | flow_flags::REPLY) == flow_flags::FOREIGN
    };
    let end = |address: A, port| SocketAddr::new(address.into(), u16::from_be_bytes(port));
    flows.scan(&mut |entries| {
        let foreign = entries.iter().filter(of_a_client);
        into.extend(foreign.map(|(key, flow)| Connection {
            protocol: key.protocol,
            client: end(key.source, key.source_port),
            frontend: end(key.destination, key.destination_port),
            backend: end(flow.destination, flow.destination_port),
            seen: end(flow.source, flow.source_port),
        }));
        ControlFlow::Continue(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_get_an_entry_of_their_family() {
        let at = |text: &str| text.parse().expect("an address and a port");
        let connection = Connection {
            protocol: 6,
            client: at("203.0.113.10:40000"),
            frontend: at("192.168.88.11:30080"),
            backend: at("10.244.2.11:8080"),
            seen: at("192.168.99.11:5555"),
        };
        assert!(entries(&connection, v6).is_none());
        let [(there, forth), (back, reply)] = entries(&connection, v4).expect("IPv4");
        assert_eq!(
            (there.source, there.destination),
            ([203, 0, 113, 10], [192, 168, 88, 11])
        );
        assert_eq!(back, forth.pair(6));
        assert_eq!(there, reply.pair(6));
        assert_eq!(forth.flags, flow_flags::FOREIGN);
        assert_eq!(reply.flags, flow_flags::FOREIGN | flow_flags::REPLY);
    }
}
