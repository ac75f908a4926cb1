//! Which experts of the next layer came with each expert of this one, the last few times.

use super::{RecallError, Shape};
use crate::num::Level;

/// Times that are remembered of each expert, a power of two and a multiple of four.
const TIMES: usize = 8;

/// For every layer and every expert of the layer before it, what the layer chose the last eight times that this expert
/// had been chosen there. The layer before the first one is the last one of the token before.
///
/// Remembered places say what this place of the text wants; these say what this layer's choices want, whatever the
/// text. Neither knows what the other does: see [`JointCalibration`](super::JointCalibration).
///
/// Memory, in the caller's words: [`Self::words`], with 128 experts and top-8 68 bytes for each expert of each layer
/// (408 KiB for Qwen3-30B-A3B, 27 KiB for gpt-oss-20b). Cost: [`Self::observe`] stores k^2 ids, [`Self::forecast`] adds
/// 8 k^2 shares, both at about 5 instructions each (not counted on a controller yet).
///
/// ```
/// use cptr_core::recall::{Companions, Shape};
/// use cptr_core::Level;
///
/// let shape = Shape { layers: 2, experts: 4, k: 1 };
/// let mut companions = Companions::new(shape, vec![0; Companions::<Vec<u32>>::words(shape)])?;
/// for token in 0..16 {
///     companions.observe(0, &[token % 2])?;
///     // Expert 3 comes with 0, and 2 with 1.
///     companions.observe(1, &[3 - token % 2])?;
/// }
/// companions.observe(0, &[1])?;
/// let mut shares = [Level::ZERO; 4];
/// companions.forecast(&mut shares)?;
/// assert_eq!(shares, [Level::ZERO, Level::ZERO, Level::ONE, Level::ZERO]);
/// # Ok::<(), cptr_core::recall::RecallError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Companions<B> {
    /// `[L, E]` entries, each a word that says which of its times is the oldest, and the ids of its times; at the end
    /// what the layer before chose, a word for each.
    words: B,
    shape: Shape,
    /// The layer that is next.
    layer: u16,
    /// Choices of the layer before.
    before: usize,
}

/// How ids lie in words: bytes, or halves of a word.
#[derive(Clone, Copy)]
struct Ids {
    narrow: bool,
}

impl Ids {
    const fn of(shape: Shape) -> Self {
        Self { narrow: shape.experts <= 255 }
    }

    /// Ids of a word, and bits of each.
    const fn each(self) -> (usize, usize) {
        if self.narrow { (4, 8) } else { (2, 16) }
    }

    /// All ones.
    const fn none(self) -> u32 {
        if self.narrow { 0xff } else { 0xffff }
    }

    fn set(self, words: &mut [u32], at: usize, id: u32) {
        let (word, shift) = if self.narrow { (at / 4, at % 4 * 8) } else { (at / 2, at % 2 * 16) };
        if let Some(word) = words.get_mut(word) {
            *word = *word & !(self.none() << shift) | (id & self.none()) << shift;
        }
    }
}

/// Words of an entry.
const fn entry(shape: Shape) -> usize {
    TIMES.wrapping_mul(shape.k as usize).div_ceil(Ids::of(shape).each().0).wrapping_add(1)
}

impl<B: AsRef<[u32]> + AsMut<[u32]>> Companions<B> {
    /// Words that a model takes.
    #[must_use]
    pub const fn words(shape: Shape) -> usize {
        let entries = (shape.layers as usize).wrapping_mul(shape.experts as usize);
        entries.wrapping_mul(entry(shape)).wrapping_add(shape.k as usize)
    }

    /// Before the first token, in the caller's words, of which there are at least [`Self::words`].
    ///
    /// # Errors
    /// [`RecallError::Shape`], [`RecallError::Memory`].
    pub fn new(shape: Shape, mut words: B) -> Result<Self, RecallError> {
        shape.check()?;
        let used = words.as_mut().get_mut(..Self::words(shape)).ok_or(RecallError::Memory)?;
        used.fill(u32::MAX);
        for first in used.chunks_mut(entry(shape)).filter_map(<[u32]>::first_mut) {
            *first = 0;
        }
        Ok(Self { words, shape, layer: 0, before: 0 })
    }

    /// Takes what a token chose in its next layer: the model's own choice, in any order.
    ///
    /// # Errors
    /// [`RecallError::Layer`]; [`RecallError::Id`] for an id that is out of range, or more than k of them. Nothing has
    /// changed then.
    pub fn observe(&mut self, layer: u16, experts: &[u16]) -> Result<(), RecallError> {
        let Self { shape, before, .. } = *self;
        if layer != self.layer {
            return Err(RecallError::Layer);
        }
        if experts.len() > usize::from(shape.k) || !experts.iter().all(|&id| id < shape.experts) {
            return Err(RecallError::Id);
        }
        let (entries, last) = split(self.words.as_mut(), shape);
        let (ids, k, size) = (Ids::of(shape), usize::from(shape.k), entry(shape));
        let first = usize::from(layer).wrapping_mul(shape.experts.into());
        for &from in last.iter().take(before) {
            let at = first.wrapping_add(from as usize).wrapping_mul(size);
            let found = entries.get_mut(at..at.wrapping_add(size)).and_then(<[u32]>::split_first_mut);
            let Some((oldest, times)) = found else { continue };
            let at = (*oldest as usize % TIMES).wrapping_mul(k);
            for j in 0..k {
                ids.set(times, at.wrapping_add(j), experts.get(j).map_or(ids.none(), |&id| id.into()));
            }
            *oldest = oldest.wrapping_add(1) % TIMES as u32;
        }
        last.iter_mut().zip(experts).for_each(|(last, &id)| *last = id.into());
        self.before = experts.len();
        let next = layer.wrapping_add(1);
        self.layer = if next == shape.layers { 0 } else { next };
        Ok(())
    }

