//! What all plots share: canvas, colours by role, axes, figures with legend and caption.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::columns::{clean, escape};

/// A plot under way.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// A chart with numbers on both axes.
pub(crate) type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
/// Result of drawing; a failure becomes a sentence in the page.
pub(crate) type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Width of a plot in its own units. About two units to the pixel: the backend rounds coordinates to whole units.
pub(crate) const WIDTH: u32 = 1800;
/// Size of text in the same units.
pub(crate) const TEXT: u32 = 32;

/// Colours by role, after the colour-blind-safe palette of Okabe and Ito (2008). The page's style sheet finds roles by
/// these exact values, so that each is used for one role only.
pub(crate) mod palette {
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
    pub(in super::super) const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);
}

/// A mark: series are told apart by it as well as by colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Circle,
    Square,
    Diamond,
    Triangle,
    Ring,
}

impl Shape {
    /// Corners around the origin, of those that have any.
    fn corners(self, size: i32) -> Vec<(i32, i32)> {
        match self {
            Self::Circle | Self::Ring => Vec::new(),
            Self::Square => vec![(-size, -size), (size, -size), (size, size), (-size, size)],
            Self::Diamond => vec![(0, -size), (size, 0), (0, size), (-size, 0)],
            Self::Triangle => vec![(0, -size), (size, size), (-size, size)],
        }
    }

    pub(crate) fn draw(self, area: &Area<'_>, (x, y): (i32, i32), size: i32, color: RGBColor) -> Drawn {
        let around = |(dx, dy): (i32, i32)| (x + dx, y + dy);
        match self {
            Self::Ring => area.draw(&Circle::new((x, y), size, color.stroke_width(4)))?,
            Self::Circle => area.draw(&Circle::new((x, y), size, color.filled()))?,
            _ => {
                let corners: Vec<(i32, i32)> = self.corners(size).into_iter().map(around).collect();
                area.draw(&Polygon::new(corners, color.filled()))?;
            }
        }
        Ok(())
    }

    fn svg(self, (x, y): (i32, i32), size: i32, color: &str) -> String {
        match self {
            Self::Circle => format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"{size}\" fill=\"{color}\" />"),
            Self::Ring => format!(
                "<circle cx=\"{x}\" cy=\"{y}\" r=\"{size}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"4\" />"
            ),
            _ => {
                let corners = self.corners(size);
                let points: Vec<String> = corners.iter().map(|(dx, dy)| format!("{},{}", x + dx, y + dy)).collect();
                format!("<polygon points=\"{}\" fill=\"{color}\" />", points.join(" "))
            }
        }
    }
}

/// How a series looks in the legend.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Swatch {
    Line,
    /// A line with marks on it.
    Marked(Shape),
    Bar,
    /// A field of a map at this opacity.
    Shade(f64),
    Mark(Shape),
    Tick,
}

/// One entry of a legend.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) swatch: Swatch,
    pub(crate) color: RGBColor,
    pub(crate) text: String,
}

impl Key {
    pub(crate) fn new(swatch: Swatch, color: RGBColor, text: impl Into<String>) -> Self {
        Self { swatch, color, text: text.into() }
    }

    fn html(&self) -> String {
        let color = hex(self.color);
        let line = || format!("<line x1=\"0\" y1=\"12\" x2=\"56\" y2=\"12\" stroke=\"{color}\" stroke-width=\"6\" />");
        let shape = match self.swatch {
            Swatch::Line => line(),
            Swatch::Marked(shape) => line() + &shape.svg((28, 12), 9, &color),
            Swatch::Bar => {
                let stripes = stripes(self.color, (0, 4), (56, 20)).into_iter().map(|[from, to]| {
                    let ((x1, y1), (x2, y2)) = (from, to);
                    format!(
                        "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" stroke=\"#FFFFFF\" stroke-width=\"3\" />"
                    )
                });
                let bar = format!("<rect x=\"0\" y=\"4\" width=\"56\" height=\"16\" fill=\"{color}\" />");
                bar + &stripes.collect::<String>()
            }
            Swatch::Shade(opacity) => format!(
                "<rect x=\"1\" y=\"1\" width=\"54\" height=\"22\" fill=\"{color}\" fill-opacity=\"{opacity}\" />\
                 <rect x=\"1\" y=\"1\" width=\"54\" height=\"22\" fill=\"none\" stroke=\"#DDDDDC\" />"
            ),
            Swatch::Tick => {
                format!("<line x1=\"28\" y1=\"0\" x2=\"28\" y2=\"24\" stroke=\"{color}\" stroke-width=\"4\" />")
            }
            Swatch::Mark(shape) => shape.svg((28, 12), 10, &color),
        };
        let text = escape(&self.text);
        format!(
            "<li><svg viewBox=\"0 0 56 24\" xmlns=\"http://www.w3.org/2000/svg\" aria-hidden=\"true\">{shape}</svg>{text}</li>\n"
        )
    }
}

