//! What followed each expert in its layer: of the tokens that wanted this, how many next tokens wanted that?

use std::collections::VecDeque;

use cptr_core::Level;

use crate::source::Routed;
use crate::strategy::remembers::Remembers;

/// Fraction bits of sums of shares.
const SUM_BITS: u32 = 48;

/// Tables of all layers, learned on line.
pub(crate) struct Successors {
    experts: usize,
    /// Tokens of the wider table.
    window: usize,
    layers: Vec<Layer>,
    sums: Vec<u64>,
}

struct Layer {
    /// What the last tokens of the sequence wanted, the newest first.
    before: VecDeque<Vec<u16>>,
    /// What the next token wanted.
    next: Table,
    /// What the tokens of the window wanted.
    window: Table,
}

/// For each expert what came after it.
struct Table {
    /// `[E * E]`, what came by what it came after.
    followed: Vec<u16>,
    /// Tokens that came after it `[E]`.
    tokens: Vec<u16>,
}

impl Table {
    fn new(experts: usize) -> Self {
        Self { followed: vec![0; experts * experts], tokens: vec![0; experts] }
    }

    /// A token that wants `wanted` comes after one that wanted `before`.
    fn learn(&mut self, before: &[u16], wanted: &[u16]) {
        let experts = self.tokens.len();
        for from in before.iter().map(|&from| usize::from(from)) {
            let row = &mut self.followed[from * experts..(from + 1) * experts];
            if self.tokens[from] == u16::MAX {
                row.iter_mut().for_each(|count| *count /= 2);
                self.tokens[from] /= 2;
            }
            self.tokens[from] += 1;
            wanted.iter().for_each(|&to| row[usize::from(to)] += 1);
        }
    }

    /// Share of the tokens after those that wanted one of `before` that wanted each expert: the mean over `before`,
    /// with [`SUM_BITS`] fraction bits, rounded down.
    fn shares(&self, before: &[u16], sums: &mut [u64]) {
        let experts = self.tokens.len();
        sums.fill(0);
        for from in before.iter().map(|&from| usize::from(from)) {
            let each = (1 << SUM_BITS) / (u64::from(self.tokens[from].max(1)) * before.len() as u64);
            let row = &self.followed[from * experts..(from + 1) * experts];
            sums.iter_mut().zip(row).for_each(|(sum, &count)| *sum += u64::from(count) * each);
        }
    }
}

impl Successors {
    /// Before the first token.
    pub(crate) fn new(window: usize, layers: usize, experts: usize) -> Self {
        let layer = |_| Layer { before: VecDeque::new(), next: Table::new(experts), window: Table::new(experts) };
        Self { experts, window, layers: (0..layers).map(layer).collect(), sums: vec![0; experts] }
    }
}

impl Remembers for Successors {
    fn observe(&mut self, layer: usize, token: &Routed<'_>) {
        let Layer { before, next, window } = &mut self.layers[layer];
        if token.starts_sequence {
            before.clear();
        }
        if let Some(last) = before.front() {
            next.learn(last, token.wanted);
        }
        before.iter().for_each(|before| window.learn(before, token.wanted));
        let mut oldest = if before.len() < self.window { None } else { before.pop_back() }.unwrap_or_default();
        oldest.clear();
        oldest.extend_from_slice(token.wanted);
        before.push_front(oldest);
    }

    fn end_token(&mut self) {}

    fn forecast(&mut self, layer: usize, tokens: usize, shares: &mut [Level]) {
        let Layer { before, next, window } = &self.layers[layer];
        let table = if tokens == 1 { next } else { window };
        table.shares(before.front().map_or(&[], Vec::as_slice), &mut self.sums[..self.experts]);
        let shares = shares.iter_mut().zip(&self.sums);
        shares.for_each(|(share, &sum)| *share = Level::from_bits((sum >> (SUM_BITS - 31)) as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let mut successors = Successors::new(2, 1, 4);
        let wants = |wanted: &'static [u16], starts_sequence| Routed {
            wanted,
            weights: &[],
            logits: &[],
            starts_sequence,
            ahead: &[],
        };
        // After 0 comes 1, then 2; then 0 again, and 3; a new sequence begins with 0.
        for wanted in [&[0], &[1], &[2], &[0], &[3]] {
            successors.observe(0, &wants(wanted, false));
        }
        successors.observe(0, &wants(&[0], true));
        let mut shares = [Level::ZERO; 4];
        let mut of = |tokens| {
            successors.forecast(0, tokens, &mut shares);
            shares.map(|share| share.to_num::<f32>())
        };
        assert_eq!(of(1), [0.0, 0.5, 0.0, 0.5]);
        let third = of(2)[1];
        assert!((third - 1.0 / 3.0).abs() < 1e-6 && of(2)[1..].iter().all(|&share| share == third));
    }
}
