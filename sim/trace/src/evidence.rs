//! Evidence before numbers: is what a trace says about its router true of what it recorded?
//!
//! Where a trace has logits and the choice, the choice is made again under the stated [`Router`] and compared, set by
//! set. Where nothing is stated, or what is stated does not explain the choice, groups and bias are tried. A trace
//! whose choice nothing explains is still a trace, but no selection from it can promise a bound. [`hold`] does this for
//! every trace that is read.
//!
//! ```
//! use cptr_trace::array::FloatArray;
//! use cptr_trace::evidence::{Evidence, examine};
//! use cptr_trace::{Router, Shape, Trace};
//!
//! let mut trace = Trace::of_ids(Shape { tokens: 2, layers: 1, experts: 4, k: 1 }, vec![1, 0]);
//! trace.logits = Some(FloatArray::owned([2, 1, 4], vec![0.0, 2.0, 1.0, -1.0, 0.0, 2.0, 1.0, -1.0]));
//! trace.meta.router = Router::SOFTMAX_ALL;
//! let evidence = examine(&trace).unwrap();
//! assert_eq!((evidence.explained, evidence.total), (1, 2));
//! assert!(!evidence.bound_promised());
//! assert!(evidence.to_string().starts_with("The convention softmax-all explains 50.00 % of 2 sets"));
//! ```

use std::fmt;

use cptr_core::Logit;
use serde::Serialize;

use crate::array::{Float, FloatArray};
use crate::error::{Error, Result};
use crate::router::{BiasPlace, Count, Rating, Router, Score};
use crate::{NO_EXPERT, Shape, Trace};

/// Share of the sets that a router must explain before a bound is promised: logits are recorded after rounding, and
/// kernels differ in the last bits, but one choice in a hundred is no rounding.
pub const ENOUGH: f64 = 0.99;
/// Sets that a trace is held against at the most, spread over all of it.
const MOST_SETS: usize = 1 << 17;
/// Sets that a guess is tried on.
const TRIED_SETS: usize = 2048;
/// Sets below which nothing is inferred: a few may fit anything.
const FEWEST_SETS: usize = 32;
/// Values from which the kind of an array shows.
const MIN_VALUES: usize = 64;

/// How far a router explains the choice that was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Evidence {
    /// The router that explains most.
    pub router: Router,
    /// The router that the source states.
    pub stated: Router,
    /// Whether `router` was found out rather than stated.
    pub inferred: bool,
    /// Whether the choice was not recorded: it was made from the logits by `router`.
    pub derived: bool,
    /// Recorded sets that `router` would choose too, up to ties that rounding of the logits makes.
    pub explained: usize,
    /// Sets looked at.
    pub total: usize,
    /// Sets of the trace.
    pub sets: usize,
}

impl Evidence {
    /// Nothing recorded to hold against: the choice was made from the logits.
    #[must_use]
    pub fn derived(router: Router) -> Self {
        Self { router, stated: router, inferred: false, derived: true, explained: 0, total: 0, sets: 0 }
    }

    /// Share of the sets that are explained, 0 to 1; 1 where there are none.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.total == 0 { 1.0 } else { self.explained as f64 / self.total as f64 }
    }

    /// Whether a bound on the loss can be kept: it is one of the router's mass, not of what somebody else chose.
    #[must_use]
    pub fn bound_promised(&self) -> bool {
        self.share() >= ENOUGH
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { router, stated, inferred, derived, explained, total, sets } = self;
        if *derived {
            let how = if router.is_known() { router.to_string() } else { "taking the k largest".into() };
            return write!(f, "The choice is not recorded: it was made from the logits by {how}.");
        }
        if router.is_known() {
            write!(f, "The convention {router} explains ")?;
        } else {
            f.write_str("No convention is stated; the k largest logits explain ")?;
        }
        // Not rounded up to all of them.
        let percent = (self.share() * 1e4).floor() / 100.0;
        if explained == total {
            write!(f, "all of {}", grouped(*total))?;
        } else {
            write!(f, "{percent:.2} % of {}", grouped(*total))?;
        }
        f.write_str(if total == sets { " sets" } else { " sampled sets" })?;
        if *inferred {
            write!(
                f,
                "; it is inferred, {} was stated",
                if stated.is_known() { stated.to_string() } else { "none".into() }
            )?;
        }
        f.write_str(if self.bound_promised() { "." } else { "; no bound on the loss can be promised." })
    }
}

