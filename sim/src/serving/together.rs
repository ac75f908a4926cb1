//! How many different experts tokens run together, counted on a recording: tokens of one text, and of texts of one kind
//! or of all kinds side by side. Tokens that choose independently run more, as they have nothing in common.
//!
//! ```
//! use cptr_sim::serving::Together;
//! use cptr_trace::{Shape, Trace};
//!
//! // The first half of the text wants experts 0 to 3 in turn, the second 4 to 7, two at a time.
//! let ids = (0..400).flat_map(|token| [0, 1].map(|k| (token / 200 * 4 + (2 * token + k) % 4) as u16)).collect();
//! let trace = Trace::of_ids(Shape { tokens: 400, layers: 1, experts: 8, k: 2 }, ids);
//! let two = Together::of(&trace).rows().into_iter().find(|row| row.tokens == 2).ok_or("no such row")?;
//! // Tokens that follow each other share none, those of both halves neither; of independent ones one in four does.
//! assert_eq!((two.one_text, two.all_kinds), (Some(4.0), Some(4.0)));
//! assert!((two.independent - 3.5).abs() < 1e-9);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use cptr_trace::{Shape, Trace};
use serde::Serialize;

/// Batches that are counted of each size, spread over the recording.
const BATCHES: usize = 48;
/// Tokens that avoid each other's experts count as so many independent ones each, at most.
const MOST_TIMES: f64 = 4.0;
/// Of a size that fewer batches are possible of nothing is said.
const LEAST: usize = 4;

/// Different experts of a layer that tokens of a recording run together, by their number.
#[derive(Debug, Clone, PartialEq)]
pub struct Together {
    /// How often a token takes each expert of a layer, the most wanted first, mean over layers.
    wanted: Vec<f64>,
    one_text: Curve,
    one_kind: Curve,
    all_kinds: Curve,
}

/// Which texts are served side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Texts {
    /// All of one domain of the recording.
    OneKind,
    /// Of all its domains, as it has them.
    AllKinds,
}

/// One number of tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TogetherRow {
    /// Tokens that run together.
    pub tokens: u64,
    /// Different experts of a layer: tokens that follow each other in a text; `None` where no text is so long.
    pub one_text: Option<f64>,
    /// Tokens of texts of one kind side by side.
    pub one_kind: Option<f64>,
    /// Tokens of texts of all kinds side by side.
    pub all_kinds: Option<f64>,
    /// If they were wanted as often, and independently.
    pub independent: f64,
    /// What the independent assumption is above the tokens of one text, in parts of these.
    pub one_text_off: Option<f64>,
    /// Likewise texts of one kind side by side.
    pub one_kind_off: Option<f64>,
    /// Likewise texts of all kinds.
    pub all_kinds_off: Option<f64>,
}

impl Together {
    /// Counts a recording.
    #[must_use]
    pub fn of(trace: &Trace) -> Self {
        let wanted = wanted(trace);
        let tokens = trace.shape.tokens;
        let curve = |batches: &dyn Fn(usize) -> Vec<Vec<usize>>| Curve::count(trace, &wanted, batches);
        let texts = texts(trace);
        let all: Vec<usize> = (0..tokens).collect();
        let mut kinds: Vec<Vec<usize>> = Vec::new();
        for token in 0..tokens {
            let kind = usize::from(trace.domain.get(token).copied().unwrap_or(0));
            kinds.resize_with(kinds.len().max(kind + 1), Vec::new);
            kinds[kind].push(token);
        }
        let of_texts = |size| texts.iter().flat_map(move |text| windows(text.clone(), size)).collect();
        let one_text = curve(&|size| spread(of_texts(size), BATCHES));
        let one_kind = curve(&|size| {
            let each = BATCHES.div_ceil(kinds.len().max(1));
            kinds.iter().flat_map(|kind| spread(side_by_side(kind, size), each)).collect()
        });
        let all_kinds = curve(&|size| spread(side_by_side(&all, size), BATCHES));
        Self { wanted, one_text, one_kind, all_kinds }
    }

    /// How often a token takes each expert of a layer, the most wanted first, mean over layers.
    pub(super) fn wanted(&self) -> &[f64] {
        &self.wanted
    }

    /// How many tokens that choose independently run as many different experts as `decoding` texts side by side and
    /// `parts` texts of which `read` tokens in all are read. Texts that are read and those that are written have
    /// nothing in common beyond what is wanted often.
    pub(super) fn independent(&self, texts: Texts, decoding: u64, parts: u64, read: u64) -> f64 {
        let side_by_side = match texts {
            Texts::OneKind => &self.one_kind,
            Texts::AllKinds => &self.all_kinds,
        };
        let each = read as f64 / parts.max(1) as f64;
        side_by_side.at(decoding as f64) + parts as f64 * self.one_text.at(each)
    }

