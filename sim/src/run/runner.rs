//! One row in one layer, token by token: what a policy chooses, what a placement loads, and the sums of both.

use cptr_core::{Logit, Metrics};
use cptr_hw_model::LayerTime;

use super::{BINS, RowPlan};
use crate::layer::Counts;
use crate::placement::{self, Placement, Resident, Served};
use crate::policy::{self, Policy, Token};
use cptr_trace::Convention;

/// Sums of one row over one layer.
#[derive(Debug, Default)]
pub struct RowLayer {
    /// Switches, misses, substitutions.
    pub metrics: Metrics,
    /// Sum over tokens of the share of the wanted mass given up.
    pub mass_lost: f64,
    /// Chosen experts that the model wanted.
    pub agreed: u64,
    /// Experts copied into fast memory.
    pub loads: u64,
    /// Busy time of GPU, link and near-data device.
    pub busy_ps: [u64; 3],
    /// Busy time of the controller.
    pub controller_ps: u64,
    /// Energy of all units.
    pub energy_pj: u64,
    /// Misses by part of the trace.
    pub miss_bins: Vec<u32>,
}

impl RowLayer {
    /// Adds busy times and energy of one token.
    pub fn add_time(&mut self, time: &LayerTime) {
        for (busy, time) in self.busy_ps.iter_mut().zip([time.gpu_ps, time.link_ps, time.ndp_ps]) {
            *busy += time;
        }
        self.controller_ps += time.controller_ps;
        self.energy_pj = self.energy_pj.saturating_add(time.energy.total_pj());
    }
}

/// One row in one layer: a policy, a placement and what is resident.
pub struct Runner<'a> {
    policy: Box<dyn Policy + 'a>,
    placement: Box<dyn Placement + 'a>,
    resident: Resident,
    /// What a routing mass is.
    convention: Convention,
    /// Routed experts of the layer.
    experts: usize,
    /// Length of the run in tokens.
    tokens: usize,
    /// Whether the controller goes through the scores; the raw router's choice it takes as it is.
    selects: bool,
    /// Whether the controller keeps levels of the experts: for its choice, or for the placement.
    tracks: bool,
    chosen: Vec<u16>,
    previous: Vec<u16>,
    /// Those of the last token's experts that were not resident.
    missed: Vec<u16>,
    sums: RowLayer,
}

/// One token of one layer as a [`Runner`] takes it.
#[derive(Clone, Copy)]
pub struct Routed<'a> {
    /// Index of the token in the run.
    pub index: usize,
    /// The model's own choice, best first where the source says so.
    pub wanted: &'a [u16],
    /// The router's scores.
    pub scores: &'a Scores,
    /// Whether this is the first token of a sequence.
    pub starts_sequence: bool,
}

/// Scores of one token in the forms that policies take; all empty where they are not known.
#[derive(Default)]
pub struct Scores {
    /// As recorded.
    raw: Vec<f32>,
    /// What the router ranks by.
    ranked: Vec<f32>,
    /// In the controller's format.
    fixed: Vec<Logit>,
}

/// What a [`Runner`] is made for.
#[derive(Clone, Copy)]
pub struct Sizes<'a> {
    /// Experts, cache, the router in the controller's arithmetic, and the future for oracles.
    pub layer: placement::Layer<'a>,
    /// What a routing mass is.
    pub convention: Convention,
    /// Length of the run in tokens.
    pub tokens: usize,
}

impl<'a> Runner<'a> {
    pub fn new(row: &RowPlan, sizes: Sizes<'a>) -> Self {
        let selects = row.policy.kind.name != policy::RAW;
        Self {
            policy: row.policy.make(policy::Layer { experts: sizes.layer.experts, router: sizes.layer.router }),
            placement: row.placement.make(sizes.layer),
            resident: Resident::new(),
            convention: sizes.convention,
            experts: sizes.layer.experts,
            tokens: sizes.tokens,
            selects,
            tracks: selects || row.placement.kind.name == placement::TRACKED,
            chosen: Vec::new(),
            previous: Vec::new(),
            missed: Vec::new(),
            sums: RowLayer { miss_bins: vec![0; BINS.min(sizes.tokens)], ..RowLayer::default() },
        }
    }

