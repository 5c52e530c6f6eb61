//! Flows: connections and datagrams, past the stack and through it, of outside clients and of Pods.

use anyhow::{Context as _, Result};
use nodeport_common::{Hook, Outcome, ServingKey, frontend_flags, protocol};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use super::{Both, client, front_end, pair};
use crate::kernel::Kernel;
use crate::packets::{ACK, Build, FIN, PSH, RST, SYN, icmp};
use crate::pair::Pair;
use crate::stage;
use crate::world::{FABRIC, NODE_PORT, POD1, POD2, PORT, TARGET, UPLINK, node_port_key};

const UDP: u8 = protocol::UDP;

/// A connection from its first packet to its last, by XDP and by TC.
pub(super) fn connections<A: Both>(kernel: &mut Kernel) -> Result<()> {
    for hook in [Hook::Xdp, Hook::TcIngress] {
        let mut pair = pair::<A>(kernel, &[(A::remote(7), TARGET)])?;
        let (client, front_end) = (client(), front_end());
        let (source, backend) = ((A::FABRIC_ADDRESS, 1024), (A::remote(7), TARGET));
        for flags in [SYN, ACK, ACK | PSH, FIN | ACK, RST] {
            let there = Build::tcp(client, front_end, flags).with_payload(33);
            pair.packet(hook, UPLINK, &there)?
                .is(Outcome::ToRemoteBackend);
            let back = Build::tcp(backend, source, flags | ACK).with_payload(44);
            pair.packet(hook, FABRIC, &back)?
                .is(Outcome::ReplyRedirected);
        }
        let flow = pair
            .world
            .flow(protocol::TCP, client, front_end)
            .context("a flow")?;
        assert_eq!((flow.packets, flow.tcp & 7), (5, 7));
        // From the same port again: a new connection. And the backend opens one of its own.
        let again = Build::tcp(client, front_end, SYN);
        pair.packet(hook, UPLINK, &again)?
            .is(Outcome::ToRemoteBackend);
        let own = Build::tcp(backend, (A::FABRIC_ADDRESS, 1025), SYN);
        pair.packet(hook, FABRIC, &own)?.is(Outcome::Untouched);
    }
    Ok(())
}

/// A connection of so many packets that they go by lines, until it ends and its port is used again. Lines are a CPU's own, so this stays
/// on one; and they live long here, because the two clocks are read one after the other.
pub(super) fn busy<A: Both>(kernel: &mut Kernel) -> Result<()> {
    let cpu = sched_getcpu();
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)?;
    let mut pair = pair::<A>(kernel, &[(A::remote(7), TARGET)])?;
    pair.world.node.control.hz = 1 << 20;
    pair.tell()?;
    let (client, front_end) = (client(), front_end());
    let (source, backend) = ((A::FABRIC_ADDRESS, 1024), (A::remote(7), TARGET));
    let last = [FIN | ACK, ACK, SYN, ACK];
    let flags = std::iter::once(SYN).chain([ACK; 80]).chain(last);
    let mut most = 0;
    for (index, flags) in flags.enumerate() {
        let there = Build::tcp(client, front_end, flags).with_payload(33 + index);
        pair.packet(Hook::Xdp, UPLINK, &there)?
            .is(Outcome::ToRemoteBackend);
        let flow = pair.world.flow(protocol::TCP, client, front_end);
        most = most.max(flow.context("a flow")?.packets);
        if flags == SYN && index > 0 {
            break;
        }
        let back = Build::tcp(backend, source, flags | ACK).with_payload(44 + index);
        pair.packet(Hook::Xdp, FABRIC, &back)?
            .is(Outcome::ReplyRedirected);
        if index == 80 {
            assert!(most < 70, "{most} of 81 packets were looked up");
        }
    }
    assert_eq!(most, 83, "what lines counted has come home");
    Ok(())
}

