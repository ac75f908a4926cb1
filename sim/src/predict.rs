//! Does the prompt predict the answer? Cosine of their expert counts, and how much of the answer a placement from the prompt covers.
//!
//! Prompts are the first tokens of every domain, answers the rest of every domain: a row for each pair, so that the diagonal says what a
//! placement is worth as long as the context stays, and the others what is left of it after a change.

use serde::Serialize;

use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};

/// One prompt and one answer, means over layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Domain of the prompt.
    pub prompt: String,
    /// Domain of the answer.
    pub answer: String,
    /// Cosine of the counts of prompt and answer.
    pub cosine: f64,
    /// The lowest of any layer.
    pub lowest_cosine: f64,
    /// Share of the answer's choices that fall on the experts that the prompt chose most.
    pub coverage: f64,
    /// The same share for the best fixed set.
    pub best_coverage: f64,
    /// The same share if all experts were equal.
    pub chance: f64,
}

/// Rows for all pairs of domains, with prompts of `prompt` tokens and `hot` experts a layer.
///
/// # Errors
/// Domains that are not longer than a prompt, or a number of experts that no layer has.
pub fn run(trace: &Trace, prompt: usize, hot: usize) -> Result<Vec<Row>> {
    let experts = trace.shape.experts;
    if hot == 0 || hot > experts {
        return Err(Error::new(format!("--hot: expected 1 to {experts} experts per layer, found {hot}")));
    }
    let mut parts = Vec::new();
    for (index, name) in trace.meta.domains.iter().enumerate() {
        let tokens: Vec<usize> =
            (0..trace.shape.tokens).filter(|&token| usize::from(trace.domain[token]) == index).collect();
        if prompt == 0 || tokens.len() <= prompt {
            return Err(Error::new(format!(
                "--prefill: expected 1 to {} tokens, which leaves some of {name}, found {prompt}",
                tokens.len().saturating_sub(1)
            )));
        }
        let (first, rest) = tokens.split_at(prompt);
        parts.push((name, counts(trace, first), counts(trace, rest)));
    }
    let pairs = parts.iter().flat_map(|prompt| parts.iter().map(move |answer| (prompt, answer)));
    Ok(pairs.map(|((prompt, before, _), (answer, _, after))| row(prompt, answer, before, after, hot)).collect())
}

fn counts(trace: &Trace, tokens: &[usize]) -> Vec<Vec<f64>> {
    let layer = |layer: usize| {
        let mut counts = vec![0.0; trace.shape.experts];
        for &token in tokens {
            trace.chosen(token, layer).iter().for_each(|&expert| counts[usize::from(expert)] += 1.0);
        }
        counts
    };
    (0..trace.shape.layers).map(layer).collect()
}

fn row(prompt: &str, answer: &str, before: &[Vec<f64>], after: &[Vec<f64>], hot: usize) -> Row {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cosines: Vec<f64> = before.iter().zip(after).map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).collect();
    let covered = |by: &[f64], of: &[f64]| {
        let mut order: Vec<usize> = (0..by.len()).collect();
        order.sort_by(|&a, &b| by[b].total_cmp(&by[a]));
        order[..hot].iter().map(|&expert| of[expert]).sum::<f64>() / of.iter().sum::<f64>()
    };
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / before.len() as f64;
    Row {
        prompt: prompt.into(),
        answer: answer.into(),
        cosine: mean(&mut cosines.iter().copied()),
        lowest_cosine: cosines.iter().copied().fold(f64::INFINITY, f64::min),
        coverage: mean(&mut before.iter().zip(after).map(|(a, b)| covered(a, b))),
        best_coverage: mean(&mut after.iter().map(|b| covered(b, b))),
        chance: hot as f64 / before.first().map_or(1, Vec::len) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let found = row("a", "b", &[vec![4.0, 3.0, 0.0, 0.0]], &[vec![0.0, 5.0, 5.0, 0.0]], 1);
        assert!((found.cosine - 15.0 / (5.0 * 50f64.sqrt())).abs() < 1e-12);
        assert_eq!((found.coverage, found.best_coverage, found.chance), (0.0, 0.5, 0.25));
        let found = row("a", "a", &[vec![4.0, 3.0, 0.0, 0.0]], &[vec![0.0, 5.0, 5.0, 0.0]], 2);
        assert_eq!((found.coverage, found.best_coverage), (0.5, 1.0));
    }
}