    /// What was counted.
    #[must_use]
    pub fn rows(&self) -> Vec<TogetherRow> {
        let sizes = |curve: &Curve| curve.points.iter().map(|point| point.tokens).collect::<Vec<_>>();
        let mut all = [&self.one_text, &self.one_kind, &self.all_kinds].map(sizes).concat();
        all.sort_unstable();
        all.dedup();
        let row = |tokens: u64| {
            let independent = different(self.wanted.iter().copied(), tokens as f64);
            let of =
                |curve: &Curve| curve.points.iter().find(|point| point.tokens == tokens).map(|point| point.experts);
            let counted = [&self.one_text, &self.one_kind, &self.all_kinds].map(of);
            let [one_text, one_kind, all_kinds] = counted;
            let off = |counted: Option<f64>| counted.map(|counted| independent / counted - 1.0);
            let [one_text_off, one_kind_off, all_kinds_off] = counted.map(off);
            TogetherRow {
                tokens,
                one_text,
                one_kind,
                all_kinds,
                independent,
                one_text_off,
                one_kind_off,
                all_kinds_off,
            }
        };
        all.into_iter().map(row).collect()
    }
}

/// One number of tokens that was counted.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    tokens: u64,
    /// Different experts of a layer, mean over layers and batches.
    experts: f64,
    /// Independent tokens that run as many.
    independent: f64,
}

/// By numbers of tokens, ascending, from one on.
#[derive(Debug, Clone, PartialEq)]
struct Curve {
    points: Vec<Point>,
}

impl Curve {
    /// Doubles the tokens as long as there are enough batches of them.
    fn count(trace: &Trace, wanted: &[f64], batches: &dyn Fn(usize) -> Vec<Vec<usize>>) -> Self {
        let mut points = Vec::new();
        for size in (0..).map(|power| 1_usize << power).take_while(|&size| size <= trace.shape.tokens) {
            let batches = batches(size);
            if batches.len() < LEAST {
                break;
            }
            let experts = batches.iter().map(|tokens| distinct(trace, tokens)).sum::<f64>() / batches.len() as f64;
            let independent = solve(wanted, experts, MOST_TIMES * size as f64);
            points.push(Point { tokens: size as u64, experts, independent });
        }
        Self { points }
    }

    /// Straight between points; beyond the last in its proportion, which is the most: tokens have more in common the
    /// more there are.
    fn at(&self, tokens: f64) -> f64 {
        let mut before = (0.0, 0.0);
        for point in &self.points {
            let (end, independent) = (point.tokens as f64, point.independent);
            if tokens <= end {
                let part = (tokens - before.0) / (end - before.0);
                return before.1 + part * (independent - before.1);
            }
            before = (end, independent);
        }
        // A recording too short to say anything.
        if before.0 == 0.0 { tokens } else { tokens * before.1 / before.0 }
    }
}

/// Different experts that independent tokens run which take each so often.
pub(super) fn different(often: impl Iterator<Item = f64>, tokens: f64) -> f64 {
    often.map(|p| 1.0 - (1.0 - p.min(1.0)).powf(tokens)).sum()
}

/// Independent tokens that run so many different experts, at most so many: all experts run only in the limit.
fn solve(wanted: &[f64], experts: f64, most: f64) -> f64 {
    let (mut low, mut high) = (0.0, most);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        *(if different(wanted.iter().copied(), middle) < experts { &mut low } else { &mut high }) = middle;
    }
    0.5 * (low + high)
}

fn wanted(trace: &Trace) -> Vec<f64> {
    let Shape { tokens, layers, experts, .. } = trace.shape;
    let mut wanted = vec![0.0; experts];
    for layer in 0..layers {
        let mut counts = vec![0_u64; experts];
        (0..tokens).flat_map(|token| trace.chosen(token, layer)).for_each(|&expert| counts[usize::from(expert)] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let of = |count: u64| count as f64 / (tokens * layers) as f64;
        wanted.iter_mut().zip(counts).for_each(|(wanted, count)| *wanted += of(count));
    }
    wanted
}

/// Tokens of each text.
fn texts(trace: &Trace) -> Vec<std::ops::Range<usize>> {
    let starts: Vec<usize> = (0..trace.shape.tokens).filter(|&token| trace.starts_sequence(token)).collect();
    let ends = starts.iter().skip(1).copied().chain([trace.shape.tokens]);
    starts.iter().zip(ends).map(|(&start, end)| start..end).collect()
}

/// Tokens that follow each other, without overlap.
fn windows(text: std::ops::Range<usize>, size: usize) -> impl Iterator<Item = Vec<usize>> {
    let whole = text.len() / size;
    (0..whole).map(move |window| (text.start + window * size..text.start + (window + 1) * size).collect())
}

/// A list cut into equal parts, and a token of each at the same place: as far from each other as they can be.
fn side_by_side(tokens: &[usize], size: usize) -> Vec<Vec<usize>> {
    let length = tokens.len() / size;
    (0..length).map(|place| (0..size).map(|part| tokens[part * length + place]).collect()).collect()
}

/// At most so many of them, at equal distances.
fn spread(batches: Vec<Vec<usize>>, most: usize) -> Vec<Vec<usize>> {
    let step = batches.len().div_ceil(most).max(1);
    batches.into_iter().step_by(step).collect()
}

/// Different experts of a layer, mean over layers.
fn distinct(trace: &Trace, tokens: &[usize]) -> f64 {
    let Shape { layers, experts, .. } = trace.shape;
    let mut sum = 0;
    for layer in 0..layers {
        let mut runs = vec![false; experts];
        tokens
            .iter()
            .flat_map(|&token| trace.chosen(token, layer))
            .for_each(|&expert| runs[usize::from(expert)] = true);
        sum += runs.into_iter().filter(|&runs| runs).count();
    }
    sum as f64 / layers as f64
}
