//! Seeded inputs.

use cptr_core::Logit;

/// Linear congruential generator (Knuth's MMIX constants on 32 bits: Numerical Recipes' "quick and dirty" pair).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random(pub(crate) u32);

impl Random {
    /// 32 bits, of which the upper ones are good.
    pub(crate) fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0
    }

    /// A score between -4 and 4.
    pub(crate) fn logit(&mut self) -> Logit {
        Logit::from_bits((self.bits() as i32) >> 13)
    }
}

/// Logits of one token: a context that `context` names, and noise.
pub(crate) fn fill(logits: &mut [Logit], random: &mut Random, context: u32) {
    let mut slow = Random(context.wrapping_mul(2_654_435_761));
    for logit in logits {
        *logit = slow.logit() + (random.logit() >> 1);
    }
}

/// Different experts, one in each of as many equal parts of the layer.
pub(crate) fn spread(wanted: &mut [u16], random: &mut Random, experts: usize) {
    let part = experts / wanted.len().max(1);
    for (index, expert) in wanted.iter_mut().enumerate() {
        *expert = (index * part + (random.bits() >> 16) as usize % part.max(1)) as u16;
    }
}
