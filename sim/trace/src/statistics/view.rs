//! The trace as the statistics read it: layer by layer, sequence by sequence.

use std::ops::Range;

use rayon::prelude::*;

use crate::array::FloatArray;
use crate::{Phase, Shape, Trace};

/// The choices of one layer, side by side.
pub(super) struct Layer {
    /// The model's own number of this layer.
    pub(super) id: u32,
    pub(super) experts: usize,
    pub(super) k: usize,
    /// `[T, k]`, best first where the trace knows.
    ids: Vec<u16>,
    /// Whether some tokens chose fewer than k: null experts and padding fill their rows.
    ragged: bool,
}

impl Layer {
    pub(super) fn chosen(&self, token: usize) -> &[u16] {
        self.trimmed(&self.ids[token * self.k..(token + 1) * self.k])
    }

    fn trimmed<'a>(&self, row: &'a [u16]) -> &'a [u16] {
        let runs = |&id: &u16| usize::from(id) < self.experts;
        if self.ragged { &row[..row.partition_point(runs)] } else { row }
    }

    /// Choices of all tokens.
    pub(super) fn choices(&self) -> usize {
        if self.ragged { self.rows().map(<[u16]>::len).sum() } else { self.ids.len() }
    }

    /// The choices of all tokens in order, `[T]` slices of at most `k`.
    pub(super) fn rows(&self) -> impl DoubleEndedIterator<Item = &[u16]> + ExactSizeIterator {
        self.ids.chunks_exact(self.k).map(|row| self.trimmed(row))
    }

    /// `[T, k]`, with what fills short rows.
    pub(super) fn ids(&self) -> &[u16] {
        &self.ids
    }
}

/// A trace, with its layers gathered and its sequences found; twice the memory of the ids.
///
/// It holds none of the float arrays: those may live in a mapped file, which threads cannot share.
pub(super) struct View<'a> {
    pub(super) shape: Shape,
    pub(super) domain: &'a [u8],
    pub(super) phase: &'a [Phase],
    pub(super) layers: Vec<Layer>,
    /// Token ranges of the sequences, in order.
    pub(super) sequences: Vec<Range<usize>>,
}

impl<'a> View<'a> {
    pub(super) fn new(trace: &'a Trace) -> Self {
        let mut layers = gather(trace.shape, &trace.ids, &trace.meta.layer_ids);
        if let Some(weights) = &trace.weights {
            layers.iter_mut().enumerate().for_each(|(index, layer)| sort_by_weight(layer, weights, index));
        }
        Self { shape: trace.shape, domain: &trace.domain, phase: &trace.phase, layers, sequences: sequences(trace) }
    }

    /// Runs `statistic` over all layers in parallel; results in layer order.
    pub(super) fn per_layer<R: Send>(&self, statistic: impl Fn(&Layer) -> R + Sync + Send) -> Vec<R> {
        self.layers.par_iter().map(statistic).collect()
    }
}

fn sequences(trace: &Trace) -> Vec<Range<usize>> {
    let tokens = trace.shape.tokens;
    let mut starts: Vec<usize> = (0..tokens).filter(|&token| trace.starts_sequence(token)).collect();
    starts.push(tokens);
    starts.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

fn gather(shape: Shape, ids: &[u16], layer_ids: &[u32]) -> Vec<Layer> {
    let Shape { experts, k, layers, .. } = shape;
    let of_layer = |(layer, &id): (usize, &u32)| {
        let rows = ids.chunks_exact(layers * k).flat_map(|token| &token[layer * k..(layer + 1) * k]);
        let ids: Vec<u16> = rows.copied().collect();
        let ragged = ids.iter().any(|&id| usize::from(id) >= experts);
        Layer { id, experts, k, ids, ragged }
    };
    layer_ids.par_iter().enumerate().map(of_layer).collect()
}

/// Puts the best first where the source lists ids in another order (ESFT, MoE-Beyond).
fn sort_by_weight(layer: &mut Layer, weights: &FloatArray, index: usize) {
    let mut row = vec![0.0_f32; layer.k];
    let mut pairs: Vec<(f32, u16)> = Vec::with_capacity(layer.k);
    for (token, ids) in layer.ids.chunks_exact_mut(layer.k).enumerate() {
        weights.read_row(token, index, &mut row);
        if row.is_sorted_by(|a, b| a >= b) {
            continue;
        }
        pairs.clear();
        pairs.extend(row.iter().copied().zip(ids.iter().copied()));
        // Padding has no weight worth the name; null experts keep their place behind the others.
        let rest = |id: u16| usize::from(id) >= layer.experts;
        pairs.sort_by(|a, b| rest(a.1).cmp(&rest(b.1)).then(b.0.total_cmp(&a.0)));
        ids.iter_mut().zip(&pairs).for_each(|(id, pair)| *id = pair.1);
    }
}

/// Counts overlaps of one token's choice with others in O(k) each.
pub(super) struct Overlap {
    /// The token whose choice last contained the expert, plus one.
    stamp: Vec<usize>,
    current: usize,
}

impl Overlap {
    pub(super) fn new(experts: usize) -> Self {
        Self { stamp: vec![0; experts], current: 0 }
    }

    /// Makes `chosen` the set that [`Self::with`] compares to.
    pub(super) fn set(&mut self, chosen: &[u16]) {
        self.current += 1;
        for &e in chosen {
            self.stamp[usize::from(e)] = self.current;
        }
    }

    /// Number of experts that `other` shares with the set.
    pub(super) fn with(&self, other: &[u16]) -> usize {
        other.iter().filter(|&&e| self.stamp[usize::from(e)] == self.current).count()
    }
}

pub(super) fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut n) = (0.0, 0_u64);
    for value in values {
        sum += value;
        n += 1;
    }
    (n > 0).then(|| sum / n as f64)
}

/// `part / whole`, `None` where there is nothing to share.
pub(super) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Cosine of the angle between two count vectors; `None` if one of them is zero.
pub(super) fn cosine(a: &[u64], b: &[u64]) -> Option<f64> {
    let dot = |x: &[u64], y: &[u64]| x.iter().zip(y).map(|(&x, &y)| x as f64 * y as f64).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    (norms > 0.0).then(|| (dot(a, b) / norms).min(1.0))
}

/// The `n` experts with the largest counts, ties to the lower number.
pub(super) fn top(counts: &[u64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|&e| (std::cmp::Reverse(counts[e]), e));
    order.truncate(n);
    order
}
