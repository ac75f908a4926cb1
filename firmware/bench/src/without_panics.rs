//! Recall, caches, leaders, placement, bits, changes, migration, shares and low-bit experts, and nothing else that
//! could panic, in sizes and with input that nobody knows: an image to be looked through, not to be run. `cargo
//! xtask firmware` looks for the core library's panics in it.
#![cfg_attr(target_os = "none", no_std, no_main)]

use core::hint::black_box;

use cptr_core::bits::{Losses, Split, scratch_for, split, split_globally};
use cptr_core::cache::{Cache, Config as CacheConfig, Layer, Memory, NOTHING, Shape as CacheShape, Step};
use cptr_core::context::{ChangeConfig, ChangeDetector, distance, trackers};
use cptr_core::expert::{ActivationGroup, Activations, Expert, Layout, Matrix, Scratch, matvec};
use cptr_core::lead::{Lead, LeadConfig};
use cptr_core::placement::{Candidate, Demand, hot_globally, hot_in_layer, importance, rank};
use cptr_core::recall::{Companions, Config, JointCalibration, Recall, Shape, Skill};
use cptr_core::replace::{Allowance, ReplaceConfig, swap};
use cptr_core::shares::{Share, Shares};
use cptr_core::{Angle, Eps, ExpertSet, Gain, Gate, Level, Logit, Router, ScaledLevels, Tracker};

const SHAPE: Shape = Shape { layers: 4, experts: 64, k: 4 };
const WORDS: usize = SHAPE.words(64, 8);
const SAVED: usize = Recall::<&mut [u32], 8, 32>::saved_words(SHAPE, 64);
const COMPANIONS: usize = Companions::<&mut [u32]>::words(SHAPE);

cptr_rt::entry!(image);

fn image() -> bool {
    let right = [all::<2>(), all::<4>(), all::<8>()];
    right == [true; 3] && beliefs() && cache() && leaders() && placement() && bits() && migration() && experts()
}

/// The first entries of a list, as many as nobody knows.
fn some<T>(all: &mut [T]) -> &mut [T] {
    let count = black_box(all.len());
    all.get_mut(..count).unwrap_or_default()
}

/// Everything with signatures of `32 * W` bits; whether nothing was refused.
#[inline(never)]
fn all<const W: usize>() -> bool {
    let (mut words, mut saved) = ([0; WORDS], [0; SAVED]);
    let (mut shares, mut sketch, ids) = ([Level::ZERO; 64], [0i16; 96], black_box([1, 2, 3, 4]));
    let (config, shape) = (black_box(Config::small()), black_box(SHAPE));
    let (tokens, length, count) = (black_box(64), black_box(96usize), black_box(4usize));
    let recall = Recall::<_, W, 32>::new(&config, shape, tokens, some(&mut words));
    let Ok(mut recall) = recall else { return false };
    let mut right = true;
    for turn in 0..black_box(100u16) {
        for layer in 0..black_box(4) {
            let ids = ids.get(..count).unwrap_or(&[]);
            right &= recall.observe_leading(&config, layer, ids).is_ok();
            recall.settle();
            right &= recall.observe(&config, layer + 1, ids).is_ok();
            right &= recall.forecast(layer, black_box(4), &mut shares[..]).is_ok();
        }
        sketch[0] = turn.cast_signed();
        let sketch = sketch.get(..length).unwrap_or(&[]);
        right &= recall.end_token(&config).is_ok() && recall.end_token_with(&config, sketch).is_ok();
    }
    black_box((recall.phase(), recall.lock(), recall.snr()));
    right &= recall.save(black_box(1), &mut saved[..]).is_ok();
    let saved = saved.get(..black_box(SAVED)).unwrap_or(&[]);
    right && recall.restore(&config, black_box(1), saved).is_ok()
}

