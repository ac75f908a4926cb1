//! Named rows below each other over one axis: bars, or marks on a line.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::plot::{self, Area, Drawn, Key, Shape, Swatch, Tip, palette};

/// From one row to the next.
const PITCH: i32 = 62;
const TOP: i32 = 10;
const BOTTOM: i32 = 60;
/// Longest name.
const MOST_LETTERS: usize = 44;

/// Where rows lie, and values on their axis.
pub(super) struct Layout {
    left: i32,
    right: i32,
    rows: i32,
    pitch: i32,
    range: (f64, f64),
}

impl Layout {
    /// Of rows with a name to their left and a label to their right, and whether both are in bold. The axis has all
    /// `values`, and 0 for bars, or where 0 is not far from them.
    pub(super) fn new<'a>(
        rows: impl Iterator<Item = (&'a str, &'a str, bool)> + Clone,
        values: impl Iterator<Item = f64>,
        pitch: i32,
        look: Look,
    ) -> Self {
        let width = |text: &str, strong: bool| if strong { plot::bold_width(text) } else { plot::text_width(text) };
        let names = rows.clone().map(|(name, _, strong)| width(name, strong)).max().unwrap_or(0);
        let labels = rows.clone().map(|(_, label, strong)| width(label, strong)).max().unwrap_or(0);
        let (least, most) = values
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)));
        let range = match () {
            () if least > most => (0.0, f64::MIN_POSITIVE),
            () if look == Look::Marks && least > 0.5 * most => (least - 0.2 * (most - least), most),
            () => (least.min(0.0), most.max(0.0)),
        };
        // Marks at the ends stay clear of names and labels.
        let room = if look == Look::Marks && range.0 != 0.0 { 0.04 * (range.1 - range.0) } else { 0.0 };
        let (low, high) = (range.0 - room, range.1);
        Self {
            left: names + 40,
            right: plot::WIDTH as i32 - 30 - labels,
            rows: rows.count() as i32,
            pitch,
            range: (low, if low == high { low + f64::MIN_POSITIVE.max(low.abs() * 1e-6) } else { high }),
        }
    }

    pub(super) fn height(rows: usize, pitch: i32) -> u32 {
        (TOP + BOTTOM + pitch * rows as i32) as u32
    }

    pub(super) fn x(&self, value: f64) -> i32 {
        let (low, high) = self.range;
        self.left + ((value - low) / (high - low) * f64::from(self.right - self.left)).round() as i32
    }

    /// Upper edge of a row.
    pub(super) const fn top(&self, row: i32) -> i32 {
        TOP + row * self.pitch
    }

    /// The whole of a row, for a pointer.
    pub(super) fn tip(&self, row: i32, text: String) -> Tip {
        Tip { from: (0, self.top(row)), to: (plot::WIDTH as i32, self.top(row + 1)), text }
    }

    /// Grid lines and ticks at round values, and a line at 0, or at the edge.
    pub(super) fn scale(&self, area: &Area<'_>, tick: &dyn Fn(f64) -> String) -> Drawn {
        let ((low, high), bottom) = (self.range, self.top(self.rows));
        let step = round_step((high - low) / 8.0);
        let first = (low / step).ceil() as i64;
        let ticks = (first..).map(|i| i as f64 * step).take_while(|value| *value <= high * (1.0 + 1e-9)).take(16);
        let mut free = i32::MIN;
        for value in ticks {
            let (x, text) = (self.x(value), tick(value));
            area.draw(&PathElement::new([(x, TOP), (x, bottom)], palette::GRID.stroke_width(2)))?;
            let half = plot::text_width(&text) / 2;
            if x - half > free && x + half < plot::WIDTH as i32 {
                area.draw(&Text::new(
                    text,
                    (x, bottom + 12),
                    plot::text_style(palette::SOFT, HPos::Center, VPos::Top),
                ))?;
                free = x + half + 12;
            }
        }
        let edge = if low <= 0.0 { self.x(0.0) } else { self.left };
        area.draw(&PathElement::new([(edge, TOP), (edge, bottom)], palette::SOFT.stroke_width(2)))?;
        Ok(())
    }

    /// The name of a row, in bold where it is `strong`.
    pub(super) fn name(&self, area: &Area<'_>, row: i32, name: &str, strong: bool) -> Drawn {
        self.text(area, row, name, (self.left - 16, HPos::Right), strong)
    }

    pub(super) fn text(&self, area: &Area<'_>, row: i32, text: &str, at: (i32, HPos), strong: bool) -> Drawn {
        let mut style = plot::text_style(palette::INK, at.1, VPos::Center);
        if strong {
            style.font = style.font.style(FontStyle::Bold);
        }
        area.draw(&Text::new(text.to_owned(), (at.0, self.top(row) + self.pitch / 2), style))?;
        Ok(())
    }
}

