//! Remembered trajectories say what the next layer wants: what followed the places that are most like this one,
//! judged by how often that came true for experts that were not there.

use cptr_core::Level;
use cptr_core::recall::Calibration;

use super::{Kind, Make, Next, Prefetch};
use crate::memory::Resident;
use crate::strategy::forecaster::Settings;
use crate::strategy::{Parameter, Served, Unit, Values};

/// How right a forecast must have been.
pub(super) const SURE: Parameter =
    Parameter::new("sure", 0.5, Unit::Share, "share of such forecasts of missing experts that came true, at least")
        .off_at(0.0);

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[super::MOST, SURE],
    // Every layer scores the remembered places again: three quarters of the time of all other strategies together.
    slow: true,
    couples_layers: true,
    ..Kind::new(
        "recall-fetch",
        "what followed remembered trajectories in the next layer, where that mostly came true",
        Make(|values, _| likely(Settings::default(), values)),
    )
};

struct RecallFetch {
    settings: Settings,
    most: usize,
    sure: Level,
    calibration: Calibration,
    /// Layer of the last forecast, what was resident there, and the probability of each expert; no expert before the
    /// first.
    layer: usize,
    resident: Resident,
    next: Vec<Level>,
    ranked: Vec<(Level, u16)>,
}

/// What a memory expects in the next layer, where that mostly came true; the values have `MOST` and [`SURE`].
pub(super) fn likely(settings: Settings, values: &Values) -> Box<dyn Prefetch> {
    Box::new(RecallFetch {
        settings,
        most: values.count("most"),
        sure: Level::from_num(values.get("sure")),
        calibration: Calibration::new(),
        layer: 0,
        resident: Resident::new(),
        next: Vec::new(),
        ranked: Vec::new(),
    })
}

impl RecallFetch {
    /// Judges the last forecast by what its layer wanted of the experts that were not there.
    fn judge(&mut self, served: &Served<'_>) {
        if served.prefill || served.layer != self.layer {
            return;
        }
        for (&share, expert) in self.next.iter().zip(0u16..) {
            if share > Level::ZERO && !self.resident.contains(expert) {
                let wanted = (0..served.tokens).any(|token| (served.token)(token).wanted.contains(&expert));
                self.calibration.learn(share, wanted);
            }
        }
    }
}

impl Prefetch for RecallFetch {
    fn recalls(&self) -> Option<Settings> {
        Some(self.settings)
    }

    fn ask(&mut self, served: &Served<'_>, next: Next<'_>, asks: &mut Vec<u16>) {
        self.judge(served);
        let Some(forecaster) = next.forecaster else { return };
        forecaster.next(next.layer, &mut self.next);
        (self.layer, self.resident) = (next.layer, *next.resident);
        self.ranked.clear();
        for (&share, expert) in self.next.iter().zip(0u16..) {
            let missing = share > Level::ZERO && !self.resident.contains(expert);
            if missing && self.calibration.confidence(share) >= self.sure {
                self.ranked.push((share, expert));
            }
        }
        self.ranked.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        asks.extend(self.ranked.iter().map(|&(_, expert)| expert));
    }

    fn next(&self) -> Option<&[Level]> {
        Some(&self.next)
    }

    fn most(&self) -> usize {
        self.most
    }
}
