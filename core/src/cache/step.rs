//! A layer of a token, or of a batch of them.

use heapless::Vec;

use super::{Cache, CacheError, Config, Counts, Layer, Load, NOTHING, Step};
use crate::num::Logit;
use crate::pieces::pieces_mut;
use crate::router::{MAX_K, Router};
use crate::select::{Batch, real, select_in_turn, select_jointly};

impl<const W: usize, const C: usize> Cache<'_, W, C> {
    /// Decides a layer: `row` fills in the logits of each token, of all experts; `load` is told what to load, in the
    /// order in which it is needed, each expert once: at most `T k` loads. Of a router with a table [`Step::ids`] says
    /// before what each token wants, distinct ids, and [`NOTHING`] behind them.
    ///
    /// Cost: see [`select_jointly`] (of one token, [`select_in_place`](crate::select_in_place)),
    /// [`Recall`](crate::recall::Recall) and [`Tracker::update`](crate::Tracker::update); beside, for a load a pass
    /// over the slots, and over the choices of the batch.
    ///
    /// # Errors
    /// [`CacheError::Layer`], [`CacheError::Tokens`], [`CacheError::Router`], [`CacheError::Step`],
    /// [`CacheError::Pinned`]; nothing has changed then.
    pub fn step(
        &mut self,
        config: &Config,
        router: &Router<'_>,
        step: &mut Step<'_>,
        row: impl FnMut(u16, &mut [Logit]),
        load: impl FnMut(Load),
    ) -> Result<Counts, CacheError> {
        self.check(router, step)?;
        let Step { layer, tokens, .. } = *step;
        let (k, alone) = (self.shape.choices(), tokens == 1);
        let wanted = self.wants(config, router, step, row);
        let Some(here) = self.layers.get_mut(usize::from(layer)) else { return Err(CacheError::Layer) };
        let experts = here.experts();
        let logits = self.logits.get(..usize::from(tokens).wrapping_mul(experts)).unwrap_or(&[]);
        let (choices, worth) = (&mut *step.slots, &mut *self.ahead);
        let mut batch = Batch { logits, experts: &mut *step.ids, k, choices, worth };
        let (bounds, keep_top) = (config.bounds, config.keep_top.into());
        let stand_ins = if config.joint {
            select_jointly(router, bounds, keep_top, &mut batch, &here.resident)
        } else {
            select_in_turn(router, bounds, keep_top, &mut batch, &here.resident)
        };
        let mut counts = Counts { stand_ins: stand_ins.unwrap_or(0), ..Counts::default() };
        // Batches are not forecast, and levels decide who goes.
        let weight = if alone { here.weight(config.weight) } else { 0 };
        (counts.loads, counts.waves) = here.place(weight, |id| router.is_null(id, experts), step, load);
        if alone {
            here.update(&config.tracker, &wanted);
        } else {
            self.forecast = None;
            let all = usize::from(self.shape.layers).wrapping_mul(k).max(1);
            for token in self.wanted.chunks_exact(all).take(tokens.into()) {
                let wanted =
                    token.get(usize::from(layer).wrapping_mul(k)..).and_then(|rest| rest.get(..k)).unwrap_or(&[]);
                here.update(&config.tracker, real(wanted));
            }
        }
        self.tokens = tokens;
        self.layer = self.layer.wrapping_add(1);
        if self.layer == self.shape.layers {
            self.layer = 0;
            self.end_step(config);
        }
        Ok(counts)
    }

    /// Whether a step can be decided.
    fn check(&self, router: &Router<'_>, step: &Step<'_>) -> Result<(), CacheError> {
        let Step { layer, tokens, .. } = *step;
        if layer != self.layer || layer >= self.shape.layers || (layer > 0 && tokens != self.tokens) {
            return Err(CacheError::Layer);
        }
        if !(1..=self.shape.tokens).contains(&tokens) {
            return Err(CacheError::Tokens);
        }
        let (k, experts) = (self.shape.choices(), usize::from(self.shape.experts));
        if !(1..=k).contains(&router.k()) || router.fits(experts).is_err() {
            return Err(CacheError::Router);
        }
        let choices = k.wrapping_mul(tokens.into());
        let lists = step.ids.len() == choices && step.slots.len() == choices && step.waves.len() == choices;
        let listed = || step.ids.chunks_exact(k.max(1)).all(|ids| Router::check_ids(real(ids), experts).is_ok());
        if !lists || (router.table && !listed()) {
            return Err(CacheError::Step);
        }
        let full = |layer: &Layer<'_>| layer.pinned.len() >= usize::from(self.shape.slots);
        if self.layers.get(usize::from(layer)).is_none_or(full) { Err(CacheError::Pinned) } else { Ok(()) }
    }

    /// Takes the logits of all tokens, and finds what each wants: that goes to [`Step::ids`]. A single token is learnt
    /// from; what it wants and is to be run is returned. What the tokens of a batch want is kept until they have gone
    /// through all layers.
    fn wants(
        &mut self,
        config: &Config,
        router: &Router<'_>,
        step: &mut Step<'_>,
        mut row: impl FnMut(u16, &mut [Logit]),
    ) -> Vec<u16, MAX_K> {
        let (k, layer, experts) = (self.shape.choices(), step.layer, usize::from(self.shape.experts));
        let (alone, mut wanted) = (step.tokens == 1, Vec::<u16, MAX_K>::new());
        let rows = pieces_mut(self.logits, experts);
        for ((token, ids), logits) in (0..step.tokens).zip(pieces_mut(step.ids, k)).zip(rows) {
            logits.fill(Logit::ZERO);
            row(token, logits);
            if router.table {
                let listed = real(ids).len();
                ids.iter_mut().skip(listed).for_each(|id| *id = NOTHING);
            } else {
                _ = router.top_k_in_place(logits, &mut wanted);
                let none = core::iter::repeat(&NOTHING);
                ids.iter_mut().zip(wanted.iter().chain(none)).for_each(|(to, from)| *to = *from);
            }
            wanted.clear();
            let runs_something = real(ids).iter().filter(|&&id| !router.is_null(id, experts));
            runs_something.for_each(|&id| _ = wanted.push(id));
            if !alone {
                let row = usize::from(token).wrapping_mul(self.shape.layers.into());
                let at = row.wrapping_add(layer.into()).wrapping_mul(k);
                let kept = self.wanted.get_mut(at..).and_then(|rest| rest.get_mut(..k)).unwrap_or(&mut []);
                let none = core::iter::repeat(&NOTHING);
                kept.iter_mut().zip(wanted.iter().chain(none)).for_each(|(to, from)| *to = *from);
            }
        }
        if alone {
            self.learn_forecast(layer, &wanted);
            if let Some(here) = self.layers.get_mut(usize::from(layer)) {
                here.judge(&wanted);
                _ = self.recall.observe(&config.recall, layer, &wanted);
                if let Some(companions) = &mut self.companions {
                    _ = companions.observe(layer, &wanted);
                }
                _ = self.recall.forecast(layer, config.window, here.shares);
            }
        }
        wanted
    }

    /// All layers have run: the tokens are remembered.
    fn end_step(&mut self, config: &Config) {
        let k = self.shape.choices();
        if self.tokens > 1 {
            let all = usize::from(self.shape.layers).wrapping_mul(k).max(1);
            for token in self.wanted.chunks_exact(all).take(self.tokens.into()) {
                for (layer, ids) in (0..self.shape.layers).zip(token.chunks_exact(k)) {
                    _ = self.recall.observe(&config.recall, layer, real(ids));
                    if let Some(companions) = &mut self.companions {
                        _ = companions.observe(layer, real(ids));
                    }
                }
                _ = self.recall.end_token(&config.recall);
            }
        } else {
            _ = self.recall.end_token(&config.recall);
        }
    }
}
