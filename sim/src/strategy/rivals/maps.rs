//! Expert maps (fMoE, arXiv 2502.05370, later FineMoE): of every token the gate probabilities of all layers. While a
//! token runs, the maps that are most like it by the cosine of the layers that have run say what the others want.
//!
//! What was recorded of the gates counts: all probabilities where there are all logits, the shares of the chosen where
//! there are weights, else ones for the chosen. Where the store is full, a new map takes the place of the one that is
//! most like it. The paper's other search, by embeddings of the prompt, for layers that have none before them, is
//! replaced by the whole of the token before, whose match is followed by one token.

use cptr_core::Level;

use super::{greatest, level};
use crate::source::Routed;
use crate::strategy::remembers::Remembers;

/// How maps are kept and asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    /// Maps that are kept.
    pub(crate) maps: usize,
    /// Maps that are asked.
    pub(crate) nearest: usize,
    /// Tokens just before that are not searched.
    pub(crate) newest: usize,
    /// Whether a new map takes the place of the one most like it, as published; else of the oldest.
    pub(crate) diverse: bool,
    /// Whether what comes after this token is what followed the maps; else the maps themselves, as published.
    pub(crate) follow: bool,
}

/// Factor of cosines in the exponent of a map's weight.
const SHARPNESS: f32 = 16.0;

/// The store, and the token that runs.
pub(crate) struct Maps {
    settings: Settings,
    experts: usize,
    store: Vec<Map>,
    /// The token that runs.
    now: Map,
    /// Layers of it that have run.
    run: usize,
    /// The gates of its last layer, `[E]`.
    gates: Vec<f32>,
    /// Of every map with the layers that have run.
    products: Vec<f32>,
    cosines: Vec<f32>,
    /// Maps that are asked, and their weights: before the first layer those that followed what was like the token
    /// before.
    best: Vec<(usize, f32)>,
    /// Where the token before is.
    last: Option<usize>,
    found: Vec<usize>,
    sums: Vec<f32>,
}

/// Gates of a token.
#[derive(Clone, Default)]
struct Map {
    /// Tokens before it.
    time: usize,
    starts_sequence: bool,
    /// Where the next token's was put.
    next: usize,
    /// Experts and their gates by layer, the chosen first, and how many these are.
    layers: Vec<(Vec<(u16, f32)>, usize)>,
    /// Sum of the squares of the layers up to each.
    squares: Vec<f32>,
}

impl Maps {
    /// Before the first token.
    pub(crate) fn new(settings: Settings, layers: usize, experts: usize) -> Self {
        Self {
            settings,
            experts,
            store: Vec::new(),
            now: Map { layers: vec![(Vec::new(), 0); layers], squares: vec![0.0; layers], ..Map::default() },
            run: 0,
            gates: vec![0.0; experts],
            products: Vec::new(),
            cosines: Vec::new(),
            best: Vec::new(),
            last: None,
            found: Vec::new(),
            sums: vec![0.0; experts],
        }
    }

    /// The map of the token after that of a map, while it is kept.
    fn followed(&self, map: usize) -> Option<usize> {
        let Map { time, next, .. } = self.store[map];
        self.store.get(next).is_some_and(|other| other.time == time + 1 && !other.starts_sequence).then_some(next)
    }

    /// Fills `gates` with a layer's gates as far as they were recorded, those of the chosen first.
    fn gates(experts: usize, token: &Routed<'_>, gates: &mut Vec<(u16, f32)>) {
        gates.clear();
        let wanted = token.wanted.iter().copied();
        if token.logits.len() >= experts {
            let logits = &token.logits[..experts];
            let greatest = logits.iter().copied().fold(f32::MIN, f32::max);
            let others = (0..experts as u16).filter(|expert| !token.wanted.contains(expert));
            gates.extend(wanted.chain(others).map(|expert| (expert, (logits[usize::from(expert)] - greatest).exp())));
        } else if token.weights.len() == token.wanted.len() {
            gates.extend(wanted.zip(token.weights.iter().copied()));
        } else {
            gates.extend(wanted.map(|expert| (expert, 1.0)));
            return;
        }
        let sum: f32 = gates.iter().map(|(_, gate)| gate).sum();
        if sum > 0.0 {
            gates.iter_mut().for_each(|(_, gate)| *gate /= sum);
        }
    }

