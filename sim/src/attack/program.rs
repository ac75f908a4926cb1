//! Routing as a short program: which set of experts is wanted for how long, and in which order.

use cptr_trace::array::FloatArray;
use cptr_trace::error::{Error, Result};
use cptr_trace::{Router, Shape, Trace};
use serde::{Deserialize, Serialize};

/// Sets and parts that a program may have.
const MOST: usize = 16;
/// Where scores of others are nearest.
pub const NEAREST: u8 = 15;
/// Tokens of a part, parts, places and lags of a program that somebody wrote.
const MOST_TOKENS: usize = 1 << 16;
/// Scores of a trace: each takes four bytes, and several traces are made at a time.
const MOST_SCORES: usize = 1 << 26;
/// Tokens that a part may last.
const LONGEST: usize = 512;

/// Logit of the most wanted expert, and how far below it that of the least wanted is at most.
const WANTED: f32 = 2.0;
const SPAN: f32 = 0.5;

/// Parts, one after the other, again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Sets of experts: the first k of one are wanted first.
    pub sets: Vec<Vec<u16>>,
    /// What is done with them.
    pub parts: Vec<Part>,
    /// Tokens by which each layer is later than the one before.
    pub lag: usize,
    /// How near the router's scores of all other experts are to the least of the wanted: 0 far, [`NEAREST`] hardly
    /// below. What stands in for a wanted expert costs the less.
    pub nearness: u8,
}

/// A stretch of tokens that want experts of one set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Index of the set.
    pub set: usize,
    /// Length.
    pub tokens: usize,
    /// Places in the set by which each token is further than the one before; the set is a ring.
    pub stride: usize,
}

/// How a router may behave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Tokens, layers, experts, experts a token.
    pub shape: Shape,
    /// Share of a token's experts that may be others than those of the token before.
    pub turnover: f64,
}

impl Program {
    /// Anything.
    pub(super) fn random(limits: &Limits, random: &mut fastrand::Rng) -> Self {
        let sets = (0..random.usize(1..=4)).map(|_| set(limits, random)).collect::<Vec<_>>();
        let parts = (0..random.usize(1..=4)).map(|_| part(sets.len(), limits, random)).collect();
        Self { sets, parts, lag: random.usize(0..64), nearness: random.u8(0..=NEAREST) }
    }

    /// Something near it.
    pub(super) fn changed(&self, limits: &Limits, random: &mut fastrand::Rng) -> Self {
        let mut new = self.clone();
        for _ in 0..random.usize(1..=3) {
            let at = random.usize(0..new.parts.len());
            let of = random.usize(0..new.sets.len());
            match random.usize(0..10) {
                0 if new.sets.len() < MOST => new.sets.push(set(limits, random)),
                1 => new.sets[of] = set(limits, random),
                2 => random.shuffle(&mut new.sets[of]),
                3 if new.parts.len() < MOST => new.parts.insert(at, part(new.sets.len(), limits, random)),
                4 if new.parts.len() > 1 => drop(new.parts.remove(at)),
                5 => new.parts[at].tokens = (new.parts[at].tokens * random.usize(1..=4)).div_ceil(2).min(LONGEST),
                6 => new.parts[at].stride = random.usize(0..=limits.shape.k),
                7 => new.parts[at].set = of,
                8 => new.nearness = random.u8(0..=NEAREST),
                _ => new.lag = random.usize(0..128),
            }
        }
        new
    }

    /// Programs with less in them.
    pub(super) fn smaller(&self) -> Vec<Self> {
        let mut all = Vec::new();
        for at in 0..self.parts.len() {
            if self.parts.len() > 1 {
                let mut new = self.clone();
                new.parts.remove(at);
                all.push(new);
            }
        }
        for (at, set) in self.sets.iter().enumerate() {
            if self.parts.iter().all(|part| part.set != at) {
                let mut new = self.clone();
                new.sets.remove(at);
                new.parts.iter_mut().for_each(|part| part.set -= usize::from(part.set > at));
                all.push(new);
            } else if set.len() > 1 {
                let mut new = self.clone();
                new.sets[at].truncate(set.len() / 2);
                all.push(new);
            }
        }
        if self.lag > 0 {
            all.push(Self { lag: 0, ..self.clone() });
        }
        all
    }

