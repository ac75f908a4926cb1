//! What the experts of a model see on real text.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::text;
use crate::{Cache, Model, MoeHook, Routing};
use cptr_trace::progress::Progress;

/// Tokens that are run together; no window sees another.
const WINDOW: usize = 256;
/// One window in so many is held out: its tokens judge, they do not calibrate.
const HELD_OUT: usize = 4;

/// Fewest tokens: four windows of two.
const LEAST: usize = 8;

/// Token ids, cut into windows, some of them held out.
#[derive(Debug, Clone)]
pub struct Sample {
    windows: Vec<Vec<u32>>,
}

impl Sample {
    /// Reads texts as [`text::read`] does. Of more than `tokens` tokens as many are taken from each file, spread evenly
    /// over it.
    ///
    /// # Errors
    /// If a file cannot be read or is no text, or if there are fewer than 8 tokens in all.
    pub fn read(model: &Model, paths: &[PathBuf], tokens: usize) -> Result<Self> {
        let texts = text::read(paths)?
            .iter()
            .map(|text| model.encode(&text.text).map_err(|error| error.or_file(&text.path)))
            .collect::<Result<Vec<_>>>()?;
        Self::windowed(model, &texts, tokens)
    }

    /// The same from texts in memory.
    ///
    /// # Errors
    /// If there are fewer than 8 tokens in all.
    pub fn of(model: &Model, texts: &[&str], tokens: usize) -> Result<Self> {
        let texts = texts.iter().map(|text| model.encode(text)).collect::<Result<Vec<_>>>()?;
        Self::windowed(model, &texts, tokens)
    }

    fn windowed(model: &Model, texts: &[Vec<u32>], tokens: usize) -> Result<Self> {
        let (mut windows, mut found) = (Vec::new(), 0);
        for (index, ids) in texts.iter().enumerate() {
            found += ids.len();
            let taken: usize = windows.iter().map(Vec::len).sum();
            // What short texts leave over goes to those after them.
            let share = tokens.saturating_sub(taken) / (texts.len() - index);
            windows.extend(spread(ids, share, WINDOW.min(model.config.context)));
        }
        // A single token predicts nothing.
        windows.retain(|window| window.len() > 1);
        if found < LEAST || windows.len() < 2 {
            return Err(Error::new(format!("expected calibration text of at least {LEAST} tokens, found {found}")));
        }
        Ok(Self { windows })
    }

    /// The windows, each with whether it is held out. At least one is, and at least one is not.
    pub fn windows(&self) -> impl Iterator<Item = (&[u32], bool)> {
        let last = self.windows.len().min(HELD_OUT) - 1;
        self.windows.iter().enumerate().map(move |(index, window)| (&window[..], index % HELD_OUT == last))
    }

    /// Tokens in all.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.windows.iter().map(Vec::len).sum()
    }
}

/// Windows of `most` ids at the most, `share` ids in all, spread over the text; at least four of them where there are
/// ids for it, so that short texts have a held-out part too.
fn spread(ids: &[u32], share: usize, most: usize) -> Vec<Vec<u32>> {
    let share = share.min(ids.len());
    let length = most.min(share.div_ceil(HELD_OUT)).max(1);
    let count = share / length;
    let start = |window: usize| window * (ids.len() - length) / count.saturating_sub(1).max(1);
    (0..count).map(|window| ids[start(window)..start(window) + length].to_vec()).collect()
}

/// The inputs and choices of all MoE layers on a sample.
#[derive(Debug)]
pub(super) struct Calibration {
    /// Whether a token is held out, `[T]`.
    pub(super) held_out: Vec<bool>,
    /// Per MoE layer.
    pub(super) layers: Vec<LayerTokens>,
}

/// What one MoE layer sees.
#[derive(Debug, Clone, Default)]
pub(super) struct LayerTokens {
    /// Inputs `[T, D]`, row-major.
    pub(super) inputs: Vec<f32>,
    /// The model's own choice `[T, k]`.
    pub(super) chosen: Vec<u16>,
}

impl Calibration {
    /// Runs the model on the sample. Takes `4 T D` bytes for every layer.
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    pub(super) fn run(model: &Model, sample: &Sample) -> Result<Self> {
        let mut hook = Recorder { layers: vec![LayerTokens::default(); model.config.moe_layers.len()] };
        let mut held_out = Vec::new();
        let progress = Progress::new(sample.tokens() as u64, "calibrating");
        for (window, held) in sample.windows() {
            model.forward_last(window, &mut Cache::new(), &mut hook)?;
            held_out.extend(std::iter::repeat_n(held, window.len()));
            progress.advance(window.len() as u64);
        }
        Ok(Self { held_out, layers: hook.layers })
    }
}

struct Recorder {
    layers: Vec<LayerTokens>,
}

impl MoeHook for Recorder {
    fn input(&mut self, layer: usize, hidden: &[f32]) {
        self.layers[layer].inputs.extend_from_slice(hidden);
    }

    fn route(&mut self, routing: &Routing<'_>, _chosen: &mut [u16]) {
        self.layers[routing.layer].chosen.extend_from_slice(routing.wanted);
    }
}

/// Perplexity over the held-out windows, with `hook` in the loop: e to the mean negative log-likelihood of every token
/// but the first.
///
/// # Errors
/// Those of [`Model::forward`].
pub fn perplexity(model: &Model, sample: &Sample, hook: &mut dyn MoeHook) -> Result<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for (window, _) in sample.windows().filter(|(_, held_out)| *held_out) {
        let logits = model.forward(window, &mut Cache::new(), hook)?;
        for (logits, next) in logits.chunks_exact(model.config.vocab).zip(&window[1..]) {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
            sum += total.ln() - f64::from(logits[*next as usize] - largest);
            count += 1.0;
        }
    }
    Ok(f64::exp(sum / count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_spread_over_the_text() {
        let ids: Vec<u32> = (0..1000).collect();
        let windows = spread(&ids, 400, 100);
        assert_eq!(windows.iter().map(|window| window[0]).collect::<Vec<_>>(), [0, 300, 600, 900]);
        assert!(windows.iter().all(|window| window.len() == 100));
        assert_eq!(spread(&ids, 5000, 256).len(), 4);
        assert_eq!(spread(&ids[..9], 5000, 256), [[0, 1, 2], [3, 4, 5], [6, 7, 8]]);
        assert_eq!(spread(&ids[..1], 5000, 256), [[0]]);
        assert_eq!(spread(&[], 5000, 256), [[0; 0]; 0]);
        assert_eq!(spread(&ids, 0, 256), [[0; 0]; 0]);
    }

    #[test]
    fn some_windows_are_held_out_and_some_are_not() {
        for count in 2..10 {
            let sample = Sample { windows: vec![vec![1, 2]; count] };
            let held_out = sample.windows().filter(|(_, held_out)| *held_out).count();
            assert!(held_out >= 1 && held_out < count, "{held_out} of {count}");
        }
    }
}
