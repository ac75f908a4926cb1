//! The worst prompt for a strategy: a search for the tokens behind which a model suffers most from what the strategy
//! runs instead of what it wants.
//!
//! An evolution as that of [`cptr_sim::attack`], of token ids instead of routing: what reaches the routers is what the
//! model makes of a text, so that everything that is found is something that somebody may send.

use serde::{Deserialize, Serialize};

use rayon::prelude::*;

use super::quality::Reference;
use super::steer::Steering;
use super::{Document, Plan, check};
use cptr_model::Model;
use cptr_sim::replay::{ExpertTally, LayerTally, OFTEN};
use cptr_trace::error::{Error, Result};
use cptr_trace::progress::Progress;

/// Prompts that are kept, and that are tried at a time: fixed, so that the result does not depend on the number of
/// cores.
const POPULATION: usize = 12;
const CHILDREN: usize = 8;
/// Share of the harm that a shorter prompt must still do.
const KEPT: f64 = 0.97;
/// Tokens below which a prompt is not made shorter.
const SHORTEST: usize = 8;

/// What a prompt is to do to what the model says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Routing mass given up.
    Mass,
    /// Divergence of the predictions from the unaltered model's.
    Divergence,
    /// Most probable next tokens that are others than the unaltered model's.
    Changed,
    /// Of the expert that is silenced most: the share of the tokens that want it which do not run it.
    Silence,
}

/// What is searched for.
pub(crate) struct Attack<'a> {
    pub(crate) model: &'a Model,
    /// Of one strategy.
    pub(crate) plan: &'a Plan<'a>,
    pub(crate) harm: Harm,
    /// Tokens of a prompt.
    pub(crate) tokens: usize,
    /// What follows each prompt, and is judged then; nothing: the prompt itself is judged.
    pub(crate) then: Vec<u32>,
    /// Texts as others write them: some prompts begin as a part of one.
    pub(crate) ordinary: Vec<Vec<u32>>,
    pub(crate) tries: usize,
    pub(crate) seed: u64,
}

/// A prompt that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    /// Token ids.
    pub(crate) tokens: Vec<u32>,
    /// What they are as text; for people.
    #[serde(default)]
    pub(crate) text: String,
}

/// What a prompt does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Judged {
    /// Tokens that are judged.
    pub(crate) judged: usize,
    /// Share of the wanted routing mass given up.
    pub(crate) mass_loss: f64,
    /// Of the predictions from the unaltered model's, in nats per token.
    pub(crate) divergence: f64,
    /// Share of the most probable next tokens that are others.
    pub(crate) changed: f64,
    /// Of the expert that the fewest of the tokens run that want it, among those that are wanted [`OFTEN`] times: the
    /// share that runs it; 1 where there is none.
    pub(crate) least_run: f64,
}

impl Judged {
    /// How much of a harm it is.
    pub(crate) const fn of(&self, harm: Harm) -> f64 {
        match harm {
            Harm::Mass => self.mass_loss,
            Harm::Divergence => self.divergence,
            Harm::Changed => self.changed,
            Harm::Silence => 1.0 - self.least_run,
        }
    }
}

/// The worst prompt, made as short as it can be.
pub(crate) struct Found {
    pub(crate) tokens: Vec<u32>,
    pub(crate) judged: Judged,
    pub(crate) tries: usize,
}

