//! SRP and SCH: how well one fixed group of experts serves a segment of text
//! ("Not All Models Suit Expert Offloading", arXiv 2505.16056).
//!
//! `f(e, p, m)` is the number of the `m` tokens from `p` on that choose expert `e`; every `p` whose segment ends inside
//! its sequence counts.

use serde::Serialize;

use super::cache_curve::{Stack, note_use};
use super::view::{Layer, View, share};

/// Segment lengths in tokens.
pub(super) const SEGMENTS: [usize; 4] = [4, 16, 64, 256];
/// Cache sizes for SCH, as multiples of `k`.
pub(super) const RATIOS: [usize; 3] = [1, 2, 3];

/// SRP and SCH for one segment length.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Locality {
    /// Segment length `m` in tokens.
    pub segment_tokens: usize,
    /// Segments counted per layer.
    pub segments: u64,
    /// Segment routing best performance, 0..=1: `max_a 2 sum_(f >= a) f / sum [m 1(f >= a) + f]`, the best F1 score of
    /// a router that decides once per segment, for the whole model: sums over all experts of all layers, one threshold
    /// `a`.
    pub srp: f64,
    /// Experts that this router activates per segment and layer, divided by `k`.
    pub srp_size_ratio: f64,
    /// Segment cache best hit rate by cache size.
    pub sch: Vec<SegmentCache>,
}

/// Segment cache best hit rate for one cache size. The versions of the paper define different things under this name.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SegmentCache {
    /// Slots as a multiple of `k`.
    pub ratio: usize,
    /// Slots per layer, at most `E`.
    pub slots: usize,
    /// Versions 1 and 2 of the paper, closed form: the share of a segment's choices that its most chosen `slots`
    /// experts cover, `sum_p Top_slots{f} / sum_p sum_e f`; all layers together.
    pub sch_v1: f64,
    /// Version 3: hit rate of a cache that starts empty in every sequence, loads on demand and evicts the expert with
    /// the fewest choices in the next `m` tokens of the sequence (the current one not among them), the least recent on
    /// ties.
    pub sch_v3: f64,
}

/// Lengths that no sequence reaches are left out. Cost per length: `O(T L (k + largest f + stack search))`.
pub(super) fn locality(view: &View) -> Vec<Locality> {
    SEGMENTS.iter().filter_map(|&m| segment_length(view, m)).collect()
}

fn segment_length(view: &View, m: usize) -> Option<Locality> {
    let k = view.shape.k;
    let slots = RATIOS.map(|ratio| (ratio * k).min(view.shape.experts));
    let segments: usize = view.sequences.iter().map(|s| (s.len() + 1).saturating_sub(m)).sum();
    if segments == 0 {
        return None;
    }
    let layers = view.per_layer(|layer| (Segments::count(view, layer, m, slots), look_ahead_hits(view, layer, m)));
    let mut all = Segments { by_count: vec![0; m + 1], covered: [0; RATIOS.len()] };
    let mut hits = vec![0_u64; view.shape.experts];
    for (layer, layer_hits) in &layers {
        all.by_count.iter_mut().zip(&layer.by_count).for_each(|(sum, n)| *sum += n);
        all.covered.iter_mut().zip(&layer.covered).for_each(|(sum, n)| *sum += n);
        hits.iter_mut().zip(layer_hits).for_each(|(sum, n)| *sum += n);
    }
    let (srp, predicted) = all.best_f1();
    let choices = (segments * m * k * layers.len()) as u64;
    let accesses = (view.shape.tokens * k * layers.len()) as u64;
    let sch = RATIOS.iter().zip(slots).zip(all.covered).map(|((&ratio, slots), covered)| SegmentCache {
        ratio,
        slots,
        sch_v1: share(covered, choices).unwrap_or(0.0),
        sch_v3: share(hits[..slots].iter().sum(), accesses).unwrap_or(0.0),
    });
    Some(Locality {
        segment_tokens: m,
        segments: segments as u64,
        srp,
        srp_size_ratio: predicted as f64 / (segments * k * layers.len()) as f64,
        sch: sch.collect(),
    })
}

/// Sums over the segments of one length.
struct Segments {
    /// `[m + 1]` pairs of an expert and a segment by `f`; those with `f = 0` are not counted.
    by_count: Vec<u64>,
    /// Choices covered by the most chosen experts of each segment, by cache size.
    covered: [u64; RATIOS.len()],
}

