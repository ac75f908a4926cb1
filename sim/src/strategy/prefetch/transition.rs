//! Co-occurrence with the layer before, learned on line: of the tokens that wanted this here, how many wanted that
//! there?

use super::{Kind, Make, Next, Prefetch, Setup};
use crate::strategy::{Parameter, Served, Unit, Values};

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[
        super::MOST,
        Parameter::new(
            "sure",
            0.3,
            Unit::Share,
            "share of the tokens with the same experts before that wanted it, at least",
        )
        .off_at(0.0),
    ],
    couples_layers: true,
    ..Kind::new("transition", "what mostly followed this layer's experts in the next one, learned on line", Make(make))
};

struct Transition {
    most: usize,
    sure: f32,
    experts: usize,
    /// For each layer and expert there, how many of its tokens wanted each expert of the next layer, `[L][E * E]`; and
    /// how many they were.
    followed: Vec<(Vec<u16>, Vec<u16>)>,
    /// What each sequence wanted in the layer before.
    before: Vec<Vec<u16>>,
    forecast: Vec<f32>,
    ranked: Vec<(f32, u16)>,
}

fn make(values: &Values, setup: &Setup) -> Box<dyn Prefetch> {
    let experts = setup.experts;
    Box::new(Transition {
        most: values.count("most"),
        sure: values.get("sure") as f32,
        experts,
        followed: vec![(vec![0; experts * experts], vec![0; experts]); setup.layers],
        before: vec![Vec::new(); setup.sequences],
        forecast: vec![0.0; experts],
        ranked: Vec::new(),
    })
}

impl Transition {
    /// A token that wanted `before` in a layer wants `wanted` in the next.
    fn learn(experts: usize, (counts, tokens): &mut (Vec<u16>, Vec<u16>), before: &[u16], wanted: &[u16]) {
        for &from in before {
            let from = usize::from(from);
            let row = &mut counts[from * experts..(from + 1) * experts];
            if tokens[from] == u16::MAX {
                row.iter_mut().for_each(|count| *count /= 2);
                tokens[from] /= 2;
            }
            tokens[from] += 1;
            wanted.iter().for_each(|&to| row[usize::from(to)] += 1);
        }
    }

    /// Adds to the forecast what follows `wanted` in a layer.
    fn add(&mut self, layer: usize, wanted: &[u16]) {
        let (counts, tokens) = &self.followed[layer];
        for &from in wanted {
            let from = usize::from(from);
            let weight = 1.0 / (f32::from(tokens[from].max(1)) * wanted.len() as f32);
            let row = &counts[from * self.experts..(from + 1) * self.experts];
            self.forecast.iter_mut().zip(row).for_each(|(sum, &count)| *sum += f32::from(count) * weight);
        }
    }
}

impl Prefetch for Transition {
    fn ask(&mut self, served: &Served<'_>, _: Next<'_>, asks: &mut Vec<u16>) {
        let layers = self.followed.len();
        let layer_before = (served.layer + layers - 1) % layers;
        self.forecast.fill(0.0);
        for token in 0..served.tokens {
            let wanted = (served.token)(token).wanted;
            Self::learn(self.experts, &mut self.followed[layer_before], &self.before[token], wanted);
            self.before[token].clear();
            self.before[token].extend_from_slice(wanted);
            self.add(served.layer, wanted);
        }
        self.ranked.clear();
        let sure = self.forecast.iter().zip(0u16..).filter(|(share, _)| **share >= self.sure.max(f32::MIN_POSITIVE));
        self.ranked.extend(sure.map(|(&share, expert)| (share, expert)));
        self.ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        asks.extend(self.ranked.iter().map(|&(_, expert)| expert));
    }

    fn most(&self) -> usize {
        self.most
    }
}
