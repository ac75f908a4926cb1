//! How long a step takes that runs so many tokens at once.

use std::cell::RefCell;
use std::collections::HashMap;

use cptr_hw_model::{CopiedRun, ExpertRun, LayerWork, Model, System};
use cptr_trace::{Shape, Trace};

use crate::plan::{Place, Placed};

/// Times of steps of one model on one machine, whose experts lie as a plan says.
///
/// Experts in GPU memory, and those that are not, are each taken to be wanted equally: a step of t tokens that each
/// take k experts, of which the share m misses, runs U = H (1 - (1 - k (1 - m) / H)^t) of the H that are there, and
/// likewise of the others. Each of them takes its share of the tokens. Times between whole numbers of experts are
/// straight lines.
///
/// With a recording ([`Self::like`]) the experts of a layer are wanted as unequally as there: U is the sum of
/// 1 - (1 - p)^t over them, the most wanted being those in GPU memory.
#[derive(Debug)]
pub struct StepTimes<'a> {
    system: &'a System,
    model: &'a Model,
    placed: Placed,
    /// How often a token takes each expert of a layer, the most wanted first, mean over layers; `None`: all alike.
    wanted: Option<Vec<f64>>,
    /// Layers and what is outside them without attention over the tokens before, by tokens; picoseconds.
    known: RefCell<HashMap<u64, f64>>,
    /// Picoseconds of attention per token attended, all layers.
    attention_ps: f64,
}

impl<'a> StepTimes<'a> {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(system: &'a System, model: &'a Model, placed: Placed) -> Self {
        const TOKENS: u64 = 1 << 20;
        let bare = |attended| system.layer_time(model, &LayerWork { attended, ..LayerWork::default() }).total_ps as f64;
        let attention_ps = (bare(TOKENS) - bare(0)) / TOKENS as f64 * model.all_layers() as f64;
        Self { system, model, placed, wanted: None, known: RefCell::default(), attention_ps }
    }

    /// The same, with experts that are wanted as unequally as in a recording of the model.
    #[must_use]
    pub fn like(self, trace: &Trace) -> Self {
        let Shape { tokens, layers, experts, .. } = trace.shape;
        let mut wanted = vec![0.0; experts];
        for layer in 0..layers {
            let mut counts = vec![0_u64; experts];
            (0..tokens)
                .flat_map(|token| trace.chosen(token, layer))
                .for_each(|&expert| counts[usize::from(expert)] += 1);
            counts.sort_unstable_by(|a, b| b.cmp(a));
            let of = |count: u64| count as f64 / (tokens * layers) as f64;
            wanted.iter_mut().zip(counts).for_each(|(wanted, count)| *wanted += of(count));
        }
        Self { wanted: Some(wanted), known: RefCell::default(), ..self }
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

    /// A step of `tokens` tokens of all sequences, whose attention reads `attended` tokens of all of them, in
    /// microseconds. The first part of a prompt reads nothing before it.
    #[must_use]
    pub fn step_us(&self, tokens: u64, attended: f64) -> f64 {
        let find = || self.layers_ps(tokens);
        let alone_ps = *self.known.borrow_mut().entry(tokens).or_insert_with(find);
        (alone_ps + attended * self.attention_ps) / 1e6
    }

    /// Different experts of a layer that `tokens` tokens run: in GPU memory, and not.
    #[must_use]
    pub fn experts(&self, tokens: u64) -> [f64; 2] {
        let Model { experts, experts_per_token: k, .. } = *self.model;
        if let Some(wanted) = &self.wanted {
            return self.unequal(wanted, tokens, k as f64);
        }
        let there = experts as f64 * self.placed.resident_share;
        let miss = self.placed.miss_rate;
        let different = |of: f64, wanted: f64| {
            if of < 1e-9 { 0.0 } else { of * (1.0 - (1.0 - (wanted / of).min(1.0)).powf(tokens as f64)) }
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

    /// As [`Self::experts`], of experts that are wanted so often.
    fn unequal(&self, wanted: &[f64], tokens: u64, k: f64) -> [f64; 2] {
        let there = (self.placed.resident_share * wanted.len() as f64).round() as usize;
        // Which are there changes: both groups are wanted as the misses say, and unequally as among themselves.
        let different = |group: &[f64], of_k: f64| -> f64 {
            let sum: f64 = group.iter().sum();
            let often = |p: f64| (p * k * of_k / sum.max(f64::MIN_POSITIVE)).min(1.0);
            group.iter().map(|&p| 1.0 - (1.0 - often(p)).powf(tokens as f64)).sum()
        };
        match self.placed.place {
            Place::Layers => [different(wanted, 1.0); 2],
            _ => {
                let (near, far) = wanted.split_at(there.min(wanted.len()));
                [different(near, 1.0 - self.placed.miss_rate), different(far, self.placed.miss_rate)]
            }
        }
    }

    fn layers_ps(&self, tokens: u64) -> f64 {
        let outside = self.system.outside_layers(self.model, clamp(tokens), 0).total_ps as f64;
        let [gpu, cold] = self.experts(tokens);
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
