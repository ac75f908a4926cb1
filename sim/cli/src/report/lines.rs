//! Curves over one axis: the panel that many plots are made of.

use plotters::prelude::*;

use super::plot::{self, Area, Axis, Chart, Key, Shape, Swatch, Tip, palette};
use super::roles::Role;

/// Curves of more points are drawn without marks.
const MOST_MARKS: usize = 64;

/// A curve; its points go from left to right.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) color: RGBColor,
    pub(crate) shape: Shape,
    width: u32,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Colours and marks of curves that stand for no strategy.
const LOOKS: [(RGBColor, Shape); 4] = [
    (palette::CPTR, Shape::Diamond),
    (palette::OTHER, Shape::Circle),
    (palette::REFERENCE, Shape::Square),
    (palette::BOUND, Shape::Triangle),
];

impl Curve {
    /// Of a row.
    pub(super) fn of_role(role: Role, name: &str, points: Vec<(f64, f64)>) -> Self {
        let width = if role == Role::Bounded { 6 } else { 4 };
        Self { name: name.into(), color: role.color(), shape: role.shape(), width, points }
    }

    /// One of several that stand for no strategy; at most four are told apart.
    pub(crate) fn at(index: usize, name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        let (color, shape) = LOOKS[index % LOOKS.len()];
        Self { name: name.into(), color, shape, width: 4, points }
    }

    fn has_marks(&self) -> bool {
        self.points.len() <= MOST_MARKS
    }

    pub(crate) fn key(&self) -> Key {
        let swatch = if self.has_marks() { Swatch::Marked(self.shape) } else { Swatch::Line };
        Key::new(swatch, self.color, &self.name)
    }
}

/// Curves with their axes; an axis without a range fits the curves, upwards from zero.
pub(crate) struct Panel<'a> {
    pub(crate) x: (&'a str, fn(f64) -> String),
    pub(crate) y: (&'a str, fn(f64) -> String),
    /// Where the axis of x begins and ends.
    pub(crate) ends: Option<std::ops::Range<f64>>,
    /// Least value of y that there can be: 0 of shares.
    pub(crate) floor: f64,
    /// Room above the curves, as a share of their height.
    pub(crate) room: f64,
    pub(crate) curves: Vec<Curve>,
}

impl Panel<'_> {
    /// Draws it and adds a tip for each x.
    pub(crate) fn draw<'a, 'b>(
        &self,
        area: &'a Area<'b>,
        tips: &mut Vec<Tip>,
    ) -> Result<Chart<'a, 'b>, Box<dyn std::error::Error>> {
        let all = || self.curves.iter().flat_map(|curve| &curve.points);
        let x = plot::padded(all().map(|point| point.0), 0.02, f64::NEG_INFINITY);
        let y = plot::padded(all().map(|point| point.1).chain([0.0]), self.room, self.floor);
        let mut chart = plot::axes(
            area,
            Axis { range: self.ends.clone().unwrap_or(x), name: self.x.0, tick: self.x.1 },
            Axis { range: y, name: self.y.0, tick: self.y.1 },
        )?;
        for curve in &self.curves {
            let line = LineSeries::new(curve.points.iter().copied(), curve.color.stroke_width(curve.width));
            chart.draw_series(line)?;
            if curve.has_marks() {
                let centres: Vec<(i32, i32)> = curve.points.iter().map(|point| chart.backend_coord(point)).collect();
                let draw = |centre| curve.shape.draw(area, plot::within(area, centre), 9, curve.color);
                centres.into_iter().try_for_each(draw)?;
            }
        }
        let named: Vec<(&str, &[(f64, f64)])> =
            self.curves.iter().map(|curve| (curve.name.as_str(), &*curve.points)).collect();
        tips.extend(plot::tips_of_curves(&chart, &named, |x| format!("{} {}", self.x.0, (self.x.1)(x)), self.y.1));
        Ok(chart)
    }
}

/// Ticks of whole numbers: none between two.
pub(crate) fn whole(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { String::new() }
}
