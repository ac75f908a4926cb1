//! One strategy on its way through a source, step by step and layer by layer.

mod copies;

use std::sync::Arc;

use cptr_core::placement::Demand;
use cptr_core::{Gate, Level, Logit};
use cptr_hw_model::{CopiedRun, ExpertRun, LayerTimes};
use cptr_trace::error::Result;
use cptr_trace::{NO_EXPERT, Shape};

use super::known::Known;
use super::outcome::range;
use super::{BINS, ExpertTally, LayerOutcome, LayerTally, Setup, StepTally, Tally, TenantTally, mass};
use crate::memory::queue::Queue;
use crate::memory::tenants::{Tenants, What};
use crate::memory::{Fast, Memory, Resident};
use crate::source::{Future, Routed, real};
use crate::strategy::division::Division;
use crate::strategy::forecaster::Forecaster;
use crate::strategy::precision::Precision;
use crate::strategy::prefetch::{self, Prefetch};
use crate::strategy::residency::{self, EndOfStep, Ranking, Residency};
use crate::strategy::select::Select;
use crate::strategy::{Choice, Execution, Layer, Place, Served, ServedToken, Site, Strategy, Token};

/// Room for one layer of one step, so that nothing is allocated on the way.
#[derive(Default)]
struct Buffers {
    scores: Vec<f32>,
    logits: Vec<Logit>,
    chosen: Vec<u16>,
    /// Where the choice of each token ends in `chosen` and `shares`.
    ends: Vec<usize>,
    discarded: Vec<u16>,
    /// What the next tokens are expected to want.
    expected: Vec<Level>,
    shares: Vec<f32>,
    gates: Vec<Gate>,
    choices: Vec<Choice>,
    /// For a batch: where each expert is among the choices, and at which layer of which step that was written.
    found: Vec<(u64, u32)>,
    visit: u64,
    sites: Vec<Site>,
    gpu_bits: Vec<u8>,
    near_bits: Vec<u8>,
    used: Vec<bool>,
    executions: Vec<Execution>,
    loads: Vec<u16>,
    asks: Vec<u16>,
    keep: Resident,
    /// Layer of which the residency has been told what is expected, for fetches.
    asked_ahead: Option<usize>,
    free: Resident,
    before: Resident,
    gpu: Vec<ExpertRun>,
    copied: Vec<CopiedRun>,
    near: Vec<ExpertRun>,
    copies_bits: Vec<f64>,
}

/// When a residency is told what a step runs.
#[derive(Clone, Copy)]
enum Moment {
    /// Before anything is loaded for it.
    Decided,
    /// Behind that.
    Loaded,
}

/// A strategy on its way through a source.
///
/// [`Self::layer`] is called for every layer of a step, then [`Self::end_step`]. Where [`Strategy::couples_layers`] is
/// false, a layer may also go through all steps before the next layer begins, with the ends of all steps behind.
pub struct Replay<'a> {
    setup: Setup<'a>,
    full_bits: u8,
    /// Whether the router's choice is taken as it is.
    raw: bool,
    /// Whether its memory of trajectories reads logits.
    remembers_logits: bool,
    /// By layer and sequence; none where the router's choice is taken as it is.
    selects: Vec<Box<dyn Select>>,
    residency: Box<dyn Residency>,
    prefetch: Box<dyn Prefetch>,
    /// What residency and prefetch ask about trajectories: the first, and the last.
    forecasters: Vec<Forecaster>,
    division: Box<dyn Division>,
    precision: Box<dyn Precision>,
    /// Whether all experts are in fast memory from the start.
    all: bool,
    memories: Vec<Memory>,
    queue: Queue,
    times: Option<LayerTimes<'a>>,
    known: Known,
    future: Option<Arc<Future<'a>>>,
    /// What prompts asked of each layer's experts.
    prompt: Vec<Vec<Demand>>,
    placed: Vec<bool>,
    /// What each sequence ran last in each layer, `[L, S, k]`; [`NO_EXPERT`] before the first token.
    previous: Vec<u16>,
    tally: Tally,
    buffers: Buffers,
}

