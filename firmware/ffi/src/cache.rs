//! A cache of a model's experts, for engines: one call a layer.

use core::mem::{align_of, size_of};
use core::{ptr, slice};

use cptr_core::cache::{Cache, CacheError, Config, Counts, Layer, Load, MAX_EXPERTS, Memory, Shape, Step};
use cptr_core::num::logit_of_f32;
use cptr_core::{Bounds, Eps, Level, Logit, ScaledLevels};

use crate::memory::{Header, aligned, header, list, output, status};
use crate::router::{CptrRouter, router};
use crate::{
    CPTR_ERROR_ALIGN, CPTR_ERROR_FULL, CPTR_ERROR_NULL, CPTR_ERROR_ORDER, CPTR_ERROR_RANGE, CPTR_ERROR_ROUTER,
    CPTR_ERROR_SIZE, CPTR_ERROR_VERSION, CPTR_OK, CPTR_VERSION, CptrStatus,
};

/// What a cache is made for. Fields that are 0 are as said.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CptrCacheParameters {
    /// Tokens that recall remembers, 64 to 65,536; 0 is 2,048.
    pub remembered: u32,
    /// Share of the routing mass that a token may lose in a layer, in steps of 2^-32; 0: the model's own choice.
    pub eps: u32,
    /// Estimated error of a layer's output that is allowed, in steps of 2^-32; 0: no bound.
    pub error: u32,
    /// Share of forecasts that came true, at least, for a fetch, in steps of 2^-31; 0 is 0.68.
    pub sure: u32,
    /// Layers that have a router.
    pub layers: u16,
    /// Experts of a layer, null experts included, at most 1,024.
    pub experts: u16,
    /// Most experts that a token chooses in a layer, at most `CPTR_MAX_WANTED`; at most 4,095 in all layers.
    pub k: u16,
    /// Experts of a layer that fast memory holds.
    pub slots: u16,
    /// Tokens of the largest batch; 0 is 1.
    pub tokens: u16,
    /// Best experts of a token that are always chosen.
    pub keep_top: u16,
    /// Most fetches for a layer; 0: none.
    pub fetches: u16,
    /// 0.
    pub reserved: u16,
}

/// An expert to be loaded.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CptrLoad {
    /// Layer of the expert.
    pub layer: u16,
    /// The expert.
    pub expert: u16,
    /// Slot that it is loaded into.
    pub slot: u16,
    /// Expert that lay there, or 0xFFFF.
    pub victim: u16,
    /// Wave that needs it.
    pub wave: u16,
    /// 1: it is on its way already (`cptr_cache_fetch`), and has only to be waited for.
    pub on_its_way: u16,
}

/// What a cache has done since it was initialised.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct CptrCounters {
    /// Tokens that went through all layers.
    pub tokens: u64,
    /// Experts that had to be waited for, those on their way included.
    pub stalls: u64,
    /// Of them, those on their way.
    pub on_their_way: u64,
    /// Experts fetched before they were wanted.
    pub fetches: u64,
    /// Experts that stood in for others.
    pub stand_ins: u64,
    /// Waves beyond the first of each layer.
    pub more_waves: u64,
}

const CACHE_MAGIC: u32 = u32::from_be_bytes(*b"cptM");

type Whole = Cache<'static, 4, 64>;

#[repr(C)]
struct State {
    header: Header,
    config: Config,
    counters: CptrCounters,
    cache: Whole,
}

