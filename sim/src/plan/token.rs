//! The mean time of a token whose experts lie as a plan says.

use cptr_hw_model::{CopiedRun, ExpertRun, LayerWork, Model, System};
use serde::Serialize;

use super::{Misses, Place};

/// How experts lie, and how often the wanted ones are in GPU memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placed {
    /// Where.
    pub place: Place,
    /// Share of the experts that are in GPU memory; of layers, the share that has all of them there.
    pub resident_share: f64,
    /// Choices that are not there.
    pub miss_rate: f64,
    /// What keeps or chooses them.
    pub strategy: Option<&'static str>,
}

impl Placed {
    /// By the better of the strategies that a place allows.
    #[must_use]
    pub fn new(place: Place, resident_share: f64, misses: &Misses) -> Self {
        let (strategy, miss_rate) = match place {
            Place::Gpu => (None, 0.0),
            Place::Layers => (None, 1.0 - resident_share),
            Place::Copied => misses.cached(resident_share),
            Place::NearData => misses.placed(resident_share),
        };
        Self { place, resident_share, miss_rate, strategy }
    }
}

/// Microseconds of a mean token, and of it those in which each part is busy; parts work beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Busy {
    /// The token.
    pub token_us: f64,
    /// The GPU, launches among it.
    pub gpu_us: f64,
    /// Of the GPU, launches of kernels.
    pub launches_us: f64,
    /// Of the GPU or the link, attention reading keys and values.
    pub attention_us: f64,
    /// Of the GPU, the output head with the choice of the next token.
    pub head_us: f64,
    /// The link.
    pub link_us: f64,
    /// The device or the host.
    pub near_us: f64,
}

/// A mean token after `context` others.
pub(super) fn busy(system: &System, model: &Model, context: u64, placed: &Placed) -> Busy {
    let attended = model.attended(context).round() as u64;
    let k = model.experts_per_token as usize;
    let mut mean = [0.0; 4];
    for (cold, often) in cold_counts(k, placed).into_iter().enumerate().filter(|(_, often)| *often > 0.0) {
        let (gpu, copied, near_data) = (
            vec![ExpertRun::at(system.gpu_bits); k - cold],
            vec![CopiedRun::at(system.gpu_bits); cold],
            vec![ExpertRun::at(system.ndp_bits); cold],
        );
        let work = LayerWork { tokens: 1, attended, gpu: &gpu, ..LayerWork::default() };
        let work = match placed.place {
            Place::Copied => LayerWork { copied: &copied, ..work },
            _ => LayerWork { near_data: &near_data, ..work },
        };
        let time = system.layer_time(model, &work);
        let parts = [time.total_ps, time.gpu_ps, time.link_ps, time.ndp_ps];
        mean.iter_mut().zip(parts).for_each(|(sum, part)| *sum += often * part as f64);
    }
    let outside = system.outside_layers(model, 1, attended);
    let layers = model.layers as f64;
    let us = |ps: f64| ps / 1e6;
    let launches = system.gpu().launches_ps(system.gpu().kernels_per_layer) as f64 * model.all_layers() as f64;
    let bare = |attended| system.layer_time(model, &LayerWork { attended, ..LayerWork::default() }).total_ps as f64;
    Busy {
        token_us: us(mean[0] * layers + outside.total_ps as f64),
        gpu_us: us(mean[1] * layers + outside.gpu_ps as f64),
        launches_us: us(launches),
        attention_us: us((bare(attended) - bare(0)) * model.all_layers() as f64),
        head_us: us(system.head(model, 1).total_ps as f64),
        link_us: us(mean[2] * layers + outside.link_ps as f64),
        near_us: us(mean[3] * layers),
    }
}

/// How often `0..=k` of a token's experts are cold in a layer: misses that do not depend on each other, or whole
/// layers.
fn cold_counts(k: usize, placed: &Placed) -> Vec<f64> {
    let miss = placed.miss_rate;
    let mut often = vec![0.0; k + 1];
    if placed.place == Place::Layers {
        (often[0], often[k]) = (1.0 - miss, miss);
        return often;
    }
    often[0] = 1.0;
    for done in 0..k {
        for cold in (0..=done).rev() {
            let here = often[cold];
            often[cold + 1] += here * miss;
            often[cold] = here * (1.0 - miss);
        }
    }
    often
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn placed(place: Place, miss_rate: f64) -> Placed {
        Placed { place, resident_share: 1.0 - miss_rate, miss_rate, strategy: None }
    }

    proptest! {
        #[test]
        fn counts_are_a_distribution_with_the_mean_of_the_misses(k in 1_usize..12, miss in 0.0f64..=1.0) {
            for place in [Place::Copied, Place::NearData, Place::Layers] {
                let often = cold_counts(k, &placed(place, miss));
                prop_assert!((often.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                let mean: f64 = often.iter().enumerate().map(|(cold, often)| cold as f64 * often).sum();
                prop_assert!((mean - k as f64 * miss).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn a_token_is_its_layers_and_what_is_outside() {
        let (system, model) = (System::find("ndp").unwrap(), Model::find("Qwen3-30B-A3B").unwrap());
        let found = busy(system, model, 4096, &placed(Place::Gpu, 0.0));
        let work = LayerWork { tokens: 1, attended: 4096, gpu: &[ExpertRun::at(16.0); 8], ..LayerWork::default() };
        let by_hand = system.layer_time(model, &work).total_ps * 48 + system.outside_layers(model, 1, 4096).total_ps;
        assert!((found.token_us - by_hand as f64 / 1e6).abs() < 1e-6);
        assert!((found.launches_us - 48.0 * 30.0 * 1.3).abs() < 1e-6);
        // 4,096 tokens of 2 KiB in 48 layers at 2,849 GB/s.
        assert!((found.attention_us / (4096.0 * 2048.0 * 48.0 / 2849.2e3) - 1.0).abs() < 0.01, "{found:?}");
        assert!((found.head_us - 222.3).abs() < 0.5, "{found:?}");
    }
}
