//! One token in one layer: what is asked, what is chosen, who runs where. Nothing here changes the controller's state.

use cptr_core::dispatch::{Job, dispatch as by_residency};
use cptr_core::{Experts, Gate, Logit, SelectError, Selection, select};
use heapless::Vec;
use zerocopy::little_endian::{I32, U16};

use super::configuration::Configuration;
use super::{Layer, experts, flag};
use crate::wire::{Body, MAX_K, Run, Status, Token};

/// A request, checked against the configuration.
pub(super) struct Asked {
    pub(super) layer: U16,
    pub(super) starts_sequence: bool,
    pub(super) wanted: Vec<u16, MAX_K>,
}

impl Asked {
    /// Reads a request; its logits go to `logits`, one for each configured expert.
    pub(super) fn read(
        mut body: Body<'_>,
        configuration: &Configuration,
        logits: &mut [Logit],
    ) -> Result<Self, Status> {
        let token = body.take::<Token>()?;
        let (starts_sequence, given) = (flag(token.starts_sequence)?, usize::from(token.wanted));
        if token.reserved.get() != 0 {
            return Err(Status::Value);
        }
        let router = &configuration.router;
        if usize::from(token.experts.get()) != logits.len() || (given != 0 && given != router.k()) {
            return Err(Status::Length);
        }
        let scores = body.take_all::<I32>(logits.len())?;
        let ids = body.take_all::<U16>(given)?;
        body.end()?;
        logits.iter_mut().zip(scores).for_each(|(to, from)| *to = Logit::from_bits(from.get()));
        let wanted = match given {
            0 => router.top_k::<MAX_K>(logits).map_err(|_| Status::Value)?,
            _ => experts(ids, configuration.experts)?,
        };
        Ok(Self { layer: token.layer, starts_sequence, wanted })
    }
}

/// Chooses the experts.
pub(super) fn choose(
    configuration: &Configuration,
    logits: &[Logit],
    asked: &Asked,
    resident: &Experts,
) -> Result<Selection<MAX_K>, Status> {
    let Configuration { router, bounds, keep, .. } = configuration;
    select::<MAX_K>(router, *bounds, *keep, logits, &asked.wanted, resident).map_err(|error| match error {
        SelectError::Capacity => Status::Capacity,
        _ => Status::Id,
    })
}

/// Where the chosen experts run, in their order, and the jobs near the data, longest first.
pub(super) fn dispatch<const E: usize>(
    configuration: &Configuration,
    logits: &[Logit],
    asked: &Asked,
    chosen: &[u16],
    layer: &Layer<E>,
    token: u32,
) -> Result<(Vec<Run, MAX_K>, Vec<Job, MAX_K>), Status> {
    let mut weights = [Gate::ZERO; MAX_K];
    configuration.router.weights(logits, chosen, &mut weights);
    let sites = by_residency::<MAX_K>(chosen, layer.resident(), layer.bits()).map_err(|_| Status::Id)?;
    let (mut runs, mut jobs) = (Vec::<Run, MAX_K>::new(), Vec::new());
    // There is room in both: as much as for the chosen.
    for (&expert, weight) in chosen.iter().zip(weights) {
        let stand_in = u8::from(!asked.wanted.contains(&expert));
        let _ = runs.push(Run { expert: expert.into(), bits: 0, stand_in, weight: weight.to_bits().into() });
    }
    for near in &sites.near {
        if let Some(run) = runs.get_mut(usize::from(near.rank)) {
            run.bits = near.bits;
            let weight = Gate::from_bits(run.weight.get());
            let _ = jobs.push(Job { token, layer: asked.layer.get(), expert: near.expert, bits: near.bits, weight });
        }
    }
    Ok((runs, jobs))
}
