//! How long things take on this machine: computing a token with all experts there, and reading an expert.
//!
//! Both become a [`System`], so that the strategies that weigh times decide by these, and the engine predicts the time
//! of a token.

use std::time::{Duration, Instant};

use cptr_hw_model::{Model as Sizes, System};
use cptr_sim::replay::Budget;
use cptr_trace::error::{Error, Result};

use super::Store;
use crate::ffi::{Context, Model, Node, Options, Tap};
use crate::moe::Moe;
use crate::steer::{Kind, kind};

/// Tokens that are computed while nothing is read, and as many while the drive is busy; the first of each warm up and
/// are not counted.
const TOKENS: usize = 24;
const WARM: usize = 8;
/// Times that an expert, and several at a time, are read.
const READS: usize = 16;
/// Experts that are read at a time.
const TOGETHER: [usize; 3] = [1, 2, 4];

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// A token, all experts there. Each runs others than the one before, as in a run: what the processor still has of
    /// the last token's experts is of little use.
    pub(crate) token: Duration,
    /// The same while experts are read that it does not wait for.
    pub(crate) beside: Duration,
    /// Bytes that were read meanwhile.
    pub(crate) beside_bytes: f64,
    /// An expert, read alone.
    pub(crate) read: Duration,
    /// Bytes per second of several experts, what the first takes to start left out.
    pub(crate) bytes_per_s: f64,
    /// What a batch of reads takes to start.
    pub(crate) start: Duration,
}

/// Has experts run that are there, others in each layer of each token.
struct Drawn<'a> {
    moe: &'a Moe,
    /// Those that are there, and of them those that run.
    there: Vec<i32>,
    random: fastrand::Rng,
}

impl Tap for Drawn<'_> {
    fn wants(&mut self, node: &Node<'_>) -> bool {
        kind(self.moe, node).is_some()
    }

    fn see(&mut self, node: &mut Node<'_>) -> bool {
        if let Some((Kind::Choice, _)) = kind(self.moe, node) {
            self.random.shuffle(&mut self.there);
            node.write_i32(0, &self.there[..self.moe.k]);
        }
        true
    }
}

/// Measures with so many experts of each layer in memory, and leaves it empty.
///
/// # Errors
/// Reads that fail; what llama.cpp refuses.
pub(crate) fn measure(model: &Model, moe: &Moe, store: &Store, memory: Budget, threads: usize) -> Result<Measured> {
    store.clear()?;
    let there = match memory {
        Budget::Experts(experts) => experts,
        Budget::Bytes { bytes, .. } => (bytes / moe.layers.len() as u64 / moe.expert_bytes(0).max(1)) as usize,
    };
    let there = there.clamp(moe.k, moe.experts);
    let experts: Vec<u16> = (0..moe.experts as u16).collect();
    let (held, others) = experts.split_at(there);
    for layer in 0..moe.layers.len() {
        load(store, layer, held)?;
    }
    let drawn = Drawn { moe, there: (0..there as i32).collect(), random: fastrand::Rng::with_seed(2) };
    let options = Options { tokens: 2 * TOKENS, batch: 1, threads };
    let mut context = Context::new(model, options, drawn)?;
    let (mut alone, mut beside, mut beside_bytes) = (Vec::new(), Vec::new(), 0);
    for position in 0..2 * TOKENS {
        // In turns, so that what else the machine does meets both.
        let reads = position % 2 == 1;
        let asked = if reads { &others[..others.len().min(moe.k)] } else { &[] };
        for layer in 0..moe.layers.len() {
            asked.iter().for_each(|&expert| store.fetch(layer, expert));
        }
        let before = store.traffic().bytes;
        let start = Instant::now();
        context.decode(&[0], position)?;
        let time = start.elapsed();
        if position >= 2 * WARM {
            if reads { &mut beside } else { &mut alone }.push(time);
            beside_bytes += store.traffic().bytes - before;
        }
        for layer in 0..moe.layers.len() {
            asked.iter().for_each(|&expert| store.evict(layer, expert));
        }
        store.settle()?;
    }
    drop(context);
    let (token, beside) = (mean(&alone), mean(&beside));
    let beside_bytes = beside_bytes as f64 / (TOKENS - WARM) as f64;
    // Means, not medians: what else the machine does meets the run as well.
    let mut read = [Duration::ZERO; TOGETHER.len()];
    let mut random = fastrand::Rng::with_seed(1);
    let mut experts: Vec<u16> = (0..moe.experts as u16).collect();
    for _ in 0..READS {
        for (time, together) in read.iter_mut().zip(TOGETHER) {
            random.shuffle(&mut experts);
            store.clear()?;
            *time += load(store, random.usize(..moe.layers.len()), &experts[..together.min(experts.len())])?;
        }
    }
    store.clear()?;
    let times = read.map(|time| time.as_secs_f64() / READS as f64);
    let (start, each) = line(TOGETHER.map(|together| together.min(experts.len()) as f64), times);
    let bytes_per_s = moe.expert_bytes(0) as f64 / each;
    let (read, start) = (Duration::from_secs_f64(times[0]), Duration::from_secs_f64(start));
    Ok(Measured { token, beside, beside_bytes, read, bytes_per_s, start })
}

