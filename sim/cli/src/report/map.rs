//! Which way to run a model is the fastest, over GPU memory and the bandwidth of a near-data device.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::plot::{self, Area, Drawn, Key, Swatch, Tip, palette};
use cptr_sim::plan::map::Cell;
use cptr_sim::plan::{Place, Way};

const HEIGHT: u32 = 900;
/// Room for the names of rows and columns.
const LEFT: i32 = 190;
const BOTTOM: i32 = 110;

fn color(way: Option<&Way>) -> RGBColor {
    match way.map(|way| way.place) {
        None => palette::TRACK,
        Some(Place::Gpu) => palette::GPU,
        Some(Place::Copied | Place::Layers) => palette::LINK,
        Some(Place::NearData) => palette::NEAR_DATA,
    }
}

/// What tells ways apart without colour.
fn letter(way: Option<&Way>) -> &'static str {
    match way.map(|way| way.place) {
        None => "",
        Some(Place::Gpu) => "G",
        Some(Place::Copied | Place::Layers) => "C",
        Some(Place::NearData) => "N",
    }
}

fn legend() -> Vec<Key> {
    let key = |color, text: &str| Key::new(Swatch::Bar, color, text);
    vec![
        key(palette::GPU, "G: all experts in GPU memory"),
        key(palette::LINK, "C: experts copied when they are wanted"),
        key(palette::NEAR_DATA, "N: cold experts run in the device"),
        key(palette::TRACK, "nothing fits"),
    ]
}

/// The maps as figures of the report, one for each number of bits.
pub(crate) fn figures(cells: &[Cell]) -> Vec<String> {
    let caption = "Each field names the tokens per second of the fastest way that fits, and below those with all \
                   experts at 4 bits in GPU memory, where they fit.";
    let map = |cells: &[Cell]| {
        let title = format!("The fastest way with experts of {} bits", cells[0].bits);
        plot::figure(&title, HEIGHT, &legend(), caption, |area, tips| draw(cells, area, tips))
    };
    cells.chunk_by(|a, b| a.bits == b.bits).map(map).collect()
}

/// The maps as the text of an SVG file, one above the other.
///
/// # Errors
/// What the drawing library says.
pub(crate) fn svg(cells: &[Cell]) -> Result<String, String> {
    let maps: Vec<&[Cell]> = cells.chunk_by(|a, b| a.bits == b.bits).collect();
    let mut svg = String::new();
    {
        let size = (plot::WIDTH, HEIGHT * maps.len().max(1) as u32);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let drawn = area.fill(&WHITE).map_err(Into::into).and_then(|()| {
            let parts = area.split_evenly((maps.len().max(1), 1));
            parts.iter().zip(&maps).try_for_each(|(part, cells)| draw(cells, part, &mut Vec::new()))
        });
        drawn.and_then(|()| area.present().map_err(Into::into)).map_err(|error| error.to_string())?;
    }
    Ok(svg)
}

fn draw(cells: &[Cell], area: &Area<'_>, tips: &mut Vec<Tip>) -> Drawn {
    let (width, height) = area.dim_in_pixel();
    let text = |text: &str, at: (i32, i32), style: TextStyle<'static>| area.draw_text(text, &style, at);
    let sorted = |of: fn(&Cell) -> f64| {
        let mut values: Vec<f64> = cells.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        values
    };
    let (columns, rows) = (sorted(|cell| cell.gpu_gb), sorted(|cell| cell.device_gb_s));
    let wide = (width as i32 - LEFT - 20) / columns.len().max(1) as i32;
    let high = (height as i32 - BOTTOM - 20) / rows.len().max(1) as i32;
    let place = |values: &[f64], value: f64| values.iter().position(|&other| other == value).unwrap_or(0) as i32;
    for cell in cells {
        let left = LEFT + place(&columns, cell.gpu_gb) * wide;
        // The widest device is on top.
        let top = 20 + (rows.len() as i32 - 1 - place(&rows, cell.device_gb_s)) * high;
        let best = cell.best.as_ref();
        let style = ShapeStyle::from(&color(best).mix(0.55)).filled();
        area.draw(&Rectangle::new([(left + 2, top + 2), (left + wide - 2, top + high - 2)], style))?;
        let (x, y) = (left + wide / 2, top + high / 2);
        let center = |vertical| plot::text_style(palette::INK, HPos::Center, vertical);
        let rate = best.map_or_else(|| "–".into(), |way| rate(way.tokens_per_s));
        let how = best.map_or("nothing fits", |way| way.place.name());
        let said = format!("{} GB, {:.0} GB/s: {how}, {rate} tokens/s", cell.gpu_gb, cell.device_gb_s);
        tips.push(Tip { from: (left, top), to: (left + wide, top + high), text: said });
        let corner = plot::text_style(palette::SOFT, HPos::Left, VPos::Top);
        text(letter(best), (left + 12, top + 8), corner)?;
        text(&rate, (x, y - 2), center(VPos::Bottom))?;
        if let Some(all) = cell.all_at_4_bits_tokens_per_s {
            text(&format!("all: {}", self::rate(all)), (x, y + 4), center(VPos::Top))?;
        }
    }
    let soft = |horizontal, vertical| plot::text_style(palette::SOFT, horizontal, vertical);
    for (at, gb) in (0..).zip(&columns) {
        let x = LEFT + at * wide + wide / 2;
        text(&format!("{gb} GB"), (x, height as i32 - BOTTOM + 14), soft(HPos::Center, VPos::Top))?;
    }
    for (at, gb_s) in (0..).zip(rows.iter().rev()) {
        let y = 20 + at * high + high / 2;
        text(&format!("{gb_s:.0} GB/s"), (LEFT - 14, y), soft(HPos::Right, VPos::Center))?;
    }
    let middle = LEFT + wide * columns.len() as i32 / 2;
    let bits = cells.first().map_or(0.0, |cell| cell.bits);
    let axes = format!("memory of the GPU; upwards: bandwidth of the device; experts of {bits} bits");
    text(&axes, (middle, height as i32 - 52), soft(HPos::Center, VPos::Top))?;
    Ok(())
}

/// Three digits.
fn rate(tokens_per_s: f64) -> String {
    let decimals = if tokens_per_s < 9.995 { 2 } else { usize::from(tokens_per_s < 99.95) };
    format!("{tokens_per_s:.decimals$}")
}