/// The next 1, 2 or 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|round| *round >= step).unwrap_or(step)
}

/// A row: a value for each series, not a number where there is none.
#[derive(Debug, Default)]
pub(crate) struct Strip {
    pub(crate) name: String,
    pub(crate) values: Vec<f64>,
    /// To the right of it.
    pub(crate) label: String,
    pub(crate) strong: bool,
}

/// How values are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Bars behind each other: parts of a whole.
    Stacked,
    /// Marks on a line.
    Marks,
}

/// A plot of rows.
pub(crate) struct Strips<'a> {
    pub(crate) title: &'a str,
    pub(crate) caption: &'a str,
    /// Names of the values of a row.
    pub(crate) series: &'a [&'a str],
    pub(crate) look: Look,
    pub(crate) tick: fn(f64) -> String,
    pub(crate) rows: Vec<Strip>,
}

/// Colours of parts of a whole, in their order.
const PARTS: [RGBColor; 6] =
    [palette::GPU, palette::REFERENCE, palette::LINK, palette::BOUND, palette::NEAR_DATA, palette::OTHER];
const MARKS: [(RGBColor, Shape); 4] = [
    (palette::OTHER, Shape::Circle),
    (palette::BOUND, Shape::Triangle),
    (palette::CPTR, Shape::Diamond),
    (palette::REFERENCE, Shape::Square),
];

impl Strips<'_> {
    /// The plot; nothing without a value.
    pub(crate) fn figure(mut self) -> String {
        self.rows.retain(|row| row.values.iter().any(|value| value.is_finite()));
        if self.rows.is_empty() {
            return String::new();
        }
        for row in &mut self.rows {
            row.name = plot::short(&row.name, MOST_LETTERS);
        }
        let key = |(index, name): (usize, &&str)| match self.look {
            Look::Stacked => Key::new(Swatch::Bar, PARTS[index % PARTS.len()], *name),
            Look::Marks => Key::new(Swatch::Mark(MARKS[index % MARKS.len()].1), MARKS[index % MARKS.len()].0, *name),
        };
        let has = |index: usize| self.rows.iter().any(|row| row.values.get(index).is_some_and(|value| *value != 0.0));
        let legend: Vec<Key> =
            self.series.iter().enumerate().filter(|(index, name)| !name.is_empty() && has(*index)).map(key).collect();
        let height = Layout::height(self.rows.len(), PITCH);
        plot::figure(self.title, height, &legend, self.caption, |area, tips| self.draw(area, tips))
    }

    fn draw(&self, area: &Area<'_>, tips: &mut Vec<Tip>) -> Drawn {
        let values = self.rows.iter().flat_map(|row| match self.look {
            Look::Marks => row.values.clone(),
            Look::Stacked => vec![row.values.iter().filter(|value| value.is_finite()).sum()],
        });
        let rows = self.rows.iter().map(|row| (&*row.name, &*row.label, row.strong));
        let layout = Layout::new(rows, values, PITCH, self.look);
        layout.scale(area, &self.tick)?;
        for (index, row) in (0..).zip(&self.rows) {
            layout.name(area, index, &row.name, row.strong)?;
            let end = match self.look {
                Look::Stacked => bars(area, &layout, index, &row.values)?,
                Look::Marks => marks(area, &layout, index, &row.values)?,
            };
            layout.text(area, index, &row.label, (end + 14, HPos::Left), row.strong)?;
            let said =
                row.values.iter().zip(self.series).filter(|(value, _)| value.is_finite()).map(|(value, name)| {
                    let value = (self.tick)(*value);
                    if name.is_empty() { value } else { format!("{name} {value}") }
                });
            let label = if row.label.is_empty() { String::new() } else { format!(" ({})", row.label) };
            let said = said.collect::<Vec<_>>().join(", ");
            tips.push(layout.tip(index, format!("{}: {said}{label}", row.name)));
        }
        Ok(())
    }
}

