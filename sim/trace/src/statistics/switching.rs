//! How much of the choice changes from one token to the next, against what independent draws would change.

use std::collections::BTreeMap;

use serde::Serialize;

use super::view::{Layer, Overlap, View, mean, share};

/// Distances in tokens at which the overlap of choices is reported.
pub(super) const LAGS: [usize; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];

/// Switch rates. All are shares in 0..=1.
///
/// The switch rate of a layer is the share of a token's chosen experts that the previous token *of the same sequence*
/// did not choose there, mean over the tokens that have a predecessor; the rate of the trace is the mean over layers.
/// Memoryless is the rate of independent draws with the same frequencies, `1 - sum_e p_e^2 / k` with `p_e` the share of
/// tokens that choose `e`. The gap between the two is the locality that a cache or a filter can use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Switching {
    /// Mean over layers; `None` where no token has a predecessor.
    pub switch_rate: Option<f64>,
    /// Memoryless level, mean over layers.
    pub switch_rate_memoryless: f64,
    /// Share of tokens, in a layer, that chose exactly the set of their predecessor (any order); mean over layers.
    pub identical_sets: Option<f64>,
    /// Layer with the lowest switch rate.
    pub switch_rate_lowest: Option<LayerRate>,
    /// Layer with the highest switch rate.
    pub switch_rate_highest: Option<LayerRate>,
    /// All layers, in the order of the trace.
    pub switch_rate_by_layer: Vec<LayerRate>,
    /// The domains that have tokens. A token counts for its own domain, also where its predecessor belongs to another.
    pub switch_rate_by_domain: Vec<DomainRate>,
    /// Mean of `|S_t & S_(t-lag)| / k` within sequences, mean over layers; lags that no sequence is long enough for are
    /// left out.
    pub overlap_by_lag: Vec<LagOverlap>,
}

/// Switch rate of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LayerRate {
    /// The model's own number of the layer.
    pub layer: u32,
    /// Switch rate; `None` where no token has a predecessor.
    pub switch_rate: Option<f64>,
    /// Memoryless level.
    pub switch_rate_memoryless: f64,
}

/// Switch rate of one domain, mean over layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DomainRate {
    /// Name of the domain.
    pub domain: String,
    /// Tokens in it.
    pub tokens: u64,
    /// Switch rate; `None` where no token has a predecessor.
    pub switch_rate: Option<f64>,
    /// Memoryless level, with the frequencies of this domain.
    pub switch_rate_memoryless: f64,
    /// Layer with the lowest switch rate.
    pub switch_rate_lowest: Option<LayerRate>,
    /// Layer with the highest switch rate.
    pub switch_rate_highest: Option<LayerRate>,
}

/// Overlap of the choices `lag` tokens apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LagOverlap {
    /// Distance in tokens.
    pub lag: usize,
    /// Share of the experts that are the same, 0..=1.
    pub overlap: f64,
}

/// Sums of one layer and one domain (or all).
#[derive(Clone, Default)]
struct Sums {
    tokens: u64,
    /// Tokens with a predecessor.
    pairs: u64,
    /// Choices of those.
    choices: u64,
    switched: u64,
    identical: u64,
    chosen: Vec<u64>,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.pairs += other.pairs;
        self.choices += other.choices;
        self.switched += other.switched;
        self.identical += other.identical;
        self.chosen.resize(other.chosen.len(), 0);
        for (sum, n) in self.chosen.iter_mut().zip(&other.chosen) {
            *sum += n;
        }
    }

    fn rate(&self, layer: &Layer) -> LayerRate {
        let tokens = self.tokens as f64;
        let repeated: f64 = self.chosen.iter().map(|&n| (n as f64 / tokens).powi(2)).sum();
        let per_token = self.chosen.iter().sum::<u64>() as f64 / tokens;
        LayerRate {
            layer: layer.id,
            switch_rate: share(self.switched, self.choices),
            switch_rate_memoryless: if per_token > 0.0 { 1.0 - repeated / per_token } else { 0.0 },
        }
    }
}

