//! The memory of trajectories of a strategy: one for each sequence, whichever of its parts ask it.
//!
//! The stepper shows it what every token wants, layer by layer; residency and prefetch ask it what the next tokens of
//! a layer will want.

use cptr_core::Level;
use cptr_core::recall::{Config, Recall, Shape};
use cptr_trace::error::{Error, Result};

use super::{Parameter, Unit, Values};
use crate::source::Routed;

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

/// Most places that a part can ask for.
const MOST_PLACES: usize = 128;

/// What a memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    tokens: usize,
    words: usize,
    places: u16,
}

impl Settings {
    /// As the values of a part say that has [`MEMORY`], [`BITS`] and [`PLACES`].
    pub(super) fn of(values: &Values) -> Self {
        let words = match values.count("bits") {
            256.. => 8,
            128.. => 4,
            _ => 2,
        };
        Self { tokens: values.count("memory"), words, places: values.count("places") as u16 }
    }

    /// The usual ones for a memory of so many tokens.
    pub(crate) fn remembering(tokens: usize) -> Self {
        Self { tokens, ..Self::default() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { tokens: MEMORY.default as usize, words: BITS.default as usize / 32, places: PLACES.default as u16 }
    }
}

/// A core's recall of any width.
trait Remembers: Send {
    fn observe(&mut self, layer: u16, wanted: &[u16]);
    fn end_token(&mut self);
    fn forecast(&self, layer: u16, tokens: u16, shares: &mut [Level]);
}

/// A sequence of layers.
struct Sequence<const W: usize> {
    config: Config,
    recall: Recall<Vec<u32>, W, MOST_PLACES>,
}

impl<const W: usize> Sequence<W> {
    fn boxed(settings: Settings, shape: Shape) -> Result<Box<dyn Remembers>> {
        let config = Config { candidates: settings.places, ..Config::default() };
        let words = vec![0; shape.words(settings.tokens, W)];
        let recall = Recall::new(&config, shape, settings.tokens, words).map_err(|error| {
            let Shape { layers, experts, k } = shape;
            Error::new(format!("recall cannot remember {layers} layers of {experts} experts, top-{k}: {error}"))
        })?;
        Ok(Box::new(Self { config, recall }))
    }
}

/// The order of layers and the ids are the stepper's, and the windows those of parameters.
const SEEN: &str = "layers come in order, ids are those of a valid trace";

impl<const W: usize> Remembers for Sequence<W> {
    fn observe(&mut self, layer: u16, wanted: &[u16]) {
        self.recall.observe(&self.config, layer, wanted).expect(SEEN);
    }

    fn end_token(&mut self) {
        self.recall.end_token(&self.config).expect(SEEN);
    }

    fn forecast(&self, layer: u16, tokens: u16, shares: &mut [Level]) {
        self.recall.forecast(layer, tokens, shares).expect(SEEN);
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
        let sequence = |_| match settings.words {
            2 => Sequence::<2>::boxed(settings, shape),
            4 => Sequence::<4>::boxed(settings, shape),
            _ => Sequence::<8>::boxed(settings, shape),
        };
        let sequences = (0..sequences).map(sequence).collect::<Result<_>>()?;
        Ok(Self { sequences, experts, one: vec![Level::ZERO; experts], sums: vec![0; experts] })
    }

    /// What the tokens of a step want in their next layer.
    pub(crate) fn see(&mut self, layer: usize, tokens: &[Routed<'_>]) {
        for (sequence, token) in self.sequences.iter_mut().zip(tokens) {
            // Null experts come last, and nothing is remembered of them.
            let wanted = token.wanted.partition_point(|&id| usize::from(id) < self.experts);
            sequence.observe(layer as u16, &token.wanted[..wanted]);
        }
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

    fn add(&mut self, layer: usize, tokens: usize) {
        self.sums[..self.experts].fill(0);
        for sequence in &self.sequences {
            sequence.forecast(layer as u16, tokens as u16, &mut self.one);
            self.sums.iter_mut().zip(&self.one).for_each(|(sum, share)| *sum += u64::from(share.to_bits()));
        }
    }
}
