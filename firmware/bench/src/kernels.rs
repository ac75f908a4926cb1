//! What each kernel costs, over experts E and experts per token k.

use core::fmt::Write;
use core::hint::black_box;

use cptr_core::num::exp_neg;
use cptr_core::{
    Eps, ExpertSet, Experts, Logit, Router, ScaledLevels, Tracker, TrackerConfig, select_in_place, words_for,
};
use cptr_rt::{COUNTER_BITS, Console, cycles, instructions, to_instructions};

use crate::random::{Random, fill, spread};

const MOST: usize = 512;
const SIZES: [usize; 7] = [8, 16, 32, 64, 128, 256, MOST];
const TOP_K: [usize; 6] = [1, 2, 4, 6, 8, 16];
/// Tokens before the count starts, and tokens that are counted.
const WARM: u32 = 8;
pub(crate) const COUNTED: u32 = 16;

/// What a number of calls took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cost {
    sum: Counters,
    most: Counters,
    calls: u32,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Counters {
    instructions: u64,
    cycles: u64,
}

impl Counters {
    #[inline(always)]
    fn now() -> Self {
        Self { instructions: instructions(), cycles: cycles() }
    }

    /// What `work` takes, without reading the counters before and after.
    #[inline(always)]
    pub(crate) fn of(work: impl FnOnce()) -> Self {
        let before = Self::now();
        work();
        Self::now().map2(before, |after, before| after.wrapping_sub(before) & ((1 << COUNTER_BITS) - 1))
    }

    fn map2(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self { instructions: f(self.instructions, other.instructions), cycles: f(self.cycles, other.cycles) }
    }

    fn print(self, kernel: &str, experts: usize, k: usize) {
        let _ = writeln!(Console, "count {kernel} {experts} {k} {} {}", self.instructions, self.cycles);
    }
}

impl Cost {
    /// What reading the counters takes.
    pub(crate) fn empty() -> Self {
        let mut empty = Self::default();
        (0..COUNTED).for_each(|_| empty.add(|| black_box(())));
        empty
    }

    /// Of two calls in one: where the counters are read within what is counted as well.
    pub(crate) fn twice(mut self) -> Self {
        self.sum = self.sum.map2(self.sum, |a, b| a + b);
        self
    }

    /// Adds what `work` takes, together with reading the counters.
    #[inline(always)]
    pub(crate) fn add<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.add_but(work, Counters::default)
    }

    /// Adds what `work` takes, but for what it says itself that does not count.
    #[inline(always)]
    pub(crate) fn add_but<T>(&mut self, work: impl FnOnce() -> T, but: impl FnOnce() -> Counters) -> T {
        let (instructions_before, cycles_before) = (instructions(), cycles());
        let result = work();
        let (cycles_after, instructions_after) = (cycles(), instructions());
        let difference = |after: u64, before: u64| after.wrapping_sub(before) & ((1 << COUNTER_BITS) - 1);
        let counters = Counters {
            instructions: difference(instructions_after, instructions_before),
            cycles: difference(cycles_after, cycles_before),
        };
        self.record(counters.map2(but(), u64::saturating_sub));
        result
    }

    /// Adds what a call has taken.
    #[inline(never)]
    pub(crate) fn record(&mut self, call: Counters) {
        self.sum = self.sum.map2(call, |a, b| a + b);
        self.most = self.most.map2(call, u64::max);
        self.calls += 1;
    }

    fn mean(self) -> Counters {
        let calls = u64::from(self.calls.max(1));
        self.sum.map2(Counters::default(), |sum, _| (to_instructions(sum) + calls / 2) / calls)
    }

    /// Prints the mean of a call, less what an empty one takes.
    pub(crate) fn print(self, kernel: &str, experts: usize, k: usize, empty: Self) {
        self.mean().map2(empty.mean(), u64::saturating_sub).print(kernel, experts, k);
    }

    /// Prints the call that took most, less what an empty one takes.
    pub(crate) fn print_most(self, kernel: &str, experts: usize, k: usize, empty: Self) {
        let most = self.most.map2(Counters::default(), |most, _| to_instructions(most));
        most.map2(empty.mean(), u64::saturating_sub).print(kernel, experts, k);
    }
}

#[inline(never)]
fn top_k(router: &Router<'_>, logits: &[Logit], wanted: &mut [u16; 16]) -> usize {
    let best = router.top_k::<16>(logits).unwrap_or_default();
    wanted.iter_mut().zip(&best).for_each(|(to, from)| *to = *from);
    best.len()
}

/// `chosen` is what is wanted before, and what runs after.
#[inline(never)]
fn choose(router: &Router<'_>, logits: &[Logit], chosen: &mut [u16], resident: &Experts) -> usize {
    select_in_place(router, Eps::from_bits(171_798_692), 1, logits, chosen, resident).unwrap_or(0)
}

#[inline(never)]
fn update(tracker: &mut Tracker, config: &TrackerConfig, wanted: &[u16]) -> bool {
    tracker.update(config, wanted).lost_lock
}

#[inline(never)]
fn victim(tracker: &Tracker, resident: &Experts, keep: &[u16]) -> Option<u16> {
    tracker.victim(resident, keep)
}

/// Whether the machine has counters.
pub(crate) fn counts() -> bool {
    instructions() != 0 || cycles() != 0
}