/// Cost: `O(T L k (1 + number of lags))`.
pub(super) fn switching(view: &View, domain_names: &[String]) -> Switching {
    let sums = view.per_layer(|layer| by_domain(view, layer));
    let all: Vec<Sums> = sums
        .iter()
        .map(|domains| {
            let mut total = Sums::default();
            domains.values().for_each(|sums| total.add(sums));
            total
        })
        .collect();
    let rates: Vec<LayerRate> = view.layers.iter().zip(&all).map(|(layer, sums)| sums.rate(layer)).collect();
    let domains = sums[0].keys().map(|&domain| {
        let rates: Vec<LayerRate> =
            view.layers.iter().zip(&sums).map(|(layer, domains)| domains[&domain].rate(layer)).collect();
        let (lowest, highest) = extremes(&rates);
        DomainRate {
            domain: domain_names[usize::from(domain)].clone(),
            tokens: sums[0][&domain].tokens,
            switch_rate: mean(rates.iter().filter_map(|rate| rate.switch_rate)),
            switch_rate_memoryless: mean(rates.iter().map(|rate| rate.switch_rate_memoryless)).unwrap_or(0.0),
            switch_rate_lowest: lowest,
            switch_rate_highest: highest,
        }
    });
    let (lowest, highest) = extremes(&rates);
    Switching {
        switch_rate: mean(rates.iter().filter_map(|rate| rate.switch_rate)),
        switch_rate_memoryless: mean(rates.iter().map(|rate| rate.switch_rate_memoryless)).unwrap_or(0.0),
        identical_sets: mean(all.iter().filter_map(|sums| share(sums.identical, sums.pairs))),
        switch_rate_lowest: lowest,
        switch_rate_highest: highest,
        switch_rate_by_domain: domains.collect(),
        overlap_by_lag: overlap_by_lag(view, &LAGS),
        switch_rate_by_layer: rates,
    }
}

fn by_domain(view: &View, layer: &Layer) -> BTreeMap<u8, Sums> {
    let mut domains: BTreeMap<u8, Sums> = BTreeMap::new();
    let mut previous = Overlap::new(layer.experts);
    for sequence in &view.sequences {
        for token in sequence.clone() {
            let chosen = layer.chosen(token);
            let sums = domains
                .entry(view.domain[token])
                .or_insert_with(|| Sums { chosen: vec![0; layer.experts], ..Sums::default() });
            sums.tokens += 1;
            for &e in chosen {
                sums.chosen[usize::from(e)] += 1;
            }
            if token > sequence.start {
                let kept = previous.with(chosen);
                sums.pairs += 1;
                sums.choices += chosen.len() as u64;
                sums.switched += (chosen.len() - kept) as u64;
                sums.identical += u64::from(kept == chosen.len());
            }
            previous.set(chosen);
        }
    }
    domains
}

/// Layers with the lowest and the highest rate; the first one on ties.
fn extremes(rates: &[LayerRate]) -> (Option<LayerRate>, Option<LayerRate>) {
    let known = || rates.iter().copied().filter(|rate| rate.switch_rate.is_some());
    let pick = |better: fn(f64, f64) -> bool| {
        known().reduce(|best, rate| match (best.switch_rate, rate.switch_rate) {
            (Some(a), Some(b)) if better(b, a) => rate,
            _ => best,
        })
    };
    (pick(|new, old| new < old), pick(|new, old| new > old))
}

