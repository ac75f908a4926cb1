//! Known ways in which routing traces mislead, as far as the trace itself shows them: one sentence each.
//!
//! Thresholds are set so that ordinary traces stay silent; each has its reason beside it. A new trap is a function and
//! a line in [`TRAPS`].

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::view::{Layer, Overlap, View};
use super::weights::WeightStatistics;
use crate::router::{Count, Score};
use crate::{Shape, Trace};

/// Everything a detector may look at.
struct Evidence<'a> {
    trace: &'a Trace,
    view: &'a View<'a>,
    weights: Option<WeightStatistics>,
    periods: Periods,
    /// Whether tokens are bytes, several to a character.
    bytes: bool,
}

const TRAPS: [fn(&Evidence) -> Option<String>; 9] = [
    identical_rows,
    equal_weights,
    interleaved_rows,
    repetition_loops,
    copied_layers,
    constant_layers,
    ids_not_in_order,
    strided_top_k,
    convention,
];

/// Shorter traces repeat themselves by chance.
const MIN_TOKENS: usize = 32;

pub(super) fn warnings(trace: &Trace, view: &View, weights: Option<WeightStatistics>) -> Vec<String> {
    let bytes = byte_tokens(trace);
    let evidence = Evidence { trace, view, weights, periods: Periods::new(view, bytes), bytes };
    TRAPS.iter().filter_map(|trap| trap(&evidence)).collect()
}

/// Whether the tokens of a trace are bytes: then blanks and dashes stand in rows, and characters of two to four tokens
/// alternate.
fn byte_tokens(trace: &Trace) -> bool {
    // 256 values and a few that mark beginnings and ends.
    trace.token.as_ref().is_some_and(|tokens| tokens.iter().all(|&token| token < 300))
}

/// Start-up and padding rows: the same row in all layers, again and again.
fn identical_rows(evidence: &Evidence) -> Option<String> {
    let Shape { layers, k, experts, .. } = evidence.view.shape;
    if k == experts {
        return None;
    }
    // One or two choices a token repeat by themselves much longer than many do together.
    let long = if layers * k >= 8 && !evidence.bytes { 32 } else { 256 };
    let rows: Vec<&[u16]> = evidence.trace.ids.chunks_exact(layers * k).collect();
    let (mut tokens, mut first) = (0, None);
    let mut start = 0;
    for run in rows.chunk_by(|a, b| a == b) {
        if run.len() >= long {
            tokens += run.len();
            first.get_or_insert(start);
        }
        start += run.len();
    }
    // Some text repeats one token for a while; start-up rows are a good part of a log.
    first.filter(|_| tokens * 100 >= rows.len())?;
    Some(format!(
        "{tokens} tokens lie in runs of at least {long} identical rows (the first at token {}): start-up or padding rows, which make the trace look more local than it is",
        first?
    ))
}

/// Padding rows with all weights equal.
fn equal_weights(evidence: &Evidence) -> Option<String> {
    let Shape { layers, k, .. } = evidence.view.shape;
    let share = evidence.weights?.equal_in_all_layers;
    // One layer may tie by rounding; all layers of a hundredth of the tokens do not.
    (k > 1 && layers * (k - 1) >= 4 && share > 0.01).then(|| {
        format!(
            "{:.1} % of the tokens have equal weights in every layer: padding rows, not choices of a router",
            share * 100.0
        )
    })
}

/// Rows of several sequences in turn.
fn interleaved_rows(evidence: &Evidence) -> Option<String> {
    let overlap = &evidence.periods.overlap;
    let next = *overlap.get(1)?;
    let (lag, &best) =
        overlap.iter().enumerate().skip(2).reduce(|best, new| if new.1 > best.1 { new } else { best })?;
    // Bytes of characters alternate by themselves, at the length of a character and its multiples.
    let character = |length: usize| lag % length == 0 && overlap.get(length).is_some_and(|&same| same > best - 0.1);
    if evidence.bytes && (2..=CHARACTER).any(character) {
        return None;
    }
    let chance = 1.0 - evidence.periods.memoryless;
    // Neighbours in a text share more than chance; they may share a little more at a distance, but not several times
    // the excess.
    (best > next.max(chance) + 0.1 && best - chance > 2.0 * (next - chance)).then(|| {
        format!(
            "choices {lag} rows apart overlap by {best:.2}, neighbours only by {next:.2}: the rows are those of {lag} sequences in turn, or the routing alternates; switch rates and cache curves do not describe one text"
        )
    })
}