const _: () = assert!(align_of::<State>() <= 8 && align_of::<Layer<'static>>() <= 8);

/// Bytes of `count` entries, up to what the next array is aligned to. No count that [`Sizes`] allows overflows.
const fn bytes<T>(count: usize) -> u64 {
    (count as u64).wrapping_mul(size_of::<T>() as u64).wrapping_add(7) & !7
}

/// How many entries each array has.
struct Sizes {
    shape: Shape,
    experts: usize,
    slots: usize,
    layers: usize,
    recall: usize,
    companions: usize,
}

impl Sizes {
    /// As parameters say, where they are in range.
    fn of(parameters: &CptrCacheParameters) -> Result<Self, CptrStatus> {
        let &CptrCacheParameters { remembered, layers, experts, k, slots, tokens, .. } = parameters;
        let remembered = if remembered == 0 { 2048 } else { remembered };
        let shape = Shape { layers, experts, k, slots, tokens: tokens.max(1), remembered };
        let in_range = shape.is_valid() && usize::from(experts) <= MAX_EXPERTS && parameters.reserved == 0;
        if !in_range {
            return Err(CPTR_ERROR_RANGE);
        }
        let companions = if parameters.fetches > 0 { shape.companions_words() } else { 0 };
        let (experts, slots) = (usize::from(experts), usize::from(slots));
        Ok(Self { shape, experts, slots, layers: layers.into(), recall: shape.recall_words(4), companions })
    }

    /// All of them together; `None` beyond the address space.
    fn total(&self) -> Option<usize> {
        let &Self { shape, experts, slots, layers, recall, companions } = self;
        let all = layers.checked_mul(experts)?;
        let parts = [
            bytes::<State>(1),
            bytes::<Layer<'_>>(layers),
            bytes::<ScaledLevels>(all),
            bytes::<Level>(all),
            bytes::<u16>(all),
            bytes::<u16>(layers.wrapping_mul(slots)),
            bytes::<Level>(experts.wrapping_mul(3)),
            bytes::<Logit>(shape.logits()),
            bytes::<u32>(recall),
            bytes::<u32>(companions),
            bytes::<u16>(shape.wanted()),
        ];
        usize::try_from(parts.into_iter().fold(0, u64::saturating_add)).ok()
    }
}

/// Cuts arrays off memory.
struct Rest(*mut u8);

impl Rest {
    /// The next `count` entries, all of one value.
    ///
    /// # Safety
    /// So much memory is left, aligned to 8 bytes, and nobody else uses it for as long as the state lives.
    unsafe fn take<T: Copy>(&mut self, count: usize, value: T) -> &'static mut [T] {
        let first = self.0.cast::<T>();
        for at in 0..count {
            // SAFETY: within what is left.
            unsafe { first.add(at).write(value) };
        }
        // SAFETY: the same; `Sizes::total` has added up all arrays, so this does not overflow.
        self.0 = unsafe { self.0.add(bytes::<T>(count) as usize) };
        // SAFETY: all entries have been written.
        unsafe { slice::from_raw_parts_mut(first, count) }
    }
}

fn code(error: CacheError) -> CptrStatus {
    match error {
        CacheError::Memory => CPTR_ERROR_SIZE,
        CacheError::Layer => CPTR_ERROR_ORDER,
        CacheError::Router => CPTR_ERROR_ROUTER,
        CacheError::Pinned => CPTR_ERROR_FULL,
        _ => CPTR_ERROR_RANGE,
    }
}