fn hex(RGBColor(r, g, b): RGBColor) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

/// What tells bars apart without colour: upright lines in those of the link, lines along those of the device and in
/// grey.
fn stripes(color: RGBColor, (left, top): (i32, i32), (right, bottom): (i32, i32)) -> Vec<[(i32, i32); 2]> {
    match color {
        palette::LINK => {
            (1..).map(|i| left + 14 * i).take_while(|x| *x < right).map(|x| [(x, top), (x, bottom)]).collect()
        }
        palette::NEAR_DATA if right > left => vec![[(left, (top + bottom) / 2), (right, (top + bottom) / 2)]],
        palette::REFERENCE if right > left => {
            let third = (bottom - top) / 3;
            [top + third, bottom - third].map(|y| [(left, y), (right, y)]).into()
        }
        _ => Vec::new(),
    }
}

/// A bar with the texture of its colour.
pub(crate) fn bar(area: &Area<'_>, from: (i32, i32), to: (i32, i32), color: RGBColor) -> Drawn {
    area.draw(&Rectangle::new([from, to], color.filled()))?;
    for stripe in stripes(color, from, to) {
        area.draw(&PathElement::new(stripe, palette::PAPER.stroke_width(3)))?;
    }
    Ok(())
}

/// What a pointer is told over a part of a plot, and a reader in the list of its values.
#[derive(Debug)]
pub(crate) struct Tip {
    pub(crate) from: (i32, i32),
    pub(crate) to: (i32, i32),
    pub(crate) text: String,
}

impl Tip {
    /// Over a mark.
    pub(crate) fn at((x, y): (i32, i32), text: impl Into<String>) -> Self {
        Self { from: (x - 22, y - 22), to: (x + 22, y + 22), text: text.into() }
    }

    fn svg(&self) -> String {
        let ((left, top), (right, bottom), text) = (self.from, self.to, escape(&self.text));
        let (width, height) = ((right - left).max(1), (bottom - top).max(1));
        format!(
            "<rect class=\"tip\" x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\"><title>{text}</title></rect>\n"
        )
    }
}

/// More values than this are not listed below a plot.
const MOST_VALUES: usize = 150;

