//! Traces that look like Mixtral's: calibrated to what is published of its routing, and checked against it.
//!
//! Published: how often consecutive tokens have the same first choice, and how often they share an expert (Mixtral,
//! arXiv 2401.04088, table 5, for three layers of 32 and several data sets; the middle of the range is taken, layers
//! between are interpolated), how unequal the use of experts is (Fiddler: the busiest has 1.22 to 1.45 times the mean),
//! how far the prompt predicts the answer (cosine 0.89 of the counts, arXiv 2512.04476), and how gate mass is divided
//! between the two (67 % of the experts at an unimportance up to 0.6, 30 % up to 0.9, 3 % above: HOBBIT, arXiv
//! 2411.01433).
//!
//! The model is a Markov chain in each layer: with some probability the first choice stays (or does not), else it is
//! drawn by popularity; with some probability the second one is (or is not) among the experts of the token before. Both
//! probabilities are found by bisection. Popularity is a fixed part per layer and a part that prompt and answer do not
//! share; it follows from the cosine, which makes one sequence more unequal than a whole data set. What is *not* in
//! these traces: contexts that change within an answer, and any relation between layers.

use super::random::Random;
use crate::array::FloatArray;
use crate::{Meta, Phase, Router, Shape, Trace};

/// Experts per layer, and chosen per token.
const EXPERTS: usize = 8;
/// (depth from 0 to 1, same first choice, any expert shared): middles of the published ranges.
const REPETITION: [(f64, f64, f64); 3] = [(0.0, 0.1425, 0.474), (15.0 / 31.0, 0.26, 0.643), (1.0, 0.23, 0.4905)];
/// Standard deviation of log popularity: the part of the layer, and the part of prompt or answer.
const POPULARITY: (f64, f64) = (0.2, 0.44);
/// Tokens over which a probability is judged while calibrating.
const CALIBRATION_TOKENS: usize = 10_000;

/// A model whose traces can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Like {
    /// Name on the command line.
    pub name: &'static str,
    /// Name in the trace.
    pub model: &'static str,
    /// MoE layers.
    pub layers: usize,
}

/// Models whose traces can be made. The repetition of 8x22B is not published: it is taken to be that of 8x7B at the
/// same depth.
pub const LIKE: [Like; 2] = [
    Like { name: "mixtral-8x7b", model: "Mixtral-8x7B", layers: 32 },
    Like { name: "mixtral-8x22b", model: "Mixtral-8x22B", layers: 56 },
];

/// What a layer should do and what it does.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Check {
    /// Layer.
    pub layer: usize,
    /// Share of tokens whose first choice is that of the token before: published.
    pub same_first_published: f64,
    /// The same in the trace.
    pub same_first: f64,
    /// Share of tokens that share an expert with the one before: published.
    pub shared_published: f64,
    /// The same in the trace.
    pub shared: f64,
}

impl Random {
    fn draw(&mut self, weights: &[f64; EXPERTS], allowed: impl Fn(usize) -> bool) -> usize {
        let total: f64 = (0..EXPERTS).filter(|&e| allowed(e)).map(|e| weights[e]).sum();
        let mut left = self.uniform() * total;
        let mut last = 0;
        for expert in (0..EXPERTS).filter(|&e| allowed(e)) {
            left -= weights[expert];
            last = expert;
            if left < 0.0 {
                break;
            }
        }
        last
    }
}

/// Probability that the first choice stays (negative: that it changes), and that the second is taken from the token
/// before (negative: that it is not).
#[derive(Debug, Clone, Copy, Default)]
struct Stickiness {
    first: f64,
    second: f64,
}

fn step(random: &mut Random, popularity: &[f64; EXPERTS], sticky: Stickiness, before: [usize; 2]) -> [usize; 2] {
    let first = match random.uniform() < sticky.first.abs() {
        true if sticky.first > 0.0 => before[0],
        true => random.draw(popularity, |expert| expert != before[0]),
        false => random.draw(popularity, |_| true),
    };
    let from_before = |expert: usize| expert != first && before.contains(&expert);
    let second = match random.uniform() < sticky.second.abs() {
        true if sticky.second > 0.0 => random.draw(popularity, from_before),
        true => random.draw(popularity, |expert| expert != first && !before.contains(&expert)),
        false => random.draw(popularity, |expert| expert != first),
    };
    [first, second]
}

