//! Eviction by the exact search, on the raw router with twice the active experts in fast memory: what `tracked` and
//! `recall` come to in floating point, without the layers of the token that is on its way.

use cptr_trace::{Shape, Trace};

/// Gains of the levels, weight of the fast one, and weight of the forecast.
const SLOW: f64 = 1.0 / 64.0;
const FAST: f64 = 1.0 / 8.0;
const FAST_WEIGHT: f64 = 0.25;
const FORECAST_WEIGHT: f64 = 4.0;

/// Who goes by which forecasts: levels alone, and levels with each of `N` forecasts.
pub(super) struct Eviction<const N: usize> {
    shape: Shape,
    slow: Vec<f64>,
    fast: Vec<f64>,
    levels: Cache,
    forecasts: [Cache; N],
}

/// Fast memory of all layers.
#[derive(Clone)]
struct Cache {
    /// `[layers][experts]`.
    resident: Vec<bool>,
    misses: u64,
}

impl<const N: usize> Eviction<N> {
    /// Empty memories.
    pub(super) fn new(shape: Shape) -> Self {
        let all = shape.layers * shape.experts;
        let cache = Cache { resident: vec![false; all], misses: 0 };
        Self {
            shape,
            slow: vec![0.0; all],
            fast: vec![0.0; all],
            forecasts: std::array::from_fn(|_| cache.clone()),
            levels: cache,
        }
    }

    /// Runs a token; `shares` are those of the next tokens that will want each expert, `[layers][experts]`. Counts its
    /// misses where it is `counted`.
    pub(super) fn token(&mut self, trace: &Trace, token: usize, shares: [&[f64]; N], counted: bool) {
        let Shape { layers, experts, k, .. } = self.shape;
        for layer in 0..layers {
            let wanted = trace.chosen(token, layer);
            let at = |expert: usize| layer * experts + expert;
            let level = |expert: usize| self.slow[at(expert)] + FAST_WEIGHT * self.fast[at(expert)];
            let part = at(0)..at(experts);
            let missed = self.levels.serve(&part, wanted, 2 * k, level);
            self.levels.misses += if counted { missed } else { 0 };
            for (cache, shares) in self.forecasts.iter_mut().zip(shares) {
                let worth = |expert: usize| level(expert) + FORECAST_WEIGHT * shares[at(expert)];
                let missed = cache.serve(&part, wanted, 2 * k, worth);
                cache.misses += if counted { missed } else { 0 };
            }
        }
        for (levels, gain) in [(&mut self.slow, SLOW), (&mut self.fast, FAST)] {
            levels.iter_mut().for_each(|level| *level *= 1.0 - gain);
            for layer in 0..layers {
                for &expert in trace.chosen(token, layer) {
                    levels[layer * experts + usize::from(expert)] += gain;
                }
            }
        }
    }

    /// Misses by levels alone, and by each forecast.
    pub(super) fn misses(&self) -> (u64, [u64; N]) {
        (self.levels.misses, self.forecasts.each_ref().map(|cache| cache.misses))
    }
}

impl Cache {
    /// Loads what a layer wants and does not have, for the experts of least worth that it does not want; of equals the
    /// lowest id goes. How many those are.
    fn serve(
        &mut self,
        part: &std::ops::Range<usize>,
        wanted: &[u16],
        room: usize,
        worth: impl Fn(usize) -> f64,
    ) -> u64 {
        let resident = &mut self.resident[part.clone()];
        let mut missed = 0;
        for &expert in wanted {
            if resident[usize::from(expert)] {
                continue;
            }
            missed += 1;
            if resident.iter().filter(|resident| **resident).count() >= room.min(resident.len()) {
                let free = (0..resident.len()).filter(|&id| resident[id] && !wanted.contains(&(id as u16)));
                let Some(victim) = free.min_by(|&a, &b| worth(a).total_cmp(&worth(b))) else { continue };
                resident[victim] = false;
            }
            resident[usize::from(expert)] = true;
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_worth_goes() {
        let mut cache = Cache { resident: vec![true, true, true, false, false, false], misses: 0 };
        let worth = |expert: usize| [3.0, 1.0, 2.0, 0.0, 0.0, 0.0][expert];
        assert_eq!(cache.serve(&(0..6), &[1, 4], 3, worth), 1);
        assert_eq!(cache.resident, [true, true, false, false, true, false]);
        // What is wanted stays, and where nothing may go nothing comes.
        assert_eq!(cache.serve(&(0..6), &[0, 1, 4, 5], 3, worth), 1);
        assert_eq!(cache.resident, [true, true, false, false, true, false]);
    }

    /// Three experts in turn in a memory of two: a forecast of the next tokens does what Belady's rule does.
    #[test]
    fn a_forecast_that_is_right_is_worth_much() {
        let ids = (0..600).map(|token| token % 3).collect();
        let trace = Trace::of_ids(Shape { tokens: 600, layers: 1, experts: 3, k: 1 }, ids);
        let mut eviction = Eviction::<1>::new(trace.shape);
        for token in 0..600 {
            let mut next = [0.0; 3];
            next[(token + 1) % 3] = 1.0;
            eviction.token(&trace, token, [&next], token >= 300);
        }
        let (levels, [forecast]) = eviction.misses();
        assert!(levels == 300 && forecast == 150, "{levels} {forecast}");
    }
}
