//! Memories of trajectories of the literature, beside the core's recall: what they expect is used in the same way.

pub(super) mod maps;
mod matrices;
mod successors;

pub(super) use maps::Maps;
pub(super) use matrices::Matrices;
pub(super) use successors::Successors;

use cptr_core::Level;

/// A share as a level, at most one.
fn level(share: f32) -> Level {
    Level::from_bits((share.clamp(0.0, 1.0) * (1u32 << 31) as f32) as u32)
}

/// Indices of the `count` greatest, the greatest first, of equals the first.
fn greatest(values: &[f32], count: usize, found: &mut Vec<usize>) {
    found.clear();
    for (at, &value) in values.iter().enumerate() {
        if found.len() == count && found.last().is_some_and(|&last| values[last] >= value) {
            continue;
        }
        let place = found.partition_point(|&other| values[other] >= value);
        found.insert(place, at);
        found.truncate(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_and_levels_by_hand() {
        let mut found = Vec::new();
        greatest(&[1.0, 3.0, 2.0, 3.0, f32::NEG_INFINITY], 3, &mut found);
        assert_eq!(found, [1, 3, 2]);
        greatest(&[], 2, &mut found);
        assert!(found.is_empty());
        assert_eq!([-1.0, 0.5, 1.0, 7.0].map(|share| level(share).to_bits()), [0, 1 << 30, 1 << 31, 1 << 31]);
    }
}
