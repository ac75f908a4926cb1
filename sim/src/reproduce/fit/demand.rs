//! What a strategy has a layer do, by kind and how often: found once by a replay, timed on every machine afterwards.
//!
//! No strategy of a paper looks at the clock, so what runs where does not depend on the machine. Strategies that do
//! would be timed with the decisions of the shipped machine.

use std::collections::BTreeMap;

use cptr_hw_model::{CopiedRun, ExpertRun, LayerWork, Model, System};
use cptr_trace::array::FloatArray;
use cptr_trace::error::{Error, Result};
use cptr_trace::generate::mixtral::{self, LIKE, Like};
use cptr_trace::{LossTable, Shape, Trace};

use super::paper::Decoded;
use crate::replay::{self, Budget, LayerOutcome, Machine, Observer, Plan};
use crate::strategy::{Place, Strategy};

/// Layers of the imitated model: as many depths of the real one.
const DEPTHS: usize = 8;
/// Tokens of an answer that are replayed, at most: enough for a mean.
const MOST_TOKENS: usize = 1024;

/// Losses at 1 to 4 bits under which every expert gets the same bits: each bit more saves less, by far.
const EVEN: [f64; 4] = [1.0, 0.1, 0.01, 0.001];
/// And under which the first get as many as there are: only the last bit saves.
const STEEP: [f64; 4] = [1.0, 1.0, 1.0, 0.0];

/// One expert of a layer: where it runs, at how many bits, how many are copied for it, and for how many tokens.
type Task = (u8, u8, u8, u32);
const ON_GPU: u8 = 0;
const COPIED: u8 = 1;
const NEAR: u8 = 2;

/// Layers of a step by what they have to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Demand {
    sequences: u32,
    /// Kinds of layers and the share of each.
    kinds: Vec<(Vec<Task>, f64)>,
}

/// Time of a mean layer, in microseconds, and the share of layers with experts near the data.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Mean {
    pub(super) us: f64,
    pub(super) near: f64,
}

impl Demand {
    /// What `strategy` has the imitated model do with `resident` experts in GPU memory, which spreads bits `steep` or
    /// evenly.
    ///
    /// # Errors
    /// A strategy that does not run with that memory or machine.
    pub(super) fn of(
        trace: &Trace,
        prompt: usize,
        strategy: &str,
        (resident, steep): (usize, bool),
        system: &System,
    ) -> Result<Self> {
        let losses = losses(trace.shape, steep)?;
        let sequences = trace.sequence.last().map_or(1, |last| last + 1);
        let plan = Plan {
            prefill: prompt,
            batch: sequences as usize,
            machine: Some(Machine::new(system, Model::find(&trace.meta.model))),
            losses: Some(&losses),
            ..Plan::new(Budget::Experts(resident))
        };
        let mut kinds = Kinds::default();
        replay::drive(trace, &plan, &Strategy::parse(strategy)?, &mut [&mut kinds])?;
        let all: u64 = kinds.0.values().sum();
        let share = |(kind, count): (Vec<Task>, u64)| (kind, count as f64 / all.max(1) as f64);
        Ok(Self { sequences, kinds: kinds.0.into_iter().map(share).collect() })
    }

    /// The mean layer of a token after `before` others on a machine, with its share of the output head; experts at few
    /// bits with so many more for their scales; what would be copied runs near the data instead if `copied` is false.
    pub(super) fn mean(&self, system: &System, model: &Model, before: u64, scale_bits: f64, copied: bool) -> Mean {
        let attended = (model.attended(before) * f64::from(self.sequences)).round() as u64;
        let outside_ps = system.outside_layers(model, self.sequences, attended).total_ps as f64;
        let mut mean = Mean { us: outside_ps / model.layers.max(1) as f64 / 1e6, near: 0.0 };
        for (kind, share) in &self.kinds {
            let (mut gpu, mut copies, mut near) = (Vec::new(), Vec::new(), Vec::new());
            for &(place, bits, copied_bits, tokens) in kind {
                let full = ExpertRun { bits: bits.into(), tokens };
                let few = if bits < 16 { f64::from(bits) + scale_bits } else { bits.into() };
                match place {
                    ON_GPU => gpu.push(full),
                    COPIED if copied => copies.push(CopiedRun { run: full, bits: copied_bits.into() }),
                    _ => near.push(ExpertRun { bits: few, tokens }),
                }
            }
            let work = LayerWork {
                tokens: self.sequences,
                attended,
                gpu: &gpu,
                copied: &copies,
                near_data: &near,
                ..LayerWork::default()
            };
            mean.us += share * system.layer_time(model, &work).total_ps as f64 / 1e6;
            mean.near += if near.is_empty() { 0.0 } else { *share };
        }
        mean
    }
}

/// Losses that spread bits steeply or evenly, the same for all experts.
fn losses(shape: Shape, steep: bool) -> Result<LossTable> {
    let losses = if steep { STEEP } else { EVEN };
    LossTable::new(shape.layers, shape.experts, &[1, 2, 3, 4], losses.repeat(shape.layers * shape.experts))
}

/// Counts kinds of layers.
#[derive(Default)]
struct Kinds(BTreeMap<Vec<Task>, u64>);

impl Observer for Kinds {
    fn layer(&mut self, outcome: &LayerOutcome<'_>) -> Result<()> {
        if outcome.prefill {
            return Ok(());
        }
        let task = |(choice, execution): (&crate::strategy::Choice, &crate::strategy::Execution)| {
            let (place, copied) = match execution.place {
                Place::Gpu => (ON_GPU, 0),
                Place::Copied { bits } => (COPIED, bits),
                Place::NearData => (NEAR, 0),
                Place::Skipped => return None,
            };
            Some((place, execution.bits, copied, choice.tokens))
        };
        let mut kind: Vec<Task> = outcome.choices.iter().zip(outcome.executions).filter_map(task).collect();
        kind.sort_unstable();
        *self.0.entry(kind).or_default() += 1;
        Ok(())
    }
}

