//! Times of the most frequent layers, found without going through their lists.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use cptr_hw_model::{LayerTime, LayerTimes, LayerWork};

/// Layers of one token whose experts are all at full precision on the GPU, and at one number of bits near the data: a
/// few bytes say it all.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<u64, LayerTime, BuildHasherDefault<Mixed>>);

impl Known {
    /// The time of a layer's work.
    pub(super) fn get(&mut self, times: &LayerTimes<'_>, work: &LayerWork<'_>, full_bits: u8) -> LayerTime {
        match key(work, full_bits.into()) {
            Some(key) => {
                let alone = || times.get(&LayerWork { attended: 0, ..*work });
                times.with_attention(*self.0.entry(key).or_insert_with(alone), work)
            }
            // The rest of a copy is a fraction of an expert, and hardly ever the same: nothing to remember.
            None if parts(work) => times.system().layer_time(times.model(), work),
            None => times.get(work),
        }
    }
}

/// Whether parts of experts are copied that are no whole bits.
fn parts(work: &LayerWork<'_>) -> bool {
    work.copies_bits.iter().copied().chain(work.copied.iter().map(|copied| copied.bits)).any(|bits| bits.fract() != 0.0)
}

/// Equal for layers that take as long: numbers of experts, bits near the data, switches. Of one strategy `scored` and
/// `tracked` do not change.
fn key(work: &LayerWork<'_>, full: f64) -> Option<u64> {
    let near = work.near_data.first().map_or(0.0, |run| run.bits);
    let plain = work.tokens == 1
        && work.gpu.iter().all(|run| run.bits == full)
        && work.copied.iter().all(|copied| copied.run.bits == full && copied.bits == full)
        && work.copies_bits.iter().all(|&bits| bits == full)
        && work.near_data.iter().all(|run| run.bits == near)
        && near.fract() == 0.0;
    let lengths = [work.gpu.len(), work.copied.len(), work.near_data.len(), work.copies_bits.len(), near as usize];
    let packed = |key: u64, &length: &usize| key << 12 | length as u64;
    (plain && lengths.iter().all(|&length| length < 1 << 12))
        .then(|| lengths.iter().fold(0, packed) << 1 | u64::from(work.migrating))
}

/// A hash by one multiplication: keys are few and already small.
#[derive(Debug, Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cptr_hw_model::{CopiedRun, ExpertRun, Model, System};

    #[test]
    fn is_what_is_known_and_what_is_not() {
        let times = LayerTimes::new(System::find("ndp").unwrap(), Model::find("olmoe").unwrap());
        let mut known = Known::default();
        let full = ExpertRun::at(16.0);
        let works = |migrating| {
            [
                LayerWork {
                    tokens: 1,
                    gpu: &[ExpertRun { bits: 16.0, tokens: 1 }; 3],
                    migrating,
                    attended: 700 * u64::from(migrating),
                    ..LayerWork::default()
                },
                LayerWork {
                    tokens: 1,
                    copied: &[CopiedRun { run: ExpertRun { bits: 16.0, tokens: 1 }, bits: 7.5 }],
                    ..LayerWork::default()
                },
                LayerWork { tokens: 1, near_data: &[ExpertRun { bits: 2.0, tokens: 1 }], ..LayerWork::default() },
                LayerWork { tokens: 1, near_data: &[ExpertRun { bits: 4.0, tokens: 1 }], ..LayerWork::default() },
                LayerWork { tokens: 2, near_data: &[ExpertRun { bits: 4.0, tokens: 2 }], ..LayerWork::default() },
            ]
        };
        for work in works(false).iter().chain(&works(true)).chain(&works(false)) {
            assert_eq!(known.get(&times, work, 16), times.get(work));
        }
        assert_eq!(known.0.len(), 4);
        assert_eq!(
            known.get(&times, &LayerWork { tokens: 1, gpu: &[full], ..LayerWork::default() }, 4),
            times.get(&LayerWork { tokens: 1, gpu: &[full], ..LayerWork::default() })
        );
    }
}
