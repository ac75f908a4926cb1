//! Rotation of the logits towards the tracked direction: what the filter was first thought out to do.
//!
//! The scores of a token, less their mean, are a vector; its exponential average is the tracked direction. The vector
//! is turned towards it in the plane of both, its length kept, by a share of the angle between them: the most there may
//! be, times `snr / (1 + snr)` of the tracked power over that of the innovation, and nothing, half of it or all of it
//! as the loop on that angle is unlocked, in transition or locked ([`cptr_core::phase`]).

use super::{Kind, Make, Select, top};
use crate::strategy::{Parameter, Token, Unit, Values};
use cptr_core::{Angle, Lock, Phase, PhaseConfig};
use cptr_trace::Knowledge;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter::new("most", 0.5, Unit::Share, "share of the angle that is turned at most; 0 is the raw router"),
        Parameter::new("gain", 1.0 / 64.0, Unit::Gain(0.99), "gain of the tracked direction"),
    ],
    needs: Knowledge::Logits,
    ..Kind::new(
        "rotate",
        "scores turned towards their tracked direction, by signal-to-noise ratio and lock",
        Make(make),
    )
};

/// Gain of the powers of direction and innovation.
const POWER_GAIN: f32 = 1.0 / 16.0;

struct Rotate {
    most: f32,
    gain: f32,
    phase: Phase,
    tokens: u32,
    /// Tracked direction, of scores less their mean.
    level: Vec<f32>,
    /// Mean power of the direction and of the innovation.
    signal: f32,
    noise: f32,
    scores: Vec<f32>,
}

fn make(values: &Values) -> Box<dyn Select> {
    Box::new(Rotate {
        most: values.get("most") as f32,
        gain: values.get("gain") as f32,
        phase: Phase::new(),
        tokens: 0,
        level: Vec::new(),
        signal: 0.0,
        noise: 0.0,
        scores: Vec::new(),
    })
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Turns `vector` towards `direction` by a share of the angle between them, its length kept; returns that angle, a
/// right one where one of them has no length.
fn turn(vector: &mut [f32], direction: &[f32], share: f32) -> f32 {
    let (length, reach) = (dot(vector, vector).sqrt(), dot(direction, direction).sqrt());
    let area = length * reach;
    if area.is_nan() || area <= f32::MIN_POSITIVE {
        return std::f32::consts::FRAC_PI_2;
    }
    let cosine = (dot(vector, direction) / area).clamp(-1.0, 1.0);
    let angle = cosine.acos();
    let sine = angle.sin();
    // Vectors that point the same way, or against each other, span no plane.
    if share > 0.0 && sine > 1e-4 {
        // Of unit vectors a and b: sin(angle - turned) / sin(angle) a + sin(turned) / sin(angle) b.
        let turned = share * angle;
        let (keep, add) = ((angle - turned).sin() / sine, turned.sin() / sine * length / reach);
        vector.iter_mut().zip(direction).for_each(|(value, to)| *value = keep * *value + add * to);
    }
    angle
}

impl Rotate {
    /// Learns from the scores of a token, less their mean.
    fn learn(&mut self, centred: &[f32], angle: f32) {
        self.phase.step(&PhaseConfig::default(), Angle::from_num(angle.clamp(0.0, std::f32::consts::FRAC_PI_2)));
        self.tokens = self.tokens.saturating_add(1);
        let gain = self.gain.max(1.0 / self.tokens as f32);
        let (mut signal, mut noise) = (0.0, 0.0);
        for (level, score) in self.level.iter_mut().zip(centred) {
            let innovation = score - *level;
            signal += *level * *level;
            noise += innovation * innovation;
            *level += gain * innovation;
        }
        if self.tokens > 1 {
            self.signal += POWER_GAIN * (signal - self.signal);
            self.noise += POWER_GAIN * (noise - self.noise);
        }
    }

    /// Share of the angle that is turned.
    fn share(&self) -> f32 {
        let lock = match self.phase.lock() {
            Lock::Unlocked => 0.0,
            Lock::Transition => 0.5,
            Lock::Locked => 1.0,
        };
        let power = self.signal + self.noise;
        if power > 0.0 { self.most * lock * self.signal / power } else { 0.0 }
    }
}

impl Select for Rotate {
    fn select(&mut self, token: &Token<'_>, chosen: &mut Vec<u16>) {
        let count = token.scores.len();
        if token.starts_sequence || self.level.len() != count {
            (self.phase, self.tokens, self.signal, self.noise) = (Phase::new(), 0, 0.0, 0.0);
            self.level.clear();
            self.level.resize(count, 0.0);
        }
        let mean = token.scores.iter().sum::<f32>() / count.max(1) as f32;
        let centred: Vec<f32> = token.scores.iter().map(|score| score - mean).collect();
        self.scores.clone_from(&centred);
        let share = self.share();
        let angle = turn(&mut self.scores, &self.level, share);
        self.learn(&centred, angle);
        chosen.extend_from_slice(&top(token.wanted.len(), self.scores.iter().copied()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cptr_core::{ExpertSet, Logit, Router};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn turning_keeps_the_length_and_turns_by_the_share(
            pairs in prop::collection::vec((-8.0f32..8.0, -8.0f32..8.0), 2..20),
            share in 0.0f32..=1.0,
        ) {
            let (vector, direction): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let mut turned = vector.clone();
            let angle = turn(&mut turned, &direction, share);
            let length = |v: &[f32]| dot(v, v).sqrt();
            prop_assume!(length(&vector) > 0.1 && length(&direction) > 0.1 && (0.01..3.1).contains(&angle));
            prop_assert!((length(&turned) / length(&vector) - 1.0).abs() < 1e-2);
            let left = turn(&mut turned.clone(), &direction, 0.0);
            prop_assert!((left - (1.0 - share) * angle).abs() < 2e-2, "{} {} {}", left, share, angle);
        }
    }

    #[test]
    fn a_steady_context_holds_the_choice_and_a_share_of_nothing_is_the_raw_router() {
        let router = Router::softmax_selected(1);
        let resident = ExpertSet::<1>::new();
        let switches = |most: f64| {
            let mut values = Values::defaults(KIND.parameters);
            values.set("rotate", &format!("most={most}")).unwrap();
            let mut rotate = make(&values);
            let (mut last, mut switches) = (None, 0);
            for step in 0..400u32 {
                // Expert 0 is ahead but for every fifth token or so.
                let rival = if step * 7 % 5 == 0 { 1.3 } else { 0.0 };
                let scores = [1.0, rival, -1.0, -0.5];
                let logits = scores.map(|z| Logit::from_num(z));
                let wanted = router.top_k::<1>(&logits).unwrap();
                let token = Token {
                    layer: 0,
                    scores: &scores,
                    logits: &logits,
                    wanted: &wanted,
                    shares: &[],
                    experts: 4,
                    resident: &resident,
                    starts_sequence: step == 0,
                    router: &router,
                    expected: &[],
                    committed: &[],
                };
                let mut chosen = Vec::new();
                rotate.select(&token, &mut chosen);
                if most == 0.0 {
                    assert_eq!(chosen[..], wanted[..]);
                }
                switches += u32::from(last.is_some_and(|last| last != chosen[0]));
                last = Some(chosen[0]);
            }
            switches
        };
        assert!(switches(1.0) * 2 < switches(0.0), "{} {}", switches(1.0), switches(0.0));
    }
}
