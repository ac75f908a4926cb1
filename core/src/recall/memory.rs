//! The last tokens: their signatures, their choices, and how alike the tokens before them were.

use super::RecallError;

/// Fewest tokens that a memory remembers.
pub const MIN_TOKENS: usize = 64;
/// Most tokens that a memory remembers.
pub const MAX_TOKENS: usize = 1 << 16;
/// Most experts of a layer.
pub const MAX_EXPERTS: usize = 1024;
/// Largest number of choices of one token, all layers together: a number of ones in binary.
pub const MAX_CHOICES: usize = (1 << 12) - 1;

/// Sizes of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Layers.
    pub layers: u16,
    /// Experts of a layer, at most [`MAX_EXPERTS`].
    pub experts: u16,
    /// Most experts that a token chooses in a layer; at most 4,095 in all layers together.
    pub k: u16,
}

impl Shape {
    /// Choices of a token.
    pub(super) const fn choices(self) -> usize {
        (self.layers as usize).wrapping_mul(self.k as usize)
    }

    /// Whether an id fits a byte, beside the one that means none.
    const fn narrow(self) -> bool {
        self.experts <= 255
    }

    /// Words of the choices of a token.
    const fn stride(self) -> usize {
        self.choices().div_ceil(if self.narrow() { 4 } else { 2 })
    }

    /// Whether all sizes are in range.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.layers > 0
            && self.experts >= 1
            && self.experts as usize <= MAX_EXPERTS
            && self.k >= 1
            && self.k <= self.experts
            && self.choices() <= MAX_CHOICES
    }

    pub(super) const fn check(self) -> Result<(), RecallError> {
        if self.is_valid() { Ok(()) } else { Err(RecallError::Shape) }
    }

    /// Words that a memory of `tokens` tokens with signatures of `32 * signature` bits takes: of a token its
    /// signature, one word for how alike the tokens before were, and a byte (two from 256 experts) for each of
    /// `layers * k` choices, rounded up to words.
    #[must_use]
    pub const fn words(self, tokens: usize, signature: usize) -> usize {
        tokens.wrapping_mul(signature.wrapping_add(1).wrapping_add(self.stride()))
    }

    /// Bytes of each remembered token with signatures of `32 * signature` bits: 404 for Qwen3-30B-A3B and 116 for
    /// gpt-oss-20b at 128 bits.
    #[must_use]
    pub const fn bytes_per_token(self, signature: usize) -> usize {
        self.words(1, signature).wrapping_mul(4)
    }
}

/// A ring of tokens in the caller's words: all signatures, then a word for each age, then all
/// choices.
#[derive(Debug)]
pub(super) struct Memory<B, const W: usize> {
    words: B,
    shape: Shape,
    tokens: u32,
    /// Words of the choices of a token.
    stride: u32,
}

impl<B: AsRef<[u32]> + AsMut<[u32]>, const W: usize> Memory<B, W> {
    /// Takes as much of `words` as `tokens` tokens need.
    pub(super) fn new(shape: Shape, tokens: usize, words: B) -> Result<Self, RecallError> {
        shape.check()?;
        if !(MIN_TOKENS..=MAX_TOKENS).contains(&tokens) {
            return Err(RecallError::Tokens);
        }
        if words.as_ref().len() < shape.words(tokens, W) {
            return Err(RecallError::Memory);
        }
        Ok(Self { words, shape, tokens: tokens as u32, stride: shape.stride() as u32 })
    }

    pub(super) const fn shape(&self) -> Shape {
        self.shape
    }

    /// Slots.
    pub(super) const fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Signatures by slot, and what is remembered of how alike tokens were by age, the oldest first: that of an age is
    /// as many before the last as its tokens.
    pub(super) fn for_search(&mut self) -> (&[[u32; W]], &mut [u32]) {
        let tokens = self.tokens as usize;
        let split = self.words.as_mut().split_at_mut_checked(tokens.wrapping_mul(W));
        let (signatures, rest) = split.unwrap_or((&mut [], &mut []));
        (signatures.as_chunks().0, rest.get_mut(..tokens).unwrap_or(&mut []))
    }

    pub(super) fn set_signature(&mut self, slot: u32, signature: [u32; W]) {
        let at = (slot as usize).wrapping_mul(W);
        if let Some(words) = self.words.as_mut().get_mut(at..at.wrapping_add(W)) {
            words.copy_from_slice(&signature);
        }
    }

    /// The signature of a slot that there is.
    pub(super) fn signature(&self, slot: u32) -> [u32; W] {
        let at = (slot as usize).wrapping_mul(W);
        self.words.as_ref().get(at..).and_then(|words| words.first_chunk()).copied().unwrap_or([0; W])
    }

    /// All words that are in use, to be saved.
    pub(super) fn all(&self) -> &[u32] {
        let used = self.shape.words(self.tokens as usize, W);
        self.words.as_ref().get(..used).unwrap_or(&[])
    }

    /// All words that are in use, to be restored.
    pub(super) fn all_mut(&mut self) -> &mut [u32] {
        let used = self.shape.words(self.tokens as usize, W);
        self.words.as_mut().get_mut(..used).unwrap_or(&mut [])
    }

    /// Where the choices of a slot begin among [`rows`](Self::rows).
    pub(super) const fn row(&self, slot: u32) -> u32 {
        slot.wrapping_mul(self.stride)
    }

    /// Where the choices of the token `ahead` after one begin.
    #[inline]
    pub(super) const fn row_ahead(&self, row: u32, ahead: u32) -> u32 {
        let (row, ring) = (row.wrapping_add(ahead.wrapping_mul(self.stride)), self.tokens.wrapping_mul(self.stride));
        if row < ring { row } else { row.wrapping_sub(ring) }
    }

