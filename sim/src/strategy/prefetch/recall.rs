//! Remembered trajectories say what the next layers want: what followed the places that are most like this one, judged
//! by how often that came true for experts that were not there.
//!
//! With `gain`, on a machine, an expert is fetched when the link has nothing else to do, if the time that this is
//! expected to save exceeds the time that it is expected to cost. With `l` the time of a copy, `g` the time to the next
//! router result, `p` the probability that the expert is wanted, and `w` the cost of a copy in vain (`waste`, in
//! copies):
//!
//! - for the next layer `p min(l, g) > (1 - p) (max(0, l - g) + w l)`: a copy that is wanted has a start of `g`; one
//!   that is not holds up the next layer's copies by what is left of it, and is traffic.
//! - further ahead `p l > max(0, l - g) + (1 - p) w l`: all of a copy that is wanted may be saved, and the next layer's
//!   copies are held up either way.
//!
//! Where a copy makes way for what is waited for (`copies_yield` of the link), none is held up: `max(0, l - g)` is 0.
//!
//! Without it, or where nothing says how long things take, those are asked for at once, for the next layer, whose
//! forecasts come true often enough.
//!
//! With `companions`, what a share means is learned together with a second one: how often the expert came with this
//! layer's choices, the last times that they were made. That knows this token, and nothing of the text; recall the
//! other way round.

use std::cmp::Reverse;

use cptr_core::Level;
use cptr_core::recall::{Companions, JointCalibration, Shape};

use super::{Kind, Make, Next, Pick, Prefetch, Setup};
use crate::memory::Resident;
use crate::strategy::forecaster::{Forecaster, SEEN, Settings};
use crate::strategy::{Parameter, Served, Unit, Values};

/// How right a forecast must have been.
pub(super) const SURE: Parameter = Parameter::new(
    "sure",
    0.5,
    Unit::Share,
    "without gain or machine: share of such forecasts of missing experts that came true, at least",
)
.off_at(0.0);
/// The rule of expected gain.
pub(super) const GAIN: Parameter =
    Parameter::new("gain", 1.0, Unit::Switch, "on a machine: whether time to be saved is weighed against its cost")
        .off_at(0.0);
pub(super) const AHEAD: Parameter =
    Parameter::new("ahead", 2.0, Unit::Count(1, 8), "with gain: layers that are forecast").off_at(1.0);
pub(super) const WASTE: Parameter = Parameter::new(
    "waste",
    0.3,
    Unit::Factor(0.0, 64.0),
    "with gain: cost of a load in vain beside the time that others wait for it, in loads",
);
const COMPANIONS: Parameter = Parameter::new(
    "companions",
    1.0,
    Unit::Switch,
    "whether it counts how often an expert came with this layer's choices, the last times",
)
.off_at(0.0);

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter { default: 8.0, ..super::MOST },
        Parameter { default: 0.68, ..SURE },
        GAIN,
        AHEAD,
        WASTE,
        COMPANIONS,
    ],
    // Every layer scores the remembered places again: three quarters of the time of all other strategies together.
    slow: true,
    couples_layers: true,
    ..Kind::new(
        "recall-fetch",
        "what followed remembered trajectories in the next layers, where that is expected to pay",
        Make(|values, setup| expected(Settings::default(), values.on("companions"), values, setup)),
    )
};

/// 1 as `U1F31` bits.
const ONE: i64 = 1 << 31;

/// A product of numbers with 31 fraction bits, rounded down.
const fn times(a: i64, b: i64) -> i64 {
    ((a as i128 * b as i128) >> 31) as i64
}

/// What a layer ahead will want.
struct Forecast {
    /// Layers ahead of the one that had been told.
    ahead: usize,
    layer: usize,
    /// Whether it is of the next token.
    next_token: bool,
    /// Whether the layer has not been told since.
    open: bool,
    /// What was resident there.
    resident: Resident,
    /// Probability of each expert, and how often it came with the choices of the layer before.
    shares: Vec<Level>,
    others: Vec<Level>,
}

/// An expert that may be fetched.
struct Candidate {
    /// Index of the forecast.
    forecast: usize,
    expert: u16,
    share: Level,
    /// Share of such forecasts that came true, `U1F31` bits, at most 1.
    sure: i64,
}

