//! Packets per second, with the node's core as the bottleneck.
//!
//! Owns the stage, its flows and its generators; what a run gave is judged in `window`. Invariant: a flow is measured only after both of its
//! directions were seen by the candidate.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use nodeport_tests::agent::Agent;

use crate::candidate::Candidate;
use crate::counters;
use crate::frames::Frames;
use crate::helper::{Helper, Way};
use crate::napi;
use crate::objects::Shape;
use crate::stage::{
    BACKEND_PORT, CLIENT, Device, FABRIC, NODE_PORT, POD, SINK, Stage, UPLINK, backend, client,
    front_end,
};
use crate::window::{Look, Run};

/// Flows that are set up at once: their entries have to fit into the usual table of pending flows.
const AT_ONCE: u32 = 8192;
/// The same where the agent is told to have larger tables.
const MANY_AT_ONCE: u32 = 1 << 17;
/// Longest time for a pass over the flows.
const PASS_LIMIT: Duration = Duration::from_secs(20);
/// What is sent before the window begins: of ten thousand flows more than a hundred packets each, as caches are for flows that are busy.
const WARM_UP: Duration = Duration::from_millis(600);
/// Frames of one call of the generator: more than it sends in a window, because between two calls it sends nothing for some 20 ms.
const BURST: u32 = 5 << 21;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    /// Services and where their endpoints are.
    pub(crate) shape: Shape,
    /// Number of flows.
    pub(crate) flows: u32,
    /// Whether answers flow as well.
    pub(crate) both: bool,
    /// Whether the client asks a backend itself, so that the node only forwards.
    pub(crate) foreign: bool,
    /// How long is measured.
    pub(crate) window: Duration,
}

/// A stage with a candidate whose flows are established.
pub(crate) struct Ready {
    stage: Stage,
    helper: Helper,
    traffic: Traffic,
    candidate: Candidate,
    agent: Option<Agent>,
}

/// One run: Mpps that arrived, both directions together.
pub(crate) fn run(candidate: Candidate, traffic: &Traffic) -> Result<f64> {
    let mut ready = Ready::make(candidate, traffic, "")?;
    ready.establish()?;
    ready.measure()
}

impl Ready {
    /// A stage with its ends and a candidate; an agent takes these arguments as well.
    pub(crate) fn make(candidate: Candidate, traffic: &Traffic, more: &str) -> Result<Self> {
        let stage = Stage::make()?;
        let devices = [stage.index(&FABRIC)?, stage.index(&UPLINK)?];
        let mut helper = Helper::load(traffic.flows.max(1), devices)?;
        let far = far_end(traffic);
        let sink = if traffic.shape.local {
            "bench_sink_pod"
        } else {
            "bench_sink_forth"
        };
        helper.attach(sink, stage.space(far), far.name)?;
        helper.attach("bench_sink_back", stage.space(&CLIENT), CLIENT.name)?;
        let arguments = format!("{} {more}", flags(traffic.flows));
        let agent = candidate.set_up(&stage, &mut helper, &traffic.shape, &arguments)?;
        Ok(Self {
            stage,
            helper,
            traffic: *traffic,
            candidate,
            agent,
        })
    }

    /// The candidate's agent, if it has one.
    pub(crate) fn agent(&self) -> Option<&Agent> {
        self.agent.as_ref()
    }

    /// Three legs of each flow: asked, answered, asked again. Then both directions are known and established.
    pub(crate) fn establish(&mut self) -> Result<()> {
        let at_once = if many(self.traffic.flows) {
            MANY_AT_ONCE
        } else {
            AT_ONCE
        };
        let mut first = 0;
        while first < self.traffic.flows {
            let flows = at_once.min(self.traffic.flows - first);
            for (pass, way) in [(1, Way::Forth), (2, Way::Back), (3, Way::Forth)] {
                self.pass(way, pass, first, flows)
                    .with_context(|| format!("leg {pass} of flows from {first} on"))?;
            }
            first += flows;
        }
        Ok(())
    }

    /// Packets per microsecond that arrive while the generators run.
    pub(crate) fn measure(&mut self) -> Result<f64> {
        let window = self.traffic.window;
        let (run, ()) = self.drive(|| {
            std::thread::sleep(window);
            Ok(())
        })?;
        run.check()?;
        Ok(run.rate())
    }