/// Bytes that a cache takes in `cptr_cache_init`.
///
/// Errors: `NULL`, `ALIGN`, `RANGE` (fields, and sizes beyond the address space).
///
/// # Safety
/// The pointers that are neither null nor misaligned point to what they say. `size` overlaps nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_cache_size(parameters: *const CptrCacheParameters, size: *mut usize) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let (parameters, size) = unsafe { (list(parameters, 1)?, output(size)?) };
        let [parameters] = parameters else { return Err(CPTR_ERROR_NULL) };
        size.write(&[Sizes::of(parameters)?.total().ok_or(CPTR_ERROR_RANGE)?]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// Makes a cache of a whole model in the caller's memory, `cptr_cache_size` bytes aligned to `CPTR_ALIGN`, with all
/// slots empty. It must not be moved: it points into itself. `version` is `CPTR_VERSION`.
///
/// Errors: `NULL`, `ALIGN`, `SIZE`, `VERSION`, `RANGE` (fields).
///
/// # Safety
/// `size` bytes may be written at `memory`. `parameters` is null, misaligned, or points to parameters outside of it.
/// Nobody else uses the memory for as long as the cache is used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_cache_init(
    memory: *mut u8,
    size: usize,
    version: u32,
    parameters: *const CptrCacheParameters,
) -> CptrStatus {
    let run = || {
        aligned(memory)?;
        // SAFETY: this function's contract.
        let [parameters] = (unsafe { list(parameters, 1) })? else { return Err(CPTR_ERROR_NULL) };
        let parameters = *parameters;
        let sizes = Sizes::of(&parameters)?;
        if size < sizes.total().ok_or(CPTR_ERROR_RANGE)? {
            return Err(CPTR_ERROR_SIZE);
        }
        if version != CPTR_VERSION {
            return Err(CPTR_ERROR_VERSION);
        }
        let usual = Config::default();
        let error = (parameters.error > 0).then(|| Eps::from_bits(parameters.error));
        let config = Config {
            bounds: Bounds { mass: Eps::from_bits(parameters.eps), error },
            keep_top: parameters.keep_top,
            fetches: parameters.fetches,
            sure: if parameters.sure == 0 { usual.sure } else { Level::from_bits(parameters.sure) },
            ..usual
        };
        let Sizes { shape, experts, slots, layers, recall, companions } = sizes;
        // SAFETY: `total` bytes are there, of which the first are the state's.
        let mut rest = unsafe { Rest(memory.add(bytes::<State>(1) as usize)) };
        let states = rest.0.cast::<Layer<'static>>();
        // SAFETY: as above, for each array in turn.
        let memory_of = unsafe {
            rest.0 = rest.0.add(bytes::<Layer<'_>>(layers) as usize);
            let mut levels = rest.take(layers.wrapping_mul(experts), ScaledLevels::ZERO);
            let mut shares = rest.take(layers.wrapping_mul(experts), Level::ZERO);
            let mut places = rest.take(layers.wrapping_mul(experts), 0u16);
            let mut lies = rest.take(layers.wrapping_mul(slots), 0u16);
            for layer in 0..layers {
                let (these, others) = levels.split_at_mut_checked(experts).ok_or(CPTR_ERROR_SIZE)?;
                let (shared, more) = shares.split_at_mut_checked(experts).ok_or(CPTR_ERROR_SIZE)?;
                let (placed, next) = places.split_at_mut_checked(experts).ok_or(CPTR_ERROR_SIZE)?;
                let (lie, last) = lies.split_at_mut_checked(slots).ok_or(CPTR_ERROR_SIZE)?;
                (levels, shares, places, lies) = (others, more, next, last);
                states.add(layer).write(Layer::new(these, lie, placed, shared));
            }
            Memory {
                layers: slice::from_raw_parts_mut(states, layers),
                forecasts: rest.take(experts.wrapping_mul(3), Level::ZERO),
                logits: rest.take(shape.logits(), Logit::ZERO),
                recall: rest.take(recall, 0),
                companions: rest.take(companions, 0),
                wanted: rest.take(shape.wanted(), 0),
            }
        };
        // Field by field: each move of a cache through the stack would take its 5 kB there.
        let state = memory.cast::<State>();
        match Whole::new(&config, shape, memory_of) {
            // SAFETY: aligned and long enough.
            Ok(cache) => unsafe { (&raw mut (*state).cache).write(cache) },
            Err(error) => return Err(code(error)),
        }
        // SAFETY: as above; the header last, with which the state counts as initialised.
        unsafe {
            (&raw mut (*state).config).write(config);
            (&raw mut (*state).counters).write(CptrCounters::default());
            (&raw mut (*state).header).write(Header::new(CACHE_MAGIC, 0));
        }
        Ok(CPTR_OK)
    };
    status(run())
}

/// # Safety
/// `pointer` is null, misaligned, or points to readable bytes, as many as it was initialised with if it was; nobody
/// else uses them for `'a`.
unsafe fn state<'a>(pointer: *mut u8) -> Result<&'a mut State, CptrStatus> {
    // SAFETY: the caller's contract.
    unsafe { header(pointer, CACHE_MAGIC) }?;
    // SAFETY: only `cptr_cache_init` writes the header, with the state.
    Ok(unsafe { &mut *pointer.cast::<State>() })
}

/// Decides a layer for `tokens` tokens that follow each other: one, or a batch (a prompt, tokens to be verified).
/// Tokens of a batch choose together, so that few experts have to be loaded, each within its own bounds.
///
/// `logits`: the router's, `experts` of each token, tokens `stride` numbers apart; may be null for a router with a
/// table. `ids`, `slots`, `waves`: `tokens * k` entries each, token by token. `ids` says what each token runs (of a
/// router with a table, before, what it wants), 0xFFFF where it gets fewer than k; `slots` where that lies; `waves`
/// when it runs. Writes to `loads` what to load, in the order in which it is needed, and their number to `count`;
/// `capacity` is at least the smaller of `tokens * k` and `experts`. A load of wave n may begin when all of wave n - 1
/// has run; loads into one slot follow each other. What `loads` says counts as done at the next call.
///
/// Errors: `NULL`, `ALIGN`, `STATE`, `SIZE` (capacity), `RANGE` (tokens, stride, a logit that is no number, a table's
/// ids), `ORDER` (not the layer that is next, or not the tokens of the layer before), `ROUTER`, `FULL` (all slots are
/// pinned).
///
/// # Safety
/// `cache` as for `cptr_cache_init`. The pointers that are neither null nor misaligned point to as many entries as said
/// (`ids`, `slots`, `waves`: initialised ones). Nothing overlaps; nobody else uses the cache meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_cache_step(
    cache: *mut u8,
    router: *const CptrRouter,
    layer: u16,
    tokens: u16,
    logits: *const f32,
    stride: usize,
    ids: *mut u16,
    slots: *mut u16,
    waves: *mut u16,
    loads: *mut CptrLoad,
    capacity: usize,
    count: *mut usize,
) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let (state, router, count) = unsafe { (state(cache)?, self::router(router)?, output(count)?) };
        let shape = state.cache.shape();
        let experts = usize::from(shape.experts);
        if !(1..=shape.tokens).contains(&tokens) || stride < experts {
            return Err(CPTR_ERROR_RANGE);
        }
        let choices = usize::from(tokens).wrapping_mul(shape.k.into());
        if capacity < choices.min(experts) {
            return Err(CPTR_ERROR_SIZE);
        }
        if router.table && logits.is_null() && state.config.bounds.mass > Eps::ZERO {
            return Err(CPTR_ERROR_NULL);
        }
        let rows = usize::from(tokens.wrapping_sub(1)).checked_mul(stride).and_then(|rows| rows.checked_add(experts));
        let numbers = if router.table && logits.is_null() { 0 } else { rows.ok_or(CPTR_ERROR_RANGE)? };
        // SAFETY: this function's contract; bits of an `f32` are a `u32`.
        let logits = unsafe { list(logits.cast::<u32>(), numbers) }?;
        let row = |token: u16| {
            logits.get(usize::from(token).wrapping_mul(stride)..).and_then(|rows| rows.get(..experts)).unwrap_or(&[])
        };
        if !(0..tokens).all(|token| row(token).iter().all(|&bits| logit_of_f32(bits).is_some())) {
            return Err(CPTR_ERROR_RANGE);
        }
        for pointer in [ids, slots, waves] {
            if pointer.is_null() {
                return Err(CPTR_ERROR_NULL);
            }
            if !pointer.is_aligned() {
                return Err(CPTR_ERROR_ALIGN);
            }
        }
        if loads.is_null() || !loads.is_aligned() {
            return Err(if loads.is_null() { CPTR_ERROR_NULL } else { CPTR_ERROR_ALIGN });
        }
        // SAFETY: neither null nor misaligned, and so long by this function's contract.
        let mut step = unsafe {
            Step {
                layer,
                tokens,
                ids: slice::from_raw_parts_mut(ids, choices),
                slots: slice::from_raw_parts_mut(slots, choices),
                waves: slice::from_raw_parts_mut(waves, choices),
            }
        };
        let (mut listed, mut on_their_way) = (0, 0);
        let load = |load: Load| {
            on_their_way = u64::wrapping_add(on_their_way, load.on_its_way.into());
            if listed < capacity {
                // SAFETY: within the capacity.
                unsafe { loads.add(listed).write(of(load)) };
                listed = usize::wrapping_add(listed, 1);
            }
        };
        let fill = |token: u16, logits: &mut [Logit]| {
            let numbers = row(token).iter().map(|&bits| logit_of_f32(bits).unwrap_or(Logit::ZERO));
            logits.iter_mut().zip(numbers).for_each(|(to, from)| *to = from);
        };
        let counts = state.cache.step(&state.config, &router, &mut step, fill, load);
        let Counts { loads, waves, stand_ins } = counts.map_err(code)?;
        let counters = &mut state.counters;
        counters.stalls = counters.stalls.wrapping_add(loads as u64);
        counters.on_their_way = counters.on_their_way.wrapping_add(on_their_way);
        counters.stand_ins = counters.stand_ins.wrapping_add(stand_ins as u64);
        counters.more_waves = counters.more_waves.wrapping_add(waves.saturating_sub(1) as u64);
        if layer.wrapping_add(1) == shape.layers {
            counters.tokens = counters.tokens.wrapping_add(tokens.into());
        }
        count.write(&[listed]);
        Ok(CPTR_OK)
    };
    status(run())
}

