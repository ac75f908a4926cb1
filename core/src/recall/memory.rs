//! The last tokens: their signatures, their choices, and how alike the tokens before them were.

use super::RecallError;
use super::signature::MAX_CHOICES;

/// Fewest tokens that a memory remembers.
pub const MIN_TOKENS: usize = 64;
/// Most tokens that a memory remembers.
pub const MAX_TOKENS: usize = 1 << 16;
/// Most experts of a layer.
pub const MAX_EXPERTS: usize = 1024;

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
        self.layers as usize * self.k as usize
    }

    /// Whether an id fits a byte, beside the one that means none.
    const fn narrow(self) -> bool {
        self.experts <= 255
    }

    /// Words of the choices of a token.
    const fn stride(self) -> usize {
        self.choices().div_ceil(if self.narrow() { 4 } else { 2 })
    }

    pub(super) fn check(self) -> Result<(), RecallError> {
        let fits = self.layers > 0
            && (1..=MAX_EXPERTS).contains(&usize::from(self.experts))
            && (1..=self.experts).contains(&self.k)
            && self.choices() <= MAX_CHOICES;
        if fits { Ok(()) } else { Err(RecallError::Shape) }
    }

    /// Words that a memory of `tokens` tokens with signatures of `32 * signature` bits takes: of a token its
    /// signature, one word for how alike the tokens before were, and a byte (two from 256 experts) for each of
    /// `layers * k` choices, rounded up to words.
    #[must_use]
    pub const fn words(self, tokens: usize, signature: usize) -> usize {
        tokens * (signature + 1 + self.stride())
    }
}

/// A ring of tokens in the caller's words: all signatures, then a word for each age, then all choices.
#[derive(Debug)]
pub(super) struct Memory<B, const W: usize> {
    words: B,
    shape: Shape,
    tokens: u32,
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
        Ok(Self { words, shape, tokens: tokens as u32 })
    }

    pub(super) const fn shape(&self) -> Shape {
        self.shape
    }

    /// Slots.
    pub(super) const fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Signatures by slot, and what is remembered of how alike tokens were by age.
    pub(super) fn for_search(&mut self) -> (&[[u32; W]], &mut [u32]) {
        let tokens = self.tokens as usize;
        let (signatures, rest) = self.words.as_mut().split_at_mut(tokens * W);
        (signatures.as_chunks().0, &mut rest[..tokens])
    }

    pub(super) fn set_signature(&mut self, slot: u32, signature: [u32; W]) {
        let at = slot as usize * W;
        self.words.as_mut()[at..at + W].copy_from_slice(&signature);
    }

    #[cfg(test)]
    pub(super) fn signature(&self, slot: u32) -> [u32; W] {
        let at = slot as usize * W;
        self.words.as_ref()[at..at + W].try_into().unwrap()
    }

    /// First word of the choices of a slot.
    const fn row(&self, slot: u32) -> usize {
        self.tokens as usize * (W + 1) + slot as usize * self.shape.stride()
    }

    /// Remembers what a token chose in a layer; ids are within the shape, as are their number.
    pub(super) fn set_choices(&mut self, slot: u32, layer: u16, experts: &[u16]) {
        let (row, k, narrow) = (self.row(slot), usize::from(self.shape.k), self.shape.narrow());
        let words = self.words.as_mut();
        for j in 0..k {
            let id = experts.get(j).copied().unwrap_or(u16::MAX);
            let at = usize::from(layer) * k + j;
            let (word, shift, mask) = if narrow { (at / 4, at % 4 * 8, 0xff) } else { (at / 2, at % 2 * 16, 0xffff) };
            let word = &mut words[row + word];
            *word = *word & !(mask << shift) | (u32::from(id) & mask) << shift;
        }
    }

    /// Calls `visit` with every choice of a slot in a layer.
    #[inline]
    pub(super) fn choices(&self, slot: u32, layer: u16, mut visit: impl FnMut(u16)) {
        let k = usize::from(self.shape.k);
        let (row, first) = (self.row(slot), usize::from(layer) * k);
        let words = &self.words.as_ref()[row..];
        if self.shape.narrow() {
            for at in first..first + k {
                let id = (words[at / 4] >> (at % 4 * 8)) as u8;
                if id != u8::MAX {
                    visit(id.into());
                }
            }
        } else {
            for at in first..first + k {
                let id = (words[at / 2] >> (at % 2 * 16)) as u16;
                if id != u16::MAX {
                    visit(id);
                }
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
                    memory.choices(slot, layer, |id| found.push(id));
                    assert_eq!(found, ids(slot, layer), "{experts} {slot} {layer}");
                }
            }
        }
    }

    #[test]
    fn sizes_are_what_the_documentation_says() {
        // Qwen3-30B-A3B and gpt-oss-20b at 128 bits: 404 and 116 bytes a token.
        assert_eq!(4 * Shape { layers: 48, experts: 128, k: 8 }.words(1, 4), 404);
        assert_eq!(4 * Shape { layers: 24, experts: 32, k: 4 }.words(1, 4), 116);
        // 256 tokens of gpt-oss-20b fit 32 KB.
        assert!(4 * Shape { layers: 24, experts: 32, k: 4 }.words(256, 4) <= 32 << 10);
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