/// Text that repeats itself.
fn repetition_loops(evidence: &Evidence) -> Option<String> {
    let loops = &evidence.periods.loops;
    let sequences = evidence.view.sequences.len();
    // A few sequences of any corpus hold rows of blanks or numbers.
    let (first, period) = *loops.first().filter(|_| loops.len() * 20 >= sequences)?;
    Some(format!(
        "{} of {} sequences hold stretches that repeat at a fixed period (the first is sequence {}, every {period} tokens): repetition loops, which make the trace look more local than ordinary text",
        loops.len(),
        sequences,
        evidence.trace.sequence[evidence.view.sequences[first].start],
    ))
}

/// Most bytes of a character in UTF-8.
const CHARACTER: usize = 4;

/// Layers that are byte for byte the same.
fn copied_layers(evidence: &Evidence) -> Option<String> {
    let view = evidence.view;
    let Shape { tokens, experts, k, layers } = view.shape;
    if tokens < MIN_TOKENS || k == experts {
        return None;
    }
    let originals = originals(view);
    let copies: Vec<(usize, usize)> = originals
        .iter()
        .copied()
        .enumerate()
        .filter(|&(layer, of)| layer != of && !is_constant(&view.layers[of]))
        .collect();
    let last = copies.last()?;
    let names: Vec<String> =
        copies.iter().map(|&(layer, of)| format!("{} of {}", view.layers[layer].id, view.layers[of].id)).collect();
    // The smallest distance at which all copies lie from some layer of the same content.
    let same = |layer: usize, distance: usize| originals[layer] == originals[layer - distance];
    let period =
        (1..=last.0).find(|&distance| copies.iter().all(|&(layer, _)| layer >= distance && same(layer, distance)));
    let period = period.filter(|_| copies.len() > 1).map_or(String::new(), |n| match n {
        1 => "; each is a copy of the one before".into(),
        n => format!("; they repeat every {n} layers"),
    });
    Some(format!("{} of {layers} layers are copies of other layers: {}{period}", copies.len(), listed(&names)))
}

/// For each layer the first that is byte for byte the same.
fn originals(view: &View) -> Vec<usize> {
    let mut first: HashMap<u64, usize> = HashMap::new();
    let original = |(index, layer): (usize, &Layer)| {
        let mut hasher = DefaultHasher::new();
        layer.ids().hash(&mut hasher);
        let original = *first.entry(hasher.finish()).or_insert(index);
        if view.layers[original].ids() == layer.ids() { original } else { index }
    };
    view.layers.iter().enumerate().map(original).collect()
}

/// Dense layers that stayed in the file.
fn constant_layers(evidence: &Evidence) -> Option<String> {
    let Shape { tokens, experts, k, layers } = evidence.view.shape;
    if tokens < MIN_TOKENS || k == experts {
        return None;
    }
    let constant: Vec<String> =
        evidence.view.layers.iter().filter(|layer| is_constant(layer)).map(|layer| layer.id.to_string()).collect();
    (!constant.is_empty()).then(|| {
        format!(
            "{} of {layers} layers choose the same experts for every token: dense layers that were not left out: {}",
            constant.len(),
            listed(&constant)
        )
    })
}

fn is_constant(layer: &Layer) -> bool {
    layer.rows().all(|row| row == layer.chosen(0))
}

fn listed(items: &[String]) -> String {
    match items.len().checked_sub(8) {
        Some(more @ 1..) => format!("{} and {more} more", items[..8].join(", ")),
        _ => items.join(", "),
    }
}

/// Id order that is not weight order.
fn ids_not_in_order(evidence: &Evidence) -> Option<String> {
    let share = evidence.weights?.not_in_order;
    // Rounded weights tie; ties are in order whatever the ids.
    (share > 0.01).then(|| {
        format!(
            "in {:.0} % of the tokens and layers the ids are not in the order of their weights; here they were sorted by weight",
            share * 100.0
        )
    })
}

/// Top-k indices read without the stride of the sorted list: whole permutations of the experts in a row.
fn strided_top_k(evidence: &Evidence) -> Option<String> {
    let Shape { tokens, experts, k, .. } = evidence.view.shape;
    let mean = (tokens * k) as f64 / experts as f64;
    // With few counts or experts equality is no surprise.
    if mean < 16.0 || experts < 4 || k == experts {
        return None;
    }
    // Independent choices spread like a binomial distribution; whole permutations leave at most a fraction of one
    // count.
    let too_even = |layer: &Layer| {
        let mut counts = vec![0_u64; experts];
        layer.rows().flatten().for_each(|&e| counts[usize::from(e)] += 1);
        let variance = counts.iter().map(|&n| (n as f64 - mean).powi(2)).sum::<f64>() / experts as f64;
        variance < 0.05 * mean * (1.0 - k as f64 / experts as f64)
    };
    evidence.view.layers.iter().all(too_even).then(|| {
        "every expert was chosen equally often: the ids look like a sorted list read without its stride, not like the choice of a router"
            .to_owned()
    })
}

