//! Placed anew as the tracked context moves, or left as it was placed, whichever takes less time by the times of the
//! machine: never much slower than the better of the two, whatever the input (`docs/harmless.md`).
//!
//! Both run as shadows, which hold ids: the placement that never changes, and `migrate` with its own copies on a link
//! of its own. The real memory migrates towards what the shadow that leads holds.

use cptr_core::Gain;
use cptr_core::lead::{Lead, LeadConfig};
use cptr_core::placement::Demand;
use cptr_hw_model::{ExpertRun, LayerTimes};

use super::migrate::{self, OUTSTANDING};
use super::{EndOfStep, Kind, Make, Residency, Setup, safe};
use crate::memory::queue::Queue;
use crate::memory::tenants::What;
use crate::memory::{Fast, Memory, Resident, without};
use crate::strategy::{Served, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[safe::EXCESS, safe::SEED],
    times: true,
    couples_layers: true,
    ..Kind::new("safe-migrate", "migrate, or placed once, whichever is measured to take less time", Make(make))
};

/// The shadows in the order of losses.
const MOVES: usize = 0;

struct SafeMigrate {
    experts: usize,
    bits: u8,
    estimate: Option<Estimate>,
    migrate: Box<dyn Residency>,
    /// What the shadow that moves holds, and its copies.
    moving: Vec<Memory>,
    queue: Queue,
    /// What the one that does not holds.
    placed: Vec<Resident>,
    /// Times of the step so far in picoseconds: of the two shadows, and of the real memory.
    times: [f64; 2],
    ours: f64,
    /// Whether the real link is busy with migrations.
    migrates: bool,
    lead: Lead<2>,
    config: LeadConfig,
    /// Room for a layer's differences.
    wanted: Resident,
    others: Resident,
}

/// About how long a layer takes, by what of it is resident; all in picoseconds.
struct Estimate {
    /// Without experts.
    dense: f64,
    /// There and back, where something runs near the data.
    trip: f64,
    /// An expert on the GPU.
    gpu: f64,
    /// One near the data, alone and beside a migration.
    near: [f64; 2],
    /// A copy of an expert.
    copy: f64,
    /// Bytes that the link copies in a picosecond.
    rate: f64,
}

impl Estimate {
    fn of(times: &LayerTimes<'_>, setup: &Setup<'_>) -> Self {
        let run = |bits: u8| ExpertRun { bits: bits.into(), tokens: 1 };
        let near = times.near_run_ps(run(setup.near_bits));
        let dense = times.estimate_ps(1, 0.0, 0.0);
        Self {
            dense,
            trip: times.estimate_ps(1, 0.0, 1.0) - dense - 1.0,
            gpu: times.gpu_run_ps(run(setup.full_bits)),
            near: [near, near / (1.0 - times.migration_share(setup.near_bits.into())).max(0.01)],
            copy: times.copy_ps(setup.full_bits.into()),
            rate: times.system().copy_gb_s() / 1e3,
        }
    }

    /// A layer that runs `choices` experts, `resident` of them in GPU memory: they run where that is fastest.
    fn layer(&self, choices: usize, resident: usize, migrates: bool) -> f64 {
        let near = self.near[usize::from(migrates)];
        let time = |gpu: usize| {
            let left = (choices - gpu) as f64;
            let device = if gpu < choices { left * near + self.trip } else { 0.0 };
            (gpu as f64 * self.gpu).max(device)
        };
        self.dense + (0..=resident.min(choices)).map(time).fold(f64::INFINITY, f64::min)
    }
}

