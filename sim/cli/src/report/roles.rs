//! Which rows matter to the eye, and what they are called.

use plotters::style::RGBColor;
use serde_json::Value;

use super::plot::{Shape, palette};

/// What a row is to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The row that the others are compared with: the first.
    Reference,
    /// Selection under a bound: this project's.
    Bounded,
    /// A row that sees the future.
    Future,
    /// Any other.
    Other,
}

impl Role {
    pub(super) fn of(index: usize, row: &Value) -> Self {
        match () {
            () if row["sees_future"] == true => Self::Future,
            () if row["select"].as_str().is_some_and(|select| select.starts_with("bounded")) => Self::Bounded,
            () if index == 0 && row.get("strategy").is_some() => Self::Reference,
            () => Self::Other,
        }
    }

    /// Attribute of its row in a table.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Bounded => " class=\"cptr\"",
            Self::Future => " class=\"bound\"",
            Self::Reference | Self::Other => "",
        }
    }

    /// Its mark: what tells roles apart without colour.
    pub(super) const fn shape(self) -> Shape {
        match self {
            Self::Reference => Shape::Square,
            Self::Bounded => Shape::Diamond,
            Self::Future => Shape::Ring,
            Self::Other => Shape::Circle,
        }
    }

    pub(super) const fn color(self) -> RGBColor {
        match self {
            Self::Reference => palette::REFERENCE,
            Self::Bounded => palette::CPTR,
            Self::Future => palette::BOUND,
            Self::Other => palette::OTHER,
        }
    }
}

/// A number of a row; not a number where it has none.
pub(crate) fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or(f64::NAN)
}

/// Name of a row.
pub(crate) fn name(row: &Value) -> &str {
    row["strategy"].as_str().unwrap_or_default()
}

/// The rows of line plots: the reference, of all others that do not see the future the one of fewest misses, and the
/// first under a bound. Indices in that order, without those that there are not.
pub(super) fn few(rows: &[Value]) -> Vec<usize> {
    let with = |role| move |&index: &usize| -> bool { Role::of(index, &rows[index]) == role };
    let all = 0..rows.len();
    let misses = |&index: &usize| number(&rows[index], "miss_rate");
    let best = all.clone().filter(with(Role::Other)).min_by(|a, b| misses(a).total_cmp(&misses(b)));
    [all.clone().find(with(Role::Reference)), best, all.clone().find(with(Role::Bounded))]
        .into_iter()
        .flatten()
        .collect()
}