/// A number with commas between thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let comma = |(i, c): (usize, char)| {
        let left = digits.len() - i;
        [Some(c), (left > 1 && left % 3 == 1).then_some(',')].into_iter().flatten()
    };
    digits.chars().enumerate().flat_map(comma).collect()
}

/// Holds a trace against its router, and looks for a better one where that does not explain the recorded choice. `None`
/// without logits.
#[must_use]
pub fn examine(trace: &Trace) -> Option<Evidence> {
    let logits = trace.logits.as_ref()?;
    let stated = trace.meta.router;
    let sets = Sets::new(trace, logits);
    let whole = |router: Router, inferred: bool| {
        let (explained, total) = sets.explained(router, MOST_SETS);
        Evidence { router, stated, inferred, derived: false, explained, total, sets: sets.count() }
    };
    let found = whole(stated, false);
    if found.total == 0 {
        return None;
    }
    if found.bound_promised() || found.total < FEWEST_SETS {
        return Some(found);
    }
    let share = |router: &Router| {
        let (explained, total) = sets.explained(*router, TRIED_SETS);
        explained as f64 / total.max(1) as f64
    };
    let better = candidates(trace).into_iter().map(|router| (share(&router), router));
    // The first of equal ones: candidates come in the order of their plausibility.
    let best = better.reduce(|best, next| if next.0 > best.0 { next } else { best });
    let best = best.filter(|(share, _)| *share >= ENOUGH).map(|(_, router)| whole(router, true));
    Some(best.filter(|best| best.bound_promised() && best.share() > found.share()).unwrap_or(found))
}

/// Routers that could be meant where the stated one is none or does not explain the choice.
fn candidates(trace: &Trace) -> Vec<Router> {
    let stated = trace.meta.router;
    let biased = trace.bias.is_some();
    let scores = match stated.score {
        Score::Unknown if biased => vec![Score::Sigmoid, Score::SoftmaxAll, Score::SqrtSoftplus],
        Score::Unknown => vec![Score::SoftmaxAll, Score::Sigmoid],
        known => vec![known],
    };
    let bases: Vec<Router> = scores
        .into_iter()
        .flat_map(|score| {
            let usual = Router::new(score);
            let base = if stated.is_known() { stated } else { Router { null_experts: stated.null_experts, ..usual } };
            let places = [BiasPlace::Selection, BiasPlace::SelectionLogits, BiasPlace::Logits];
            let others = places.into_iter().filter(move |&place| biased && place != base.bias);
            std::iter::once(base).chain(others.map(move |bias| Router { bias, ..base })).collect::<Vec<_>>()
        })
        .collect();
    let mut all = bases.clone();
    for (groups, kept) in groups(trace) {
        for base in &bases {
            for rating in [base.rating, if base.rating == Rating::Best { Rating::TwoBest } else { Rating::Best }] {
                all.push(Router { rating, ..base.grouped(groups, kept) });
            }
        }
    }
    all
}

/// Ways to cut the experts into groups such that no recorded set needs all of them, with the most groups that one
/// needs.
fn groups(trace: &Trace) -> Vec<(u16, u16)> {
    let Shape { tokens, layers, .. } = trace.shape;
    let scored = trace.scored();
    let counts = (2..=cptr_core::router::MAX_GROUPS.min(scored / 2)).filter(|groups| scored.is_multiple_of(*groups));
    let mut found = Vec::new();
    for groups in counts {
        let size = scored / groups;
        let needed = |ids: &[u16]| {
            let open = ids.iter().fold(0_u64, |open, &id| open | 1 << (usize::from(id) / size));
            open.count_ones()
        };
        let rows = (0..tokens).flat_map(|token| (0..layers).map(move |layer| (token, layer)));
        let most = rows.map(|(token, layer)| needed(trace.chosen(token, layer))).max().unwrap_or(0);
        if most >= 1 && (most as usize) < groups {
            found.push((groups as u16, most as u16));
        }
    }
    found
}