/// Prints one line per kernel, E and k. A quarter of the experts are resident: those wanted last; for `_cold`, in which
/// everything wanted is missing, every fourth of the others.
#[inline(never)]
pub(crate) fn report() {
    if !counts() {
        return;
    }
    let empty = Cost::empty();
    calibrate(empty);
    for experts in SIZES {
        for k in TOP_K.into_iter().filter(|&k| 2 * k <= experts) {
            match experts {
                8 => layer::<8>(k, empty),
                16 => layer::<16>(k, empty),
                32 => layer::<32>(k, empty),
                64 => layer::<64>(k, empty),
                128 => layer::<128>(k, empty),
                256 => layer::<256>(k, empty),
                _ => layer::<MOST>(k, empty),
            }
        }
    }
}

/// A loop of two instructions a thousand times, so that a counter that does not count instructions is noticed.
fn calibrate(empty: Cost) {
    let mut cost = Cost::default();
    (0..COUNTED).for_each(|_| cost.add(|| cptr_rt::two_instructions_each(1000)));
    cost.print("two_a_turn", 1000, 0, empty);
    let mut cost = Cost::default();
    (0..COUNTED).for_each(|i| _ = black_box(cost.add(|| exp_neg(black_box(Logit::from_bits(77_777 * i as i32))))));
    cost.print("exp_neg", 1, 0, empty);
}

fn layer<const E: usize>(k: usize, empty: Cost) {
    let mut tracker = Tracker::<[ScaledLevels; E]>::new();
    tokens(&mut tracker, E, k, empty);
    tracker.reset();
    updates(&mut tracker, E, k, empty);
}

/// Tokens before the count of updates starts: the gain has settled.
const SETTLED: u32 = 512;
/// Updates that are counted: both scales are renewed about as often as in the long run, which is every 20.8 and every
/// 176 tokens.
const UPDATES: u32 = 176;

/// Prints the mean of an update, and the one that takes most: at which a scale is renewed.
fn updates(tracker: &mut Tracker, experts: usize, k: usize, empty: Cost) {
    let config = TrackerConfig::default();
    let mut random = Random(3);
    let (mut wanted, mut cost) = ([0; 16], Cost::default());
    for token in 0..SETTLED + UPDATES {
        let wanted = &mut wanted[..k];
        spread(wanted, &mut random, experts);
        if token < SETTLED {
            tracker.update(&config, wanted);
        } else {
            cost.add(|| black_box(update(tracker, black_box(&config), black_box(wanted))));
        }
    }
    cost.print("update", experts, k, empty);
    cost.print_most("update_worst", experts, k, empty);
}

/// The kernels in the order in which they are printed.
const KERNELS: [&str; 7] =
    ["top_k", "top_k_grouped", "select", "select_cold", "select_sigmoid", "select_sigmoid_cold", "victim"];

fn tokens(tracker: &mut Tracker, experts: usize, k: usize, empty: Cost) {
    let (softmax, config) = (Router::softmax_selected(k), TrackerConfig::default());
    let (grouped, sigmoid) = (Router::sigmoid_grouped(k, 8, 4, &[]), Router::sigmoid_grouped(k, 1, 1, &[]));
    let mut resident = ExpertSet::<{ words_for(MOST) }>::new();
    let mut random = Random(1);
    let mut logits = [Logit::ZERO; MOST];
    let logits = &mut logits[..experts];
    let mut costs = [Cost::default(); KERNELS.len()];
    let (mut wanted, mut chosen) = ([0; 16], [0; 16]);
    for token in 0..WARM + COUNTED {
        if token == WARM {
            costs = Default::default();
        }
        let [for_top_k, for_grouped, for_select @ .., for_victim] = &mut costs;
        fill(logits, &mut random, 1);
        // Two sigmoids per expert take long on slow machines: only for layers like those of the models that have such
        // routers.
        if experts >= 64 && k == 8 {
            for_grouped.add(|| top_k(&grouped, black_box(logits), &mut wanted));
        }
        let found = for_top_k.add(|| top_k(&softmax, black_box(logits), &mut wanted));
        let wanted = &wanted[..found];
        let mut others = ExpertSet::<{ words_for(MOST) }>::new();
        (0..experts as u16).filter(|expert| expert % 4 == token as u16 % 4 && !wanted.contains(expert)).for_each(
            |expert| {
                others.insert(expert);
            },
        );
        let cases = [(&softmax, &resident), (&softmax, &others), (&sigmoid, &resident), (&sigmoid, &others)];
        for (cost, (router, resident)) in for_select.iter_mut().zip(cases) {
            let chosen = &mut chosen[..found];
            chosen.copy_from_slice(wanted);
            cost.add(|| black_box(choose(router, black_box(logits), black_box(chosen), black_box(resident))));
        }
        for_victim.add(|| black_box(victim(tracker, black_box(&resident), black_box(wanted))));
        tracker.update(&config, wanted);
        wanted.iter().for_each(|&expert| {
            resident.insert(expert);
        });
        while resident.len() > (experts / 4).max(k) {
            let gone = tracker.victim(&resident, wanted);
            gone.map(|expert| resident.remove(expert));
        }
    }
    for (kernel, cost) in KERNELS.iter().zip(costs).filter(|(_, cost)| cost.calls > 0) {
        cost.print(kernel, experts, k, empty);
    }
}