    /// The choices of all tokens.
    #[inline]
    pub(super) fn rows(&self) -> &[u32] {
        self.words.as_ref().get((self.tokens as usize).wrapping_mul(W + 1)..).unwrap_or(&[])
    }

    fn rows_mut(&mut self) -> &mut [u32] {
        self.words.as_mut().get_mut((self.tokens as usize).wrapping_mul(W + 1)..).unwrap_or(&mut [])
    }

    /// Words of a layer's choices where they are four or eight bytes, which is done faster; otherwise 0.
    pub(super) const fn whole_words(&self) -> u32 {
        match self.shape.k {
            4 if self.shape.narrow() => 1,
            8 if self.shape.narrow() => 2,
            _ => 0,
        }
    }

    /// The choices of all layers of all tokens, where those of a layer are `N` words.
    #[inline]
    pub(super) fn layers<const N: usize>(&self) -> &[[u32; N]] {
        self.rows().as_chunks().0
    }

    /// Remembers the choices of a layer, where they are `N` words.
    #[inline]
    pub(super) fn set_layer<const N: usize>(&mut self, slot: u32, layer: u16, ids: [u32; N]) {
        let at = slot.wrapping_mul(self.shape.layers.into()).wrapping_add(layer.into());
        if let Some(row) = self.rows_mut().as_chunks_mut().0.get_mut(at as usize) {
            *row = ids;
        }
    }

    /// Remembers what a token chose in a layer; ids are within the shape, as are their number.
    pub(super) fn set_choices(&mut self, slot: u32, layer: u16, experts: &[u16]) {
        let (row, k, narrow) = (self.row(slot) as usize, usize::from(self.shape.k), self.shape.narrow());
        let words = self.rows_mut();
        for j in 0..k {
            let id = experts.get(j).copied().unwrap_or(u16::MAX);
            let at = usize::from(layer).wrapping_mul(k).wrapping_add(j);
            let (word, shift, mask) = if narrow { (at / 4, at % 4 * 8, 0xff) } else { (at / 2, at % 2 * 16, 0xffff) };
            if let Some(word) = words.get_mut(row.wrapping_add(word)) {
                *word = *word & !(mask << shift) | (u32::from(id) & mask) << shift;
            }
        }
    }

    /// Calls `visit` with every choice of a layer of the token whose row begins there.
    pub(super) fn choices(&self, row: u32, layer: u16, mut visit: impl FnMut(u16)) {
        let k = usize::from(self.shape.k);
        let first = usize::from(layer).wrapping_mul(k);
        let words = self.rows().get(row as usize..).unwrap_or(&[]);
        let narrow = self.shape.narrow();
        for at in first..first.wrapping_add(k) {
            let (word, shift, none) =
                if narrow { (at / 4, at % 4 * 8, 0xff) } else { (at / 2, at % 2 * 16, u32::from(u16::MAX)) };
            let id = words.get(word).map_or(none, |word| (word >> shift) & none);
            if id != none {
                visit(id as u16);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn choices_lie_where_they_were_put() {
        for experts in [128, 255, 256, 1024] {
            let shape = Shape { layers: 3, experts, k: 5 };
            let mut words = vec![0; shape.words(64, 2)];
            let mut memory = Memory::<_, 2>::new(shape, 64, &mut words[..]).unwrap();
            let ids = |slot: u32, layer: u16| -> Vec<u16> {
                let count = (slot as usize + usize::from(layer)) % 6;
                (0..count as u16).map(|j| (slot as u16 * 7 + layer * 3 + j) % experts).collect()
            };
            for slot in 0..64 {
                memory.set_signature(slot, [slot, !slot]);
                (0..3).for_each(|layer| memory.set_choices(slot, layer, &ids(slot, layer)));
            }
            for slot in 0..64 {
                assert_eq!(memory.signature(slot), [slot, !slot]);
                for layer in 0..3 {
                    let mut found = Vec::new();
                    memory.choices(memory.row(slot), layer, |id| found.push(id));
                    assert_eq!(found, ids(slot, layer), "{experts} {slot} {layer}");
                }
            }
        }
    }

    #[test]
    fn sizes_are_what_the_documentation_says() {
        // Qwen3-30B-A3B and gpt-oss-20b at 128 bits: 404 and 116 bytes a token.
        assert_eq!(Shape { layers: 48, experts: 128, k: 8 }.bytes_per_token(4), 404);
        assert_eq!(Shape { layers: 24, experts: 32, k: 4 }.bytes_per_token(4), 116);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let shape = Shape { layers: 3, experts: 8, k: 2 };
        let new = |shape: Shape, tokens, words| Memory::<_, 4>::new(shape, tokens, vec![0u32; words]).map(drop);
        assert_eq!(new(shape, 64, shape.words(64, 4)), Ok(()));
        assert_eq!(new(shape, 64, shape.words(64, 4) - 1), Err(RecallError::Memory));
        assert_eq!(new(shape, 63, 1 << 20), Err(RecallError::Tokens));
        assert_eq!(new(shape, (1 << 16) + 1, 1 << 20), Err(RecallError::Tokens));
        for wrong in [
            Shape { layers: 0, ..shape },
            Shape { experts: 0, ..shape },
            Shape { experts: 1025, ..shape },
            Shape { k: 0, ..shape },
            Shape { k: 9, ..shape },
            Shape { layers: 2048, ..shape },
        ] {
            assert_eq!(new(wrong, 64, 1 << 20), Err(RecallError::Shape), "{wrong:?}");
        }
    }
}
