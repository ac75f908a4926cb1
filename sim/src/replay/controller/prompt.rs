//! Placed experts: what the prompt asks of them, who is hot after it, and at how many bits the others run.

use cptr_core::Gate;
use cptr_core::bits::{MAX_BITS, Split};
use cptr_core::placement::Demand;

use crate::strategy::Strategy;
use crate::strategy::precision::{USUAL, split};
use crate::strategy::residency::Ranking;
use cptr_trace::Shape;
use cptr_trace::error::{Error, Result};

/// The first tokens of a trace, which nobody decides: they say what is wanted.
pub(super) struct Prompt {
    /// Their number.
    pub(super) tokens: usize,
    /// Weight of the share of choices in the importance.
    pub(super) alpha: f64,
    /// Whether each of the others runs at its own number of bits.
    selects_bits: bool,
    /// What they asked of each expert, layer by layer.
    demand: Vec<Vec<Demand>>,
}

/// What lies where in a layer after the prompt.
pub(super) struct Placed {
    /// Experts in fast memory, the most important first.
    pub(super) hot: Vec<u16>,
    /// How many of the others get 1, 2, 3 and 4 bits; none: all run at the bits of the configuration.
    pub(super) split: [u16; MAX_BITS],
}

impl Prompt {
    /// `None` for a strategy whose experts are loaded on demand; `prefill` are the tokens that are a prompt in any
    /// case.
    ///
    /// # Errors
    /// A prompt as long as the trace.
    pub(super) fn new(strategy: &Strategy, prefill: usize, shape: Shape) -> Result<Option<Self>> {
        if strategy.residency.kind.name != "once" {
            return Ok(None);
        }
        let values = &strategy.residency.values;
        let (tokens, alpha) = (if prefill > 0 { prefill } else { values.get("tokens") as usize }, values.get("alpha"));
        if tokens >= shape.tokens {
            return Err(Error::new(format!(
                "--controller: expected a prompt (once:tokens=N) shorter than the {} tokens of the trace, found {tokens}",
                shape.tokens
            )));
        }
        let selects_bits = strategy.precision.kind.name == "mean" && strategy.division.kind.name != "gpu";
        let demand = vec![vec![Demand::default(); shape.experts]; shape.layers];
        Ok(Some(Self { tokens, alpha, selects_bits, demand }))
    }

    /// Takes what a token chose in a layer.
    pub(super) fn observe(&mut self, layer: usize, chosen: &[u16], weights: &[Gate]) {
        Demand::observe(&mut self.demand[layer], chosen, weights);
    }

    /// Where a layer's experts lie if so many fit in fast memory and the others run at `bits` on average: each at its
    /// own number of bits, by the losses that are usual, if the strategy has a bit selector.
    pub(super) fn place(&self, layer: usize, capacity: usize, bits: u8) -> Result<Placed> {
        let Ranking { order, importance } = Ranking::of(&self.demand[layer], self.alpha);
        let (hot, cold) = order.split_at(capacity.min(order.len()));
        let mut placed = Placed { hot: hot.to_vec(), split: [0; MAX_BITS] };
        if self.selects_bits {
            let share = |&expert: &u16| f64::from(importance[usize::from(expert)]);
            let losses: Vec<_> = cold.iter().map(|expert| USUAL.map(|loss| loss * share(expert))).collect();
            let split: Split = split(&losses, bits)?;
            placed.split = split.experts;
        }
        Ok(placed)
    }
}