    /// Asks the maps that are most like the layers that have run.
    fn search(&mut self) {
        let run = self.run;
        let squares = self.now.squares[run - 1];
        self.cosines.clear();
        for (map, &product) in self.store.iter().zip(&self.products) {
            let old = map.time + self.settings.newest < self.now.time;
            let squares = squares * map.squares[run - 1];
            let cosine = if squares > 0.0 { product / squares.sqrt() } else { 0.0 };
            self.cosines.push(if old { cosine } else { -1.0 });
        }
        greatest(&self.cosines, self.settings.nearest, &mut self.found);
        self.best.clear();
        let Some(best) = self.found.first().map(|&map| self.cosines[map]).filter(|&best| best >= 0.0) else { return };
        let found = self.found.iter().filter(|&&map| self.cosines[map] >= 0.0);
        self.best.extend(found.map(|&map| (map, (SHARPNESS * (self.cosines[map] - best)).exp())));
    }

    /// Adds what a map chose in a layer, and `tokens - 1` that followed it, to the sums.
    fn add(&mut self, mut map: usize, layer: usize, tokens: usize, weight: f32) {
        let mut maps = [map; 16];
        let mut count = 1;
        while count < tokens.min(maps.len()) {
            let Some(next) = self.followed(map) else { break };
            (maps[count], map) = (next, next);
            count += 1;
        }
        for &map in &maps[..count] {
            let (gates, chosen) = &self.store[map].layers[layer];
            for &(expert, _) in &gates[..*chosen] {
                self.sums[usize::from(expert)] += weight / count as f32;
            }
        }
    }
}

impl Remembers for Maps {
    fn observe(&mut self, layer: usize, token: &Routed<'_>) {
        let (here, chosen) = &mut self.now.layers[layer];
        Self::gates(self.experts, token, here);
        *chosen = token.wanted.len();
        if layer == 0 {
            self.now.starts_sequence = token.starts_sequence;
            self.products.clear();
            self.products.resize(self.store.len(), 0.0);
        }
        self.gates.fill(0.0);
        here.iter().for_each(|&(expert, gate)| self.gates[usize::from(expert)] = gate);
        let square: f32 = here.iter().map(|(_, gate)| gate * gate).sum();
        self.now.squares[layer] = square + if layer > 0 { self.now.squares[layer - 1] } else { 0.0 };
        for (product, map) in self.products.iter_mut().zip(&self.store) {
            let gates = map.layers[layer].0.iter();
            *product += gates.map(|&(expert, gate)| gate * self.gates[usize::from(expert)]).sum::<f32>();
        }
        self.run = layer + 1;
        self.search();
    }

    fn end_token(&mut self) {
        // The whole token was compared with all maps.
        let slot = if self.store.len() < self.settings.maps {
            self.store.push(self.now.clone());
            self.store.len() - 1
        } else if self.settings.diverse {
            greatest(&self.cosines, 1, &mut self.found);
            self.found.first().copied().unwrap_or(0)
        } else {
            self.now.time % self.settings.maps
        };
        let mut best = std::mem::take(&mut self.best);
        best.retain_mut(|(map, _)| self.followed(*map).filter(|&next| next != slot).map(|next| *map = next).is_some());
        self.best = best;
        if let Some(last) = self.last.and_then(|last| self.store.get_mut(last)) {
            last.next = slot;
        }
        self.store[slot].clone_from(&self.now);
        self.store[slot].next = usize::MAX;
        self.last = Some(slot);
        self.now.time += 1;
        self.run = 0;
    }

