//! Placement, bits, dispatch, replacement, changes of context, low-bit products.

use std::vec::Vec;

use crate::bits::Losses;
use crate::expert::{Activations, Matrix};
use crate::level::Levels;
use crate::num::{Gate, Level};
use crate::placement::Demand;
use crate::set::Experts;

/// `S = alpha P + (1 - alpha) W` of each expert of a layer.
#[must_use]
pub fn importance(layer: &[Demand], alpha: f64) -> Vec<f64> {
    let counts: f64 = layer.iter().map(|demand| f64::from(demand.count())).sum();
    let scores: f64 = layer.iter().map(|demand| demand.score() as f64).sum();
    let over = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    let mixed = |demand: &Demand| {
        alpha * over(f64::from(demand.count()), counts) + (1.0 - alpha) * over(demand.score() as f64, scores)
    };
    layer.iter().map(mixed).collect()
}

/// Experts by falling importance, of equals the lower id first.
#[must_use]
pub fn rank(importance: &[Gate]) -> Vec<u16> {
    let mut order: Vec<u16> = (0..importance.len() as u16).collect();
    order.sort_by_key(|&expert| core::cmp::Reverse(importance[usize::from(expert)]));
    order
}

/// Where the chosen run: the resident ones, and the ids of the others, most bits first, of equals in the order of the
/// chosen.
#[must_use]
pub fn dispatch(chosen: &[u16], resident: &Experts, bits: &[u8]) -> (Vec<u16>, Vec<u16>) {
    let (here, mut near): (Vec<u16>, Vec<u16>) = chosen.iter().partition(|&&expert| resident.contains(expert));
    near.sort_by_key(|&expert| core::cmp::Reverse(bits[usize::from(expert)]));
    (here, near)
}

/// When the last of these jobs ends at the earliest, of all ways to give them to `units` units. Cost: `units` to the
/// power of the jobs.
#[must_use]
pub fn makespan(lengths: &[u32], units: usize) -> u32 {
    let ways = 0..units.pow(lengths.len() as u32);
    let last = |way: usize| {
        let mut load = std::vec![0; units];
        lengths.iter().fold(way, |rest, length| {
            load[rest % units] += length;
            rest / units
        });
        load.into_iter().max().unwrap_or(0)
    };
    ways.map(last).min().unwrap_or(0)
}

/// The most that a split of so many increments can gain, over every assignment that never gives a less important expert
/// more bits; `None` where there is no such assignment. Cost: rises with the fourth power of the experts.
#[must_use]
pub fn split(losses: &[Losses], increments: u32) -> Option<u64> {
    fn go(losses: &[Losses], most: usize, left: i64, gain: u64) -> Option<u64> {
        let Some((expert, rest)) = losses.split_first() else { return (left == 0).then_some(gain) };
        (1..=most).filter_map(|b| go(rest, b, left - (b as i64 - 1), gain + (expert[0] - expert[b - 1]) as u64)).max()
    }
    go(losses, 4, i64::from(increments), 0)
}

/// The swap of the largest gain, if that is above `margin`: which expert is loaded, and which one goes.
#[must_use]
pub fn swap(slow: &[Level], resident: &Experts, busy: &Experts, margin: Level) -> Option<(u16, u16)> {
    let free = || (0..slow.len() as u16).filter(|&expert| !busy.contains(expert));
    let level = |expert: &u16| slow[usize::from(*expert)];
    let load = free().filter(|&expert| !resident.contains(expert)).rev().max_by_key(level)?;
    let evict = free().filter(|&expert| resident.contains(expert)).min_by_key(level)?;
    let gain = i64::from(level(&load).to_bits()) - i64::from(level(&evict).to_bits());
    (gain > i64::from(margin.to_bits())).then_some((load, evict))
}

/// The distance of what a token wants from the context of a layer, levels as a tracker has them
/// ([`context::trackers`](crate::context::trackers)).
#[must_use]
pub fn distance(levels: &[Levels], wanted: &[u16]) -> f64 {
    let shares = |of: fn(&Levels) -> f64| {
        let sum: f64 = levels.iter().map(of).sum();
        levels.iter().map(|level| if sum > 0.0 { of(level) / sum } else { 0.0 }).collect::<Vec<f64>>()
    };
    let (context, run) = (shares(|level| level.fast.to_num()), shares(|level| level.slow.to_num()));
    let demand = |e: usize| f64::from(u8::from(wanted.contains(&(e as u16)))) / wanted.len() as f64;
    let cosine = |a: &dyn Fn(usize) -> f64, b: &dyn Fn(usize) -> f64| {
        let sum = |f: &dyn Fn(usize) -> f64| (0..levels.len()).map(f).sum::<f64>();
        let lengths = (sum(&|e| a(e) * a(e)) * sum(&|e| b(e) * b(e))).sqrt();
        if lengths > 0.0 { sum(&|e| a(e) * b(e)) / lengths } else { 0.0 }
    };
    let whole = cosine(&demand, &|e| context[e]);
    let peculiar = cosine(&|e| demand(e) - run[e], &|e| context[e] - run[e]);
    1.5 - whole - peculiar / 2.0
}

/// The product of a packed matrix and a vector, one weight after the other, in the unit of
/// [`expert::matvec`](crate::expert::matvec): a weight and an activation are integers, and so is their sum.
#[must_use]
pub fn matvec(matrix: &Matrix<'_>, vector: &Activations<'_>) -> Vec<i128> {
    let values: Vec<i32> = vector.values().collect();
    let product = |row: crate::expert::Row<'_>| {
        row.weights().zip(&values).map(|(weight, &value)| i128::from(weight) * i128::from(value)).sum()
    };
    matrix.rows().map(product).collect()
}
