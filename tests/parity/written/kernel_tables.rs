//! What the kernel's own tables say: routes, sockets, and maps that are full.

use std::net::UdpSocket;

use anyhow::{Context as _, Result};
use nodeport_agent::maps::{Flows, Store as _};
use nodeport_common::{Flow, Hook, NextHop, Outcome, PortSegment, frontend_flags, protocol};
use nodeport_ebpf::tables::Entry;

use super::{Both, client, front_end, pair};
use crate::kernel::Kernel;
use crate::packets::{ACK, Build, SYN};
use crate::pair::Pair;
use crate::stage::{self, BLACKHOLE, UNRESOLVED};
use crate::world::{FABRIC, NODE_PORT, TARGET, UPLINK, flow_key, node_port_key};

const UDP: u8 = protocol::UDP;

/// Next hops that are unknown, forbidden, or gone.
pub(super) fn routes<A: Both>(kernel: &mut Kernel) -> Result<()> {
    let syn = Build::tcp(client(), front_end(), SYN).with_payload(20);
    let mut unresolved = pair::<A>(kernel, &[(A::remote(UNRESOLVED), TARGET)])?;
    unresolved
        .packet(Hook::Xdp, UPLINK, &syn)?
        .is(Outcome::LeftToTc);
    unresolved
        .packet(Hook::TcIngress, UPLINK, &syn)?
        .is(Outcome::ToRemoteBackend);
    unresolved
        .packet(Hook::TcIngress, UPLINK, &syn)?
        .is(Outcome::ToRemoteBackend);
    let mut void = pair::<A>(kernel, &[(A::remote(BLACKHOLE), TARGET)])?;
    void.packet(Hook::Xdp, UPLINK, &syn)?.is(Outcome::LeftToTc);
    void.packet(Hook::TcIngress, UPLINK, &syn)?
        .is(Outcome::ToRoutedBackend);
    let mut host = pair::<A>(kernel, &[(A::NODE, TARGET)])?;
    host.packet(Hook::TcIngress, UPLINK, &syn)?
        .is(Outcome::ToLocalBackend);

    // A flow whose remembered hop is outdated, to where no route leads now.
    let mut pair = pair::<A>(kernel, &[(A::remote(7), TARGET)])?;
    pair.packet(Hook::Xdp, UPLINK, &syn)?
        .is(Outcome::ToRemoteBackend);
    pair.world.node.control.route_generation += 1;
    pair.tell()?;
    pair.packet(Hook::Xdp, UPLINK, &syn)?
        .is(Outcome::ToRemoteBackend);
    pair.world
        .node
        .devices
        .get_mut(&FABRIC)
        .context("the fabric")?
        .flags = 0;
    pair.world.node.control.route_generation += 1;
    pair.tell()?;
    pair.packet(Hook::Xdp, UPLINK, &syn)?.is(Outcome::LeftToTc);
    pair.packet(Hook::TcIngress, UPLINK, &syn)?
        .is(Outcome::ToRemoteBackend);
    Ok(())
}

/// J2: connected sockets of this host own their packets, at each hook that can ask; a socket that only listens does not.
pub(super) fn sockets<A: Both>(kernel: &mut Kernel) -> Result<()> {
    let mut pair = pair::<A>(kernel, &[(A::remote(7), TARGET)])?;
    let (host, server) = ((A::NODE.text(), NODE_PORT), (A::client(9), 443));
    let socket = UdpSocket::bind(host).context("bind the NodePort's number")?;
    let datagram = Build::udp(server, front_end(), b"answer");
    pair.packet(Hook::TcIngress, UPLINK, &datagram)?
        .is(Outcome::ToRemoteBackend);
    drop(pair);
    let mut pair = super::pair::<A>(kernel, &[(A::remote(7), TARGET)])?;
    socket
        .connect((server.0.text(), server.1))
        .context("connect it")?;
    pair.world
        .tables_mut()
        .sockets
        .insert(flow_key(UDP, server, front_end()));
    pair.packet(Hook::Xdp, UPLINK, &datagram)?
        .is(Outcome::Untouched);
    pair.packet(Hook::TcIngress, UPLINK, &datagram)?
        .is(Outcome::Untouched);
    let other = Build {
        from: (A::client(9), 444),
        ..datagram
    };
    pair.packet(Hook::Xdp, UPLINK, &other)?
        .is(Outcome::ToRemoteBackend);
    Ok(())
}

