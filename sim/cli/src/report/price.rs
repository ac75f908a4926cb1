//! Price against gain: what a policy gives up in routing mass, and what it gets in misses.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

use super::Run;
use super::plot::{self, Area, Axis, Drawn, Key, Swatch, Tip, palette};
use super::roles::{Role, name, number};
use crate::columns::format;

const HEIGHT: u32 = 1000;

/// What is gained.
#[derive(Clone, Copy)]
struct Gain {
    title: &'static str,
    /// Key in the rows, name of the axis, and one of its ticks.
    key: &'static str,
    name: &'static str,
    tick: fn(f64) -> String,
    /// From the row to the axis.
    factor: f64,
}

const FEWER_MISSES: Gain =
    Gain { title: "Price against gain", key: "miss_rate", name: MISSES, tick: plot::percent_tick, factor: 100.0 };
const SHORTER_TOKENS: Gain = Gain {
    title: "Price against time",
    key: "token_time_us",
    name: "mean time of a token",
    tick: format::microseconds,
    factor: 1.0,
};

/// Misses over what they cost, or nothing where no row gives up any mass.
pub(super) fn misses(run: &Run<'_>) -> String {
    figure(run, FEWER_MISSES, bound(run))
}

/// The time of a token over what it costs, or nothing where no row gives up any mass or has a time.
pub(super) fn time(run: &Run<'_>) -> String {
    figure(run, SHORTER_TOKENS, None)
}

fn figure(run: &Run<'_>, of: Gain, bound: Option<f64>) -> String {
    let marks = marks(run, of);
    if marks.is_empty() || !run.rows.iter().any(|row| number(row, "mass_loss") > 0.0) {
        return String::new();
    }
    let mut legend = legend(&marks, "reference: the model's own choice", bound.is_some());
    let mut caption =
        "Down is gain, right is price. A mark with another one both below and to its left is never worth choosing. \
        At 0% the model loses nothing."
            .to_owned();
    if bound.is_some() {
        legend.push(Key::new(Swatch::Line, palette::BOUND, "Belady bound of the model's own choice"));
        caption.push_str(
            " No placement can get below the dashed line as long as the model's own choice runs; what lies below it was bought with \
             mass loss.",
        );
    }
    let scatter = Scatter {
        marks,
        curves: Vec::new(),
        bound,
        price: "mass loss: wanted routing mass given up",
        gain: of.name,
        tick: plot::percent_tick,
        gain_tick: of.tick,
    };
    plot::figure(of.title, HEIGHT, &legend, &caption, |area, tips| scatter.draw(area, tips))
}

/// What the marks are, of the roles that there are; oracles of the model's own choice may be a line.
pub(super) fn legend(marks: &[Mark], reference: &str, bound: bool) -> Vec<Key> {
    let roles = [
        (Role::Bounded, "selection under a bound"),
        (Role::Reference, reference),
        (Role::Other, "other strategies"),
        (Role::Future, "sees the future"),
    ];
    let drawn = |mark: &Mark| mark.role != Role::Future || mark.x != 0.0 || !bound;
    let there = roles.into_iter().filter(|(role, _)| marks.iter().any(|mark| mark.role == *role && drawn(mark)));
    there.map(|(role, text)| Key::new(Swatch::Mark(role.shape()), role.color(), text)).collect()
}

/// Misses as a gain.
pub(super) const MISSES: &str = "miss rate: experts run from slow memory";

/// A gain over a price.
pub(super) struct Scatter<'a> {
    /// The most important first: they get the best places for their labels.
    pub(super) marks: Vec<Mark>,
    /// Lines through the settings of one policy.
    pub(super) curves: Vec<(Role, Vec<(f64, f64)>)>,
    /// The gain of an oracle that runs the model's own choice.
    pub(super) bound: Option<f64>,
    /// Name of the price.
    pub(super) price: &'a str,
    /// Name of the gain.
    pub(super) gain: &'a str,
    /// One of the price's ticks in words, and of the gain's.
    pub(super) tick: fn(f64) -> String,
    pub(super) gain_tick: fn(f64) -> String,
}

/// A row as a point; without a name it has no label.
pub(super) struct Mark {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) role: Role,
    pub(super) name: String,
    /// What a pointer is told.
    pub(super) said: String,
}

