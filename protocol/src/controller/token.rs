//! One token in one layer: what is asked, what is chosen, who runs where. Nothing here changes the controller's state.

use cptr_core::dispatch::{Job, NearRun, dispatch_each};
use cptr_core::router::Count;
use cptr_core::select::{Masses, select_with_masses};
use cptr_core::{Experts, Gate, Logit, Router, SelectError};
use heapless::Vec;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{I32, U16, U32};

use super::configuration::Configuration;
use super::expected::Decided;
use super::{experts, flag, list};
use crate::wire::{Body, MAX_K, MAX_LOADS, Run, Status, Token};

/// Checks that a request is made of whole tokens, at most so many, and nothing else.
pub(super) fn check_batch(mut body: Body<'_>, most: usize) -> Result<(), Status> {
    for _ in 0..most {
        let token = body.take::<Token>()?;
        body.take_all::<I32>(token.experts.get().into())?;
        let ids = [token.wanted, token.loaded, token.failed].map(usize::from);
        let ids = ids.into_iter().fold(0, usize::wrapping_add);
        body.take_all::<U16>(ids)?;
        if body.rest().is_empty() {
            return Ok(());
        }
        if ids % 2 == 1 && body.take::<U16>()?.get() != 0 {
            return Err(Status::Value);
        }
    }
    Err(Status::Length)
}

/// One token on its way through the controller. Filled in place: moving its lists would cost more than the work.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) layer: U16,
    pub(super) starts_sequence: bool,
    /// Lines of the input, and of the results.
    activation: U32,
    result: U32,
    /// Experts whose loads have ended: those done, then those that have failed.
    ended: Vec<u16, MAX_LOADS>,
    /// How many of them are done.
    done: usize,
    /// The model's own choice, or the best logits.
    pub(super) wanted: Vec<u16, MAX_K>,
    /// What runs.
    pub(super) chosen: Vec<u16, MAX_K>,
    /// Masses that the choice has come by.
    masses: Masses,
    /// Stand-ins among the chosen.
    pub(super) substituted: usize,
    /// Where and how the chosen run, in their order.
    pub(super) runs: Vec<Run, MAX_K>,
    /// Those near the data, longest first.
    near: Vec<NearRun, MAX_K>,
}

