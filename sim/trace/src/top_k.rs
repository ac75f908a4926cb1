//! Which experts a plain top-k router chooses: needed where a source recorded the logits but not the choice.
//!
//! ```
//! let mut best = [0; 2];
//! cptr_trace::top_k::top_k(&[0.5, 2.0, 1.0], &mut best);
//! assert_eq!(best, [1, 2]);
//! ```

use super::array::FloatArray;

/// Writes the ids of the `out.len()` largest scores, best first; of equal scores the lower id wins.
///
/// Cost O(E k). Not-a-number counts as the smallest score, so that a later check can name its place.
///
/// # Panics
/// If there are fewer scores than places in `out`, or more than 65,536.
pub fn top_k(scores: &[f32], out: &mut [u16]) {
    assert!(out.len() <= scores.len() && scores.len() <= 1 << 16);
    let score = |id: u16| {
        let value = scores[usize::from(id)];
        if value.is_nan() { f32::NEG_INFINITY } else { value }
    };
    for filled in 0..scores.len() {
        let id = filled as u16;
        let held = filled.min(out.len());
        // Equal scores keep their order: a later id never moves before an equal one.
        let place = out[..held].iter().position(|&other| score(id) > score(other)).unwrap_or(held);
        if place < out.len() {
            let end = out.len().min(held + 1);
            out[place..end].rotate_right(1);
            out[place] = id;
        }
    }
}

/// The choice of every token in every layer `[T, L, k]` from logits `[T, L, E]`, by [`top_k`].
///
/// # Panics
/// As [`top_k`].
pub fn of_logits(logits: &FloatArray, k: usize) -> Vec<u16> {
    let [tokens, layers, experts] = logits.shape();
    let mut ids = vec![0; tokens * layers * k];
    let mut row = vec![0.0; experts];
    if k > 0 {
        for (at, out) in ids.chunks_exact_mut(k).enumerate() {
            logits.read_row(at / layers, at % layers, &mut row);
            top_k(&row, out);
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_a_stable_sort(scores in prop::collection::vec(-3i8..3, 1..40), k in 0usize..8) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let mut expected: Vec<u16> = (0..scores.len() as u16).collect();
            expected.sort_by(|&a, &b| scores[usize::from(b)].total_cmp(&scores[usize::from(a)]));
            let mut out = vec![0; k.min(scores.len())];
            top_k(&scores, &mut out);
            prop_assert_eq!(&out[..], &expected[..out.len()]);
        }
    }

    #[test]
    fn survives_not_a_number() {
        let mut out = [0; 2];
        top_k(&[f32::NAN, 1.0, f32::INFINITY, f32::NAN], &mut out);
        assert_eq!(out, [2, 1]);
        assert_eq!(of_logits(&FloatArray::owned([2, 1, 3], vec![0.0, 5.0, 1.0, 2.0, 2.0, 2.0]), 2), [1, 2, 0, 1]);
    }
}
