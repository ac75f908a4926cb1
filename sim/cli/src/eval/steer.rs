//! A strategy in the loop: the hook that lets a replay choose, layer by layer.

use cptr_model::{Expert, Model, MoeHook, Result, Routing, SKIPPED};
use cptr_sim::replay::controller::Device;
use cptr_sim::replay::{Replay, Tally};
use cptr_sim::source::{Future, Routed};
use cptr_sim::strategy::Strategy;
use cptr_trace::NO_EXPERT;
use cptr_trace::progress::Progress;

use super::{Document, Order, Plan, Quantised};

/// Most bits that there are replicas for; experts at more run the model's own weights.
const MOST_BITS: u8 = 4;

/// One or several replays inside the MoE blocks of a model.
pub(super) struct Steering<'a, 'd> {
    /// One of all documents, or one for each.
    replays: Vec<Replay<'a>>,
    /// Length of each document.
    lengths: Vec<usize>,
    /// For each token of the forward call its replay and its step there, and whether a document begins.
    rows: Vec<(usize, usize, bool)>,
    replicas: Option<&'a Quantised>,
    progress: &'a Progress,
    order: Order,
    /// Steps so far, where documents go one after the other.
    steps: usize,
    /// Whether the strategy knows what a layer's later tokens want.
    foresees: bool,
    /// Whether it asks later layers' routers, and what the next one's said `[N, k]`.
    asks_routers: bool,
    ahead: Vec<u16>,
    layers: usize,
    experts: usize,
    k: usize,
    /// Bits of each of the layer's chosen experts `[N, k]`: 0 for the model's own weights.
    bits: Vec<u8>,
    /// A controller that decides as well, and runs what is not in fast memory.
    device: Option<&'a mut Device<'d>>,
    error: Option<cptr_trace::Error>,
}

impl<'a, 'd> Steering<'a, 'd> {
    pub(super) fn new(
        model: &Model,
        documents: &[Document],
        plan: &'a Plan<'a>,
        strategy: &Strategy,
        order: Order,
        progress: &'a Progress,
    ) -> cptr_trace::error::Result<Self> {
        let lengths: Vec<usize> = documents.iter().map(|document| document.tokens.len()).collect();
        let tokens = lengths.iter().sum();
        let replay = |tokens| Replay::new(strategy, &plan.setup(model, tokens)?, None);
        let (replays, rows) = match order {
            Order::SideBySide => {
                let replays = lengths.iter().map(|&length| replay(length));
                (replays.collect::<cptr_trace::error::Result<_>>()?, Vec::new())
            }
            Order::InTurn => (vec![replay(tokens)?], Vec::new()),
            Order::Layers => {
                let starts = lengths.iter().flat_map(|&length| (0..length).map(|at| at == 0));
                (vec![replay(tokens)?], starts.enumerate().map(|(step, starts)| (0, step, starts)).collect())
            }
        };
        let config = &model.config;
        Ok(Self {
            replays,
            lengths,
            rows,
            replicas: plan.replicas.as_ref(),
            progress,
            order,
            steps: 0,
            foresees: strategy.sees_future(),
            asks_routers: strategy.asks_routers(),
            ahead: Vec::new(),
            layers: config.moe_layers.len(),
            experts: config.experts,
            k: config.k,
            bits: Vec::new(),
            device: None,
            error: None,
        })
    }

    /// With a controller, for documents that are read token by token.
    pub(super) fn with_device(mut self, device: &'a mut Device<'d>) -> Self {
        self.device = Some(device);
        self
    }

    /// Ends the steps of the tokens that the last forward calls were for.
    fn end_steps(&mut self) {
        for &(replay, step, _) in &self.rows {
            if let Err(error) = self.replays[replay].end_step(step) {
                self.error.get_or_insert(error);
            }
        }
    }

    /// Sums of all replays.
    pub(super) fn finish(mut self) -> cptr_trace::error::Result<Tally> {
        self.end_steps();
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut all = Tally::default();
        self.replays.into_iter().map(Replay::finish).for_each(|tally| add(&mut all, tally));
        Ok(all)
    }
}

