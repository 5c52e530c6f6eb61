//! Rounds: every candidate once in each, in random order.
//!
//! So that what drifts (heat, memory, neighbours on the machine) hits all alike. Invariant: a candidate that failed is tried again in the next
//! round, and its failure is kept.

use anyhow::Result;

use crate::statistics::Runs;

/// What one candidate gave in each round.
#[derive(Clone, Debug)]
pub(crate) struct Raw<T> {
    /// Who.
    candidate: String,
    /// What came out, or why nothing did.
    values: Vec<Result<T, String>>,
}

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
        })
        .collect();
    for _ in 0..rounds {
        let mut order: Vec<_> = (0..candidates.len()).collect();
        fastrand::shuffle(&mut order);
        for index in order {
            let value = measure(candidates[index]).map_err(|error| format!("{error:#}"));
            if let Err(reason) = &value {
                eprintln!("    {}: {reason}", all[index].candidate);
            }
            all[index].values.push(value);
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
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn every_candidate_runs_once_in_each_round_and_failures_are_kept() {
        let mut order = Vec::new();
        let raw = run(
            40,
            &[0, 1, 2],
            |candidate: u32| ["a", "b", "c"][candidate as usize],
            |candidate| {
                order.push(candidate);
                if candidate == 2 && order.len() > 3 {
                    bail!("not this time");
                }
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
        let runs = each(&raw, |value| f64::from(*value));
        assert!(runs.iter().all(|runs| runs.values.len() == 40));
        assert_eq!(runs[1].values[0], Ok(1.0));
        assert_eq!(runs[2].values[39], Err("not this time".to_owned()));
    }
}