fn marks(run: &Run<'_>, of: Gain) -> Vec<Mark> {
    let mark = |(index, row): (usize, &Value)| {
        let (x, y) = (number(row, "mass_loss") * 100.0, number(row, of.key) * of.factor);
        let said = format!("{}: {}, mass loss {}", name(row), (of.tick)(round(y)), format::percent(x / 100.0));
        Mark { x, y, role: Role::of(index, row), name: plot::short(name(row), 40), said }
    };
    let marks = run.rows.iter().enumerate().map(mark);
    by_importance(marks.filter(|mark| mark.x.is_finite() && mark.y.is_finite()).collect())
}

/// To four digits, as ticks write what they are given.
fn round(value: f64) -> f64 {
    if value == 0.0 {
        return value;
    };
    let unit = 10f64.powf(value.abs().log10().floor() - 3.0);
    (value / unit).round() * unit
}

pub(super) fn by_importance(mut marks: Vec<Mark>) -> Vec<Mark> {
    marks.sort_by_key(|mark| match mark.role {
        Role::Bounded => 0,
        Role::Reference => 1,
        Role::Other => 2,
        Role::Future => 3,
    });
    marks
}

/// Fewest misses of an oracle that runs the model's own choice, in percent.
fn bound(run: &Run<'_>) -> Option<f64> {
    let raw = run.rows.iter().filter(|row| row["bound"] == true && number(row, "agreement") == 1.0);
    raw.map(|row| number(row, "miss_rate") * 100.0).min_by(f64::total_cmp)
}

impl Scatter<'_> {
    pub(super) fn draw(&self, area: &Area<'_>, tips: &mut Vec<Tip>) -> Drawn {
        let Self { marks, bound, .. } = self;
        let x = plot::padded(marks.iter().map(|mark| mark.x), 0.06, f64::NEG_INFINITY);
        let y = plot::padded(marks.iter().map(|mark| mark.y).chain(*bound), 0.1, 0.0);
        let mut chart = plot::axes(
            area,
            Axis { range: x.clone(), name: self.price, tick: self.tick },
            Axis { range: y, name: self.gain, tick: self.gain_tick },
        )?;
        if let Some(bound) = *bound {
            let line = [(x.start, bound), (x.end, bound)];
            chart.draw_series(LineSeries::new(line, palette::BOUND.stroke_width(4)))?;
        }
        for (role, curve) in &self.curves {
            chart.draw_series(LineSeries::new(curve.iter().copied(), role.color().stroke_width(3)))?;
        }
        // The line of the bound stands for oracles of the model's own choice.
        let shown: Vec<&Mark> =
            marks.iter().filter(|mark| mark.role != Role::Future || mark.x != 0.0 || bound.is_none()).collect();
        let centres: Vec<(i32, i32)> = shown.iter().map(|mark| chart.backend_coord(&(mark.x, mark.y))).collect();
        let (xs, ys) = chart.plotting_area().get_pixel_range();
        let frame = Rectangle { left: xs.start, top: ys.start, right: xs.end + 30, bottom: ys.end };
        let mut taken: Vec<Rectangle> = centres.iter().map(|&centre| Rectangle::around(centre, 14)).collect();
        if let Some(bound) = *bound {
            let (left, y) = chart.backend_coord(&(x.start, bound));
            taken.push(Rectangle { left, top: y - 3, right: frame.right, bottom: y + 3 });
        }
        for (mark, &centre) in shown.iter().zip(&centres).filter(|(mark, _)| !mark.name.is_empty()) {
            let width = match mark.role {
                Role::Bounded => plot::bold_width(&mark.name),
                _ => plot::text_width(&mark.name),
            };
            let (place, ring) = place(centre, width, frame, &taken);
            taken.push(place);
            label(area, mark, centre, place, ring)?;
        }
        for (mark, &centre) in shown.iter().zip(&centres) {
            dot(area, mark.role, centre)?;
            tips.push(Tip::at(centre, &mark.said));
        }
        Ok(())
    }
}

fn dot(area: &Area<'_>, role: Role, centre: (i32, i32)) -> Drawn {
    let size = if role == Role::Bounded { 18 } else { 11 };
    role.shape().draw(area, centre, size, role.color())
}

