//! Nothing in GPU memory: every routed expert runs near the data. The floor for placements, and never in need of a copy.

use super::{Execution, Kind, Scheme, Setup, Step};
use crate::placement::Resident;
use crate::spec::Values;
use cptr_trace::Knowledge;
use cptr_trace::error::Result;

pub(super) const KIND: Kind = Kind {
    name: "all-near",
    summary: "every routed expert runs near the data",
    parameters: &[],
    needs: Knowledge::Ids,
    oracle: false,
    make,
};

struct AllNear {
    bits: u8,
    layers: usize,
}

fn make<'a>(_: &Values, setup: &Setup<'a>) -> Result<Box<dyn Scheme + 'a>> {
    Ok(Box::new(AllNear { bits: setup.bits, layers: setup.trace.shape.layers }))
}

impl Scheme for AllNear {
    fn place(&mut self) -> Vec<Resident> {
        vec![Resident::new(); self.layers]
    }

    fn dispatch(&mut self, step: &Step<'_>, _: &mut Resident, executions: &mut Vec<Execution>) {
        executions.extend(step.choices.iter().map(|_| Execution::near(self.bits)));
    }
}
