//! The next layer's router is asked about this layer's input: the residual stream changes little from one layer to the
//! next (Eliseev and Mazur, arXiv 2312.17238). It takes a model in the loop, and knows nothing of the next token.

use cptr_core::Level;
use cptr_trace::MAX_TOP_K;

use super::{Kind, Make, Next, Prefetch, Setup};
use crate::memory::Resident;
use crate::strategy::{Parameter, Served, Unit, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        Parameter { default: 4.0, ..super::MOST },
        Parameter::new(
            "sure",
            0.3,
            Unit::Share,
            "share of the missing experts of such a rank that came true, at least",
        ),
    ],
    asks_routers: true,
    couples_layers: true,
    ..Kind::new("gate-ahead", "what the next layer's router makes of this layer's input", Make(make))
};

struct GateAhead {
    most: usize,
    sure: Level,
    /// For every layer and rank, how many experts were forecast that were not there, and how many of them were wanted.
    ranks: Vec<[(u32, u32); MAX_TOP_K]>,
    /// Layer of the last forecast, and those of its experts that were not there, with their ranks.
    layer: usize,
    asked: Vec<(usize, u16)>,
    next: Vec<Level>,
    /// What the next layer's router made of each sequence.
    said: Vec<Vec<u16>>,
}

fn make(values: &Values, setup: &Setup) -> Box<dyn Prefetch> {
    Box::new(GateAhead {
        most: values.count("most"),
        sure: Level::from_num(values.get("sure")),
        ranks: vec![[(2, 1); MAX_TOP_K]; setup.layers],
        layer: 0,
        asked: Vec::new(),
        next: vec![Level::ZERO; setup.experts],
        said: vec![Vec::new(); setup.sequences],
    })
}

impl GateAhead {
    /// Judges the last forecast by what its layer wants of the experts that were not there.
    fn judge(&mut self, served: &Served<'_>) {
        for (rank, expert) in self.asked.drain(..).filter(|_| served.layer == self.layer) {
            let wanted = (0..served.tokens).any(|token| (served.token)(token).wanted.contains(&expert));
            let (all, right) = &mut self.ranks[self.layer][rank];
            (*all, *right) = (*all + 1, *right + u32::from(wanted));
        }
    }

    /// Takes what one token is expected to want.
    fn take(&mut self, ahead: &[u16], resident: &Resident) {
        for (rank, &expert) in ahead.iter().enumerate() {
            let Some(probability) = self.next.get_mut(usize::from(expert)) else { continue };
            let (all, right) = self.ranks[self.layer][rank];
            *probability = (*probability).max(Level::from_num(f64::from(right) / f64::from(all)));
            if !resident.contains(expert) {
                self.asked.push((rank, expert));
            }
        }
    }
}

impl Prefetch for GateAhead {
    fn ask(&mut self, served: &Served<'_>, next: Next<'_>, asks: &mut Vec<u16>) {
        self.judge(served);
        self.layer = next.layer;
        self.next.fill(Level::ZERO);
        let resident = (next.resident)(next.layer);
        for token in 0..served.tokens {
            let ahead = (served.token)(token).ahead;
            self.said[token].clear();
            self.said[token].extend_from_slice(ahead);
            self.take(ahead, resident);
        }
        // By rank, the tokens of a batch in turn.
        self.asked.sort_by_key(|&(rank, _)| rank);
        let sure = |expert: u16| self.next[usize::from(expert)] >= self.sure;
        asks.extend(self.asked.iter().map(|&(_, expert)| expert).filter(|&expert| sure(expert)));
        // Those that are there and will be wanted do not go for others.
        for token in 0..served.tokens {
            let ahead = (served.token)(token).ahead.iter().copied();
            asks.extend(ahead.filter(|&expert| resident.contains(expert) && sure(expert)));
        }
    }

    fn next(&self) -> Option<&[Level]> {
        Some(&self.next)
    }

    fn committed(&self, sequence: usize) -> &[u16] {
        &self.said[sequence]
    }

    fn most(&self) -> usize {
        self.most
    }
}
