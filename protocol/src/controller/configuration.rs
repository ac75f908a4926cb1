//! Model and policy, checked.

use cptr_core::{Bounds, Eps, Gain, KalmanConfig, PhaseConfig, Router, TrackerConfig};

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
    /// Whether jobs that end are told.
    pub(super) events: bool,
    /// The line of the packed experts, or 0.
    pub(super) replicas: u32,
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
        if layers > most_layers
            || experts > most_experts
            || k > MAX_K
            || biased && layers.saturating_mul(experts) > most_biases
        {
            return Err(Status::Capacity);
        }
        let in_range = layers >= 1
            && (1..=experts).contains(&k)
            && (1..=experts).contains(&capacity)
            && (1..=16).contains(&descriptor.bits)
            && descriptor.threshold >= 1
            && descriptor.reserved == 0;
        if !in_range {
            return Err(Status::Value);
        }
        let router = descriptor.router()?;
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
            events: flag(descriptor.events)?,
            replicas: descriptor.replicas.get(),
            tracker: TrackerConfig {
                kalman: KalmanConfig::from_gains(slow, reopened),
                fast_gain: fast,
                phase: PhaseConfig { threshold: descriptor.threshold, ..PhaseConfig::default() },
            },
        })
    }
}
