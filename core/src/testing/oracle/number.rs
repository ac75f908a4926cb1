//! Functions of numbers.

use crate::num::{Gate, Logit};

/// `exp(-distance)`; negative distances count as 0. [`num::exp_neg`](crate::num::exp_neg): within 2^-25.
#[must_use]
pub fn exp_neg(distance: Logit) -> f64 {
    (-distance.max(Logit::ZERO).to_num::<f64>()).exp()
}

/// The logistic function. [`num::sigmoid`](crate::num::sigmoid): within 2^-25.
#[must_use]
pub fn sigmoid(logit: Logit) -> f64 {
    1.0 / (1.0 + (-logit.to_num::<f64>()).exp())
}

/// `arccos`; a cosine above 1 counts as 1. [`num::acos`](crate::num::acos): within 3e-8.
#[must_use]
pub fn acos(cosine: Gate) -> f64 {
    cosine.to_num::<f64>().min(1.0).acos()
}

/// `log2(numerator / denominator)`, 0/0 as 0, other zeros as -32 and 32. [`num::log2_ratio`](crate::num::log2_ratio):
/// within 2^-16.
#[must_use]
pub fn log2_ratio(numerator: u32, denominator: u32) -> f64 {
    match (numerator, denominator) {
        (0, 0) => 0.0,
        (0, _) => -32.0,
        (_, 0) => 32.0,
        (a, b) => (f64::from(a) / f64::from(b)).log2(),
    }
}
