//! Levels, gain, phase and lock of one layer.

use std::vec;
use std::vec::Vec;

/// A [`Tracker`](crate::Tracker) with the constants of [`TrackerConfig::default`](crate::TrackerConfig), as they are
/// documented.
#[derive(Debug, Clone)]
pub struct Tracker {
    slow: Vec<f64>,
    fast: Vec<f64>,
    variance: f64,
    gain: f64,
    angle: f64,
    drift: f64,
    deviation: f64,
    evidence: f64,
    tokens: u32,
}

impl Tracker {
    const FAST_GAIN: f64 = 1.0 / 8.0;
    const ACQUIRE: u32 = 32;

    /// Before the first token.
    #[must_use]
    pub fn new(experts: usize) -> Self {
        Self {
            slow: vec![0.0; experts],
            fast: vec![0.0; experts],
            variance: 7.0,
            gain: 0.0,
            angle: 0.0,
            drift: 0.0,
            deviation: 0.0,
            evidence: 0.0,
            tokens: 0,
        }
    }

    /// Slow and fast level of an expert.
    #[must_use]
    pub fn level(&self, expert: usize) -> [f64; 2] {
        [self.slow[expert], self.fast[expert]]
    }

    /// The gain of the last token.
    #[must_use]
    pub const fn gain(&self) -> f64 {
        self.gain
    }

    /// What evictions go by: the least goes.
    #[must_use]
    pub fn score(&self, expert: usize) -> f64 {
        self.slow[expert] + self.fast[expert] / 4.0
    }

    /// Takes what one token wanted; returns whether lock was lost.
    pub fn update(&mut self, wanted: &[u16]) -> bool {
        let dot: f64 = wanted.iter().map(|&e| self.slow[usize::from(e)]).sum();
        let power: f64 = self.slow.iter().map(|x| x * x).sum();
        let norm = (power * wanted.len() as f64).sqrt();
        let cosine = if norm > 0.0 { (dot / norm).min(1.0) } else { 0.0 };
        let steady: f64 = 1.0 / 64.0;
        let lost = self.loses_lock(cosine.acos());
        if lost {
            let reopened: f64 = 1.0 / 20.0;
            self.variance = self.variance.max(reopened / (1.0 - reopened));
        }
        let predicted = self.variance + steady * steady / (1.0 - steady);
        self.gain = predicted / (predicted + 1.0);
        self.variance = (1.0 - self.gain) * predicted;
        for (levels, gain) in [(&mut self.slow, self.gain), (&mut self.fast, Self::FAST_GAIN)] {
            levels.iter_mut().for_each(|x| *x -= gain * *x);
            wanted.iter().for_each(|&e| levels[usize::from(e)] += gain);
        }
        lost
    }

    fn loses_lock(&mut self, angle: f64) -> bool {
        if self.tokens < Self::ACQUIRE {
            self.acquire(angle);
            return false;
        }
        let error = angle - self.angle - self.drift;
        self.angle += self.drift + error / 64.0;
        self.drift += error / 4096.0 - self.drift / 64.0;
        self.deviation += (error.abs() - self.deviation) / 64.0;
        self.evidence = (self.evidence + error - self.deviation * 18.0 / 16.0).max(0.0);
        if self.evidence > 10.0 * self.deviation {
            (self.angle, self.drift, self.evidence, self.tokens) = (0.0, 0.0, 0.0, 0);
            return true;
        }
        false
    }

    fn acquire(&mut self, angle: f64) {
        self.tokens += 1;
        if self.tokens == 1 {
            self.angle = angle;
            return;
        }
        let n = f64::from(self.tokens / 2 + 1);
        let error = angle - self.angle;
        self.angle += error / n;
        self.deviation += (error.abs() - self.deviation) / n;
    }
}
