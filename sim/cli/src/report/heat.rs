//! Which experts a trace wants: by layer over the whole of it, and of one layer over time.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::plot::{self, Area, Drawn, Key, Swatch, Tip, palette};
use crate::columns::format;
use cptr_trace::Trace;

/// Parts of the trace at most.
const PARTS: usize = 60;
/// More fields than this in a row are brought together.
const MOST_FIELDS: usize = 128;
/// Room for the names of rows and columns.
const LEFT: i32 = 150;
const RIGHT: i32 = 20;
const BOTTOM: i32 = 96;
/// Shares over the even share from which on a field is darker, and its opacity.
const STEPS: [(f64, f64); 5] = [(0.25, 0.12), (0.75, 0.3), (1.5, 0.5), (3.0, 0.75), (6.0, 1.0)];

/// Shares of the choices, in units of the even share: rows, and columns in each.
struct Map {
    cells: Vec<Vec<f64>>,
    columns: String,
    rows: String,
    /// Last name of the axis below.
    last: String,
}

/// The plots, of traces with choices.
pub(crate) fn figures(trace: &Trace) -> Vec<String> {
    let shape = trace.shape;
    if shape.tokens < 2 || shape.experts < 2 {
        return Vec::new();
    }
    let layers = by_layer(trace);
    let (layer, over_time) = most_changing(trace);
    let name = trace.meta.layer_ids.get(layer).map_or(layer, |&id| id as usize);
    let together = |fields: usize| match fields.div_ceil(MOST_FIELDS) {
        1 => String::new(),
        per => format!(" A field is {per} neighbours."),
    };
    let legend: Vec<Key> = STEPS
        .iter()
        .enumerate()
        .map(|(index, (from, opacity))| {
            let to = STEPS.get(index + 1).map_or(" or more times".into(), |(to, _)| format!(" to {to}"));
            let unit = if index + 1 == STEPS.len() { " the even share" } else { "" };
            Key::new(Swatch::Shade(*opacity), palette::OTHER, format!("{from}{to}{unit}"))
        })
        .collect();
    let scale = "Shares are in units of the even share: 1 is what every expert would get if all were wanted alike; \
                 white is less than a quarter of it.";
    let first = format!(
        "Dark fields are experts that are worth their place in fast memory; rows without any need a larger one. \
         {scale}{}",
        together(shape.experts)
    );
    let second = format!(
        "Layer {name} is the one whose experts change most between parts of the trace: where dark fields move, \
         what was placed before is wrong. {scale}{}",
        together(shape.experts)
    );
    vec![
        figure("Experts by layer", &legend, &first, &layers),
        figure(&format!("Experts of layer {name} over time"), &legend, &second, &over_time),
    ]
}

fn figure(title: &str, legend: &[Key], caption: &str, map: &Map) -> String {
    let height = (map.cells.len() as i32 * 30).clamp(240, 900) + BOTTOM + 10;
    plot::figure(title, height as u32, legend, caption, |area, tips| draw(area, tips, map))
}

fn by_layer(trace: &Trace) -> Map {
    let shape = trace.shape;
    let cells = (0..shape.layers).map(|layer| shares(trace, layer, 0..shape.tokens)).collect();
    Map {
        cells,
        columns: format!("expert, 0 to {}", shape.experts - 1),
        rows: "layer".into(),
        last: (shape.experts - 1).to_string(),
    }
}

/// Shares of the experts of a layer in some tokens, in units of the even share.
fn shares(trace: &Trace, layer: usize, tokens: std::ops::Range<usize>) -> Vec<f64> {
    let mut counts = vec![0u64; trace.shape.experts];
    for token in tokens {
        trace.chosen(token, layer).iter().for_each(|&expert| counts[usize::from(expert)] += 1);
    }
    let even = counts.iter().sum::<u64>().max(1) as f64 / counts.len() as f64;
    counts.into_iter().map(|count| count as f64 / even).collect()
}

/// The layer whose shares differ most from part to part, with its map: experts from top to bottom, time to the right.
fn most_changing(trace: &Trace) -> (usize, Map) {
    let (tokens, experts) = (trace.shape.tokens, trace.shape.experts);
    let parts = PARTS.min(tokens);
    let of = |layer: usize| -> Vec<Vec<f64>> {
        let part = |part: usize| shares(trace, layer, part * tokens / parts..(part + 1) * tokens / parts);
        (0..parts).map(part).collect()
    };
    let change = |series: &[Vec<f64>]| -> f64 {
        let step = |pair: &[Vec<f64>]| pair[0].iter().zip(&pair[1]).map(|(a, b)| (a - b).abs()).sum::<f64>();
        series.windows(2).map(step).sum()
    };
    let all = (0..trace.shape.layers).map(|layer| (layer, of(layer)));
    let most = all.max_by(|a, b| change(&a.1).total_cmp(&change(&b.1))).unwrap_or((0, Vec::new()));
    let cells = (0..experts).map(|expert| most.1.iter().map(|part| part[expert]).collect()).collect();
    let map = Map {
        cells,
        columns: format!("token of the trace, 0 to {}", format::count(tokens - 1)),
        rows: "expert".into(),
        last: format::count(tokens - 1),
    };
    (most.0, map)
}