struct RecallFetch {
    settings: Settings,
    most: usize,
    /// Whether each fetch is weighed when the link is idle.
    gain: bool,
    /// Whether it makes way for what is waited for.
    yields: bool,
    /// `U1F31` bits.
    sure: i64,
    /// In loads, 31 fraction bits; at most 64.
    waste: i64,
    layers: usize,
    ahead: usize,
    /// For each number of layers ahead, in this token and in the next one.
    calibrations: Vec<[JointCalibration; 2]>,
    /// Of each sequence; none where they do not count.
    companions: Vec<Companions<Vec<u32>>>,
    /// What one sequence's say.
    one: Vec<Level>,
    /// For one layer ahead, then two for two, and so on: those of one distance are used in turn, so that each is there
    /// until its layer is told.
    forecasts: Vec<Forecast>,
    /// Layers told.
    told: usize,
    /// Those of the layer told last.
    candidates: Vec<Candidate>,
    picked: usize,
    /// Forecast that the last asks or the last pick were of.
    last: usize,
}

/// What a memory expects in the next layers, with or without [`Companions`]; the values have `MOST`, [`SURE`],
/// [`GAIN`], [`AHEAD`] and [`WASTE`].
pub(super) fn expected(settings: Settings, companions: bool, values: &Values, setup: &Setup) -> Box<dyn Prefetch> {
    let gain = setup.timed && values.on("gain");
    let ahead = if gain { values.count("ahead").min(setup.layers) } else { 1 };
    let forecast = |ahead| Forecast {
        ahead,
        layer: 0,
        next_token: false,
        open: false,
        resident: Resident::new(),
        shares: vec![Level::ZERO; setup.experts],
        others: vec![Level::ZERO; setup.experts],
    };
    let shape = Shape { layers: setup.layers as u16, experts: setup.experts as u16, k: setup.k as u16 };
    let words = || vec![0; Companions::<Vec<u32>>::words(shape)];
    // A shape that they refuse is refused by the memory, with a sentence.
    let sequence = |_| Companions::new(shape, words()).ok();
    let bits = |name| (values.get(name) * ONE as f64) as i64;
    Box::new(RecallFetch {
        settings,
        most: values.count("most"),
        gain,
        yields: setup.yields,
        sure: bits("sure"),
        waste: bits("waste"),
        layers: setup.layers,
        ahead,
        calibrations: vec![Default::default(); ahead],
        companions: (0..if companions { setup.sequences } else { 0 }).filter_map(sequence).collect(),
        one: vec![Level::ZERO; setup.experts],
        forecasts: (1..=ahead).flat_map(|ahead| (0..ahead).map(move |_| forecast(ahead))).collect(),
        told: 0,
        candidates: Vec::new(),
        picked: 0,
        last: 0,
    })
}

/// What a fetch for the layer `ahead` layers on is expected to save less what it is expected to cost, in loads, 31
/// fraction bits: `p` and `passes` (what passes of it before the next router result) are at most 1, and so is `late`,
/// what holds up others behind that.
const fn gain(ahead: usize, p: i64, passes: i64, late: i64, waste: i64) -> i64 {
    if ahead == 1 { times(p, passes) - times(ONE - p, late + waste) } else { p - late - times(ONE - p, waste) }
}

impl RecallFetch {
    /// Judges the forecasts of a layer by what it wants of the experts that were not there.
    fn judge(&mut self, served: &Served<'_>) {
        for forecast in self.forecasts.iter_mut().filter(|forecast| forecast.open && forecast.layer == served.layer) {
            forecast.open = false;
            let calibration = &mut self.calibrations[forecast.ahead - 1][usize::from(forecast.next_token)];
            for ((&share, &other), expert) in forecast.shares.iter().zip(&forecast.others).zip(0u16..) {
                if share > Level::ZERO && !forecast.resident.contains(expert) {
                    let wanted = (0..served.tokens).any(|token| (served.token)(token).wanted.contains(&expert));
                    calibration.learn(share, other, wanted);
                }
            }
        }
    }

