//! The memory of trajectories of a strategy: one for each sequence, whichever of its parts ask it.
//!
//! The stepper shows it what every token wants, layer by layer; residency and prefetch ask it what the next tokens of
//! a layer will want.

use cptr_core::Level;
use cptr_core::recall::{Config, MAX_SKETCH, Recall, Shape};
use cptr_trace::error::{Error, Result};

use super::remembers::Remembers;
use super::rivals::{Maps, Matrices, Successors, maps};
use super::{Parameter, Unit, Values};
use crate::source::{Routed, real};

/// Tokens that are remembered.
pub(super) const MEMORY: Parameter =
    Parameter::new("memory", 2048.0, Unit::Count(64, 65_536), "tokens that are remembered");
/// Bits of a signature.
pub(super) const BITS: Parameter = Parameter::new(
    "bits",
    128.0,
    Unit::Count(64, 256),
    "bits of a signature: 64, 128 or 256; other numbers count as the next one below",
);
/// Places that are scored again in every layer.
pub(super) const PLACES: Parameter = Parameter::new(
    "places",
    64.0,
    Unit::Count(1, MOST_PLACES as u32),
    "remembered places that go on into the next token",
);

/// What signatures are made of, in the order of [`Signs`].
pub(super) const SIGNATURE: Parameter = Parameter::new(
    "signature",
    0.0,
    Unit::OneOf(&["choices", "sketch", "logits"]),
    "what signatures are of: choices, sketches of the routers' inputs (hidden of a trace), or logits",
);

/// Of activation matrices; chosen on two traces, as those below. The paper has whole sequences and asks the nearest.
pub(super) const MATRICES: [Parameter; 3] = [
    Parameter::new("length", 16.0, Unit::Count(1, 65_535), "tokens of a sequence: longer ones are cut"),
    Parameter::new("sequences", 1024.0, Unit::Count(1, 4096), "sequences that are remembered"),
    Parameter::new("nearest", 4.0, Unit::Count(1, 64), "matrices that are asked"),
];
/// Of expert maps. As published it is `nearest=1:newest=0:diverse=on:follow=off`.
pub(super) const MAPS: [Parameter; 4] = [
    Parameter::new("nearest", 8.0, Unit::Count(1, 64), "maps that are asked"),
    Parameter::new("newest", 12.0, Unit::Count(0, 64), "tokens just before that are not searched"),
    Parameter::new("diverse", 0.0, Unit::Switch, "whether a new map replaces the one most like it, or the oldest"),
    Parameter::new("follow", 1.0, Unit::Switch, "whether what followed a map counts for later tokens, or the map"),
];

/// Most places that a part can ask for.
const MOST_PLACES: usize = 128;

/// What the signatures of recall are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signs {
    /// What tokens chose.
    Choices,
    /// Sketches of the routers' inputs.
    Sketch,
    /// The routers' logits.
    Logits,
}

impl Signs {
    /// As the values of a part say, which need not have [`SIGNATURE`].
    pub(super) fn of(values: &Values) -> Self {
        let has = values.parameters().iter().any(|parameter| parameter.name == SIGNATURE.name);
        match if has { values.count(SIGNATURE.name) } else { 0 } {
            0 => Self::Choices,
            1 => Self::Sketch,
            _ => Self::Logits,
        }
    }
}

/// Which memory, and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Settings {
    /// The core's recall.
    Recall {
        /// Tokens that are remembered.
        tokens: usize,
        /// Words of a signature.
        words: usize,
        /// Places that are scored again in every layer.
        places: u16,
        /// What signatures are of.
        signs: Signs,
    },
    /// What followed each expert; the tokens of the wider of its two windows.
    Successors(usize),
    /// Activation matrices of sequences: tokens of each, how many, and how many are asked.
    Matrices(usize, usize, usize),
    /// Expert maps of tokens.
    Maps(maps::Settings),
}

