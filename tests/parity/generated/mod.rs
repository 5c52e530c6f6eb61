//! Generated packets: sequences in which requests, replies, errors, fragments, noise and the agent's changes follow each other at random, at
//! every hook and device.
//!
//! The seed is fixed, so that a run can be repeated; `NODEPORT_PARITY_SEED` takes another.

mod steps;

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::Result;
use nodeport_agent::maps::IpBytes;
use nodeport_agent::plan::Ip;
use nodeport_common::{FlowKey, Hook, Outcome, PortSegment, V4, V6, frontend_flags, protocol};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use self::steps::{Place, Shape, Step, matching, request, steps};
use crate::kernel::Kernel;
use crate::packets::{Build, icmp};
use crate::pair::{Pair, on_stage};
use crate::stage::{self, BLACKHOLE, Text, UNRESOLVED};
use crate::world::{TARGET, World, node_port_key};

const SEED: u64 = 20_260_801;
/// Sequences of each family, and steps of a sequence at most.
const CASES: u32 = 200;
const STEPS: usize = 50;
/// Packets that each program must have had at the end.
const ENOUGH: u32 = 1000;

/// Outcomes without which the packets are too dull.
const MUST_OCCUR: &[Outcome] = &[
    Outcome::Untouched,
    Outcome::Malformed,
    Outcome::NotToUs,
    Outcome::MartianSource,
    Outcome::TtlExpired,
    Outcome::FragmentUnknown,
    Outcome::LeftToTc,
    Outcome::AwaitsEgress,
    Outcome::ToLocalBackend,
    Outcome::ToRoutedBackend,
    Outcome::ToRemoteBackend,
    Outcome::ReplyRedirected,
    Outcome::ReplyFromStack,
    Outcome::IcmpTranslated,
    Outcome::RejectedNoEndpoint,
    Outcome::DroppedNoLocalEndpoint,
    Outcome::TooBig,
    Outcome::NoRoute,
];

const EMPTY: u16 = 30081;
const ELSEWHERE_ONLY: u16 = 30082;

/// A node with every kind of backend, and few source ports.
fn busy<A: Text>() -> World<A> {
    let anywhere = [
        (A::remote(7), TARGET),
        (A::remote(7), TARGET),
        (A::remote(7), TARGET),
        (A::remote(8), TARGET),
        (A::local(1), TARGET),
        (A::local(2), TARGET),
        (A::NODE, TARGET),
        (A::remote(UNRESOLVED), TARGET),
        (A::remote(BLACKHOLE), TARGET),
    ];
    let mut world = stage::world::<A>()
        .node_port(&anywhere)
        .cluster_ip(&anywhere);
    for number in [protocol::TCP, protocol::UDP] {
        let empty = frontend_flags::NODE_PORT;
        world.front_end(node_port_key(EMPTY, number), empty, &[], &[]);
        let local = empty | frontend_flags::DROP_IF_EMPTY | frontend_flags::POLICY_LOCAL;
        let key = node_port_key(ELSEWHERE_ONLY, number);
        world.front_end(key, local, &[], &anywhere);
    }
    let (first, second) = (
        PortSegment {
            first: 2000,
            count: 3,
        },
        PortSegment {
            first: 61000,
            count: 1,
        },
    );
    world.node.control.snat = [first, second];
    world
}

/// Packets by hook and outcome.
type Counts = RefCell<BTreeMap<(Hook, Outcome), u32>>;

/// A sequence in progress.
struct Run<'k, A: Text + Ip + IpBytes> {
    pair: Pair<'k, A>,
    /// The last frame that was sent.
    last: Vec<u8>,
    /// Packets by hook and outcome.
    counts: &'k Counts,
}

