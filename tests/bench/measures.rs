//! The list of measures, and which of them run.
//!
//! Invariant: a measure's name is stable: records of different days are compared by it.

use anyhow::Result;
use nodeport_tests::k8s::programs::Programs;

use crate::candidate::Candidate;
use crate::objects::Shape;
use crate::packets::{self, Traffic};
use crate::programs::{self, Kind};
use crate::record::Measurement;
use crate::rounds::{self, Raw, each};
use crate::statistics::{Subject, sum_up};
use crate::{Args, bulk, cluster, control, keeping, opening};

/// One measure: what is there, and who is measured.
struct Measure {
    name: &'static str,
    what: What,
    v6: bool,
    local: bool,
    flows: u32,
    services: u32,
    /// Endpoints of each Service but the first.
    endpoints: u32,
    /// Whether it is part of `--quick`.
    quick: bool,
}

/// One number of a run: what it adds to the measure's name, its unit, and how it is read.
type Part<T> = (&'static str, &'static str, fn(&T) -> f64);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Packets per second, from the client or in both directions.
    Packets { both: bool },
    /// Nanoseconds of a program.
    Program(Kind),
    /// New TCP connections.
    Opening,
    /// A stream of TCP.
    Bulk,
    /// The agent alone.
    Control,
    /// The agent and a real API server.
    Cluster,
    /// The agent's part in flows that nobody uses.
    Keeping,
}

const ONE_WAY: What = What::Packets { both: false };
const BOTH_WAYS: What = What::Packets { both: true };

const fn measure(name: &'static str, what: What) -> Measure {
    Measure {
        name,
        what,
        v6: false,
        local: false,
        flows: 10_000,
        services: 1,
        endpoints: 3,
        quick: false,
    }
}

/// Packets per second, by the number of flows.
const fn growth_flows(flows: u32) -> Measure {
    measure("growth-flows", ONE_WAY).flows(flows)
}

/// The agent, by the number of Services of three endpoints.
const fn growth_services(services: u32) -> Measure {
    measure("growth-services", What::Control)
        .flows(0)
        .services(services, 3)
}

/// The agent, by the number of endpoints of each of 1,000 Services.
const fn growth_endpoints(endpoints: u32) -> Measure {
    measure("growth-endpoints", What::Control)
        .flows(0)
        .services(1000, endpoints)
}

impl Measure {
    const fn quick(mut self) -> Self {
        self.quick = true;
        self
    }

    const fn v6(mut self) -> Self {
        self.v6 = true;
        self
    }

    const fn local(mut self) -> Self {
        self.local = true;
        self
    }

    const fn flows(mut self, flows: u32) -> Self {
        self.flows = flows;
        self
    }

    const fn services(mut self, services: u32, endpoints: u32) -> Self {
        self.services = services;
        self.endpoints = endpoints;
        self
    }
}

/// In the order in which they run.
const MEASURES: &[Measure] = &[
    measure("remote", ONE_WAY).quick(),
    measure("remote-both", BOTH_WAYS).quick(),
    measure("remote-ipv6", ONE_WAY).v6(),
    measure("remote-1-flow", ONE_WAY).flows(1),
    measure("remote-1M-flows", ONE_WAY).flows(1_000_000),
    measure("remote-10k-services", ONE_WAY).services(10_000, 3),
    measure("local", ONE_WAY).local(),
    measure("program-established", What::Program(Kind::Established)),
    // Of new packets none may be known: more flows than fit into the table of pending ones.
    measure("program-new", What::Program(Kind::New)).flows(1_000_000),
    measure("program-foreign", What::Program(Kind::Foreign)),
    measure("connections", What::Opening).flows(0),
    measure("connections-10k-services", What::Opening)
        .flows(0)
        .services(10_000, 3),
    measure("bulk-local", What::Bulk).flows(0).local(),
    growth_flows(1),
    growth_flows(100),
    growth_flows(10_000),
    growth_flows(100_000),
    growth_flows(1_000_000),
    growth_services(1),
    growth_services(100),
    growth_services(1000),
    growth_services(5000),
    growth_services(10_000),
    growth_services(20_000),
    growth_endpoints(1),
    growth_endpoints(10),
    growth_endpoints(50),
    growth_endpoints(100),
    measure("agent-10k-services", What::Control)
        .flows(0)
        .services(10_000, 3),
    measure("agent-250k-endpoints", What::Control)
        .flows(0)
        .services(5_000, 50),
    measure("cluster-10k-services", What::Cluster)
        .flows(0)
        .services(10_000, 3),
    measure("cluster-250k-endpoints", What::Cluster)
        .flows(0)
        .services(10_000, 25),
    // Minutes, and nothing that a second round would tell.
    measure("agent-1M-flows", What::Keeping).flows(1_000_000),
];

