//! Activation matrices of sequences (MoE-Infinity, arXiv 2401.14361): how often each sequence wanted each expert of
//! each layer. The nearest by cosine, mean over layers, says what comes.
//!
//! A sequence of the source that is longer than `length` tokens is remembered in parts of that length; what is compared
//! are the last `length` tokens of the running one. Where the collection is full, a new matrix takes the place of the
//! one that is most like it, so that the collection stays diverse.

use std::collections::VecDeque;

use cptr_core::Level;

use super::{greatest, level};
use crate::source::Routed;
use crate::strategy::remembers::Remembers;

/// The collection, and the sequence that runs.
pub(crate) struct Matrices {
    layers: usize,
    experts: usize,
    length: usize,
    most: usize,
    nearest: usize,
    known: Vec<Matrix>,
    /// Since the sequence, or its part, began.
    part: Counts,
    /// The last tokens of the sequence.
    running: Counts,
    /// What each of these wanted, `[L]` lists, the newest last.
    tokens: VecDeque<Vec<Vec<u16>>>,
    token: Vec<Vec<u16>>,
    similarities: Vec<f32>,
    best: Vec<usize>,
    sums: Vec<f32>,
}

/// How often experts were wanted.
#[derive(Clone)]
struct Counts {
    /// `[L, E]`.
    counts: Vec<u16>,
    /// Sum of squares by layer.
    squares: Vec<f32>,
    tokens: usize,
}

/// A sequence that is over.
struct Matrix {
    counts: Counts,
    /// With the running one: products by layer, and the cosines.
    products: Vec<f32>,
    cosines: Vec<f32>,
}

impl Counts {
    fn new(layers: usize, experts: usize) -> Self {
        Self { counts: vec![0; layers * experts], squares: vec![0.0; layers], tokens: 0 }
    }

    fn clear(&mut self) {
        self.counts.fill(0);
        self.squares.fill(0.0);
        self.tokens = 0;
    }

    fn row(&self, layer: usize, experts: usize) -> &[u16] {
        &self.counts[layer * experts..(layer + 1) * experts]
    }

    /// One token more, or less, wants experts in a layer.
    fn count(&mut self, layer: usize, experts: usize, wanted: &[u16], more: bool) {
        for &expert in wanted {
            let count = &mut self.counts[layer * experts + usize::from(expert)];
            let before = f32::from(*count);
            *count = if more { count.saturating_add(1) } else { count.saturating_sub(1) };
            let after = f32::from(*count);
            self.squares[layer] += after * after - before * before;
        }
    }
}

impl Matrix {
    fn of(counts: &Counts, running: &Counts, layers: usize, experts: usize) -> Self {
        let product = |layer| {
            let pairs = counts.row(layer, experts).iter().zip(running.row(layer, experts));
            pairs.map(|(&a, &b)| f32::from(a) * f32::from(b)).sum()
        };
        let mut matrix =
            Self { counts: counts.clone(), products: (0..layers).map(product).collect(), cosines: vec![0.0; layers] };
        (0..layers).for_each(|layer| matrix.compare(layer, running));
        matrix
    }

    /// Sums of counts come and go in the products.
    fn count(&mut self, layer: usize, experts: usize, wanted: &[u16], sign: f32) {
        let row = self.counts.row(layer, experts);
        self.products[layer] += sign * wanted.iter().map(|&expert| f32::from(row[usize::from(expert)])).sum::<f32>();
    }

    fn compare(&mut self, layer: usize, running: &Counts) {
        let squares = self.counts.squares[layer] * running.squares[layer];
        self.cosines[layer] = if squares > 0.0 { self.products[layer] / squares.sqrt() } else { 0.0 };
    }

    fn similarity(&self) -> f32 {
        self.cosines.iter().sum::<f32>() / self.cosines.len() as f32
    }
}

impl Matrices {
    /// Before the first token: at most `most` sequences of `length` tokens are remembered, and the `nearest` are asked.
    pub(crate) fn new((length, most, nearest): (usize, usize, usize), layers: usize, experts: usize) -> Self {
        Self {
            layers,
            experts,
            length,
            most,
            nearest,
            known: Vec::new(),
            part: Counts::new(layers, experts),
            running: Counts::new(layers, experts),
            tokens: VecDeque::new(),
            token: vec![Vec::new(); layers],
            similarities: Vec::new(),
            best: Vec::new(),
            sums: vec![0.0; experts],
        }
    }