/// Collisions, going round the segments, and none left.
pub(super) fn source_ports<A: Both>(kernel: &mut Kernel) -> Result<()> {
    let mut world = stage::world::<A>().node_port(&[(A::remote(7), TARGET)]);
    let (first, second) = (
        PortSegment {
            first: 2000,
            count: 2,
        },
        PortSegment {
            first: 61000,
            count: 1,
        },
    );
    world.node.control.snat = [first, second];
    let mut pair = Pair::new(world, kernel)?;
    for n in 0..3 {
        let syn = Build::tcp((A::client(n), 40000), front_end(), SYN);
        pair.packet(Hook::Xdp, UPLINK, &syn)?
            .is(Outcome::ToRemoteBackend);
    }
    let late = Build::tcp((A::client(4), 40000), front_end(), SYN);
    pair.packet(Hook::Xdp, UPLINK, &late)?
        .is(Outcome::SnatPortsExhausted);
    pair.packet(Hook::TcIngress, UPLINK, &late)?
        .is(Outcome::SnatPortsExhausted);

    // One client, two NodePorts, one local backend (A3).
    let local = [(A::local(1), TARGET)];
    let mut world = stage::world::<A>().node_port(&local);
    world.front_end(
        node_port_key(30081, protocol::TCP),
        frontend_flags::NODE_PORT,
        &local,
        &local,
    );
    let mut pair = Pair::new(world, kernel)?;
    for port in [NODE_PORT, 30081] {
        let syn = Build::tcp(client(), (A::NODE, port), SYN);
        pair.packet(Hook::TcIngress, UPLINK, &syn)?
            .is(Outcome::ToLocalBackend);
    }
    Ok(())
}

/// The established table is full but for one entry.
pub(super) fn full<A: Both>(kernel: &mut Kernel) -> Result<()> {
    let mut pair = pair::<A>(kernel, &[(A::remote(7), TARGET)])?;
    let limit = pair.store().limit::<Flows<A>>()?;
    let mut entries = Vec::new();
    for n in 1..limit {
        let key = flow_key(
            UDP,
            (A::client(200), n as u16),
            (A::CLUSTER_IP, (n >> 16) as u16),
        );
        let flow = idle::<A>();
        pair.world
            .tables()
            .flows
            .put(key, Entry::new(&flow))
            .ok()
            .context("room on the host")?;
        entries.push((key, flow));
    }
    pair.world.tables_mut().flows.capacity = limit as usize;
    pair.store().put::<Flows<A>>(&entries)?;
    let (source, backend) = ((A::FABRIC_ADDRESS, 1024), (A::remote(7), TARGET));
    pair.packet(Hook::Xdp, UPLINK, &Build::tcp(client(), front_end(), SYN))?;
    pair.packet(Hook::Xdp, FABRIC, &Build::tcp(backend, source, SYN | ACK))?;
    for hook in [Hook::Xdp, Hook::TcIngress] {
        let third = Build::tcp(client(), front_end(), ACK);
        pair.packet(hook, UPLINK, &third)?
            .is(Outcome::FlowTableFull);
    }
    Ok(())
}

/// An entry that nothing matches.
fn idle<A: Both>() -> Flow<A> {
    Flow {
        packets: 1,
        bytes: 2,
        last_seen: 0,
        endpoint_generation: 0,
        flags: 0,
        tcp: 0,
        source_port: [0; 2],
        destination_port: [0; 2],
        pad: [0; 2],
        source: A::ELSEWHERE,
        destination: A::ELSEWHERE,
        next_hop: NextHop::default(),
    }
}
