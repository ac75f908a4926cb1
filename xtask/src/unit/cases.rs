//! Requests by chance within limits: usual ones, and the ends of all ranges.

use std::io::Write;

use cptr_core::{Angle, ExpertSet, Logit, PhaseConfig, TrackerConfig};

use super::Done;
use super::golden::corner_logits;
use super::model::{By, Settings, Unit, gains};
use super::random::{Random, fill};
use super::script::command::{APPLY, LEARN};

/// A number below a limit.
pub(super) fn below(random: &mut Random, limit: usize) -> usize {
    (random.bits() >> 8) as usize % limit.max(1)
}

/// One of some.
pub(super) fn one<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[below(random, of.len())]
}

/// Logits of a token: usual ones, ties, whole numbers of a byte, the ends of the format, corners of numbers.
pub(super) fn logits(random: &mut Random, count: usize) -> Vec<Logit> {
    let mut logits = vec![Logit::ZERO; count];
    let kind = below(random, 12);
    match kind {
        0 => {}
        1 => corner_logits(random, &mut logits),
        2..5 => {
            let few = one(random, &[1, 2, 5, 30]);
            for logit in &mut logits {
                *logit = match kind {
                    2 => Logit::from_num(below(random, few)),
                    3 => Logit::from_num(below(random, 256) as i32 - 128),
                    _ => one(random, &[Logit::MIN, Logit::MAX, Logit::ZERO, Logit::DELTA, Logit::from_num(-128)]),
                };
            }
        }
        // Distances at which something is left of an exponential, and a little beyond.
        6 | 7 => {
            logits.iter_mut().for_each(|logit| *logit = Logit::from_bits(-(below(random, 23 << 16) as i32)));
            if let Some(first) = logits.first_mut() {
                *first = Logit::ZERO;
            }
        }
        5 => logits.iter_mut().for_each(|logit| *logit = Logit::from_bits(random.bits().cast_signed() >> 6)),
        _ => {
            let context = below(random, 4) as u32;
            fill(&mut logits, random, context);
        }
    }
    logits
}

/// Residents below `experts`: none, all, or some.
pub(super) fn residents(random: &mut Random, experts: usize) -> ExpertSet<32> {
    let mut resident = ExpertSet::new();
    let share = one(random, &[0, 1, 2, 3, 4, 8]);
    for expert in 0..experts as u16 {
        if below(random, 8) < share {
            resident.insert(expert);
        }
    }
    resident
}

/// What is said before a request of some experts.
pub(super) fn settings(random: &mut Random, most: usize, experts: usize) -> Settings {
    let most = most.min(experts);
    let k = match below(random, 6) {
        0 => most,
        1 => 1,
        _ => 1 + below(random, most),
    };
    let mass = match below(random, 6) {
        0 => 0,
        1 => u32::MAX,
        2 => 1,
        3 => random.bits(),
        _ => random.bits() >> 4,
    };
    let error = match below(random, 4) {
        0 => Some(one(random, &[0, 1, u32::MAX])),
        1 => Some(random.bits() >> below(random, 6)),
        _ => None,
    };
    Settings {
        experts,
        k,
        by: one(random, &[By::All, By::Chosen, By::Sigmoid]),
        keep_top: one(random, &[0, 0, 1, 1, 2, k, 127]),
        capacity: one(random, &[0, 1, experts / 4, experts / 2, experts]),
        mass,
        error,
    }
}