const fn of(load: Load) -> CptrLoad {
    let Load { layer, expert, slot, victim, wave, on_its_way } = load;
    CptrLoad { layer, expert, slot, victim, wave, on_its_way: on_its_way as u16 }
}

/// What to load for the layer that is next while nothing else is loaded: once behind a step, after which it is on its
/// way until `cptr_cache_loaded` is called. Writes to `loads`, `capacity` of them, at least the parameter `fetches`,
/// and their number to `count`. Nothing after a batch.
///
/// Errors: `NULL`, `ALIGN`, `STATE`, `SIZE` (capacity).
///
/// # Safety
/// As `cptr_cache_step`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_cache_fetch(
    cache: *mut u8,
    loads: *mut CptrLoad,
    capacity: usize,
    count: *mut usize,
) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let (state, count) = unsafe { (state(cache)?, output(count)?) };
        if capacity < usize::from(state.config.fetches) {
            return Err(CPTR_ERROR_SIZE);
        }
        if loads.is_null() || !loads.is_aligned() {
            return Err(if loads.is_null() { CPTR_ERROR_NULL } else { CPTR_ERROR_ALIGN });
        }
        let mut listed = 0;
        let fetched = state.cache.fetch(&state.config, |load| {
            if listed < capacity {
                // SAFETY: within the capacity.
                unsafe { loads.add(listed).write(of(load)) };
                listed = usize::wrapping_add(listed, 1);
            }
        });
        state.counters.fetches = state.counters.fetches.wrapping_add(fetched as u64);
        count.write(&[listed]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// # Safety
/// As `cptr_cache_step`.
unsafe fn change(cache: *mut u8, run: impl FnOnce(&mut Whole) -> Result<(), CacheError>) -> CptrStatus {
    // SAFETY: the caller's contract.
    status(unsafe { state(cache) }.and_then(|state| run(&mut state.cache).map(|()| CPTR_OK).map_err(code)))
}

/// A fetch has arrived.
///
/// Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (it was not on its way), `ORDER` (no such layer).
///
/// # Safety
/// As `cptr_cache_step`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_cache_loaded(cache: *mut u8, layer: u16, expert: u16) -> CptrStatus {
    // SAFETY: this function's contract.
    unsafe { change(cache, |cache| cache.loaded(layer, expert)) }
}