    /// Runs the generators while `during` lasts.
    pub(crate) fn drive<T: Send>(
        &mut self,
        during: impl FnOnce() -> Result<T> + Send,
    ) -> Result<(Run, T)> {
        let ways: &[Way] = if self.traffic.both {
            &[Way::Forth, Way::Back]
        } else {
            &[Way::Forth]
        };
        for way in [Way::Forth, Way::Back] {
            self.plan(way, 0, 0, self.traffic.flows)?;
        }
        let threads = Stage::pin()?;
        let stop = AtomicBool::new(false);
        let before = self.look(&threads)?;
        let (start, end, value) = std::thread::scope(|scope| -> Result<_> {
            let mut generators = Vec::new();
            for way in ways {
                let generator = self.helper.generator(*way, self.traffic.shape.v6)?;
                let netns = self.stage.space(self.source(*way));
                let stop = &stop;
                generators.push(scope.spawn(move || generator.send_until(netns, stop, BURST)));
            }
            // As urgent as the generators: who waits for a core between two counters reads them of different moments.
            let observer = scope.spawn(|| {
                napi::pin_thread(None, napi::END_CORE)?;
                std::thread::sleep(WARM_UP);
                let start = self.look(&threads)?;
                let value = during()?;
                Ok::<_, anyhow::Error>((start, self.look(&threads)?, value))
            });
            let observed = joined(observer);
            stop.store(true, Ordering::Relaxed);
            for generator in generators {
                joined(generator)?;
            }
            observed
        })?;
        // What is still in rings arrives.
        std::thread::sleep(Duration::from_millis(50));
        let after = self.look(&threads)?;
        let run = Run {
            before,
            start,
            end,
            after,
        };
        Ok((run, value))
    }

    /// Sends packets of flows until each of them arrived.
    fn pass(&mut self, way: Way, pass: u32, first: u32, flows: u32) -> Result<()> {
        // Passes of other flows have other numbers of flows, so their numbers may repeat.
        self.plan(way, pass, first, flows)?;
        let fresh = |helper: &Helper| Ok::<_, anyhow::Error>(helper.arrived(way)?.fresh);
        let before = fresh(&self.helper)?;
        let generator = self.helper.generator(way, self.traffic.shape.v6)?;
        let netns = self.stage.space(self.source(way));
        let limit = Instant::now() + PASS_LIMIT;
        netns.run(|| {
            napi::pin_thread(None, napi::END_CORE)?;
            loop {
                let seen = fresh(&self.helper)? - before;
                if seen >= u64::from(flows) {
                    return Ok(());
                }
                if Instant::now() > limit {
                    bail!("of {flows} flows, packets of {seen} arrived after {PASS_LIMIT:?}");
                }
                // A ring takes 256 packets at a time, and some are lost; a call costs more than packets do.
                generator.send((8 * flows).max(64))?;
            }
        })?
    }

    fn plan(&mut self, way: Way, pass: u32, first_flow: u32, flows: u32) -> Result<()> {
        let source = self.source(way);
        let v6 = self.traffic.shape.v6;
        let translates = self.candidate.translates() && !self.traffic.foreign;
        let to = match (way, source.space) {
            (Way::Forth, _) => &UPLINK,
            (_, "pod") => &crate::stage::LOCAL,
            _ => &FABRIC,
        };
        // Who is not translated goes to as many endpoints: to one alone, the kernel would route most packets as it did the one before.
        let (destination, destinations) = if translates && way == Way::Forth {
            (front_end(v6), 1)
        } else {
            let shape = &self.traffic.shape;
            (backend(v6, shape.local, 0), shape.measured)
        };
        let frames = Frames {
            to: to.mac(),
            from: source.mac(),
            source: client(v6),
            destination,
            destinations,
            device: self.stage.index(source)?,
            flows,
            first_flow,
            pass,
            expected_destination_port: if way == Way::Forth { BACKEND_PORT } else { 0 },
            expected_source_port: match (way, translates) {
                (Way::Forth, _) => 0,
                (Way::Back, true) => NODE_PORT,
                (Way::Back, false) => BACKEND_PORT,
            },
        };
        self.helper.plan(way, &frames)
    }

    fn source(&self, way: Way) -> &'static Device {
        match way {
            Way::Forth => &CLIENT,
            Way::Back => far_end(&self.traffic),
        }
    }

    fn look(&self, threads: &[rustix::process::Pid]) -> Result<Look> {
        let taken = |device: &Device| counters::received(self.stage.space(device), device.name);
        let back = if self.traffic.shape.local {
            &crate::stage::LOCAL
        } else {
            &FABRIC
        };
        let taken = taken(&UPLINK)? + taken(back)?;
        let at = Instant::now();
        Ok(Look {
            at,
            taken,
            forth: self.helper.arrived(Way::Forth)?,
            back: self.helper.arrived(Way::Back)?,
            run_time: napi::run_time(threads)?,
            idle: napi::idle_time(napi::NODE_CORE)?,
            reading: at.elapsed(),
        })
    }
}

/// What a thread returned; its panic goes on here.
fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    let ended = thread.join();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn far_end(traffic: &Traffic) -> &'static Device {
    if traffic.shape.local { &POD } else { &SINK }
}

/// Whether these are more flows than the agent's usual tables hold.
fn many(flows: u32) -> bool {
    flows > 100_000
}

/// Tables of the agent that hold these flows; none for as many as fit by default.
fn flags(flows: u32) -> String {
    if !many(flows) {
        return String::new();
    }
    let (established, pending) = (2 * flows + 100_000, 8 * MANY_AT_ONCE);
    format!("--flows-max {established} --pending-max {pending}")
}
