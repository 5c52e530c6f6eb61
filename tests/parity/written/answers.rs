//! Answers of the node itself, and frames that go on as they came.

use anyhow::Result;
use nodeport_common::{Hook, Outcome, frontend_flags, protocol};

use super::{Both, client, front_end, pair};
use crate::kernel::Kernel;
use crate::packets::{ACK, Build, FIN, PSH, RST, SYN, icmp};
use crate::pair::Pair;
use crate::stage;
use crate::world::{FABRIC, NODE_PORT, POD1, TARGET, UPLINK, node_port_key};

/// No endpoint: refused, dropped, or without budget.
pub(super) fn answers<A: Both>(kernel: &mut Kernel) -> Result<()> {
    let mut pair = pair::<A>(kernel, &[])?;
    for device in [UPLINK, POD1] {
        let from = if device == UPLINK {
            client()
        } else {
            (A::local(1), 40000)
        };
        for payload in [0, 1, 7, 64, 1200] {
            let question = Build::udp(from, front_end(), &[]).with_payload(payload);
            pair.packet(Hook::Xdp, device, &question)?
                .is(Outcome::LeftToTc);
            pair.packet(Hook::TcIngress, device, &question)?
                .is(Outcome::RejectedNoEndpoint);
            for flags in [SYN, ACK | PSH, FIN | ACK, FIN, 0] {
                let padding = if payload == 7 { 6 } else { 0 };
                let segment = Build {
                    padding,
                    ..Build::tcp(from, front_end(), flags)
                };
                let segment = segment.with_payload(payload);
                pair.packet(Hook::TcIngress, device, &segment)?
                    .is(Outcome::RejectedNoEndpoint);
            }
        }
        let reset = Build::tcp(from, front_end(), RST);
        pair.packet(Hook::TcIngress, device, &reset)?
            .is(Outcome::Untouched);
    }
    let long = Build::udp(client(), front_end(), &[]).with_payload(500);
    for fragment in pair.world.addressed(UPLINK, &long).fragments(&[256]) {
        pair.frame(Hook::TcIngress, UPLINK, &fragment)?;
    }
    pair.world.node.control.reject_burst = 0;
    pair.tell()?;
    pair.packet(Hook::TcIngress, UPLINK, &long)?
        .is(Outcome::RejectSuppressed);

    let mut world = stage::world::<A>();
    let flags = frontend_flags::NODE_PORT | frontend_flags::DROP_IF_EMPTY;
    let here = [(A::remote(7), TARGET)];
    world.front_end(node_port_key(NODE_PORT, protocol::UDP), flags, &[], &here);
    let mut pair = Pair::new(world, kernel)?;
    pair.packet(Hook::TcIngress, UPLINK, &long)?
        .is(Outcome::DroppedNoLocalEndpoint);
    let pod = Build {
        from: (A::local(1), 40000),
        ..long
    };
    pair.packet(Hook::TcIngress, POD1, &pod)?
        .is(Outcome::ToRemoteBackend);
    Ok(())
}

/// Sizes around the MTU, also of super-packets, and the last hop.
pub(super) fn too_big<A: Both>(kernel: &mut Kernel) -> Result<()> {
    let mut pair = pair::<A>(kernel, &[(A::remote(7), TARGET)])?;
    let fits = 1400 - A::HEADER_LEN - 20;
    let syn = Build::tcp(client(), front_end(), SYN);
    for (payload, outcome) in [
        (fits, Outcome::ToRemoteBackend),
        (fits + 1, Outcome::TooBig),
    ] {
        let build = syn.clone().with_payload(payload);
        pair.packet(Hook::TcIngress, UPLINK, &build)?.is(outcome);
    }
    let large = pair
        .world
        .addressed(UPLINK, &syn.clone().with_payload(3000))
        .frame();
    for (gso_size, outcome) in [
        (fits, Outcome::ToRemoteBackend),
        (fits + 1, Outcome::TooBig),
    ] {
        pair.super_frame(Hook::TcIngress, UPLINK, &large, gso_size as u32)?
            .is(outcome);
    }
    let build = syn.clone().with_payload(fits + 1);
    pair.packet(Hook::Xdp, UPLINK, &build)?
        .is(Outcome::LeftToTc);
    let dying = Build { ttl: 1, ..syn };
    pair.packet(Hook::Xdp, UPLINK, &dying)?
        .is(Outcome::LeftToTc);
    pair.packet(Hook::TcIngress, UPLINK, &dying)?
        .is(Outcome::TtlExpired);
    let quote = pair
        .packet(Hook::Xdp, UPLINK, &Build { ttl: 9, ..dying })?
        .bytes;
    let kind = if A::ICMP_NUMBER == protocol::ICMP {
        [3, 4]
    } else {
        [2, 0]
    };
    let (from, to) = (A::remote(250), A::FABRIC_ADDRESS);
    for len in A::HEADER_LEN..quote.len() - 14 {
        let error = icmp(from, to, kind, [0, 0, 5, 0], &quote[14..14 + len]);
        let error = pair.world.addressed(FABRIC, &error).icmp_frame();
        pair.frame(Hook::Xdp, FABRIC, &error)?.is(Outcome::LeftToTc);
        let known = len >= A::HEADER_LEN + 8;
        let outcome = if known {
            Outcome::IcmpTranslated
        } else {
            Outcome::Untouched
        };
        pair.frame(Hook::TcIngress, FABRIC, &error)?.is(outcome);
    }
    pair.world.node.control.reject_burst = 0;
    pair.tell()?;
    pair.packet(Hook::TcIngress, UPLINK, &build)?
        .is(Outcome::TooBigSuppressed);
    Ok(())
}

/// Frames that go on as they came.
pub(super) fn left_alone<A: Both>(kernel: &mut Kernel) -> Result<()> {
    let mut pair = pair::<A>(kernel, &[(A::remote(7), TARGET)])?;
    let syn = pair.world.addressed(
        UPLINK,
        &Build::tcp(client(), front_end(), SYN).with_payload(20),
    );
    let good = syn.frame();
    for hook in Hook::ON_DEVICES.iter().copied() {
        let to_mac = [2, 0, 0, 0, 7, 7];
        pair.frame(
            hook,
            UPLINK,
            &Build {
                to_mac,
                ..syn.clone()
            }
            .frame(),
        )?;
        for tag in [&[0x81, 0, 0, 100][..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 100]] {
            let tagged = [&good[..12], tag, &good[12..]].concat();
            pair.frame(hook, UPLINK, &tagged)?.is(Outcome::Tagged);
        }
        for number in [0, 1, 2, 6, 17, 43, 44, 47, 50, 51, 58, 59, 60, 132, 255] {
            let mut bytes = good.clone();
            bytes[if A::HEADER_LEN == 20 { 23 } else { 20 }] = number;
            pair.frame(hook, UPLINK, &bytes)?;
        }
        // The kernel takes no shorter frame in a test run.
        for len in 14 + A::HEADER_LEN..good.len() {
            pair.frame(hook, UPLINK, &good[..len])?;
        }
        for at in [14, 16, 17, 18, 19, 20, 46] {
            for value in [0, 0x41, 0x4f, 0x66, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                pair.frame(hook, UPLINK, &bytes)?;
            }
        }
        let martian = Build {
            from: (A::FABRIC_ADDRESS, 40000),
            ..syn.clone()
        };
        pair.frame(hook, UPLINK, &martian.frame())?;
    }
    Ok(())
}
