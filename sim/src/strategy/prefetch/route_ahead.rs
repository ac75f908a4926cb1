//! The next layer's experts are predicted from what this layer chose, fetched, and committed to: with the selection
//! `committed` they run whatever the router will say. On recordings the prediction is that of a memory of trajectories;
//! with a model in the loop `gate-ahead` commits to what the next router makes of this layer's input.

use std::cmp::Reverse;

use cptr_core::Level;

use super::{Kind, Make, Next, Prefetch, Setup};
use crate::strategy::forecaster::Settings;
use crate::strategy::{Parameter, Served, Unit, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter { default: 64.0, ..super::MOST },
        Parameter::new(
            "first",
            0.0,
            Unit::Switch,
            "whether the first layer is predicted too, before there is anything of its token; else its router says",
        )
        .off_at(0.0),
    ],
    slow: true,
    couples_layers: true,
    ..Kind::new("route-ahead", "as many experts of the next layer as a token wants, to be committed to", Make(make))
};

struct RouteAhead {
    most: usize,
    first: bool,
    shares: Vec<Level>,
    order: Vec<u16>,
    /// What the next layer runs of each sequence.
    committed: Vec<Vec<u16>>,
}

fn make(values: &Values, setup: &Setup) -> Box<dyn Prefetch> {
    Box::new(RouteAhead {
        most: values.count("most"),
        first: values.on("first"),
        shares: Vec::new(),
        order: Vec::new(),
        committed: vec![Vec::new(); setup.sequences],
    })
}

impl Prefetch for RouteAhead {
    fn recalls(&self) -> Option<Settings> {
        Some(Settings::default())
    }

    fn ask(&mut self, served: &Served<'_>, next: Next<'_>, asks: &mut Vec<u16>) {
        self.committed.iter_mut().for_each(Vec::clear);
        let predicts = !served.prefill && (self.first || next.layer > 0);
        let Some(forecaster) = next.forecaster.filter(|_| predicts) else { return };
        for (sequence, committed) in self.committed.iter_mut().enumerate() {
            forecaster.next_of(sequence, next.layer, &mut self.shares);
            let share = |expert: u16| self.shares[usize::from(expert)];
            self.order.clear();
            self.order.extend((0..self.shares.len() as u16).filter(|&expert| share(expert) > Level::ZERO));
            self.order.sort_unstable_by_key(|&expert| (Reverse(share(expert)), expert));
            committed.extend(self.order.iter().take((served.token)(sequence).wanted.len()));
        }
        // The surest of each sequence in turn.
        for rank in 0..self.committed.iter().map(Vec::len).max().unwrap_or(0) {
            asks.extend(self.committed.iter().filter_map(|committed| committed.get(rank)));
        }
    }

    fn committed(&self, sequence: usize) -> &[u16] {
        &self.committed[sequence]
    }

    fn most(&self) -> usize {
        self.most
    }
}