fn repetition(tokens: impl Iterator<Item = [usize; 2]>) -> (f64, f64) {
    let (mut before, mut pairs, mut first, mut shared) = (None::<[usize; 2]>, 0.0, 0.0, 0.0);
    for token in tokens {
        if let Some(before) = before {
            pairs += 1.0;
            first += f64::from(u8::from(token[0] == before[0]));
            shared += f64::from(u8::from(token.iter().any(|expert| before.contains(expert))));
        }
        before = Some(token);
    }
    (first / f64::max(pairs, 1.0), shared / f64::max(pairs, 1.0))
}

fn measured(popularity: &[f64; EXPERTS], sticky: Stickiness) -> (f64, f64) {
    // Always the same draws: the measure then changes smoothly with the probabilities.
    let mut random = Random(1);
    let mut before = [0, 1];
    repetition((0..CALIBRATION_TOKENS).map(|_| {
        before = step(&mut random, popularity, sticky, before);
        before
    }))
}

fn bisect(mut low: f64, mut high: f64, above: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..12 {
        let middle = (low + high) / 2.0;
        if above(middle) { high = middle } else { low = middle }
    }
    (low + high) / 2.0
}

fn calibrate(popularity: &[f64; EXPERTS], target: (f64, f64)) -> Stickiness {
    let first = bisect(-1.0, 0.6, |first| measured(popularity, Stickiness { first, second: 0.0 }).0 > target.0);
    let second = bisect(-1.0, 1.0, |second| measured(popularity, Stickiness { first, second }).1 > target.1);
    Stickiness { first, second }
}

fn target(layer: usize, layers: usize) -> (f64, f64) {
    let depth = layer as f64 / (layers.max(2) - 1) as f64;
    let after = REPETITION.iter().position(|point| point.0 >= depth).unwrap_or(REPETITION.len() - 1).max(1);
    let (a, b) = (REPETITION[after - 1], REPETITION[after]);
    let share = ((depth - a.0) / (b.0 - a.0)).clamp(0.0, 1.0);
    (a.1 + share * (b.1 - a.1), a.2 + share * (b.2 - a.2))
}

fn popularity(fixed: &[f64; EXPERTS], random: &mut Random) -> [f64; EXPERTS] {
    fixed.map(|level| (POPULARITY.0 * level + POPULARITY.1 * random.normal()).exp())
}

/// Mixing weight of the first choice: 34 % of tokens up to 0.6, 60 % up to 0.9, 6 % above, even inside.
fn first_weight(random: &mut Random) -> f64 {
    let place = random.uniform();
    let within = random.uniform();
    match () {
        () if place < 0.34 => 0.5 + 0.1 * within,
        () if place < 0.94 => 0.6 + 0.3 * within,
        () => 0.9 + 0.1 * within,
    }
}

