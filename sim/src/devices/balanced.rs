//! Experts that are wanted together lie apart: the load balance of MoETuner (arXiv 2502.06643), whose integer program
//! is relaxed here to a greedy start and exchanges of pairs.
//!
//! The start deals out experts by falling count, each to the least loaded device with room. Then two experts of
//! different devices change places as long as that lowers the sum, over the prompt's tokens, of the most loaded
//! device's number of experts. Its second aim, few changes of device from layer to layer, is the layout `affinity`.

use rayon::prelude::*;

use super::{Homes, Kind, Make, Setup, single};
use crate::strategy::{Parameter, Unit, Values};

/// Tokens of the prompts that exchanges are judged by; more take longer and change little.
const MAX_TOKENS: usize = 1024;

pub(super) const KIND: Kind<Make> = Kind {
    parameters: &[Parameter::new("rounds", 2.0, Unit::Count(0, 100), "times that all pairs are looked at, at most")],
    ..Kind::new(
        "balanced",
        "experts that the prompt wanted together lie apart, each device holding as many",
        Make(make),
    )
};

fn make(values: &Values, setup: &Setup<'_>) -> Vec<Homes> {
    let rounds = values.count("rounds");
    (0..setup.trace.shape.layers)
        .into_par_iter()
        .map(|layer| {
            let mut devices = dealt(&setup.counts(layer), setup);
            let prompt: Vec<&[u16]> = setup.prompt(layer).take(MAX_TOKENS).collect();
            Exchange::new(&prompt, &mut devices, setup.devices).improve(rounds);
            single(devices)
        })
        .collect()
}

/// By falling count, each to the least loaded device that has room.
pub(super) fn dealt(counts: &[u32], setup: &Setup<'_>) -> Vec<u8> {
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|&expert| std::cmp::Reverse(counts[expert]));
    let mut held = vec![(0_u32, 0_usize); setup.devices];
    let mut devices = vec![0; counts.len()];
    for expert in order {
        let open = (0..setup.devices).filter(|&device| held[device].1 < setup.capacity());
        let device = open.min_by_key(|&device| held[device]).unwrap_or(0);
        held[device] = (held[device].0 + counts[expert], held[device].1 + 1);
        devices[expert] = device as u8;
    }
    devices
}

/// A layout under exchange of pairs, with what is needed to see quickly what an exchange brings.
struct Exchange<'a> {
    prompt: &'a [&'a [u16]],
    devices: &'a mut [u8],
    count: usize,
    /// Tokens that want each expert.
    wanted_by: Vec<Vec<u32>>,
}

impl<'a> Exchange<'a> {
    fn new(prompt: &'a [&'a [u16]], devices: &'a mut [u8], count: usize) -> Self {
        let mut wanted_by = vec![Vec::new(); devices.len()];
        for (token, chosen) in (0u32..).zip(prompt) {
            chosen.iter().for_each(|&expert| wanted_by[usize::from(expert)].push(token));
        }
        Self { prompt, devices, count, wanted_by }
    }

    fn improve(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let mut better = false;
            for a in 0..self.devices.len() {
                for b in a + 1..self.devices.len() {
                    if self.devices[a] != self.devices[b] {
                        better |= self.exchange_if_better(a, b);
                    }
                }
            }
            if !better {
                return;
            }
        }
    }

    fn exchange_if_better(&mut self, a: usize, b: usize) -> bool {
        let before = self.load(a, b);
        self.devices.swap(a, b);
        let better = self.load(a, b) < before;
        if !better {
            self.devices.swap(a, b);
        }
        better
    }

    /// Sum of the most loaded device's experts over the tokens that want one of the two but not both, whom alone an
    /// exchange concerns.
    fn load(&self, a: usize, b: usize) -> u32 {
        let other = |token: &&u32, expert: usize| !self.prompt[**token as usize].contains(&(expert as u16));
        let of_a = self.wanted_by[a].iter().filter(|token| other(token, b));
        let of_b = self.wanted_by[b].iter().filter(|token| other(token, a));
        of_a.chain(of_b).map(|&token| self.most_loaded(self.prompt[token as usize])).sum()
    }

    fn most_loaded(&self, chosen: &[u16]) -> u32 {
        let mut load = [0_u32; super::MAX_DEVICES];
        chosen.iter().for_each(|&expert| load[usize::from(self.devices[usize::from(expert)])] += 1);
        load[..self.count].iter().copied().max().unwrap_or(0)
    }
}
