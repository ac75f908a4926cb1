//! One row in the loop: the hook that lets a policy choose and a placement load, layer by layer.

use cptr_core::Router;

use super::precision::Widths;
use super::{Document, Plan, RowPlan};
use cptr_model::Result;
use cptr_model::model::{Expert, Model, MoeHook};
use cptr_sim::placement;
use cptr_sim::run::layer::TimeTable;
use cptr_sim::run::runner::{Routed, RowLayer, Runner, Scores, Sizes};
use cptr_trace::Convention;
use cptr_trace::progress::Progress;

/// Runs a policy and a placement inside the MoE blocks of a model that reads all documents.
pub(super) struct Steering<'a> {
    row: &'a RowPlan,
    widths: Widths<'a>,
    plan: &'a Plan,
    progress: &'a Progress,
    /// Whether a document begins, for each token.
    starts: Vec<bool>,
    experts: usize,
    k: usize,
    convention: Convention,
    /// Whether each of the layer's chosen experts `[N, k]` was in fast memory.
    resident: Vec<bool>,
    /// Sums of each layer.
    pub(super) layers: Vec<RowLayer>,
    /// Time of each token over the layers so far, in picoseconds; all 0 without sizes.
    pub(super) token_ps: Vec<u64>,
}

impl<'a> Steering<'a> {
    pub(super) fn new(
        model: &Model,
        documents: &[Document],
        plan: &'a Plan,
        (row, widths): (&'a RowPlan, Widths<'a>),
        progress: &'a Progress,
    ) -> Self {
        let starts: Vec<bool> =
            documents.iter().flat_map(|document| (0..document.tokens.len()).map(|at| at == 0)).collect();
        Self {
            row,
            widths,
            plan,
            progress,
            token_ps: vec![0; starts.len()],
            starts,
            experts: model.config.experts,
            k: model.config.k,
            convention: model.config.router.convention(),
            resident: Vec::new(),
            layers: Vec::new(),
        }
    }

    /// Mean bits of the experts, 0 where they run the model's own weights.
    pub(super) fn mean_bits(&self) -> f64 {
        self.widths.mean()
    }
}

impl MoeHook for Steering<'_> {
    /// `scores` are those of all tokens of all documents: so oracles see the future that the altered model has.
    fn route(&mut self, _: usize, scores: &[f32], wanted: &[u16], chosen: &mut [u16]) {
        let (experts, k) = (self.experts, self.k);
        let oracle = self.row.run.placement.kind.oracle;
        let next_use = if oracle { placement::next_use(wanted, k, experts) } else { Vec::new() };
        let router = match self.convention {
            Convention::SoftmaxAll => Router::softmax_all(k),
            _ => Router::softmax_selected(k),
        };
        let layer = placement::Layer { experts, capacity: self.plan.machine.cache, next_use: &next_use, router };
        let tokens = self.starts.len();
        let mut runner = Runner::new(&self.row.run, Sizes { layer, convention: self.convention, tokens });
        let times = TimeTable::new(&self.plan.machine);
        let mut known = Scores::default();
        self.resident.clear();
        let rows = scores.chunks_exact(experts).zip(wanted.chunks_exact(k)).zip(chosen.chunks_exact_mut(k));
        for (index, ((scores, wanted), chosen)) in rows.enumerate() {
            known.set(scores, self.convention, &[]);
            let starts_sequence = self.starts[index];
            let work = runner.step(Routed { index, wanted, scores: &known, starts_sequence });
            chosen.copy_from_slice(runner.last_run());
            self.resident.extend(chosen.iter().map(|expert| !runner.missed().contains(expert)));
            self.token_ps[index] += times.get(work).map_or(0, |time| time.total_ps);
        }
        self.layers.push(runner.into_sums());
        self.progress.advance(tokens as u64);
    }
    fn bits(&mut self, layer: usize, chosen: &[u16], bits: &mut [u8]) {
        for ((bits, &expert), &resident) in bits.iter_mut().zip(chosen).zip(&self.resident) {
            *bits = self.widths.of(layer, expert, resident);
        }
    }

    fn replica(&mut self, layer: usize, expert: u16, bits: u8) -> Result<Expert> {
        Ok(self.widths.replica(layer, expert, bits)?)
    }
}
