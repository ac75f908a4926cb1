//! Where steps come from: a trace as the sequences of a batch, and what of it is still to come.

use cptr_trace::Trace;
use cptr_trace::error::{Error, Result};

/// Where the sequences of a batch lie in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streams {
    starts: Vec<usize>,
    /// Steps of each sequence, prompt included.
    pub length: usize,
    /// Steps that are prompt.
    pub prefill: usize,
}

impl Streams {
    /// Cuts `tokens` tokens into `batch` sequences of equal length, the first `prefill` tokens of each being its
    /// prompt. With joined domains the sequences of a batch have different contexts. Tokens that do not divide are left
    /// out at the end.
    ///
    /// # Errors
    /// A batch of no sequence, or sequences without a token to decode.
    pub fn new(tokens: usize, batch: usize, prefill: usize) -> Result<Self> {
        if !(1..=1024).contains(&batch) {
            return Err(Error::new(format!("--batch: expected 1 to 1024 sequences, found {batch}")));
        }
        let length = tokens / batch;
        if prefill >= length {
            return Err(Error::new(format!(
                "--prefill: expected at most {} tokens, as each of {batch} sequences has {length}, found {prefill}",
                length.saturating_sub(1)
            )));
        }
        Ok(Self { starts: (0..batch).map(|sequence| sequence * length).collect(), length, prefill })
    }

    /// The token of a sequence at a step, as an index into the trace.
    #[must_use]
    pub fn token(&self, step: usize, sequence: usize) -> usize {
        self.starts[sequence] + step
    }

    /// The tokens of a step, as indices into the trace.
    pub fn tokens(&self, step: usize) -> impl Iterator<Item = usize> + '_ {
        self.starts.iter().map(move |start| start + step)
    }

    /// Sequences of the batch.
    #[must_use]
    pub fn sequences(&self) -> usize {
        self.starts.len()
    }
}

/// One token of a step in one layer, as a source knows it.
#[derive(Debug, Clone, Copy)]
pub struct Routed<'r> {
    /// The model's own choice, best first where the source says so; ids from E on are null experts, which come last.
    pub wanted: &'r [u16],
    /// Mixing weights of `wanted`; empty where they are not known.
    pub weights: &'r [f32],
    /// The router's logits `[S]`, those of null experts last; empty where they are not known.
    pub logits: &'r [f32],
    /// What the next layer's router would want if its input were this layer's, best first; empty where that is not
    /// known, as of recordings, and after the last layer.
    pub ahead: &'r [u16],
    /// Whether this is the first token of a sequence.
    pub starts_sequence: bool,
}

/// Those of a choice that are no null experts, which come last.
pub(crate) fn real(wanted: &[u16], experts: usize) -> &[u16] {
    match wanted.last() {
        Some(&last) if usize::from(last) >= experts => {
            &wanted[..wanted.partition_point(|&id| usize::from(id) < experts)]
        }
        _ => wanted,
    }
}

/// What tokens will want. No system knows it; kinds of parts that ask for it are marked.
#[derive(Debug, Clone)]
pub struct Future<'a> {
    trace: Option<(&'a Trace, Streams)>,
    /// For every layer, step, sequence and wanted expert the next step that wants the expert there, `u32::MAX` for
    /// none.
    next_use: Vec<Vec<u32>>,
}

impl<'a> Future<'a> {
    /// Everything of a trace.
    #[must_use]
    pub fn of(trace: &'a Trace, streams: &Streams) -> Self {
        let mut future = Self { trace: Some((trace, streams.clone())), next_use: Vec::new() };
        for layer in 0..trace.shape.layers {
            let wanted = |step: usize, sequence: usize| trace.chosen(streams.token(step, sequence), layer);
            future.next_use.push(next_use(wanted, streams.length, streams.sequences(), trace.shape));
        }
        future
    }

    /// Of a single layer, as wanted `[steps][k]`: for a source that goes layer by layer.
    #[must_use]
    pub fn of_layer(layers: usize, layer: usize, ids: &[u16], experts: usize, k: usize) -> Self {
        let shape = cptr_trace::Shape { tokens: ids.len() / k, layers, experts, k };
        let wanted = |step: usize, _: usize| &ids[step * k..(step + 1) * k];
        let mut next = vec![Vec::new(); layers];
        next[layer] = next_use(wanted, shape.tokens, 1, shape);
        Self { trace: None, next_use: next }
    }

    /// Steps that there are.
    pub(crate) fn steps(&self) -> usize {
        self.trace.as_ref().map_or(0, |(_, streams)| streams.length)
    }

    /// What a sequence wants in a layer at a step; nothing beyond the end.
    pub(crate) fn wanted(&self, step: usize, sequence: usize, layer: usize) -> &[u16] {
        match &self.trace {
            Some((trace, streams)) if step < streams.length => trace.chosen(streams.token(step, sequence), layer),
            _ => &[],
        }
    }

    /// For each of the `k` experts that a sequence wants the next step that wants it.
    pub(crate) fn next_use(&self, step: usize, sequence: (usize, usize), layer: usize, k: usize) -> &[u32] {
        let (index, sequences) = sequence;
        let first = (step * sequences + index) * k;
        self.next_use.get(layer).and_then(|next| next.get(first..first + k)).unwrap_or(&[])
    }
}

fn next_use<'t>(
    wanted: impl Fn(usize, usize) -> &'t [u16],
    steps: usize,
    sequences: usize,
    shape: cptr_trace::Shape,
) -> Vec<u32> {
    let k = shape.k;
    let mut next = vec![u32::MAX; shape.experts];
    let mut found = vec![u32::MAX; steps * sequences * k];
    for step in (0..steps).rev() {
        for sequence in 0..sequences {
            let first = (step * sequences + sequence) * k;
            for (found, &expert) in found[first..first + k].iter_mut().zip(wanted(step, sequence)) {
                *found = next[usize::from(expert)];
            }
        }
        for sequence in 0..sequences {
            wanted(step, sequence).iter().for_each(|&expert| next[usize::from(expert)] = step as u32);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_equal_and_inside() {
        let streams = Streams::new(103, 4, 5).unwrap();
        assert_eq!((streams.length, streams.sequences()), (25, 4));
        assert_eq!(streams.tokens(24).collect::<Vec<_>>(), [24, 49, 74, 99]);
        assert_eq!(Streams::new(100, 1, 0).unwrap().length, 100);
        assert!(Streams::new(100, 4, 25).unwrap_err().to_string().contains("expected at most 24 tokens"));
        assert!(Streams::new(100, 0, 5).is_err() && Streams::new(3, 4, 1).is_err());
    }

    #[test]
    fn next_uses_by_hand() {
        let ids = [0, 1, 1, 2, 0, 1];
        let future = Future::of_layer(1, 0, &ids, 3, 2);
        let next = |step| future.next_use(step, (0, 1), 0, 2).to_vec();
        assert_eq!([next(0), next(1), next(2)], [[2, 1], [2, u32::MAX], [u32::MAX, u32::MAX]].map(Vec::from));
        // Two sequences of a batch: the same expert in both is wanted at one step.
        let trace = Trace::of_ids(cptr_trace::Shape { tokens: 4, layers: 1, experts: 3, k: 1 }, vec![0, 1, 0, 0]);
        let future = Future::of(&trace, &Streams::new(4, 2, 0).unwrap());
        assert_eq!([0, 1].map(|sequence| future.next_use(0, (sequence, 2), 0, 1)[0]), [1, 1]);
        assert_eq!(future.wanted(1, 1, 0), [0]);
        assert!(future.wanted(2, 0, 0).is_empty());
    }
}
