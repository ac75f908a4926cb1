//! How far forecasts are to be trusted, learned on line: nothing is, until it has been right.

use crate::num::{Level, div_frac_call};

/// Bins of the first share.
const BINS: usize = 32;
/// What a bin begins with: nothing is believed before it has come true.
const FIRST: (u16, u16) = (8, 0);

/// One more forecast in a bin.
const fn count((all, right): &mut (u16, u16), wanted: bool) {
    if *all == u16::MAX {
        (*all, *right) = (*all / 2, *right / 2);
    }
    (*all, *right) = (all.wrapping_add(1), right.wrapping_add(wanted as u16));
}

/// Share of a bin's forecasts that came true, rounded down.
fn came_true((all, right): (u16, u16)) -> Level {
    Level::from_bits(div_frac_call(right.into(), all.into()) >> 1)
}

/// Bins of the second share.
const OTHERS: usize = 8;

/// What two shares mean together: of the experts that two forecasts gave such shares, how many were wanted?
///
/// Shares overstate, all the more where only experts count that are not resident, which are the ones that one would
/// fetch. The second forecast need not be good alone: it says which of the first one's shares to believe. Bins are 1/32
/// of the first share wide; of the second they are halvings, from 1/2 down to 1/128 and all below. A bin begins with
/// eight forecasts none of which came true; its counts are halved when they are full.
///
/// Memory: 1,024 bytes. Cost: a count of leading zeros, a load, an addition and a store for each forecast that is
/// judged; a 32-bit division for each question.
#[derive(Debug, Clone)]
pub struct JointCalibration {
    /// Forecasts, and those of them that came true.
    bins: [[(u16, u16); OTHERS]; BINS],
}

impl JointCalibration {
    /// Nothing has been forecast.
    #[must_use]
    pub const fn new() -> Self {
        Self { bins: [[FIRST; OTHERS]; BINS] }
    }

    /// The bin of the first share.
    const fn bin(share: Level) -> usize {
        let bin = (share.to_bits() >> 26) as usize;
        if bin < BINS { bin } else { BINS - 1 }
    }

    /// The bin of a share by halvings.
    fn halvings(share: Level) -> usize {
        OTHERS - (share.to_bits().leading_zeros() as usize).clamp(1, OTHERS)
    }

    /// An expert that was forecast with two shares was wanted or was not.
    pub fn learn(&mut self, share: Level, other: Level, wanted: bool) {
        // There is always one, which compilers for small code do not see.
        let row = self.bins.get_mut(Self::bin(share));
        if let Some(bin) = row.and_then(|row| row.get_mut(Self::halvings(other))) {
            count(bin, wanted);
        }
    }

    /// Share of the experts forecast like this that were wanted, rounded down.
    #[must_use]
    pub fn confidence(&self, share: Level, other: Level) -> Level {
        let row = self.bins.get(Self::bin(share));
        row.and_then(|row| row.get(Self::halvings(other))).map_or(Level::ZERO, |&bin| came_true(bin))
    }
}

impl Default for JointCalibration {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether recall knows more than levels do: the mean share that each of them gives to the experts that are then
/// wanted, averages over about 256 tokens. Where tokens come in no order, both give the mean popularity of the
/// wanted, and recall, which goes by few places, is only the noisier one.
///
/// Memory: 8 bytes. Cost: two shifts and a few additions a token and layer, one 32-bit multiplication and division
/// for a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skill {
    /// Averages, `U1F31` bits.
    recall: u32,
    levels: u32,
}

impl Skill {
    /// Gain of the averages, as a shift.
    const SHIFT: u32 = 8;

    /// Nothing has been forecast.
    #[must_use]
    pub const fn new() -> Self {
        Self { recall: 0, levels: 0 }
    }

    /// A token's experts have mean shares in the two forecasts.
    pub fn learn(&mut self, recall: Level, levels: Level) {
        let step = |mean: &mut u32, share: Level| {
            // Both at most 2, so that nothing overflows; rounded down.
            *mean = mean.wrapping_sub(*mean >> Self::SHIFT).wrapping_add(share.to_bits() >> Self::SHIFT);
        };
        step(&mut self.recall, recall);
        step(&mut self.levels, levels);
    }

    /// What recall is worth beside levels, 0 to 1: nothing up to 1/16 above them, everything from 3/16 above them.
    #[must_use]
    pub fn weight(&self) -> Level {
        let start = self.levels.saturating_add(self.levels >> 4);
        let margin = self.recall.saturating_sub(start);
        let full = self.levels >> 3;
        if margin == 0 {
            Level::ZERO
        } else if margin >= full {
            Level::ONE
        } else {
            Level::from_bits(div_frac_call(margin, full) >> 1)
        }
    }
}

impl Default for Skill {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn level(share: f64) -> Level {
        Level::from_num(share)
    }

    #[test]
    fn two_shares_say_more_than_one() {
        let mut calibration = JointCalibration::new();
        assert_eq!(calibration.confidence(level(1.0), level(1.0)), Level::ZERO);
        for n in 0..200_000 {
            calibration.learn(level(0.5), level(0.6), n % 10 < 9);
            calibration.learn(level(0.5), level(0.3), n % 10 < 5);
            calibration.learn(level(0.5), level(0.001), n % 10 < 1);
            calibration.learn(level(1.0), level(1.0), n % 10 < 8);
        }
        // The last bin holds a share of one.
        assert!((calibration.confidence(level(0.97), level(0.5)).to_num::<f64>() - 0.8).abs() < 1e-2);
        let found = |other| calibration.confidence(level(0.5), level(other)).to_num::<f64>();
        let expected = [(1.0, 0.9), (0.5, 0.9), (0.49, 0.5), (0.25, 0.5), (0.24, 0.0), (0.0, 0.1), (0.0078, 0.1)];
        for (other, share) in expected {
            assert!((found(other) - share).abs() < 1e-2, "{other} {}", found(other));
        }
        assert_eq!(calibration.confidence(level(0.4), level(0.6)), Level::ZERO);
    }

    #[test]
    fn skill_is_worth_something_only_above_the_levels() {
        let weight = |recall, levels| {
            let mut skill = Skill::new();
            (0..3000).for_each(|_| skill.learn(level(recall), level(levels)));
            skill.weight().to_num::<f64>()
        };
        assert_eq!(Skill::new().weight(), Level::ZERO);
        assert_eq!(weight(0.2, 0.2), 0.0);
        assert_eq!(weight(0.21, 0.2), 0.0);
        assert!((weight(0.225, 0.2) - 0.5).abs() < 0.02, "{}", weight(0.225, 0.2));
        assert_eq!(weight(0.24, 0.2), 1.0);
        assert_eq!(weight(1.0, 1.0), 0.0);
    }

    proptest! {
        #[test]
        fn nothing_overflows(
            shares in prop::collection::vec((0u32..=1 << 31, 0u32..=1 << 31, any::<bool>()), 0..2000),
        ) {
            let (mut skill, mut calibration) = (Skill::new(), JointCalibration::new());
            for (a, b, wanted) in shares {
                skill.learn(Level::from_bits(a), Level::from_bits(b));
                calibration.learn(Level::from_bits(a), Level::from_bits(b), wanted);
                let confidence = calibration.confidence(Level::from_bits(b), Level::from_bits(a));
                prop_assert!(skill.weight() <= Level::ONE && confidence <= Level::ONE);
            }
        }
    }
}
