//! How well a model predicts the documents, beside the unaltered one.

use super::bootstrap::{self, Difference};
use super::steer::Steering;
use super::{Document, Order};
use cptr_model::{Hidden, Model, MoeHook, Result, Routing};
use cptr_trace::progress::Progress;

/// Tokens whose logits are in memory at a time.
const CHUNK: usize = 256;

/// The unaltered model on the documents.
pub(super) struct Reference {
    sequences: Vec<Vec<u32>>,
    /// Residual stream after the last layer `[N, D]`, all documents one after the other.
    hidden: Hidden,
    /// The token that follows each; `None` at the end of a document, and where nothing is judged.
    next: Vec<Option<u32>>,
    /// Index of the document of each token.
    document: Vec<usize>,
}

/// What the documents are to a model; one entry for each document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quality {
    /// Predicted tokens.
    pub(super) tokens: Vec<usize>,
    /// Sum of the negative log-likelihoods, in nats.
    pub(super) nats: Vec<f64>,
    /// The same of the unaltered model.
    pub(super) reference_nats: Vec<f64>,
    /// Sum of the divergences of this model's predictions from the unaltered one's, in nats.
    pub(super) divergence_nats: Vec<f64>,
    /// Predictions whose most probable token is another one than the unaltered model's.
    pub(super) changed: Vec<usize>,
}

/// Sees the layers go by.
struct Counting<'a>(&'a Progress, u64);

impl MoeHook for Counting<'_> {
    fn route(&mut self, _: &Routing<'_>, _: &mut [u16]) {
        self.0.advance(self.1);
    }
}

impl Reference {
    pub(super) fn new(model: &Model, documents: &[Document], progress: &Progress) -> Result<Self> {
        let sequences: Vec<Vec<u32>> = documents.iter().map(|document| document.tokens.clone()).collect();
        let next = |tokens: &Vec<u32>| tokens.iter().skip(1).map(|&id| Some(id)).chain([None]).collect::<Vec<_>>();
        let next: Vec<Option<u32>> = sequences.iter().flat_map(next).collect();
        let document = sequences.iter().enumerate().flat_map(|(index, tokens)| vec![index; tokens.len()]).collect();
        let hidden = model.read(&sequences, &mut Counting(progress, next.len() as u64))?;
        Ok(Self { sequences, hidden, next, document })
    }

    /// Judges the predictions behind the first `from` tokens of each document only.
    pub(super) fn judged_from(mut self, from: usize) -> Self {
        let mut at = 0;
        for tokens in &self.sequences {
            self.next[at..at + from.min(tokens.len())].fill(None);
            at += tokens.len();
        }
        self
    }

    /// Has the model read the documents once more, steered.
    pub(super) fn compare(&self, model: &Model, steering: &mut Steering<'_, '_>, order: Order) -> Result<Quality> {
        let hidden = order.read(model, &self.sequences, steering)?;
        let zeros = || vec![0.0; self.sequences.len()];
        let mut quality = Quality {
            tokens: vec![0; self.sequences.len()],
            nats: zeros(),
            reference_nats: zeros(),
            divergence_nats: zeros(),
            changed: vec![0; self.sequences.len()],
        };
        for first in (0..self.next.len()).step_by(CHUNK) {
            let count = CHUNK.min(self.next.len() - first);
            let logits = |hidden: &Hidden| model.logits(hidden, first..first + count);
            let (altered, unaltered) = (logits(&hidden)?, logits(&self.hidden)?);
            let vocab = model.config.vocab;
            let rows = altered.chunks_exact(vocab).zip(unaltered.chunks_exact(vocab));
            for (token, (altered, unaltered)) in (first..).zip(rows) {
                let Some(next) = self.next[token] else { continue };
                let document = self.document[token];
                let (log_total, log_total_unaltered) = (log_sum_exp(altered), log_sum_exp(unaltered));
                quality.tokens[document] += 1;
                quality.changed[document] += usize::from(most_probable(altered) != most_probable(unaltered));
                quality.nats[document] += log_total - f64::from(altered[next as usize]);
                quality.reference_nats[document] += log_total_unaltered - f64::from(unaltered[next as usize]);
                let surprise = |(&p, &q): (&f32, &f32)| {
                    let (p, q) = (f64::from(p) - log_total_unaltered, f64::from(q) - log_total);
                    p.exp() * (p - q)
                };
                quality.divergence_nats[document] += unaltered.iter().zip(altered).map(surprise).sum::<f64>();
            }
        }
        Ok(quality)
    }
}

/// Of equals the first.
fn most_probable(logits: &[f32]) -> usize {
    (0..logits.len()).reduce(|best, id| if logits[id] > logits[best] { id } else { best }).unwrap_or(0)
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum::<f64>().ln()
}

impl Quality {
    /// Perplexity over the documents of which `of` is true.
    pub(super) fn perplexity(&self, of: impl Fn(usize) -> bool) -> f64 {
        let (nats, tokens) = (0..self.tokens.len())
            .filter(|&document| of(document))
            .fold((0.0, 0), |(nats, tokens), document| (nats + self.nats[document], tokens + self.tokens[document]));
        (nats / tokens as f64).exp()
    }

    /// Relative change of perplexity over those documents, and its 95 % interval.
    pub(super) fn change(&self, of: impl Fn(usize) -> bool) -> (f64, Option<[f64; 2]>) {
        let difference = |document: usize| Difference {
            nats: self.nats[document] - self.reference_nats[document],
            tokens: self.tokens[document],
        };
        let differences: Vec<Difference> = (0..self.tokens.len()).filter(|&d| of(d)).map(difference).collect();
        (bootstrap::change(&differences), bootstrap::interval(&differences))
    }

    /// Mean divergence per predicted token.
    pub(super) fn divergence(&self) -> f64 {
        self.divergence_nats.iter().sum::<f64>() / self.tokens.iter().sum::<usize>() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_exponentials() {
        assert!((log_sum_exp(&[0.0; 8]) - 8f64.ln()).abs() < 1e-12);
        assert!((log_sum_exp(&[1000.0, 1000.0]) - (1000.0 + 2f64.ln())).abs() < 1e-9);
    }

    #[test]
    fn perplexity_of_a_uniform_guess_is_the_number_of_choices() {
        let quality = Quality {
            tokens: vec![3, 5],
            nats: vec![3.0 * 16f64.ln(), 5.0 * 4f64.ln()],
            reference_nats: vec![3.0 * 16f64.ln(), 5.0 * 2f64.ln()],
            divergence_nats: vec![0.0, 4.0],
            changed: vec![0, 1],
        };
        assert!((quality.perplexity(|document| document == 0) - 16.0).abs() < 1e-9);
        assert!((quality.change(|document| document == 1).0 - 1.0).abs() < 1e-9);
        assert_eq!((quality.change(|document| document == 0), quality.divergence()), ((0.0, None), 0.5));
    }
}