/// Now and then, where the number of experts allows it, the same with a router by scores, in groups or not, whose
/// choice nobody alters.
fn scored(random: &mut Random, settings: Settings) -> Settings {
    let Settings { experts, k, .. } = settings;
    if below(random, 4) != 0 {
        return settings;
    }
    // Sizes that divide the experts, into no more groups than there may be.
    let fits = |&size_log2: &u8| experts.is_multiple_of(1 << size_log2) && experts >> size_log2 <= 32;
    let sizes: Vec<u8> = (0..=10).filter(fits).collect();
    let (size_log2, open) = if sizes.is_empty() || below(random, 4) == 0 {
        (below(random, 16) as u8, 0)
    } else {
        let size_log2 = one(random, &sizes);
        let (least, most) = (k.div_ceil(1 << size_log2), (experts >> size_log2).min(8));
        if least > most { (size_log2, 0) } else { (size_log2, (least + below(random, most - least + 1)) as u8) }
    };
    let by = By::Scores { size_log2, open, two_best: below(random, 2) == 0 };
    Settings { by, mass: 0, ..settings }
}

/// Biases of a router: usual ones, which are about as large as what scores differ by, equal ones, the ends of the
/// format.
fn biases(random: &mut Random, count: usize) -> Vec<Logit> {
    let kind = below(random, 5);
    let bias = |random: &mut Random| match kind {
        0 => Logit::DELTA,
        1 => one(random, &[Logit::MIN, Logit::MAX, Logit::ZERO, Logit::DELTA]),
        2 => Logit::from_bits(random.bits().cast_signed()),
        _ => Logit::from_bits(random.bits().cast_signed() >> 15),
    };
    let mut biases: Vec<Logit> = (0..count).map(|_| bias(random)).collect();
    // One that is nothing everywhere is none.
    biases[0] = biases[0].max(Logit::DELTA);
    biases
}

/// Requests by chance, in series of one number of experts in all layers.
pub(super) fn requests<W: Write>(unit: &mut Unit<W>, seed: u32, series: usize, each: usize) -> Done {
    unit.restart();
    let mut random = Random(seed);
    let sizes = unit.sizes;
    for number in 0..series {
        let experts = match number % 4 {
            0 => sizes.experts,
            1 => 1 + below(&mut random, sizes.experts),
            2 => 1 + below(&mut random, 9),
            _ => sizes.k.min(sizes.experts),
        };
        if experts > 2 && sizes.k > 1 {
            stand_in_first(unit, experts)?;
        }
        for layer in 0..sizes.layers {
            unit.clear(layer);
            let resident = residents(&mut random, experts);
            unit.residents(layer, resident);
            unit.bias(layer, biases(&mut random, sizes.experts));
        }
        let phase = PhaseConfig {
            acquire_tokens: one(&mut random, &[0, 1, 3, 32]),
            threshold: one(&mut random, &[1, 4, 10, 255]),
            slack_16ths: one(&mut random, &[0, 18, 255]),
            proportional_shift: one(&mut random, &[1, 3, 6, 15, 33]),
            integral_shift: one(&mut random, &[1, 6, 12, 23, 255]),
        };
        let of_gains = one(&mut random, &[(1 << 26, u32::MAX / 20, 1 << 29), (u32::MAX, u32::MAX, 1), (1 << 30, 1, 0)]);
        unit.tracker(TrackerConfig { phase, ..gains(of_gains.0, of_gains.1, of_gains.2) });
        let (stream, answers) = (one(&mut random, &[0, 0, 40, 200]), one(&mut random, &[0, 0, 100, 240]));
        unit.script.stalls(stream, answers);
        // No error is allowed, and a stand-in of no mass for an expert of none would cost none.
        let mut one_of_all = vec![Logit::MIN; experts];
        one_of_all[below(&mut random, experts)] = Logit::MAX;
        let none = settings(&mut random, sizes.k, experts);
        let none = Settings { k: sizes.k.min(experts), keep_top: 1, mass: u32::MAX, error: Some(0), ..none };
        unit.request(0, none, &one_of_all, 0)?;
        for _ in 0..each {
            let layer = below(&mut random, sizes.layers);
            let settings = settings(&mut random, sizes.k, experts);
            let settings = scored(&mut random, settings);
            let logits = logits(&mut random, experts);
            let flags = one(&mut random, &[0, APPLY, LEARN, APPLY | LEARN, APPLY | LEARN]);
            unit.request(layer, settings, &logits, flags)?;
            if below(&mut random, 8) == 0 {
                // A list of ids: of any experts, twice, none.
                let count = one(&mut random, &[0, 1, 5, 31, 32, 64]);
                let ids: Vec<u16> = (0..count)
                    .map(|_| one(&mut random, &[u16::MAX, 7]).min(below(&mut random, 2 * experts) as u16))
                    .map(|id| if usize::from(id) < experts { id } else { u16::MAX })
                    .collect();
                unit.list(layer, &ids, LEARN);
            }
        }
        for layer in 0..sizes.layers {
            unit.compare(layer);
            // Through the window and back: what was kept goes on.
            if number % 2 == 0 {
                unit.clear_only(layer);
                unit.restore(layer);
            }
        }
        unit.script.stalls(0, 0);
    }
    unit.script.errors(0);
    Ok(())
}

