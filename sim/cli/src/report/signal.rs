//! Signal-to-noise ratio along the trace: of the tracked levels, and of the best remembered match.

use plotters::prelude::*;

use super::Run;
use super::plot::{self, Area, Axis, Drawn, Key, Swatch, palette};
use crate::columns::format;
use cptr_sim::replay::Signal;

const HEIGHT: u32 = 560;

/// Name, colour and values of a series.
type Series = (&'static str, RGBColor, fn(&Signal) -> f64);

const SERIES: [Series; 2] = [
    ("best match over the crowd of remembered places", palette::CPTR, |part| part.match_snr_db),
    ("tracked levels over the innovation", palette::OTHER, |part| part.snr_db),
];

/// The plot, or nothing where there is no series.
pub(super) fn figure(run: &Run<'_>) -> String {
    let context = run.context;
    if context.signal.is_empty() {
        return String::new();
    }
    let key = |(text, color, _): Series| Key { swatch: Swatch::Line, color, text: text.into() };
    let caption = format!(
        "How far the routing is known, from other tokens: the mean margin is {} for the levels and {} for the match, \
         which moves along with the text in {} of the tokens.",
        format::decibels(context.snr_db),
        format::decibels(context.match_snr_db),
        format::percent(context.match_locked_share),
    );
    let title = "Signal-to-noise ratio along the trace";
    plot::figure(title, HEIGHT, &SERIES.map(key), &caption, |area| draw(area, run))
}

fn draw(area: &Area<'_>, run: &Run<'_>) -> Drawn {
    let signal = &run.context.signal;
    let tokens = run.tokens.max(1) as f64;
    let half = tokens / signal.len() as f64 / 2.0;
    let lines = SERIES.map(|(_, color, of)| {
        let point = |part: &Signal| (part.token as f64 + half, of(part));
        (color, signal.iter().map(point).filter(|point| point.1.is_finite()).collect::<Vec<_>>())
    });
    let values = lines.iter().flat_map(|line| &line.1).map(|point| point.1).chain([0.0]);
    let mut chart = plot::axes(
        area,
        Axis {
            range: 0.0..tokens,
            name: "token of the trace",
            tick: |value| format::count(value.max(0.0).round() as usize),
        },
        Axis { range: plot::padded(values, 0.08, f64::NEG_INFINITY), name: "dB", tick: |value| format!("{value:.0}") },
    )?;
    for (color, points) in lines {
        chart.draw_series(LineSeries::new(points, color.stroke_width(4)))?;
    }
    Ok(())
}
