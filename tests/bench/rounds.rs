//! Rounds: every candidate once in each, in random order.
//!
//! So that what drifts (heat, memory, neighbours on the machine) hits all alike. Invariant: a run that failed is made again twice at most, and
//! never gives a value; how many were made again is counted, and a third failure is kept.

use anyhow::Result;

use crate::statistics::Runs;

/// What one candidate gave in each round.
#[derive(Clone, Debug)]
pub(crate) struct Raw<T> {
    /// Who.
    candidate: String,
    /// What came out, or why nothing did.
    values: Vec<Result<T, String>>,
    /// Runs that failed and were made again.
    again: usize,
}

/// Runs of one candidate in one round, until one counts.
const ATTEMPTS: usize = 3;

/// Runs `measure` for each candidate in each round.
pub(crate) fn run<C: Copy, T>(
    rounds: usize,
    candidates: &[C],
    name: impl Fn(C) -> &'static str,
    mut measure: impl FnMut(C) -> Result<T>,
) -> Vec<Raw<T>> {
    let mut all: Vec<_> = candidates
        .iter()
        .map(|candidate| Raw {
            candidate: name(*candidate).to_owned(),
            values: Vec::new(),
            again: 0,
        })
        .collect();
    for _ in 0..rounds {
        let mut order: Vec<_> = (0..candidates.len()).collect();
        fastrand::shuffle(&mut order);
        for index in order {
            let raw = &mut all[index];
            let mut attempt = || {
                let value = measure(candidates[index]).map_err(|error| format!("{error:#}"));
                if let Err(reason) = &value {
                    eprintln!("    {}: {reason}", raw.candidate);
                }
                value
            };
            let mut value = attempt();
            for _ in 1..ATTEMPTS {
                if value.is_err() {
                    raw.again += 1;
                    value = attempt();
                }
            }
            raw.values.push(value);
        }
    }
    all
}

/// One number of what the runs gave.
pub(crate) fn each<T>(all: &[Raw<T>], number: impl Fn(&T) -> f64) -> Vec<Runs> {
    all.iter()
        .map(|raw| Runs {
            candidate: raw.candidate.clone(),
            values: raw
                .values
                .iter()
                .map(|value| value.as_ref().map(&number).map_err(Clone::clone))
                .collect(),
            again: raw.again,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    const NAMES: [&str; 3] = ["a", "b", "c"];

    #[test]
    fn every_candidate_runs_once_in_each_round() {
        let mut order = Vec::new();
        let raw = run(
            40,
            &[0, 1, 2],
            |candidate: usize| NAMES[candidate],
            |candidate| {
                order.push(candidate);
                Ok(candidate)
            },
        );
        for round in order.chunks(3) {
            let mut sorted = round.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2]);
        }
        assert!(
            order.chunks(3).any(|round| round != [0, 1, 2]),
            "always the same order"
        );
        #[expect(clippy::cast_precision_loss, reason = "0 to 2")]
        let runs = each(&raw, |value| *value as f64);
        assert!(runs.iter().all(|runs| runs.values.len() == 40));
        assert_eq!(runs[1].values[0], Ok(1.0));
        assert_eq!(runs[1].again, 0);
    }

    #[test]
    fn a_failed_run_is_made_again_and_its_third_failure_kept() {
        let mut calls = 0;
        let raw = run(
            1,
            &[0, 1],
            |candidate: usize| NAMES[candidate],
            |candidate| {
                calls += 1;
                if candidate == 1 || calls == 1 {
                    bail!("not this time");
                }
                Ok(())
            },
        );
        let runs = each(&raw, |()| 1.0);
        assert_eq!(runs[1].values, [Err("not this time".to_owned())]);
        assert_eq!(runs[1].again, 2);
        // Whoever was first failed once more than by its nature.
        assert!(matches!(
            (runs[0].again, &runs[0].values[..]),
            (0 | 1, [Ok(1.0)])
        ));
        assert_eq!(calls, 4 + runs[0].again);
    }
}