/// The best expert is missing and the third stands in for it: the greatest of the chosen is not the first.
fn stand_in_first<W: Write>(unit: &mut Unit<W>, experts: usize) -> Done {
    unit.clear(0);
    let mut resident = ExpertSet::new();
    (1..3).for_each(|expert| _ = resident.insert(expert));
    unit.residents(0, resident);
    let logits: Vec<Logit> = (0..experts as i32).map(|expert| Logit::from_num(2 - expert.min(9))).collect();
    let (mass, capacity) = (u32::MAX, experts);
    let settings = Settings { experts, k: 2, by: By::Chosen, keep_top: 0, capacity, mass, error: None };
    unit.request(0, settings, &logits, 0).map(drop)
}

/// That the number in the program of the tracker is the library's.
pub(super) fn constants() -> Done {
    let half_pi = Angle::FRAC_PI_2.to_bits();
    if half_pi == 421_657_428 { Ok(()) } else { Err(format!("a right angle is {half_pi}")) }
}

/// The cycles of requests where nobody waits, as the testbench prints them: all wanted missing, half of the others
/// resident, a bound that allows some stand-ins.
pub(super) fn cycles<W: Write>(unit: &mut Unit<W>, sizes: &[(usize, usize)]) -> Done {
    unit.restart();
    let mut random = Random(5);
    if unit.sizes.sigmoid {
        unit.bias(0, biases(&mut random, unit.sizes.experts));
    }
    for &(experts, k) in sizes {
        let by_scores = By::Scores {
            size_log2: (experts / 8).max(1).ilog2() as u8,
            open: if experts >= 64 { 4 } else { 0 },
            two_best: true,
        };
        let kinds = [
            (0, By::Chosen, None),
            (1, By::Chosen, Some(u32::MAX / 4)),
            (2, By::All, None),
            (4, By::Sigmoid, None),
            (5, by_scores, None),
        ];
        let done = |by: By| unit.sizes.sigmoid || by == By::All || by == By::Chosen;
        let kinds: Vec<_> = kinds.into_iter().filter(|&(_, by, _)| done(by)).collect();
        for (kernel, by, error) in kinds {
            let mut logits = vec![Logit::ZERO; experts];
            fill(&mut logits, &mut random, 1);
            let mut ranked: Vec<usize> = (0..experts).collect();
            ranked.sort_by_key(|&expert| std::cmp::Reverse(logits[expert]));
            let mut resident = ExpertSet::new();
            ranked[k..].iter().step_by(2).for_each(|&expert| _ = resident.insert(expert as u16));
            unit.residents(0, resident);
            let capacity = experts / 2;
            let mass = if by == by_scores { 0 } else { u32::MAX / 2 };
            let settings = Settings { experts, k, by, keep_top: 1, capacity, mass, error };
            unit.request(0, settings, &logits, APPLY)?;
            unit.script.report(kernel, experts, k);
            if kernel == 0 {
                unit.request(0, settings, &logits, APPLY | LEARN)?;
                unit.script.report(3, experts, k);
            }
        }
    }
    Ok(())
}
