//! What to load before it is wanted.

use super::{Cache, Config, Load, Set};
use crate::num::Level;

impl<const W: usize, const C: usize> Cache<'_, W, C> {
    /// Tells `load` what to load for the layer that is next, the surest first: experts of which so many such forecasts
    /// came true as [`Config::sure`] says, each for one that the next token wants less. Nothing after a batch. To be
    /// asked for once behind a step; what it says is on its way until [`Self::loaded`] is called. Returns how many.
    /// Without memory for [`Companions`](crate::recall::Companions) none.
    ///
    /// Cost: three forecasts, and for each fetch a pass over the experts and one over the slots.
    pub fn fetch(&mut self, config: &Config, mut load: impl FnMut(Load)) -> usize {
        let (layer, ahead, next, others) = (self.layer, &mut *self.ahead, &mut *self.next, &mut *self.others);
        let (Some(there), Some(companions)) = (self.layers.get_mut(usize::from(layer)), &self.companions) else {
            return 0;
        };
        let known = self.tokens == 1
            && self.recall.forecast(layer, 1, next).is_ok()
            && companions.forecast(others).is_ok()
            && config.fetches > 0;
        if !known {
            return 0;
        }
        self.forecast = Some(there.resident);
        let calibration = &self.calibrations[usize::from(layer == 0)];
        let sure = |expert: u16| {
            let share = |shares: &[Level]| shares.get(usize::from(expert)).copied().unwrap_or(Level::ZERO);
            (calibration.confidence(share(next), share(others)), share(next))
        };
        // Who is asked for, and who of them is not yet decided.
        let mut asked = Set::new();
        for (expert, &share) in (0..next.len() as u16).zip(&*next) {
            if share > Level::ZERO && !there.resident.contains(expert) && sure(expert).0 >= config.sure {
                asked.insert(expert);
            }
        }
        if asked.is_empty() || self.recall.forecast(layer, config.window, ahead).is_err() {
            return 0;
        }
        let (weight, mut open, mut fetched) = (there.weight(config.weight), asked, 0);
        while fetched < usize::from(config.fetches)
            && let Some(expert) = open.iter().min_by_key(|&expert| core::cmp::Reverse(sure(expert)))
        {
            open.remove(expert);
            let free = there.free(&asked, &there.arriving);
            let goes = || there.victim_ahead(&free, expert, ahead, next, weight).map(|victim| there.slot(victim));
            let Some(slot) = there.empty_slot().or_else(goes) else { continue };
            let victim = there.put(expert, slot);
            there.arriving.insert(expert);
            load(Load { layer, expert, slot, victim, wave: 0, on_its_way: false });
            fetched = fetched.wrapping_add(1);
        }
        fetched
    }

    /// Learns from a forecast of the layer, if there was one, how many experts that were not there came true.
    pub(super) fn learn_forecast(&mut self, layer: u16, wanted: &[u16]) {
        let Some(resident) = self.forecast.take() else { return };
        let calibration = &mut self.calibrations[usize::from(layer == 0)];
        for (expert, (&share, &other)) in (0..self.shape.experts).zip(self.next.iter().zip(&*self.others)) {
            if share > Level::ZERO && !resident.contains(expert) {
                calibration.learn(share, other, wanted.contains(&expert));
            }
        }
    }
}
