//! Growth as pictures: how a measure changes with the number of Services, endpoints or flows.
//!
//! Pure but for the files that it writes. Invariant: what failed is not drawn.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;

use crate::record::Measurement;

/// What grows: prefix of the measure's name, name of the axis, and the number.
type Axis = (&'static str, &'static str, fn(&Measurement) -> u32);

const AXES: [Axis; 3] = [
    ("growth-flows", "flows", |m| m.flows),
    ("growth-services", "Services of three endpoints", |m| {
        m.services
    }),
    ("growth-endpoints", "endpoints of 1,000 Services", |m| {
        m.endpoints
    }),
];

/// One line of a picture: a candidate and its points, by rising x.
type Line = (String, Vec<(f64, f64)>);

/// Writes one SVG for each measure that grew, and returns how many.
pub(crate) fn write(measurements: &[Measurement], directory: &Path) -> Result<usize> {
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let names: BTreeSet<&str> = measurements.iter().map(|m| m.measure.as_str()).collect();
    let mut written = 0;
    for name in names {
        let Some((_, axis, number)) = AXES.iter().find(|(prefix, ..)| name.starts_with(prefix))
        else {
            continue;
        };
        let lines = lines(measurements, name, *number);
        let unit = measurements.iter().find(|m| m.measure == name);
        let unit = unit.map_or("", |m| m.unit.as_str());
        let path = directory.join(format!("{name}.svg"));
        draw(&path, name, [axis, unit], &lines)
            .map_err(|error| anyhow!("draw {}: {error}", path.display()))?;
        written += 1;
    }
    Ok(written)
}

fn lines(measurements: &[Measurement], name: &str, number: fn(&Measurement) -> u32) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for m in measurements
        .iter()
        .filter(|m| m.measure == name && m.failed.is_none())
    {
        let point = (f64::from(number(m).max(1)), m.median);
        match lines
            .iter_mut()
            .find(|(candidate, _)| *candidate == m.candidate)
        {
            Some((_, points)) => points.push(point),
            None => lines.push((m.candidate.clone(), vec![point])),
        }
    }
    for (_, points) in &mut lines {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

fn draw(
    path: &Path,
    title: &str,
    [axis, unit]: [&str; 2],
    lines: &[Line],
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let most = points().map(|point| point.0).fold(10.0, f64::max);
    // Room for the names above the lines.
    let room = lines.iter().fold(1.1, |room, _| room + 0.08);
    let top = points().map(|point| point.1).fold(0.0, f64::max) * room;
    let root = SVGBackend::new(path, (800, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d((1.0..most).log_scale(), 0.0..top.max(1e-9))?;
    chart
        .configure_mesh()
        .x_desc(axis)
        .y_desc(unit)
        .light_line_style(WHITE)
        .draw()?;
    for (index, (candidate, points)) in lines.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        chart
            .draw_series(
                LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3),
            )?
            .label(candidate.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(measure: &str, flows: u32, median: f64, failed: Option<&str>) -> Measurement {
        Measurement {
            measure: measure.to_owned(),
            candidate: "nodeport xdp".to_owned(),
            family: 4,
            flows,
            services: 1,
            endpoints: 3,
            median,
            spread: [median, median],
            rounds: 1,
            again: 0,
            unit: "Mpps".to_owned(),
            ratio_to_routing: None,
            ratio_to_limit: None,
            failed: failed.map(str::to_owned),
        }
    }

    #[test]
    fn a_picture_for_what_grew_and_none_for_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let all = [
            measured("remote", 10_000, 2.0, None),
            measured("growth-flows", 1000, 1.5, None),
            measured("remote", 10_000, 2.0, None),
            measured("growth-flows", 1, 2.0, None),
            measured("growth-flows", 100_000, 0.0, Some("idle")),
        ];
        assert_eq!(write(&all, directory.path()).unwrap(), 1);
        let svg = std::fs::read_to_string(directory.path().join("growth-flows.svg")).unwrap();
        assert!(svg.contains("<svg") && svg.contains("nodeport xdp") && svg.contains("Mpps"));
        let lines = lines(&all, "growth-flows", |m| m.flows);
        assert_eq!(
            lines[0].1,
            [(1.0, 2.0), (1000.0, 1.5)],
            "what failed is not drawn"
        );
    }
}