/// The names of all measures.
pub(crate) fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = MEASURES.iter().map(|measure| measure.name).collect();
    names.dedup();
    names
}

/// What was asked for, as far as it could be had.
pub(crate) struct Asked {
    /// In the order of the list.
    pub(crate) measured: Vec<Measurement>,
    /// Measures that this machine lacks something for.
    pub(crate) left_out: usize,
}

/// Runs what was asked for, and hands over each measure's results as soon as they are there.
///
/// # Errors
/// Those of `keep`.
pub(crate) fn run(
    args: &Args,
    mut keep: impl FnMut(&[Measurement]) -> Result<()>,
) -> Result<Asked> {
    let mut asked = Asked {
        measured: Vec::new(),
        left_out: 0,
    };
    for measure in MEASURES {
        let candidates: Vec<_> = measure
            .candidates()
            .iter()
            .copied()
            .filter(|candidate| measure.takes(*candidate))
            .filter(|candidate| args.wants(measure.name, candidate.name(), measure.quick))
            .collect();
        if candidates.is_empty() {
            continue;
        }
        if measure.what == What::Cluster && Programs::from_environment().is_err() {
            eprintln!("==> {}: left out, there is no API server", measure.name);
            asked.left_out += 1;
            continue;
        }
        eprintln!("==> {}", measure.name);
        let measured = measure.run(args, &candidates);
        keep(&measured)?;
        asked.measured.extend(measured);
    }
    Ok(asked)
}