fn make(values: &Values, setup: &Setup<'_>) -> Box<dyn Residency> {
    let (start_bytes, bit_bytes) = setup.times.map_or((0.0, 1.0), |times| {
        let link = times.system().link();
        (link.copy_launch_ns * link.copy_gb_s(), times.model().expert_bytes(1.0))
    });
    let excess = Gain::from_num(values.get("excess"));
    let estimate = setup.times.map(|times| Estimate::of(times, setup));
    // A change of leader copies all experts at most; while that goes on, a layer with none of its choices resident
    // takes the place of one with all.
    let most = (setup.k * setup.sequences).min(setup.experts);
    let config = estimate.as_ref().map_or(LeadConfig::new(excess, 0, 0), |estimate| {
        let (worst, best) = (estimate.layer(most, 0, true), estimate.layer(most, most, false));
        let change = setup.fit as f64 * estimate.copy * (1.0 - best / worst);
        let step = setup.layers as f64 * (worst - best);
        LeadConfig::new(excess, microseconds(change), microseconds(step))
    });
    Box::new(SafeMigrate {
        experts: setup.experts,
        bits: setup.full_bits,
        estimate,
        migrate: (migrate::KIND.make.0)(&Values::defaults(migrate::KIND.parameters), setup),
        moving: vec![Memory::new(setup.experts, 0); setup.layers],
        queue: Queue::new(setup.layers, start_bytes, bit_bytes, setup.full_bits, false),
        placed: vec![Resident::new(); setup.layers],
        times: [0.0; 2],
        ours: 0.0,
        migrates: false,
        lead: Lead::new(values.get("seed") as u32),
        config,
        wanted: Resident::new(),
        others: Resident::new(),
    })
}

fn microseconds(ps: f64) -> u32 {
    (ps / 1e6).round() as u32
}

impl Residency for SafeMigrate {
    fn room(&mut self, layer: usize, fit: usize) {
        self.moving[layer].set_capacity(fit as u32 * u32::from(self.bits));
    }

    fn serve(&mut self, served: &Served<'_>, resident: &Resident) {
        let Some(estimate) = self.estimate.as_ref().filter(|_| !served.prefill) else { return };
        let (layer, choices) = (served.layer, served.choices.len());
        let there = |held: &Resident| served.choices.iter().filter(|choice| held.contains(choice.expert)).count();
        self.queue.start(&mut self.moving);
        let copies = !self.queue.is_empty();
        let time = estimate.layer(choices, there(self.moving[layer].resident()), copies);
        self.times[MOVES] += time;
        self.times[1 - MOVES] += estimate.layer(choices, there(&self.placed[layer]), false);
        self.ours += estimate.layer(choices, there(resident), self.migrates);
        self.queue.advance(time * estimate.rate, &mut self.moving);
    }

    fn observe(&mut self, served: &Served<'_>) {
        self.migrate.observe(served);
    }

    /// Decoding begins: both hold what the prompt wanted most.
    fn worth(&mut self, layer: usize, demand: &[Demand], order: &mut Vec<u16>) {
        self.migrate.worth(layer, demand, order);
        self.moving[layer].fill(order, self.bits, None);
        self.placed[layer] = *self.moving[layer].resident();
    }

    fn end_step(&mut self, end: &mut EndOfStep<'_, '_>) {
        let mut fast = Fast { memories: &mut self.moving, queue: &mut self.queue, bits: self.bits };
        let EndOfStep { step, prefill, future, .. } = *end;
        self.migrate.end_step(&mut EndOfStep { step, prefill, fast: &mut fast, future });
        if end.prefill {
            return;
        }
        let before = self.lead.leader();
        let losses = std::mem::take(&mut self.times).map(microseconds);
        if self.lead.learn(&self.config, &losses, microseconds(std::mem::take(&mut self.ours))) != before {
            end.fast.queue.clear();
        }
        self.follow(end.fast);
        self.migrates = !end.fast.queue.is_empty();
    }

    fn tracks(&self) -> bool {
        true
    }

    fn alpha(&self) -> f64 {
        self.migrate.alpha()
    }
}

impl SafeMigrate {
    /// Asks for what the leader holds, or is copying, and the real memory does not, in place of what only that holds.
    fn follow(&mut self, fast: &mut Fast<'_>) {
        for layer in 0..self.moving.len() {
            let target = if self.lead.leader() == MOVES {
                self.queue.settled(layer, self.moving[layer].resident())
            } else {
                self.placed[layer]
            };
            let held = fast.queue.settled(layer, fast.memories[layer].resident());
            without(&target, &held, self.experts, &mut self.wanted);
            without(&held, &target, self.experts, &mut self.others);
            let mut room = fast.fit(layer).saturating_sub(held.len());
            let mut others = self.others.iter();
            for load in self.wanted.iter() {
                if fast.queue.len() >= OUTSTANDING {
                    return;
                }
                if !fast.queue.admits(What::Migration, layer, load) {
                    continue;
                }
                let evict = if room > 0 { None } else { others.next() };
                if room == 0 && evict.is_none() {
                    break;
                }
                room = room.saturating_sub(1);
                fast.queue.migrate(layer, load, evict);
            }
        }
    }
}