    /// The routing. Logits are such that the router, a softmax over all experts, chooses what is wanted.
    ///
    /// # Errors
    /// A program that names what is not there, or a shape with more experts a token than there are.
    pub fn trace(&self, limits: &Limits) -> Result<Trace> {
        let Shape { tokens, layers, experts, k } = limits.shape;
        let long = 1..=MOST_TOKENS;
        let broken = self.parts.is_empty()
            || self.parts.len() > MOST_TOKENS
            || self.lag > MOST_TOKENS
            || self.parts.iter().any(|part| part.set >= self.sets.len() || !long.contains(&part.tokens))
            || self.parts.iter().any(|part| part.stride > MOST_TOKENS)
            || self.sets.iter().flatten().any(|&id| usize::from(id) >= experts)
            || self.sets.iter().any(Vec::is_empty);
        if broken || !(1..=experts).contains(&k) {
            return Err(Error::new(format!(
                "expected a program of parts with sets of experts below {experts}, at least {k}, found another"
            )));
        }
        if tokens.saturating_mul(layers).saturating_mul(experts) > MOST_SCORES {
            return Err(Error::new(format!(
                "expected at most {MOST_SCORES} scores, found {tokens} tokens of {layers} layers of {experts} experts"
            )));
        }
        let round: usize = self.parts.iter().map(|part| part.tokens).sum();
        let most = ((limits.turnover * k as f64).ceil() as usize).clamp(1, k);
        let mut before: Vec<Vec<u16>> = vec![Vec::new(); layers];
        let others = WANTED - SPAN - 0.1 * f32::from(NEAREST.saturating_sub(self.nearness) + 1);
        let (mut ids, mut logits) = (Vec::with_capacity(tokens * layers * k), vec![others; tokens * layers * experts]);
        for token in 0..tokens {
            for (layer, before) in before.iter_mut().enumerate() {
                let mut at = (token + layer * self.lag) % round;
                let part = self.parts.iter().find(|part| {
                    let inside = at < part.tokens;
                    at -= if inside { 0 } else { part.tokens };
                    inside
                });
                let Some(part) = part else { continue };
                wanted(&self.sets[part.set], at * part.stride, k, experts, most, before);
                let row = &mut logits[(token * layers + layer) * experts..][..experts];
                for (rank, &id) in before.iter().enumerate() {
                    row[usize::from(id)] = WANTED - SPAN * rank as f32 / k as f32;
                }
                ids.extend_from_slice(before);
            }
        }
        let mut trace = Trace::of_ids(limits.shape, ids);
        trace.meta.router = Router::SOFTMAX_ALL;
        trace.logits = Some(FloatArray::owned([tokens, layers, experts], logits));
        Ok(trace)
    }
}

/// Moves a token's experts towards k of a ring, from a place on, by `most` of them. A set that is too small is filled
/// up with the lowest of the others.
fn wanted(set: &[u16], from: usize, k: usize, experts: usize, most: usize, before: &mut Vec<u16>) {
    let mut target: Vec<u16> = Vec::with_capacity(k);
    let ring = (0..set.len()).map(|i| set[(from + i) % set.len()]);
    for id in ring.chain(0..experts as u16) {
        if target.len() == k {
            break;
        }
        if !target.contains(&id) {
            target.push(id);
        }
    }
    if before.is_empty() {
        *before = target;
        return;
    }
    let new: Vec<u16> = target.iter().copied().filter(|id| !before.contains(id)).take(most).collect();
    for id in new {
        if let Some(place) = before.iter().position(|old| !target.contains(old)) {
            before[place] = id;
        }
    }
}

fn set(limits: &Limits, random: &mut fastrand::Rng) -> Vec<u16> {
    let size = random.usize(limits.shape.k.min(limits.shape.experts)..=limits.shape.experts);
    random.choose_multiple(0..limits.shape.experts as u16, size)
}

fn part(sets: usize, limits: &Limits, random: &mut fastrand::Rng) -> Part {
    // Short and long ones alike.
    let tokens = 1 << random.usize(0..=8);
    Part { set: random.usize(0..sets), tokens, stride: random.usize(0..=limits.shape.k) }
}
