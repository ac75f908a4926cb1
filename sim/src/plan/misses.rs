//! How often a chosen expert is not in GPU memory, over the share of the experts that is: from a trace of one's own,
//! or of another model.

use cptr_trace::Trace;
use cptr_trace::error::Result;

use super::Placed;
use crate::replay::{Budget, Plan, run};
use crate::strategy::Strategy;

/// Misses over the share of the experts in GPU memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Misses {
    points: Vec<Point>,
    /// Whether they are of the model itself.
    own: bool,
}

/// Misses of each strategy at one share.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    share: f64,
    lru: f64,
    recall: f64,
    once: f64,
}

/// Shares that are measured; at 0 all choices miss, at 1 none.
const SHARES: [f64; 5] = [0.125, 0.25, 0.375, 0.5, 0.75];

/// Misses of the bundled trace of gpt-oss-20b, for models of which there is none: `Misses::of` of its second half
/// prints them, and a test compares.
const TYPICAL: [Point; 5] = [
    Point { share: 0.125, lru: 0.5838, recall: 0.5839, once: 0.7645 },
    Point { share: 0.25, lru: 0.3695, recall: 0.3014, once: 0.566 },
    Point { share: 0.375, lru: 0.2105, recall: 0.161, once: 0.3987 },
    Point { share: 0.5, lru: 0.1118, recall: 0.0852, once: 0.2751 },
    Point { share: 0.75, lru: 0.0233, recall: 0.0194, once: 0.0891 },
];

/// Texts of the same kind as the recording's: the least and the greatest of its misses, in parts of them; assumed.
const OTHER_TEXT: [f64; 2] = [0.9, 1.1];
/// Another model: likewise. At a quarter of the experts eight public traces lie between 0.31 and 1.45 of the typical
/// misses, those of Qwen3 below and those of DeepSeek-V2-Lite above (docs/plan.md); chosen on these.
const OTHER_MODEL: [f64; 2] = [0.3, 1.5];

impl Misses {
    /// Those of the bundled trace of gpt-oss-20b.
    #[must_use]
    pub fn typical() -> Self {
        Self { points: TYPICAL.to_vec(), own: false }
    }

    /// None, for who counts them on a recording of the model: they say how far another text's may be off.
    #[must_use]
    pub const fn counted() -> Self {
        Self { points: Vec::new(), own: true }
    }

    /// Those of a trace: the first half is shown to the strategies, the second is counted.
    ///
    /// # Errors
    /// A trace that cannot be replayed.
    pub fn of(trace: &Trace) -> Result<Self> {
        let experts = trace.shape.experts;
        let mut points: Vec<Point> = Vec::new();
        for share in SHARES {
            let resident = ((share * experts as f64).round() as usize).clamp(1, experts);
            let share = resident as f64 / experts as f64;
            if points.last().is_some_and(|last| last.share >= share) || resident < trace.shape.k {
                continue;
            }
            let strategies = Strategy::parse_list("lru,recall,once")?;
            let plan = Plan { strategies, prefill: trace.shape.tokens / 2, ..Plan::new(Budget::Experts(resident)) };
            let rows = run(trace, &plan)?.rows;
            let miss = |at: usize| rows.get(at).map_or(1.0, |row| row.miss_rate);
            points.push(Point { share, lru: miss(0), recall: miss(1), once: miss(2) });
        }
        Ok(Self { points, own: true })
    }

    /// Whether they are of the model that is asked about.
    #[must_use]
    pub const fn own(&self) -> bool {
        self.own
    }

    /// The better strategy of a cache at `share` of the experts, and its misses.
    pub(super) fn cached(&self, share: f64) -> (Option<&'static str>, f64) {
        let (lru, recall) = (self.at(share, |point| point.lru), self.at(share, |point| point.recall));
        if recall < lru { (Some("recall"), recall) } else { (Some("lru"), lru) }
    }

    /// A placement chosen once, after the prompt.
    pub(super) fn placed(&self, share: f64) -> (Option<&'static str>, f64) {
        (Some("once"), self.at(share, |point| point.once))
    }

    /// As `placed`, with the least and the greatest misses that it may have; nothing where no strategy was chosen.
    #[must_use]
    pub fn ends(&self, placed: &Placed) -> Vec<Placed> {
        let at = |miss_rate| Placed { miss_rate, ..*placed };
        let band = placed.strategy.map(|_| self.band(placed.miss_rate, placed.resident_share));
        band.into_iter().flatten().map(at).collect()
    }

    /// The least and the greatest that `miss_rate` may be, at `share` of the experts.
    fn band(&self, miss_rate: f64, share: f64) -> [f64; 2] {
        let [least, most] = if self.own { OTHER_TEXT } else { OTHER_MODEL };
        // No strategy misses more often than one that keeps any experts, if routing is balanced.
        [miss_rate * least, (miss_rate * most).min((1.0 - share).max(miss_rate))]
    }

    /// Straight between the points.
    fn at(&self, share: f64, of: impl Fn(&Point) -> f64) -> f64 {
        let mut before = (0.0, 1.0);
        for point in self.points.iter().map(|point| (point.share, of(point))).chain([(1.0, 0.0)]) {
            if share <= point.0 {
                let part = if point.0 > before.0 { (share - before.0) / (point.0 - before.0) } else { 1.0 };
                return before.1 + (point.1 - before.1) * part.clamp(0.0, 1.0);
            }
            before = point;
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What stands here is what the bundled trace says.
    #[test]
    fn typical_misses_are_those_of_the_bundled_trace() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/gpt-oss-20b.safetensors");
        let trace = cptr_trace::native::read(&path).unwrap();
        let found = Misses::of(&trace).unwrap();
        for (found, typical) in found.points.iter().zip(&TYPICAL) {
            let numbers = |point: &Point| [point.share, point.lru, point.recall, point.once];
            for (found, typical) in numbers(found).into_iter().zip(numbers(typical)) {
                assert!((found - typical).abs() < 0.001, "{found} {typical}");
            }
        }
        assert_eq!(found.points.len(), TYPICAL.len());
    }

    #[test]
    fn misses_fall_from_all_to_none() {
        let misses = Misses::typical();
        let strategies: [fn(&Point) -> f64; 3] = [|point| point.lru, |point| point.recall, |point| point.once];
        for of in strategies {
            let curve: Vec<f64> = (0..=100).map(|percent| misses.at(f64::from(percent) / 100.0, of)).collect();
            assert_eq!((curve[0], curve[100]), (1.0, 0.0));
            assert!(curve.is_sorted_by(|a, b| a >= b), "{curve:?}");
        }
        let [least, most] = misses.band(0.3, 0.5);
        assert!(least < 0.3 && most > 0.3 && most <= 0.5);
    }
}