/// The recorded sets of a trace with the logits that they came from.
struct Sets<'a> {
    trace: &'a Trace,
    logits: &'a FloatArray,
    /// Layers whose choice comes from logits.
    layers: Vec<usize>,
}

impl<'a> Sets<'a> {
    fn new(trace: &'a Trace, logits: &'a FloatArray) -> Self {
        let router = trace.meta.router;
        let layers = (0..trace.shape.layers).filter(|&layer| !router.is_table(trace.meta.layer_ids[layer])).collect();
        Self { trace, logits, layers }
    }

    fn count(&self) -> usize {
        self.trace.shape.tokens * self.layers.len()
    }

    /// Sets explained, and sets looked at: at most about `most`, spread evenly.
    fn explained(&self, router: Router, most: usize) -> (usize, usize) {
        let step = self.count().div_ceil(most).max(1);
        let mut row = vec![0.0; self.trace.scored()];
        let (mut explained, mut total) = (0, 0);
        for set in (0..self.count()).step_by(step) {
            let (token, layer) = (set / self.layers.len(), self.layers[set % self.layers.len()]);
            let recorded = self.trace.recorded(token, layer);
            let recorded = &recorded[..recorded.iter().position(|&id| id == NO_EXPERT).unwrap_or(recorded.len())];
            self.logits.read_row(token, layer, &mut row);
            total += 1;
            explained += usize::from(self.explains(router, &row, layer, recorded));
        }
        (explained, total)
    }

    fn explains(&self, router: Router, logits: &[f32], layer: usize, recorded: &[u16]) -> bool {
        let row = self.trace.row(logits, layer);
        let k = if router.count == Count::Fixed { recorded.len() } else { self.trace.shape.k };
        let scores = router.selection_scores(row);
        let chosen = if router.count == Count::Fixed && !matches!(router.score, Score::SparseMixer { .. }) {
            // The least of the recorded against the best of the others is the same without sorting.
            let score = |id: u16| scores[usize::from(id)];
            let least = recorded.iter().map(|&id| score(id)).fold(f64::INFINITY, f64::min);
            let others = (0..scores.len() as u16).filter(|id| !recorded.contains(id));
            let best = others.map(score).fold(f64::NEG_INFINITY, f64::max);
            return least > f64::NEG_INFINITY && best <= least + self.tolerance(logits, router);
        } else {
            router.choose(row, k).ids
        };
        chosen.len() == recorded.len() && chosen.iter().all(|id| recorded.contains(id))
    }

    /// What rounding of the recorded logits may move two scores apart.
    fn tolerance(&self, logits: &[f32], router: Router) -> f64 {
        let step = match self.logits.float() {
            Float::F16 => f64::exp2(-10.0),
            Float::Bf16 => f64::exp2(-7.0),
            Float::F32 => f64::exp2(-22.0),
        };
        let largest = logits.iter().filter(|z| z.is_finite()).fold(0.0_f32, |most, z| most.max(z.abs()));
        // A score of its own moves by at most a quarter of what its logit does; sums of two by twice that.
        let slope = if router.is_softmax() { 1.0 } else { 0.5 };
        step * f64::from(largest) * slope
    }
}

/// What an array of three axes that is called logits holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Logits,
    /// Rows of shares that sum to 1.
    Probabilities,
    /// Numbers between 0 and 1 that do not.
    Scores,
    /// Whole numbers.
    Counts,
    /// Shares, most of them 0.
    Fractions,
}

