//! The tokens of a request: decided one after the other, with what each finds and leaves behind.

use heapless::Vec;
use zerocopy::little_endian::U32;

use super::events::Reporting;
use super::expected::Decided;
use super::token::{Turn, check_batch};
use super::{Controller, InstructionCounter, elapsed, layer};
use crate::units::Units;
use crate::wire::{self, Body, MAX_K, Status, Writer};

impl<U: Units, C: InstructionCounter, const E: usize, const W: usize> Controller<'_, U, C, E, W> {
    /// Decides the tokens of a request, in order, up to one that cannot be done; the first has to be.
    /// The one token of a request for which hardware has `decided` takes that over.
    pub(super) fn token(
        &mut self,
        mut body: Body<'_>,
        answer: &mut Writer<'_>,
        decided: Option<&[Decided]>,
    ) -> Result<(), Status> {
        check_batch(body, self.tokens)?;
        self.decide(&mut body, answer, decided)?;
        while !body.rest().is_empty() && self.decide(&mut body, answer, None).is_ok() {}
        Ok(())
    }

    /// Decides the next token of a request.
    fn decide(
        &mut self,
        body: &mut Body<'_>,
        answer: &mut Writer<'_>,
        decided: Option<&[Decided]>,
    ) -> Result<(), Status> {
        let begin = self.counter.ticks();
        let configuration = self.configuration.as_ref().ok_or(Status::Order)?;
        let memory = self.logits.get_mut(..configuration.experts).ok_or(Status::Capacity)?;
        let mut turn = Turn::default();
        let (logits, given) = turn.read(body, configuration, memory)?;
        let layer = layer(self.layers, configuration, turn.layer)?;
        let placed = configuration.on_demand || layer.placed();
        if layer.partial() || !placed || configuration.biased && !layer.biased() {
            return Err(Status::Order);
        }
        let (loaded, failed) = turn.ended();
        layer.check_loads(loaded, failed)?;
        let mut at_hand = *layer.resident();
        loaded.iter().for_each(|&expert| _ = at_hand.insert(expert));
        let mut router = configuration.router;
        if configuration.biased {
            let bias = self.bias.get(usize::from(turn.layer.get()).saturating_mul(configuration.experts)..);
            router.bias = bias.and_then(|bias| bias.get(..configuration.experts)).unwrap_or_default();
        }
        if decided.is_none() {
            turn.want(&router, given, logits)?;
        }
        let before = self.counter.ticks();
        match decided {
            Some(decided) => turn.take(decided)?,
            None => turn.choose(&router, configuration, logits, &at_hand)?,
        }
        let select = elapsed::<C>(before, self.counter.ticks());
        layer.add_nulls(&mut at_hand, router.null_experts);
        turn.dispatch(&router, logits, &at_hand, layer.bits(), decided)?;
        if turn.cold() > self.queue.room() {
            // What the tokens before it in the request have brought.
            let finished = self.queue.advance(&mut Reporting { units: &mut self.units, events: &mut self.events });
            self.jobs = self.jobs.saturating_add(finished as u64);
        }
        let jobs = turn.cold().saturating_add(self.queue.outstanding());
        if !self.events.room(jobs) {
            return Err(Status::Busy);
        }
        // The last thing that can be refused: from here on the state changes.
        self.queue.push_all(turn.jobs(self.turn)).map_err(|_| Status::Busy)?;
        let (loaded, failed) = turn.ended();
        layer.end_loads(loaded, failed);
        let mut loads = Vec::<_, MAX_K>::new();
        let loading = configuration.on_demand && !layer.holds(&turn.chosen);
        // Who goes depends on all tokens before. Else they are learnt from behind the answer.
        if !self.pending.is_empty() && (loading || !self.pending.room(&turn)) {
            self.pending.learn(self.layers, &configuration.tracker, &self.counter, &mut self.ticks);
        }
        if loading && let Some(layer) = self.layers.get_mut(usize::from(turn.layer.get())) {
            layer.load(&turn.chosen, configuration.capacity, &router, &mut loads);
        }
        self.pending.keep(&turn);
        let number = self.turn as u16;
        self.turn = self.turn.wrapping_add(1);
        let decide = elapsed::<C>(begin, self.counter.ticks());
        self.ticks.select = self.ticks.select.saturating_add(select);
        self.ticks.decide = self.ticks.decide.saturating_add(decide);
        let [select_instructions, decide_instructions] =
            [select, decide].map(|ticks| U32::new(u32::try_from(C::instructions(ticks)).unwrap_or(u32::MAX)));
        answer.put(&wire::Decision {
            layer: turn.layer,
            runs: turn.runs.len() as u8,
            substituted: turn.substituted as u8,
            loads: loads.len() as u8,
            events: self.events.waiting.len().min(255) as u8,
            turn: number.into(),
            select_instructions,
            decide_instructions,
        });
        answer.put(&turn.runs[..]);
        answer.put(&loads[..]);
        Ok(())
    }
}