/// A load has failed, or what lay in a slot is lost: the expert is no longer there.
///
/// Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (it was not), `ORDER` (no such layer).
///
/// # Safety
/// As `cptr_cache_step`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_cache_lost(cache: *mut u8, layer: u16, expert: u16) -> CptrStatus {
    // SAFETY: this function's contract.
    unsafe { change(cache, |cache| cache.lost(layer, expert)) }
}

/// From now on an expert that is there stays (`stays` is not 0), or may go again.
///
/// Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (it is not there), `ORDER` (no such layer).
///
/// # Safety
/// As `cptr_cache_step`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_cache_pin(cache: *mut u8, layer: u16, expert: u16, stays: u32) -> CptrStatus {
    // SAFETY: this function's contract.
    unsafe { change(cache, |cache| cache.pin(layer, expert, stays != 0)) }
}

/// What a cache has done.
///
/// Errors: `NULL`, `ALIGN`, `STATE`.
///
/// # Safety
/// As `cptr_cache_step`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_cache_counters(cache: *mut u8, counters: *mut CptrCounters) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let (state, counters) = unsafe { (state(cache)?, output(counters)?) };
        counters.write(&[state.counters]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// Words of 32 bits that `cptr_cache_save` takes.
///
/// Errors: `NULL`, `ALIGN`, `RANGE` (fields).
///
/// # Safety
/// As `cptr_cache_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_cache_saved_words(
    parameters: *const CptrCacheParameters,
    words: *mut usize,
) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let (parameters, words) = unsafe { (list(parameters, 1)?, output(words)?) };
        let [parameters] = parameters else { return Err(CPTR_ERROR_NULL) };
        words.write(&[Whole::saved_words(Sizes::of(parameters)?.shape)]);
        Ok(CPTR_OK)
    };
    status(run())
}