impl Kind {
    fn of(logits: &FloatArray) -> Self {
        let [tokens, layers, experts] = logits.shape();
        if logits.len() < MIN_VALUES || experts < 2 {
            return Self::Logits;
        }
        let mut row = vec![0.0; experts];
        let (mut ones, mut zeros, mut differ) = (0, 0, false);
        let (mut whole, mut within) = (true, true);
        let mut first = None;
        for token in 0..tokens {
            for layer in 0..layers {
                logits.read_row(token, layer, &mut row);
                if row.iter().any(|&z| z < 0.0) {
                    return Self::Logits;
                }
                whole &= row.iter().all(|z| z.fract() == 0.0);
                within &= row.iter().all(|&z| z <= 1.0);
                if !whole && !within {
                    return Self::Logits;
                }
                let first = *first.get_or_insert(row[0]);
                differ |= row.iter().any(|&z| z != first);
                zeros += row.iter().filter(|&&z| z == 0.0).count();
                // Four bits of a bf16 sum, and more of many experts.
                ones += usize::from((row.iter().sum::<f32>() - 1.0).abs() <= 0.01);
            }
        }
        let rows = tokens * layers;
        match () {
            () if !differ => Self::Logits,
            () if whole => Self::Counts,
            () if ones * 1000 >= rows * 999 && zeros * 2 > logits.len() => Self::Fractions,
            () if ones * 1000 >= rows * 999 => Self::Probabilities,
            () => Self::Scores,
        }
    }
}

/// The gate that every trace passes when it is read, after [`Trace::validate`]: tells logits from what looks like them,
/// brings them into the controller's range, makes the choice where it was not recorded, and takes the evidence.
///
/// # Errors
/// If the logits are counts, fractions or scores, or too large for a router that is no softmax.
pub fn hold(trace: &mut Trace) -> Result<()> {
    let derived = trace.evidence.is_some_and(|evidence| evidence.derived);
    if trace.logits.is_some() {
        tell(trace)?;
        fit(trace)?;
    }
    if derived {
        derive(trace);
        trace.evidence = Some(Evidence::derived(trace.meta.router));
        return Ok(());
    }
    trace.evidence = examine(trace);
    if let Some(evidence) = trace.evidence {
        if evidence.inferred {
            trace.meta.router = evidence.router;
        }
        // A stated router that explains everything needs no words.
        let sentence = evidence.to_string();
        if (evidence.inferred || !evidence.bound_promised()) && !trace.notes.contains(&sentence) {
            trace.notes.push(sentence);
        }
    }
    Ok(())
}

/// Logits from probabilities, or a refusal.
fn tell(trace: &mut Trace) -> Result<()> {
    let Some(logits) = &trace.logits else { return Ok(()) };
    let sigmoid = trace.meta.router.score == Score::Sigmoid;
    match Kind::of(logits) {
        Kind::Logits => Ok(()),
        Kind::Probabilities => {
            trace.logits = Some(logits.map(f32::ln));
            trace.notes.push("What is called logits are shares that sum to 1: their logarithm is taken, which gives the same softmax.".into());
            if trace.meta.router.score == Score::Unknown {
                trace.meta.router.score = Score::SoftmaxAll;
                trace.meta.router.renormalise = false;
            }
            Ok(())
        }
        Kind::Scores if sigmoid => {
            // A score that was rounded to 1 stands for the largest that was not.
            let most = 1.0 - f32::EPSILON / 2.0;
            trace.logits = Some(logits.map(|p| (p.min(most) / (1.0 - p.min(most))).ln()));
            trace.notes.push(
                "What is called logits are scores between 0 and 1: the logits of the sigmoid are taken from them."
                    .into(),
            );
            Ok(())
        }
        Kind::Scores => Err(Error::new(
            "expected logits, found values between 0 and 1 whose rows do not sum to 1: sigmoid scores are read with --router sigmoid, \
             fractions of tokens are no logits",
        )),
        Kind::Counts => Err(Error::new(
            "expected logits, found whole numbers of at least 0: counts [sequences, layers, experts] are read with --format moe-infinity",
        )),
        Kind::Fractions => Err(Error::new(
            "expected logits, found shares that sum to 1 and are mostly 0: fractions of tokens or the gates of the chosen alone are no logits",
        )),
    }
}

