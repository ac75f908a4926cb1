//! Every function as C calls it, from Rust, so that Miri sees each access (`cargo xtask miri`): exact buffers, outputs
//! that nobody has initialised, states in memory that held something else; and pointers that must not be followed.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::{null, null_mut};
use std::vec;
use std::vec::Vec;

use crate::bits::*;
use crate::cache::*;
use crate::change::*;
use crate::dispatch::*;
use crate::expert::*;
use crate::migration::*;
use crate::placement::*;
use crate::router::*;
use crate::tracker::*;
use crate::*;

const EXPERTS: usize = 40;
const K: usize = 4;
const WORDS: usize = EXPERTS.div_ceil(32);
/// A pointer that is not null, not aligned to anything, and leads nowhere.
fn astray<T>() -> *mut T {
    core::ptr::without_provenance_mut(1)
}

/// Memory of exactly `bytes` bytes, aligned to [`CPTR_ALIGN`], full of something.
fn memory(bytes: usize) -> Vec<u64> {
    assert_eq!(bytes % 8, 0);
    vec![0xA5A5_A5A5_5A5A_5A5A; bytes / 8]
}

fn address(memory: &mut [u64]) -> *mut u8 {
    memory.as_mut_ptr().cast()
}

/// A seeded sequence.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    fn scores(&mut self) -> Vec<i32> {
        (0..EXPERTS).map(|_| (self.next() % (1 << 18)) as i32 - (1 << 17)).collect()
    }
}

fn router(kind: u32) -> CptrRouter {
    // SAFETY: all of its fields are numbers and pointers that may be null.
    CptrRouter { kind, k: K as u32, ..unsafe { MaybeUninit::zeroed().assume_init() } }
}

/// A tracker and its configuration.
fn tracker() -> (Vec<u64>, Vec<u64>) {
    let (mut config, mut state) = (memory(CPTR_CONFIG_SIZE), memory(CPTR_TRACKER_BASE + 8 * EXPERTS));
    // SAFETY: the memory is as long as said.
    unsafe {
        assert_eq!(
            cptr_tracker_update(address(&mut state), address(&mut config), null(), 0, null_mut()),
            CPTR_ERROR_STATE
        );
        assert_eq!(cptr_config_init(address(&mut config), CPTR_CONFIG_SIZE, CPTR_VERSION, null()), CPTR_OK);
        let size = CPTR_TRACKER_BASE + 8 * EXPERTS;
        assert_eq!(cptr_tracker_init(address(&mut state), size - 1, EXPERTS), CPTR_ERROR_SIZE);
        assert_eq!(cptr_tracker_init(address(&mut state), size, EXPERTS), CPTR_OK);
    }
    (config, state)
}

