//! A whole model's cache, token by token and in batches; and who leads.

use cptr_core::cache::{Cache, Config, Layer, Load, Memory, NOTHING, Shape, Step};
use cptr_core::lead::{Lead, LeadConfig};
use cptr_core::{Bounds, Eps, Gain, Level, Logit, Router, ScaledLevels};

use super::Hash;
use crate::random::{Random, fill};

const EXPERTS: usize = 16;
const K: usize = 2;
const SLOTS: usize = 6;
const TOKENS: usize = 4;
const SHAPE: Shape = Shape {
    layers: 2,
    experts: EXPERTS as u16,
    k: K as u16,
    slots: SLOTS as u16,
    tokens: TOKENS as u16,
    remembered: 64,
};

/// Single tokens and batches of 4, with both bounds and without, with fetches that arrive late, early and never, pins,
/// and a memory that is saved and restored.
#[inline(never)]
pub(super) fn caches() -> Hash {
    let mut hash = Hash::START;
    let (mut recall, mut companions) = ([0; SHAPE.recall_words(2)], [0; SHAPE.companions_words()]);
    let mut levels = [[ScaledLevels::ZERO; EXPERTS]; 2];
    let (mut slots, mut places) = ([[NOTHING; SLOTS]; 2], [[NOTHING; EXPERTS]; 2]);
    let mut shares = [[Level::ZERO; EXPERTS]; 2];
    let [levels_0, levels_1] = &mut levels;
    let ([slots_0, slots_1], [places_0, places_1]) = (&mut slots, &mut places);
    let [shares_0, shares_1] = &mut shares;
    let mut layers =
        [Layer::new(levels_0, slots_0, places_0, shares_0), Layer::new(levels_1, slots_1, places_1, shares_1)];
    let (mut forecasts, mut logits) = ([Level::ZERO; 3 * EXPERTS], [Logit::ZERO; EXPERTS]);
    let mut wanted = [0; SHAPE.wanted()];
    let memory = Memory {
        layers: &mut layers,
        recall: &mut recall,
        companions: &mut companions,
        wanted: &mut wanted,
        forecasts: &mut forecasts,
        logits: &mut logits,
    };
    let config = Config::default();
    match Cache::<2, 32>::new(&config, SHAPE, memory) {
        Ok(mut cache) => tokens(&mut cache, config, &mut hash),
        Err(error) => hash.word(error as u32),
    }
    hash
}

#[inline(never)]
fn tokens(cache: &mut Cache<'_, 2, 32>, usual: Config, hash: &mut Hash) {
    const SAVED: usize = Cache::<2, 32>::saved_words(SHAPE);
    let (mut random, mut saved) = (Random(47), [0; SAVED]);
    let error = Some(Eps::from_bits(1 << 28));
    let bounds = [Bounds::from(Eps::ZERO), Eps::from_bits(343_597_384).into(), Bounds { mass: Eps::MAX, error }];
    let router = Router::softmax_selected(K);
    let mut token = 0;
    for turn in 0..70u32 {
        let config = Config { bounds: bounds[(turn / 8 % 3) as usize], fetches: 2, sure: Level::ZERO, ..usual };
        let tokens = if turn % 8 == 7 { TOKENS as u16 } else { 1 };
        for layer in 0..SHAPE.layers {
            let row = |of: u16, logits: &mut [Logit]| {
                let at = (token + u32::from(of)) % 24;
                fill(logits, &mut Random(at.wrapping_mul(2_654_435_761) + u32::from(layer)), at / 6);
            };
            step(cache, &config, &router, layer, tokens, row, hash);
            let mut fetched = None;
            let count = cache.fetch(&config, |load: Load| {
                hash_load(hash, load);
                fetched = Some(load);
            });
            hash.word(count as u32);
            if let Some(Load { layer, expert, .. }) = fetched {
                let done = match random.bits() >> 29 {
                    0 => Ok(()),
                    1 => cache.lost(layer, expert),
                    _ => cache.loaded(layer, expert),
                };
                hash.word(done.is_ok().into());
            }
            let pinned = cache.pin(layer, (random.bits() >> 28) as u16, turn % 3 == 0);
            hash.word(pinned.map_or_else(|error| error as u32, |()| 99));
        }
        token += u32::from(tokens);
        if turn == 40 {
            hash.word(cache.save(7, &mut saved).is_ok().into());
            saved.iter().for_each(|&word| hash.word(word));
        }
        if turn == 50 {
            for model in [8, 7] {
                hash.word(cache.restore(&config, model, &saved).map_or_else(|error| error as u32, |()| 99));
            }
        }
    }
}

fn step(
    cache: &mut Cache<'_, 2, 32>,
    config: &Config,
    router: &Router<'_>,
    layer: u16,
    tokens: u16,
    row: impl FnMut(u16, &mut [Logit]),
    hash: &mut Hash,
) {
    let (mut ids, mut slots, mut waves) = ([NOTHING; TOKENS * K], [NOTHING; TOKENS * K], [NOTHING; TOKENS * K]);
    let mut step = Step { layer, tokens, ids: &mut ids, slots: &mut slots, waves: &mut waves };
    match cache.step(config, router, &mut step, row, |load| hash_load(hash, load)) {
        Ok(counts) => [counts.loads, counts.waves, counts.stand_ins].iter().for_each(|&count| hash.word(count as u32)),
        Err(error) => hash.word(error as u32),
    }
    for list in [ids, slots, waves] {
        hash.ids(&list);
    }
}

fn hash_load(hash: &mut Hash, load: Load) {
    hash.ids(&[load.layer, load.expert, load.slot, load.victim, load.wave, load.on_its_way.into()]);
}

/// Followed and drawn leaders: losses that take turns, and losses without end.
#[inline(never)]
pub(super) fn leaders() -> Hash {
    let (mut hash, mut random) = (Hash::START, Random(53));
    for (excess, change) in [(1 << 27, 16), (0, 0), (u32::MAX, u32::MAX)] {
        let config = LeadConfig::new(Gain::from_bits(excess), change, 8);
        let mut lead = Lead::<3>::new(change);
        for step in 0..300u32 {
            let mut losses = [0; 3].map(|_: u32| random.bits() >> 29);
            losses[lead.leader()] += 4;
            if step == 280 {
                losses = [u32::MAX, 0, u32::MAX - 1];
            }
            let ours = losses[lead.leader()] + u32::from(step % 8 == 0);
            hash.word(lead.learn(&config, &losses, ours) as u32);
            hash.word(lead.draws().into());
            if step == 200 {
                lead.restart();
            }
        }
    }
    hash
}
