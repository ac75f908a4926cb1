//! How long the filter takes for a token in a layer, per expert, and how long a trace takes to read.
//!
//! `cargo bench -p cptr-tests` measures; with `-- --test` each runs once.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::path::Path;

use cptr_core::bits::{self, Losses, Split, scratch_for};
use cptr_core::placement::{Demand, hot_in_layer, importance, rank};
use cptr_core::{Eps, ExpertSet, Gate, Logit, Router, ScaledLevels, Tracker, TrackerConfig, select, words_for};
use cptr_trace::import::{self, Options};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Experts per token of the measured routers.
const K: usize = 8;
/// Different tokens that a measurement goes round, so that branches are not learnt by heart.
const TOKENS: usize = 1024;
/// Experts of the largest layer.
const MOST: usize = 256;

/// Scores of a layer, token by token: a slow context and noise, in the spread of real routers.
struct Layer {
    logits: Vec<Vec<Logit>>,
    wanted: Vec<Vec<u16>>,
    /// The experts that the last tokens wanted, a quarter of all.
    resident: Vec<ExpertSet<{ words_for(MOST) }>>,
}

impl Layer {
    fn new(experts: usize) -> Self {
        let router = Router::softmax_selected(K);
        let mut bits = 1_u64;
        let mut noise = || {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (bits >> 40) as f64 / f64::from(1 << 23) - 1.0
        };
        let mut context = vec![0.0; experts];
        let mut layer = Self { logits: Vec::new(), wanted: Vec::new(), resident: Vec::new() };
        let mut recent: Vec<u16> = Vec::new();
        for _ in 0..TOKENS {
            context.iter_mut().for_each(|level| *level = 0.95 * *level + 0.3 * noise());
            let logits: Vec<Logit> = context.iter().map(|level| Logit::from_num(level + 1.5 * noise())).collect();
            let mut resident = ExpertSet::new();
            recent.iter().for_each(|&expert| {
                resident.insert(expert);
            });
            let wanted = router.top_k::<K>(&logits).expect("as many experts as it wants").to_vec();
            recent.retain(|expert| !wanted.contains(expert));
            recent.extend(&wanted);
            recent.drain(..recent.len().saturating_sub(experts / 4));
            layer.logits.push(logits);
            layer.wanted.push(wanted);
            layer.resident.push(resident);
        }
        layer
    }
}

fn per_expert<const E: usize>(criterion: &mut Criterion) {
    let layer = Layer::new(E);
    let router = Router::softmax_selected(K);
    let turns = || (0..TOKENS).cycle();
    let mut group = criterion.benchmark_group("core");
    group.throughput(Throughput::Elements(E as u64));
    group.bench_function(BenchmarkId::new("top_k", E), |bencher| {
        let mut turns = turns();
        bencher.iter(|| turns.next().map(|t| router.top_k::<K>(black_box(&layer.logits[t]))));
    });
    group.bench_function(BenchmarkId::new("select", E), |bencher| {
        let (mut turns, eps) = (turns(), Eps::from_num(0.04));
        bencher.iter(|| {
            let t = turns.next().unwrap_or(0);
            select::<K>(&router, eps, 1, black_box(&layer.logits[t]), &layer.wanted[t], &layer.resident[t])
        });
    });
    group.bench_function(BenchmarkId::new("update", E), |bencher| {
        let (mut turns, config) = (turns(), TrackerConfig::default());
        let mut tracker = Tracker::<[ScaledLevels; E]>::new();
        bencher.iter(|| turns.next().map(|t| tracker.update(&config, black_box(&layer.wanted[t]))));
    });
    group.finish();
}

fn core(criterion: &mut Criterion) {
    per_expert::<32>(criterion);
    per_expert::<64>(criterion);
    per_expert::<128>(criterion);
    per_expert::<256>(criterion);
}

fn traces(criterion: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/data");
    let mut group = criterion.benchmark_group("import");
    for name in ["tiny-moe-8m", "gpt-oss-20b"] {
        let path = folder.join(name).with_extension("safetensors");
        let bytes = std::fs::metadata(&path).expect("it comes with the program").len();
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(name, |bencher| {
            bencher.iter(|| import::read(&path, &Options::default()).expect("a valid trace"));
        });
    }
    group.finish();
}

/// Placement and bits of a whole model after prefill: 58 layers of 256 experts, a quarter hot, cold ones at 2 and 3
/// bits on average.
fn placement(criterion: &mut Criterion) {
    const LAYERS: usize = 58;
    let mut bits = 7_u64;
    let mut random = || {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (bits >> 40) as u32
    };
    let demand: Vec<Vec<Demand>> =
        (0..LAYERS).map(|_| (0..MOST).map(|_| Demand::new(random() >> 10, random().into())).collect()).collect();
    let losses: Vec<Vec<Losses>> = (0..LAYERS)
        .map(|_| (0..MOST).map(|_| [0, 2, 4, 6].map(|shift| (random() >> shift) as i32)).collect::<Vec<Losses>>())
        .map(|layer| {
            layer
                .into_iter()
                .map(|mut l| {
                    l.sort_unstable_by(|a, b| b.cmp(a));
                    l
                })
                .collect()
        })
        .collect();
    let mut group = criterion.benchmark_group("placement");
    for average in [2_u32, 3] {
        group.bench_function(BenchmarkId::new("58x256", average), |bencher| {
            let (mut order, mut values) = ([0_u16; MOST], [Gate::ZERO; MOST]);
            let mut cold = [[0; bits::MAX_BITS]; MOST];
            let mut scratch = [0; scratch_for(MOST)];
            bencher.iter(|| {
                let mut found = Split::default();
                for (demand, losses) in demand.iter().zip(&losses) {
                    importance(black_box(demand), Eps::from_num(0.5), &mut values);
                    rank(&values, &mut order);
                    let hot = hot_in_layer(MOST, 1, MOST as u64 / 4);
                    let rest = &order[hot..];
                    for (slot, &expert) in cold.iter_mut().zip(rest) {
                        *slot = losses[usize::from(expert)];
                    }
                    let increments = rest.len() as u32 * (average - 1);
                    found = bits::split(&cold[..rest.len()], increments, &mut scratch).expect("losses fall");
                }
                found
            });
        });
    }
    group.finish();
}

criterion_group!(benches, core, placement, traces);
criterion_main!(benches);