/// Adds the sums of another replay of the same layers: its steps come behind.
fn add(all: &mut Tally, other: Tally) {
    all.layers.resize_with(other.layers.len(), Default::default);
    for (all, other) in all.layers.iter_mut().zip(&other.layers) {
        for (all, other) in [
            (&mut all.tokens, other.tokens),
            (&mut all.choices, other.choices),
            (&mut all.misses, other.misses),
            (&mut all.stalls, other.stalls),
            (&mut all.with_predecessor, other.with_predecessor),
            (&mut all.switches, other.switches),
            (&mut all.agreed, other.agreed),
            (&mut all.demanded, other.demanded),
            (&mut all.fetched, other.fetched),
            (&mut all.migrated, other.migrated),
        ] {
            *all += other;
        }
        all.experts.resize_with(other.experts.len().max(all.experts.len()), Default::default);
        for (all, other) in all.experts.iter_mut().zip(&other.experts) {
            (all.wanted, all.ran) = (all.wanted + other.wanted, all.ran + other.ran);
        }
        all.mass_lost += other.mass_lost;
        all.worst_mass_loss = all.worst_mass_loss.max(other.worst_mass_loss);
    }
    all.steps.extend(other.steps);
    for (all, other) in [(&mut all.miss_bins, &other.miss_bins), (&mut all.stall_bins, &other.stall_bins)] {
        all.resize(other.len().max(all.len()), 0);
        all.iter_mut().zip(other).for_each(|(all, other)| *all += other);
    }
    all.busy_ps.iter_mut().zip(other.busy_ps).for_each(|(all, other)| *all += other);
    all.energy_pj.iter_mut().zip(other.energy_pj).for_each(|(all, other)| *all += other);
    for (all, other) in [
        (&mut all.near_mass, other.near_mass),
        (&mut all.near_bits, other.near_bits),
        (&mut all.loss, other.loss),
        (&mut all.skipped, other.skipped),
    ] {
        *all += other;
    }
    all.placement_ps += other.placement_ps;
}

impl MoeHook for Steering<'_, '_> {
    fn position(&mut self, position: usize) {
        self.end_steps();
        if self.order == Order::InTurn {
            self.rows = vec![(0, self.steps, position == 0)];
            self.steps += 1;
            return;
        }
        let there = self.lengths.iter().enumerate().filter(|(_, length)| **length > position);
        self.rows = there.map(|(document, _)| (document, position, position == 0)).collect();
    }

    fn looks_ahead(&self) -> usize {
        usize::from(self.asks_routers)
    }

    fn ahead(&mut self, _: usize, _: usize, wanted: &[u16]) {
        self.ahead.clear();
        self.ahead.extend_from_slice(wanted);
    }

    fn input(&mut self, _: usize, hidden: &[f32]) {
        if let Some(device) = &mut self.device
            && let Err(error) = device.input(hidden)
        {
            self.error.get_or_insert(error);
        }
    }

    fn elsewhere(&mut self, _: usize) -> Result<Vec<(usize, Vec<f32>)>> {
        if let Some(error) = self.error.take_if(|_| self.device.is_some()) {
            return Err(error.into());
        }
        Ok(self.device.as_mut().map(|device| device.results()).transpose()?.unwrap_or_default())
    }

    /// Scores are those of all tokens of the call: so what a layer will want is known where all documents are read at
    /// once.
    fn route(&mut self, routing: &Routing<'_>, chosen: &mut [u16]) {
        let (experts, k, layer) = (self.experts, self.k, routing.layer);
        if self.foresees {
            self.replays[0].foresee(Future::of_layer(self.layers, layer, routing.wanted, experts, k));
        }
        self.bits.clear();
        let rows = chosen.chunks_exact_mut(k).enumerate();
        for (&(replay, step, starts_sequence), (token, chosen)) in self.rows.iter().zip(rows) {
            let (wanted, logits) = (routing.wanted(token), routing.row(token).logits);
            let ahead = self.ahead.get(token * k..(token + 1) * k).unwrap_or(&[]);
            let ahead = &ahead[..ahead.iter().take_while(|&&id| id != NO_EXPERT).count()];
            let routed = [Routed { wanted, weights: &[], logits, ahead, starts_sequence }];
            match self.replays[replay].layer(step, layer, &routed) {
                Ok(outcome) => {
                    if let Some(device) = &mut self.device
                        && let Err(error) = device.layer(&outcome)
                    {
                        self.error.get_or_insert(error);
                    }
                    // Behind fewer than k experts there is nothing to run.
                    chosen[..wanted.len()].copy_from_slice(outcome.chosen(0));
                    // Who is left out goes behind the others.
                    chosen[..wanted.len()].sort_by_key(|&expert| expert == NO_EXPERT);
                    self.bits.extend(chosen.iter().map(|&expert| match outcome.execution(expert) {
                        Some(execution) if execution.bits == 0 => SKIPPED,
                        Some(execution) if execution.bits <= MOST_BITS => execution.bits,
                        _ => 0,
                    }));
                }
                Err(error) => {
                    self.error.get_or_insert(error);
                }
            }
        }
        // Of the last layer nothing is said.
        self.ahead.clear();
        self.progress.advance(self.rows.len() as u64);
    }

    fn bits(&mut self, _: usize, _: &[u16], bits: &mut [u8]) {
        bits.iter_mut().zip(&self.bits).for_each(|(bits, decided)| *bits = *decided);
    }

    fn replica(&mut self, layer: usize, expert: u16, bits: u8) -> Result<Expert> {
        match self.replicas {
            Some(replicas) => replicas.expert(layer, expert, bits),
            None => {
                let message = format!("--replicas: expected the folder that cptr quantize wrote, for {bits} bits");
                Err(cptr_trace::Error::new(message).into())
            }
        }
    }
}
