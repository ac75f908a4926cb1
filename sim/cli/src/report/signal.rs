//! The phase track: signal-to-noise ratio of the tracked levels and of the best remembered match along the trace, how
//! much of the time each is locked, and the changes of context that the detector sees.

use plotters::prelude::*;

use super::lines::{Curve, Panel};
use super::plot::{self, Area, Chart, Drawn, Key, Swatch, Tip, palette};
use crate::columns::format;
use cptr_sim::replay::{Context, Signal};

const HEIGHT: u32 = 1000;
/// More starts of domains than this would cover the curves.
const MOST_STARTS: usize = 60;

/// The plot, or nothing where there is no series.
pub(crate) fn figure(tokens: usize, context: &Context) -> String {
    if context.signal.is_empty() {
        return String::new();
    }
    let ratios =
        panel(tokens, context, "dB", |value| format!("{value:.0}"), [|part| part.snr_db, |part| part.match_snr_db]);
    let locks = panel(
        tokens,
        context,
        "locked",
        plot::percent_tick,
        [|part| part.locked * 100.0, |part| part.match_locked * 100.0],
    );
    let mut legend: Vec<Key> = ratios.curves.iter().map(Curve::key).collect();
    if !context.changes.is_empty() {
        legend.push(Key::new(Swatch::Tick, palette::INK, "the tracker sees a change of context"));
    }
    if (1..=MOST_STARTS).contains(&context.domain_starts.len()) {
        legend.push(Key::new(Swatch::Line, palette::EVENT, "another domain begins"));
    }
    let caption = format!(
        "Above, how far the routing is known, from other tokens: the mean margin is {} for the levels over the \
         innovation and {} for the best match over the crowd of remembered places. Below, the share of the time in \
         which each is sure: the levels are locked in {} of all tokens and layers, the match moves along with the text \
         in {} of the tokens. The detector sees {}.",
        format::decibels(context.snr_db),
        format::decibels(context.match_snr_db),
        format::percent(context.locked_share),
        format::percent(context.match_locked_share),
        if context.changes.len() == 1 {
            "1 change of context".into()
        } else {
            format!("{} changes of context", format::count(context.changes.len()))
        },
    );
    plot::figure("Phase track along the trace", HEIGHT, &legend, &caption, |area, tips| {
        let (above, below) = area.split_vertically(HEIGHT / 2);
        draw(&above, tips, &ratios, context)?;
        draw(&below, tips, &locks, context)
    })
}

/// Both series of one kind.
fn panel<'a>(
    tokens: usize,
    context: &Context,
    name: &'a str,
    tick: fn(f64) -> String,
    of: [fn(&Signal) -> f64; 2],
) -> Panel<'a> {
    let tokens = tokens.max(1) as f64;
    let half = tokens / context.signal.len() as f64 / 2.0;
    let points = |of: fn(&Signal) -> f64| {
        let point = |part: &Signal| (part.token as f64 + half, of(part));
        context.signal.iter().map(point).filter(|point| point.1.is_finite()).collect::<Vec<_>>()
    };
    Panel {
        x: ("token of the trace", |value| format::count(value.max(0.0).round() as usize)),
        y: (name, tick),
        ends: Some(0.0..tokens),
        floor: f64::NEG_INFINITY,
        room: 0.1,
        curves: vec![Curve::at(1, "tracked levels", points(of[0])), Curve::at(0, "best match", points(of[1]))],
    }
}

fn draw(area: &Area<'_>, tips: &mut Vec<Tip>, panel: &Panel<'_>, context: &Context) -> Drawn {
    let chart = panel.draw(area, tips)?;
    let starts = if context.domain_starts.len() <= MOST_STARTS { &context.domain_starts[..] } else { &[] };
    let (_, ys) = chart.plotting_area().get_pixel_range();
    let upright = |x: i32, from: i32, to: i32| [(x, from), (x, to)].map(|place| plot::within(area, place));
    for x in places(&chart, starts) {
        area.draw(&PathElement::new(upright(x, ys.start, ys.end), palette::EVENT.stroke_width(3)))?;
    }
    for x in places(&chart, &context.changes) {
        area.draw(&PathElement::new(upright(x, ys.end, ys.end - 24), palette::INK.stroke_width(3)))?;
    }
    Ok(())
}

/// Where tokens lie; those closer than a line is wide are one.
fn places(chart: &Chart<'_, '_>, tokens: &[usize]) -> Vec<i32> {
    let mut xs: Vec<i32> = tokens.iter().map(|&token| chart.backend_coord(&(token as f64, 0.0)).0).collect();
    xs.dedup_by_key(|x| *x / 3);
    xs
}
