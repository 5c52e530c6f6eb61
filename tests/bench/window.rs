//! What the counters say of one run, and whether it counts.
//!
//! Pure. Invariant: a run in which the node's core was idle or did something else, or in which a packet in a thousand of those that the node
//! took did not arrive as it should, is an error and never a value.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::helper::Arrivals;

/// Part of the time that the node's core may be idle.
const IDLE: f64 = 0.05;
/// Part of the time that its core may do something else (a virtual machine's kernel has threads of its own).
const OTHERS: f64 = 0.1;
/// Packets of which one may be lost or wrong.
const ONE_IN: u64 = 1000;

/// All counters at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// When.
    pub(crate) at: Instant,
    /// Packets that the node took from the wire.
    pub(crate) taken: u64,
    /// What arrived of the client.
    pub(crate) forth: Arrivals,
    /// What arrived of the backends.
    pub(crate) back: Arrivals,
    /// Nanoseconds of the node's NAPI threads.
    pub(crate) run_time: u64,
    /// How long the node's core has had nothing to do.
    pub(crate) idle: Duration,
    /// How long it took to read the counters after `at`.
    pub(crate) reading: Duration,
}

impl Look {
    fn arrived(&self) -> u64 {
        self.forth.packets + self.back.packets
    }

    fn sampled(&self) -> u64 {
        self.forth.sampled + self.back.sampled
    }

    fn wrong(&self) -> u64 {
        self.forth.wrong + self.back.wrong
    }
}

/// All counters around a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Nothing is under way yet.
    pub(crate) before: Look,
    /// The window begins.
    pub(crate) start: Look,
    /// The window ends.
    pub(crate) end: Look,
    /// Nothing is under way any more.
    pub(crate) after: Look,
}

impl Run {
    /// Packets per microsecond that arrived in the window.
    pub(crate) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let packets = (self.end.arrived() - self.start.arrived()) as f64;
        packets / (self.end.at - self.start.at).as_secs_f64() / 1e6
    }

    /// Whether this is a run that counts.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_busy()?;
        let taken = self.after.taken - self.before.taken;
        let arrived = self.after.arrived() - self.before.arrived();
        let lost = taken.saturating_sub(arrived);
        if taken == 0 || lost * ONE_IN > taken {
            bail!("of {taken} packets that the node took, {arrived} arrived");
        }
        let sampled = self.after.sampled() - self.before.sampled();
        let wrong = self.after.wrong() - self.before.wrong();
        if sampled == 0 || wrong * ONE_IN > sampled {
            bail!("of {sampled} packets that were checked, {wrong} were wrong");
        }
        Ok(())
    }

    /// Whether the node's core had enough to do.
    fn check_busy(&self) -> Result<()> {
        let window = self.end.at - self.start.at;
        let reading = self.start.reading.max(self.end.reading);
        if reading > window.mul_f64(IDLE) / 2 {
            bail!("it took {reading:.0?} to read the counters");
        }
        let of_window = |time: Duration| time.as_secs_f64() / window.as_secs_f64();
        let idle = of_window(self.end.idle.saturating_sub(self.start.idle));
        if idle > IDLE {
            bail!(
                "the node's core was idle for {:.0} % of the time",
                idle * 100.0
            );
        }
        let ran = Duration::from_nanos(self.end.run_time - self.start.run_time);
        let others = 1.0 - idle - of_window(ran);
        if others > OTHERS {
            bail!(
                "the node's core did something else for {:.0} % of the time",
                others * 100.0
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the node's core did, in milliseconds: worked on packets, nothing.
    type Core = [u64; 2];

    fn look(at: Instant, millis: u64, taken: u64, arrived: u64, wrong: u64, core: Core) -> Look {
        Look {
            at: at + Duration::from_millis(millis),
            taken,
            forth: Arrivals {
                packets: arrived,
                sampled: arrived / 64,
                wrong,
                fresh: 0,
            },
            back: Arrivals::default(),
            run_time: core[0] * 1_000_000,
            idle: Duration::from_millis(core[1]),
            reading: Duration::ZERO,
        }
    }

    fn checked(taken: u64, arrived: u64, wrong: u64, core: Core) -> Option<String> {
        let now = Instant::now();
        let [zero, start] = [0, 100].map(|at| look(now, at, 0, 0, 0, [0, 0]));
        let [end, after] = [1100, 1200].map(|at| look(now, at, taken, arrived, wrong, core));
        let run = Run {
            before: zero,
            start,
            end,
            after,
        };
        run.check().err().map(|error| error.to_string())
    }

    #[test]
    fn a_busy_core_and_packets_that_arrive_make_a_run() {
        assert_eq!(checked(1_000_000, 999_500, 0, [920, 30]), None);
    }

    #[test]
    fn an_idle_core_is_a_failed_run() {
        let error = checked(1_000_000, 1_000_000, 0, [900, 100]);
        assert_eq!(
            error.as_deref(),
            Some("the node's core was idle for 10 % of the time")
        );
        let error = checked(1_000_000, 1_000_000, 0, [800, 10]);
        assert_eq!(
            error.as_deref(),
            Some("the node's core did something else for 19 % of the time")
        );
    }

    #[test]
    fn counters_that_were_not_read_together_are_a_failed_run() {
        let now = Instant::now();
        let [before, mut start] = [0, 100].map(|at| look(now, at, 0, 0, 0, [0, 0]));
        let [end, after] = [1100, 1200].map(|at| look(now, at, 6400, 6400, 0, [1000, 0]));
        start.reading = Duration::from_millis(30);
        let run = Run {
            before,
            start,
            end,
            after,
        };
        let error = run.check().err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("it took 30ms to read the counters"));
    }

    #[test]
    fn one_lost_packet_in_a_thousand_is_a_failed_run() {
        let error = checked(1_000_000, 998_900, 0, [1000, 0]);
        assert_eq!(
            error.as_deref(),
            Some("of 1000000 packets that the node took, 998900 arrived")
        );
        assert!(checked(0, 0, 0, [1000, 0]).is_some(), "nothing was sent");
    }

    #[test]
    fn wrong_packets_of_the_sample_are_a_failed_run() {
        let error = checked(640_000, 640_000, 11, [1000, 0]);
        assert_eq!(
            error.as_deref(),
            Some("of 10000 packets that were checked, 11 were wrong")
        );
    }
}
