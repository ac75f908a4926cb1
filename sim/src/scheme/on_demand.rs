//! Offloading as engines without a near-data device do it: every expert runs on the GPU; one that is not there is copied first, and the least
//! recently used one goes.

use super::{ControllerWork, Execution, Kind, Scheme, Setup, Step};
use crate::placement::Resident;
use crate::spec::Values;
use cptr_trace::Knowledge;
use cptr_trace::error::Result;

pub(super) const KIND: Kind = Kind {
    name: "on-demand",
    summary: "all on the GPU; missing experts are copied first, least recently used goes",
    parameters: &[],
    needs: Knowledge::Ids,
    oracle: false,
    make,
};

struct OnDemand {
    hot: usize,
    layers: Vec<Lru>,
}

/// Last uses of the experts of one layer.
pub(super) struct Lru {
    last_use: Vec<u64>,
    clock: u64,
}

impl Lru {
    pub(super) fn new(experts: usize) -> Self {
        Self { last_use: vec![0; experts], clock: 0 }
    }

    pub(super) fn touch(&mut self, expert: u16) {
        self.clock += 1;
        self.last_use[usize::from(expert)] = self.clock;
    }

    /// Makes room in `resident` for `expert` among those that were not used since `since`, and puts it there; whether it could.
    pub(super) fn load(&mut self, resident: &mut Resident, capacity: usize, expert: u16, since: u64) -> bool {
        if resident.len() >= capacity {
            match self.least_recent(since, |expert| resident.contains(expert)) {
                Some(victim) => resident.remove(victim),
                None => return false,
            };
        }
        resident.insert(expert)
    }

    /// The least recently used of the experts that `holds` says are there, unless it was used after `since`.
    pub(super) fn least_recent(&self, since: u64, holds: impl Fn(u16) -> bool) -> Option<u16> {
        let experts = (0..self.last_use.len() as u16).filter(|&expert| holds(expert));
        let least = experts.min_by_key(|&expert| self.last_use[usize::from(expert)]);
        least.filter(|&expert| self.last_use[usize::from(expert)] <= since)
    }

    /// All experts, the most recently used one first.
    pub(super) fn most_recent(&self) -> Vec<u16> {
        let mut order: Vec<u16> = (0..self.last_use.len() as u16).collect();
        order.sort_by_key(|&expert| std::cmp::Reverse(self.last_use[usize::from(expert)]));
        order
    }

    /// The time of the last use so far.
    pub(super) const fn now(&self) -> u64 {
        self.clock
    }
}

fn make<'a>(_: &Values, setup: &Setup<'a>) -> Result<Box<dyn Scheme + 'a>> {
    let shape = setup.trace.shape;
    let mut layers: Vec<Lru> = (0..shape.layers).map(|_| Lru::new(shape.experts)).collect();
    warm_up(setup, &mut layers);
    Ok(Box::new(OnDemand { hot: setup.hot, layers }))
}

/// Uses of the prefill, worst expert first.
pub(super) fn warm_up(setup: &Setup<'_>, layers: &mut [Lru]) {
    for step in 0..setup.streams.prefill {
        for token in setup.streams.tokens(step) {
            for (layer, lru) in layers.iter_mut().enumerate() {
                setup.trace.chosen(token, layer).iter().rev().for_each(|&expert| lru.touch(expert));
            }
        }
    }
}

/// The most recently used experts of every layer.
pub(super) fn most_recent(layers: &[Lru], hot: usize) -> Vec<Resident> {
    let set = |lru: &Lru| {
        let mut set = Resident::new();
        lru.most_recent().iter().take(hot).for_each(|&expert| {
            set.insert(expert);
        });
        set
    };
    layers.iter().map(set).collect()
}

impl Scheme for OnDemand {
    fn place(&mut self) -> Vec<Resident> {
        most_recent(&self.layers, self.hot)
    }

    fn dispatch(&mut self, step: &Step<'_>, resident: &mut Resident, executions: &mut Vec<Execution>) {
        let lru = &mut self.layers[step.layer];
        let before = lru.now();
        executions.extend(step.choices.iter().map(|choice| match resident.contains(choice.expert) {
            true => Execution::RESIDENT,
            false => Execution::COPIED,
        }));
        step.choices.iter().rev().for_each(|choice| lru.touch(choice.expert));
        for choice in step.choices {
            if !resident.contains(choice.expert) {
                lru.load(resident, self.hot, choice.expert, before);
            }
        }
    }

    fn controller(&self) -> ControllerWork {
        ControllerWork::default()
    }
}