/// Shifts rows whose logits are beyond the controller's numbers.
fn fit(trace: &mut Trace) -> Result<()> {
    let Some(logits) = &trace.logits else { return Ok(()) };
    let [tokens, layers, experts] = logits.shape();
    let limit = Logit::MAX.to_num::<f32>();
    let mut row = vec![0.0; experts];
    let mut largest = 0.0_f32;
    for token in 0..tokens {
        for layer in 0..layers {
            logits.read_row(token, layer, &mut row);
            let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if best == f32::NEG_INFINITY {
                let place = |error: Error| error.at(format!("layer {layer}")).at(format!("token {token}"));
                return Err(place(Error::new("expected a finite logit, found minus infinity for all experts")));
            }
            largest = row.iter().filter(|z| z.is_finite()).fold(largest, |most, z| most.max(z.abs()));
        }
    }
    // A sigmoid is 1 long before.
    if largest <= limit || trace.meta.router.score == Score::Sigmoid {
        return Ok(());
    }
    if !trace.meta.router.is_softmax() {
        return Err(Error::new(format!("expected logits up to {limit} for {}, found {largest}", trace.meta.router)));
    }
    let mut values = Vec::with_capacity(logits.len());
    for token in 0..tokens {
        for layer in 0..layers {
            logits.read_row(token, layer, &mut row);
            let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            values.extend(row.iter().map(|z| z - best));
        }
    }
    trace.logits = Some(FloatArray::owned([tokens, layers, experts], values));
    trace.notes.push(format!(
        "Logits up to {largest} are beyond the controller's numbers: in each row the largest is made 0, which changes no softmax."
    ));
    Ok(())
}

