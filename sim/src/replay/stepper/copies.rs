//! What a layer copies: on demand, by placement, fetched ahead; and what that and the rest of its work take.

use cptr_core::Level;
use cptr_hw_model::{LayerTime, LayerWork};
use cptr_trace::error::Result;

use super::{Buffers, Replay};
use crate::memory::tenants::What;
use crate::memory::without;
use crate::replay::{Counted, Machine};
use crate::source::{Routed, real};
use crate::strategy::prefetch::{Next, Pick};
use crate::strategy::{Choice, Execution, Place, Served, ServedToken};

impl Replay<'_> {
    /// Lets what was copied stay, as far as the residency makes room.
    pub(super) fn load(&mut self, layer: usize) {
        if !self.residency.on_demand() {
            return;
        }
        let beside = self.division.loads_beside();
        self.buffers.keep.clear();
        self.buffers.choices.iter().for_each(|choice| _ = self.buffers.keep.insert(choice.expert));
        for index in 0..self.buffers.choices.len() {
            let (expert, execution) = (self.buffers.choices[index].expert, self.buffers.executions[index]);
            let bits = match execution.place {
                Place::Copied { .. } => execution.bits,
                Place::NearData if beside && self.memories[layer].held(expert) == 0 => self.precision.load_bits(),
                _ => continue,
            };
            if !self.make_room(layer, expert, bits, false) {
                continue;
            }
            self.memories[layer].hold(expert, bits);
            self.residency.loaded(layer, expert);
            self.buffers.loads.push(expert);
            if execution.place == Place::NearData {
                self.buffers.copies_bits.push(bits.into());
                self.tally.layers[layer].demanded += 1;
            }
        }
    }

    /// Makes room for `bits` bits of an expert, which is wanted now or fetched ahead, among those that are not to be
    /// kept; whether there is.
    fn make_room(&mut self, layer: usize, expert: u16, bits: u8, ahead: bool) -> bool {
        let experts = self.setup.shape.experts;
        self.residency.coming(layer, expert);
        loop {
            let memory = &mut self.memories[layer];
            let missing = u32::from(bits - memory.held(expert).min(bits));
            if memory.room() >= missing {
                return true;
            }
            without(memory.resident(), &self.buffers.keep, experts, &mut self.buffers.free);
            let free = &self.buffers.free;
            let victim = match self.prefetch.next().filter(|_| ahead) {
                Some(next) => self.residency.victim_ahead(layer, free, expert, next),
                None => self.residency.victim(layer, free),
            };
            let Some(victim) = victim else { return false };
            let held = memory.held(victim);
            let left = self.precision.planes().filter(|low| held > *low).map_or(0, |_| held - 1);
            memory.hold(victim, left);
            self.queue.cancel(layer, victim);
            if left == 0 {
                self.residency.evicted(layer, victim);
            }
        }
    }

    /// Places a layer in the middle of decoding, if the residency says so.
    pub(super) fn place_now(&mut self, layer: usize) -> Result<()> {
        let Some(ranking) = self.residency.place(layer) else { return Ok(()) };
        let memory = &mut self.memories[layer];
        let before = *memory.resident();
        memory.fill(&ranking.order, self.precision.load_bits(), self.precision.planes());
        for &expert in &ranking.order {
            let held = memory.held(expert);
            if held == 0 || before.contains(expert) {
                continue;
            }
            self.buffers.loads.push(expert);
            // What has just been copied for this step need not be copied again.
            let copied = |(choice, execution): (&Choice, &Execution)| {
                choice.expert == expert && matches!(execution.place, Place::Copied { .. })
            };
            if !self.buffers.choices.iter().zip(&self.buffers.executions).any(copied) {
                self.buffers.copies_bits.push(held.into());
                self.tally.layers[layer].migrated += 1;
            }
        }
        self.precision.placed(layer, &ranking, self.memories[layer].resident())
    }

    /// What a layer takes, and what passes behind it.
    pub(super) fn time(&mut self, step: usize, layer: usize) -> Option<LayerTime> {
        if self.times.is_none() {
            self.queue.start(&mut self.memories);
            self.queue.advance(f64::INFINITY, &mut self.memories);
            return None;
        }
        // A copy that has started is not broken off: what this layer waits for comes behind it.
        if !self.buffers.copied.is_empty() || !self.buffers.copies_bits.is_empty() {
            let bits = self.queue.finish(&mut self.memories);
            if bits > 0.0 {
                self.buffers.copies_bits.insert(0, bits);
            }
        }
        self.queue.start(&mut self.memories);
        let behind = !self.queue.is_empty();
        let mut time = self.layer_time(step, behind || !self.prefetch.never())?;
        let mut left = self.queue.advance(time.migrated_bytes, &mut self.memories);
        let load = self.queue.size(self.precision.load_bits());
        let mut fetched = false;
        while left > 0.0 && self.pick(step, layer, Level::from_num((left / load).min(1.0))) {
            fetched = true;
            left = self.queue.advance(left, &mut self.memories);
        }
        let passed = if behind || fetched {
            time.migrated_bytes - left
        } else {
            time = self.layer_time(step, false)?;
            0.0
        };
        let passed_ps = passed / self.times.as_ref()?.system().copy_gb_s() * 1e3;
        self.tally.steps[step - self.setup.prefill].time_ps += time.total_ps;
        self.tally.add_time(&time, passed_ps);
        Some(time)
    }

    /// The time of the layer's work on the machine, with copies behind it or none.
    fn layer_time(&mut self, step: usize, migrating: bool) -> Option<LayerTime> {
        let Buffers { gpu, copied, near, copies_bits, .. } = &self.buffers;
        let experts = self.setup.shape.experts as u32;
        let selects = !self.raw;
        let tracks = selects || self.residency.tracks();
        let work = LayerWork {
            tokens: self.setup.sequences as u32,
            attended: self.attended(step),
            gpu,
            copied,
            near_data: near,
            copies_bits,
            migrating,
            scored: if selects { experts } else { 0 },
            tracked: if tracks { experts } else { 0 },
        };
        Some(self.known.get(self.times.as_ref()?, &work, self.full_bits))
    }

    /// Tokens that the attention of a layer reads in a step, of all sequences.
    fn attended(&self, step: usize) -> u64 {
        let Some(Machine { model: Some(model), counted: Counted::Token { context }, .. }) = self.setup.machine else {
            return 0;
        };
        let before = context.saturating_add(step as u64);
        (model.attended(before) * self.setup.sequences as f64).round() as u64
    }

    /// Adds what a step takes outside the layers of the source.
    pub(super) fn time_outside(&mut self, step: usize) {
        let Some(machine) = self.setup.machine.filter(|machine| machine.counted != Counted::Layers) else { return };
        let Some(model) = machine.model else { return };
        let time = machine.system.outside_layers(model, self.setup.sequences as u32, self.attended(step));
        let part = match model.layers {
            0 => 1.0,
            layers => self.setup.shape.layers as f64 / layers as f64,
        };
        let of = |ps: u64| (ps as f64 * part).round() as u64;
        let counted = LayerTime {
            total_ps: of(time.total_ps),
            gpu_ps: of(time.gpu_ps),
            link_ps: of(time.link_ps),
            ..LayerTime::default()
        };
        self.tally.steps[step - self.setup.prefill].time_ps += counted.total_ps;
        self.tally.add_time(&counted, 0.0);
        self.tally.add_energy(&time.energy, part);
    }

    /// Lets the prefetch learn from a layer, and has what it asks for at once of the next layer fetched.
    pub(super) fn fetch(&mut self, step: usize, layer: usize, prefill: bool, tokens: &[Routed<'_>]) {
        if self.prefetch.never() {
            return;
        }
        let last = layer + 1 == self.setup.shape.layers;
        let (next_step, next_layer) = (step + usize::from(last), if last { 0 } else { layer + 1 });
        let (residency, memories) = (&self.residency, &self.memories);
        let resident = |layer| residency.fetches_for(layer).unwrap_or(memories[layer].resident());
        let next = Next {
            step: next_step,
            layer: next_layer,
            resident: &resident,
            future: self.future.as_deref(),
            forecaster: self.forecasters.last_mut(),
        };
        self.buffers.asks.clear();
        let experts = self.setup.shape.experts;
        let wanted = |sequence: usize| real(tokens[sequence].wanted, experts);
        let ahead = |sequence: usize| tokens[sequence].ahead;
        let token =
            |sequence| ServedToken { wanted: wanted(sequence), shares: &[], next_use: &[], ahead: ahead(sequence) };
        let served = Served {
            step,
            layer,
            prefill,
            tokens: tokens.len(),
            choices: &self.buffers.choices,
            used: &self.buffers.used,
            token: &token,
        };
        self.prefetch.ask(&served, next, &mut self.buffers.asks);
        if let Some(tenants) = &mut self.queue.tenants {
            (0..tokens.len()).for_each(|of| tenants.want(next_layer, of, self.prefetch.committed(of)));
        }
        let most = self.prefetch.most();
        self.buffers.asked_ahead = None;
        if prefill || next_step >= self.setup.shape.tokens || self.buffers.asks.is_empty() || most == 0 {
            return;
        }
        self.expect(next_layer);
        self.residency.gate(next_layer, &mut self.buffers.asks, most, self.prefetch.next());
        self.buffers.keep.clear();
        self.buffers.asks.iter().for_each(|&expert| _ = self.buffers.keep.insert(expert));
        let mut fetched = 0;
        for index in 0..self.buffers.asks.len() {
            if fetched == most {
                break;
            }
            fetched += usize::from(self.fetch_one(next_layer, self.buffers.asks[index]));
        }
    }

    /// Starts what the prefetch thinks worth it, now that the link has nothing else to do; whether there is anything.
    fn pick(&mut self, step: usize, layer: usize, passes: Level) -> bool {
        while let Some(Pick { layer: ahead, expert }) = self.prefetch.pick(passes) {
            if ahead <= layer && step + 1 == self.setup.shape.tokens {
                continue;
            }
            self.expect(ahead);
            self.buffers.asks.clear();
            self.buffers.asks.push(expert);
            self.residency.gate(ahead, &mut self.buffers.asks, 1, self.prefetch.next());
            self.buffers.keep.clear();
            let held_back = self.buffers.asks.is_empty();
            let fetched = !held_back && self.fetch_one(ahead, expert);
            if held_back || fetched {
                self.prefetch.fetched();
            }
            if fetched {
                return true;
            }
        }
        false
    }

    /// Has the residency ask about a layer ahead, once.
    fn expect(&mut self, layer: usize) {
        if self.buffers.asked_ahead != Some(layer) {
            self.buffers.asked_ahead = Some(layer);
            if let Some(forecaster) = self.forecasters.first_mut() {
                self.residency.expect(layer, &[], forecaster);
            }
        }
    }

    /// Fetches an expert, if it is not there and another makes room; whether it does.
    fn fetch_one(&mut self, layer: usize, expert: u16) -> bool {
        let bits = self.precision.load_bits();
        if self.memories[layer].held(expert) > 0 || self.queue.busy(layer).contains(expert) {
            return false;
        }
        if !self.queue.admits(What::Fetch, layer, expert) {
            return false;
        }
        self.expect(layer);
        if !self.make_room(layer, expert, bits, true) {
            return false;
        }
        if let Some(tenants) = &mut self.queue.tenants {
            tenants.charge(What::Fetch, layer, expert);
        }
        self.memories[layer].hold(expert, bits);
        self.residency.fetched(layer, expert);
        self.tally.layers[layer].fetched += 1;
        if self.times.is_some() {
            self.queue.fetch(layer, expert, bits);
        }
        true
    }
}
