//! A router whose context stands still for a while and then is another: the benchmark that the filter was first thought
//! out on.
//!
//! Every context is a vector of logits in each layer, standard normal, drawn once; segments of equal length take
//! contexts at random, never the same twice in a row. A token's logits are those of the context, times the amplitude
//! that the signal-to-noise ratio says, plus standard normal noise of its own. The model chooses the k largest. Real
//! routers are not like this (what is peculiar to a token is information and not noise; contexts overlap; text comes
//! again): docs/results.md says what follows.
//!
//! ```
//! use cptr_trace::generate::piecewise::{Piecewise, generate};
//!
//! let trace = generate(&Piecewise { tokens: 600, segment: 200, ..Piecewise::default() })?;
//! assert_eq!(trace.shape.tokens, 600);
//! assert_ne!(trace.domain[199], trace.domain[200]);
//! # Ok::<(), cptr_trace::Error>(())
//! ```

use super::random::Random;
use crate::array::FloatArray;
use crate::error::{Error, Result};
use crate::{MAX_EXPERTS, MAX_TOP_K, Router, Shape, Trace, top_k};

/// Most logits of a trace: half a gigabyte.
const MOST_LOGITS: usize = 1 << 27;

/// What is generated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Piecewise {
    /// Tokens T.
    pub tokens: usize,
    /// Layers L.
    pub layers: usize,
    /// Experts per layer E.
    pub experts: usize,
    /// Experts per token k.
    pub k: usize,
    /// Tokens of a segment; the last one may be shorter.
    pub segment: usize,
    /// Different contexts, 1 to 256.
    pub contexts: usize,
    /// Power of the context over that of the noise, in dB.
    pub snr_db: f64,
    /// Seed: the same seed gives the same trace.
    pub seed: u64,
}

impl Default for Piecewise {
    fn default() -> Self {
        Self { tokens: 4096, layers: 8, experts: 64, k: 8, segment: 256, contexts: 8, snr_db: 0.0, seed: 1 }
    }
}