#[inline(never)]
fn beliefs() -> bool {
    let (mut calibration, mut skill) = (JointCalibration::default(), Skill::new());
    let (share, other) = (Level::from_bits(black_box(7)), Level::from_bits(black_box(7)));
    calibration.learn(share, other, black_box(true));
    skill.learn(share, other);
    let mut words = [0; COMPANIONS];
    let Ok(mut companions) = Companions::new(black_box(SHAPE), some(&mut words)) else { return false };
    let (mut ids, mut shares) = ([1; 8], [Level::ZERO; 64]);
    let observed = companions.observe(black_box(0), some(&mut ids)).is_ok();
    let forecast = companions.forecast(some(&mut shares)).is_ok();
    black_box(calibration.confidence(share, other)) > black_box(skill.weight()) && observed && forecast
}

#[inline(never)]
fn cache() -> bool {
    const SHAPE: CacheShape = CacheShape { layers: 1, experts: 8, k: 2, slots: 4, tokens: 2, remembered: 64 };
    let (mut levels, mut shares) = ([ScaledLevels::ZERO; 8], [Level::ZERO; 8]);
    let (mut slots, mut places) = ([NOTHING; 4], [NOTHING; 8]);
    let mut layers = [Layer::new(some(&mut levels), some(&mut slots), some(&mut places), some(&mut shares))];
    let (mut recall, mut companions) = ([0; SHAPE.recall_words(2)], [0; SHAPE.companions_words()]);
    let (mut forecasts, mut logits, mut wanted) = ([Level::ZERO; 24], [Logit::ZERO; 8], [0; SHAPE.wanted()]);
    let memory = Memory {
        layers: some(&mut layers),
        recall: some(&mut recall),
        companions: some(&mut companions),
        wanted: some(&mut wanted),
        forecasts: some(&mut forecasts),
        logits: some(&mut logits),
    };
    let config = black_box(CacheConfig::default());
    let Ok(mut cache) = Cache::<2, 32>::new(&config, black_box(SHAPE), memory) else { return false };
    let (mut ids, mut slots, mut waves, mut saved) = ([0; 4], [0; 4], [0; 4], [0; 900]);
    let (ids, slots, waves) = (some(&mut ids), some(&mut slots), some(&mut waves));
    let mut step = Step { layer: black_box(0), tokens: black_box(2), ids, slots, waves };
    let row = |token: u16, logits: &mut [Logit]| logits.fill(Logit::from_bits(black_box(token).into()));
    let mut last = None;
    let right =
        cache.step(&config, &black_box(Router::softmax_all(2)), &mut step, row, |load| last = Some(load)).is_ok();
    black_box((cache.fetch(&config, |load| last = Some(load)), last));
    let (layer, expert) = (black_box(0), black_box(1));
    let there = cache.pin(layer, expert, black_box(true)).is_ok()
        | cache.loaded(layer, expert).is_ok()
        | cache.lost(layer, expert).is_ok();
    let saved = some(&mut saved);
    right & there && cache.save(black_box(1), saved).is_ok() && cache.restore(&config, black_box(1), saved).is_ok()
}

#[inline(never)]
fn leaders() -> bool {
    let config = LeadConfig::new(Gain::from_bits(black_box(1)), black_box(2), black_box(3));
    let mut lead = Lead::<3>::new(black_box(1));
    let leader = lead.learn(&config, &black_box([1, 2, 3]), black_box(9));
    lead.restart();
    leader == 0
}

#[inline(never)]
fn placement() -> bool {
    let (mut demand, mut ids, mut weights) = ([Demand::default(); 8], [1; 4], [Gate::ONE; 4]);
    let (mut values, mut order) = ([Gate::ZERO; 8], [0; 8]);
    let mut candidates = [Candidate { importance: Gate::ONE, layer: 0, expert: 0 }; 8];
    Demand::observe(some(&mut demand), some(&mut ids), some(&mut weights));
    importance(some(&mut demand), Eps::from_bits(black_box(9)), some(&mut values));
    rank(some(&mut values), some(&mut order));
    let (bytes, budget) = (black_box(9), black_box(99));
    hot_globally(some(&mut candidates), bytes, budget) == hot_in_layer(black_box(8), bytes, budget)
}

