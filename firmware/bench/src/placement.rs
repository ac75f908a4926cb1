//! What placement and the choice of bits after the prompt cost a layer. Not on any token's path: once per prompt.

use core::hint::black_box;

use cptr_core::bits::{Losses, scratch_for, split};
use cptr_core::placement::{Demand, importance, rank};
use cptr_core::{Eps, Gate};

use crate::kernels::{COUNTED, Cost, counts};
use crate::random::Random;

const MOST: usize = 256;
const SIZES: [usize; 4] = [32, 64, 128, MOST];

/// Prints importance, ranking, and the split of the cold three quarters at 2 bits on average, for each E; k is 0.
pub(crate) fn report() {
    if !counts() {
        return;
    }
    let (empty, mut random) = (Cost::empty(), Random(7));
    for experts in SIZES {
        let mut costs = [Cost::default(); 3];
        for _ in 0..COUNTED {
            layer(experts, &mut random, &mut costs);
        }
        for (kernel, cost) in ["importance", "rank", "split_bits"].iter().zip(costs) {
            cost.print(kernel, experts, 0, empty);
        }
    }
}

#[inline(never)]
fn layer(experts: usize, random: &mut Random, costs: &mut [Cost; 3]) {
    let (mut demand, mut values, mut order) = ([Demand::default(); MOST], [Gate::ZERO; MOST], [0; MOST]);
    let (mut losses, mut scratch) = ([Losses::default(); MOST], [0; scratch_for(MOST)]);
    let (demand, values, order) = (&mut demand[..experts], &mut values[..experts], &mut order[..experts]);
    demand.fill_with(|| Demand::new(random.bits() >> 10, random.bits().into()));
    let losses = &mut losses[..experts - experts / 4];
    losses.fill_with(|| {
        let least = random.bits() >> 4;
        [8, 4, 2, 1].map(|times| (least / 8 * times) as i32)
    });
    costs[0].add(|| importance(black_box(demand), Eps::from_bits(1 << 31), values));
    costs[1].add(|| rank(black_box(values), order));
    let increments = losses.len() as u32;
    costs[2].add(|| black_box(split(black_box(losses), increments, &mut scratch).is_ok()));
}