/// One decoded sequence with all logits; the domain of a token is its context. The restart of a context is no restart
/// of the sequence.
///
/// # Errors
/// Numbers that no trace can have, each named with what was expected.
pub fn generate(what: &Piecewise) -> Result<Trace> {
    let &Piecewise { tokens, layers, experts, k, segment, contexts, snr_db, seed } = what;
    let least = |name: &str, value: usize, low: usize, high: usize| match (low..=high).contains(&value) {
        true => Ok(()),
        false => Err(Error::new(format!("expected {low} to {high} {name}, found {value}"))),
    };
    least("tokens", tokens, 1, MOST_LOGITS)?;
    least("layers", layers, 1, 1024)?;
    least("experts", experts, 1, MAX_EXPERTS)?;
    least("experts per token", k, 1, experts.min(MAX_TOP_K))?;
    least("tokens in a segment", segment, 1, MOST_LOGITS)?;
    least("contexts", contexts, 1, 256)?;
    if !(-60.0..=60.0).contains(&snr_db) {
        return Err(Error::new(format!("expected a signal-to-noise ratio from -60 to 60 dB, found {snr_db}")));
    }
    let logits = tokens.checked_mul(layers * experts).filter(|&logits| logits <= MOST_LOGITS);
    let Some(logits) = logits else {
        return Err(Error::new(format!(
            "expected at most {MOST_LOGITS} logits, found {tokens} tokens x {layers} layers x {experts} experts"
        )));
    };
    let mut random = Random(seed);
    let amplitude = 10f64.powf(snr_db / 20.0);
    let row = layers * experts;
    let levels: Vec<f64> = (0..contexts * row).map(|_| amplitude * random.normal()).collect();
    let mut domain = Vec::with_capacity(tokens);
    let mut context = 0;
    for token in 0..tokens {
        if token > 0 && token % segment == 0 && contexts > 1 {
            context = (context + 1 + (random.uniform() * (contexts - 1) as f64) as usize) % contexts;
        }
        domain.push(context as u8);
    }
    let mut values = Vec::with_capacity(logits);
    let mut ids = vec![0; tokens * layers * k];
    for (token, chosen) in ids.chunks_exact_mut(layers * k).enumerate() {
        let context = usize::from(domain[token]) * row;
        for (layer, chosen) in chosen.chunks_exact_mut(k).enumerate() {
            let from = values.len();
            let level = &levels[context + layer * experts..][..experts];
            values.extend(level.iter().map(|level| (level + random.normal()) as f32));
            top_k::top_k(&values[from..], chosen);
        }
    }
    let mut trace = Trace::of_ids(Shape { tokens, layers, experts, k }, ids);
    trace.meta.router = Router::SOFTMAX_SELECTED;
    trace.meta.source = format!("piecewise stationary, segments of {segment} tokens, {snr_db} dB, seed {seed}");
    trace.meta.domains = (0..contexts).map(|context| format!("context {context}")).collect();
    trace.logits = Some(FloatArray::owned([tokens, layers, experts], values));
    trace.domain = domain;
    trace.notes = vec!["Generated, not recorded: contexts that stand still, and noise.".into()];
    Ok(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(trace: &Trace, token: usize, layer: usize) -> Vec<f32> {
        let mut row = vec![0.0; trace.shape.experts];
        trace.logits.as_ref().unwrap().read_row(token, layer, &mut row);
        row
    }

    #[test]
    fn segments_signal_and_choice_are_what_was_asked_for() {
        let what = Piecewise { tokens: 1000, segment: 150, snr_db: 6.0, contexts: 3, ..Piecewise::default() };
        let trace = generate(&what).unwrap();
        trace.validate().unwrap();
        let changes: Vec<usize> = (1..1000).filter(|&t| trace.domain[t] != trace.domain[t - 1]).collect();
        assert_eq!(changes, [150, 300, 450, 600, 750, 900]);
        // Mean over a segment is the context, the rest is noise: power of 10^0.6 over 1, from 512 means of 150 tokens.
        let (mut signal, mut noise) = (0.0, 0.0);
        for layer in 0..8 {
            let rows: Vec<Vec<f32>> = (0..150).map(|token| logits(&trace, token, layer)).collect();
            for expert in 0..64 {
                let mean = rows.iter().map(|row| f64::from(row[expert])).sum::<f64>() / 150.0;
                signal += mean * mean / 512.0;
                noise += rows.iter().map(|row| (f64::from(row[expert]) - mean).powi(2)).sum::<f64>() / 149.0 / 512.0;
            }
        }
        assert!((noise - 1.0).abs() < 0.03, "{noise}");
        assert!((signal / 10f64.powf(0.6) - 1.0).abs() < 0.2, "{signal}");
        let row = logits(&trace, 700, 3);
        let chosen = trace.chosen(700, 3);
        assert!(chosen.windows(2).all(|pair| row[usize::from(pair[0])] >= row[usize::from(pair[1])]));
        let worst = row[usize::from(chosen[7])];
        assert_eq!(row.iter().filter(|&&z| z >= worst).count(), 8);
    }

    #[test]
    fn a_seed_stands_for_a_trace() {
        let ids = |seed| generate(&Piecewise { tokens: 50, seed, ..Piecewise::default() }).unwrap().ids;
        assert_eq!(ids(1), ids(1));
        assert_ne!(ids(1), ids(2));
        let one = generate(&Piecewise { tokens: 600, contexts: 1, ..Piecewise::default() }).unwrap();
        assert!(one.domain.iter().all(|&domain| domain == 0));
    }

    #[test]
    fn refuses_what_no_trace_can_be() {
        let usual = Piecewise::default();
        for (what, said) in [
            (Piecewise { k: 65, ..usual }, "expected 1 to 64 experts per token, found 65"),
            (Piecewise { contexts: 300, ..usual }, "expected 1 to 256 contexts, found 300"),
            (Piecewise { tokens: 0, ..usual }, "expected 1 to 134217728 tokens, found 0"),
            (Piecewise { snr_db: f64::NAN, ..usual }, "from -60 to 60 dB, found NaN"),
            (Piecewise { tokens: 1 << 26, ..usual }, "expected at most 134217728 logits"),
        ] {
            let found = generate(&what).unwrap_err().to_string();
            assert!(found.contains(said), "{found}");
        }
    }
}