#[test]
fn tokens_through_router_selection_dispatch_and_tracker() {
    assert_eq!(cptr_version(), CPTR_VERSION);
    assert_eq!(cptr_features(), 511);
    assert!(cptr_half_life(44) > 0);
    let (mut config, mut state) = tracker();
    let mut random = Random(1);
    let mut resident = [0_u32; WORDS];
    let bits = [2_u8; EXPERTS];
    let jobs = 2 * K;
    let mut queue = memory(CPTR_QUEUE_BASE + 24 * jobs);
    let (bias, scale) = ([7_i32; EXPERTS], [1_u32 << 24; EXPERTS]);
    // SAFETY: lists and states are as long as said, outputs as long as documented.
    unsafe {
        assert_eq!(cptr_queue_init(address(&mut queue), CPTR_QUEUE_BASE + 24 * jobs, jobs), CPTR_OK);
        for token in 0..if cfg!(miri) { 4 } else { 500 } {
            let mut router = router(CPTR_ROUTER_SOFTMAX_SELECTED);
            if token % 2 == 1 {
                (router.bias, router.bias_count) = (bias.as_ptr(), EXPERTS);
                (router.expert_scale, router.expert_scale_count) = (scale.as_ptr(), EXPERTS);
            }
            let scores = random.scores();
            let scores = scores.as_ptr();
            let (mut wanted, mut chosen) =
                ([const { MaybeUninit::<u16>::uninit() }; K], [const { MaybeUninit::<u16>::uninit() }; K]);
            let (wanted, chosen) = (wanted.as_mut_ptr().cast::<u16>(), chosen.as_mut_ptr().cast::<u16>());
            assert_eq!(cptr_router_top_k(&router, scores, EXPERTS, wanted, K), CPTR_OK);
            let mut swapped = MaybeUninit::<u32>::uninit();
            let set = resident.as_ptr();
            let status =
                cptr_select(&router, 1 << 28, 1, scores, EXPERTS, wanted, K, set, WORDS, chosen, swapped.as_mut_ptr());
            assert!(status >= 0 && swapped.assume_init() <= K as u32);
            let mut weights = [const { MaybeUninit::<u32>::uninit() }; K];
            let weights = weights.as_mut_ptr().cast::<u32>();
            assert!(cptr_router_weights(&router, scores, EXPERTS, chosen, K, weights) >= 0);
            let mut scaled = MaybeUninit::<u32>::uninit();
            assert!(cptr_router_scaled(&router, *chosen, *weights, scaled.as_mut_ptr()) >= 0);
            let mut gpu = [const { MaybeUninit::<u16>::uninit() }; K];
            let mut near = [const { MaybeUninit::<CptrNearRun>::uninit() }; K];
            let (mut on_gpu, mut near_count) = (0, 0);
            let runs = near.as_mut_ptr().cast::<CptrNearRun>();
            let gpu = gpu.as_mut_ptr().cast();
            let of = bits.as_ptr();
            let status = cptr_dispatch(chosen, K, set, WORDS, of, EXPERTS, gpu, &mut on_gpu, runs, &mut near_count);
            assert!(status >= 0 && on_gpu + near_count == K as u32);
            let job = |run: &CptrNearRun| CptrJob {
                token,
                layer: 0,
                expert: run.expert,
                bits: run.bits,
                rank: run.rank as u8,
                weight: *weights.add(usize::from(run.rank)),
                activation: 0,
                result: 0,
            };
            let sent: Vec<CptrJob> = (0..near_count as usize).map(|run| job(&*runs.add(run))).collect();
            let mut running = 0_u32;
            let units = CptrUnits { context: (&raw mut running).cast(), submit: Some(submit), poll: Some(poll) };
            while cptr_queue_push(address(&mut queue), sent.as_ptr(), sent.len()) == CPTR_ERROR_FULL {
                let mut finished = MaybeUninit::uninit();
                assert!(cptr_queue_advance(address(&mut queue), &units, finished.as_mut_ptr()) >= 0);
            }
            let mut waiting = MaybeUninit::uninit();
            assert!(cptr_queue_outstanding(address(&mut queue), waiting.as_mut_ptr()) >= 0);
            for rank in 0..K {
                let expert = usize::from(*chosen.add(rank));
                if resident[expert / 32] >> (expert % 32) & 1 == 0 {
                    if resident.iter().map(|word| word.count_ones()).sum::<u32>() == 16 {
                        let mut victim = MaybeUninit::<u16>::uninit();
                        let tracker = address(&mut state);
                        let status =
                            cptr_tracker_victim(tracker, resident.as_ptr(), WORDS, chosen, K, victim.as_mut_ptr());
                        assert_eq!(status, CPTR_OK);
                        let victim = usize::from(victim.assume_init());
                        resident[victim / 32] &= !(1 << (victim % 32));
                    }
                    resident[expert / 32] |= 1 << (expert % 32);
                }
            }
            let mut step = MaybeUninit::<CptrStep>::uninit();
            let status = cptr_tracker_update(address(&mut state), address(&mut config), wanted, K, step.as_mut_ptr());
            assert!(status >= 0 && step.assume_init().lock <= 2);
        }
        let (mut slow, mut fast) = (MaybeUninit::<u32>::uninit(), MaybeUninit::<u32>::uninit());
        assert!(cptr_tracker_level(address(&mut state), 3, slow.as_mut_ptr(), fast.as_mut_ptr()) >= 0);
        let (slow, fast) = (slow.as_mut_ptr(), fast.as_mut_ptr());
        assert_eq!(cptr_tracker_level(address(&mut state), EXPERTS as u16, slow, fast), CPTR_ERROR_RANGE);
        assert_eq!(cptr_queue_clear(address(&mut queue)), CPTR_OK);
    }
}

/// Two units.
unsafe extern "C" fn submit(context: *mut c_void, job: *const CptrJob) -> i32 {
    // SAFETY: as `units` has it, and a job that is there.
    let (running, job) = unsafe { (&mut *context.cast::<u32>(), &*job) };
    assert!(usize::from(job.expert) < EXPERTS);
    *running += 1;
    i32::from(*running <= 2)
}

unsafe extern "C" fn poll(context: *mut c_void) -> i32 {
    // SAFETY: as `units` has it.
    let running = unsafe { &mut *context.cast::<u32>() };
    let done = *running > 0;
    *running = 0;
    i32::from(done)
}