    /// What the layer that is next will choose: the share of the remembered times of this layer's choices in which it
    /// chose each expert, rounded down, the mean over these choices. A time that has not been counts as one in which
    /// nothing was chosen.
    ///
    /// # Errors
    /// [`RecallError::Forecast`] for fewer shares than there are experts.
    pub fn forecast(&self, shares: &mut [Level]) -> Result<(), RecallError> {
        let shape = self.shape;
        let shares = shares.get_mut(..shape.experts.into()).ok_or(RecallError::Forecast)?;
        shares.fill(Level::ZERO);
        let words = self.words.as_ref().get(..Self::words(shape)).unwrap_or(&[]);
        let last = words.len().saturating_sub(shape.k.into());
        let (entries, last) = words.split_at_checked(last).unwrap_or((&[], &[]));
        let (ids, size) = (Ids::of(shape), entry(shape));
        // Eight for each of the layer's choices are 1 together.
        let each = Level::from_bits((1u32 << 31) / (TIMES.wrapping_mul(self.before) as u32).max(1));
        let (count, bits) = ids.each();
        let first = usize::from(self.layer).wrapping_mul(shape.experts.into());
        for &from in last.iter().take(self.before) {
            let at = first.wrapping_add(from as usize).wrapping_mul(size).wrapping_add(1);
            for &word in entries.get(at..at.wrapping_add(size).wrapping_sub(1)).unwrap_or(&[]) {
                for place in 0..count {
                    let id = word >> (place.wrapping_mul(bits) & 31) & ids.none();
                    // None is no expert. An expert may have been named twice.
                    if let Some(share) = shares.get_mut(id as usize) {
                        *share = share.saturating_add(each).min(Level::ONE);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Entries, and what the layer before chose.
fn split(words: &mut [u32], shape: Shape) -> (&mut [u32], &mut [u32]) {
    let entries = usize::from(shape.layers).wrapping_mul(shape.experts.into()).wrapping_mul(entry(shape));
    words.split_at_mut_checked(entries).unwrap_or((&mut [], &mut []))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::oracle::companions;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn new(shape: Shape) -> Companions<Vec<u32>> {
        Companions::new(shape, vec![7; Companions::<Vec<u32>>::words(shape)]).unwrap()
    }

    proptest! {
        #[test]
        fn shares_are_counted(
            (shape, seen) in prop_oneof![Just(6u16), Just(255), Just(256), Just(1000)].prop_flat_map(|experts| {
                let shape = (1u16..4, 1u16..5).prop_map(move |(layers, k)| Shape { layers, experts, k });
                let ids = prop::collection::hash_set(prop_oneof![0..6u16, experts - 6..experts], 0..5);
                (shape, prop::collection::vec(ids, 0..120))
            }),
        ) {
            let mut counted = new(shape);
            let mut told = Vec::new();
            for (at, ids) in seen.into_iter().enumerate() {
                let ids: Vec<u16> = ids.into_iter().take(shape.k.into()).collect();
                counted.observe(at as u16 % shape.layers, &ids).unwrap();
                told.push(ids);
                let mut shares = vec![Level::ONE; shape.experts.into()];
                counted.forecast(&mut shares).unwrap();
                for (share, expected) in shares.iter().zip(companions(shape, &told)) {
                    let share = share.to_num::<f64>();
                    prop_assert!(share <= expected + 1e-12 && share > expected - 1e-6, "{share} {expected}");
                }
            }
        }
    }

    #[test]
    fn refuses_what_does_not_fit_and_changes_nothing() {
        let shape = Shape { layers: 2, experts: 4, k: 2 };
        let short = vec![0; Companions::<Vec<u32>>::words(shape) - 1];
        assert_eq!(Companions::new(shape, short).map(drop), Err(RecallError::Memory));
        assert_eq!(Companions::new(Shape { k: 0, ..shape }, vec![0; 99]).map(drop), Err(RecallError::Shape));
        let mut companions = new(shape);
        companions.observe(0, &[1, 2]).unwrap();
        companions.observe(1, &[3]).unwrap();
        let before = companions.words.clone();
        assert_eq!(companions.observe(1, &[1]), Err(RecallError::Layer));
        assert_eq!(companions.observe(0, &[4]), Err(RecallError::Id));
        assert_eq!(companions.observe(0, &[0, 1, 2]), Err(RecallError::Id));
        assert_eq!(companions.forecast(&mut [Level::ZERO; 3]), Err(RecallError::Forecast));
        assert!(companions.words == before && companions.layer == 0 && companions.before == 1);
        // Named twice, again and again: at most 1.
        (0..40).for_each(|at| companions.observe(at % 2, &[3, 3]).unwrap());
        let mut shares = [Level::ZERO; 4];
        companions.forecast(&mut shares).unwrap();
        assert_eq!(shares[3], Level::ONE);
    }

    #[test]
    fn sizes_are_what_the_documentation_says() {
        let bytes = |layers, experts, k| 4 * Companions::<Vec<u32>>::words(Shape { layers, experts, k });
        assert_eq!((bytes(48, 128, 8), bytes(24, 32, 4)), (408 * 1024 + 32, 27 * 1024 + 16));
    }
}
