//! Counts of latencies in bounded memory.

/// Values below this are counted exactly.
const EXACT: u64 = 1024;
/// Above, each doubling is cut into this many buckets, so a quantile is at most 1/64 too high.
const PER_OCTAVE: u64 = 64;
/// Doublings above [`EXACT`]; a longer latency lands in the last bucket.
const OCTAVES: u64 = 30;

/// Histogram of latencies in clock cycles: 23 KiB, whatever the number of values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; (EXACT + OCTAVES * PER_OCTAVE) as usize], total: 0, sum: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts `value` once.
    pub fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.sum += value;
        self.max = self.max.max(value);
    }

    /// Number of values.
    pub const fn len(&self) -> u64 {
        self.total
    }

    /// True if nothing was counted.
    pub const fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Mean of all values, 0 without any. Exact.
    pub fn mean(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.sum as f64 / self.total as f64 }
    }

    /// Greatest value. Exact.
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// Smallest value that at least the share `q` (0 to 1) of all values does not exceed; exact below 1024, then at
    /// most 1/64 too high. 0 without any value.
    pub fn quantile(&self, q: f64) -> u64 {
        let wanted = ((q.clamp(0.0, 1.0) * self.total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, &count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_end(index).min(self.max);
            }
        }
        0
    }

    /// Adds all values of `other`.
    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// Buckets; number, sum and greatest of all values.
    pub(super) fn parts_mut(&mut self) -> (&mut [u64], [&mut u64; 3]) {
        (&mut self.counts, [&mut self.total, &mut self.sum, &mut self.max])
    }

    /// Adds all values of `part`.
    pub(super) fn add(&mut self, part: &SparseHistogram) {
        for &(bucket, count) in &part.counts {
            self.counts[usize::from(bucket)] += u64::from(count);
        }
        self.total += part.total;
        self.sum += part.sum;
        self.max = self.max.max(part.max);
    }

    /// Takes all values out.
    pub(super) fn take(&mut self) -> SparseHistogram {
        let end = if self.total == 0 { 0 } else { bucket(self.max) + 1 };
        let used = self.counts[..end].iter_mut().enumerate().filter(|(_, count)| **count > 0);
        // A part is one read at most, and no channel holds 2^32 accesses.
        let counts = used.map(|(bucket, count)| (bucket as u16, std::mem::take(count) as u32)).collect();
        let part = SparseHistogram { counts, total: self.total, sum: self.sum, max: self.max };
        (self.total, self.sum, self.max) = (0, 0, 0);
        part
    }
}

/// The buckets in use of a [`Histogram`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SparseHistogram {
    counts: Vec<(u16, u32)>,
    total: u64,
    sum: u64,
    max: u64,
}

impl SparseHistogram {
    /// Size of the buckets in 32-bit words.
    pub(super) fn words(&self) -> usize {
        2 * self.counts.len()
    }
}

fn bucket(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    let octave = u64::from(value.ilog2() - EXACT.ilog2());
    if octave >= OCTAVES {
        return (EXACT + OCTAVES * PER_OCTAVE - 1) as usize;
    }
    let within = (value >> (octave + u64::from((EXACT / PER_OCTAVE).ilog2()))) - PER_OCTAVE;
    (EXACT + octave * PER_OCTAVE + within) as usize
}

/// Greatest value of a bucket.
fn upper_end(index: usize) -> u64 {
    let index = index as u64;
    if index < EXACT {
        return index;
    }
    let (octave, within) = ((index - EXACT) / PER_OCTAVE, (index - EXACT) % PER_OCTAVE);
    ((within + PER_OCTAVE + 1) << (octave + u64::from((EXACT / PER_OCTAVE).ilog2()))) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buckets_hold_their_values(value in 0u64..1 << 39) {
            let index = bucket(value);
            prop_assert!(value <= upper_end(index));
            prop_assert!(index == 0 || value > upper_end(index - 1));
            prop_assert!(upper_end(index) as f64 <= value as f64 * (1.0 + 1.0 / 64.0));
        }

        #[test]
        fn quantiles_match_sorting(mut values in prop::collection::vec(0u64..1024, 1..200), q in 0.0f64..1.0) {
            let mut histogram = Histogram::default();
            for &value in &values { histogram.record(value); }
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).max(1);
            prop_assert_eq!(histogram.quantile(q), values[rank - 1]);
            prop_assert_eq!(histogram.max(), *values.last().unwrap());
        }
    }

    #[test]
    fn empty_and_huge() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.mean(), histogram.is_empty()), (0, 0.0, true));
        histogram.record(u64::MAX);
        assert_eq!(histogram.max(), u64::MAX);
        assert!(histogram.quantile(1.0) > 1 << 39);
    }
}
