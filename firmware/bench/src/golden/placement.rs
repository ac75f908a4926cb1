//! What lies where: placement after the prompt, bits of what is cold, and re-placement when the context changes.

use cptr_core::bits::{BitsError, Losses, Split, scratch_for, split, split_globally};
use cptr_core::context::{ChangeConfig, ChangeDetector, distance, trackers};
use cptr_core::placement::{Candidate, Demand, hot_globally, hot_in_layer, importance, rank};
use cptr_core::replace::{Allowance, ReplaceConfig, swap};
use cptr_core::shares::{Share, Shares};
use cptr_core::{Eps, ExpertSet, Gate, Level, ScaledLevels, Tracker};

use super::{Hash, corners};
use crate::random::{Random, spread};

const EXPERTS: usize = 24;

/// Demand in all its ranges, importance at both ends and between, ranks, and what fits.
#[inline(never)]
pub(super) fn placements() -> Hash {
    let (mut hash, mut random) = (Hash::START, Random(31));
    let mut demand = [Demand::default(); EXPERTS];
    for token in 0..60u32 {
        let mut chosen = [0; 4];
        spread(&mut chosen, &mut random, EXPERTS + 4);
        let weights: [Gate; 3] = core::array::from_fn(|_| Gate::from_bits(random.bits() >> (token % 32)));
        Demand::observe(&mut demand, &chosen, &weights);
    }
    for (demand, corner) in demand.iter_mut().zip(corners().step_by(9)) {
        demand.add(corner >> 12, corner.into());
        hash.word(demand.count());
        hash.long(demand.score());
    }
    let (mut values, mut order) = ([Gate::ZERO; EXPERTS], [0; EXPERTS]);
    for (layer, alpha) in [0, 1 << 31, 77, u32::MAX].into_iter().enumerate() {
        importance(&demand[layer..], Eps::from_bits(alpha), &mut values[layer..]);
        rank(&values, &mut order);
        values.iter().for_each(|value| hash.word(value.to_bits()));
        hash.ids(&order);
        let mut candidates = values.map(|importance| Candidate { importance, layer: 0, expert: 0 });
        for (candidate, id) in candidates.iter_mut().zip(0u16..) {
            (candidate.layer, candidate.expert) = (id % 3, id);
        }
        let budget = 5 * random.bits() as u64;
        let hot = hot_globally(&mut candidates, 1 << 30, budget);
        hash.word(hot as u32);
        // The order of the others is not defined, but the same everywhere.
        candidates.iter().for_each(|candidate| hash.word(candidate.expert.into()));
        hash.word(hot_in_layer(EXPERTS, u64::from(random.bits()), budget) as u32);
    }
    hash
}

fn hash_split(hash: &mut Hash, split: &Split) {
    hash.ids(&split.experts);
    hash.long(split.gain);
    hash.word(split.increments());
    (0..EXPERTS + 1).step_by(5).for_each(|rank| hash.word(split.bits(rank).unwrap_or(0).into()));
}

fn hash_result(hash: &mut Hash, split: &Result<Split, BitsError>) {
    match split {
        Ok(split) => hash_split(hash, split),
        Err(error) => hash_error(hash, error),
    }
}

fn hash_error(hash: &mut Hash, error: &BitsError) {
    match *error {
        BitsError::Negative { rank, bits, loss } => [1, rank as u32, bits.into(), loss.cast_unsigned()],
        BitsError::Increasing { rank, bits, loss, .. } => [2, rank as u32, bits.into(), loss.cast_unsigned()],
        BitsError::Budget { increments, most } => [3, increments, most, 0],
        BitsError::Memory { needed, given } => [4, needed as u32, given as u32, 0],
        _ => [5, 0, 0, 0],
    }
    .into_iter()
    .for_each(|word| hash.word(word));
}

/// Splits of a layer and of several under one budget, at every sort of budget, and what is refused.
#[inline(never)]
pub(super) fn splits() -> Hash {
    let (mut hash, mut random) = (Hash::START, Random(37));
    let (mut losses, mut scratch) = ([Losses::default(); EXPERTS], [0; scratch_for(EXPERTS)]);
    for experts in [0, 1, 6, EXPERTS] {
        let losses = &mut losses[..experts];
        for loss in losses.iter_mut() {
            let mut most = random.bits() >> 1;
            loss.fill_with(|| {
                most = ((u64::from(most) * u64::from(random.bits() >> 16)) >> 16) as u32;
                most.cast_signed()
            });
        }
        for increments in [0, experts / 2, experts, 2 * experts + 1, 3 * experts, 3 * experts + 1] {
            hash_result(&mut hash, &split(losses, increments as u32, &mut scratch));
        }
    }
    let layers = [&losses[..6], &losses[6..9], &losses[9..]];
    let mut splits = [Split::default(); 3];
    for increments in [0, 7, EXPERTS as u32, 3 * EXPERTS as u32, 99] {
        match split_globally(&layers, increments, &mut scratch, &mut splits) {
            Ok(()) => splits.iter().for_each(|split| hash_split(&mut hash, split)),
            Err(error) => hash_error(&mut hash, &error),
        }
    }
    for wrong in [[-1, -2, -3, -4], [4, 3, 2, 5]] {
        losses[3] = wrong;
        hash_result(&mut hash, &split(&losses, 9, &mut scratch));
    }
    hash_result(&mut hash, &split(&losses, 9, &mut scratch[..EXPERTS]));
    hash
}

