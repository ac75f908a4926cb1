//! A trace as the sequences of a batch: equal parts of its length, decoded side by side.

use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};

/// Where the sequences of a batch lie in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streams {
    starts: Vec<usize>,
    /// Steps of each sequence, prefill included.
    pub length: usize,
    /// Steps that are prefill.
    pub prefill: usize,
}

impl Streams {
    /// Cuts `tokens` tokens into `batch` sequences of equal length, the first `prefill` tokens of each being its prompt. With joined domains
    /// the sequences of a batch have different contexts. Tokens that do not divide are left out at the end.
    ///
    /// # Errors
    /// A batch of no sequence, no prompt, or sequences without a token to decode.
    pub fn new(tokens: usize, batch: usize, prefill: usize) -> Result<Self> {
        if !(1..=1024).contains(&batch) {
            return Err(Error::new(format!("--batch: expected 1 to 1024 sequences, found {batch}")));
        }
        let length = tokens / batch;
        if prefill == 0 || prefill >= length {
            return Err(Error::new(format!(
                "--prefill: expected 1 to {} tokens, as each of {batch} sequences has {length}, found {prefill}",
                length.saturating_sub(1)
            )));
        }
        Ok(Self { starts: (0..batch).map(|sequence| sequence * length).collect(), length, prefill })
    }

    /// The tokens of a step, as indices into the trace.
    pub fn tokens(&self, step: usize) -> impl Iterator<Item = usize> + '_ {
        self.starts.iter().map(move |start| start + step)
    }

    /// Sequences of the batch.
    pub fn sequences(&self) -> usize {
        self.starts.len()
    }
}

/// Shares of a token's gate mass by chosen expert, in the order of the ids: its mixing weights over their sum; equal shares where the
/// trace has none, or where they are all 0.
pub fn mass(trace: &Trace, token: usize, layer: usize) -> impl Iterator<Item = f32> {
    let k = trace.shape.k;
    let mut weights = vec![1.0; k];
    if let Some(recorded) = &trace.weights {
        recorded.read_row(token, layer, &mut weights);
    } else if let Some(logits) = &trace.logits {
        // Softmax over the chosen: shares among them are the same whatever the router's convention.
        let mut row = vec![0.0; trace.shape.experts];
        logits.read_row(token, layer, &mut row);
        let chosen = trace.chosen(token, layer);
        let largest = chosen.iter().map(|&expert| row[usize::from(expert)]).fold(f32::MIN, f32::max);
        weights
            .iter_mut()
            .zip(chosen)
            .for_each(|(weight, &expert)| *weight = (row[usize::from(expert)] - largest).exp());
    }
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(move |weight| if sum > 0.0 { weight / sum } else { 1.0 / k as f32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_equal_and_inside() {
        let streams = Streams::new(103, 4, 5).unwrap();
        assert_eq!((streams.length, streams.sequences()), (25, 4));
        assert_eq!(streams.tokens(24).collect::<Vec<_>>(), [24, 49, 74, 99]);
        assert!(Streams::new(100, 4, 25).unwrap_err().to_string().contains("expected 1 to 24 tokens"));
        assert!(Streams::new(100, 0, 5).is_err() && Streams::new(100, 1, 0).is_err() && Streams::new(3, 4, 1).is_err());
    }
}