fn overlap_by_lag(view: &View, lags: &[usize]) -> Vec<LagOverlap> {
    let kept = view.per_layer(|layer| {
        let mut kept = vec![0_u64; lags.len()];
        let mut current = Overlap::new(layer.experts);
        for sequence in &view.sequences {
            for token in sequence.clone() {
                current.set(layer.chosen(token));
                for (kept, &lag) in kept.iter_mut().zip(lags) {
                    if token >= sequence.start + lag {
                        *kept += current.with(layer.chosen(token - lag)) as u64;
                    }
                }
            }
        }
        kept
    });
    let choices = |lag: usize| {
        let pairs: usize = view.sequences.iter().map(|s| s.len().saturating_sub(lag)).sum();
        (pairs * view.shape.k * view.shape.layers) as u64
    };
    lags.iter()
        .enumerate()
        .filter_map(|(i, &lag)| {
            let overlap = share(kept.iter().map(|layer| layer[i]).sum(), choices(lag))?;
            Some(LagOverlap { lag, overlap })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::test_traces::{any_trace, draw, random, single, trace, view};
    use super::*;
    use crate::Trace;

    fn of(trace: &Trace) -> Switching {
        switching(&view(trace), &trace.meta.domains)
    }

    #[test]
    fn counts_changes_inside_sequences_only() {
        // One of two changes, then nothing, then (a new sequence) everything, then everything.
        let rows: [&[u16]; 5] = [&[0, 1], &[1, 2], &[2, 1], &[3, 4], &[0, 1]];
        let mut trace = single(5, &rows);
        trace.sequence = vec![0, 0, 0, 1, 1];
        let found = of(&trace);
        assert_eq!(found.switch_rate, Some((1 + 2) as f64 / 6.0));
        assert_eq!(found.identical_sets, Some(1.0 / 3.0));
        // Chosen by 2, 4, 2, 1, 1 of five tokens.
        assert!((found.switch_rate_memoryless - (1.0 - (4.0 + 16.0 + 4.0 + 1.0 + 1.0) / 25.0 / 2.0)).abs() < 1e-12);
        let overlap: Vec<(usize, f64)> = found.overlap_by_lag.iter().map(|point| (point.lag, point.overlap)).collect();
        assert_eq!(overlap, [(1, 0.5), (2, 0.5)]);
    }

    #[test]
    fn without_pairs_there_is_no_rate() {
        let found = of(&trace(4, 2, &[1, 1, 1], |token, _| vec![token as u16]));
        assert_eq!((found.switch_rate, found.identical_sets, found.switch_rate_lowest), (None, None, None));
        assert!(found.overlap_by_lag.is_empty());
    }

    #[test]
    fn independent_draws_meet_their_formula() {
        let mut random = random();
        let weights: Vec<f64> = (0..16).map(|e| 1.0 / (1.0 + e as f64)).collect();
        let found = of(&trace(16, 2, &[20_000], |_, _| draw(&mut random, 3, &weights)));
        let rate = found.switch_rate.unwrap();
        assert!((rate - found.switch_rate_memoryless).abs() < 0.005, "{rate} {}", found.switch_rate_memoryless);
        assert!((0.5..0.9).contains(&rate), "{rate}");
    }

    #[test]
    fn layers_and_domains_are_told_apart() {
        // Layer 1 never changes; layer 2 alternates in domain b only.
        let mut trace =
            trace(4, 2, &[4, 4], |token, layer| vec![if layer == 1 && token >= 4 { token as u16 % 2 } else { 3 }]);
        trace.meta.domains = vec!["unused".into(), "a".into(), "b".into()];
        trace.domain = vec![1, 1, 1, 1, 2, 2, 2, 2];
        let found = of(&trace);
        let layers = |low: Option<LayerRate>, high: Option<LayerRate>| (low.unwrap().layer, high.unwrap().layer);
        assert_eq!(layers(found.switch_rate_lowest, found.switch_rate_highest), (1, 2));
        let domains: Vec<_> =
            found.switch_rate_by_domain.iter().map(|d| (d.domain.as_str(), d.tokens, d.switch_rate.unwrap())).collect();
        assert_eq!(domains, [("a", 4, 0.0), ("b", 4, 0.5)]);
        assert_eq!(found.switch_rate_by_domain[1].switch_rate_memoryless, 0.25);
    }

    proptest! {
        #[test]
        fn rates_are_shares(trace in any_trace()) {
            let found = of(&trace);
            let share = |value: f64| (-1e-12..=1.0).contains(&value);
            prop_assert!(found.switch_rate.is_none_or(share));
            prop_assert!(share(found.switch_rate_memoryless));
            // The overlap at lag 1 is what does not switch.
            let kept = found.overlap_by_lag.first().map(|point| 1.0 - point.overlap);
            prop_assert_eq!(kept.is_some(), found.switch_rate.is_some());
            prop_assert!(kept.zip(found.switch_rate).is_none_or(|(a, b)| (a - b).abs() < 1e-12));
        }
    }
}