/// Start and slope of the line that comes nearest to times, neither below zero.
fn line<const N: usize>(counts: [f64; N], times: [f64; N]) -> (f64, f64) {
    let n = N as f64;
    let (count, time) = (counts.iter().sum::<f64>() / n, times.iter().sum::<f64>() / n);
    let over: f64 = counts.iter().zip(&times).map(|(c, t)| (c - count) * (t - time)).sum();
    let under: f64 = counts.iter().map(|c| (c - count).powi(2)).sum();
    let slope = over / under.max(f64::MIN_POSITIVE);
    // Noise, or a single count: all of it for each.
    let through = time / count.max(1.0);
    if slope > 0.0 && slope < through { (time - slope * count, slope) } else { (0.0, through) }
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

fn mean(times: &[Duration]) -> Duration {
    times.iter().sum::<Duration>() / times.len().max(1) as u32
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let near = |found: (f64, f64), expected: (f64, f64)| {
            assert!((found.0 - expected.0).abs() < 1e-12 && (found.1 - expected.1).abs() < 1e-12, "{found:?}");
        };
        near(line([1.0, 2.0, 4.0], [3.0, 5.0, 9.0]), (1.0, 2.0));
        // Faster together than alone: no start can be told from that.
        near(line([1.0, 2.0, 4.0], [4.0, 4.0, 3.0]), (0.0, 11.0 / 7.0));
        near(line([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]), (0.0, 2.0));
    }

    /// The machine gives back the times that it was made of.
    #[test]
    fn a_machine_of_measured_times() {
        let moe = Moe {
            name: "m".into(),
            architecture: "a".into(),
            layers: vec![0, 1],
            experts: 4,
            k: 2,
            hidden: 64,
            inner: 32,
            router: cptr_trace::Router::SOFTMAX_ALL,
            bias: Vec::new(),
            matrices: vec![(0, info()), (1, info())],
            dense_bytes: 800_000,
        };
        let (token, read) = (Duration::from_millis(10), Duration::from_millis(3));
        let measured = Measured { token, beside: token, beside_bytes: 0.0, read, bytes_per_s: 1e8, start: Duration::from_millis(1) };
        let (system, sizes) = (measured.system(&moe).unwrap(), Measured::sizes(&moe));
        let runs = [cptr_hw_model::ExpertRun::at(16.0); 2];
        let work = cptr_hw_model::LayerWork { tokens: 1, gpu: &runs, ..Default::default() };
        let layer = system.layer_time(&sizes, &work).total_ps as f64 / 1e9;
        assert!((layer - 5.0).abs() < 0.01, "{layer}");
        // 100 kB at 100 MB/s behind its start.
        let copy = system.link().copy_ps(sizes.expert_bytes(16.0)) as f64 / 1e9;
        assert!((copy - 2.0).abs() < 0.01, "{copy}");
    }

    fn info() -> crate::ffi::Info {
        let name = "blk.0.ffn_up_exps.weight".into();
        crate::ffi::Info { name, offset: 0, bytes: 400_000, sizes: [1; 4], kind: "f32".into() }
    }
}