impl<A: Text + Ip + IpBytes> Run<'_, A> {
    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Request(place, shape, who, what) => {
                let build = request(shape, *who, *what);
                self.packet(*place, &build)
            }
            Step::Known(place, shape, which) => match self.entry(*which) {
                Some(key) => self.packet(*place, &matching(shape, &key)),
                None => Ok(()),
            },
            Step::Error(place, shape, which, kind, len) => {
                self.error(*place, shape, *which, *kind, *len)
            }
            Step::Fragments(place, shape, who, what, turned) => {
                let build = Build {
                    padding: 0,
                    ..request(shape, *who, *what)
                };
                let build = self
                    .pair
                    .world
                    .addressed(place.device, &build)
                    .with_payload(256);
                let mut fragments = build.fragments(&[128]);
                if *turned {
                    fragments.reverse();
                }
                fragments
                    .iter()
                    .try_for_each(|frame| self.frame(*place, frame))
            }
            Step::Damaged(place, damage, cut) => {
                let mut bytes = self.last.clone();
                for (at, value) in damage.iter().filter(|_| !self.last.is_empty()) {
                    bytes[at.index(self.last.len())] = *value;
                }
                if let Some(cut) = cut {
                    bytes.truncate(cut.index(bytes.len() + 1));
                }
                self.frame(*place, &bytes)
            }
            Step::Noise(place, bytes) => {
                let mac = self.pair.world.node.devices[&place.device].mac;
                let bytes = [&mac[..], &bytes[..6], &A::ETHERTYPE, &bytes[6..]].concat();
                self.frame(*place, &bytes)
            }
            Step::Change(routes, endpoints) => {
                let control = &mut self.pair.world.node.control;
                control.route_generation += u32::from(*routes);
                control.endpoint_generation += u32::from(*endpoints);
                self.pair.tell()
            }
        }
    }

    /// The key of one of the entries that there are.
    fn entry(&self, which: Index) -> Option<FlowKey<A>> {
        let tables = self.pair.world.tables();
        let entries = [tables.flows.entries(), tables.pending.entries()].concat();
        (!entries.is_empty()).then(|| which.get(&entries).0)
    }

    fn error(
        &mut self,
        place: Place,
        shape: &Shape,
        which: Index,
        kind: [u8; 2],
        len: Index,
    ) -> Result<()> {
        let tables = self.pair.world.tables();
        let Some(key) = self.entry(which) else {
            return Ok(());
        };
        let Some(entry) = tables.entry(&key) else {
            return Ok(());
        };
        // What a router behind us saw.
        let translated = entry.get().translated(key.protocol);
        let seen = Build {
            options: Vec::new(),
            extensions: Vec::new(),
            ..matching(shape, &translated)
        };
        let packet = seen.packet();
        let quote = &packet[..len.index(packet.len() + 1)];
        let error = icmp(A::client(250), translated.source, kind, [0, 0, 5, 0], quote);
        let error = self.pair.world.addressed(
            place.device,
            &Build {
                ttl: shape.ttl,
                ..error
            },
        );
        self.frame(place, &error.icmp_frame())
    }

    fn packet(&mut self, place: Place, build: &Build<A>) -> Result<()> {
        let frame = self.pair.world.addressed(place.device, build).frame();
        self.frame(place, &frame)
    }

    /// A frame that the kernel takes in a test run: with an Ethernet header and a whole network header.
    fn frame(&mut self, place: Place, bytes: &[u8]) -> Result<()> {
        if bytes.len() < 14 + 40 {
            return Ok(());
        }
        self.last = bytes.to_vec();
        let ran = self.pair.frame(place.hook, place.device, bytes)?;
        let mut counts = self.counts.borrow_mut();
        *counts.entry((place.hook, ran.outcome)).or_default() += 1;
        Ok(())
    }
}

fn all<A: Text + Ip + IpBytes>() {
    let seed =
        std::env::var("NODEPORT_PARITY_SEED").map_or(SEED, |seed| seed.parse().expect("a number"));
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: 200,
        ..Config::default()
    };
    let counts = Counts::default();
    on_stage(&busy::<A>(), |kernel: &mut Kernel| {
        let kernel = RefCell::new(kernel);
        let outcome = TestRunner::new(config).run(&steps(), |steps| {
            let mut kernel = kernel.borrow_mut();
            let result = Pair::new(busy::<A>(), &mut kernel).and_then(|pair| {
                let last = Vec::new();
                let mut run = Run {
                    pair,
                    last,
                    counts: &counts,
                };
                steps.iter().try_for_each(|step| run.step(step))
            });
            result.map_err(|error| TestCaseError::fail(format!("{error:?}")))
        });
        outcome.map_err(|error| anyhow::anyhow!("NODEPORT_PARITY_SEED={seed}: {error}"))?;
        are_enough(&counts.into_inner());
        Ok(())
    });
}

/// Each program had its packets, and they ended in every way that generated ones can.
fn are_enough(counts: &BTreeMap<(Hook, Outcome), u32>) {
    eprintln!("{counts:?}");
    for hook in Hook::ON_DEVICES {
        let total: u32 = counts
            .iter()
            .filter(|((at, _), _)| at == hook)
            .map(|(_, n)| n)
            .sum();
        assert!(total >= ENOUGH, "{total} packets at {hook:?}");
    }
    for outcome in MUST_OCCUR {
        let seen = counts.keys().any(|(_, seen)| seen == outcome);
        assert!(seen, "no generated packet ended in {outcome:?}");
    }
}

#[test]
fn generated_packets_of_ipv4() {
    all::<V4>();
}

#[test]
fn generated_packets_of_ipv6() {
    all::<V6>();
}