impl<'a> Replay<'a> {
    /// Before the first step. `future` is asked for by strategies that see it.
    ///
    /// # Errors
    /// Memory in bytes where the model's sizes are not known; a file for another model that the strategy names.
    pub fn new(strategy: &Strategy, setup: &Setup<'a>, future: Option<Arc<Future<'a>>>) -> Result<Self> {
        let Shape { layers, experts, k, .. } = setup.shape;
        setup.accepts(strategy)?;
        let full_bits = setup.full_bits();
        let precision = setup.precision(strategy);
        let all = strategy.residency.kind.name == "all";
        let capacity = if all { experts as u32 * u32::from(precision.load_bits()) } else { setup.capacity()? };
        let times = setup.machine.and_then(|machine| Some(LayerTimes::new(machine.system, machine.model?)));
        let timed = times.is_some();
        let yields = times.as_ref().is_some_and(|times| times.system().link().copies_yield);
        let prefetch_setup = prefetch::Setup { layers, experts, k, sequences: setup.sequences, timed, yields };
        let prefetch = (strategy.prefetch.kind.make.0)(&strategy.prefetch.values, &prefetch_setup);
        let made = residency::Setup {
            layers,
            experts,
            k,
            sequences: setup.sequences,
            prefill: setup.prefill,
            fit: capacity as usize / usize::from(full_bits) * layers,
            near_bits: precision.near_bits(),
            full_bits,
            fetches: if prefetch.never() { 0 } else { prefetch.most() },
            times: times.as_ref(),
            future: future.as_deref(),
        };
        let residency = (strategy.residency.kind.make.0)(&strategy.residency.values, &made);
        let (stays, comes) = (residency.recalls(), prefetch.recalls());
        // One memory serves both, where they ask for the same kind.
        let comes = comes.filter(|comes| !stays.is_some_and(|stays| stays.is_kind_of(comes)));
        let forecaster = |settings| Forecaster::new(settings, layers, experts, k, setup.sequences);
        let forecasters = stays.into_iter().chain(comes).map(forecaster).collect::<Result<Vec<_>>>()?;
        let raw = strategy.select.kind.name == "raw";
        let select = |_| (strategy.select.kind.make.0)(&strategy.select.values);
        let (start_bytes, bit_bytes) = times.as_ref().map_or((0.0, 1.0), |times| {
            let (system, bit_bytes) = (times.system(), times.model().expert_bytes(1.0));
            let start_ns = system.copy_start_ns(bit_bytes * f64::from(precision.load_bits()));
            (start_ns * system.copy_gb_s(), bit_bytes)
        });
        let mut replay = Self {
            full_bits,
            raw,
            remembers_logits: strategy.remembers_logits(),
            selects: (0..if raw { 0 } else { layers * setup.sequences }).map(select).collect(),
            residency,
            prefetch,
            forecasters,
            division: (strategy.division.kind.make.0)(&strategy.division.values, precision.near_bits()),
            all,
            memories: vec![Memory::new(experts, capacity); layers],
            queue: Queue::new(layers, start_bytes, bit_bytes, precision.load_bits(), yields),
            precision,
            times,
            known: Known::default(),
            future,
            prompt: vec![vec![Demand::default(); experts]; if setup.prefill > 0 { layers } else { 0 }],
            placed: vec![false; layers],
            previous: vec![NO_EXPERT; layers * setup.sequences * k],
            tally: Tally {
                layers: vec![
                    LayerTally {
                        experts: vec![ExpertTally::default(); if raw { 0 } else { experts }],
                        ..LayerTally::default()
                    };
                    layers
                ],
                steps: vec![StepTally::default(); setup.shape.tokens - setup.prefill],
                miss_bins: vec![0; BINS.min(setup.shape.tokens - setup.prefill)],
                stall_bins: vec![0; BINS.min(setup.shape.tokens - setup.prefill)],
                tenants: vec![TenantTally::default(); if setup.fair.is_some() { setup.sequences } else { 0 }],
                ..Tally::default()
            },
            buffers: Buffers { found: vec![(0, 0); experts], ..Buffers::default() },
            setup: setup.clone(),
        };
        replay.queue.tenants = setup.fair.map(|copies| Tenants::new(copies, layers, experts, setup.sequences));
        replay.tell_room();
        if setup.prefill == 0 {
            (0..layers).try_for_each(|layer| replay.place(layer))?;
        }
        Ok(replay)
    }

