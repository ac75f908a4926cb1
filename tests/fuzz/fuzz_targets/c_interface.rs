//! The C interface: any calls in any order, with pointers that are null, misaligned, or to as many entries as said,
//! each in memory of its own, so that the address sanitizer sees who reads or writes beyond.
#![no_main]

use std::ptr::{null, null_mut};

use arbitrary::{Result, Unstructured};
use cptr::cache::*;
use cptr::change::*;
use cptr::dispatch::*;
use cptr::expert::*;
use cptr::migration::*;
use cptr::placement::*;
use cptr::router::*;
use cptr::tracker::*;
use cptr::*;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = calls(&mut Unstructured::new(data));
});

/// Most entries of a list.
const MOST: usize = 80;

/// A list in memory of its own, and the pointer that is handed over.
struct List<T> {
    entries: Vec<T>,
    pointer: *mut T,
}

impl<T: Copy + Default> List<T> {
    fn new(
        count: usize,
        input: &mut Unstructured<'_>,
        entry: impl Fn(&mut Unstructured<'_>) -> Result<T>,
    ) -> Result<Self> {
        let mut entries = (0..count).map(|_| entry(input)).collect::<Result<Vec<T>>>()?;
        let pointer = match input.arbitrary::<u8>()? {
            0 => null_mut(),
            // Nothing is read there: it is refused before.
            1 if align_of::<T>() > 1 => entries.as_mut_ptr().wrapping_byte_add(1),
            _ => entries.as_mut_ptr(),
        };
        Ok(Self { entries, pointer })
    }

    fn count(&self) -> usize {
        self.entries.len()
    }
}

fn ids(input: &mut Unstructured<'_>) -> Result<List<u16>> {
    let count = input.int_in_range(0..=MOST)?;
    List::new(count, input, |input| input.int_in_range(0..=70))
}

fn words<T: Copy + Default + for<'a> arbitrary::Arbitrary<'a>>(input: &mut Unstructured<'_>) -> Result<List<T>> {
    let count = input.int_in_range(0..=MOST)?;
    List::new(count, input, |input| input.arbitrary())
}

fn place<T: Copy + Default>(count: usize, input: &mut Unstructured<'_>) -> Result<List<T>> {
    List::new(count, input, |_| Ok(T::default()))
}

/// A state of the library's, in memory that is aligned as it wants.
struct State(Vec<u64>);

impl State {
    fn pointer(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }

    fn bytes(&self) -> usize {
        self.0.len() * 8
    }
}

struct Routing {
    bias: List<i32>,
    scale: List<u32>,
    router: CptrRouter,
}

fn routing(input: &mut Unstructured<'_>) -> Result<Box<Routing>> {
    let (bias, scale) = (words::<i32>(input)?, words::<u32>(input)?);
    let some = input.arbitrary()?;
    let router = CptrRouter {
        kind: input.int_in_range(0..=5)?,
        k: input.int_in_range(0..=66)?,
        groups: input.int_in_range(0..=5)?,
        top_groups: input.int_in_range(0..=5)?,
        bias: if some { bias.pointer } else { null() },
        bias_count: if some { bias.count() } else { 0 },
        bias_place: input.int_in_range(0..=3)?,
        group_rating: input.int_in_range(0..=2)?,
        renormalise: input.int_in_range(0..=3)?,
        count: input.int_in_range(0..=3)?,
        count_bound: input.arbitrary()?,
        table: input.int_in_range(0..=2)?,
        null_experts: input.int_in_range(0..=5)?,
        jitter: input.arbitrary()?,
        scale: input.arbitrary()?,
        expert_scale: if some { scale.pointer } else { null() },
        expert_scale_count: if some { scale.count() } else { 0 },
    };
    Ok(Box::new(Routing { bias, scale, router }))
}

fn calls(input: &mut Unstructured<'_>) -> Result<()> {
    let mut config = State(vec![0; CPTR_CONFIG_SIZE / 8]);
    let experts = input.int_in_range(1..=70usize)?;
    let mut tracker = State(vec![input.arbitrary()?; CPTR_TRACKER_BASE / 8 + experts]);
    let jobs = input.int_in_range(1..=9usize)?;
    let mut queue = State(vec![input.arbitrary()?; CPTR_QUEUE_BASE / 8 + 3 * jobs]);
    let mut cache: Option<(State, CptrCacheParameters)> = None;
    while !input.is_empty() {
        // SAFETY: every pointer is null, misaligned, or to as many entries as the call is told; states are in memory of
        // the size that is told, aligned or one byte off.
        unsafe {
            match input.int_in_range(0..=18)? {
                0 => {
                    let version = input.int_in_range(CPTR_VERSION - 1..=CPTR_VERSION)?;
                    cptr_config_init(config.pointer(), config.bytes(), version, null());
                }
                1 => {
                    let short = input.int_in_range(0..=1usize)?;
                    cptr_tracker_init(tracker.pointer(), tracker.bytes() - 8 * short, experts);
                }
                2 => {
                    let wanted = ids(input)?;
                    let mut step = std::mem::MaybeUninit::<CptrStep>::uninit();
                    let to = if input.arbitrary()? { step.as_mut_ptr() } else { null_mut() };
                    cptr_tracker_update(tracker.pointer(), config.pointer(), wanted.pointer, wanted.count(), to);
                }
                3 => {
                    let (resident, keep) = (words::<u32>(input)?, ids(input)?);
                    let victim = place::<u16>(1, input)?;
                    cptr_tracker_victim(
                        tracker.pointer(),
                        resident.pointer,
                        resident.count(),
                        keep.pointer,
                        keep.count(),
                        victim.pointer,
                    );
                }
                4 => {
                    let (slow, fast) = (place::<u32>(1, input)?, place::<u32>(1, input)?);
                    cptr_tracker_level(tracker.pointer(), input.arbitrary()?, slow.pointer, fast.pointer);
                }
                // Memory that somebody else has written: the header is checked, the rest may be anything.
                5 => {
                    let state = *input.choose(&[0, 1, 2])?;
                    let memory = [&mut config, &mut tracker, &mut queue];
                    let State(memory) = memory.into_iter().nth(state).expect("one of three");
                    let at = input.choose_index(memory.len())?;
                    // A queue's indices are its own: only its header may be damaged here.
                    if state < 2 || at < 2 {
                        memory[at] ^= 1 << input.int_in_range(0..=63)?;
                    }
                }
                6 => {
                    let (routing, scores) = (routing(input)?, words::<i32>(input)?);
                    let wanted = place::<u16>(input.int_in_range(0..=MOST)?, input)?;
                    cptr_router_top_k(&routing.router, scores.pointer, scores.count(), wanted.pointer, wanted.count());
                    let _ = (&routing.bias, &routing.scale);
                }
                7 => {
                    let (routing, scores, chosen) = (routing(input)?, words::<i32>(input)?, ids(input)?);
                    let weights = place::<u32>(chosen.count(), input)?;
                    let (scores, experts) = (scores.pointer, scores.count());
                    cptr_router_weights(
                        &routing.router,
                        scores,
                        experts,
                        chosen.pointer,
                        chosen.count(),
                        weights.pointer,
                    );
                }
                8 => {
                    let (routing, scores, wanted, resident) =
                        (routing(input)?, words::<i32>(input)?, ids(input)?, words::<u32>(input)?);
                    let (chosen, stand_ins) = (place::<u16>(wanted.count(), input)?, place::<u32>(1, input)?);
                    cptr_select(
                        &routing.router,
                        input.arbitrary()?,
                        input.int_in_range(0..=70)?,
                        scores.pointer,
                        scores.count(),
                        wanted.pointer,
                        wanted.count(),
                        resident.pointer,
                        resident.count(),
                        chosen.pointer,
                        stand_ins.pointer,
                    );
                }
                9 => {
                    let count = input.int_in_range(0..=MOST)?;
                    let demand = place::<u64>(count, input)?;
                    let (chosen, shares) = (ids(input)?, place::<u32>(count, input)?);
                    cptr_demand_observe(demand.pointer.cast(), count, chosen.pointer, chosen.count(), null());
                    cptr_demand_importance(demand.pointer.cast(), count, input.arbitrary()?, shares.pointer);
                    let order = place::<u16>(count, input)?;
                    let resident = place::<u32>(input.int_in_range(0..=4)?, input)?;
                    let hot = place::<u32>(1, input)?;
                    let (bytes, budget) = (input.arbitrary()?, input.arbitrary()?);
                    let (words, hot) = (resident.count(), hot.pointer);
                    cptr_place_layer(shares.pointer, count, bytes, budget, order.pointer, resident.pointer, words, hot);
                }
                10 => {
                    cptr_queue_init(queue.pointer(), queue.bytes(), jobs + input.int_in_range(0..=1)?);
                }
                11 => {
                    let count = input.int_in_range(0..=10)?;
                    let mut list = Vec::new();
                    for _ in 0..count {
                        list.push(CptrJob {
                            token: input.arbitrary()?,
                            layer: input.arbitrary()?,
                            expert: input.arbitrary()?,
                            bits: input.int_in_range(0..=17)?,
                            rank: input.arbitrary()?,
                            weight: input.arbitrary::<u32>()? >> input.int_in_range(0..=1)?,
                            activation: 0,
                            result: 0,
                        });
                    }
                    cptr_queue_push(queue.pointer(), list.as_ptr(), list.len());
                }
                12 => {
                    let outstanding = place::<usize>(1, input)?;
                    cptr_queue_outstanding(queue.pointer(), outstanding.pointer);
                    if input.ratio(1, 4)? {
                        cptr_queue_clear(queue.pointer());
                    }
                }
                13 => {
                    let (wanted, distance) = (ids(input)?, place::<i32>(1, input)?);
                    cptr_change_distance(tracker.pointer(), wanted.pointer, wanted.count(), distance.pointer);
                }
                14 => {
                    let (resident, busy) = (words::<u32>(input)?, words::<u32>(input)?);
                    let mut swap = std::mem::MaybeUninit::<CptrSwap>::uninit();
                    let (resident, count) = (resident.pointer, resident.count());
                    let margin = input.arbitrary()?;
                    let (others, other_count) = (busy.pointer, busy.count());
                    cptr_migration_swap(
                        tracker.pointer(),
                        resident,
                        count,
                        others,
                        other_count,
                        margin,
                        swap.as_mut_ptr(),
                    );
                }
                15 => {
                    let bytes = words::<u8>(input)?;
                    let matrix = CptrMatrix { bytes: bytes.pointer, length: bytes.count() };
                    let mut shape = std::mem::MaybeUninit::<CptrMatrixShape>::uninit();
                    cptr_expert_shape(&matrix, shape.as_mut_ptr());
                    let values = words::<i32>(input)?;
                    let vector = CptrVector { values: values.pointer, count: values.count(), exponent: 0 };
                    let scratch = place::<u64>(input.int_in_range(0..=MOST)?, input)?;
                    let (out, exponent) =
                        (place::<i64>(input.int_in_range(0..=MOST)?, input)?, place::<i32>(1, input)?);
                    let (memory, size) = (scratch.pointer.cast(), scratch.count() * 8);
                    cptr_expert_product(&matrix, &vector, memory, size, out.pointer, out.count(), exponent.pointer);
                }
                16 => {
                    let parameters = CptrCacheParameters {
                        remembered: *input.choose(&[0, 64, 63])?,
                        eps: input.arbitrary()?,
                        error: 0,
                        sure: input.arbitrary()?,
                        layers: input.int_in_range(0..=3)?,
                        experts: input.int_in_range(0..=40)?,
                        k: input.int_in_range(0..=5)?,
                        slots: input.int_in_range(0..=40)?,
                        tokens: input.int_in_range(0..=3)?,
                        keep_top: input.int_in_range(0..=3)?,
                        fetches: input.int_in_range(0..=3)?,
                        reserved: 0,
                    };
                    let mut size = 0;
                    cache = None;
                    if cptr_cache_size(&parameters, &mut size) == CPTR_OK && size < 1 << 22 {
                        let mut state = State(vec![0; size.div_ceil(8)]);
                        let bytes = size - input.int_in_range(0..=1)?;
                        if cptr_cache_init(state.pointer(), bytes, CPTR_VERSION, &parameters) == CPTR_OK {
                            cache = Some((state, parameters));
                        }
                    }
                }
                _ => {
                    let Some((state, parameters)) = &mut cache else { continue };
                    let (layer, expert) = (input.int_in_range(0..=3)?, input.int_in_range(0..=40)?);
                    match input.int_in_range(0..=5)? {
                        0 => _ = cptr_cache_loaded(state.pointer(), layer, expert),
                        1 => _ = cptr_cache_lost(state.pointer(), layer, expert),
                        2 => _ = cptr_cache_pin(state.pointer(), layer, expert, input.int_in_range(0..=2)?),
                        3 => {
                            let room = input.int_in_range(0..=4)?;
                            let mut loads = vec![std::mem::MaybeUninit::<CptrLoad>::uninit(); room];
                            let mut count = 0;
                            cptr_cache_fetch(state.pointer(), loads.as_mut_ptr().cast(), room, &mut count);
                            assert!(count <= room);
                        }
                        _ => {
                            let mut routing = routing(input)?;
                            routing.router.k = parameters.k.into();
                            let tokens = input.int_in_range(0..=3u16)?;
                            let entries = usize::from(tokens) * usize::from(parameters.k);
                            let stride = usize::from(parameters.experts) + input.int_in_range(0..=2)?;
                            let logits = List::new(stride * usize::from(tokens), input, |input| {
                                Ok(f32::from_bits(input.arbitrary::<u16>()? as u32 * 65_537))
                            })?;
                            let (ids, slots, waves) = (
                                List::new(entries, input, |input| input.int_in_range(0..=40u16))?,
                                place::<u16>(entries, input)?,
                                place::<u16>(entries, input)?,
                            );
                            let room = input.int_in_range(0..=entries)?;
                            let mut loads = vec![std::mem::MaybeUninit::<CptrLoad>::uninit(); room];
                            let mut count = 0;
                            let status = cptr_cache_step(
                                state.pointer(),
                                &routing.router,
                                layer,
                                tokens,
                                logits.pointer,
                                stride,
                                ids.pointer,
                                slots.pointer,
                                waves.pointer,
                                loads.as_mut_ptr().cast(),
                                room,
                                &mut count,
                            );
                            assert!(status < 0 || count <= room);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}