/// A titled plot of [`WIDTH`] by `height` with legend and caption, which are plain text; `draw` adds what a pointer is
/// told.
pub(crate) fn figure(
    title: &str,
    height: u32,
    legend: &[Key],
    caption: &str,
    draw: impl FnOnce(&Area<'_>, &mut Vec<Tip>) -> Drawn,
) -> String {
    let (mut svg, mut tips) = (String::new(), Vec::new());
    let drawn = {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        draw(&area, &mut tips).and_then(|()| area.present().map_err(Into::into))
    };
    let keys: String = legend.iter().map(Key::html).collect();
    let legend = if keys.is_empty() { keys } else { format!("<ul class=\"legend\">\n{keys}</ul>\n") };
    let (title, caption) = (escape(title), escape(caption));
    let plot = match (drawn, svg.split_once('>')) {
        (Ok(()), Some((head, body))) => {
            let body = body.trim_end().strip_suffix("</svg>").unwrap_or(body);
            let tips: String = tips.iter().map(Tip::svg).collect();
            format!("{head} role=\"img\"><title>{title}</title><desc>{caption}</desc>{body}{tips}</svg>\n")
        }
        (Err(error), _) => format!("<p>This plot could not be drawn: {}.</p>\n", escape(&error.to_string())),
        (Ok(()), None) => String::new(),
    };
    format!(
        "<figure>\n<h3>{title}</h3>\n{legend}<div class=\"wide\" role=\"region\" aria-label=\"{title}\" \
         tabindex=\"0\">\n{plot}</div>\n<figcaption>{caption}</figcaption>\n{}</figure>\n",
        values(&tips)
    )
}

/// What the plot shows, as a list: for who cannot see it, or wants the numbers.
fn values(tips: &[Tip]) -> String {
    if tips.is_empty() || tips.len() > MOST_VALUES {
        return String::new();
    }
    let items: String = tips.iter().map(|tip| format!("<li>{}</li>\n", escape(&tip.text))).collect();
    format!("<details class=\"values\"><summary>Values</summary>\n<ul>\n{items}</ul>\n</details>\n")
}

/// For every value on the x axis a tip over the whole height: its place, and what each curve has there.
pub(crate) fn tips_of_curves(
    chart: &Chart<'_, '_>,
    curves: &[(&str, &[(f64, f64)])],
    say: impl Fn(f64) -> String,
    tick: fn(f64) -> String,
) -> Vec<Tip> {
    let mut xs: Vec<f64> = curves.iter().flat_map(|(_, points)| points.iter().map(|point| point.0)).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let (_, ys) = chart.plotting_area().get_pixel_range();
    let at = |x: f64| chart.backend_coord(&(x, 0.0)).0;
    let middle = |a: f64, b: f64| (at(a) + at(b)) / 2;
    let tip = |index: usize| {
        let x = xs[index];
        let here = curves.iter().filter_map(|(name, points)| {
            let point = points.iter().find(|point| point.0 == x)?;
            let value = tick(point.1);
            Some(if name.is_empty() { value } else { format!("{name} {value}") })
        });
        let left = if index == 0 { at(x) - 20 } else { middle(xs[index - 1], x) };
        let right = xs.get(index + 1).map_or(at(x) + 20, |next| middle(x, *next));
        let text = format!("{}: {}", say(x), here.collect::<Vec<_>>().join(", "));
        Tip { from: (left, ys.start), to: (right, ys.end), text }
    };
    (0..xs.len()).map(tip).collect()
}

/// A place of the whole plot, as charts name them, in a part of it, as shapes are drawn.
pub(crate) fn within(area: &Area<'_>, (x, y): (i32, i32)) -> (i32, i32) {
    let (xs, ys) = area.get_pixel_range();
    (x - xs.start, y - ys.start)
}

/// Text in a plot.
pub(crate) fn text_style(color: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    ("sans-serif", TEXT).into_font().color(&color).pos(Pos::new(horizontal, vertical))
}

/// Text for a plot: without characters that XML lacks, on one line, cut to `most` characters.
pub(crate) fn short(text: &str, most: usize) -> String {
    let line = clean(text).replace(['\n', '\r', '\t'], " ");
    match line.char_indices().nth(most) {
        None => line,
        Some(_) => line.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A little more than the width of a text at [`TEXT`] in common sans-serif faces, in plot units.
pub(crate) fn text_width(text: &str) -> i32 {
    (text.chars().count() as f64 * f64::from(TEXT) / 1.24 * 0.6).ceil() as i32
}

/// The same of a text in bold.
pub(crate) fn bold_width(text: &str) -> i32 {
    text_width(text) * 7 / 6
}

/// A tick of a percentage, as many decimals as it has and at most three.
pub(crate) fn percent_tick(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{}%", if text == "-0" { "0" } else { text })
}

/// A range with room on both sides, never empty, not below `floor`.
pub(crate) fn padded(values: impl Iterator<Item = f64>, share: f64, floor: f64) -> std::ops::Range<f64> {
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
pub(crate) struct Axis<'a> {
    pub(crate) range: std::ops::Range<f64>,
    pub(crate) name: &'a str,
    /// A tick in words.
    pub(crate) tick: fn(f64) -> String,
}

/// Axes with names and horizontal grid lines.
pub(crate) fn axes<'a, 'b>(
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