impl Measure {
    /// Who can be measured, in the order of the table.
    fn candidates(&self) -> &'static [Candidate] {
        use Candidate::{Iptables, Nftables, Redirect, Rewrite, Routing, Straight, Tc, Xdp};
        match self.what {
            What::Packets { .. } => &[
                Redirect, Rewrite, Routing, Nftables, Iptables, Xdp, Tc, Straight,
            ],
            What::Program(_) => &[Xdp, Tc],
            What::Opening | What::Bulk => &[Routing, Nftables, Iptables, Xdp, Tc, Straight],
            What::Control | What::Cluster | What::Keeping => &[Xdp],
        }
    }

    /// The limit knows no way through a host's stack; the kernel's table of connections ends far below a million; and `nft` takes minutes for
    /// 10,000 Services.
    fn takes(&self, candidate: Candidate) -> bool {
        match candidate {
            Candidate::Redirect => !self.local,
            Candidate::Rewrite => !self.local && !self.v6,
            Candidate::Straight => self.local,
            Candidate::Nftables => self.flows <= 100_000 && self.services <= 1000,
            Candidate::Iptables => self.flows <= 100_000,
            _ => true,
        }
    }

    fn shape(&self) -> Shape {
        let udp = matches!(
            self.what,
            What::Packets { .. } | What::Program(_) | What::Keeping
        );
        Shape {
            services: self.services,
            endpoints: self.endpoints,
            // Each flow to an endpoint takes one of some 30,000 ports.
            measured: (self.flows / 16_384 + 1).clamp(3, 200) as u8,
            local: self.local,
            v6: self.v6,
            protocol: if udp { "UDP" } else { "TCP" },
        }
    }

    fn run(&self, args: &Args, candidates: &[Candidate]) -> Vec<Measurement> {
        let shape = self.shape();
        let window = args.window();
        let rounds = args.rounds();
        let traffic = Traffic {
            shape,
            flows: self.flows,
            both: self.what == BOTH_WAYS,
            foreign: false,
            window,
        };
        match self.what {
            What::Packets { .. } => {
                let raw = rounds::run(rounds, candidates, Candidate::name, |candidate| {
                    packets::run(candidate, &traffic)
                });
                self.sum_up(&raw, "", "Mpps", |rate| *rate)
            }
            What::Program(kind) => {
                let raw = rounds::run(rounds, candidates, Candidate::name, |candidate| {
                    programs::run(candidate, &traffic, kind)
                });
                self.sum_up(&raw, "", "ns", |each| *each)
            }
            What::Opening => {
                let raw = rounds::run(rounds, candidates, Candidate::name, |candidate| {
                    opening::run(candidate, &shape, window)
                });
                self.parts(
                    &raw,
                    &[
                        ("", "1/s", |opened| opened.rate),
                        ("-p50", "us", |opened| opened.p50),
                        ("-p99", "us", |opened| opened.p99),
                    ],
                )
            }
            What::Bulk => {
                let raw = rounds::run(rounds, candidates, Candidate::name, |candidate| {
                    bulk::run(candidate, &shape, window)
                });
                self.sum_up(&raw, "", "Gbit/s", |rate| *rate)
            }
            What::Control => self.control(rounds, candidates),
            What::Cluster => self.cluster(candidates),
            What::Keeping => {
                let raw = rounds::run(1, candidates, Candidate::name, |candidate| {
                    keeping::run(candidate, &traffic)
                });
                self.parts(
                    &raw,
                    &[
                        ("-kept", "% CPU", |costs| costs.kept),
                        ("-expired", "% CPU", |costs| costs.expired),
                    ],
                )
            }
        }
    }

    fn control(&self, rounds: usize, candidates: &[Candidate]) -> Vec<Measurement> {
        let shape = self.shape();
        let raw = rounds::run(rounds, candidates, Candidate::name, |_| {
            control::run(&shape, 40)
        });
        self.parts(
            &raw,
            &[
                ("-load", "ms", |life| life.load),
                ("-restart", "ms", |life| life.restart),
                ("-change-p50", "us", |life| life.change_p50),
                ("-change-p99", "us", |life| life.change_p99),
                ("-memory-kernel", "MiB", |life| life.kernel),
                ("-memory-agent", "MiB", |life| life.agent),
            ],
        )
    }

    fn cluster(&self, candidates: &[Candidate]) -> Vec<Measurement> {
        let raw = rounds::run(1, candidates, Candidate::name, |_| {
            cluster::run(&Programs::from_environment()?, &self.shape())
        });
        self.parts(
            &raw,
            &[
                ("-load", "ms", |run| run.load),
                ("-change-p50", "ms", |run| run.change_p50),
                ("-change-p99", "ms", |run| run.change_p99),
                ("-changes", "1/s", |run| run.rate),
                ("-cpu", "% CPU", |run| run.cpu),
                ("-memory-agent", "MiB", |run| run.memory),
            ],
        )
    }

    /// Several numbers of the same runs, each a measurement: its part of the name, unit and value.
    fn parts<T>(&self, raw: &[Raw<T>], parts: &[Part<T>]) -> Vec<Measurement> {
        let parts = parts.iter();
        parts
            .flat_map(|(part, unit, number)| self.sum_up(raw, part, unit, number))
            .collect()
    }

    fn sum_up<T>(
        &self,
        raw: &[Raw<T>],
        part: &str,
        unit: &'static str,
        number: impl Fn(&T) -> f64,
    ) -> Vec<Measurement> {
        let shape = self.shape();
        let subject = Subject {
            measure: format!("{}{part}", self.name),
            family: if self.v6 { 6 } else { 4 },
            flows: self.flows,
            services: self.services,
            endpoints: (self.services - 1) * self.endpoints + u32::from(shape.measured),
            unit,
        };
        sum_up(&subject, &each(raw, number))
    }
}