    /// Whether logits make a difference to it.
    #[must_use]
    pub fn uses_logits(&self) -> bool {
        !self.raw || self.remembers_logits
    }

    /// Shows it the routers' inputs, or sketches of them `[S, D]`, of the tokens of a step in the layer that is decided
    /// next; for strategies that read them.
    pub fn sketch(&mut self, inputs: &[f32]) {
        self.forecasters.iter_mut().for_each(|forecaster| forecaster.sketch(inputs));
    }

    /// Lets a strategy that sees the future know what comes; for a source that goes layer by layer and learns it late.
    pub fn foresee(&mut self, future: Future<'a>) {
        self.future = Some(Arc::new(future));
    }

    /// What is resident in a layer.
    #[must_use]
    pub fn resident(&self, layer: usize) -> &Resident {
        self.memories[layer].resident()
    }

    /// Sums so far.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Sums of the whole replay.
    #[must_use]
    pub fn finish(mut self) -> Tally {
        if let Some(times) = &self.times {
            self.tally.add_energy(&times.system().migration_energy(self.queue.payload), 1.0);
        }
        for (layer, tally) in self.tally.layers.iter_mut().enumerate() {
            tally.migrated += self.queue.migrated(layer);
        }
        if let Some(tenants) = &self.queue.tenants {
            for (sequence, tally) in self.tally.tenants.iter_mut().enumerate() {
                let [migrations, fetches] = [What::Migration, What::Fetch].map(|what| tenants.share(what, sequence));
                (tally.migrations, tally.fetches) = (migrations.taken().into(), fetches.taken().into());
                tally.refused = u64::from(migrations.refused()) + u64::from(fetches.refused());
            }
        }
        self.tally
    }