/// The imitated routing of a model: `sequences` prompts and answers one after the other, a seed each.
///
/// # Errors
/// A name that is not imitated.
pub(super) fn routing(model: &Decoded, prompt: usize, answer: usize, sequences: usize) -> Result<Trace> {
    let like = LIKE.into_iter().find(|like| like.name == model.like);
    let like = like.ok_or_else(|| Error::new(format!("like: no model {}", model.like)))?;
    let like = Like { layers: like.layers.min(DEPTHS), ..like };
    let one = |sequence: usize| mixtral::generate(like, prompt, answer.min(MOST_TOKENS), sequence as u64 + 1).0;
    let mut all = one(0);
    if sequences == 1 {
        return Ok(all);
    }
    let rest: Vec<Trace> = (1..sequences).map(one).collect();
    let weights: Vec<&FloatArray> = [&all].into_iter().chain(&rest).filter_map(|part| part.weights.as_ref()).collect();
    all.weights = FloatArray::concatenate(&weights);
    for (sequence, part) in (1..).zip(rest) {
        all.shape = Shape { tokens: all.shape.tokens + part.shape.tokens, ..all.shape };
        all.ids.extend(part.ids);
        all.sequence.extend(vec![sequence; part.shape.tokens]);
        all.position.extend(part.position);
        all.phase.extend(part.phase);
        all.domain.extend(part.domain);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::Counted;

    fn mixtral() -> Decoded {
        Decoded { name: "Mixtral-8x7B".into(), layers: 32, resident: 4, like: "mixtral-8x7b".into() }
    }

    /// The mean layer is that of the replay which the rates of `cptr run` come from.
    #[test]
    fn the_mean_layer_is_that_of_the_replay() {
        let (system, model) = (System::find("ndp").unwrap(), Model::find("mixtral-8x7b").unwrap());
        for (sequences, strategy) in
            [(1, "ctx-aware:bits=2"), (1, "monde:hot=1+lru"), (1, "hobbit"), (2, "ctx-aware:bits=3")]
        {
            let trace = routing(&mixtral(), 32, 64, sequences).unwrap();
            trace.validate().unwrap();
            let demand = Demand::of(&trace, 32, strategy, (4, false), system).unwrap();
            let losses = losses(trace.shape, false).unwrap();
            let plan = Plan {
                losses: Some(&losses),
                strategies: Strategy::parse_list(strategy).unwrap(),
                prefill: 32,
                batch: sequences,
                machine: Some(Machine { counted: Counted::Layers, ..Machine::new(system, Some(model)) }),
                ..Plan::new(Budget::Experts(4))
            };
            let rate = replay::run(&trace, &plan).unwrap().rows[0].tokens_per_s.unwrap();
            // The replay of layers alone, without attention's context and output head.
            let outside_us = system.outside_layers(model, sequences as u32, 0).total_ps as f64 / 1e6;
            let us = demand.mean(system, model, 0, 0.0, true).us * DEPTHS as f64 - outside_us * DEPTHS as f64 / 32.0;
            // The order in which the device goes through its experts is not kept; of one token they are alike.
            let order = if sequences == 1 { 1e-9 } else { 1e-3 };
            assert!((sequences as f64 * 1e6 / us / rate - 1.0).abs() < order, "{strategy}: {us} {rate}");
        }
    }

    /// Even losses give all the same bits, steep ones the most wanted four of them and the others one.
    #[test]
    fn losses_spread_bits() {
        let trace = routing(&mixtral(), 32, 64, 1).unwrap();
        let system = System::find("ndp").unwrap();
        let bits = |steep| {
            let demand = Demand::of(&trace, 32, "ctx-aware:bits=2", (4, steep), system).unwrap();
            let near = demand.kinds.iter().flat_map(|(kind, _)| kind).filter(|task| task.0 == NEAR);
            near.map(|task| task.1).collect::<std::collections::BTreeSet<u8>>()
        };
        assert_eq!(bits(false), [2].into());
        // Four cold experts and four bits to give: one gets three of them, another the last.
        assert_eq!(bits(true), [1, 2, 4].into());
    }

    /// What is not copied runs near the data, and scales are read with the weights.
    #[test]
    fn the_unknowns_do_what_they_say() {
        let (system, model) = (System::find("ndp").unwrap(), Model::find("mixtral-8x7b").unwrap());
        let demand = Demand { sequences: 1, kinds: vec![(vec![(COPIED, 16, 16, 1), (NEAR, 2, 0, 1)], 1.0)] };
        let near = |bits: &[f64]| {
            let near_data: Vec<ExpertRun> = bits.iter().map(|&bits| ExpertRun::at(bits)).collect();
            let work = LayerWork { tokens: 1, near_data: &near_data, ..LayerWork::default() };
            system.layer_time(model, &work).total_ps as f64 / 1e6
                + system.outside_layers(model, 1, 0).total_ps as f64 / 32.0 / 1e6
        };
        let close = |mean: Mean, us: f64| assert!((mean.us - us).abs() < 1e-6 && mean.near == 1.0, "{mean:?} {us}");
        close(demand.mean(system, model, 0, 0.0, false), near(&[16.0, 2.0]));
        close(demand.mean(system, model, 0, 0.5, false), near(&[16.0, 2.5]));
        assert!(demand.mean(system, model, 0, 0.0, true).us > near(&[16.0, 2.0]));
    }
}
