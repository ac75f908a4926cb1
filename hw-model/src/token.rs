//! A whole token: the layers with routed experts, those without, and the output head.
//!
//! ```
//! use cptr_hw_model::{ExpertRun, LayerWork, Model, System};
//!
//! let system = System::find("ndp").ok_or("no such machine")?;
//! let model = Model::find("Qwen3-30B-A3B").ok_or("no such model")?;
//! // All eight experts in GPU memory, 4,096 tokens of context.
//! let (gpu, attended) = ([ExpertRun::at(16.0); 8], 4096);
//! let layer = system.layer_time(model, &LayerWork { tokens: 1, attended, gpu: &gpu, ..LayerWork::default() });
//! let head = system.outside_layers(model, 1, attended);
//! let token_ps = model.layers * layer.total_ps + head.total_ps;
//! // The output head alone takes 218 us: 151,936 x 2,048 weights of 16 bits at 85 % of 3,352 GB/s.
//! assert!((head.total_ps as f64 / 1e6 - 218.4 - 3.0 * 1.3).abs() < 0.1);
//! assert!(token_ps > 4 * head.total_ps);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::layer::LayerTime;
use crate::model::Model;
use crate::system::System;
use crate::work::{ExpertRun, LayerWork};

/// Kernels outside the layers: the embedding's row, the last norm with the head, the choice of the next token.
const HEAD_KERNELS: u32 = 3;

impl System {
    /// What a step takes outside the layers with routed experts, for `tokens` sequences: layers without them (attention
    /// over `attended` tokens of all sequences, and a feed-forward network), and the output head. A model of which no
    /// head is known has none.
    ///
    /// All of it is the GPU's, but for keys and values behind the link. Energy as [`System::layer_time`].
    #[must_use]
    pub fn outside_layers(&self, model: &Model, tokens: u32, attended: u64) -> LayerTime {
        // A layer without routed experts is one whose dense part is larger.
        let dense =
            Model { attention_parameters: model.dense_layer_parameters(), shared_parameters: 0, ..model.clone() };
        let layer = self.layer_time(&dense, &LayerWork { tokens, attended, ..LayerWork::default() });
        let times = |ps: u64| ps.saturating_mul(model.dense_layers);
        let head = self.head(model, tokens);
        let mut energy = head.energy;
        (0..model.dense_layers).for_each(|_| energy += layer.energy);
        LayerTime {
            total_ps: times(layer.total_ps).saturating_add(head.total_ps),
            gpu_ps: times(layer.gpu_ps).saturating_add(head.gpu_ps),
            link_ps: times(layer.link_ps),
            energy,
            ..LayerTime::default()
        }
    }

    /// Embedding, last norm, output head and the choice of the next token, of `tokens` sequences.
    #[must_use]
    pub fn head(&self, model: &Model, tokens: u32) -> LayerTime {
        let parameters = model.head_parameters();
        if parameters == 0 {
            return LayerTime::default();
        }
        let kernel_ps = self.kernel_ps(parameters, ExpertRun { bits: self.dense_bits, tokens: tokens.max(1) });
        let total_ps = (kernel_ps.round() as u64).saturating_add(self.gpu().launches_ps(HEAD_KERNELS));
        let energy = self.weights_energy(parameters as f64 * self.dense_bits / 8.0);
        LayerTime { total_ps, gpu_ps: total_ps, energy, ..LayerTime::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Head, keys and values, and launches of a token, by hand; all of the dense part is bound by memory.
    #[test]
    fn a_token_of_qwen_by_hand() {
        let (system, model) = (System::find("ndp").unwrap(), Model::find("Qwen3-30B-A3B").unwrap());
        let microseconds = |bytes: f64| bytes / (3352.0e9 * 0.85) * 1e6;
        let close = |found_ps: u64, by_hand_us: f64| {
            assert!((found_ps as f64 / 1e6 / by_hand_us - 1.0).abs() < 0.01, "{found_ps} {by_hand_us}");
        };
        // 151,936 rows of 2,048 weights, two bytes each, and three launches of 1.3 us.
        close(system.outside_layers(model, 1, 0).total_ps, microseconds(622_329_856.0) + 3.9);
        let layer = |attended| system.layer_time(model, &LayerWork { attended, ..LayerWork::default() }).total_ps;
        // Queries and output of 32 heads of 128, keys and values of 4: 18.87 M weights, and thirty launches.
        close(layer(0), microseconds(37_748_736.0) + 39.0);
        // 4 heads of 128, keys and values, two bytes each, of 32,768 tokens: 67.1 MB a layer.
        close(layer(32_768) - layer(0), microseconds(67_108_864.0));
        // Half of them behind a link of 24.8 GB/s: the link is the slower side.
        let mut far = system.clone();
        far.kv_far_share = 0.5;
        let attended = LayerWork { attended: 32_768, ..LayerWork::default() };
        close(far.layer_time(model, &attended).total_ps - layer(0), 33_554_432.0 / 24.8e9 * 1e6);
    }

    #[test]
    fn layers_without_routed_experts_are_outside() {
        let (system, model) = (System::find("offload").unwrap(), Model::find("DeepSeek-V3").unwrap());
        let without = Model { dense_layers: 0, dense_inner: 0, ..model.clone() };
        let difference = system.outside_layers(model, 1, 0).gpu_ps - system.outside_layers(&without, 1, 0).gpu_ps;
        // Three layers of 187.1 M weights of attention and 3 x 7,168 x 18,432 of the network.
        let by_hand_us = 3.0 * ((187_105_280.0 + 396_361_728.0) * 2.0 / (3352.0e9 * 0.85) * 1e6 + 39.0);
        assert!((difference as f64 / 1e6 / by_hand_us - 1.0).abs() < 0.01, "{difference} {by_hand_us}");
        let little = Model::new("little is known", 512, 128);
        assert_eq!(system.outside_layers(&little, 1, 1000), LayerTime::default());
        // A batch reads the weights once.
        let energy = |tokens| system.outside_layers(model, tokens, 0).energy;
        assert_eq!(energy(1), energy(8));
    }
}