/// As few neighbours together as there is room for, each at the mean of them.
fn together(values: &[f64]) -> Vec<f64> {
    let size = values.len().div_ceil(MOST_FIELDS).max(1);
    values.chunks(size).map(|part| part.iter().sum::<f64>() / part.len() as f64).collect()
}

fn draw(area: &Area<'_>, tips: &mut Vec<Tip>, map: &Map) -> Drawn {
    let (width, height) = area.dim_in_pixel();
    let columns: Vec<Vec<f64>> = map.cells.iter().map(|row| together(row)).collect();
    // Rows are brought together as columns are.
    let per_row = columns.len().div_ceil(MOST_FIELDS).max(1);
    let rows: Vec<Vec<f64>> = columns
        .chunks(per_row)
        .map(|part| {
            let sum = |column: usize| part.iter().map(|row| row[column]).sum::<f64>() / part.len() as f64;
            (0..part[0].len()).map(sum).collect()
        })
        .collect();
    let count = rows.first().map_or(1, Vec::len).max(1) as i32;
    let (bottom, right) = (height as i32 - BOTTOM, width as i32 - RIGHT);
    let x = |column: i32| LEFT + (right - LEFT) * column / count;
    let y = |row: i32| 10 + (bottom - 10) * row / rows.len() as i32;
    area.draw(&Rectangle::new([(LEFT, 10), (right, bottom)], palette::GRID.stroke_width(2)))?;
    for (row, values) in (0..).zip(&rows) {
        // Equal neighbours are one field.
        let mut column = 0;
        for run in values.chunk_by(|a, b| level(*a) == level(*b)) {
            let end = column + run.len() as i32;
            if let Some(opacity) = level(run[0]) {
                let style = palette::OTHER.mix(STEPS[opacity].1).filled();
                area.draw(&Rectangle::new([(x(column), y(row)), (x(end), y(row + 1))], style))?;
            }
            column = end;
        }
        let first = row as usize * per_row;
        let most = values.iter().copied().fold(0.0, f64::max);
        let at = values.iter().position(|value| *value == most).unwrap_or(0);
        let strong = values.iter().filter(|value| **value >= 1.5).count();
        let what = map.columns.split(',').next().unwrap_or_default();
        let place = at * map.cells[0].len().div_ceil(MOST_FIELDS).max(1);
        let place = if what == "expert" { format!("expert {place}") } else { format!("part {} of {count}", at + 1) };
        tips.push(Tip {
            from: (LEFT, y(row)),
            to: (right, y(row + 1)),
            text: format!(
                "{} {}: most {most:.1} times the even share, {place}; at least 1.5 times in {strong} of {count} fields",
                map.rows, first
            ),
        });
    }
    let soft = |horizontal, vertical| plot::text_style(palette::SOFT, horizontal, vertical);
    let text = |text: &str, at: (i32, i32), style| area.draw_text(text, &style, at);
    let last = map.cells.len() - 1;
    text("0", (LEFT - 14, y(0) + 16), soft(HPos::Right, VPos::Center))?;
    text(&last.to_string(), (LEFT - 14, bottom - 16), soft(HPos::Right, VPos::Center))?;
    text(&map.rows, (LEFT - 14, (bottom + 10) / 2), soft(HPos::Right, VPos::Center))?;
    text("0", (LEFT, bottom + 12), soft(HPos::Left, VPos::Top))?;
    text(&map.last, (right, bottom + 12), soft(HPos::Right, VPos::Top))?;
    text(&map.columns, ((LEFT + right) / 2, bottom + 44), soft(HPos::Center, VPos::Top))?;
    Ok(())
}

/// How dark a field is; `None` for white.
fn level(share: f64) -> Option<usize> {
    STEPS.iter().rposition(|(from, _)| share >= *from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cptr_trace::Shape;

    #[test]
    fn experts_that_are_wanted_more_are_darker() {
        let ids = (0..400u16).map(|token| if token < 200 { 0 } else { 3 }).collect();
        let trace = Trace::of_ids(Shape { tokens: 400, layers: 1, experts: 8, k: 1 }, ids);
        assert_eq!(shares(&trace, 0, 0..400), [4.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
        let plots = figures(&trace);
        assert_eq!(plots.len(), 2);
        assert!(plots[0].contains("layer 0: most 4.0 times the even share, expert 0; at least 1.5 times in 2 of 8"));
        assert!(plots[1].contains("expert 3: most 8.0 times the even share, part 31 of 60"), "{}", plots[1]);
        assert_eq!([0.1, 0.25, 1.0, 100.0].map(level), [None, Some(0), Some(1), Some(4)]);
    }

    #[test]
    fn many_experts_and_few_tokens_still_make_a_plot() {
        let trace = Trace::of_ids(Shape { tokens: 2, layers: 1, experts: 512, k: 1 }, vec![7, 511]);
        let plots = figures(&trace);
        assert!(plots[0].contains("A field is 4 neighbours.") && plots[0].len() < 100_000);
        assert!(figures(&Trace::of_ids(Shape { tokens: 1, layers: 1, experts: 8, k: 1 }, vec![7])).is_empty());
    }
}
