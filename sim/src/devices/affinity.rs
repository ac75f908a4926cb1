//! Experts of consecutive layers that the same tokens want lie on the same device: ExFlow (arXiv 2401.08383), whose
//! integer program is solved here greedily, layer by layer.
//!
//! It saves trips between devices where a token's activations stay at the device of its experts. On a machine whose
//! attention runs on the GPU they return there after every layer, and there is nothing to save: the table shows what
//! its layout costs in balance.

use super::{Homes, Kind, Make, Setup, balanced, single};
use crate::strategy::Values;

pub(super) const KIND: Kind<Make> = Kind::new(
    "affinity",
    "experts lie where those lie that the prompt's tokens wanted in the layer before",
    Make(make),
);

fn make(_: &Values, setup: &Setup<'_>) -> Vec<Homes> {
    let mut homes = Vec::new();
    let mut before: Option<Vec<u8>> = None;
    for layer in 0..setup.trace.shape.layers {
        let devices = match &before {
            None => balanced::dealt(&setup.counts(layer), setup),
            Some(before) => after(setup, layer, before),
        };
        homes.push(single(devices.clone()));
        before = Some(devices);
    }
    homes
}

/// Devices of a layer's experts, given those of the layer before: the strongest ties first, as far as devices have
/// room.
fn after(setup: &Setup<'_>, layer: usize, before: &[u8]) -> Vec<u8> {
    let experts = setup.trace.shape.experts;
    let mut ties = vec![0_u32; experts * setup.devices];
    for (chosen, previous) in setup.prompt(layer).zip(setup.prompt(layer - 1)) {
        for &expert in chosen {
            for &tied in previous {
                ties[usize::from(expert) * setup.devices + usize::from(before[usize::from(tied)])] += 1;
            }
        }
    }
    let mut order: Vec<usize> = (0..ties.len()).collect();
    order.sort_by_key(|&tie| std::cmp::Reverse(ties[tie]));
    let mut devices: Vec<Option<u8>> = vec![None; experts];
    let mut room = vec![setup.capacity(); setup.devices];
    for tie in order {
        let (expert, device) = (tie / setup.devices, tie % setup.devices);
        if devices[expert].is_none() && room[device] > 0 {
            devices[expert] = Some(device as u8);
            room[device] -= 1;
        }
    }
    // There is room for all experts, so each has met a device with room.
    devices.into_iter().map(Option::unwrap_or_default).collect()
}
