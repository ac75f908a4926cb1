//! Which experts stay in fast memory.
//!
//! There are two sorts. Memories that are *filled on demand* take in what is loaded, and a rule says who goes for it.
//! Memories that are *placed* hold what a ranking says, and change only by migrations: copies that go on behind
//! decoding.
//!
//! ```
//! let kinds = cptr_sim::strategy::residency::KINDS;
//! assert!(kinds.iter().any(|kind| kind.name == "belady" && kind.sees_future));
//! ```

mod all;
mod arc;
mod belady;
mod empty;
mod finemoe;
mod foresight;
mod lfu;
mod listed;
mod lrfu;
mod lru;
mod migrate;
mod moe_infinity;
mod once;
mod periodic;
mod recall;
mod s3_fifo;
mod safe;
mod safe_migrate;
mod sieve;
mod successor;
mod tracked;

use cptr_core::placement::{Demand, importance, rank};
use cptr_core::{Eps, Gate, Level};
use cptr_hw_model::LayerTimes;

use super::forecaster::{Forecaster, Settings};
use super::{Kind, Parameter, Served, Unit, Values};
use crate::memory::{Fast, Resident};
use crate::source::{Future, Routed};
pub(crate) use tracked::Gains;

/// Every kind, in the order of tables.
pub const KINDS: &[&Kind<Make>] = &[
    &lru::KIND,
    &lfu::KIND,
    &lrfu::KIND,
    &arc::KIND,
    &s3_fifo::KIND,
    &sieve::KIND,
    &tracked::KIND,
    &successor::KIND,
    &moe_infinity::KIND,
    &finemoe::KIND,
    &recall::KIND,
    &safe::KIND,
    &belady::KIND,
    &once::KIND,
    &periodic::KIND,
    &migrate::KIND,
    &safe_migrate::KIND,
    &foresight::KIND,
    &empty::KIND,
    &all::KIND,
];

