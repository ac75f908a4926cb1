//! What all plots share: canvas, colours by role, axes, figures with legend and caption.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::columns::{clean, escape};

/// A plot under way.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// A chart with numbers on both axes.
pub(super) type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
/// Result of drawing; a failure becomes a sentence in the page.
pub(super) type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Width of a plot in its own units. About two units to the pixel: the backend rounds coordinates to whole units.
pub(super) const WIDTH: u32 = 1800;
/// Size of text in the same units.
pub(super) const TEXT: u32 = 32;

/// Colours by role, after the colour-blind-safe palette of Okabe and Ito (2008). The page's style sheet finds roles by
/// these exact values, so that each is used for one role only.
pub(super) mod palette {
    use plotters::style::RGBColor;

    pub(in super::super) const INK: RGBColor = RGBColor(0x22, 0x22, 0x21);
    pub(in super::super) const SOFT: RGBColor = RGBColor(0x55, 0x55, 0x54);
    pub(in super::super) const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdc);
    pub(in super::super) const TRACK: RGBColor = RGBColor(0xd5, 0xd9, 0xde);
    pub(in super::super) const REFERENCE: RGBColor = RGBColor(0x6b, 0x6b, 0x6a);
    pub(in super::super) const CPTR: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
    pub(in super::super) const OTHER: RGBColor = RGBColor(0x00, 0x72, 0xb2);
    pub(in super::super) const BOUND: RGBColor = RGBColor(0x8a, 0x5f, 0xa8);
    pub(in super::super) const GPU: RGBColor = RGBColor(0x56, 0xb4, 0xe9);
    pub(in super::super) const LINK: RGBColor = RGBColor(0xe6, 0x9f, 0x00);
    pub(in super::super) const NEAR_DATA: RGBColor = RGBColor(0x00, 0x9e, 0x73);
    pub(in super::super) const EVENT: RGBColor = RGBColor(0x99, 0x99, 0x98);
}

/// How a series looks in the legend.
#[derive(Debug, Clone, Copy)]
pub(super) enum Swatch {
    Line,
    Bar,
    Mark,
    Tick,
}

/// One entry of a legend.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) swatch: Swatch,
    pub(super) color: RGBColor,
    pub(super) text: String,
}

impl Key {
    fn html(&self) -> String {
        let RGBColor(r, g, b) = self.color;
        let color = format!("#{r:02X}{g:02X}{b:02X}");
        let shape = match self.swatch {
            Swatch::Line => {
                format!("<line x1=\"0\" y1=\"12\" x2=\"56\" y2=\"12\" stroke=\"{color}\" stroke-width=\"6\" />")
            }
            Swatch::Bar => format!("<rect x=\"0\" y=\"4\" width=\"56\" height=\"16\" fill=\"{color}\" />"),
            Swatch::Tick => {
                format!("<line x1=\"28\" y1=\"0\" x2=\"28\" y2=\"24\" stroke=\"{color}\" stroke-width=\"4\" />")
            }
            Swatch::Mark => format!("<circle cx=\"28\" cy=\"12\" r=\"10\" fill=\"{color}\" />"),
        };
        let text = escape(&self.text);
        format!(
            "<li><svg viewBox=\"0 0 56 24\" xmlns=\"http://www.w3.org/2000/svg\" aria-hidden=\"true\">{shape}</svg>{text}</li>\n"
        )
    }
}

/// A titled plot of [`WIDTH`] by `height` with legend and caption; title, legend and caption are plain text.
pub(super) fn figure(
    title: &str,
    height: u32,
    legend: &[Key],
    caption: &str,
    draw: impl FnOnce(&Area<'_>) -> Drawn,
) -> String {
    let mut svg = String::new();
    let drawn = {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        draw(&area).and_then(|()| area.present().map_err(Into::into))
    };
    if let Err(error) = drawn {
        svg = format!("<p>This plot could not be drawn: {}.</p>\n", escape(&error.to_string()));
    }
    let keys: String = legend.iter().map(Key::html).collect();
    let legend = if keys.is_empty() { keys } else { format!("<ul class=\"legend\">\n{keys}</ul>\n") };
    let (title, caption) = (escape(title), escape(caption));
    format!(
        "<figure>\n<h3>{title}</h3>\n{legend}<div class=\"wide\" role=\"img\" aria-label=\"{title}\">\n{svg}</div>\n\
         <figcaption>{caption}</figcaption>\n</figure>\n"
    )
}

/// Text in a plot.
pub(super) fn text_style(color: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    ("sans-serif", TEXT).into_font().color(&color).pos(Pos::new(horizontal, vertical))
}

/// Text for a plot: without characters that XML lacks, on one line, cut to `most` characters.
pub(super) fn short(text: &str, most: usize) -> String {
    let line = clean(text).replace(['\n', '\r', '\t'], " ");
    match line.char_indices().nth(most) {
        None => line,
        Some(_) => line.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A little more than the width of a text at [`TEXT`] in common sans-serif faces, in plot units.
pub(super) fn text_width(text: &str) -> i32 {
    (text.chars().count() as f64 * f64::from(TEXT) / 1.24 * 0.58).ceil() as i32
}

/// A tick of a percentage, as many decimals as it has and at most three.
pub(super) fn percent_tick(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{}%", if text == "-0" { "0" } else { text })
}

/// A range with room on both sides, never empty, not below `floor`.
pub(super) fn padded(values: impl Iterator<Item = f64>, share: f64, floor: f64) -> std::ops::Range<f64> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return floor..floor + 1.0;
    }
    let room = if high > low { (high - low) * share } else { (high.abs() * share).max(0.5) };
    let low = (low - room).max(floor);
    low..(high + room).max(low + 1e-9)
}

/// An axis of numbers.
pub(super) struct Axis<'a> {
    pub(super) range: std::ops::Range<f64>,
    pub(super) name: &'a str,
    /// A tick in words.
    pub(super) tick: fn(f64) -> String,
}

/// Axes with names and horizontal grid lines.
pub(super) fn axes<'a, 'b>(
    area: &'a Area<'b>,
    x: Axis<'_>,
    y: Axis<'_>,
) -> Result<Chart<'a, 'b>, Box<dyn std::error::Error>> {
    let mut chart = ChartBuilder::on(area)
        .margin_top(20)
        .margin_right(40)
        .margin_left(10)
        .x_label_area_size(96)
        .y_label_area_size(150)
        .build_cartesian_2d(x.range, y.range)?;
    let label = ("sans-serif", TEXT).into_font().color(&palette::SOFT);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(8)
        .y_labels(6)
        .bold_line_style(palette::GRID.stroke_width(2))
        .light_line_style(TRANSPARENT)
        .axis_style(palette::SOFT.stroke_width(2))
        .label_style(label.clone())
        .axis_desc_style(label)
        .x_desc(x.name)
        .y_desc(y.name)
        .x_label_formatter(&|value| (x.tick)(*value))
        .y_label_formatter(&|value| (y.tick)(*value))
        .draw()?;
    Ok(chart)
}