impl Turn {
    /// Reads a token of a request and checks it against the configuration. Returns its logits, one for each configured
    /// expert, where they lie if that is aligned, else copied to `memory`; and whether the model's own choice is in it.
    pub(super) fn read<'l, 'm>(
        &mut self,
        body: &mut Body<'l>,
        configuration: &Configuration,
        memory: &'m mut [Logit],
    ) -> Result<(&'m [Logit], bool), Status>
    where
        'l: 'm,
    {
        let token = body.take::<Token>()?;
        let given = usize::from(token.wanted);
        self.starts_sequence = flag(token.starts_sequence)?;
        self.layer = token.layer;
        (self.activation, self.result) = (token.activation, token.result);
        let router = &configuration.router;
        let counts = given == 0 || given == router.k || router.count != Count::Fixed && given < router.k;
        if usize::from(token.experts.get()) != memory.len() || !counts {
            return Err(Status::Length);
        }
        let scores = body.take_all::<I32>(memory.len())?;
        let ids = body.take_all::<U16>(given)?;
        self.done = usize::from(token.loaded);
        let ended = body.take_all::<U16>(self.done.saturating_add(token.failed.into()))?;
        if !body.rest().is_empty() && given.wrapping_add(ended.len()) % 2 == 1 {
            // Up to the next token, which is aligned.
            body.take::<U16>()?;
        }
        // The selection checks them.
        list(ids, &mut self.wanted)?;
        experts(ended, configuration.experts, &mut self.ended)?;
        let logits = match bytemuck::try_cast_slice(scores.as_bytes()) {
            Ok(logits) if cfg!(target_endian = "little") => logits,
            _ => {
                memory.iter_mut().zip(scores).for_each(|(to, from)| *to = Logit::from_bits(from.get()));
                memory
            }
        };
        Ok((logits, given > 0))
    }

    /// Experts whose loads are done, and those whose loads have failed.
    pub(super) fn ended(&self) -> (&[u16], &[u16]) {
        self.ended.split_at_checked(self.done).unwrap_or_default()
    }

    /// Takes the router's choice, if the model's own is not `given`.
    pub(super) fn want(&mut self, router: &Router<'_>, given: bool, logits: &[Logit]) -> Result<(), Status> {
        if given { Ok(()) } else { router.top_k_in_place(logits, &mut self.wanted).map_err(|_| Status::Value) }
    }

    /// Takes over what hardware has decided, which is what the host has listed if it has.
    pub(super) fn take(&mut self, decided: &[Decided]) -> Result<(), Status> {
        self.wanted.clear();
        for &Decided { wanted, runs, .. } in decided {
            self.wanted.push(wanted).and_then(|()| self.chosen.push(runs)).map_err(|_| Status::Length)?;
            self.substituted = self.substituted.wrapping_add(usize::from(wanted != runs));
        }
        Ok(())
    }

    /// Chooses the experts.
    pub(super) fn choose(
        &mut self,
        router: &Router<'_>,
        configuration: &Configuration,
        logits: &[Logit],
        resident: &Experts,
    ) -> Result<(), Status> {
        let Configuration { bounds, keep, .. } = configuration;
        // There is room, as much as for the wanted. One by one, here and elsewhere: a copy of all would be checked for
        // overflow where a build checks.
        self.chosen.clear();
        let _ = self.wanted.iter().try_for_each(|&expert| self.chosen.push(expert));
        let done = select_with_masses(router, *bounds, *keep, logits, &mut self.chosen, resident, &mut self.masses);
        self.substituted = done.map_err(|error| match error {
            SelectError::Capacity => Status::Capacity,
            _ => Status::Id,
        })?;
        Ok(())
    }

    /// Says where the chosen run, given who is `at_hand` and how many `bits` the others have; their weights are those
    /// that hardware has `decided`, if it has, else the router's.
    pub(super) fn dispatch(
        &mut self,
        router: &Router<'_>,
        logits: &[Logit],
        at_hand: &Experts,
        bits: &[u8],
        decided: Option<&[Decided]>,
    ) -> Result<(), Status> {
        // There is room for weights and runs: as much as for the chosen.
        let mut memory = Vec::<Gate, MAX_K>::new();
        let weights = match decided {
            Some(decided) => {
                decided.iter().for_each(|by| _ = memory.push(by.weight));
                &memory[..]
            }
            None => router.weights_of(logits, &self.chosen, &mut self.masses, &mut memory),
        };
        let (mut ranks, runs) = (self.wanted.iter().zip(weights), &mut self.runs);
        let done = dispatch_each(&self.chosen, at_hand, bits, &mut self.near, |expert, bits| {
            // As many are chosen as are wanted, and most run at the rank at which they are wanted.
            let Some((&wanted, weight)) = ranks.next() else { return };
            let stand_in = u8::from(wanted != expert && !self.wanted.contains(&expert));
            let _ = runs.push(Run { expert: expert.into(), bits, stand_in, weight: weight.to_bits().into() });
        });
        done.map_err(|_| Status::Id)
    }

    /// The runs near the data, longest first; `token` is their number.
    pub(super) fn jobs(&self, token: u32) -> impl ExactSizeIterator<Item = Job> {
        let (layer, activation, result) = (self.layer.get(), self.activation.get(), self.result.get());
        self.near.iter().map(move |&NearRun { expert, rank, bits }| {
            let weight = self.runs.get(usize::from(rank)).map_or(Gate::ZERO, |run| Gate::from_bits(run.weight.get()));
            Job { token, layer, expert, bits, rank: rank as u8, weight, activation, result }
        })
    }

    /// How many run near the data.
    pub(super) fn cold(&self) -> usize {
        self.near.len()
    }
}
