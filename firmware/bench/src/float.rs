//! What the filter costs in f32, for comparison with `update`.

use core::hint::black_box;

use cptr_core::float::{FloatConfig, FloatTracker};
use cptr_core::{Gain, PhaseConfig};

use crate::kernels::{COUNTED, Cost, counts};
use crate::random::{Random, spread};

const K: usize = 8;

/// Prints one line per E, all at k = 8.
pub(crate) fn report() {
    if counts() {
        layer::<32>();
        layer::<64>();
        layer::<128>();
        layer::<256>();
    }
}

#[inline(never)]
fn layer<const E: usize>() {
    let gain = Gain::from_bits;
    let config = FloatConfig::new(gain(1 << 26), gain(u32::MAX / 20), gain(1 << 29), PhaseConfig::default());
    let (mut tracker, mut random) = (FloatTracker::<E>::new(), Random(5));
    let mut cost = Cost::default();
    for token in 0..2 * COUNTED {
        if token == COUNTED {
            cost = Cost::default();
        }
        let mut wanted = [0; K];
        spread(&mut wanted, &mut random, E);
        cost.add(|| black_box(tracker.update(black_box(&config), black_box(&wanted)).lost_lock));
    }
    cost.print("update_f32", E, K, Cost::empty());
}
