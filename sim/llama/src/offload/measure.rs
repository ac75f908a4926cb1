//! How long things take on this machine: computing a token with all experts there, and reading an expert.
//!
//! Both become a [`System`], so that the strategies that weigh times decide by these, and the engine predicts the time
//! of a token.

use std::time::{Duration, Instant};

use cptr_hw_model::{Model as Sizes, System};
use cptr_trace::error::{Error, Result};

use super::Store;
use crate::ffi::{Context, Model, Node, Options, Tap};
use crate::moe::Moe;
use crate::steer::{Kind, kind};

/// Tokens that are computed; the first warm up and are not counted.
const TOKENS: usize = 24;
const WARM: usize = 8;
/// Times that an expert, and several at a time, are read.
const READS: usize = 12;
/// Experts that are read at a time.
const TOGETHER: usize = 4;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// A token, all experts there.
    pub(crate) token: Duration,
    /// An expert, read alone.
    pub(crate) read: Duration,
    /// Bytes per second of several experts, what the first takes to start left out.
    pub(crate) bytes_per_s: f64,
    /// What a batch of reads takes to start.
    pub(crate) start: Duration,
}

/// Has the same experts run in every layer.
struct Fixed<'a> {
    moe: &'a Moe,
    ids: Vec<i32>,
}

impl Tap for Fixed<'_> {
    fn wants(&mut self, node: &Node<'_>) -> bool {
        kind(self.moe, node).is_some()
    }

    fn see(&mut self, node: &mut Node<'_>) -> bool {
        if let Some((Kind::Choice, _)) = kind(self.moe, node) {
            node.write_i32(0, &self.ids);
        }
        true
    }
}

/// Measures, and leaves memory empty.
///
/// # Errors
/// Reads that fail; what llama.cpp refuses.
pub(crate) fn measure(model: &Model, moe: &Moe, store: &Store, threads: usize) -> Result<Measured> {
    store.clear()?;
    let first: Vec<u16> = (0..moe.k as u16).collect();
    for layer in 0..moe.layers.len() {
        load(store, layer, &first)?;
    }
    let fixed = Fixed { moe, ids: first.iter().map(|&id| i32::from(id)).collect() };
    let options = Options { tokens: TOKENS, batch: 1, threads };
    let mut context = Context::new(model, options, fixed)?;
    let mut times = Vec::new();
    for position in 0..TOKENS {
        let start = Instant::now();
        context.decode(&[0], position)?;
        times.push(start.elapsed());
    }
    drop(context);
    let token = median(&mut times[WARM..]);
    store.clear()?;
    let (mut one, mut several) = (Vec::new(), Vec::new());
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..READS {
        let layer = random.usize(..moe.layers.len());
        let mut experts: Vec<u16> = (0..moe.experts as u16).collect();
        random.shuffle(&mut experts);
        let together = TOGETHER.min(moe.experts - 1).max(1);
        one.push(load(store, layer, &experts[..1])?);
        several.push(load(store, layer, &experts[1..][..together.min(experts.len() - 1)])?);
        store.clear()?;
    }
    let together = TOGETHER.min(moe.experts - 1).max(1) as f64;
    let (read, several) = (median(&mut one), median(&mut several));
    let bytes = moe.expert_bytes(0) as f64;
    // Where several at a time are as fast as one, what each adds is lost in the noise: the mean then.
    let each = ((several.as_secs_f64() - read.as_secs_f64()) / (together - 1.0).max(1.0))
        .clamp(several.as_secs_f64() / together / 2.0, read.as_secs_f64());
    let start = (read.as_secs_f64() - each).max(0.0);
    Ok(Measured { token, read, bytes_per_s: bytes / each, start: Duration::from_secs_f64(start) })
}

/// Reads experts of a layer and waits for them.
fn load(store: &Store, layer: usize, experts: &[u16]) -> Result<Duration> {
    let start = Instant::now();
    store.demand(layer, experts);
    for part in 0..store.parts(layer) {
        store.wait(layer, part, experts)?;
    }
    Ok(start.elapsed())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Bits per weight in which bytes are said to the engine.
const BITS: u64 = 16;

impl Measured {
    /// Sizes of the model as the engine takes them: an expert has its bytes in the file, and what else a token reads is
    /// shared equally by the layers.
    pub(crate) fn sizes(moe: &Moe) -> Sizes {
        let mut sizes = Sizes::new(&moe.name, 1, moe.expert_bytes(0) * 8 / BITS);
        sizes.expert_matrices = 1;
        sizes.dense_parameters = moe.dense_bytes * 8 / BITS / moe.layers.len() as u64;
        sizes
    }

    /// The machine.
    ///
    /// # Errors
    /// Times that no machine has.
    pub(crate) fn system(&self, moe: &Moe) -> Result<System> {
        let sizes = Self::sizes(moe);
        let layer = 2.0 * sizes.dense_parameters as f64 + moe.k as f64 * moe.expert_bytes(0) as f64;
        let memory_gb_s = layer * moe.layers.len() as f64 / self.token.as_secs_f64() / 1e9;
        // A link of 16 lanes of which this share is left: 16 GT/s, 128 of 130 bits.
        let share = self.bytes_per_s / 1e9 / (16.0 * 16.0 / 8.0 * 128.0 / 130.0);
        let text = format!(
            r#"
name = "measured"
summary = "this machine, as it was measured before the run"
cold = "gpu"
gpu_bits = {BITS}.0
source = "measured by cptr-llama"
[gpu]
name = "this machine's processor"
memory_gb = 1000000.0
memory_gb_s = {memory_gb_s:.6}
memory_share = 1.0
tflop_s = 1000000.0
compute_share = 1.0
memory_pj_per_bit = 0.0
on_chip_pj_per_byte = 0.0
[link]
name = "this machine's drive"
gt_s = 16.0
lanes = 16
round_trip_ns = 0.0
credits = 128
bit_error_rate = 1e-12
copy_efficiency = {:.9}
copy_launch_ns = {:.3}
both_ways_to_gpu = 1.0
both_ways_from_gpu = 1.0
launch = "doorbell"
launch_ns = 0.0
pj_per_bit = 0.0
"#,
            share.min(1.0),
            self.start.as_secs_f64() * 1e9
        );
        System::from_toml(&text).map_err(|error| Error::new(format!("measured times: {error}")))
    }
}
