//! What is kept from token to token: levels, recall's memory, caches.

use arbitrary::{Result, Unstructured};
use cptr_core::cache::{self, Cache, Load, Memory, NOTHING, Step};
use cptr_core::recall::{self, Recall};
use cptr_core::testing::oracle;
use cptr_core::{
    Bounds, Eps, ExpertSet, Gain, KalmanConfig, Level, Logit, PhaseConfig, Router, ScaledLevels, Tracker, TrackerConfig,
};

fn tracker_config(input: &mut Unstructured<'_>) -> Result<TrackerConfig> {
    Ok(TrackerConfig {
        kalman: KalmanConfig::from_gains(Gain::from_bits(input.arbitrary()?), Gain::from_bits(input.arbitrary()?)),
        fast_gain: Gain::from_bits(input.arbitrary()?),
        phase: PhaseConfig {
            proportional_shift: input.arbitrary()?,
            integral_shift: input.arbitrary()?,
            acquire_tokens: input.arbitrary()?,
            slack_16ths: input.arbitrary()?,
            threshold: input.arbitrary()?,
        },
    })
}

pub(super) fn filter(data: &[u8]) {
    let _ = any_filter(&mut Unstructured::new(data));
}

/// Up to 8 ids, of 24 experts; some beyond the levels.
fn ids(input: &mut Unstructured<'_>, experts: u16) -> Result<Vec<u16>> {
    let mut ids = Vec::new();
    for _ in 0..input.int_in_range(0..=8)? {
        let id = input.int_in_range(0..=experts - 1)?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn any_filter(input: &mut Unstructured<'_>) -> Result<()> {
    let usual: bool = input.arbitrary()?;
    let config = if usual { TrackerConfig::default() } else { tracker_config(input)? };
    let mut tracker = Tracker::<[ScaledLevels; 24]>::new();
    let mut exact = oracle::Tracker::new(24);
    // Whether lock was lost at the same tokens on both sides so far: an alarm is a comparison, and may be close.
    let mut alike = usual;
    while !input.is_empty() {
        if input.ratio(1, 16)? {
            let mut words = tracker.saved();
            let mut again = Tracker::<[ScaledLevels; 24]>::new();
            (0..48).for_each(|word| assert!(again.restore_level(word, tracker.saved_level(word).unwrap_or(0))));
            assert!(again.restore(&words) && again == tracker, "saved and restored");
            if input.ratio(1, 4)? {
                // A bit of what is kept is flipped: refused, or it goes on within its range.
                words[input.choose_index(words.len())?] ^= 1 << input.int_in_range(0..=31)?;
                alike &= !tracker.restore(&words);
                let word = input.choose_index(48)?;
                if input.arbitrary()? {
                    tracker.restore_level(word, input.arbitrary()?);
                    alike = false;
                }
            }
        }
        let wanted = ids(input, if usual { 24 } else { 40 })?;
        let step = tracker.update(&config, &wanted);
        assert!(step.angle >= 0 && step.angle <= cptr_core::Angle::FRAC_PI_2, "{step:?}");
        if usual {
            alike &= step.lost_lock == exact.update(&wanted);
            if alike {
                for (expert, levels) in tracker.levels().enumerate() {
                    let [slow, fast] = exact.level(expert);
                    let error =
                        (levels.slow.to_num::<f64>() - slow).abs().max((levels.fast.to_num::<f64>() - fast).abs());
                    assert!(error < 1e-5, "expert {expert}: {levels:?}, by definition {slow} and {fast}");
                }
            }
        }
        let resident = ExpertSet::<1>::new();
        assert_eq!(tracker.victim(&resident, &wanted), None);
    }
    Ok(())
}

pub(super) fn recall(data: &[u8]) {
    let _ = any_recall(&mut Unstructured::new(data));
}

fn any_recall(input: &mut Unstructured<'_>) -> Result<()> {
    const TOKENS: usize = 64;
    let shape = recall::Shape {
        layers: input.int_in_range(1..=4)?,
        experts: *input.choose(&[4, 16, 255, 300])?,
        k: input.int_in_range(1..=4)?,
    };
    let config = if input.arbitrary()? {
        recall::Config::default()
    } else {
        recall::Config {
            candidates: input.arbitrary()?,
            before: input.arbitrary()?,
            now: input.arbitrary()?,
            leading: input.arbitrary()?,
            thinning: input.arbitrary()?,
            farthest: input.arbitrary()?,
        }
    };
    // Whatever was in the memory.
    let words = vec![input.arbitrary::<u32>()?; shape.words(TOKENS, 2)];
    let Ok(mut recall) = Recall::<_, 2, 16>::new(&config, shape, TOKENS, words) else { return Ok(()) };
    let mut shares = vec![Level::ZERO; shape.experts.into()];
    let mut saved = vec![0u32; 1 << 16];
    while !input.is_empty() {
        for layer in 0..shape.layers {
            let tokens = input.int_in_range(1..=12)?;
            recall.forecast(layer, tokens, &mut shares).expect("a layer, a number of tokens, a share for each expert");
            let most = shares.iter().map(|share| share.to_num::<f64>()).fold(0.0, f64::max);
            assert!(most <= 1.0 + 1e-6, "{most}");
            let mut ids = ids(input, shape.experts)?;
            ids.truncate(shape.k.into());
            recall.observe(&config, layer, &ids).expect("distinct ids of a layer");
        }
        recall.end_token(&config).expect("all layers have chosen");
        if input.ratio(1, 16)? {
            let Ok(length) = recall.save(7, &mut saved) else { continue };
            let mut words = saved[..length].to_vec();
            recall.restore(&config, 7, &words).expect("its own");
            // Damage is refused; nothing changes.
            let at = input.choose_index(length)?;
            words[at] ^= 1 << input.int_in_range(0..=31)?;
            assert!(recall.restore(&config, 7, &words).is_err(), "bit of word {at}");
            words[at] = saved[at];
            assert!(recall.save(7, &mut saved).is_ok_and(|again| saved[..again] == words), "a refusal changes nothing");
        }
    }
    Ok(())
}

pub(super) fn cache(data: &[u8]) {
    let _ = any_cache(&mut Unstructured::new(data));
}

/// What is in each slot by what the cache has said, and by nothing else.
struct Twin {
    /// Expert in each slot, layer by layer; on its way or there.
    slots: Vec<Vec<u16>>,
    arriving: Vec<(u16, u16)>,
    pinned: Vec<(u16, u16)>,
}

impl Twin {
    /// A load: into a slot whose expert is the victim, of somebody who is nowhere.
    fn load(&mut self, load: Load) {
        let slots = &mut self.slots[usize::from(load.layer)];
        assert_eq!(self.arriving.contains(&(load.layer, load.expert)), load.on_its_way, "{load:?}");
        if load.on_its_way {
            assert_eq!(slots[usize::from(load.slot)], load.expert, "it is on its way to there");
            self.arriving.retain(|&other| other != (load.layer, load.expert));
            return;
        }
        assert!(!slots.contains(&load.expert), "{load:?} is there");
        assert_eq!(slots[usize::from(load.slot)], load.victim, "{load:?}");
        assert!(!self.pinned.contains(&(load.layer, load.victim)), "{load:?} takes the place of a pinned one");
        slots[usize::from(load.slot)] = load.expert;
        // Where nobody else could, one that was on its way has gone.
        self.arriving.retain(|&other| other != (load.layer, load.victim));
    }
}

fn any_cache(input: &mut Unstructured<'_>) -> Result<()> {
    let experts = input.int_in_range(2..=24u16)?;
    let shape = cache::Shape {
        layers: input.int_in_range(1..=3)?,
        experts,
        k: input.int_in_range(1..=4u16)?.min(experts),
        slots: input.int_in_range(1..=experts)?,
        tokens: input.int_in_range(1..=4)?,
        remembered: 64,
    };
    let bounds = Bounds { mass: Eps::from_bits(input.arbitrary()?), error: None };
    let config = cache::Config {
        bounds,
        keep_top: input.int_in_range(0..=4)?,
        joint: input.arbitrary()?,
        fetches: input.int_in_range(0..=8)?,
        sure: Level::from_bits(input.arbitrary::<u32>()? >> 1),
        ..cache::Config::default()
    };
    let (layers, all) = (usize::from(shape.layers), usize::from(shape.layers) * usize::from(experts));
    let (mut levels, mut shares) = (vec![ScaledLevels::ZERO; all], vec![Level::ZERO; all]);
    let (mut lies, mut places) = (vec![NOTHING; layers * usize::from(shape.slots)], vec![NOTHING; all]);
    let per = usize::from(experts);
    let parts = levels.chunks_mut(per).zip(lies.chunks_mut(shape.slots.into()));
    let parts = parts.zip(places.chunks_mut(per).zip(shares.chunks_mut(per)));
    let mut states: Vec<cache::Layer<'_>> =
        parts.map(|((levels, slots), (places, shares))| cache::Layer::new(levels, slots, places, shares)).collect();
    let memory = Memory {
        layers: &mut states,
        recall: &mut vec![0; shape.recall_words(2)],
        companions: &mut vec![0; shape.companions_words()],
        wanted: &mut vec![0; shape.wanted()],
        forecasts: &mut vec![Level::ZERO; 3 * per],
        logits: &mut vec![Logit::ZERO; shape.logits()],
    };
    let Ok(mut cache) = Cache::<2, 16>::new(&config, shape, memory) else { return Ok(()) };
    let router =
        if input.arbitrary()? { Router::softmax_all(shape.k.into()) } else { Router::softmax_selected(shape.k.into()) };
    let slots = vec![vec![NOTHING; shape.slots.into()]; layers];
    let mut twin = Twin { slots, arriving: Vec::new(), pinned: Vec::new() };
    let mut next = 0;
    let mut tokens = 1;
    while !input.is_empty() {
        match input.int_in_range(0..=7)? {
            0 => {
                let (layer, expert) = (input.int_in_range(0..=shape.layers)?, input.int_in_range(0..=experts)?);
                let stays = input.arbitrary()?;
                let there = twin.slots.get(usize::from(layer)).is_some_and(|slots| slots.contains(&expert));
                if cache.pin(layer, expert, stays).is_ok() {
                    assert!(there, "pinned where it is not");
                    twin.pinned.retain(|&other| other != (layer, expert));
                    if stays {
                        twin.pinned.push((layer, expert));
                    }
                }
            }
            1 => {
                let mut fetches = Vec::new();
                cache.fetch(&config, |load| fetches.push(load));
                for load in fetches {
                    twin.load(load);
                    twin.arriving.push((load.layer, load.expert));
                }
            }
            2 if !twin.arriving.is_empty() => {
                let (layer, expert) = twin.arriving.swap_remove(input.choose_index(twin.arriving.len())?);
                cache.loaded(layer, expert).expect("it was on its way");
            }
            3 => {
                let (layer, expert) = (input.int_in_range(0..=shape.layers)?, input.int_in_range(0..=experts)?);
                if cache.lost(layer, expert).is_ok() {
                    let slot = twin.slots[usize::from(layer)].iter_mut().find(|other| **other == expert);
                    *slot.expect("it was there") = NOTHING;
                    twin.arriving.retain(|&other| other != (layer, expert));
                    twin.pinned.retain(|&other| other != (layer, expert));
                }
            }
            _ => {
                if next == 0 {
                    tokens = input.int_in_range(1..=shape.tokens)?;
                }
                let wrong = input.ratio(1, 32)?;
                let layer = if wrong { input.int_in_range(0..=shape.layers)? } else { next };
                let rows: Vec<Logit> = (0..usize::from(tokens) * per)
                    .map(|_| Ok(Logit::from_bits(i32::from(input.arbitrary::<i8>()?) << 12)))
                    .collect::<Result<_>>()?;
                let room = usize::from(tokens) * usize::from(shape.k);
                let (mut ids, mut at, mut waves) = (vec![0; room], vec![0; room], vec![0; room]);
                let mut step = Step { layer, tokens, ids: &mut ids, slots: &mut at, waves: &mut waves };
                let row = |token: u16, row: &mut [Logit]| row.copy_from_slice(&rows[usize::from(token) * per..][..per]);
                let mut loads = Vec::new();
                let Ok(counts) = cache.step(&config, &router, &mut step, row, |load| loads.push(load)) else {
                    assert!(loads.is_empty(), "a step that is refused loads nothing");
                    continue;
                };
                assert_eq!((counts.loads, layer), (loads.len(), next));
                let waves_of = waves.iter().filter(|&&wave| wave != NOTHING).max().map_or(0, |most| most + 1);
                for wave in 0..waves_of {
                    loads.iter().filter(|load| load.wave == wave).for_each(|&load| twin.load(load));
                    for choice in (0..room).filter(|&choice| waves[choice] == wave && ids[choice] != NOTHING) {
                        let slots = &twin.slots[usize::from(layer)];
                        assert_eq!(slots[usize::from(at[choice])], ids[choice], "every chosen expert has its slot");
                        assert!(!twin.arriving.contains(&(layer, ids[choice])), "and has arrived");
                    }
                }
                for list in ids.chunks(shape.k.into()) {
                    let chosen: Vec<u16> = list.iter().copied().filter(|&id| id != NOTHING).collect();
                    assert!(Router::check_ids(&chosen, per).is_ok(), "{chosen:?}");
                }
                next = (next + 1) % shape.layers;
            }
        }
    }
    Ok(())
}