    /// One token: chooses, counts, loads.
    pub fn step(&mut self, token: Routed<'_>) -> Counts {
        let Routed { index, wanted, scores, starts_sequence } = token;
        self.chosen.clear();
        let token =
            Token { scores: &scores.ranked, logits: &scores.fixed, wanted, resident: &self.resident, starts_sequence };
        self.policy.select(&token, &mut self.chosen);
        let agreed = self.chosen.iter().filter(|expert| wanted.contains(expert)).count();
        self.missed.clear();
        self.missed.extend(self.chosen.iter().filter(|&&expert| !self.resident.contains(expert)));
        let cold = self.missed.len();
        let previous = if starts_sequence { &[][..] } else { &self.previous };
        self.sums.metrics.count(&self.chosen, previous, &self.resident, self.chosen.len() - agreed, false);
        self.sums.agreed += agreed as u64;
        if agreed < wanted.len() {
            self.sums.mass_lost += mass_loss(self.convention, &scores.raw, wanted, &self.chosen);
        }
        let bins = self.sums.miss_bins.len();
        self.sums.miss_bins[index * bins / self.tokens] += cold as u32;
        let served = Served { index, wanted, chosen: &self.chosen, logits: &scores.fixed };
        let loads = self.placement.serve(&served, &mut self.resident);
        self.sums.loads += u64::from(loads);
        std::mem::swap(&mut self.chosen, &mut self.previous);
        Counts {
            resident: (self.previous.len() - cold) as u32,
            cold: cold as u32,
            loads,
            scored: if self.selects { self.experts as u32 } else { 0 },
            tracked: if self.tracks { self.experts as u32 } else { 0 },
        }
    }

    /// What the last token runs.
    pub fn last_run(&self) -> &[u16] {
        &self.previous
    }

    /// What of it was not resident when the token came.
    pub fn missed(&self) -> &[u16] {
        &self.missed
    }

    /// What is resident after the last token.
    pub fn resident(&self) -> &Resident {
        &self.resident
    }

    /// Sums so far.
    pub fn sums(&mut self) -> &mut RowLayer {
        &mut self.sums
    }

    /// Sums of the whole run.
    pub fn into_sums(self) -> RowLayer {
        self.sums
    }
}

impl Scores {
    /// Logits in the controller's format.
    pub fn fixed(&self) -> &[Logit] {
        &self.fixed
    }

    /// Takes the scores of one token and layer `[E]`; `bias` is `[E]` or empty.
    pub fn set(&mut self, raw: &[f32], convention: Convention, bias: &[f32]) {
        self.raw.clear();
        self.raw.extend_from_slice(raw);
        self.fixed.clear();
        self.fixed.extend(raw.iter().map(|&logit| Logit::saturating_from_num(logit)));
        self.ranked.clear();
        match convention {
            Convention::Sigmoid { .. } => {
                let bias = |expert: usize| bias.get(expert).copied().unwrap_or(0.0);
                self.ranked.extend(raw.iter().enumerate().map(|(e, &z)| 1.0 / (1.0 + (-z).exp()) + bias(e)));
            }
            _ => self.ranked.extend_from_slice(raw),
        }
    }
}

/// Share of the wanted routing mass that the chosen experts lack; negative where they have more (a selection bias was overruled).
pub fn mass_loss(router: Convention, logits: &[f32], wanted: &[u16], chosen: &[u16]) -> f64 {
    let logit = |expert: u16| f64::from(logits[usize::from(expert)]);
    let largest = wanted.iter().map(|&expert| logit(expert)).fold(f64::MIN, f64::max);
    let mass = |expert: &u16| match router {
        Convention::Sigmoid { .. } => 1.0 / (1.0 + (-logit(*expert)).exp()),
        _ => (logit(*expert) - largest).exp(),
    };
    1.0 - chosen.iter().map(mass).sum::<f64>() / wanted.iter().map(mass).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mass_loss_by_hand() {
        let logits = [2.0, 1.0, 0.0, -1.0];
        let e = |z: f64| z.exp();
        let expected = 1.0 - (e(2.0) + e(0.0)) / (e(2.0) + e(1.0));
        for router in [Convention::SoftmaxAll, Convention::SoftmaxSelected, Convention::Unknown] {
            assert!((mass_loss(router, &logits, &[0, 1], &[0, 2]) - expected).abs() < 1e-12);
        }
        let s = |z: f64| 1.0 / (1.0 + (-z).exp());
        let router = Convention::Sigmoid { groups: 1, top_groups: 1 };
        let expected = 1.0 - (s(2.0) + s(0.0)) / (s(2.0) + s(1.0));
        assert!((mass_loss(router, &logits, &[0, 1], &[0, 2]) - expected).abs() < 1e-12);
    }
}
