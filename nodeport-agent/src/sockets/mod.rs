//! Connected UDP sockets of this node whose endpoint no longer serves: ended, so that their processes are told and connect anew
//! (behaviours 17.3; TCP connections find out by themselves).
//!
//! Owns when that is looked at. Refuses to know how endpoints are chosen. Invariant: an endpoint is left only for another one that serves,
//! as flows do it; a socket is known by its cookie, which the kernel gives to no other.

mod diag;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nodeport_common::{
    ServingKey, Socket, SocketKey, V4, V6, protocol, socket_flags, socket_roles,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::datapath::{ControlMap, chain};
use crate::maps::{HashMap, IpBytes, KernelStore, Serving, Sockets4, Sockets6, StoreError};

/// How often it is asked whether endpoints went.
const PERIOD: Duration = Duration::from_millis(200);

/// The cookies of stale sockets, by where they are: the node's own namespace (`None`), or that of a process.
type Stale = BTreeMap<Option<u32>, BTreeSet<[u32; 2]>>;

/// Looks for stale sockets for as long as the agent lives.
pub struct StaleSockets {
    store: KernelStore,
    control: Arc<ControlMap>,
}

impl StaleSockets {
    /// In these maps.
    #[must_use]
    pub fn new(store: KernelStore, control: Arc<ControlMap>) -> Self {
        Self { store, control }
    }

    /// After each change of endpoints, ends the sockets that are stale.
    pub async fn run(self) {
        let mut seen = self.control.get().endpoint_generation;
        loop {
            tokio::time::sleep(PERIOD).await;
            let generation = self.control.get().endpoint_generation;
            if generation == seen {
                continue;
            }
            seen = generation;
            let store = self.store.clone();
            let pass = tokio::task::spawn_blocking(move || pass(&store)).await;
            match pass {
                Ok(Ok(0)) | Err(_) => {}
                Ok(Ok(ended)) => tracing::info!(
                    ended,
                    "connected UDP sockets whose endpoint no longer serves were ended"
                ),
                Ok(Err(error)) => {
                    tracing::warn!(error = %chain(&error), "stale UDP sockets cannot be looked for");
                }
            }
        }
    }
}

/// One look at all sockets. Returns how many were ended.
fn pass(store: &KernelStore) -> Result<usize, StoreError> {
    let mut all = stale::<V4, Sockets4>(store)?;
    for (place, cookies) in stale::<V6, Sockets6>(store)? {
        all.entry(place).or_default().extend(cookies);
    }
    let mut ended = 0;
    for (place, cookies) in all {
        let result = match place {
            None => diag::destroy_udp(&cookies),
            Some(process) => elsewhere(process, &cookies),
        };
        match result {
            Ok(sockets) => ended += sockets,
            // A process that ended took its sockets along; whose namespace is out of reach, its sockets stay.
            Err(error) => tracing::debug!(?place, %error, "stale UDP sockets are left alone"),
        }
    }
    Ok(ended)
}

/// Ends sockets in the network namespace of a process, from a thread of its own.
fn elsewhere(process: u32, cookies: &BTreeSet<[u32; 2]>) -> io::Result<usize> {
    let namespace = File::open(format!("/proc/{process}/ns/net"))?;
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            diag::destroy_udp(cookies)
        });
        inside
            .join()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

/// The stale sockets of a family.
fn stale<A: IpBytes, S: HashMap<Key = SocketKey<A>, Value = Socket<A>>>(
    store: &KernelStore,
) -> Result<Stale, StoreError> {
    let mut serving = BTreeSet::new();
    store.map::<Serving<A>>()?.scan(&mut |entries| {
        serving.extend(entries.iter().map(|(key, _)| *key));
        ControlFlow::Continue(())
    })?;
    let services: BTreeSet<u32> = serving.iter().map(|key| key.service).collect();
    let mut found = Stale::new();
    store.map::<S>()?.scan(&mut |entries| {
        for (key, socket) in entries {
            if is_stale(key, socket, &serving, &services) {
                let is_host = socket.flags & socket_flags::HOST != 0;
                let place = (!is_host).then_some(socket.process);
                found.entry(place).or_default().insert(key.cookie);
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn is_stale<A: IpBytes>(
    key: &SocketKey<A>,
    socket: &Socket<A>,
    serving: &BTreeSet<ServingKey<A>>,
    services: &BTreeSet<u32>,
) -> bool {
    let endpoint = ServingKey {
        address: key.address,
        port: key.port,
        pad: [0; 2],
        service: socket.service,
    };
    key.role == socket_roles::GOT
        && key.protocol == protocol::UDP
        && socket.flags & socket_flags::CONNECTED != 0
        && services.contains(&socket.service)
        && !serving.contains(&endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(last: u8) -> ServingKey<V4> {
        ServingKey {
            address: [10, 244, 1, last],
            port: 5353_u16.to_be_bytes(),
            pad: [0; 2],
            service: 7,
        }
    }

    #[test]
    fn only_connected_udp_sockets_leave_and_only_for_an_endpoint_that_serves() {
        let key = SocketKey {
            cookie: [1, 0],
            address: [10, 244, 1, 1],
            port: 5353_u16.to_be_bytes(),
            protocol: protocol::UDP,
            role: socket_roles::GOT,
        };
        let socket = Socket {
            service: 7,
            flags: socket_flags::CONNECTED,
            ..Socket::default()
        };
        let stale = |key, socket, serving: &[ServingKey<V4>]| {
            let serving: BTreeSet<_> = serving.iter().copied().collect();
            let services = serving.iter().map(|key| key.service).collect();
            is_stale(&key, &socket, &serving, &services)
        };
        assert!(stale(key, socket, &[endpoint(2)]));
        assert!(!stale(key, socket, &[endpoint(1), endpoint(2)]));
        assert!(!stale(key, socket, &[]), "none serves");
        let tcp = SocketKey {
            protocol: protocol::TCP,
            ..key
        };
        assert!(!stale(tcp, socket, &[endpoint(2)]));
        let sends = Socket { flags: 0, ..socket };
        assert!(!stale(key, sends, &[endpoint(2)]), "aimed anew by itself");
    }
}
