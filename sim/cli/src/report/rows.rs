//! Which rows matter to the eye, and what they are called.

use plotters::style::RGBColor;

use super::plot::palette;
use cptr_sim::run::outcome::{Outcome, Row};

/// What a row is to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The row that the others are compared with: the first.
    Reference,
    /// This project's policy.
    Cptr,
    /// A row that sees the future.
    Bound,
    /// Any other.
    Other,
}

impl Role {
    pub(super) fn of(index: usize, row: &Row) -> Self {
        match () {
            () if row.oracle => Self::Bound,
            () if index == 0 => Self::Reference,
            () if row.policy.split(':').next() == Some("cptr") => Self::Cptr,
            () => Self::Other,
        }
    }

    pub(super) fn color(self) -> RGBColor {
        match self {
            Self::Reference => palette::REFERENCE,
            Self::Cptr => palette::CPTR,
            Self::Bound => palette::BOUND,
            Self::Other => palette::OTHER,
        }
    }
}

/// Short names of rows: the policy, with the placement where the policy alone does not tell the rows apart.
pub(super) fn names(rows: &[Row]) -> Vec<String> {
    let name = |row: &Row| match rows.iter().filter(|other| other.policy == row.policy).count() {
        1 => row.policy.clone(),
        _ => format!("{}, {}", row.policy, row.placement),
    };
    rows.iter().map(name).collect()
}

/// The rows of line plots: the reference, the first of cptr, and of all others that do not see the future the one of fewest misses.
/// Indices in that order, without those that the outcome lacks.
pub(super) fn few(outcome: &Outcome) -> Vec<usize> {
    let with = |role| move |&index: &usize| -> bool { Role::of(index, &outcome.rows[index]) == role };
    let all = 0..outcome.rows.len();
    let miss_rate = |&index: &usize| outcome.rows[index].miss_rate;
    let best = all.clone().filter(with(Role::Other)).min_by(|a, b| miss_rate(a).total_cmp(&miss_rate(b)));
    [all.clone().find(with(Role::Reference)), best, all.clone().find(with(Role::Cptr))].into_iter().flatten().collect()
}
