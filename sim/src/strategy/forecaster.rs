//! The memory of trajectories of a strategy: one for each sequence, whichever of its parts ask it.
//!
//! The stepper shows it what every token wants, layer by layer; residency and prefetch ask it what the next tokens of
//! a layer will want.

use cptr_core::Level;
use cptr_core::recall::{Config, Recall, Shape};
use cptr_trace::error::{Error, Result};

use super::{Parameter, Unit, Values};
use crate::replay::Routed;

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
            sequence.observe(layer as u16, token.wanted);
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

#[cfg(test)]
mod tests {
    use cptr_trace::{Shape, Trace};

    use crate::replay::{Budget, LayerOutcome, Observer, Plan, Row, drive, run};
    use crate::strategy::Strategy;

    const SHAPE: Shape = Shape { tokens: 1600, layers: 3, experts: 32, k: 4 };

    /// A text of 350 tokens that comes again and again, a fifth of its choices replaced each time; or the same tokens
    /// in no order.
    fn text(ordered: bool) -> Trace {
        let mut random = fastrand::Rng::with_seed(7);
        let draw = |random: &mut fastrand::Rng, ids: &mut Vec<u16>| loop {
            // Some experts are wanted more than others.
            let id = random.u16(0..32).min(random.u16(0..32));
            if !ids.contains(&id) {
                return ids.push(id);
            }
        };
        let once: Vec<Vec<u16>> = (0..350 * SHAPE.layers)
            .map(|_| {
                let mut ids = Vec::new();
                (0..SHAPE.k).for_each(|_| draw(&mut random, &mut ids));
                ids
            })
            .collect();
        let mut order: Vec<usize> = (0..SHAPE.tokens).map(|token| token % 350).collect();
        if !ordered {
            random.shuffle(&mut order);
        }
        let mut ids = Vec::new();
        for token in order {
            for layer in 0..SHAPE.layers {
                let mut here = once[token * SHAPE.layers + layer].clone();
                here.retain(|_| random.u8(0..5) > 0);
                while here.len() < SHAPE.k {
                    draw(&mut random, &mut here);
                }
                ids.extend(here);
            }
        }
        Trace::of_ids(SHAPE, ids)
    }

    fn rows(trace: &Trace, strategies: &str) -> Vec<Row> {
        let strategies = Strategy::parse_list(strategies).unwrap();
        let plan = Plan { strategies, prefill: 800, ..Plan::new(Budget::Experts(8)) };
        let outcome = run(trace, &plan).unwrap();
        assert!(outcome.skipped.is_empty());
        outcome.rows
    }

    #[test]
    fn what_comes_again_is_kept_and_fetched() {
        let rows = rows(
            &text(true),
            "lru,tracked,recall,belady,recall-fetch,lru+recall-fetch,recall:bits=64,recall:memory=64",
        );
        let [lru, tracked, recall, belady, both, fetch, narrow, short] = &rows[..] else { panic!() };
        let closed = (tracked.stall_rate - recall.stall_rate) / (tracked.stall_rate - belady.stall_rate);
        assert!(closed > 0.5, "{closed}");
        assert!(both.stall_rate < belady.stall_rate && both.load_rate < lru.load_rate, "{}", both.stall_rate);
        assert!(fetch.stall_rate < lru.stall_rate && fetch.fetch_rate > 0.05, "{}", fetch.fetch_rate);
        assert!(narrow.stall_rate < tracked.stall_rate);
        // A memory that is shorter than the text knows nothing, and does no harm.
        assert!(short.stall_rate < 1.01 * tracked.stall_rate, "{} {}", short.stall_rate, tracked.stall_rate);
    }

    #[test]
    fn without_order_recall_does_nothing() {
        let rows = rows(&text(false), "tracked,recall,recall-fetch");
        assert!(
            (rows[1].stall_rate / rows[0].stall_rate - 1.0).abs() < 0.01,
            "{} {}",
            rows[1].stall_rate,
            rows[0].stall_rate
        );
        assert!(rows[2].load_rate < 1.01 * rows[1].load_rate, "{} {}", rows[2].load_rate, rows[1].load_rate);
    }

    /// What is resident before and after every layer.
    #[derive(Default)]
    struct Residents(Vec<[Vec<u16>; 2]>);

    impl Observer for Residents {
        fn layer(&mut self, seen: &LayerOutcome<'_>) -> cptr_trace::Result<()> {
            self.0.push([seen.before.iter().collect(), seen.resident.iter().collect()]);
            Ok(())
        }
    }

    /// A decision at a layer of a token sees that layer and those before, and the tokens before: everything else is
    /// replaced, and it stays.
    #[test]
    fn nothing_later_is_seen() {
        let trace = text(true);
        let decisions = |trace: &Trace, strategy: &str| {
            let mut seen = Residents::default();
            let plan = Plan { prefill: 100, ..Plan::new(Budget::Experts(8)) };
            drive(trace, &plan, &Strategy::parse(strategy).unwrap(), &mut [&mut seen]).unwrap();
            seen.0
        };
        for strategy in ["recall", "recall-fetch", "lru+recall-fetch"] {
            let before = decisions(&trace, strategy);
            for (token, layer) in [(700, 0), (1201, 1), (1302, 2)] {
                let last = token * SHAPE.layers + layer;
                let mut altered = trace.clone();
                let later = &mut altered.ids[(last + 1) * SHAPE.k..];
                later.iter_mut().for_each(|id| *id = (*id + 11) % 32);
                let after = decisions(&altered, strategy);
                assert_eq!(before[..=last], after[..=last], "{strategy} {token} {layer}");
                // What was fetched for the next layer, too.
                assert_eq!(before[last + 1][0], after[last + 1][0], "{strategy} {token} {layer}");
                assert_ne!(before[last + 1..], after[last + 1..], "{strategy} decides by what it sees");
            }
        }
    }
}