/// Weights that contradict the router convention.
fn convention(evidence: &Evidence) -> Option<String> {
    let Shape { experts, k, .. } = evidence.view.shape;
    let router = evidence.trace.meta.router;
    let WeightStatistics { sum_mean, sum_min, sum_max, sums_to_one, .. } = evidence.weights?;
    let found = match router.score {
        _ if router.scale != 1.0 || router.count != Count::Fixed => return None,
        // A confident router comes close to 1 with one expert, and does so exactly with all.
        Score::SoftmaxAll if !router.renormalise && sums_to_one > 0.999 && k > 1 && k < experts => {
            "sum to 1: softmax over the selected, or renormalised".to_owned()
        }
        Score::SoftmaxAll | Score::SoftmaxSelected if sum_max > 1.01 => {
            format!("sum to up to {sum_max:.2}: sigmoid, or scaled")
        }
        Score::SoftmaxSelected if sums_to_one < 0.99 => {
            format!("sum to {sum_mean:.2} in the mean: softmax over all, cut after the k-th")
        }
        // A scaling factor (2.5 in DeepSeek-V3) is common to all rows.
        Score::Sigmoid if router.renormalise && sum_max - sum_min > 0.02 * sum_max => {
            format!("sum to {sum_min:.2} to {sum_max:.2}: not renormalised")
        }
        _ => return None,
    };
    Some(format!("the router is given as {router}, but the weights {found}"))
}

/// Longest period searched, in tokens.
const MAX_PERIOD: usize = 64;
/// Share of the choices that a loop repeats; real loops do not repeat all of them, since the context grows.
const LOOP_OVERLAP: f64 = 0.75;
/// Tokens for which a loop must hold, and periods.
const LOOP_TOKENS: usize = 32;

/// Choices from which an overlap is taken: it is then known to about 0.02.
const MIN_CHOICES: u64 = 512;

/// Overlap of the choices at every distance up to [`MAX_PERIOD`], from a sample of at most 8 layers, none the copy of
/// another, and the first 65,536 tokens.
struct Periods {
    /// `[lag]` mean overlap; entry 0 is not used. Ends where fewer than [`MIN_CHOICES`] choices are left.
    overlap: Vec<f64>,
    /// Memoryless switch rate of the sample.
    memoryless: f64,
    /// Sequences (their index) with a loop, and its period.
    loops: Vec<(usize, usize)>,
}

impl Periods {
    fn new(view: &View, bytes: bool) -> Self {
        let Shape { k, experts, tokens, .. } = view.shape;
        let tokens = tokens.min(65_536);
        // Copies would count twice, and of every fourth layer all might be copies of one.
        let originals = originals(view);
        let distinct = view.layers.iter().enumerate().filter(|&(index, _)| originals[index] == index);
        let distinct: Vec<&Layer> = distinct.map(|(_, layer)| layer).collect();
        let layers: Vec<&Layer> = distinct.iter().copied().step_by(distinct.len().div_ceil(8)).collect();
        // A loop of words takes more bytes than tokens.
        let long = if bytes { LOOP_TOKENS * CHARACTER } else { LOOP_TOKENS };
        let width = layers.len() * k;
        let mut kept = vec![0_u64; MAX_PERIOD + 1];
        let mut pairs = vec![0_u64; MAX_PERIOD + 1];
        let mut loops: Vec<(usize, usize)> = Vec::new();
        let mut sets: Vec<Overlap> = layers.iter().map(|_| Overlap::new(experts)).collect();
        for (index, sequence) in view.sequences.iter().enumerate().take_while(|(_, s)| s.start < tokens) {
            let mut run = [0_usize; MAX_PERIOD + 1];
            for token in sequence.start..sequence.end.min(tokens) {
                sets.iter_mut().zip(&layers).for_each(|(set, layer)| set.set(layer.chosen(token)));
                for lag in 1..=MAX_PERIOD.min(token - sequence.start) {
                    let same: usize = sets.iter().zip(&layers).map(|(set, l)| set.with(l.chosen(token - lag))).sum();
                    kept[lag] += same as u64;
                    pairs[lag] += 1;
                    run[lag] = if same as f64 >= LOOP_OVERLAP * width as f64 { run[lag] + 1 } else { 0 };
                    if run[lag] == long.max(2 * lag) && loops.last().is_none_or(|l| l.0 != index) {
                        loops.push((index, lag));
                    }
                }
            }
        }
        let overlap: Vec<f64> = (0..=MAX_PERIOD)
            .take_while(|&lag| lag == 0 || pairs[lag] * width as u64 >= MIN_CHOICES)
            .map(|lag| if lag == 0 { 1.0 } else { kept[lag] as f64 / (pairs[lag] * width as u64) as f64 })
            .collect();
        // Few choices a token repeat by chance, and a trace that is local throughout has no special stretches.
        loops.retain(|&(_, period)| width >= 8 && overlap.get(period).is_none_or(|&mean| mean < LOOP_OVERLAP - 0.15));
        Self { overlap, memoryless: memoryless(&layers, tokens), loops }
    }
}

