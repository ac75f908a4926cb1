//! How soon a chosen expert is chosen again: the distance that a cache has to bridge.

use serde::Serialize;

use super::view::{Layer, View, share};

/// Reuse distances: how many tokens ago, anywhere in the trace, the same layer last chose this expert; 1 = the previous
/// token. First uses have no distance. All layers and choices together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reuse {
    /// Choices of an expert that its layer had not chosen before.
    pub first_uses: u64,
    /// Choices with a distance.
    pub reuses: u64,
    /// Smallest distance that at least half of the reuses do not exceed; `None` where nothing is reused, as below.
    pub median: Option<u64>,
    /// The same for 90 %.
    pub quantile_90: Option<u64>,
    /// The same for 99 %.
    pub quantile_99: Option<u64>,
    /// Share of reuses at distance 1.
    pub repeat_next: Option<f64>,
    /// Share of reuses at a distance of at most 8 tokens.
    pub within_8: Option<f64>,
    /// Shares of the reuses by distance, in powers of two.
    pub histogram: Vec<ReuseBin>,
}

/// Reuses at distances `from..=to`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ReuseBin {
    /// Shortest distance, in tokens.
    pub from: u64,
    /// Longest distance.
    pub to: u64,
    /// Share of all reuses.
    pub share: f64,
}

/// Cost: `O(T L k)`, memory `8 T` bytes per thread.
pub(super) fn reuse(view: &View) -> Reuse {
    let layers = view.per_layer(distances);
    let longest = layers.iter().map(|(_, counts)| counts.len()).max().unwrap_or(0);
    let mut counts = vec![0_u64; longest];
    for (_, layer) in &layers {
        for (sum, n) in counts.iter_mut().zip(layer) {
            *sum += n;
        }
    }
    summary(layers.iter().map(|(first, _)| first).sum(), &counts)
}

/// First uses, and the number of reuses by distance.
fn distances(layer: &Layer) -> (u64, Vec<u64>) {
    let mut last = vec![None; layer.experts];
    let (mut first, mut counts) = (0, Vec::new());
    for (token, chosen) in layer.rows().enumerate() {
        for &e in chosen {
            match last[usize::from(e)].replace(token) {
                None => first += 1,
                Some(before) => {
                    let distance: usize = token - before;
                    if counts.len() <= distance {
                        counts.resize(distance + 1, 0);
                    }
                    counts[distance] += 1;
                }
            }
        }
    }
    (first, counts)
}

fn summary(first_uses: u64, counts: &[u64]) -> Reuse {
    let reuses: u64 = counts.iter().sum();
    let quantile = |percent: u64| {
        let mut below = 0;
        let reached = counts.iter().position(|n| {
            below += n;
            below > 0 && u128::from(below) * 100 >= u128::from(reuses) * u128::from(percent)
        });
        reached.map(|distance| distance as u64)
    };
    let within = |from: usize, to: usize| counts.iter().take(to + 1).skip(from).sum::<u64>();
    let bins = (0..usize::BITS).map(|bits| (1_usize << bits, (1_usize << bits) * 2 - 1));
    let histogram = bins
        .take_while(|&(from, _)| from < counts.len())
        .filter_map(|(from, to)| {
            Some(ReuseBin { from: from as u64, to: to as u64, share: share(within(from, to), reuses)? })
        })
        .collect();
    Reuse {
        first_uses,
        reuses,
        median: quantile(50),
        quantile_90: quantile(90),
        quantile_99: quantile(99),
        repeat_next: share(within(1, 1), reuses),
        within_8: share(within(1, 8), reuses),
        histogram,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::test_traces::{any_trace, single, trace, view};
    use super::*;

    #[test]
    fn distances_of_a_known_row() {
        // Expert 0 after 1, 1 and 3 tokens, expert 1 after 2.
        let found = reuse(&view(&single(3, &[&[0], &[0], &[0], &[1], &[2], &[0], &[1]])));
        assert_eq!((found.first_uses, found.reuses), (3, 4));
        assert_eq!((found.median, found.quantile_90, found.repeat_next), (Some(1), Some(3), Some(0.5)));
        let bins: Vec<(u64, u64, f64)> = found.histogram.iter().map(|bin| (bin.from, bin.to, bin.share)).collect();
        assert_eq!(bins, [(1, 1, 0.5), (2, 3, 0.5)]);
    }

    #[test]
    fn without_reuse_there_are_no_distances() {
        let found = reuse(&view(&single(3, &[&[0], &[1], &[2]])));
        assert_eq!((found.first_uses, found.reuses, found.median, found.within_8), (3, 0, None, None));
        assert!(found.histogram.is_empty());
    }

    #[test]
    fn a_cycle_has_one_distance() {
        let found = reuse(&view(&trace(10, 3, &[1000], |token, _| vec![token as u16 % 10])));
        assert_eq!((found.median, found.quantile_99, found.within_8), (Some(10), Some(10), Some(0.0)));
    }

    proptest! {
        #[test]
        fn histogram_is_complete(trace in any_trace()) {
            let found = reuse(&view(&trace));
            prop_assert_eq!(found.first_uses + found.reuses, trace.ids.len() as u64);
            let total: f64 = found.histogram.iter().map(|bin| bin.share).sum();
            prop_assert!(found.reuses == 0 || (total - 1.0).abs() < 1e-12);
        }
    }
}