/// Distances and alarms over a text whose context changes twice; distances of any size.
#[inline(never)]
pub(super) fn changes() -> Hash {
    let (mut hash, mut random) = (Hash::START, Random(41));
    let config = ChangeConfig { acquire_tokens: 24, hold_tokens: 8, threshold: 8, ..ChangeConfig::default() };
    let (trackers, mut detector) = (trackers(), ChangeDetector::new());
    let mut layers = [const { Tracker::<[ScaledLevels; EXPERTS]>::new() }; 2];
    for token in 0..150u32 {
        let distances = layers.each_mut().map(|tracker| {
            let mut wanted = [0; 4];
            spread(&mut wanted, &mut random, EXPERTS / 2);
            wanted.iter_mut().for_each(|id| *id += (token / 60 % 2 * EXPERTS as u32 / 2) as u16);
            wanted[0] = if token % 16 == 0 { u16::MAX } else { wanted[0] };
            let wanted = &wanted[..(token % 5) as usize];
            let distance = distance(tracker, wanted);
            tracker.update(&trackers, wanted);
            distance
        });
        distances.iter().for_each(|distance| hash.word(distance.to_bits().cast_unsigned()));
        hash.word(detector.step(&config, &distances).into());
        hash.word(detector.settling(&config).into());
    }
    for config in
        [ChangeConfig { gain_shift: 255, slack_16ths: 255, ..config }, ChangeConfig { threshold: 0, ..config }]
    {
        for bits in corners().step_by(3) {
            let distance = cptr_core::Angle::from_bits(bits.cast_signed() >> 2);
            hash.word(detector.step(&config, &[distance, -distance / 2]).into());
        }
    }
    hash.word(detector.step(&config, &[]).into());
    hash
}

/// What pays, what is exchanged, and how often at most.
#[inline(never)]
pub(super) fn migrations() -> Hash {
    let (mut hash, mut random) = (Hash::START, Random(43));
    for copy in corners().step_by(11) {
        for (saving, horizon_tokens) in [(0, 9), (1, u32::MAX), (u32::MAX, 1), (1000, 512)] {
            let margin = ReplaceConfig { saving, copy, horizon_tokens }.margin();
            hash.word(margin.map_or(u32::MAX, Level::to_bits));
        }
    }
    let mut allowance = Allowance::new(1 << 14, 3);
    for round in 0..60u32 {
        let levels: [Level; EXPERTS] = core::array::from_fn(|_| Level::from_bits(random.bits() >> (1 + round % 3)));
        let (mut resident, mut busy) = (ExpertSet::<1>::new(), ExpertSet::<1>::new());
        for expert in 0..EXPERTS as u16 + 2 {
            if random.bits() >> 30 == 0 {
                resident.insert(expert);
            }
            if random.bits() >> 29 == 0 {
                busy.insert(expert);
            }
        }
        let margin = Level::from_bits(random.bits() >> 2);
        match swap(levels, &resident, &busy, margin) {
            Some(swap) => {
                hash.ids(&[swap.load, swap.evict]);
                hash.word(swap.gain.to_bits());
                hash.word(allowance.take().into());
            }
            None => allowance.token(),
        }
    }
    hash
}

/// Parts of one limit, of tenants that come and go, from none to all that a limit may be.
#[inline(never)]
pub(super) fn shares() -> Hash {
    const TENANTS: usize = 7;
    let (mut hash, mut random) = (Hash::START, Random(47));
    for rate in corners().step_by(13) {
        let burst = if rate % 3 == 0 { random.bits() } else { random.bits() >> 26 };
        let mut shares = Shares::new(rate, burst, [Share::default(); TENANTS]);
        for _ in 0..12 {
            let here = random.bits() >> 24;
            shares.step(|tenant| here >> tenant & 1 != 0);
            for _ in 0..20 {
                let asks = (random.bits() >> 29) as usize;
                hash.word(shares.take(asks).into());
            }
            let richest = shares.richest((0..TENANTS + 1).rev());
            hash.word(richest.unwrap_or(TENANTS) as u32);
        }
        for share in (0..TENANTS).filter_map(|tenant| shares.of(tenant)) {
            [share.left(), share.taken(), share.refused()].iter().for_each(|&count| hash.word(count));
        }
    }
    hash
}