fn label(area: &Area<'_>, mark: &Mark, centre: (i32, i32), place: Rectangle, ring: i32) -> Drawn {
    if ring > 0 {
        area.draw(&PathElement::new([centre, place.nearest(centre)], palette::SOFT.stroke_width(2)))?;
    }
    let mut style = plot::text_style(palette::INK, HPos::Left, VPos::Center);
    if mark.role == Role::Bounded {
        style.font = style.font.style(FontStyle::Bold);
    }
    // The text begins, or ends, beside the mark, whatever its face makes of its width.
    let x = if place.right < centre.0 {
        style.pos = Pos::new(HPos::Right, VPos::Center);
        place.right
    } else {
        place.left
    };
    area.draw(&Text::new(mark.name.clone(), (x, (place.top + place.bottom) / 2), style))?;
    Ok(())
}

/// A rectangle in plot units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rectangle {
    left: i32,
    top: i32,
    right: i32,
    bottom: i32,
}

impl Rectangle {
    fn around((x, y): (i32, i32), half: i32) -> Self {
        Self { left: x - half, top: y - half, right: x + half, bottom: y + half }
    }

    fn overlaps(self, other: Self) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    /// The point of the rectangle that is nearest to another.
    fn nearest(self, (x, y): (i32, i32)) -> (i32, i32) {
        (x.clamp(self.left, self.right), y.clamp(self.top, self.bottom))
    }

    /// Whether a line from `start` to `end` passes through, leaving out its beginning, where marks crowd.
    fn crossed(self, start: (i32, i32), end: (i32, i32)) -> bool {
        (6..16).any(|step| {
            let at = |from: i32, to: i32| from + (to - from) * step / 16;
            Self::around((at(start.0, end.0), at(start.1, end.1)), 1).overlaps(self)
        })
    }

    fn within(self, frame: Self) -> bool {
        self.left >= frame.left && self.right <= frame.right && self.top >= frame.top && self.bottom <= frame.bottom
    }
}

/// Rings of places around a mark that are tried.
const RINGS: i32 = 12;

/// The nearest free place for a label of this width, and the ring it lies on: one that its line reaches without
/// crossing anything if there is one, beside the mark if none is free.
fn place((x, y): (i32, i32), width: i32, frame: Rectangle, taken: &[Rectangle]) -> (Rectangle, i32) {
    let half = plot::TEXT as i32 / 2;
    let at =
        |left: i32, middle: i32| Rectangle { left, top: middle - half, right: left + width, bottom: middle + half };
    for (crossing, ring) in [false, true].into_iter().flat_map(|crossing| (0..RINGS).map(move |ring| (crossing, ring)))
    {
        let (side, rise) = (24 + ring * 14, ring * plot::TEXT as i32 * 3 / 4);
        let (right, left, centre) = (x + side, x - side - width, x - width / 2);
        let above = rise + half + 20;
        let places = [
            at(right, y - rise),
            at(right, y + rise),
            at(left, y - rise),
            at(left, y + rise),
            at(centre, y - above),
            at(centre, y + above),
        ];
        let free = |place: &Rectangle| {
            let hits = |other: &Rectangle| {
                place.overlaps(*other) || (!crossing && ring > 0 && other.crossed((x, y), place.nearest((x, y))))
            };
            place.within(frame) && !taken.iter().any(hits)
        };
        if let Some(place) = places.into_iter().find(free) {
            return (place, ring);
        }
    }
    (at(x + 24, y), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_a_crowd_do_not_overlap() {
        let frame = Rectangle { left: 0, top: 0, right: 1800, bottom: 900 };
        let mut taken = vec![Rectangle::around((900, 450), 14)];
        for i in 0..12 {
            let (found, _) = place((900, 450 + i), plot::text_width("policy:value=0.5"), frame, &taken);
            assert!(found.within(frame));
            assert!(taken.iter().all(|other| !found.overlaps(*other)), "label {i}");
            taken.push(found);
        }
    }

    #[test]
    fn a_label_without_room_is_still_drawn() {
        let frame = Rectangle { left: 0, top: 0, right: 10, bottom: 10 };
        assert_eq!(place((5, 5), 60, frame, &[]).1, 0);
    }
}