#[test]
fn placement() {
    let mut demand: Vec<_> = (0..EXPERTS).map(|_| CptrDemand { sums: 0 }).collect();
    let chosen = [1_u16, 5, 9];
    let weights = [1 << 30, 1 << 29, 1 << 28];
    let mut importance = [const { MaybeUninit::<u32>::uninit() }; EXPERTS];
    let mut order = [const { MaybeUninit::<u16>::uninit() }; EXPERTS];
    let (mut set, mut hot) = ([u32::MAX; WORDS], MaybeUninit::<u32>::uninit());
    let mut candidates: Vec<CptrCandidate> =
        (0..60).map(|i| CptrCandidate { importance: i * 7 % 11, layer: (i % 3) as u16, expert: i as u16 }).collect();
    // SAFETY: lists are as long as said.
    unsafe {
        assert!(cptr_demand_observe(demand.as_mut_ptr(), EXPERTS, chosen.as_ptr(), 3, weights.as_ptr()) >= 0);
        let importance = importance.as_mut_ptr().cast::<u32>();
        assert!(cptr_demand_importance(demand.as_ptr(), EXPERTS, 1 << 31, importance) >= 0);
        let order = order.as_mut_ptr().cast();
        let set_words = set.as_mut_ptr();
        let status = cptr_place_layer(importance, EXPERTS, 10, 35, order, set_words, WORDS, hot.as_mut_ptr());
        assert!(status >= 0 && hot.assume_init() == 3, "{status}");
        let mut hot = MaybeUninit::<usize>::uninit();
        assert!(cptr_place_layers(candidates.as_mut_ptr(), 60, 10, 95, hot.as_mut_ptr()) >= 0);
        assert_eq!(hot.assume_init(), 9);
    }
    assert_eq!(set.iter().map(|word| word.count_ones()).sum::<u32>(), 3);
}

#[test]
fn low_bit_experts_and_their_bits() {
    let mut random = Random(9);
    let (columns, hidden, outputs) = (96, 9, 5);
    let mut packed = |bits: u8, rows: u8, columns: u8, length: usize| -> Vec<u8> {
        let header = [b'C', b'P', b'L', b'B', 1, bits, 32, 234, rows, 0, 0, 0, columns, 0, 0, 0];
        header.into_iter().chain((16..length).map(|_| random.next() as u8)).collect()
    };
    let [gate, up] = [(); 2].map(|()| packed(4, hidden, columns, 16 + 9 * 60));
    let down = packed(2, outputs, hidden, 16 + 5 * 12);
    let of = |bytes: &[u8]| CptrMatrix { bytes: bytes.as_ptr(), length: bytes.len() };
    let expert = CptrExpert { gate: of(&gate), up: of(&up), down: of(&down) };
    let x: Vec<i32> = (0..96).map(|i| (i - 48) * 1000).collect();
    let vector = CptrVector { values: x.as_ptr(), count: x.len(), exponent: -16 };
    let scratch_bytes = 8 * 9 + 72 * 3 + 72;
    let mut scratch = memory(scratch_bytes);
    let mut out = [const { MaybeUninit::<i64>::uninit() }; 9];
    let out = out.as_mut_ptr().cast::<i64>();
    let (mut shape, mut exponent) = (MaybeUninit::<CptrMatrixShape>::uninit(), MaybeUninit::<i32>::uninit());
    // SAFETY: lists are as long as said.
    unsafe {
        assert_eq!(cptr_expert_shape(&expert.gate, shape.as_mut_ptr()), CPTR_OK);
        assert_eq!((shape.assume_init().rows, shape.assume_init().columns), (9, 96));
        let scratch = address(&mut scratch);
        let exponent = exponent.as_mut_ptr();
        let status = cptr_expert_product(&expert.gate, &vector, scratch, scratch_bytes, out, 9, exponent);
        assert!(status >= 0, "{status}");
        assert!(cptr_expert_forward(&expert, &vector, scratch, scratch_bytes, out, 5, exponent) >= 0);
        // A matrix that is cut off, and one that says that it is larger.
        for length in [0, 15, 16, gate.len() - 1] {
            let short = CptrMatrix { bytes: gate.as_ptr(), length };
            assert!(cptr_expert_product(&short, &vector, scratch, scratch_bytes, out, 9, exponent) < 0);
        }
    }
    let losses: Vec<CptrLosses> = (0..12).map(|i| CptrLosses { at: [900 + i, 400 + i, 90, 5] }).collect();
    let layers = [
        CptrLayerLosses { losses: losses.as_ptr(), experts: 5 },
        CptrLayerLosses { losses: losses[5..].as_ptr(), experts: 7 },
    ];
    let mut scratch = memory(8 * 3 * 13);
    let mut splits = [const { MaybeUninit::<CptrSplit>::uninit() }; 2];
    let splits = splits.as_mut_ptr().cast();
    // SAFETY: as above.
    unsafe {
        assert!(cptr_bits_split(losses.as_ptr(), 12, 9, scratch.as_mut_ptr(), 39, splits) >= 0);
        assert!(cptr_bits_split_layers(layers.as_ptr(), 2, 9, scratch.as_mut_ptr(), 39, splits) >= 0);
        assert_eq!(cptr_bits_split(losses.as_ptr(), 12, 9, scratch.as_mut_ptr(), 38, splits), CPTR_ERROR_SIZE);
    }
}

