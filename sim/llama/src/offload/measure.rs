//! How long things take on this machine: a token with all experts there, and what an expert adds that has to be read.
//!
//! Both are measured on tokens that llama.cpp computes, with as many experts in memory as the run will have and others
//! of them in every token: the same ones again are computed faster, as the processor still has some of them, and a
//! drive that is read while nothing else happens says nothing of how readers and computing share processor and memory,
//! or of what it takes to fall asleep and wake.
//!
//! Both become a [`System`], so that the strategies that weigh times decide by these, and the engine predicts the time
//! of a token.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cptr_hw_model::{Model as Sizes, System};
use cptr_sim::replay::Budget;
use cptr_trace::error::{Error, Result};

use super::{Offload, Store};
use crate::ffi::{Context, Model, Node, Options, Tap};
use crate::moe::Moe;
use crate::steer::{Kind, Watch, kind};

/// Experts that are missing in each layer of a token; tokens of each kind take turns, so that what else the machine
/// does meets all of them.
const MISSING: [usize; 4] = [0, 1, 2, 4];
/// Tokens of each kind; the first warm up and are not counted.
const TOKENS: usize = 24;
const WARM: usize = 4;
/// Times that an expert is read alone.
const READS: usize = 8;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// A token, all experts there.
    pub(crate) token: Duration,
    /// An expert, read while nothing is computed.
    pub(crate) read: Duration,
    /// Bytes per second that are read while tokens wait for them, what the first expert of a layer takes to start left
    /// out.
    pub(crate) bytes_per_s: f64,
    /// What a layer with missing experts takes beside that.
    pub(crate) start: Duration,
}

/// Has experts run that are there, others in each layer of each token, and some that are not.
struct Drawn<'a> {
    moe: &'a Moe,
    offload: Offload,
    /// Those that are there.
    there: Vec<u16>,
    /// The others of each layer: those that were read last come last.
    others: Vec<VecDeque<u16>>,
    /// How many of these are in memory.
    stale: Vec<usize>,
    missing: usize,
    chosen: Vec<u16>,
    random: fastrand::Rng,
    error: Option<Error>,
}

impl Drawn<'_> {
    fn choose(&mut self, layer: usize, node: &mut Node<'_>) -> Result<()> {
        self.random.shuffle(&mut self.there);
        self.chosen.clear();
        let (others, stale) = (&mut self.others[layer], &mut self.stale[layer]);
        for _ in 0..self.missing {
            let Some(expert) = others.pop_front() else { break };
            self.chosen.push(expert);
        }
        // What goes makes room for what comes, as in a run.
        for _ in 0..(*stale).min(self.missing) {
            self.offload.store.evict(layer, others[others.len() - *stale]);
            *stale -= 1;
        }
        others.extend(&self.chosen);
        *stale += self.chosen.len();
        self.chosen.extend(&self.there[..self.moe.k - self.chosen.len()]);
        self.random.shuffle(&mut self.chosen);
        let ids: Vec<i32> = self.chosen.iter().map(|&id| id.into()).collect();
        node.write_i32(0, &ids);
        self.offload.demand(layer, &self.chosen);
        self.offload.begin()
    }
}

impl Tap for Drawn<'_> {
    fn wants(&mut self, node: &Node<'_>) -> bool {
        self.error.is_none()
            && if node.multiplies_experts() { self.offload.pauses() } else { kind(self.moe, node).is_some() }
    }

    fn see(&mut self, node: &mut Node<'_>) -> bool {
        let done = match kind(self.moe, node) {
            Some((Kind::Choice, layer)) => self.choose(layer, node),
            Some((Kind::Logits, _)) => Ok(()),
            None => self.offload.multiplied(),
        };
        self.error = done.err();
        self.error.is_none()
    }
}

/// Measures with so much memory for experts, and leaves it empty.
///
/// # Errors
/// Reads that fail; what llama.cpp refuses.
pub(crate) fn measure(
    model: &Model,
    moe: &Moe,
    store: &Arc<Store>,
    memory: Budget,
    threads: usize,
) -> Result<Measured> {
    let layers = moe.layers.len();
    store.clear()?;
    let mut random = fastrand::Rng::with_seed(1);
    let mut experts: Vec<u16> = (0..moe.experts as u16).collect();
    let mut read = Duration::ZERO;
    for _ in 0..READS {
        random.shuffle(&mut experts);
        read += load(store, random.usize(..layers), &experts[..1])?;
        store.clear()?;
    }
    let memory = match memory {
        Budget::Experts(experts) => experts,
        Budget::Bytes { bytes, .. } => (bytes / layers as u64 / moe.expert_bytes(0).max(1)) as usize,
    };
    // Those that are read must be others than those read the last time.
    let most = moe.k.min((moe.experts - moe.k) / 2);
    let kinds: Vec<usize> = MISSING.into_iter().filter(|missing| *missing <= most).collect();
    let room = kinds.last().map_or(0, |missing| 2 * missing);
    let there = memory.saturating_sub(room / 2).clamp(moe.k, moe.experts - room);
    let (held, others) = experts.split_at(there);
    for layer in 0..layers {
        load(store, layer, held)?;
    }
    let drawn = Drawn {
        moe,
        offload: Offload::new(store.clone(), layers),
        there: held.into(),
        others: vec![others.iter().copied().collect(); layers],
        stale: vec![0; layers],
        missing: 0,
        chosen: Vec::new(),
        random,
        error: None,
    };
    let options = Options { tokens: kinds.len() * TOKENS, batch: 1, sequences: 1, threads };
    let mut context = Context::new(model, options, drawn)?;
    let mut times = vec![Duration::ZERO; kinds.len()];
    for position in 0..kinds.len() * TOKENS {
        let kind = position % kinds.len();
        context.tap().missing = kinds[kind];
        let start = Instant::now();
        let done = context.decode(&[0], position);
        let time = start.elapsed();
        context.tap().error.take().map_or(done, Err)?;
        if position >= kinds.len() * WARM {
            times[kind] += time;
        }
    }
    drop(context);
    store.clear()?;
    // Means, not medians: what else the machine does meets the run as well.
    let times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() / (TOKENS - WARM) as f64).collect();
    let token = times[0];
    let read = read.as_secs_f64() / READS as f64;
    // A layer computes with the experts that are there while others are read, and with one of them behind that.
    let bytes = layer_bytes(moe);
    let run = token / layers as f64 * moe.expert_bytes(0) as f64 / bytes;
    let waits = times[1..].iter().map(|time| (time - token) / layers as f64 + (moe.k - 1) as f64 * run);
    let points: Vec<(f64, f64)> = kinds[1..].iter().map(|&missing| missing as f64).zip(waits).collect();
    let (start, each) = if points.is_empty() { (0.0, read) } else { line(&points) };
    Ok(Measured {
        token: Duration::from_secs_f64(token),
        read: Duration::from_secs_f64(read),
        bytes_per_s: moe.expert_bytes(0) as f64 / each,
        start: Duration::from_secs_f64(start),
    })
}