    fn forecast(&mut self, layer: usize, tokens: usize, shares: &mut [Level]) {
        self.sums.fill(0.0);
        let best = std::mem::take(&mut self.best);
        let all: f32 = best.iter().map(|(_, weight)| weight).sum();
        let tokens = if self.settings.follow { tokens } else { 1 };
        for &(map, weight) in &best {
            let after = self.settings.follow && layer < self.run;
            let from = if after { self.followed(map).unwrap_or(map) } else { map };
            self.add(from, layer, tokens, weight / all);
        }
        self.best = best;
        shares.iter_mut().zip(&self.sums).for_each(|(share, &sum)| *share = level(sum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { maps: 64, nearest: 1, newest: 0, diverse: false, follow: true };

    fn see(maps: &mut Maps, token: [&[u16]; 2]) {
        for (layer, wanted) in token.into_iter().enumerate() {
            maps.observe(layer, &Routed { wanted, weights: &[], logits: &[], starts_sequence: false, ahead: &[] });
        }
        maps.end_token();
    }

    fn forecast(maps: &mut Maps, layer: usize, tokens: usize) -> Vec<f32> {
        let mut shares = vec![Level::ZERO; 6];
        maps.forecast(layer, tokens, &mut shares);
        shares.iter().map(|share| share.to_num()).collect()
    }

    /// Tokens A B C come again with one difference: the layer to come, the next token, and the one after.
    #[test]
    fn what_is_like_this_says_what_comes() {
        let mut maps = Maps::new(SETTINGS, 2, 6);
        let text: [[&[u16]; 2]; 3] = [[&[0, 1], &[2, 3]], [&[1, 2], &[4, 5]], [&[3, 4], &[0, 5]]];
        text.into_iter().for_each(|token| see(&mut maps, token));
        maps.observe(0, &Routed { wanted: &[0, 5], weights: &[], logits: &[], starts_sequence: false, ahead: &[] });
        assert_eq!(forecast(&mut maps, 1, 1), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(forecast(&mut maps, 0, 1), [0.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(forecast(&mut maps, 0, 2), [0.0, 0.5, 0.5, 0.5, 0.5, 0.0]);
        maps.observe(1, &Routed { wanted: &[2, 3], weights: &[], logits: &[], starts_sequence: false, ahead: &[] });
        maps.end_token();
        // Before the next token has begun, what followed A.
        assert_eq!(forecast(&mut maps, 1, 1), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
    }

    /// A full store keeps one of what it has twice.
    #[test]
    fn a_full_store_stays_diverse() {
        let mut maps = Maps::new(Settings { maps: 2, diverse: true, ..SETTINGS }, 2, 6);
        see(&mut maps, [&[0, 1], &[0, 1]]);
        see(&mut maps, [&[2, 3], &[2, 3]]);
        see(&mut maps, [&[2, 3], &[2, 4]]);
        let kept: Vec<_> = maps.store.iter().map(|map| map.layers[1].0[1].0).collect();
        assert_eq!((kept, maps.store[1].time), (vec![1, 4], 2));
    }

    /// Gates are what was recorded: logits, weights, or ids alone.
    #[test]
    fn gates_by_hand() {
        let of = |weights: &[f32], logits: &[f32]| {
            let mut gates = Vec::new();
            let token = Routed { wanted: &[2, 0], weights, logits, starts_sequence: false, ahead: &[] };
            Maps::gates(3, &token, &mut gates);
            gates
        };
        assert_eq!(of(&[], &[]), [(2, 1.0), (0, 1.0)]);
        assert_eq!(of(&[3.0, 1.0], &[]), [(2, 0.75), (0, 0.25)]);
        assert_eq!(of(&[], &[0.0, f32::MIN, 0.0]), [(2, 0.5), (0, 0.5), (1, 0.0)]);
    }
}