#[test]
fn changes_of_context_and_migration() {
    let (mut config, mut state) = tracker();
    let change = CptrChangeConfig {
        acquire_tokens: 64,
        hold_tokens: 32,
        gain_shift: 8,
        slack_16ths: 16,
        threshold: 6,
        reserved: 0,
    };
    let mut detector = CptrChangeDetector { state: [0; 4] };
    let mut allowance = MaybeUninit::<CptrAllowance>::uninit();
    let (mut margin, resident) = (MaybeUninit::<u32>::uninit(), [0xFFFF, 0]);
    // SAFETY: lists and states are as long as said.
    unsafe {
        assert_eq!(cptr_migration_margin(3, 40, 512, margin.as_mut_ptr()), CPTR_OK);
        assert!(cptr_migration_limit(allowance.as_mut_ptr(), 6554, 2) >= 0);
        for token in 0..if cfg!(miri) { 6 } else { 800 } {
            let wanted = [1, 2, 3, 4].map(|i| (token / 10 % 2 * 16 + i) as u16);
            let (mut distance, mut changed) = (MaybeUninit::<i32>::uninit(), MaybeUninit::<u32>::uninit());
            assert!(cptr_change_distance(address(&mut state), wanted.as_ptr(), K, distance.as_mut_ptr()) >= 0);
            assert!(cptr_change_step(&mut detector, &change, distance.as_ptr(), 1, changed.as_mut_ptr()) >= 0);
            assert!(
                cptr_tracker_update(address(&mut state), address(&mut config), wanted.as_ptr(), K, null_mut()) >= 0
            );
            let mut swap = MaybeUninit::<CptrSwap>::uninit();
            let (tracker, resident) = (address(&mut state), resident.as_ptr());
            let status =
                cptr_migration_swap(tracker, resident, WORDS, null(), 0, margin.assume_init(), swap.as_mut_ptr());
            assert!(status >= 0 && (status != CPTR_OK || swap.assume_init().load >= 16));
            assert!(cptr_migration_token(allowance.as_mut_ptr(), 1) >= 0);
            assert!(cptr_migration_take(allowance.as_mut_ptr()) >= 0);
        }
    }
}