    /// The sequence, or its part, is over.
    fn remember(&mut self) {
        if self.part.tokens > 0 {
            let of = |counts, running| Matrix::of(counts, running, self.layers, self.experts);
            let matrix = of(&self.part, &self.running);
            if self.known.len() < self.most {
                self.known.push(matrix);
            } else {
                let known = self.known.iter();
                let like: Vec<f32> = known.map(|other| of(&other.counts, &self.part).similarity()).collect();
                greatest(&like, 1, &mut self.best);
                if let Some(&at) = self.best.first() {
                    self.known[at] = matrix;
                }
            }
        }
        self.part.clear();
    }

    /// A layer of a token comes to the running sequence, or leaves it.
    fn run(&mut self, layer: usize, wanted: &[u16], more: bool) {
        self.running.count(layer, self.experts, wanted, more);
        let sign = if more { 1.0 } else { -1.0 };
        self.known.iter_mut().for_each(|matrix| matrix.count(layer, self.experts, wanted, sign));
    }
}

impl Remembers for Matrices {
    fn observe(&mut self, layer: usize, token: &Routed<'_>) {
        if layer == 0 && token.starts_sequence {
            self.remember();
            self.running.clear();
            self.tokens.clear();
            for matrix in &mut self.known {
                matrix.products.fill(0.0);
                matrix.cosines.fill(0.0);
            }
        }
        self.part.count(layer, self.experts, token.wanted, true);
        self.run(layer, token.wanted, true);
        self.known.iter_mut().for_each(|matrix| matrix.compare(layer, &self.running));
        self.token[layer].clear();
        self.token[layer].extend_from_slice(token.wanted);
    }

    fn end_token(&mut self) {
        self.part.tokens += 1;
        self.running.tokens += 1;
        if self.part.tokens == self.length {
            self.remember();
        }
        let mut oldest = vec![Vec::new(); self.layers];
        if self.tokens.len() == self.length {
            oldest = self.tokens.pop_front().unwrap_or_default();
            self.running.tokens -= 1;
            (0..self.layers).for_each(|layer| self.run(layer, &oldest[layer], false));
        }
        self.tokens.push_back(std::mem::replace(&mut self.token, oldest));
    }

    fn forecast(&mut self, layer: usize, _: usize, shares: &mut [Level]) {
        self.similarities.clear();
        self.similarities.extend(self.known.iter().map(Matrix::similarity));
        greatest(&self.similarities, self.nearest, &mut self.best);
        self.sums.fill(0.0);
        for &at in &self.best {
            let counts = &self.known[at].counts;
            let weight = 1.0 / (counts.tokens * self.best.len()) as f32;
            let row = counts.row(layer, self.experts);
            self.sums.iter_mut().zip(row).for_each(|(sum, &count)| *sum += f32::from(count) * weight);
        }
        shares.iter_mut().zip(&self.sums).for_each(|(share, &sum)| *share = level(sum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(wanted: &[u16], starts_sequence: bool) -> Routed<'_> {
        Routed { wanted, weights: &[], logits: &[], starts_sequence, ahead: &[] }
    }

    /// Products that come and go are those of the counts.
    #[test]
    fn sums_are_those_of_the_counts() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut matrices = Matrices::new((5, 4, 1), 2, 6);
        for time in 0..200 {
            for layer in 0..2 {
                let wanted = [random.u16(0..3), random.u16(3..6)];
                matrices.observe(layer, &token(&wanted, time % 37 == 0));
            }
            matrices.end_token();
            assert!(matrices.known.len() <= 4 && matrices.running.tokens <= 5);
            for known in &matrices.known {
                let again = Matrix::of(&known.counts, &matrices.running, 2, 6);
                assert_eq!(known.products, again.products);
                let squares =
                    |layer| known.counts.row(layer, 6).iter().map(|&n| f32::from(n) * f32::from(n)).sum::<f32>();
                assert_eq!(known.counts.squares, [0, 1].map(squares));
            }
        }
    }

    /// Two sequences are known; a third that begins as the second is expected to go on as it.
    #[test]
    fn the_nearest_says_what_comes() {
        let mut matrices = Matrices::new((4, 9, 1), 1, 8);
        for wanted in [[0, 1], [0, 2], [0, 3], [0, 3], [4, 5], [4, 6], [4, 7], [4, 7], [4, 5]] {
            matrices.observe(0, &token(&wanted, wanted == [4, 5]));
            matrices.end_token();
        }
        let mut shares = [Level::ZERO; 8];
        matrices.forecast(0, 1, &mut shares);
        assert_eq!(shares.map(|share| share.to_num::<f32>()), [0.0, 0.0, 0.0, 0.0, 1.0, 0.25, 0.25, 0.5]);
    }
}
