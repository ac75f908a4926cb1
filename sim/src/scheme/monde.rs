//! MoNDE (DAC'24): a fixed number of each layer's most wanted experts run on the GPU, after a copy if they are not there (parameter movement); the
//! others run near the data at 16 bits (activation movement).
//!
//! The number follows from the bandwidths of the two ways, as DynaNDE describes the rule: experts are divided in the ratio of copies over the
//! link to reads of the device's memory. The paper's formula is not published; `hot` overrides it. Copied experts stay, as far as GPU memory
//! allows, and the least recently used goes.

use super::on_demand::{Lru, most_recent, warm_up};
use super::{Execution, FULL_BITS, Kind, Scheme, Setup, Step};
use crate::placement::Resident;
use crate::spec::{Parameter, Values};
use cptr_trace::Knowledge;
use cptr_trace::error::Result;

pub(super) const KIND: Kind = Kind {
    name: "monde",
    summary: "a fixed number of the most wanted on the GPU, copied first; the others near the data at 16 bits",
    parameters: &[
        Parameter {
            name: "hot",
            default: -1.0,
            range: (-1.0, 1024.0),
            summary: "experts of a step and layer that run on the GPU; -1: by the ratio of bandwidths",
        },
        Parameter {
            name: "keep",
            default: 1.0,
            range: (0.0, 1.0),
            summary: "whether copied experts stay in GPU memory",
        },
    ],
    needs: Knowledge::Ids,
    oracle: false,
    make,
};

struct Monde {
    /// `None`: by the ratio of bandwidths.
    hot: Option<usize>,
    /// Share of the experts that the link can feed.
    ratio: f64,
    capacity: usize,
    layers: Vec<Lru>,
}

fn make<'a>(values: &Values, setup: &Setup<'a>) -> Result<Box<dyn Scheme + 'a>> {
    let shape = setup.trace.shape;
    let mut layers: Vec<Lru> = (0..shape.layers).map(|_| Lru::new(shape.experts)).collect();
    warm_up(setup, &mut layers);
    let (copy, near) = (setup.costs.copy_ps(FULL_BITS), setup.costs.near_run_ps(FULL_BITS, 1));
    Ok(Box::new(Monde {
        hot: (values.get("hot") >= 0.0).then_some(values.get("hot") as usize),
        ratio: near / (near + copy),
        capacity: if values.get("keep") > 0.5 { setup.hot } else { 0 },
        layers,
    }))
}

impl Scheme for Monde {
    fn place(&mut self) -> Vec<Resident> {
        most_recent(&self.layers, self.capacity)
    }

    fn dispatch(&mut self, step: &Step<'_>, resident: &mut Resident, executions: &mut Vec<Execution>) {
        let lru = &mut self.layers[step.layer];
        let since = lru.now();
        let hot = self.hot.unwrap_or((step.choices.len() as f64 * self.ratio).round() as usize);
        let first = executions.len();
        executions.resize(first + step.choices.len(), Execution::near(FULL_BITS));
        for &index in super::by_demand(step.choices).iter().take(hot) {
            let expert = step.choices[index].expert;
            lru.touch(expert);
            executions[first + index] = if resident.contains(expert) {
                Execution::RESIDENT
            } else {
                lru.load(resident, self.capacity, expert, since);
                Execution::COPIED
            };
        }
    }
}