/// Makes the state of all layers.
#[derive(Debug, Clone, Copy)]
pub struct Make(pub(crate) fn(&Values, &Setup<'_>) -> Box<dyn Residency>);

/// What a residency is made for.
pub(crate) struct Setup<'a> {
    pub(crate) layers: usize,
    pub(crate) experts: usize,
    /// Experts that a token wants in a layer.
    pub(crate) k: usize,
    /// Sequences of the batch.
    pub(crate) sequences: usize,
    /// Steps that are prompts.
    pub(crate) prefill: usize,
    /// Experts that fit, all layers together.
    pub(crate) fit: usize,
    /// Bits of experts near the data, on average.
    pub(crate) near_bits: u8,
    /// Bits of experts in fast memory.
    pub(crate) full_bits: u8,
    /// Experts that are fetched for a layer of a step, at most.
    pub(crate) fetches: usize,
    pub(crate) times: Option<&'a LayerTimes<'a>>,
    pub(crate) future: Option<&'a Future<'a>>,
}

/// Keeps the fast memory of all layers.
pub(crate) trait Residency: Send {
    /// Whether experts that are loaded for a step may stay.
    fn on_demand(&self) -> bool {
        false
    }

    /// From now on `fit` experts fit in a layer.
    fn room(&mut self, _layer: usize, _fit: usize) {}

    /// What a step runs in a layer is known, and nothing has been loaded for it yet: `resident` are there. Of the
    /// prompts nothing will be.
    fn serve(&mut self, _served: &Served<'_>, _resident: &Resident) {}

    /// Who of `free` goes for an expert that is loaded; `None`: nobody.
    fn victim(&mut self, _layer: usize, _free: &Resident) -> Option<u16> {
        None
    }

    /// The same for `expert`, which is fetched before it is asked for; `next` is the probability that the next step
    /// wants each expert. Who goes must be less probable than who comes.
    fn victim_ahead(&mut self, layer: usize, free: &Resident, expert: u16, next: &[Level]) -> Option<u16> {
        self.victim(layer, free).filter(|&victim| next[usize::from(victim)] < next[usize::from(expert)])
    }

    /// The memory of a layer for which it is decided what to fetch; `None`: the real one.
    fn fetches_for(&self, _layer: usize) -> Option<&Resident> {
        None
    }

    /// `asks` are to be fetched for a layer, at most `most` of them, the surest first; `next` as above, where it is
    /// known. Leaves those that are.
    fn gate(&mut self, _layer: usize, _asks: &mut Vec<u16>, _most: usize, _next: Option<&[Level]>) {}

    /// Which memory of trajectories it asks; `None`: none.
    fn recalls(&self) -> Option<Settings> {
        None
    }

    /// Asks that memory about a layer, before anything is loaded there: it has seen what `tokens` want in the layer;
    /// no tokens, where something is fetched for the layer ahead.
    fn expect(&mut self, _layer: usize, _tokens: &[Routed<'_>], _forecaster: &mut Forecaster) {}

    /// Fills `shares` with the share of the next tokens that it expects to want each expert of a layer, after
    /// [`Self::expect`]; with nothing if it does not know.
    fn shares(&self, _layer: usize, shares: &mut Vec<Level>) {
        shares.clear();
    }

    /// Learns from a step in a layer, when what runs is known.
    fn observe(&mut self, _served: &Served<'_>) {}

    /// An expert is about to be loaded: the next victims make room for it.
    fn coming(&mut self, _layer: usize, _expert: u16) {}

    /// An expert was loaded for the step that runs it.
    fn loaded(&mut self, _layer: usize, _expert: u16) {}

    /// An expert was fetched before it was asked for.
    fn fetched(&mut self, _layer: usize, _expert: u16) {}

    /// An expert has gone for another.
    fn evicted(&mut self, _layer: usize, _expert: u16) {}

    /// After the prompts memory holds `resident`, the first of [`Self::worth`].
    fn placed(&mut self, _layer: usize, _resident: &Resident) {}

    /// Fills `order` with experts by falling worth after the prompts, which asked `demand` of the layer: the first
    /// stay, as far as they fit.
    fn worth(&mut self, layer: usize, demand: &[Demand], order: &mut Vec<u16>);

    /// The experts to place in a layer now, in the middle of decoding, by falling worth.
    fn place(&mut self, _layer: usize) -> Option<Ranking> {
        None
    }

    /// After all layers of a step: may ask for copies behind the next ones.
    fn end_step(&mut self, _end: &mut EndOfStep<'_, '_>) {}

    /// Whether a controller updates levels behind every layer.
    fn tracks(&self) -> bool {
        false
    }

    /// Weight of counts in the importance by which it ranks experts.
    fn alpha(&self) -> f64 {
        ALPHA.default
    }
}

/// A step has gone through all layers.
pub(crate) struct EndOfStep<'a, 'b> {
    /// Steps before it, those of the prompts included.
    pub(crate) step: usize,
    /// Whether it is of the prompts: nothing may be asked for.
    pub(crate) prefill: bool,
    /// Fast memory and what is on its way there.
    pub(crate) fast: &'a mut Fast<'b>,
    pub(crate) future: Option<&'a Future<'a>>,
}

/// Weight of counts against score sums in the importance.
const ALPHA: Parameter = Parameter::new(
    "alpha",
    0.5,
    Unit::Share,
    "weight of the share of choices in the importance; the rest is the share of routing mass",
);

/// Experts of a layer by falling importance, and the importance of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ranking {
    pub(crate) order: Vec<u16>,
    pub(crate) importance: Vec<Gate>,
}

impl Ranking {
    /// The one way from what was asked to who is hot (arXiv 2512.04476, Algorithm 1).
    pub(crate) fn of(demand: &[Demand], alpha: f64) -> Self {
        let (mut values, mut order) = (vec![Gate::ZERO; demand.len()], vec![0; demand.len()]);
        importance(demand, Eps::saturating_from_num(alpha), &mut values);
        rank(&values, &mut order);
        Self { order, importance: values }
    }
}

/// Fills `order` with all experts by falling `key`, of equals the lower id first.
fn by_falling<K: Ord>(experts: usize, order: &mut Vec<u16>, key: impl Fn(u16) -> K) {
    order.clear();
    order.extend(0..experts as u16);
    order.sort_by_key(|&expert| std::cmp::Reverse(key(expert)));
}

/// The expert of `set` with the least `key`, of equals the lowest id.
fn least<K: PartialOrd>(set: &Resident, key: impl Fn(usize) -> K) -> Option<u16> {
    let mut found: Option<(K, u16)> = None;
    for (&word, base) in set.words().iter().zip((0u16..).step_by(32)) {
        let mut open = word;
        while open != 0 {
            let expert = base + open.trailing_zeros() as u16;
            open &= open - 1;
            let value = key(usize::from(expert));
            if found.as_ref().is_none_or(|(lowest, _)| value < *lowest) {
                found = Some((value, expert));
            }
        }
    }
    found.map(|(_, expert)| expert)
}