fn memoryless(layers: &[&Layer], tokens: usize) -> f64 {
    let of_layer = |layer: &Layer| {
        let mut counts = vec![0_u64; layer.experts];
        layer.rows().take(tokens).flatten().for_each(|&e| counts[usize::from(e)] += 1);
        1.0 - counts.iter().map(|&n| (n as f64 / tokens as f64).powi(2)).sum::<f64>() / layer.k as f64
    };
    layers.iter().map(|layer| of_layer(layer)).sum::<f64>() / layers.len() as f64
}

#[cfg(test)]
mod tests {
    use super::super::test_traces::{draw, random, single, sticky, trace, view};
    use super::super::weights::weight_statistics;
    use super::*;
    use crate::Router;
    use crate::array::FloatArray;

    fn of(trace: &Trace) -> Vec<String> {
        warnings(trace, &view(trace), trace.weights.as_ref().map(weight_statistics))
    }

    /// The one warning about a trace.
    fn only(trace: &Trace) -> String {
        let found = of(trace);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }

    fn with_weights(mut trace: Trace, router: Router, row: &[f32]) -> Trace {
        let Shape { tokens, layers, k, .. } = trace.shape;
        trace.meta.router = router;
        trace.weights = Some(FloatArray::owned([tokens, layers, k], row.repeat(tokens * layers)));
        trace
    }

    #[test]
    fn ordinary_traces_are_silent() {
        for stay in [0.0, 0.3, 0.6, 0.9] {
            for (experts, k, layers) in [(8, 1, 1), (8, 2, 4), (32, 4, 3), (128, 8, 2), (4, 4, 2)] {
                let stay = if k == experts { 1.0 } else { stay };
                for lengths in [&[1][..], &[700], &[300, 40, 600], &[1; 50]] {
                    let trace = sticky(experts, k, layers, lengths, stay);
                    assert!(of(&trace).is_empty(), "{experts} {k} {layers} {stay} {lengths:?}: {:?}", of(&trace));
                }
            }
        }
    }

    #[test]
    fn start_up_rows() {
        let mut trace = sticky(32, 4, 3, &[500], 0.5);
        let row = trace.ids[..12].to_vec();
        trace.ids[12 * 100..12 * 200].copy_from_slice(&row.repeat(100));
        let found = of(&trace);
        assert!(
            found[0].starts_with("100 tokens lie in runs of at least 32 identical rows (the first at token 100)"),
            "{found:?}"
        );
    }

    #[test]
    fn rows_of_several_sequences_in_turn() {
        let apart = sticky(64, 6, 3, &[300; 5], 0.6);
        let mixed = trace(64, 3, &[1500], |token, layer| apart.chosen(token % 5 * 300 + token / 5, layer).to_vec());
        assert!(only(&mixed).contains("those of 5 sequences in turn"));
    }

    #[test]
    fn bytes_of_text_are_no_trap() {
        // Characters of three bytes whose first bytes choose alike, and rows of dashes.
        let text = sticky(64, 6, 3, &[300; 3], 0.6);
        let mut bytes = trace(64, 3, &[900], |token, layer| {
            let token = if (400..480).contains(&token) { 400 } else { token };
            text.chosen(token % 3 * 300 + token / 3, layer).to_vec()
        });
        assert!(of(&bytes).len() > 1, "{:?}", of(&bytes));
        bytes.token = Some((0..900).map(|token| 128 + token % 90).collect());
        assert!(of(&bytes).is_empty(), "{:?}", of(&bytes));
    }

    #[test]
    fn repetition() {
        let text = sticky(32, 4, 3, &[400], 0.5);
        let looped = trace(32, 3, &[400], |token, layer| {
            let token = if (200..300).contains(&token) { 200 + token % 20 } else { token };
            text.chosen(token, layer).to_vec()
        });
        assert!(only(&looped).starts_with(
            "1 of 1 sequences hold stretches that repeat at a fixed period (the first is sequence 0, every 20 tokens)"
        ));
    }