/// Start and slope of the line that comes nearest to pairs of a count and a time, neither below zero.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let (count, time) = points.iter().fold((0.0, 0.0), |(counts, times), (c, t)| (counts + c / n, times + t / n));
    let over: f64 = points.iter().map(|(c, t)| (c - count) * (t - time)).sum();
    let under: f64 = points.iter().map(|(c, _)| (c - count).powi(2)).sum();
    let slope = over / under.max(f64::MIN_POSITIVE);
    // Noise, or a single count: all of it for each.
    let through = (time / count.max(1.0)).max(1e-9);
    if slope > 0.0 && slope < through { (time - slope * count, slope) } else { (0.0, through) }
}

/// Bytes that a layer of a token reads.
fn layer_bytes(moe: &Moe) -> f64 {
    moe.dense_bytes as f64 / moe.layers.len() as f64 + moe.k as f64 * moe.expert_bytes(0) as f64
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

/// Bits per weight in which bytes are said to the engine.
const BITS: u64 = 16;

impl Measured {
    /// Sizes of the model as the engine takes them: an expert has its bytes in the file, and what else a token reads is
    /// shared equally by the layers.
    pub(crate) fn sizes(moe: &Moe) -> Sizes {
        let mut sizes = Sizes::new(&moe.name, 1, moe.expert_bytes(0) * 8 / BITS);
        sizes.expert_matrices = 1;
        sizes.attention_parameters = moe.dense_bytes * 8 / BITS / moe.layers.len() as u64;
        sizes
    }

    /// Bytes per second that a token is computed with, all experts there.
    pub(crate) fn computing(&self, moe: &Moe) -> f64 {
        layer_bytes(moe) * moe.layers.len() as f64 / self.token.as_secs_f64()
    }

    /// The same for machines.
    pub(crate) fn json(&self, moe: &Moe) -> serde_json::Value {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        serde_json::json!({
            "token_ms": ms(self.token), "read_ms": ms(self.read), "start_ms": ms(self.start),
            "gb_per_s": self.bytes_per_s / 1e9, "computing_gb_per_s": self.computing(moe) / 1e9,
        })
    }

    /// The machine.
    ///
    /// # Errors
    /// Times that no machine has.
    pub(crate) fn system(&self, moe: &Moe) -> Result<System> {
        // Of a token a processor of 1 TFLOP/s has this share: an operation for each byte at 16 bits. Its memory is so
        // fast that reads beside computing take nothing from it, as they hardly do.
        let computing = self.computing(moe) / 1e12;
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
memory_gb_s = 1000000.0
memory_share = 1.0
tflop_s = 1.0
compute_share = {:.9}
memory_pj_per_bit = 0.0
on_chip_pj_per_byte = 0.0
[link]
name = "from the drive, or from host memory"
gt_s = 16.0
lanes = 16
round_trip_ns = 0.0
credits = 128
bit_error_rate = 1e-12
copy_efficiency = {:.9}
copy_launch_ns = {:.3}
copies_yield = true
both_ways_to_gpu = 1.0
both_ways_from_gpu = 1.0
launch = "doorbell"
launch_ns = 0.0
pj_per_bit = 0.0
"#,
            computing.min(1.0),
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
        near(line(&[(1.0, 3.0), (2.0, 5.0), (4.0, 9.0)]), (1.0, 2.0));
        // Faster together than alone: no start can be told from that.
        near(line(&[(1.0, 4.0), (2.0, 4.0), (4.0, 3.0)]), (0.0, 11.0 / 7.0));
        near(line(&[(1.0, 2.0), (1.0, 2.0), (1.0, 2.0)]), (0.0, 2.0));
        near(line(&[(1.0, 2.0)]), (0.0, 2.0));
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
        let measured = Measured { token, read, bytes_per_s: 1e8, start: Duration::from_millis(1) };
        let (system, sizes) = (measured.system(&moe).unwrap(), Measured::sizes(&moe));
        let runs = [cptr_hw_model::ExpertRun::at(16.0); 2];
        let work = cptr_hw_model::LayerWork { tokens: 1, gpu: &runs, ..Default::default() };
        let layer = system.layer_time(&sizes, &work).total_ps as f64 / 1e9;
        assert!((layer - 5.0).abs() < 0.01, "{layer}");
        // What is read beside it takes nothing from it.
        let beside = cptr_hw_model::LayerWork { migrating: true, ..work };
        let layer = system.layer_time(&sizes, &beside).total_ps as f64 / 1e9;
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