    /// Forecasts a layer, `ahead` after `layer`: who is not there is a candidate.
    fn forecast(&mut self, layer: usize, ahead: usize, next: &Next<'_>, forecaster: &mut Forecaster) {
        let index = ahead * (ahead - 1) / 2 + self.told % ahead;
        let here = &mut self.forecasts[index];
        here.layer = (layer + ahead) % self.layers;
        here.next_token = layer + ahead >= self.layers;
        here.open = true;
        here.resident = *(next.resident)(here.layer);
        forecaster.next(here.layer, &mut here.shares);
        here.others.fill(Level::ZERO);
        if ahead == 1 {
            // Of the next layer only; at most, as probabilities of a step are.
            for companions in &self.companions {
                companions.forecast(&mut self.one).expect(SEEN);
                let add = |(sum, &share): (&mut Level, &Level)| *sum = sum.saturating_add(share).min(Level::ONE);
                here.others.iter_mut().zip(&self.one).for_each(add);
            }
        }
        let calibration = &self.calibrations[ahead - 1][usize::from(here.next_token)];
        for ((&share, &other), expert) in here.shares.iter().zip(&here.others).zip(0u16..) {
            if share > Level::ZERO && !here.resident.contains(expert) {
                let sure = calibration.confidence(share, other).to_bits().into();
                self.candidates.push(Candidate { forecast: index, expert, share, sure });
            }
        }
    }
}

impl Prefetch for RecallFetch {
    fn recalls(&self) -> Option<Settings> {
        Some(self.settings)
    }

    fn ask(&mut self, served: &Served<'_>, mut next: Next<'_>, asks: &mut Vec<u16>) {
        self.judge(served);
        for (token, companions) in self.companions.iter_mut().enumerate() {
            companions.observe(served.layer as u16, (served.token)(token).wanted).expect(SEEN);
        }
        self.candidates.clear();
        self.picked = 0;
        self.told += 1;
        let Some(forecaster) = next.forecaster.take().filter(|_| !served.prefill) else { return };
        for ahead in 1..=self.ahead {
            self.forecast(served.layer, ahead, &next, forecaster);
        }
        if !self.gain {
            self.last = 0;
            self.candidates.retain(|candidate| candidate.sure >= self.sure);
            self.candidates
                .sort_unstable_by_key(|candidate| (Reverse((candidate.sure, candidate.share)), candidate.expert));
            asks.extend(self.candidates.drain(..).map(|candidate| candidate.expert));
        }
    }

    fn pick(&mut self, passes: Level) -> Option<Pick> {
        if self.picked == self.most {
            return None;
        }
        let worth = |candidate: &Candidate| {
            let ahead = self.forecasts[candidate.forecast].ahead;
            let passes = passes.to_bits().into();
            gain(ahead, candidate.sure, passes, if self.yields { 0 } else { ONE - passes }, self.waste)
        };
        let key = |(index, candidate)| (worth(candidate), candidate.share, index);
        let (worth, _, index) = self.candidates.iter().enumerate().map(key).max()?;
        if worth <= 0 {
            return None;
        }
        let Candidate { forecast, expert, .. } = self.candidates.swap_remove(index);
        self.last = forecast;
        Some(Pick { layer: self.forecasts[forecast].layer, expert })
    }

    fn fetched(&mut self) {
        self.picked += 1;
    }

    fn next(&self) -> Option<&[Level]> {
        Some(&self.forecasts[self.last].shares)
    }

    fn most(&self) -> usize {
        self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gain_is_that_of_real_numbers(
            ahead in 1usize..4,
            p in 0..=ONE,
            passes in 0..=ONE,
            waste in 0..=64 * ONE,
            yields: bool,
        ) {
            let real = |bits: i64| bits as f64 / ONE as f64;
            // In the words of the module: one load takes `l` = 1.
            let (p_, g, w) = (real(p), real(passes), real(waste));
            let held_up = if yields { 0.0 } else { f64::max(0.0, 1.0 - g) };
            let expected = if ahead == 1 {
                p_ * f64::min(1.0, g) - (1.0 - p_) * (held_up + w)
            } else {
                p_ - held_up - (1.0 - p_) * w
            };
            let late = if yields { 0 } else { ONE - passes };
            prop_assert!((real(gain(ahead, p, passes, late, waste)) - expected).abs() < 2.0 / ONE as f64);
        }
    }

    #[test]
    fn a_sure_thing_is_fetched_and_a_vain_one_is_not() {
        for ahead in 1..4 {
            assert!(gain(ahead, ONE, ONE, 0, ONE) > 0 && gain(ahead, 0, ONE, 0, 1) < 0);
        }
        // Nothing of it passes in time: that saves nothing, and a layer further ahead costs what it saves.
        assert_eq!((gain(1, ONE, 0, ONE, 0), gain(2, ONE, 0, ONE, 0)), (0, 0));
    }
}