impl Settings {
    /// As the values of a part say that has [`MEMORY`], [`BITS`] and [`PLACES`], and may have [`SIGNATURE`].
    pub(super) fn of(values: &Values) -> Self {
        let words = match values.count("bits") {
            256.. => 8,
            128.. => 4,
            _ => 2,
        };
        let places = values.count("places") as u16;
        Self::Recall { tokens: values.count("memory"), words, places, signs: Signs::of(values) }
    }

    /// Activation matrices as values say, or as usual.
    pub(super) fn matrices(values: Option<&Values>) -> Self {
        let usual = Values::defaults(&MATRICES);
        let values = values.unwrap_or(&usual);
        Self::Matrices(values.count("length"), values.count("sequences"), values.count("nearest"))
    }

    /// Expert maps as values say, or as usual.
    pub(super) fn maps(values: Option<&Values>) -> Self {
        let usual = Values::defaults(&MAPS);
        let (maps, values) =
            values.map_or((MEMORY.default as usize, &usual), |values| (values.count("memory"), values));
        Self::Maps(maps::Settings {
            maps,
            nearest: values.count("nearest"),
            newest: values.count("newest"),
            diverse: values.on("diverse"),
            follow: values.on("follow"),
        })
    }

    /// Whether one memory serves those who ask for the one and for the other.
    pub(crate) fn is_kind_of(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// The usual ones for a memory of so many tokens.
    pub(crate) fn remembering(tokens: usize) -> Self {
        let (words, places) = (BITS.default as usize / 32, PLACES.default as u16);
        Self::Recall { tokens, words, places, signs: Signs::Choices }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::remembering(MEMORY.default as usize)
    }
}

/// A sequence of layers.
struct Sequence<const W: usize> {
    config: Config,
    recall: Recall<Vec<u32>, W, MOST_PLACES>,
    signs: Signs,
    /// What is known of the token that is on its way, where signatures are not of choices.
    sketch: Vec<i16>,
}

impl<const W: usize> Sequence<W> {
    fn boxed(tokens: usize, (places, signs): (u16, Signs), shape: Shape) -> Result<Box<dyn Remembers>> {
        let config = Config { candidates: places, ..Config::default() };
        let words = vec![0; shape.words(tokens, W)];
        let recall = Recall::new(&config, shape, tokens, words).map_err(|error| {
            let Shape { layers, experts, k } = shape;
            Error::new(format!("recall cannot remember {layers} layers of {experts} experts, top-{k}: {error}"))
        })?;
        Ok(Box::new(Self { config, recall, signs, sketch: Vec::new() }))
    }

    /// Adds numbers to the sketch of the token, with 8 fraction bits. Its length is checked before the first token.
    fn extend(&mut self, numbers: &[f32]) {
        let left = MAX_SKETCH - self.sketch.len().min(MAX_SKETCH);
        self.sketch.extend(numbers.iter().take(left).map(|number| (number * 256.0).round() as i16));
    }
}

/// The order of layers and the ids are the stepper's, and the windows those of parameters.
pub(super) const SEEN: &str = "layers come in order, ids are those of a valid trace, sketches have one length";

impl<const W: usize> Remembers for Sequence<W> {
    fn observe(&mut self, layer: usize, token: &Routed<'_>) {
        if self.signs == Signs::Logits {
            self.extend(token.logits);
        }
        self.recall.observe(&self.config, layer as u16, token.wanted).expect(SEEN);
    }

    fn sketch(&mut self, input: &[f32]) {
        if self.signs == Signs::Sketch {
            self.extend(input);
        }
    }

    fn end_token(&mut self) {
        if self.signs == Signs::Choices {
            self.recall.end_token(&self.config).expect(SEEN);
        } else {
            self.recall.end_token_with(&self.config, &self.sketch).expect(SEEN);
            self.sketch.clear();
        }
    }