/// Writes the remembered trajectories to `words`: what is worth keeping when the engine stops; levels are known again
/// after some hundred tokens. Between two tokens. `model` is a number by which the caller knows the model.
///
/// Errors: `NULL`, `ALIGN`, `STATE`, `SIZE` (count), `ORDER` (inside a token).
///
/// # Safety
/// As `cptr_cache_step`; `words` are `count` initialised words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_cache_save(cache: *mut u8, model: u64, words: *mut u32, count: usize) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let state = unsafe { state(cache) }?;
        // SAFETY: the same; checks null and alignment.
        _ = unsafe { list(words.cast_const(), count) }?;
        // SAFETY: neither null nor misaligned if there are any.
        let words = if count == 0 { &mut [] } else { unsafe { &mut *ptr::slice_from_raw_parts_mut(words, count) } };
        state.cache.save(model, words).map_err(code)?;
        Ok(CPTR_OK)
    };
    status(run())
}

/// Takes over what `cptr_cache_save` wrote for the same model and the same parameters. Between two tokens.
///
/// Errors: `NULL`, `ALIGN`, `STATE`, `RANGE` (another model, other sizes, damage), `ORDER` (inside a token).
///
/// # Safety
/// As `cptr_cache_step`; `words` are `count` words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cptr_cache_restore(cache: *mut u8, model: u64, words: *const u32, count: usize) -> CptrStatus {
    let run = || {
        // SAFETY: this function's contract.
        let (state, words) = unsafe { (state(cache)?, list(words, count)?) };
        state.cache.restore(&state.config, model, words).map_err(code)?;
        Ok(CPTR_OK)
    };
    status(run())
}
