//! Measurements as a table for people.
//!
//! Invariant: what failed stands in the table with its reason.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use crate::record::Measurement;

/// All measurements, in the order in which they were made.
pub(crate) fn full(measurements: &[Measurement]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "measure",
        "candidate",
        "family",
        "flows",
        "services",
        "endpoints",
        "median",
        "spread",
        "unit",
        "to routing",
        "to limit",
    ]);
    for m in measurements {
        let (median, spread) = match &m.failed {
            Some(reason) => ("failed".to_owned(), reason.clone()),
            None => (
                number(m.median),
                format!("{} .. {}", number(m.spread[0]), number(m.spread[1])),
            ),
        };
        let ratio = |ratio: Option<f64>| ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        table.add_row([
            m.measure.clone(),
            m.candidate.clone(),
            format!("IPv{}", m.family),
            m.flows.to_string(),
            m.services.to_string(),
            m.endpoints.to_string(),
            median,
            spread,
            m.unit.clone(),
            ratio(m.ratio_to_routing),
            ratio(m.ratio_to_limit),
        ]);
    }
    for column in [3, 4, 5, 6, 9, 10] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::{Runs, Subject, sum_up};

    #[test]
    fn results_and_failures_stand_side_by_side() {
        let subject = Subject {
            measure: "remote".to_owned(),
            family: 6,
            flows: 1,
            services: 1,
            endpoints: 3,
            unit: "Mpps",
        };
        let runs = [
            Runs {
                candidate: "redirect".to_owned(),
                values: vec![Ok(4.0)],
                again: 0,
            },
            Runs {
                candidate: "xdp".to_owned(),
                values: vec![Ok(3.0)],
                again: 0,
            },
            Runs {
                candidate: "tc".to_owned(),
                values: vec![Err("2 of 64 packets were wrong".to_owned())],
                again: 0,
            },
        ];
        let text = full(&sum_up(&subject, &runs));
        let row = |name: &str| {
            let line = text.lines().find(|line| line.contains(name)).unwrap();
            line.split(['│', '┆'])
                .map(str::trim)
                .collect::<Vec<_>>()
                .join("|")
        };
        assert_eq!(
            row("xdp"),
            "|remote|xdp|IPv6|1|1|3|3.00|3.00 .. 3.00|Mpps||0.75|"
        );
        assert_eq!(
            row("tc"),
            "|remote|tc|IPv6|1|1|3|failed|1 of 1 runs: 2 of 64 packets were wrong|Mpps|||"
        );
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(number(1234.5), "1234");
        assert_eq!(number(45.678), "45.7");
        assert_eq!(number(0.456), "0.46");
        assert_eq!(number(0.0123), "0.0123");
    }
}