/// Draws parts of a whole, and says where they end.
fn bars(area: &Area<'_>, layout: &Layout, row: i32, values: &[f64]) -> Result<i32, Box<dyn std::error::Error>> {
    let (top, bottom) = (layout.top(row) + 12, layout.top(row + 1) - 12);
    let mut from = 0.0;
    for (index, value) in values.iter().enumerate().filter(|(_, value)| value.is_finite() && **value > 0.0) {
        // A thin gap tells neighbours apart.
        let (left, right) = (layout.x(from), layout.x(from + value));
        let right = if right - left > 6 { right - 3 } else { right.max(left + 1) };
        plot::bar(area, (left, top), (right, bottom), PARTS[index % PARTS.len()])?;
        from += value;
    }
    Ok(layout.x(from))
}

/// Draws marks on a line, and says where it ends.
fn marks(area: &Area<'_>, layout: &Layout, row: i32, values: &[f64]) -> Result<i32, Box<dyn std::error::Error>> {
    let middle = (layout.top(row) + layout.top(row + 1)) / 2;
    let xs = || values.iter().filter(|value| value.is_finite()).map(|value| layout.x(*value));
    if let (Some(left), Some(right)) = (xs().min(), xs().max()) {
        area.draw(&PathElement::new([(left, middle), (right, middle)], palette::SOFT.stroke_width(3)))?;
    }
    for (index, value) in values.iter().enumerate().filter(|(_, value)| value.is_finite()) {
        let (color, shape) = MARKS[index % MARKS.len()];
        shape.draw(area, (layout.x(*value), middle), 12, color)?;
    }
    Ok(xs().max().unwrap_or(layout.left) + 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (step, round) in
            [(0.9, 1.0), (1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (6.0, 10.0), (0.03, 0.05), (1234.0, 2000.0)]
        {
            assert!((round_step(step) / round - 1.0).abs() < 1e-9, "{step}");
        }
    }

    #[test]
    fn every_value_is_drawn_and_said() {
        let strip = |name: &str, values: &[f64]| Strip { name: name.into(), values: values.into(), ..Strip::default() };
        let strips = |look, rows| Strips {
            title: "Worth",
            caption: "What it is.",
            series: &["alone", "last"],
            look,
            tick: |value| format!("{value:.1}"),
            rows,
        };
        let rows = || vec![strip("a", &[1.0, -2.0]), strip("<b>", &[f64::NAN, 0.5]), strip("c", &[f64::NAN])];
        let plot = strips(Look::Marks, rows()).figure();
        assert!(plot.contains("a: alone 1.0, last -2.0") && plot.contains("&lt;b&gt;: last 0.5"), "{plot}");
        assert!(!plot.contains("c: ") && !plot.contains("NaN"));
        assert_eq!((plot.matches("<circle").count(), plot.matches("<polygon").count()), (2, 3), "with the legend");
        let plot = strips(Look::Stacked, vec![strip("a", &[1.0, 2.0])]).figure();
        assert_eq!(plot.matches("<rect").count(), 5, "two bars, two in the legend, one tip");
        assert_eq!(strips(Look::Stacked, vec![strip("c", &[f64::NAN])]).figure(), "");
        // All zero, and infinite.
        strips(Look::Stacked, vec![strip("c", &[0.0, 0.0])]).figure();
        strips(Look::Marks, vec![strip("c", &[0.0, f64::INFINITY])]).figure();
    }
}
