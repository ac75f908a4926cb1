//! Does the prompt predict the answer? Cosine of their expert counts, and how much of the answer a placement from the
//! prompt covers.
//!
//! Prompts are the first tokens of every domain, answers the rest of every domain: a row for each pair, so that the
//! diagonal says what a placement is worth as long as the context stays, and the others what is left of it after a
//! change.
//!
//! ```
//! use cptr_trace::{Shape, Trace};
//!
//! let ids = (0..200).map(|token| token % 2).collect();
//! let trace = Trace::of_ids(Shape { tokens: 200, layers: 1, experts: 4, k: 1 }, ids);
//! let found = cptr_sim::predict::run(&trace, 20, 2)?;
//! assert_eq!((found.rows[0].coverage, found.rows[0].chance), (1.0, 0.5));
//! # Ok::<(), cptr_trace::Error>(())
//! ```

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

/// What prompts say of answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Prediction {
    /// A row for each pair of domains.
    pub rows: Vec<Row>,
    /// Domains that are no longer than a prompt, one sentence each.
    pub notes: Vec<String>,
}

/// Rows for all pairs of domains that are longer than a prompt of `prompt` tokens, with `resident` experts a layer.
///
/// # Errors
/// No such domain, no prompt, or a number of experts that no layer has.
pub fn run(trace: &Trace, prompt: usize, resident: usize) -> Result<Prediction> {
    let experts = trace.shape.experts;
    if resident == 0 || resident > experts {
        return Err(Error::new(format!("--resident: expected 1 to {experts} experts per layer, found {resident}")));
    }
    let (mut parts, mut notes, mut longest) = (Vec::new(), Vec::new(), 0);
    for (index, name) in trace.meta.domains.iter().enumerate() {
        let tokens: Vec<usize> =
            (0..trace.shape.tokens).filter(|&token| usize::from(trace.domain[token]) == index).collect();
        longest = longest.max(tokens.len());
        if tokens.len() <= prompt {
            let length = tokens.len();
            notes.push(format!("Domain {name} is left out: it has {length} tokens, and a prompt takes {prompt}."));
            continue;
        }
        let (first, rest) = tokens.split_at(prompt);
        parts.push((name, counts(trace, first), counts(trace, rest)));
    }
    if prompt == 0 || parts.is_empty() {
        return Err(Error::new(format!(
            "--prefill: expected 1 to {} tokens, which leaves some of a domain, found {prompt}",
            longest.saturating_sub(1)
        )));
    }
    let pairs = parts.iter().flat_map(|prompt| parts.iter().map(move |answer| (prompt, answer)));
    let rows = pairs.map(|((prompt, before, _), (answer, _, after))| row(prompt, answer, before, after, resident));
    Ok(Prediction { rows: rows.collect(), notes })
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
    fn a_short_domain_is_left_out() {
        let mut trace =
            Trace::of_ids(cptr_trace::Shape { tokens: 30, layers: 1, experts: 4, k: 1 }, [0, 1, 2].repeat(10));
        trace.meta.domains = vec!["long".into(), "short".into()];
        trace.domain[27..].fill(1);
        let found = run(&trace, 5, 2).unwrap();
        assert_eq!((found.rows.len(), &*found.rows[0].prompt), (1, "long"));
        assert_eq!(found.notes, ["Domain short is left out: it has 3 tokens, and a prompt takes 5."]);
        assert!(run(&trace, 27, 2).unwrap_err().to_string().contains("expected 1 to 26 tokens"));
    }

    #[test]
    fn by_hand() {
        let found = row("a", "b", &[vec![4.0, 3.0, 0.0, 0.0]], &[vec![0.0, 5.0, 5.0, 0.0]], 1);
        assert!((found.cosine - 15.0 / (5.0 * 50f64.sqrt())).abs() < 1e-12);
        assert_eq!((found.coverage, found.best_coverage, found.chance), (0.0, 0.5, 0.25));
        let found = row("a", "a", &[vec![4.0, 3.0, 0.0, 0.0]], &[vec![0.0, 5.0, 5.0, 0.0]], 2);
        assert_eq!((found.coverage, found.best_coverage), (0.5, 1.0));
    }
}