/// One sequence of `prefill` tokens of prompt and `decode` tokens of answer, reproducible by its seed, and the check of
/// every layer.
pub fn generate(like: Like, prefill: usize, decode: usize, seed: u64) -> (Trace, Vec<Check>) {
    let tokens = prefill + decode;
    let shape = Shape { tokens, layers: like.layers, experts: EXPERTS, k: 2 };
    let mut ids = vec![0; tokens * like.layers * 2];
    let mut weights = vec![0.0; ids.len()];
    let mut checks = Vec::new();
    for layer in 0..like.layers {
        let mut random = Random(seed ^ (layer as u64 + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let fixed: [f64; EXPERTS] = std::array::from_fn(|_| random.normal());
        let parts = [popularity(&fixed, &mut random), popularity(&fixed, &mut random)];
        let goal = target(layer, like.layers);
        let sticky = parts.map(|part| calibrate(&part, goal));
        let mut before = [0, 1];
        let mut chosen = Vec::with_capacity(tokens);
        for token in 0..tokens {
            let part = usize::from(token >= prefill);
            before = step(&mut random, &parts[part], sticky[part], before);
            chosen.push(before);
            let at = (token * like.layers + layer) * 2;
            let weight = first_weight(&mut random) as f32;
            (ids[at], ids[at + 1]) = (before[0] as u16, before[1] as u16);
            (weights[at], weights[at + 1]) = (weight, 1.0 - weight);
        }
        let (same_first, shared) = repetition(chosen.into_iter());
        checks.push(Check { layer, same_first_published: goal.0, same_first, shared_published: goal.1, shared });
    }
    let phase = |token| if token < prefill { Phase::Prefill } else { Phase::Decode };
    let trace = Trace {
        shape,
        meta: Meta {
            model: like.model.into(),
            router: Router::SOFTMAX_SELECTED,
            source: format!("generated like {}, seed {seed}", like.name),
            domains: vec!["generated".into()],
            layer_ids: (0..like.layers as u32).collect(),
        },
        ids,
        weights: Some(FloatArray::owned([tokens, like.layers, 2], weights)),
        logits: None,
        bias: None,
        expert_scale: None,
        hidden: None,
        sequence: vec![0; tokens],
        position: (0..tokens as u32).collect(),
        phase: (0..tokens).map(phase).collect(),
        token: None,
        domain: vec![0; tokens],
        evidence: None,
        notes: vec!["Generated, not recorded: calibrated to published statistics of consecutive tokens.".into()],
    };
    (trace, checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_is_the_published_one() {
        let (trace, checks) = generate(LIKE[0], 512, 8192, 7);
        trace.validate().unwrap();
        assert_eq!(checks.len(), 32);
        for check in &checks {
            // Three standard errors of some 8,700 correlated pairs.
            assert!((check.same_first - check.same_first_published).abs() < 0.025, "{check:?}");
            assert!((check.shared - check.shared_published).abs() < 0.025, "{check:?}");
        }
        // The published layers themselves.
        assert!((checks[0].same_first_published - 0.1425).abs() < 1e-9);
        assert!((checks[15].shared_published - 0.643).abs() < 1e-9);
        assert!((checks[31].shared_published - 0.4905).abs() < 1e-9);
    }

    #[test]
    fn prompts_predict_answers_as_published() {
        let (trace, _) = generate(LIKE[0], 2048, 8192, 3);
        let counts = |layer: usize, tokens: std::ops::Range<usize>| {
            let mut counts = [0.0f64; EXPERTS];
            tokens.for_each(|token| trace.chosen(token, layer).iter().for_each(|&e| counts[usize::from(e)] += 1.0));
            counts
        };
        let (mut cosine, mut skew) = (0.0, 0.0);
        for layer in 0..32 {
            let (a, b) = (counts(layer, 0..2048), counts(layer, 2048..10_240));
            let dot = |x: &[f64; 8], y: &[f64; 8]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            cosine += dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt() / 32.0;
            skew += b.iter().copied().fold(0.0, f64::max) / (2.0 * 8192.0 / 8.0) / 32.0;
        }
        assert!((0.86..0.92).contains(&cosine), "{cosine}");
        // One sequence; whole data sets have 1.22 to 1.45.
        assert!((1.2..2.0).contains(&skew), "{skew}");
    }

    #[test]
    fn a_seed_stands_for_a_trace() {
        let ids = |seed| generate(LIKE[1], 8, 32, seed).0.ids;
        assert_eq!(ids(1), ids(1));
        assert_ne!(ids(1), ids(2));
        assert_eq!(generate(LIKE[1], 8, 32, 1).0.shape.layers, 56);
    }

    #[test]
    fn gate_mass_is_divided_as_published() {
        let mut random = Random(5);
        let weights: Vec<f64> = (0..20_000).map(|_| first_weight(&mut random)).collect();
        let share = |low: f64, high: f64| weights.iter().filter(|w| (low..high).contains(*w)).count() as f64 / 20_000.0;
        // Of all experts, half are first choices with unimportance 0; the others have the weight of the first.
        assert!(((1.0 + share(0.5, 0.6)) / 2.0 - 0.67).abs() < 0.01);
        assert!((share(0.9, 1.0) / 2.0 - 0.03).abs() < 0.01);
    }
}