/// Makes the choice of every token in every layer from the logits.
fn derive(trace: &mut Trace) {
    let Some(logits) = trace.logits.take() else { return };
    let Shape { tokens, layers, k, experts } = trace.shape;
    let router = trace.meta.router;
    if router.null_experts > 0 || !router.is_plain(trace.bias.is_some()) || router.bias == BiasPlace::Logits {
        let mut row = vec![0.0; trace.scored()];
        let mut ids = Vec::with_capacity(tokens * layers * k);
        for token in 0..tokens {
            for layer in 0..layers {
                logits.read_row(token, layer, &mut row);
                let mut chosen = router.choose(trace.row(&row, layer), k).ids;
                chosen.sort_by_key(|&id| usize::from(id) >= experts);
                chosen.resize(k, NO_EXPERT);
                ids.extend(chosen);
            }
        }
        trace.ids = ids;
    }
    trace.logits = Some(logits);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gate;

    /// A trace of logits, chosen by `choose`, stated as `stated`.
    fn made(tokens: usize, choose: &str, stated: &str, bias: Option<Vec<f32>>) -> Trace {
        let shape = Shape { tokens, layers: 1, experts: 16, k: 4 };
        let mut random = fastrand::Rng::with_seed(7);
        let logits: Vec<f32> = (0..tokens * 16).map(|_| random.f32() * 8.0 - 4.0).collect();
        let mut trace = Trace::of_ids(shape, vec![0; tokens * 4]);
        trace.logits = Some(FloatArray::owned([tokens, 1, 16], logits));
        trace.bias = bias;
        trace.meta.router = choose.parse().unwrap();
        derive(&mut trace);
        if trace.meta.router.is_plain(trace.bias.is_some()) {
            trace.ids = crate::top_k::of_logits(trace.logits.as_ref().unwrap(), 4);
        }
        trace.meta.router = stated.parse().unwrap();
        trace
    }

    fn bias() -> Option<Vec<f32>> {
        Some((0..16).map(|expert| ((expert * 7) % 16) as f32 / 8.0 - 1.0).collect())
    }

    #[test]
    fn routers_are_found_out() {
        for (choose, stated, bias, found) in [
            ("softmax-all", "softmax-all", None, "softmax-all"),
            ("softmax-all", "unknown", None, "unknown"),
            ("softmax-all:4:2", "softmax-all", None, "softmax-all:4:2"),
            ("softmax-all:4:2", "unknown", None, "softmax-all:4:2"),
            ("sigmoid:4:2", "sigmoid", bias(), "sigmoid:4:2"),
            ("sigmoid", "unknown", bias(), "sigmoid:1:1"),
            ("sigmoid:1:1:bias=choice", "sigmoid", bias(), "sigmoid:1:1:bias=choice"),
        ] {
            let mut trace = made(400, choose, stated, bias);
            gate::pass(&mut trace).unwrap();
            assert_eq!(trace.meta.router.to_string(), found, "{choose}: {:?}", trace.evidence);
            assert!(trace.bound_promised());
            assert_eq!(trace.notes.is_empty(), found == stated || found == "sigmoid:1:1" && stated == "sigmoid");
        }
    }

    #[test]
    fn probabilities_become_logits() {
        let mut trace = made(100, "softmax-selected", "unknown", None);
        let logits = trace.logits.clone().unwrap();
        let mut shares = Vec::new();
        let mut row = [0.0; 16];
        for token in 0..100 {
            logits.read_row(token, 0, &mut row);
            let total: f32 = row.iter().map(|z| z.exp()).sum();
            shares.extend(row.iter().map(|z| z.exp() / total));
        }
        trace.logits = Some(FloatArray::owned([100, 1, 16], shares));
        gate::pass(&mut trace).unwrap();
        assert_eq!(trace.meta.router, Router::SOFTMAX_ALL);
        assert!(trace.notes[0].contains("shares that sum to 1"), "{:?}", trace.notes);
        assert!(trace.evidence.is_some_and(|evidence| evidence.explained == 100));
        let mut other = [0.0; 16];
        trace.logits.unwrap().read_row(3, 0, &mut other);
        logits.read_row(3, 0, &mut row);
        assert!((0..16).all(|i| (other[i] - other[0] - row[i] + row[0]).abs() < 1e-4), "{other:?} {row:?}");
    }

    #[test]
    fn what_only_looks_like_logits_is_refused() {
        let pass = |router: Router, value: &dyn Fn(usize) -> f32| {
            let mut trace = made(100, "softmax-all", "unknown", None);
            trace.logits = Some(FloatArray::owned([100, 1, 16], (0..1600).map(value).collect()));
            trace.meta.router = router;
            trace.evidence = Some(Evidence::derived(router));
            gate::pass(&mut trace).map(|()| trace)
        };
        let refusal = |value: &dyn Fn(usize) -> f32| pass(Router::UNKNOWN, value).unwrap_err().to_string();
        assert!(refusal(&|i| (i % 7) as f32).contains("moe-infinity"));
        assert!(refusal(&|i| if i % 16 < 2 { 0.5 } else { 0.0 }).contains("mostly 0"));
        let scores = |i: usize| (i % 13) as f32 / 13.0;
        assert!(refusal(&scores).contains("--router sigmoid"));
        let trace = pass(Router::SIGMOID, &scores).unwrap();
        assert_eq!(trace.chosen(0, 0)[0], 12);
        assert!(refusal(&|_| f32::NEG_INFINITY).contains("minus infinity for all experts"));
        assert!(pass("sqrt-softplus".parse().unwrap(), &|i| i as f32 * -1e3).is_err());
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(["0", "999", "1,000", "14,400", "1,234,567"], [0, 999, 1000, 14_400, 1_234_567].map(grouped)[..]);
        let evidence =
            Evidence { explained: 14_397, total: 14_400, sets: 14_400, ..Evidence::derived(Router::SOFTMAX_ALL) };
        let sentence = Evidence { derived: false, ..evidence }.to_string();
        assert_eq!(sentence, "The convention softmax-all explains 99.97 % of 14,400 sets.");
    }

    proptest! {
        /// What a router chose, it explains: whatever the router.
        #[test]
        fn a_router_explains_its_own_choice(router in prop::sample::select(vec![
            "softmax-all", "softmax-selected:4:1", "sigmoid:4:3", "sigmoid:8:4:rating=best", "sqrt-softplus",
            "softmax-all:top-p=0.6", "sigmoid:1:1:threshold=0.7", "sparse-mixer", "softmax-all:2:1:rating=two",
        ]), biased in any::<bool>()) {
            let mut trace = made(50, router, router, if biased { bias() } else { None });
            gate::pass(&mut trace).unwrap();
            prop_assert_eq!(trace.evidence.map(|evidence| evidence.explained), Some(50), "{}", router);
        }
    }
}