    #[test]
    fn copied_and_constant_layers() {
        let text = sticky(32, 4, 3, &[400], 0.5);
        let copied = trace(32, 5, &[400], |token, layer| text.chosen(token, layer.min(2)).to_vec());
        assert_eq!(
            only(&copied),
            "2 of 5 layers are copies of other layers: 4 of 3, 5 of 3; each is a copy of the one before"
        );
        // FLAME-MoE as it was shipped: 8 real layers of 25.
        let eight = sticky(32, 4, 9, &[400], 0.5);
        let every = |layer: usize| if layer < 1 { 0 } else { 1 + (layer - 1) % 8 };
        let copied = trace(32, 25, &[400], |token, layer| eight.chosen(token, every(layer)).to_vec());
        let found = only(&copied);
        assert!(found.starts_with("16 of 25 layers are copies of other layers: 10 of 2,"), "{found}");
        assert!(found.ends_with("and 8 more; they repeat every 8 layers"), "{found}");
        let dense = trace(32, 4, &[400], |token, layer| match layer {
            0 => vec![0, 1, 2, 3],
            _ => text.chosen(token, layer - 1).to_vec(),
        });
        assert!(only(&dense).ends_with("dense layers that were not left out: 1"));
    }

    #[test]
    fn ids_out_of_order() {
        let trace = with_weights(sticky(32, 2, 3, &[400], 0.5), Router::SOFTMAX_SELECTED, &[0.4, 0.6]);
        assert_eq!(
            only(&trace),
            "in 100 % of the tokens and layers the ids are not in the order of their weights; here they were sorted by weight"
        );
    }

    #[test]
    fn padding_with_equal_weights() {
        let trace = with_weights(sticky(32, 2, 4, &[400], 0.5), Router::SOFTMAX_SELECTED, &[0.5, 0.5]);
        assert!(only(&trace).starts_with("100.0 % of the tokens have equal weights in every layer"));
    }

    #[test]
    fn permutations_instead_of_choices() {
        // Batches of 64 tokens: 64 * 4 numbers in a row are 8 permutations of 32 experts.
        let mut random = random();
        let mut numbers: Vec<u16> = Vec::new();
        let strided = trace(32, 1, &[64; 8], |_, _| {
            if numbers.is_empty() {
                numbers = draw(&mut random, 32, &[1.0; 32]);
            }
            numbers.drain(..4).collect()
        });
        assert!(only(&strided).starts_with("every expert was chosen equally often"));
    }

    #[test]
    fn conventions_that_contradict_the_weights() {
        let text = || sticky(32, 2, 3, &[400], 0.5);
        let sigmoid = Router::SIGMOID;
        for (router, row, says) in [
            (Router::SOFTMAX_SELECTED, [0.7, 0.3], None),
            (Router::SOFTMAX_SELECTED, [0.4, 0.1], Some("sum to 0.50 in the mean: softmax over all")),
            (Router::SOFTMAX_SELECTED, [0.9, 0.8], Some("sum to up to 1.70: sigmoid")),
            (Router::SOFTMAX_ALL, [0.4, 0.1], None),
            (Router::SOFTMAX_ALL, [0.7, 0.3], Some("sum to 1: softmax over the selected")),
            (Router::SOFTMAX_ALL, [0.9, 0.8], Some("sum to up to 1.70: sigmoid")),
            (Router::UNKNOWN, [0.9, 0.8], None),
            (sigmoid, [1.5, 1.0], None),
        ] {
            let trace = with_weights(text(), router, &row);
            match says {
                None => assert!(of(&trace).is_empty(), "{router} {row:?}: {:?}", of(&trace)),
                Some(says) => assert!(only(&trace).contains(says), "{router} {row:?}: {}", only(&trace)),
            }
        }
        let mut uneven = with_weights(text(), sigmoid, &[0.6, 0.4]);
        let values = (0..2400).map(|i| if i < 1200 { 0.9 } else { 0.4 }).collect();
        uneven.weights = Some(FloatArray::owned([400, 3, 2], values));
        assert!(of(&uneven).iter().any(|warning| warning.contains("sum to 0.80 to 1.80: not renormalised")));
    }

    #[test]
    fn lists_are_cut() {
        let items: Vec<String> = (0..10).map(|i| i.to_string()).collect();
        assert_eq!(listed(&items), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
        assert_eq!(listed(&items[..8]), "0, 1, 2, 3, 4, 5, 6, 7");
    }

    #[test]
    fn one_token_is_no_evidence() {
        assert!(of(&single(2, &[&[0]])).is_empty());
    }
}