/// In at ingress, out at egress; TCP and UDP, fragments, errors.
pub(super) fn through_the_stack<A: Both>(kernel: &mut Kernel) -> Result<()> {
    let mut pair = pair::<A>(kernel, &[(A::local(1), TARGET)])?;
    let (client, front_end, backend) = (client(), front_end(), (A::local(1), TARGET));
    for flags in [SYN, ACK, PSH | ACK, FIN | ACK] {
        let there = Build::tcp(client, front_end, flags).with_payload(9);
        // What is established, XDP translates; TC would see the packet on its way to the Pod.
        let entered = pair.packet(Hook::Xdp, UPLINK, &there)?;
        if flags & PSH != 0 || flags & FIN != 0 {
            entered.is(Outcome::ToLocalBackend);
            let translated = Build::tcp(client, backend, flags).with_payload(9);
            pair.packet(Hook::TcIngress, UPLINK, &translated)?
                .is(Outcome::Untouched);
        } else {
            entered.is(Outcome::LeftToTc);
            pair.packet(Hook::TcIngress, UPLINK, &there)?
                .is(Outcome::ToLocalBackend);
        }
        let back = Build::tcp(backend, client, flags | ACK).with_payload(7);
        pair.packet(Hook::TcIngress, POD1, &back)?
            .is(Outcome::AwaitsEgress);
        pair.packet(Hook::TcEgress, UPLINK, &back)?
            .is(Outcome::ReplyFromStack);
    }
    let question = Build::udp(client, front_end, &[]).with_payload(1000);
    let entered = pair
        .packet(Hook::TcIngress, UPLINK, &question)?
        .is(Outcome::ToLocalBackend);
    let answer = Build::udp(backend, client, &[]).with_payload(1000);
    for fragment in pair.world.addressed(UPLINK, &answer).fragments(&[504]) {
        pair.frame(Hook::TcEgress, UPLINK, &fragment)?
            .is(Outcome::ReplyFromStack);
    }
    let kind = if A::ICMP_NUMBER == protocol::ICMP {
        [3, 3]
    } else {
        [1, 4]
    };
    let error = icmp(backend.0, client.0, kind, [0; 4], &entered.bytes[14..200]);
    let error = pair.world.addressed(POD1, &error).icmp_frame();
    pair.frame(Hook::TcIngress, POD1, &error)?
        .is(Outcome::AwaitsEgress);
    pair.frame(Hook::TcEgress, UPLINK, &error)?
        .is(Outcome::IcmpTranslated);
    Ok(())
}

/// Pods of this node as clients.
pub(super) fn pods<A: Both>(kernel: &mut Kernel) -> Result<()> {
    let pod = (A::local(1), 40000);
    for (backend, outcome) in [
        ((A::remote(7), TARGET), Outcome::ToRoutedBackend),
        ((A::local(2), TARGET), Outcome::ToLocalBackend),
    ] {
        let world = stage::world::<A>()
            .cluster_ip(&[backend])
            .node_port(&[backend]);
        let mut pair = Pair::new(world, kernel)?;
        let cluster_ip = Build::tcp(pod, (A::CLUSTER_IP, PORT), SYN);
        pair.packet(Hook::TcIngress, POD1, &cluster_ip)?.is(outcome);
        let answer = Build::tcp(backend, pod, SYN | ACK);
        pair.packet(Hook::TcIngress, POD2, &answer)?
            .is(Outcome::AwaitsEgress);
        pair.packet(Hook::TcEgress, POD1, &answer)?
            .is(Outcome::ReplyFromStack);
        pair.packet(
            Hook::TcIngress,
            POD1,
            &Build::tcp((A::local(1), 40001), front_end(), SYN),
        )?;
    }
    // Two Pods behind one device, a bridge.
    let world = stage::world::<A>().cluster_ip(&[(A::local(1), TARGET)]);
    let mut pair = Pair::new(world, kernel)?;
    let neighbour = Build::tcp((A::local(3), 40000), (A::CLUSTER_IP, PORT), SYN);
    pair.packet(Hook::TcIngress, POD1, &neighbour)?
        .is(Outcome::ToLocalBackend);
    Ok(())
}

