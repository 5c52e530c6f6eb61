//! Which runs count: a busy core, packets that arrive, and as they should be.

use super::*;

fn look(at: Instant, millis: u64, taken: u64, arrived: u64, wrong: u64, busy: u64) -> Look {
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
        run_time: busy * 1_000_000,
        reading: Duration::ZERO,
    }
}

fn checked(taken: u64, arrived: u64, wrong: u64, busy: u64) -> Option<String> {
    let now = Instant::now();
    let [zero, start] = [0, 100].map(|at| look(now, at, 0, 0, 0, 0));
    let [end, after] = [1100, 1200].map(|at| look(now, at, taken, arrived, wrong, busy));
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
    assert_eq!(checked(1_000_000, 999_500, 0, 980), None);
}

#[test]
fn an_idle_core_is_a_failed_run() {
    let error = checked(1_000_000, 1_000_000, 0, 900);
    assert_eq!(
        error.as_deref(),
        Some("the node's core was busy for 90 % of the time only")
    );
}

#[test]
fn counters_that_were_not_read_together_are_a_failed_run() {
    let now = Instant::now();
    let [before, mut start] = [0, 100].map(|at| look(now, at, 0, 0, 0, 0));
    let [end, after] = [1100, 1200].map(|at| look(now, at, 6400, 6400, 0, 1000));
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
    let error = checked(1_000_000, 998_900, 0, 1000);
    assert_eq!(
        error.as_deref(),
        Some("of 1000000 packets that the node took, 998900 arrived")
    );
    assert!(checked(0, 0, 0, 1000).is_some(), "nothing was sent");
}

#[test]
fn wrong_packets_of_the_sample_are_a_failed_run() {
    let error = checked(640_000, 640_000, 11, 1000);
    assert_eq!(
        error.as_deref(),
        Some("of 10000 packets that were checked, 11 were wrong")
    );
}
