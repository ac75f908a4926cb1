//! Placed experts: what the prompt asks of them, who is hot after it, and at how many bits the others run.

use cptr_core::bits::{MAX_BITS, Split};
use cptr_core::placement::Demand;
use cptr_core::{Eps, Gate};

use crate::placement::{self, PINNED};
use crate::run::RowPlan;
use crate::scheme::selector;
use cptr_trace::Shape;
use cptr_trace::error::{Error, Result};

/// The first tokens of a trace, which nobody decides: they say what is wanted.
pub(super) struct Prompt {
    /// Their number.
    pub(super) tokens: usize,
    /// Weight of the share of choices in the importance.
    pub(super) alpha: Eps,
    /// What they asked of each expert, layer by layer.
    demand: Vec<Vec<Demand>>,
}

/// What lies where in a layer after the prompt.
pub(super) struct Placed {
    /// Experts in fast memory, the most important first.
    pub(super) hot: Vec<u16>,
    /// How many of the others get 1, 2, 3 and 4 bits; none: all run at the bits of the configuration.
    pub(super) split: [u16; MAX_BITS],
    /// Bits near the data of every expert.
    pub(super) bits: Vec<u8>,
}

impl Prompt {
    /// `None` for a row whose experts are loaded on demand.
    ///
    /// # Errors
    /// A prompt as long as the trace.
    pub(super) fn new(row: &RowPlan, shape: Shape) -> Result<Option<Self>> {
        if row.placement.kind.name != PINNED {
            return Ok(None);
        }
        let values = &row.placement.values;
        let (tokens, alpha) = (values.get("tokens") as usize, Eps::saturating_from_num(values.get("alpha")));
        if tokens >= shape.tokens {
            return Err(Error::new(format!(
                "--controller: expected a prompt ({PINNED}:tokens=N) shorter than the {} tokens of the trace, found {tokens}",
                shape.tokens
            )));
        }
        Ok(Some(Self { tokens, alpha, demand: vec![vec![Demand::default(); shape.experts]; shape.layers] }))
    }

    /// Takes what a token chose in a layer.
    pub(super) fn observe(&mut self, layer: usize, chosen: &[u16], weights: &[Gate]) {
        Demand::observe(&mut self.demand[layer], chosen, weights);
    }

    /// Where a layer's experts lie if so many fit in fast memory and the others run at `bits` on average: each at its own number of bits where
    /// replicas of 1 to 4 bits make up the average, by the losses that are usual.
    pub(super) fn place(&self, layer: usize, capacity: usize, bits: u8) -> Result<Placed> {
        let (importance, order) = placement::ranking(&self.demand[layer], self.alpha);
        let (hot, cold) = order.split_at(capacity);
        let mut placed = Placed { hot: hot.to_vec(), split: [0; MAX_BITS], bits: vec![bits; order.len()] };
        if usize::from(bits) > MAX_BITS {
            return Ok(placed);
        }
        let share = |&expert: &u16| f64::from(importance[usize::from(expert)]);
        let losses: Vec<_> = cold.iter().map(|expert| selector::USUAL.map(|loss| loss * share(expert))).collect();
        let split: Split = selector::split(&losses, bits)?;
        placed.split = split.experts;
        for (rank, &expert) in cold.iter().enumerate() {
            placed.bits[usize::from(expert)] = split.bits(rank).unwrap_or(bits);
        }
        Ok(placed)
    }
}