impl Segments {
    fn count(view: &View, layer: &Layer, m: usize, slots: [usize; RATIOS.len()]) -> Self {
        let mut sums = Self { by_count: vec![0; m + 1], covered: [0; RATIOS.len()] };
        for sequence in view.sequences.iter().filter(|s| s.len() >= m) {
            let mut window = Window::new(layer.experts, m);
            for token in sequence.clone() {
                window.enter(layer.chosen(token));
                let tokens = token + 1 - sequence.start;
                if tokens > m {
                    window.leave(layer.chosen(token - m));
                }
                if tokens >= m {
                    sums.add(&mut window, slots);
                }
            }
        }
        sums
    }

    fn add(&mut self, window: &mut Window, slots: [usize; RATIOS.len()]) {
        window.lower_top();
        let (mut experts, mut choices, mut size) = (0, 0, 0);
        for f in (1..=window.top).rev() {
            let n = window.with_count[f];
            self.by_count[f] += n as u64;
            experts += n;
            choices += n * f;
            while size < slots.len() && experts >= slots[size] {
                self.covered[size] += (choices - (experts - slots[size]) * f) as u64;
                size += 1;
            }
        }
        self.covered[size..].iter_mut().for_each(|covered| *covered += choices as u64);
    }

    /// The best F1 score and the number of (expert, segment) pairs predicted active by the rule that reaches it.
    /// A threshold of 0 predicts everything active and never beats 1: it adds pairs that are never right.
    fn best_f1(&self) -> (f64, u64) {
        let m = self.by_count.len() as u64 - 1;
        let actual: u64 = self.by_count.iter().zip(0..).map(|(n, f)| n * f).sum();
        let (mut predicted, mut right) = (0, 0);
        let mut best = (0.0, 0);
        for f in (1..=m).rev() {
            predicted += self.by_count[f as usize];
            right += f * self.by_count[f as usize];
            let f1 = 2.0 * right as f64 / (m * predicted + actual) as f64;
            if f1 > best.0 {
                best = (f1, predicted);
            }
        }
        best
    }
}

/// The last `m` tokens, or fewer.
struct Window {
    /// `f` of each expert.
    count: Vec<usize>,
    /// `[m + 2]` number of experts by `f`; a token enters before another leaves.
    with_count: Vec<usize>,
    /// No expert has a larger `f`.
    top: usize,
}

impl Window {
    fn new(experts: usize, m: usize) -> Self {
        let mut with_count = vec![0; m + 2];
        with_count[0] = experts;
        Self { count: vec![0; experts], with_count, top: 0 }
    }

    fn enter(&mut self, chosen: &[u16]) {
        for &e in chosen {
            let f = &mut self.count[usize::from(e)];
            self.with_count[*f] -= 1;
            *f += 1;
            self.with_count[*f] += 1;
            self.top = self.top.max(*f);
        }
    }

    fn leave(&mut self, chosen: &[u16]) {
        for &e in chosen {
            let f = &mut self.count[usize::from(e)];
            self.with_count[*f] -= 1;
            *f -= 1;
            self.with_count[*f] += 1;
        }
    }

    fn lower_top(&mut self) {
        while self.with_count[self.top] == 0 {
            self.top -= 1;
        }
    }
}

