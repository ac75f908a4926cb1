//! Whole systems for models that do not fit the GPU: what is in GPU memory, where each chosen expert runs, at how many bits, and what moves.
//!
//! A scheme sees one step of decoding at a time, layer by layer; [`crate::decode`] keeps the time. A new scheme is one file and one line in
//! [`KINDS`].

mod best_split;
mod context_aware;
mod cptr;
mod d2moe;
mod dispatch;
mod hobbit;
mod monde;
mod near;
mod on_demand;
mod oracle;
mod periodic;
pub mod selector;

use crate::decode::costs::Costs;
use crate::decode::queue::Queue;
use crate::decode::streams::Streams;
use crate::placement::Resident;
use crate::spec::{self, Parameter, Values};
use cptr_trace::LossTable;
use cptr_trace::error::Result;
use cptr_trace::{Knowledge, Trace};

/// Bits per weight of experts in GPU memory: full precision.
pub const FULL_BITS: u8 = 16;

/// An expert that a step of decoding wants in one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Its id.
    pub expert: u16,
    /// Sequences of the batch that want it.
    pub tokens: u32,
    /// Sum of its shares of their gate mass; equal shares where the trace has no weights.
    pub mass: f32,
}

/// Where a chosen expert runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the GPU, from its memory.
    Gpu,
    /// On the GPU, after a copy that the layer waits for.
    Copied {
        /// Bits per weight that are copied: all, or those that GPU memory lacks.
        bits: u8,
    },
    /// Near the data.
    NearData,
    /// Nowhere: left out.
    Skipped,
}

/// What becomes of one [`Choice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execution {
    /// Where.
    pub place: Place,
    /// At how many bits per weight: 1 to 4, or [`FULL_BITS`].
    pub bits: u8,
}

impl Execution {
    /// On the GPU at full precision, from its memory.
    pub const RESIDENT: Self = Self { place: Place::Gpu, bits: FULL_BITS };

    /// On the GPU at full precision, copied there first.
    pub const COPIED: Self = Self { place: Place::Copied { bits: FULL_BITS }, bits: FULL_BITS };

    /// Near the data.
    pub const fn near(bits: u8) -> Self {
        Self { place: Place::NearData, bits }
    }
}

/// One step of decoding in one layer.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Index of the step in each stream.
    pub index: usize,
    /// Index of the layer.
    pub layer: usize,
    /// The tokens of the step, one per sequence of the batch, as indices into the trace.
    pub tokens: &'a [usize],
    /// What they want, each expert once; best first where there is one sequence and the trace says so.
    pub choices: &'a [Choice],
}

/// What the controller does per layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ControllerWork {
    /// It goes through all scores before dispatch.
    pub selects: bool,
    /// It goes through all levels behind dispatch.
    pub updates: bool,
}

/// A system in operation, all layers.
pub trait Scheme {
    /// What is in GPU memory when decoding begins, one set per layer, each in the memory of the setup's `hot` experts.
    fn place(&mut self) -> Vec<Resident>;

    /// Bits per weight at which experts are in GPU memory when decoding begins, on average.
    fn placed_bits(&self) -> f64 {
        f64::from(FULL_BITS)
    }

    /// Decides for each of the step's choices, in their order. May change what is resident where it copies on demand.
    fn dispatch(&mut self, step: &Step<'_>, resident: &mut Resident, executions: &mut Vec<Execution>);

    /// Learns from a step, after its dispatch.
    fn observe(&mut self, _step: &Step<'_>) {}

    /// After all layers of a step: may ask for copies behind the next ones.
    fn migrate(&mut self, _index: usize, _resident: &[Resident], _queue: &mut Queue) {}

    /// Share of the gate mass that resident experts may cost a token when they stand in for wanted ones; 0: nobody stands in.
    fn eps(&self) -> f64 {
        0.0
    }

    /// What its controller does.
    fn controller(&self) -> ControllerWork {
        ControllerWork::default()
    }
}

/// What a scheme is made for.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// The trace.
    pub trace: &'a Trace,
    /// How it is cut into sequences of a batch.
    pub streams: &'a Streams,
    /// Experts per layer that fit in GPU memory.
    pub hot: usize,
    /// Average bits per weight of cold experts near the data, 1 to 4, or 16.
    pub bits: u8,
    /// Measured losses at 1 to 4 bits; without them the bit selector takes the usual ones for all experts.
    pub losses: Option<&'a LossTable>,
    /// Times of experts on the machine.
    pub costs: &'a Costs<'a>,
}

/// A scheme as the command line knows it.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Name on the command line.
    pub name: &'static str,
    /// One line for help.
    pub summary: &'static str,
    /// Its parameters.
    pub parameters: &'static [Parameter],
    /// What the trace must have recorded.
    pub needs: Knowledge,
    /// Whether it sees the future: a bound and not a system.
    pub oracle: bool,
    /// Makes its state.
    pub make: for<'a> fn(&Values, &Setup<'a>) -> Result<Box<dyn Scheme + 'a>>,
}

/// Every scheme, in the order of tables.
pub const KINDS: &[&Kind] = &[
    &on_demand::KIND,
    &hobbit::KIND,
    &d2moe::KIND,
    &monde::KIND,
    &near::KIND,
    &best_split::KIND,
    &context_aware::KIND,
    &periodic::KIND,
    &cptr::KIND,
    &oracle::KIND,
];

/// A scheme with its parameters.
pub type Named = spec::Choice<Kind>;

impl spec::Kind for Kind {
    const WHAT: &'static str = "a scheme";
    const SHOWS_FIRST: bool = false;

    fn all() -> &'static [&'static Self] {
        KINDS
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn parameters(&self) -> &'static [Parameter] {
        self.parameters
    }
}

/// Indices of the choices by falling number of tokens, then by falling mass, then in their order: who deserves the GPU most.
fn by_demand(choices: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&choices[a], &choices[b]);
        b.tokens.cmp(&a.tokens).then(b.mass.total_cmp(&a.mass))
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_defaults_in_range() {
        for (i, kind) in KINDS.iter().enumerate() {
            assert!(KINDS[..i].iter().all(|other| other.name != kind.name));
            for parameter in kind.parameters {
                assert!((parameter.range.0..=parameter.range.1).contains(&parameter.default), "{}", kind.name);
            }
            assert_eq!(Named::parse(kind.name).unwrap().kind.name, kind.name);
        }
    }

    #[test]
    fn demand_is_tokens_then_mass() {
        let choice = |tokens, mass| Choice { expert: 0, tokens, mass };
        assert_eq!(by_demand(&[choice(1, 0.5), choice(2, 0.1), choice(1, 0.9), choice(1, 0.5)]), [1, 2, 0, 3]);
    }
}