#[test]
fn a_cache_of_a_whole_model() {
    let parameters = CptrCacheParameters {
        remembered: 64,
        eps: 0,
        error: 0,
        sure: 0,
        layers: 2,
        experts: 8,
        k: 2,
        slots: 3,
        tokens: 2,
        keep_top: 0,
        fetches: 2,
        reserved: 0,
    };
    let router = CptrRouter { k: 2, ..router(CPTR_ROUTER_SOFTMAX_ALL) };
    let (mut size, mut words) = (0, 0);
    let mut random = Random(3);
    // SAFETY: lists and states are as long as said.
    unsafe {
        assert_eq!(cptr_cache_size(&parameters, &mut size), CPTR_OK);
        assert_eq!(cptr_cache_saved_words(&parameters, &mut words), CPTR_OK);
        let [mut cache, mut other] = [(); 2].map(|()| memory(size.next_multiple_of(8)));
        // A cache keeps addresses in its own memory: one pointer to it, as C has.
        let (cache, other) = (address(&mut cache), address(&mut other));
        assert_eq!(cptr_cache_counters(cache, null_mut()), CPTR_ERROR_STATE);
        for memory in [cache, other] {
            assert_eq!(cptr_cache_init(memory, size - 1, CPTR_VERSION, &parameters), CPTR_ERROR_SIZE);
            assert_eq!(cptr_cache_init(memory, size, CPTR_VERSION, &parameters), CPTR_OK);
        }
        for token in 0..if cfg!(miri) { 3 } else { 300 } {
            for layer in 0..2 {
                let logits: Vec<f32> = (0..16).map(|_| random.next() as f32 / 1e6).collect();
                let logits = logits.as_ptr();
                let [mut ids, mut slots, mut waves] = [[const { MaybeUninit::<u16>::uninit() }; 4]; 3];
                let [ids, slots, waves] =
                    [&mut ids, &mut slots, &mut waves].map(|list| list.as_mut_ptr().cast::<u16>());
                let mut loads = [const { MaybeUninit::<CptrLoad>::uninit() }; 4];
                let loads = loads.as_mut_ptr().cast::<CptrLoad>();
                let mut count = MaybeUninit::<usize>::uninit();
                let at = count.as_mut_ptr();
                let status = cptr_cache_step(cache, &router, layer, 2, logits, 8, ids, slots, waves, loads, 4, at);
                assert!(status >= 0 && *ids.add(3) < 8 && *slots.add(3) < 3, "{token} {layer}: {status}");
                for load in 0..count.assume_init() {
                    let CptrLoad { layer, expert, on_its_way, .. } = *loads.add(load);
                    let status = if token % 3 == 2 && on_its_way == 1 {
                        cptr_cache_lost(cache, layer, expert)
                    } else {
                        cptr_cache_loaded(cache, layer, expert)
                    };
                    assert!(status >= CPTR_ERROR_ORDER);
                }
                assert!(cptr_cache_fetch(cache, loads, 4, at) >= 0);
            }
            // Refused where it is not there.
            let expert = (token % 8) as u16;
            if cptr_cache_pin(cache, 0, expert, 1) >= 0 {
                assert!(cptr_cache_pin(cache, 0, expert, 0) >= 0);
            }
        }
        let mut counters = MaybeUninit::<CptrCounters>::uninit();
        assert_eq!(cptr_cache_counters(cache, counters.as_mut_ptr()), CPTR_OK);
        assert!(counters.assume_init().tokens > 0);
        let mut saved = vec![0_u32; words];
        assert!(cptr_cache_save(cache, 7, saved.as_mut_ptr(), words) >= 0);
        assert!(cptr_cache_restore(other, 7, saved.as_ptr(), words) >= 0);
        assert!(cptr_cache_restore(other, 8, saved.as_ptr(), words) < 0);
    }
}

/// What can be seen to be wrong with a pointer is seen before it is followed.
#[test]
fn pointers_that_lead_nowhere() {
    let (mut config, mut state) = tracker();
    let router = router(CPTR_ROUTER_SOFTMAX_ALL);
    let list = [0_u16; K];
    // SAFETY: pointers are null, misaligned, or as long as said.
    unsafe {
        for (pointer, expected) in [(null_mut(), CPTR_ERROR_NULL), (astray::<u8>(), CPTR_ERROR_ALIGN)] {
            let config = address(&mut config);
            assert_eq!(cptr_tracker_update(pointer, config, list.as_ptr(), K, null_mut()), expected);
            assert_eq!(cptr_tracker_update(address(&mut state), pointer, list.as_ptr(), K, null_mut()), expected);
            assert_eq!(cptr_tracker_update(address(&mut state), config, pointer.cast(), K, null_mut()), expected);
            assert_eq!(cptr_config_init(pointer, CPTR_CONFIG_SIZE, CPTR_VERSION, null()), expected);
            assert_eq!(cptr_queue_init(pointer, CPTR_QUEUE_BASE + 24, 1), expected);
            assert_eq!(cptr_queue_push(pointer, null(), 0), expected);
            assert_eq!(cptr_queue_clear(pointer), expected);
            assert_eq!(cptr_cache_loaded(pointer, 0, 0), expected);
            assert_eq!(cptr_router_top_k(&router, pointer.cast(), EXPERTS, list.as_ptr().cast_mut(), 0), expected);
            assert_eq!(cptr_expert_shape(pointer.cast(), null_mut()), expected);
        }
        // A tracker in the place of its configuration.
        let state = address(&mut state);
        assert_eq!(cptr_tracker_update(state, state, list.as_ptr(), 1, null_mut()), CPTR_ERROR_STATE);
    }
}

/// Each function of the header is called above.
#[test]
#[cfg_attr(miri, ignore = "calls nothing")]
fn no_function_is_left_out() {
    let (header, own) = (include_str!("../include/cptr.h"), include_str!("tests.rs"));
    let names = header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("cptr_"));
    let declared = |name: &&str| header.contains(&std::format!(" {name}(")) && !name.ends_with("_has_");
    let missing: Vec<&str> = names.filter(declared).filter(|name| !own.contains(&std::format!("{name}("))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