/// SCH version 3: hits by place in the stack.
fn look_ahead_hits(view: &View, layer: &Layer, m: usize) -> Vec<u64> {
    let mut stack = Stack::new(layer.experts);
    for sequence in &view.sequences {
        stack.clear();
        let mut last = vec![0; layer.experts];
        let mut ahead = vec![0_u64; layer.experts];
        let mut known = sequence.start + 1;
        for token in sequence.clone() {
            while known <= token + m && known < sequence.end {
                layer.chosen(known).iter().for_each(|&e| ahead[usize::from(e)] += 1);
                known += 1;
            }
            let chosen = layer.chosen(token);
            stack.serve(chosen, |e| (ahead[e], last[e]));
            note_use(&mut last, token, chosen);
            if token + 1 < sequence.end {
                layer.chosen(token + 1).iter().for_each(|&e| ahead[usize::from(e)] -= 1);
            }
        }
    }
    stack.hits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::test_traces::{any_trace, single, sticky, view};
    use super::*;
    use crate::Trace;

    /// `f` of every expert in every segment, from the definition.
    fn segments(trace: &Trace, m: usize) -> Vec<Vec<usize>> {
        (0..(trace.shape.tokens + 1).saturating_sub(m))
            .filter(|&p| trace.sequence[p] == trace.sequence[p + m - 1])
            .map(|p| {
                let chosen = |e: usize| (p..p + m).filter(|&t| trace.chosen(t, 0).contains(&(e as u16))).count();
                (0..trace.shape.experts).map(chosen).collect()
            })
            .collect()
    }

    fn srp(segments: &[Vec<usize>], m: usize) -> f64 {
        let f1 = |a: usize| {
            let (mut right, mut all) = (0, 0);
            for &f in segments.iter().flatten() {
                right += if f >= a { 2 * f } else { 0 };
                all += f + if f >= a { m } else { 0 };
            }
            right as f64 / all as f64
        };
        (0..=m).map(f1).fold(0.0, f64::max)
    }

    /// SCH version 3 for one size, expert by expert.
    fn sch_v3(trace: &Trace, m: usize, size: usize) -> f64 {
        let mut hits = 0;
        let mut resident: Vec<u16> = Vec::new();
        for t in 0..trace.shape.tokens {
            if trace.starts_sequence(t) {
                resident.clear();
            }
            let chosen = trace.chosen(t, 0);
            let same = |s: usize| s < trace.shape.tokens && trace.sequence[s] == trace.sequence[t];
            let worth = |e: u16| {
                let ahead = (t + 1..=t + m).filter(|&s| same(s) && trace.chosen(s, 0).contains(&e)).count();
                let rank = |s: usize| trace.chosen(s, 0).iter().position(|&other| other == e);
                let used = (0..t).rev().find_map(|s| rank(s).map(|rank| (s, chosen.len() - rank)));
                (ahead, used)
            };
            for &e in chosen {
                if resident.contains(&e) {
                    hits += 1;
                    continue;
                }
                if resident.len() == size {
                    let others = resident.iter().copied().filter(|other| !chosen.contains(other));
                    let victim = others.min_by_key(|&other| worth(other)).expect("size >= k");
                    resident.retain(|&other| other != victim);
                }
                resident.push(e);
            }
        }
        f64::from(hits) / trace.ids.len() as f64
    }

    #[test]
    fn constant_routing_is_perfectly_local() {
        let found = locality(&view(&single(8, &[&[1_u16, 2][..]; 20])));
        assert_eq!(found.iter().map(|point| point.segment_tokens).collect::<Vec<_>>(), [4, 16]);
        for point in found {
            assert_eq!((point.srp, point.srp_size_ratio, point.sch[0].sch_v1), (1.0, 1.0, 1.0));
            assert_eq!(point.sch[0].sch_v3, 38.0 / 40.0);
        }
    }

    #[test]
    fn a_cycle_is_as_local_as_chance() {
        // Four experts in turn: each segment of 4 uses each once, so all-or-nothing gains 2 * 4 / (4 * 4 + 4).
        let rows: Vec<[u16; 1]> = (0..40).map(|token| [token % 4]).collect();
        let rows: Vec<&[u16]> = rows.iter().map(|row| &row[..]).collect();
        let found = &locality(&view(&single(4, &rows)))[0];
        assert_eq!((found.segments, found.srp, found.srp_size_ratio), (37, 0.4, 4.0));
        assert_eq!(found.sch.iter().map(|sch| sch.sch_v1).collect::<Vec<_>>(), [0.25, 0.5, 0.75]);
    }

    #[test]
    fn short_sequences_have_no_segments() {
        assert!(locality(&view(&super::super::test_traces::trace(4, 1, &[3, 3], |_, _| vec![0]))).is_empty());
    }

    #[test]
    fn agrees_with_the_definitions_on_a_longer_trace() {
        let trace = sticky(12, 2, 1, &[90, 40], 0.6);
        let found = locality(&view(&trace));
        assert_eq!(found.len(), 3);
        for point in &found {
            assert_definitions(&trace, point);
        }
    }

    fn assert_definitions(trace: &Trace, point: &Locality) {
        let m = point.segment_tokens;
        let segments = segments(trace, m);
        assert_eq!(point.segments, segments.len() as u64);
        assert!((point.srp - srp(&segments, m)).abs() < 1e-12);
        for sch in &point.sch {
            let covered: usize = segments
                .iter()
                .map(|counts| {
                    let mut counts = counts.clone();
                    counts.sort_by(|a, b| b.cmp(a));
                    counts.iter().take(sch.slots).sum::<usize>()
                })
                .sum();
            let all: usize = segments.iter().flatten().sum();
            assert!((sch.sch_v1 - covered as f64 / all as f64).abs() < 1e-12);
            assert!((sch.sch_v3 - sch_v3(trace, m, sch.slots)).abs() < 1e-12);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definitions(trace in any_trace()) {
            for m in [1, 2, 3, 5] {
                if let Some(point) = segment_length(&view(&trace), m) {
                    assert_definitions(&trace, &point);
                }
            }
        }
    }
}