    fn forecast(&mut self, layer: usize, tokens: usize, shares: &mut [Level]) {
        self.recall.forecast(layer as u16, tokens as u16, shares).expect(SEEN);
    }
}

/// What the tokens that were like these led to.
pub(crate) struct Forecaster {
    sequences: Vec<Box<dyn Remembers>>,
    experts: usize,
    /// What one sequence says.
    one: Vec<Level>,
    sums: Vec<u64>,
}

impl Forecaster {
    /// Before the first token.
    pub(crate) fn new(settings: Settings, layers: usize, experts: usize, k: usize, sequences: usize) -> Result<Self> {
        let shape = Shape { layers: layers as u16, experts: experts as u16, k: k as u16 };
        let sequence = |_| -> Result<Box<dyn Remembers>> {
            match settings {
                Settings::Recall { tokens, words, places, signs } => match words {
                    2 => Sequence::<2>::boxed(tokens, (places, signs), shape),
                    4 => Sequence::<4>::boxed(tokens, (places, signs), shape),
                    _ => Sequence::<8>::boxed(tokens, (places, signs), shape),
                },
                Settings::Successors(window) => Ok(Box::new(Successors::new(window, layers, experts))),
                Settings::Matrices(length, most, nearest) => {
                    Ok(Box::new(Matrices::new((length, most, nearest), layers, experts)))
                }
                Settings::Maps(settings) => Ok(Box::new(Maps::new(settings, layers, experts))),
            }
        };
        let sequences = (0..sequences).map(sequence).collect::<Result<_>>()?;
        Ok(Self { sequences, experts, one: vec![Level::ZERO; experts], sums: vec![0; experts] })
    }

    /// What the tokens of a step want in their next layer.
    pub(crate) fn see(&mut self, layer: usize, tokens: &[Routed<'_>]) {
        for (sequence, token) in self.sequences.iter_mut().zip(tokens) {
            let wanted = real(token.wanted, self.experts);
            let weights = token.weights.get(..wanted.len()).unwrap_or(&[]);
            sequence.observe(layer, &Routed { wanted, weights, ..*token });
        }
    }

    /// The routers' inputs, or sketches of them `[S, D]`, of the tokens of a step in their next layer.
    pub(crate) fn sketch(&mut self, inputs: &[f32]) {
        let size = (inputs.len() / self.sequences.len().max(1)).max(1);
        self.sequences.iter_mut().zip(inputs.chunks_exact(size)).for_each(|(sequence, input)| sequence.sketch(input));
    }

    /// All layers of a step have run.
    pub(crate) fn end_token(&mut self) {
        self.sequences.iter_mut().for_each(|sequence| sequence.end_token());
    }

    /// Fills `shares` with the share of the next `tokens` tokens of a layer that will want each expert, mean over the
    /// sequences.
    pub(crate) fn share(&mut self, layer: usize, tokens: usize, shares: &mut Vec<Level>) {
        let sequences = self.sequences.len() as u64;
        self.add(layer, tokens);
        shares.clear();
        shares.extend(self.sums.iter().map(|&sum| Level::from_bits((sum / sequences) as u32)));
    }

    /// Fills `shares` with the probability that the next step wants each expert in a layer, at most: the sum over the
    /// sequences.
    pub(crate) fn next(&mut self, layer: usize, shares: &mut Vec<Level>) {
        self.add(layer, 1);
        shares.clear();
        shares.extend(self.sums.iter().map(|&sum| Level::from_bits(sum.min(1 << 31) as u32)));
    }

    /// Fills `shares` with the probability that the next token of one sequence wants each expert in a layer.
    pub(crate) fn next_of(&mut self, sequence: usize, layer: usize, shares: &mut Vec<Level>) {
        self.sequences[sequence].forecast(layer, 1, &mut self.one);
        shares.clone_from(&self.one);
    }

    fn add(&mut self, layer: usize, tokens: usize) {
        self.sums[..self.experts].fill(0);
        for sequence in &mut self.sequences {
            sequence.forecast(layer, tokens, &mut self.one);
            self.sums.iter_mut().zip(&self.one).for_each(|(sum, share)| *sum += u64::from(share.to_bits()));
        }
    }
}
