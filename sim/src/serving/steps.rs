//! How long a step takes that runs so many tokens at once.

use std::cell::RefCell;
use std::collections::HashMap;

use cptr_hw_model::{CopiedRun, ExpertRun, LayerWork, Model, System};

use super::together::{Texts, Together, different};
use crate::plan::band::{Band, Spread};
use crate::plan::{Misses, Place, Placed};

/// Tokens that run together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Step {
    /// Texts that a token is written of.
    pub decoding: u64,
    /// Texts of which a part is read.
    pub parts: u64,
    /// Tokens of all of these.
    pub read: u64,
}

impl Step {
    /// A token of each of so many texts.
    #[must_use]
    pub const fn decode(texts: u64) -> Self {
        Self { decoding: texts, parts: 0, read: 0 }
    }

    /// So many tokens of one text.
    #[must_use]
    pub const fn read(tokens: u64) -> Self {
        Self { decoding: 0, parts: 1, read: tokens }
    }

    /// All of them.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.decoding + self.read
    }
}

/// Where in its band a time is taken ([`crate::plan::band`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At its slow end.
    Slowest,
    /// As modelled.
    Modelled,
    /// At its fast end.
    Fastest,
}

/// Times of steps of one model on one machine, whose experts lie as a plan says.
///
/// Experts in GPU memory, and those that are not, are each taken to be wanted equally and independently: a step of t
/// tokens that each take k experts, of which the share m misses, runs U = H (1 - (1 - k (1 - m) / H)^t) of the H that
/// are there, and likewise of the others. Each of them takes its share of the tokens. Times between whole numbers of
/// experts are straight lines.
///
/// With a recording ([`Self::like`]) the experts of a layer are wanted as unequally as there, and tokens have as much
/// in common: U is the sum of 1 - (1 - p)^n over them, the most wanted being those in GPU memory, and n the number of
/// independent tokens that run as many different experts as the step's ([`Together`]).
#[derive(Debug)]
pub struct StepTimes<'a> {
    system: &'a System,
    model: &'a Model,
    placed: Placed,
    together: Option<(&'a Together, Texts)>,
    /// Layers and what is outside them without attention over the tokens before; picoseconds.
    known: RefCell<HashMap<Step, f64>>,
    /// Picoseconds of attention per token attended, all layers.
    attention_ps: f64,
    /// The same at each end of what is not known well.
    ends: Vec<Self>,
}

impl<'a> StepTimes<'a> {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(system: &'a System, model: &'a Model, placed: Placed) -> Self {
        const TOKENS: u64 = 1 << 20;
        let bare = |attended| system.layer_time(model, &LayerWork { attended, ..LayerWork::default() }).total_ps as f64;
        let attention_ps = (bare(TOKENS) - bare(0)) / TOKENS as f64 * model.all_layers() as f64;
        Self { system, model, placed, together: None, known: RefCell::default(), attention_ps, ends: Vec::new() }
    }

    /// The same with a band: that of a plan, from machines at the ends of what is unknown of `system`
    /// ([`crate::plan::band::ends`]) and as many misses as there may be.
    #[must_use]
    pub fn banded(self, machines: &'a [System], misses: &Misses) -> Self {
        let (system, model, placed) = (self.system, self.model, self.placed);
        let others = machines.iter().map(|machine| Self::new(machine, model, placed));
        let misses = misses.ends(&placed).into_iter().map(|placed| Self::new(system, model, placed));
        Self { ends: others.chain(misses).collect(), ..self }
    }

    /// The same, with experts that are wanted as in a recording of the model, by texts of one kind or of all.
    #[must_use]
    pub fn like(self, together: &'a Together, texts: Texts) -> Self {
        let ends = self.ends.into_iter().map(|end| end.like(together, texts)).collect();
        Self { together: Some((together, texts)), known: RefCell::default(), ends, ..self }
    }

    /// Tokens that attention reads of a sequence of `context` tokens, mean over layers.
    #[must_use]
    pub fn attended(&self, context: u64) -> f64 {
        self.model.attended(context)
    }

    /// Keys and values of `context` tokens on the link, one way, in microseconds.
    #[must_use]
    pub fn swap_us(&self, context: u64) -> f64 {
        let bytes = self.model.kv_bytes(1) * self.attended(context) * self.model.all_layers() as f64;
        self.system.link().copy_ps(bytes) as f64 / 1e6
    }

    /// A step whose attention reads `attended` tokens of all its texts, in microseconds. The first part of a prompt
    /// reads nothing before it.
    #[must_use]
    pub fn step_us(&self, step: Step, attended: f64) -> f64 {
        let find = || self.layers_ps(step);
        let alone_ps = *self.known.borrow_mut().entry(step).or_insert_with(find);
        (alone_ps + attended * self.attention_ps) / 1e6
    }

    /// The same at an end of its band.
    #[must_use]
    pub fn paced_us(&self, step: Step, attended: f64, pace: Pace) -> f64 {
        self.paced(|steps| steps.step_us(step, attended), pace)
    }