pub(super) fn hairpin<A: Both>(kernel: &mut Kernel) -> Result<()> {
    let itself = (A::local(1), TARGET);
    let world = stage::world::<A>().cluster_ip(&[itself]);
    let mut pair = Pair::new(world, kernel)?;
    let syn = Build::tcp((A::local(1), 40000), (A::CLUSTER_IP, PORT), SYN);
    pair.packet(Hook::TcIngress, POD1, &syn)?
        .is(Outcome::ToLocalBackend);
    let answer = Build::tcp(itself, (A::GATEWAY, 1024), SYN | ACK);
    pair.packet(Hook::TcIngress, POD1, &answer)?
        .is(Outcome::ReplyRedirected);
    Ok(())
}

/// Checksums that are none, or come out as none; fragments in any order.
pub(super) fn datagrams<A: Both>(kernel: &mut Kernel) -> Result<()> {
    for hook in [Hook::Xdp, Hook::TcIngress] {
        let mut pair = pair::<A>(kernel, &[(A::remote(7), TARGET)])?;
        let zeros = Build::udp(client(), front_end(), &[0, 0]);
        let left = pair
            .packet(hook, UPLINK, &zeros)?
            .is(Outcome::ToRemoteBackend);
        let checksum = 14 + A::HEADER_LEN + 6;
        let missing = &left.bytes[checksum..checksum + 2];
        let left = pair.packet(hook, UPLINK, &Build::udp(client(), front_end(), missing))?;
        assert_eq!(left.bytes[checksum..checksum + 2], [0xff, 0xff]);
        let without = Build {
            without_checksum: true,
            ..zeros
        };
        let v4_only = if A::HEADER_LEN == 20 {
            Outcome::ToRemoteBackend
        } else {
            Outcome::Malformed
        };
        pair.packet(hook, UPLINK, &without)?.is(v4_only);
        let odd = Build {
            padding: 5,
            ..Build::udp(client(), front_end(), b"?")
        };
        pair.packet(hook, UPLINK, &odd)?
            .is(Outcome::ToRemoteBackend);
        let long = Build::udp(client(), front_end(), &[]).with_payload(2000);
        let fragments = pair.world.addressed(UPLINK, &long).fragments(&[1000, 1496]);
        let mut outcomes = [Outcome::LeftToTc; 4];
        if hook == Hook::TcIngress {
            outcomes = [Outcome::ToRemoteBackend; 4];
            outcomes[0] = Outcome::FragmentUnknown;
        }
        for (n, outcome) in [1, 0, 2, 1].into_iter().zip(outcomes) {
            pair.frame(hook, UPLINK, &fragments[n])?.is(outcome);
        }
    }
    Ok(())
}

pub(super) fn stale<A: Both>(kernel: &mut Kernel) -> Result<()> {
    for (serving, moved) in [(A::remote(7), false), (A::remote(8), true)] {
        let mut world = stage::world::<A>().node_port(&[(A::remote(7), TARGET)]);
        let question = Build::udp(client(), front_end(), b"question");
        world.tables_mut().serving.insert(ServingKey {
            service: 1,
            address: serving,
            port: TARGET.to_be_bytes(),
            pad: [0; 2],
        });
        let key = node_port_key(NODE_PORT, UDP);
        world
            .tables_mut()
            .frontends
            .get_mut(&key)
            .context("the front end")?
            .serving = 1;
        let mut pair = Pair::new(world, kernel)?;
        pair.packet(Hook::Xdp, UPLINK, &question)?
            .is(Outcome::ToRemoteBackend);
        let to = [(A::remote(8), TARGET)];
        pair.world
            .front_end(key, frontend_flags::NODE_PORT, &to, &to);
        pair.world
            .tables_mut()
            .frontends
            .get_mut(&key)
            .context("the front end")?
            .serving = 1;
        pair.world.node.control.endpoint_generation += 1;
        pair.tell()?;
        pair.packet(Hook::Xdp, UPLINK, &question)?
            .is(Outcome::ToRemoteBackend);
        let flow = pair
            .world
            .flow(UDP, client(), front_end())
            .context("a flow")?;
        let expected = if moved { A::remote(8) } else { A::remote(7) };
        assert_eq!(flow.destination, expected);
    }
    Ok(())
}
