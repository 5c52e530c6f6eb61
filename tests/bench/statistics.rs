//! Median, spread and ratios of what the rounds gave.
//!
//! Pure. Invariant: a measurement with a failed run has no result: it is never made of the runs that remain.

use crate::record::Measurement;

/// What one candidate gave in each round.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    /// Who.
    pub(crate) candidate: String,
    /// A value of each round, or why there is none.
    pub(crate) values: Vec<Result<f64, String>>,
    /// Runs that failed and were made again.
    pub(crate) again: usize,
}

/// What is common to all candidates of a measure.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// See [`Measurement::measure`].
    pub(crate) measure: String,
    /// 4 or 6.
    pub(crate) family: u8,
    /// Flows.
    pub(crate) flows: u32,
    /// Services.
    pub(crate) services: u32,
    /// Endpoints of all Services together.
    pub(crate) endpoints: u32,
    /// Unit of the values.
    pub(crate) unit: &'static str,
}

/// Name of the candidate that `ratio_to_routing` is about.
pub(crate) const ROUTING: &str = "routing";
/// Name of the candidate that `ratio_to_limit` is about.
pub(crate) const LIMIT: &str = "redirect";

/// The middle of the values; of an even number, the mean of the two in the middle. 0 without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The value below which this part (0 to 1) of the values lies. 0 without values.
pub(crate) fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a rank within the values"
    )]
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.clamp(1, sorted.len().max(1)) - 1)
        .copied()
        .unwrap_or(0.0)
}

/// One measurement of each candidate.
pub(crate) fn sum_up(subject: &Subject, runs: &[Runs]) -> Vec<Measurement> {
    let median_of = |name: &str| {
        let runs = runs.iter().find(|runs| runs.candidate == name)?;
        good(runs).ok().map(|values| median(&values))
    };
    let (routing, limit) = (median_of(ROUTING), median_of(LIMIT));
    runs.iter()
        .map(|runs| {
            let (values, failed) = match good(runs) {
                Ok(values) => (values, None),
                Err(reason) => (Vec::new(), Some(reason)),
            };
            let median = median(&values);
            let ratio = |of: Option<f64>| {
                let of = of.filter(|of| *of > 0.0 && failed.is_none())?;
                Some(median / of)
            };
            Measurement {
                measure: subject.measure.clone(),
                candidate: runs.candidate.clone(),
                family: subject.family,
                flows: subject.flows,
                services: subject.services,
                endpoints: subject.endpoints,
                median,
                spread: [
                    values.iter().copied().reduce(f64::min).unwrap_or(0.0),
                    values.iter().copied().reduce(f64::max).unwrap_or(0.0),
                ],
                rounds: values.len(),
                again: runs.again,
                unit: subject.unit.to_owned(),
                ratio_to_routing: ratio(routing),
                ratio_to_limit: ratio(limit),
                failed,
            }
        })
        .collect()
}

/// All values, or the first reason why one is missing.
fn good(runs: &Runs) -> Result<Vec<f64>, String> {
    let failed = runs.values.iter().filter(|value| value.is_err()).count();
    match runs.values.iter().find_map(|value| value.as_ref().err()) {
        Some(reason) => Err(format!("{failed} of {} runs: {reason}", runs.values.len())),
        None if runs.values.is_empty() => Err("no run".to_owned()),
        None => Ok(runs.values.iter().flatten().copied().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(candidate: &str, values: &[f64]) -> Runs {
        Runs {
            candidate: candidate.to_owned(),
            values: values.iter().map(|value| Ok(*value)).collect(),
            again: 0,
        }
    }

    fn subject() -> Subject {
        Subject {
            measure: "remote".to_owned(),
            family: 4,
            flows: 10_000,
            services: 1,
            endpoints: 3,
            unit: "Mpps",
        }
    }

    #[test]
    fn one_outlier_moves_no_median() {
        assert!((median(&[3.0, 1.0, 2.0, 900.0, 2.5]) - 2.5).abs() < 1e-9);
        assert!((median(&[1.0, 2.0, 4.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).abs() < 1e-9);
    }

    #[test]
    fn of_a_hundred_values_the_99th_is_the_99th_percentile() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((percentile(&values, 0.99) - 99.0).abs() < 1e-9);
        assert!((percentile(&values, 0.5) - 50.0).abs() < 1e-9);
        assert!((percentile(&[7.0], 0.99) - 7.0).abs() < 1e-9);
        assert!(percentile(&[], 0.99).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_to_the_medians_of_the_same_rounds() {
        let all = [
            runs("redirect", &[4.0, 4.2, 3.8]),
            runs("routing", &[1.0, 0.9, 1.1]),
            runs("xdp", &[3.0, 3.1, 2.9]),
        ];
        let xdp = &sum_up(&subject(), &all)[2];
        assert_eq!(xdp.candidate, "xdp");
        assert!((xdp.ratio_to_routing.unwrap() - 3.0).abs() < 1e-9);
        assert!((xdp.ratio_to_limit.unwrap() - 0.75).abs() < 1e-9);
        assert_eq!((xdp.spread, xdp.rounds), ([2.9, 3.1], 3));
    }

    #[test]
    fn a_failed_run_is_never_a_result_and_no_yardstick_either() {
        let mut routing = runs("routing", &[1.0, 1.0]);
        routing
            .values
            .push(Err("the node's core was busy for 80 %".to_owned()));
        let all = sum_up(&subject(), &[routing, runs("xdp", &[3.0, 3.0, 3.0])]);
        assert_eq!(
            all[0].failed.as_deref(),
            Some("1 of 3 runs: the node's core was busy for 80 %")
        );
        assert!(all[0].median.abs() < 1e-9 && all[0].ratio_to_routing.is_none());
        assert!(all[1].failed.is_none() && all[1].ratio_to_routing.is_none());
    }
}