impl Attack<'_> {
    /// Whether it can be judged at all.
    ///
    /// # Errors
    /// A strategy or a memory that does not fit the model; too few tokens.
    pub(crate) fn check(&self) -> Result<()> {
        let tokens = vec![0; self.tokens + self.then.len()];
        check(self.model, &[Document { domain: String::new(), tokens }], self.plan)
    }

    /// What a prompt does.
    ///
    /// # Errors
    /// What the model refuses.
    pub(crate) fn judge(&self, tokens: &[u32], progress: &Progress) -> Result<Judged> {
        let Self { model, plan, .. } = *self;
        let strategy = plan.strategies.first().ok_or_else(|| Error::new("expected a strategy, found none"))?;
        let order = plan.order(strategy);
        let read = |tokens: Vec<u32>| [Document { domain: String::new(), tokens }];
        let steered = |documents: &[Document]| Steering::new(model, documents, plan, strategy, order, progress);
        let documents = read([tokens, &self.then].concat());
        let mut steering = steered(&documents)?;
        let from = if self.then.is_empty() { 0 } else { tokens.len() };
        let reference = Reference::new(model, &documents, progress)?.judged_from(from);
        let quality = reference.compare(model, &mut steering, order)?;
        let mut layers = steering.finish()?.layers;
        if from > 0 {
            // What follows changes nothing of what was before: the difference is of what follows.
            let documents = read(tokens.to_vec());
            let mut steering = steered(&documents)?;
            order.read(model, &[tokens.to_vec()], &mut steering)?;
            layers.iter_mut().zip(&steering.finish()?.layers).for_each(|(all, before)| less(all, before));
        }
        let sum = |of: fn(&LayerTally) -> f64| layers.iter().map(of).sum::<f64>();
        let predicted = quality.tokens[0].max(1) as f64;
        let often = layers.iter().flat_map(|layer| &layer.experts).filter(|sums| sums.wanted >= OFTEN);
        Ok(Judged {
            judged: documents[0].tokens.len() - from,
            mass_loss: sum(|layer| layer.mass_lost) / sum(|layer| layer.tokens as f64).max(1.0),
            divergence: quality.divergence_nats[0] / predicted,
            changed: quality.changed[0] as f64 / predicted,
            least_run: often.map(|sums| sums.share()).fold(1.0, f64::min),
        })
    }

    /// Searches.
    ///
    /// # Errors
    /// As [`Self::check`] and [`Self::judge`].
    pub(crate) fn search(&self) -> Result<Found> {
        self.check()?;
        let passes = if self.then.is_empty() { 2 } else { 3 };
        let layers = self.model.config.moe_layers.len();
        let progress =
            Progress::new((passes * self.tries * layers * (self.tokens + self.then.len())) as u64, "attacking");
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut kept: Vec<(f64, Vec<u32>, Judged)> = Vec::new();
        let mut tries = 0;
        while tries < self.tries {
            let next = |_| {
                if kept.len() < POPULATION || random.usize(0..CHILDREN) == 0 {
                    return self.random(&mut random);
                }
                let parent = random.usize(0..kept.len()).min(random.usize(0..kept.len()));
                self.changed(&kept[parent].1, &mut random)
            };
            let children: Vec<Vec<u32>> = (0..CHILDREN.min(self.tries - tries)).map(next).collect();
            tries += children.len();
            let judged: Vec<_> = children.par_iter().map(|tokens| self.judge(tokens, &progress)).collect();
            for (tokens, judged) in children.into_iter().zip(judged) {
                let judged = judged?;
                kept.push((judged.of(self.harm), tokens, judged));
            }
            kept.sort_by(|a, b| b.0.total_cmp(&a.0));
            kept.dedup_by(|a, b| a.1 == b.1);
            kept.truncate(POPULATION);
        }
        let (harm, tokens, judged) =
            kept.into_iter().next().ok_or_else(|| Error::new("expected a try at least, found none"))?;
        let (tokens, judged) = self.shortest(tokens, judged, harm * KEPT, &progress)?;
        Ok(Found { tokens, judged, tries })
    }

    /// Tokens of any kind, one kind again and again, or what somebody wrote.
    fn random(&self, random: &mut fastrand::Rng) -> Vec<u32> {
        let vocab = self.model.config.vocab as u32;
        match random.usize(0..3) {
            0 => (0..self.tokens).map(|_| random.u32(0..vocab)).collect(),
            1 => {
                let few: Vec<u32> = (0..random.usize(1..=8)).map(|_| random.u32(0..vocab)).collect();
                few.into_iter().cycle().take(self.tokens).collect()
            }
            _ => match random.choice(&self.ordinary) {
                Some(text) if !text.is_empty() => text.iter().copied().cycle().take(self.tokens).collect(),
                _ => vec![random.u32(0..vocab); self.tokens],
            },
        }
    }

    /// Something near a prompt.
    fn changed(&self, tokens: &[u32], random: &mut fastrand::Rng) -> Vec<u32> {
        let vocab = self.model.config.vocab as u32;
        let mut new = tokens.to_vec();
        for _ in 0..random.usize(1..=3) {
            let length = (1 << random.usize(0..7)).min(new.len());
            let at = random.usize(0..=new.len() - length);
            match random.usize(0..5) {
                0 => new[at] = random.u32(0..vocab),
                1 => new[at..at + length].fill_with(|| random.u32(0..vocab)),
                2 => new[at..at + length].fill(random.u32(0..vocab)),
                3 => {
                    let to = random.usize(0..=new.len() - length);
                    new.copy_within(at..at + length, to);
                }
                _ => {
                    if let Some(text) = random.choice(&self.ordinary).filter(|text| text.len() >= length) {
                        let from = random.usize(0..=text.len() - length);
                        new[at..at + length].copy_from_slice(&text[from..from + length]);
                    }
                }
            }
        }
        new
    }

    /// A shorter prompt that does nearly the same: parts are left out, the longest first.
    fn shortest(
        &self,
        mut tokens: Vec<u32>,
        mut judged: Judged,
        least: f64,
        progress: &Progress,
    ) -> Result<(Vec<u32>, Judged)> {
        let mut part = tokens.len() / 2;
        while part >= SHORTEST {
            let mut at = 0;
            while at + part <= tokens.len() && tokens.len() - part >= SHORTEST {
                let shorter = [&tokens[..at], &tokens[at + part..]].concat();
                let found = self.judge(&shorter, progress)?;
                if found.of(self.harm) >= least {
                    (tokens, judged) = (shorter, found);
                } else {
                    at += part;
                }
            }
            part /= 2;
        }
        Ok((tokens, judged))
    }
}

/// Takes the sums of a beginning out of those of the whole.
fn less(all: &mut LayerTally, before: &LayerTally) {
    all.tokens -= before.tokens;
    all.mass_lost -= before.mass_lost;
    let less = |(all, before): (&mut ExpertTally, &ExpertTally)| {
        all.wanted -= before.wanted;
        all.ran -= before.ran;
    };
    all.experts.iter_mut().zip(&before.experts).for_each(less);
}