#[inline(never)]
fn bits() -> bool {
    let (mut losses, mut scratch, mut splits) =
        (black_box([Losses::default(); 8]), [0; scratch_for(8)], [Split::default(); 2]);
    let (losses, scratch) = (&*some(&mut losses), some(&mut scratch));
    let one = split(losses, black_box(9), scratch);
    let mut layers = [losses, losses];
    let both = split_globally(some(&mut layers), black_box(9), scratch, some(&mut splits));
    one.is_ok_and(|split| split.bits(black_box(3)) == Some(2) && split.increments() == 9) && both.is_ok()
}

#[inline(never)]
fn migration() -> bool {
    let (trackers, mut detector) = (trackers(), ChangeDetector::new());
    let mut tracker = Tracker::<[ScaledLevels; 8]>::new();
    let (mut ids, mut distances) = ([1; 4], [Angle::ZERO; 4]);
    for value in distances.iter_mut() {
        *value = distance(&tracker, some(&mut ids));
        tracker.update(&trackers, some(&mut ids));
    }
    let config = black_box(ChangeConfig::default());
    let changed = detector.step(&config, some(&mut distances)) | detector.settling(&config);
    let margin = black_box(ReplaceConfig { saving: 1, copy: 2, horizon_tokens: 3 }).margin();
    let (resident, busy) = (black_box(ExpertSet::<1>::new()), black_box(ExpertSet::<1>::new()));
    let swap = swap(tracker.levels().map(|levels| levels.slow), &resident, &busy, margin.unwrap_or(Level::ZERO));
    let mut allowance = Allowance::new(black_box(1), black_box(2));
    allowance.token();
    let mut parts = [Share::default(); 8];
    let mut shares = Shares::new(black_box(1), black_box(2), some(&mut parts));
    shares.step(|tenant| black_box(tenant) != 3);
    let richest = shares.richest(black_box(0)..black_box(8)).unwrap_or(0);
    let taken = shares.take(black_box(richest)) && shares.of(black_box(9)).is_some();
    changed && swap.is_some() && allowance.take() && taken
}

#[inline(never)]
fn experts() -> bool {
    let mut bytes = [0; 16 + 8 * 64];
    let layout = Layout::new(black_box(4), black_box(32), black_box(1), black_box(8), black_box(96));
    let Ok(layout) = layout else { return false };
    let (mut row_codes, mut scales, mut zeros) = ([0; 96], [0; 3], [0; 3]);
    let packed = layout.write(some(&mut bytes)).is_ok()
        && layout.pack_row(some(&mut row_codes), some(&mut scales), some(&mut zeros), some(&mut bytes)).is_ok();
    let Ok(matrix) = Matrix::new(some(&mut bytes)) else { return false };
    let (mut codes, mut groups, mut values) = ([0; 96], [ActivationGroup::default(); 3], black_box([7i32; 96]));
    let values = some(&mut values);
    let Ok(x) = Activations::quantise(values, black_box(1), &layout, some(&mut codes), some(&mut groups)) else {
        return false;
    };
    let (mut hidden, mut out, mut inner_codes, mut inner_groups) =
        ([0; 8], [0; 8], [0; 96], [ActivationGroup::default(); 3]);
    let product = matvec(&matrix, &x, some(&mut out)).is_ok();
    let weights = matrix.rows().flat_map(|row| row.weights()).fold(0, i32::wrapping_add);
    let values = x.values().fold(0, i32::wrapping_add);
    let Ok(expert) = Expert::new(matrix, matrix, matrix) else { return false };
    let scratch = Scratch { hidden: some(&mut hidden), codes: some(&mut inner_codes), groups: some(&mut inner_groups) };
    packed && product && black_box(weights) > black_box(values) && expert.forward(&x, scratch, some(&mut out)).is_ok()
}
