//! Model and policy, checked.

use cptr_core::num::Scale;
use cptr_core::router::{BiasPlace, Count, GroupRating, Groups, Score};
use cptr_core::{Bounds, Eps, Gain, Gate, KalmanConfig, PhaseConfig, Router, TrackerConfig};

use zerocopy::little_endian::U32;

use super::flag;
use crate::wire::{Configure, MAX_K, Status};

/// What [`Configure`] says, in the types of the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Configuration {
    pub(super) layers: usize,
    pub(super) experts: usize,
    /// Without its bias.
    pub(super) router: Router<'static>,
    /// Whether there is a bias.
    pub(super) biased: bool,
    pub(super) keep: usize,
    pub(super) bounds: Bounds,
    pub(super) capacity: usize,
    pub(super) bits: u8,
    pub(super) on_demand: bool,
    pub(super) tracker: TrackerConfig,
}

impl Configuration {
    /// Checks a descriptor against the memory: at most so many layers, experts and biases.
    pub(super) fn new(
        descriptor: &Configure,
        most_layers: usize,
        most_experts: usize,
        most_biases: usize,
    ) -> Result<Self, Status> {
        let [layers, experts, capacity] =
            [descriptor.layers, descriptor.experts, descriptor.capacity].map(|value| usize::from(value.get()));
        let k = usize::from(descriptor.k);
        let biased = descriptor.bias_place != 0;
        if layers > most_layers || experts > most_experts || k > MAX_K || biased && layers * experts > most_biases {
            return Err(Status::Capacity);
        }
        let in_range = layers >= 1
            && (1..=experts).contains(&k)
            && (1..=experts).contains(&capacity)
            && (1..=16).contains(&descriptor.bits)
            && descriptor.threshold >= 1
            && descriptor.reserved.get() == 0;
        if !in_range {
            return Err(Status::Value);
        }
        let router = router(descriptor)?;
        router.fits(experts).map_err(|_| Status::Value)?;
        let error = flag(descriptor.bounds_error)?.then(|| Eps::from_bits(descriptor.error.get()));
        let [slow, reopened, fast] =
            [descriptor.slow, descriptor.reopened, descriptor.fast].map(|gain| Gain::from_bits(gain.get()));
        Ok(Self {
            layers,
            experts,
            router,
            biased,
            keep: descriptor.keep.into(),
            bounds: Bounds { mass: Eps::from_bits(descriptor.eps.get()), error },
            capacity,
            bits: descriptor.bits,
            on_demand: flag(descriptor.on_demand)?,
            tracker: TrackerConfig {
                kalman: KalmanConfig::from_gains(slow, reopened),
                fast_gain: fast,
                phase: PhaseConfig { threshold: descriptor.threshold, ..PhaseConfig::default() },
            },
        })
    }
}

/// The router without its bias.
fn router(descriptor: &Configure) -> Result<Router<'static>, Status> {
    let [jitter, bound, scale] = [descriptor.jitter, descriptor.bound, descriptor.scale].map(U32::get);
    let [groups, open, null_experts] =
        [u16::from(descriptor.groups), u16::from(descriptor.top_groups), descriptor.null_experts.get()]
            .map(usize::from);
    let score = match descriptor.score {
        0 => Score::SoftmaxAll,
        1 => Score::SoftmaxSelected,
        2 => Score::Sigmoid,
        3 => Score::SqrtSoftplus,
        4 => Score::SparseMixer(Eps::from_bits(jitter)),
        _ => return Err(Status::Value),
    };
    let bias_place = match descriptor.bias_place {
        0 | 1 => BiasPlace::Scores,
        2 => BiasPlace::ChoiceLogits,
        3 => BiasPlace::Logits,
        _ => return Err(Status::Value),
    };
    let count = match descriptor.count {
        0 => Count::Fixed,
        1 => Count::TopP(Eps::from_bits(bound)),
        2 => Count::Above(Gate::from_bits(bound)),
        _ => return Err(Status::Value),
    };
    let unused = jitter != 0 && descriptor.score != 4 || bound != 0 && descriptor.count == 0;
    if unused || scale == 0 || null_experts > usize::from(descriptor.experts.get()) {
        return Err(Status::Value);
    }
    let rating = if flag(descriptor.group_rating)? { GroupRating::TwoBest } else { GroupRating::Best };
    Ok(Router {
        k: descriptor.k.into(),
        score,
        bias_place,
        groups: Groups { count: groups, open, rating },
        count,
        table: flag(descriptor.table)?,
        renormalise: flag(descriptor.renormalise)?,
        scale: Scale::from_bits(scale),
        null_experts,
        ..Router::softmax_all(0)
    })
}