    /// [`Self::swap_us`] at an end of its band.
    #[must_use]
    pub fn paced_swap_us(&self, context: u64, pace: Pace) -> f64 {
        self.paced(|steps| steps.swap_us(context), pace)
    }

    fn paced(&self, time_us: impl Fn(&Self) -> f64, pace: Pace) -> f64 {
        let base = time_us(self);
        if pace == Pace::Modelled || base <= 0.0 {
            return base;
        }
        let mut spread = Spread::default();
        self.ends.iter().for_each(|end| spread.add(time_us(end) / base));
        let Band { low, high } = spread.band();
        if pace == Pace::Slowest { base / low } else { base / high }
    }

    /// Different experts of a layer that a step runs: in GPU memory, and not.
    #[must_use]
    pub fn experts(&self, step: Step) -> [f64; 2] {
        let Model { experts, experts_per_token: k, .. } = *self.model;
        if let Some((together, texts)) = self.together {
            let independent = together.independent(texts, step.decoding, step.parts, step.read);
            return self.unequal(together.wanted(), independent, k as f64);
        }
        let there = experts as f64 * self.placed.resident_share;
        let miss = self.placed.miss_rate;
        let different = |of: f64, wanted: f64| {
            if of < 1e-9 { 0.0 } else { of * (1.0 - (1.0 - (wanted / of).min(1.0)).powf(step.tokens() as f64)) }
        };
        // Where layers are whole, a token's experts are all there or all away.
        match self.placed.place {
            Place::Layers => {
                let all = different(experts as f64, k as f64);
                [all, all]
            }
            _ => [different(there, k as f64 * (1.0 - miss)), different(experts as f64 - there, k as f64 * miss)],
        }
    }

    /// As [`Self::experts`], of experts that are wanted so often by so many independent tokens.
    fn unequal(&self, wanted: &[f64], tokens: f64, k: f64) -> [f64; 2] {
        let there = (self.placed.resident_share * wanted.len() as f64).round() as usize;
        // Which are there changes: both groups are wanted as the misses say, and unequally as among themselves.
        let group = |group: &[f64], of_k: f64| -> f64 {
            let times = k * of_k / group.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            different(group.iter().map(|&p| p * times), tokens)
        };
        match self.placed.place {
            Place::Layers => [group(wanted, 1.0); 2],
            _ => {
                let (near, far) = wanted.split_at(there.min(wanted.len()));
                [group(near, 1.0 - self.placed.miss_rate), group(far, self.placed.miss_rate)]
            }
        }
    }

    fn layers_ps(&self, step: Step) -> f64 {
        let tokens = step.tokens();
        let outside = self.system.outside_layers(self.model, clamp(tokens), 0).total_ps as f64;
        let [gpu, cold] = self.experts(step);
        let layer = match self.placed.place {
            Place::Layers => {
                let miss = self.placed.miss_rate;
                (1.0 - miss) * self.layer_ps(tokens, gpu, 0.0) + miss * self.layer_ps(tokens, 0.0, cold)
            }
            _ => self.layer_ps(tokens, gpu, cold),
        };
        layer * self.model.layers as f64 + outside
    }

    /// A layer between the whole numbers of experts around those given.
    fn layer_ps(&self, tokens: u64, gpu: f64, cold: f64) -> f64 {
        let corner = |gpu: f64, cold: f64| self.whole_ps(tokens, gpu as usize, cold as usize);
        let along = |part: f64, low: f64, high: f64| low + part * (high - low);
        let (g, c) = (gpu.floor(), cold.floor());
        let at = |cold: f64| along(gpu - g, corner(g, cold), corner(gpu.ceil(), cold));
        along(cold - c, at(c), at(cold.ceil()))
    }

    fn whole_ps(&self, tokens: u64, gpu: usize, cold: usize) -> f64 {
        let wanted = tokens as f64 * self.model.experts_per_token as f64;
        let (gpu_share, cold_share) = match (gpu, cold) {
            (_, 0) => (1.0, 0.0),
            (0, _) => (0.0, 1.0),
            _ => (1.0 - self.placed.miss_rate, self.placed.miss_rate),
        };
        let each = |share: f64, experts: usize| clamp((wanted * share / experts.max(1) as f64).ceil() as u64).max(1);
        let gpu = vec![ExpertRun { bits: self.system.gpu_bits, tokens: each(gpu_share, gpu) }; gpu];
        let run = |bits| ExpertRun { bits, tokens: each(cold_share, cold) };
        let work = LayerWork { tokens: clamp(tokens), gpu: &gpu, ..LayerWork::default() };
        let copied = vec![CopiedRun { run: run(self.system.gpu_bits), bits: self.system.gpu_bits }; cold];
        let near_data = vec![run(self.system.ndp_bits); cold];
        let work = match self.placed.place {
            Place::Copied => LayerWork { copied: &copied, ..work },
            _ => LayerWork { near_data: &near_data, ..work },
        };
        self.system.layer_time(self.model, &work).total_ps as f64
    }
}

fn clamp(tokens: u64) -> u32 {
    tokens.min(u64::from(u32::MAX)) as u32
}