    /// Decides a layer of a step.
    ///
    /// # Errors
    /// Losses that the bit selector cannot use.
    pub fn layer<'r>(&'r mut self, step: usize, layer: usize, tokens: &'r [Routed<'r>]) -> Result<LayerOutcome<'r>> {
        debug_assert_eq!(tokens.len(), self.setup.sequences);
        let prefill = step < self.setup.prefill;
        if !prefill && !self.placed[layer] {
            self.place(layer)?;
        }
        if let Some(tenants) = &mut self.queue.tenants {
            if layer == 0 {
                tenants.step(prefill);
            }
            (0..).zip(tokens).for_each(|(of, token)| tenants.want(layer, of, token.wanted));
        }
        self.buffers.before = *self.memories[layer].resident();
        // What the layer's tokens want is known before it is decided what they run.
        self.forecasters.iter_mut().for_each(|forecaster| forecaster.see(layer, tokens));
        if let Some(forecaster) = self.forecasters.first_mut() {
            self.residency.expect(layer, tokens, forecaster);
        }
        if self.selects.first().is_some_and(|select| select.expects()) {
            self.residency.shares(layer, &mut self.buffers.expected);
        }
        self.select(layer, tokens, prefill);
        self.choose(tokens);
        let mut time = None;
        self.buffers.loads.clear();
        self.buffers.executions.clear();
        if prefill {
            self.buffers.used.clear();
            self.buffers.used.resize(self.buffers.choices.len(), true);
            self.show(layer, tokens);
            self.tell(step, layer, prefill, tokens, Moment::Decided);
            self.tell(step, layer, prefill, tokens, Moment::Loaded);
        } else {
            self.count(step, layer, tokens);
            self.divide(layer);
            self.execute(step, layer);
            self.tell(step, layer, prefill, tokens, Moment::Decided);
            self.load(layer);
            self.tell(step, layer, prefill, tokens, Moment::Loaded);
            self.place_now(layer)?;
        }
        if layer + 1 == self.setup.shape.layers {
            self.forecasters.iter_mut().for_each(Forecaster::end_token);
        }
        // From the router's decision to that of the next layer is about as long as a layer: fetches go on behind this
        // one.
        self.fetch(step, layer, prefill, tokens);
        if !prefill {
            time = self.time(step, layer);
        }
        let buffers = &self.buffers;
        Ok(LayerOutcome {
            step,
            layer,
            prefill,
            tokens,
            choices: &buffers.choices,
            executions: &buffers.executions,
            loads: &buffers.loads,
            before: &buffers.before,
            resident: self.memories[layer].resident(),
            shares: &buffers.shares,
            time,
            chosen: &buffers.chosen,
            ends: &buffers.ends,
        })
    }

    /// All layers of a step have been decided.
    ///
    /// # Errors
    /// As [`Self::layer`].
    pub fn end_step(&mut self, step: usize) -> Result<()> {
        let prefill = step < self.setup.prefill;
        if !prefill {
            self.time_outside(step);
        }
        let mut fast = Fast { memories: &mut self.memories, queue: &mut self.queue, bits: self.precision.load_bits() };
        let future = self.future.as_deref();
        self.residency.end_step(&mut EndOfStep { step, prefill, fast: &mut fast, future });
        if step + 1 == self.setup.prefill {
            self.share_memory();
            (0..self.placed.len())
                .filter(|&layer| !self.placed[layer])
                .collect::<Vec<_>>()
                .into_iter()
                .try_for_each(|layer| self.place(layer))?;
        }
        Ok(())
    }

    /// Splits memory in bytes over the layers by what the prompts wanted, if that is asked for.
    fn share_memory(&mut self) {
        let Some(expert_bytes) = self.setup.expert_bytes(self.full_bits).filter(|_| !self.all) else { return };
        let rankings: Vec<Ranking> =
            self.prompt.iter().map(|demand| Ranking::of(demand, self.residency.alpha())).collect();
        if let Some(counts) = self.setup.resident.global(&rankings, expert_bytes) {
            for (memory, count) in self.memories.iter_mut().zip(counts) {
                memory.set_capacity(count as u32 * u32::from(self.full_bits));
            }
            self.tell_room();
        }
    }

    /// Tells the residency how many experts fit in each layer.
    fn tell_room(&mut self) {
        let bits = u32::from(self.precision.load_bits()).max(1);
        for (layer, memory) in self.memories.iter().enumerate() {
            self.residency.room(layer, (memory.capacity() / bits) as usize);
        }
    }

    /// Fills a layer's memory when decoding begins.
    fn place(&mut self, layer: usize) -> Result<()> {
        self.placed[layer] = true;
        let demand = self.prompt.get(layer).map_or(&[][..], Vec::as_slice);
        if self.all || self.setup.prefill > 0 {
            let mut order = Vec::new();
            self.residency.worth(layer, demand, &mut order);
            let memory = &mut self.memories[layer];
            memory.fill(&order, self.precision.load_bits(), self.precision.planes());
            self.residency.placed(layer, memory.resident());
            if let Some(times) = &self.times {
                let used: u32 = self.memories.iter().map(Memory::used).sum();
                let bytes = f64::from(used) * times.model().expert_bytes(1.0);
                self.tally.placement_ps = if self.all { 0 } else { times.system().copy_ps(bytes) };
            }
        }
        if self.precision.ranks() {
            let ranking = if demand.is_empty() {
                Ranking { order: (0..self.setup.shape.experts as u16).collect(), importance: Vec::new() }
            } else {
                Ranking::of(demand, self.residency.alpha())
            };
            self.precision.placed(layer, &ranking, self.memories[layer].resident())?;
        }
        Ok(())
    }

    /// What every token runs, and its shares of the routing mass.
    fn select(&mut self, layer: usize, tokens: &[Routed<'_>], prefill: bool) {
        let Buffers { scores, logits, chosen, ends, discarded, expected, shares, before, .. } = &mut self.buffers;
        chosen.clear();
        ends.clear();
        shares.clear();
        let routers = &*self.setup.routers;
        for (sequence, token) in tokens.iter().enumerate() {
            let first = shares.len();
            routers.shares(layer, token.wanted, token.weights, token.logits, shares);
            ends.push(shares.len());
            if self.raw || token.wanted.is_empty() {
                chosen.extend_from_slice(token.wanted);
                continue;
            }
            scores.clear();
            if !token.logits.is_empty() {
                routers.rank(layer, token.logits, scores);
            }
            logits.clear();
            logits.extend(token.logits.iter().map(|&logit| Logit::saturating_from_num(logit)));
            let seen = Token {
                layer,
                scores,
                logits,
                wanted: token.wanted,
                shares: &shares[first..],
                experts: self.setup.shape.experts,
                resident: &*before,
                starts_sequence: token.starts_sequence,
                router: &routers.layer(layer),
                expected,
                committed: self.prefetch.committed(sequence),
            };
            let select = &mut self.selects[layer * tokens.len() + sequence];
            if prefill {
                discarded.clear();
                select.select(&seen, discarded);
                chosen.extend_from_slice(token.wanted);
            } else {
                select.select(&seen, chosen);
            }
        }
    }

    /// What the step runs, each expert once; a stand-in takes the share of the expert that it stands in for, null
    /// experts are nothing to run.
    fn choose(&mut self, tokens: &[Routed<'_>]) {
        let experts = self.setup.shape.experts;
        let Buffers { chosen, shares, choices, found, visit, .. } = &mut self.buffers;
        choices.clear();
        let pairs = chosen.iter().zip(&*shares).filter(|(expert, _)| usize::from(**expert) < experts);
        if tokens.len() == 1 {
            choices.extend(pairs.map(|(&expert, &mass)| Choice { expert, tokens: 1, mass }));
            return;
        }
        *visit += 1;
        for (&expert, &mass) in pairs {
            let (written, at) = &mut found[usize::from(expert)];
            if *written == *visit {
                let choice = &mut choices[*at as usize];
                (choice.tokens, choice.mass) = (choice.tokens + 1, choice.mass + mass);
            } else {
                (*written, *at) = (*visit, choices.len() as u32);
                choices.push(Choice { expert, tokens: 1, mass });
            }
        }
    }

    /// Remembers what prompts want.
    fn show(&mut self, layer: usize, tokens: &[Routed<'_>]) {
        for (sequence, token) in tokens.iter().enumerate() {
            let Buffers { shares, gates, ends, .. } = &mut self.buffers;
            mass::gates(&shares[range(ends, sequence)], gates);
            let wanted = real(token.wanted, self.setup.shape.experts);
            Demand::observe(&mut self.prompt[layer], wanted, &gates[..wanted.len()]);
            self.remember(layer, sequence);
        }
    }

    /// Remembers what a sequence runs, for the switches of its next token.
    fn remember(&mut self, layer: usize, sequence: usize) {
        let k = self.setup.shape.k;
        let chosen = &self.buffers.chosen[range(&self.buffers.ends, sequence)];
        let first = (layer * self.setup.sequences + sequence) * k;
        let previous = &mut self.previous[first..first + k];
        previous.fill(NO_EXPERT);
        let runs = chosen.iter().filter(|expert| **expert != NO_EXPERT);
        previous.iter_mut().zip(runs).for_each(|(previous, &expert)| *previous = expert);
    }

    /// Share of the wanted routing mass that a token's choice lacks: without logits, of what is left out.
    fn lost(&self, layer: usize, sequence: usize, token: &Routed<'_>) -> f64 {
        let Buffers { chosen, ends, shares, .. } = &self.buffers;
        let (chosen, shares) = (&chosen[range(ends, sequence)], &shares[range(ends, sequence)]);
        let runs = || chosen.iter().copied().filter(|&expert| expert != NO_EXPERT);
        if token.logits.is_empty() {
            let out = chosen.iter().zip(shares).filter(|(expert, _)| **expert == NO_EXPERT);
            return out.map(|(_, &share)| f64::from(share)).sum();
        }
        if runs().count() == chosen.len() {
            return self.setup.routers.loss(layer, token.logits, token.wanted, chosen);
        }
        self.setup.routers.loss(layer, token.logits, token.wanted, &runs().collect::<Vec<_>>())
    }

    /// Choices, switches, misses, and what the selection costs.
    fn count(&mut self, step: usize, layer: usize, tokens: &[Routed<'_>]) {
        let Shape { experts, k, .. } = self.setup.shape;
        let mut misses = 0;
        for (sequence, token) in tokens.iter().enumerate() {
            let tally = &mut self.tally.layers[layer];
            let chosen = &self.buffers.chosen[range(&self.buffers.ends, sequence)];
            let runs = chosen.iter().filter(|expert| usize::from(**expert) < experts);
            let count = runs.clone().count() as u64;
            let first = (layer * tokens.len() + sequence) * k;
            let previous = &self.previous[first..first + k];
            tally.tokens += 1;
            tally.choices += count;
            let missed = runs.clone().filter(|expert| !self.buffers.before.contains(**expert)).count();
            misses += missed;
            if let Some(tenant) = self.tally.tenants.get_mut(sequence) {
                (tenant.choices, tenant.misses) = (tenant.choices + count, tenant.misses + missed as u64);
            }
            if !token.starts_sequence && previous[0] != NO_EXPERT {
                tally.with_predecessor += count;
                tally.switches += runs.clone().filter(|expert| !previous.contains(expert)).count() as u64;
            }
            for &expert in token.wanted {
                if let Some(sums) = tally.experts.get_mut(usize::from(expert)) {
                    sums.wanted += 1;
                    sums.ran += u64::from(chosen.contains(&expert));
                }
            }
            if self.raw || chosen == token.wanted {
                tally.agreed += count;
            } else {
                tally.agreed += runs.filter(|expert| token.wanted.contains(expert)).count() as u64;
                let lost = self.lost(layer, sequence, token);
                let tally = &mut self.tally.layers[layer];
                tally.mass_lost += lost;
                tally.worst_mass_loss = tally.worst_mass_loss.max(lost);
            }
            self.remember(layer, sequence);
        }
        let tally = &mut self.tally.layers[layer];
        tally.misses += misses as u64;
        let bin = self.tally.bin(step - self.setup.prefill);
        self.tally.miss_bins[bin] += misses as u32;
    }

    /// Where every choice runs, at how many bits.
    fn divide(&mut self, layer: usize) {
        let Buffers { choices, sites, gpu_bits, near_bits, .. } = &mut self.buffers;
        gpu_bits.clear();
        self.precision.on_gpu(choices, gpu_bits);
        near_bits.clear();
        near_bits.extend(choices.iter().map(|choice| self.precision.near(layer, choice.expert)));
        sites.clear();
        sites.resize(choices.len(), Site::Gpu);
        let seen = Layer {
            choices,
            resident: self.memories[layer].resident(),
            gpu_bits,
            near_bits,
            times: self.times.as_ref(),
            sequences: self.setup.sequences as u32,
        };
        self.division.divide(&seen, sites);
    }

    /// Turns sites into executions and work.
    fn execute(&mut self, step: usize, layer: usize) {
        let Buffers { choices, sites, gpu_bits, near_bits, executions, used, gpu, copied, near, copies_bits, .. } =
            &mut self.buffers;
        gpu.clear();
        copied.clear();
        near.clear();
        copies_bits.clear();
        used.clear();
        let (memory, planes) = (&self.memories[layer], self.precision.planes().is_some());
        let beside = self.division.loads_beside();
        let bin = self.tally.bin(step - self.setup.prefill);
        let tally = &mut self.tally.layers[layer];
        let sums = &mut self.tally.steps[step - self.setup.prefill];
        for (index, choice) in choices.iter().enumerate() {
            let (held, wanted) = (memory.held(choice.expert), gpu_bits[index]);
            let run = |bits: u8| ExpertRun { bits: bits.into(), tokens: choice.tokens };
            let execution = match sites[index] {
                Site::Near => Execution { place: Place::NearData, bits: near_bits[index] },
                Site::Gpu if held > 0 && held >= wanted => {
                    Execution { place: Place::Gpu, bits: if planes { wanted } else { held } }
                }
                Site::Gpu if wanted == 0 => Execution { place: Place::Skipped, bits: 0 },
                Site::Gpu => {
                    let bits = if planes { wanted - held } else { wanted };
                    Execution { place: Place::Copied { bits }, bits: wanted }
                }
            };
            used.push(sites[index] == Site::Gpu || beside);
            executions.push(execution);
            let mass = f64::from(choice.mass);
            sums.mass += mass;
            if held > 0 {
                sums.covered += mass;
            }
            if execution.bits == self.full_bits {
                sums.full += mass;
            }
            match execution.place {
                Place::Gpu if self.times.is_some() && self.queue.fetches(layer, choice.expert) => {
                    let bits = self.queue.take(layer, choice.expert);
                    if bits > 0.0 {
                        copied.push(CopiedRun { run: run(execution.bits), bits });
                    } else {
                        gpu.push(run(execution.bits));
                    }
                }
                Place::Gpu => gpu.push(run(execution.bits)),
                Place::Copied { bits } => {
                    copied.push(CopiedRun { run: run(execution.bits), bits: bits.into() });
                    tally.stalls += u64::from(choice.tokens);
                    self.tally.stall_bins[bin] += choice.tokens;
                    tally.demanded += 1;
                }
                Place::NearData => {
                    near.push(run(execution.bits));
                    self.tally.near_mass += mass;
                    self.tally.near_bits += mass * f64::from(execution.bits);
                }
                Place::Skipped => self.tally.skipped += mass,
            }
            if let Some(losses) = self.setup.losses.filter(|_| execution.bits > 0) {
                let loss = losses.get(layer, usize::from(choice.expert), execution.bits);
                self.tally.loss += mass * loss.unwrap_or(0.0);
            }
        }
    }

    /// Tells the residency what a step runs.
    fn tell(&mut self, step: usize, layer: usize, prefill: bool, tokens: &[Routed<'_>], moment: Moment) {
        let (Shape { experts, k, .. }, future) = (self.setup.shape, self.future.as_deref());
        let Buffers { shares, ends, .. } = &self.buffers;
        let token = |sequence: usize| {
            let wanted = real(tokens[sequence].wanted, experts);
            ServedToken {
                wanted,
                shares: &shares[range(ends, sequence)][..wanted.len()],
                next_use: future.map_or(&[], |future| future.next_use(step, (sequence, tokens.len()), layer, k)),
                ahead: &[],
            }
        };
        let served = Served {
            step,
            layer,
            prefill,
            tokens: tokens.len(),
            choices: &self.buffers.choices,
            used: &self.buffers.used,
            token: &token,
        };
        match moment {
            Moment::Decided => self.residency.serve(&served, self.memories[layer].resident()),
            Moment::Loaded => self.residency.observe(&served),
        }
    }
}
