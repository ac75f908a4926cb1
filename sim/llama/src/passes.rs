//! Which tokens llama.cpp computes in one pass: several of one text, or one each of several.

use cptr_sim::replay::Budget;
use cptr_trace::error::{Error, Result};

use crate::ffi::{Options, Token};
use crate::moe::Moe;
use crate::run::Turn;

/// What runs in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Width {
    /// Experts of a layer that memory holds.
    pub(crate) slots: usize,
    /// Texts side by side, a token of each; of one text several tokens that follow each other.
    pub(crate) sequences: usize,
    /// Tokens that were asked for.
    pub(crate) asked: usize,
    /// Tokens of them that have room whatever they choose.
    pub(crate) piece: usize,
}

impl Width {
    /// Of so many texts a token each, or of one so many tokens.
    ///
    /// # Errors
    /// Memory for fewer experts than a token needs.
    pub(crate) fn new(moe: &Moe, memory: Budget, sequences: usize, batch: usize, turns: &[Turn]) -> Result<Self> {
        let sequences = sequences.clamp(1, turns.len().max(1));
        let slots = slots(moe, memory)?;
        let longest = turns.iter().map(Vec::len).max().unwrap_or(1);
        let asked = if sequences > 1 { sequences } else { batch };
        let most = if sequences > 1 { sequences } else { batch.min(longest) };
        Ok(Self { slots, sequences, asked, piece: most.min(slots / moe.k).max(1) })
    }

    /// Sizes of a context that runs it.
    pub(crate) fn options(self, threads: usize, turns: &[Turn]) -> Options {
        let longest = turns.iter().map(Vec::len).max().unwrap_or(1);
        Options { tokens: longest * self.sequences, batch: self.piece, sequences: self.sequences, threads }
    }

    /// The passes of texts that run side by side, or of one.
    pub(crate) fn passes(self, round: &[Turn]) -> Vec<Vec<Token>> {
        let token = |sequence: usize, position: usize| {
            round[sequence].get(position).map(|&(id, _)| Token { id, sequence, position })
        };
        let places = 0..round.iter().map(Vec::len).max().unwrap_or(0);
        let whole: Vec<Vec<Token>> = match self.sequences {
            1 => vec![places.filter_map(|position| token(0, position)).collect()],
            _ => places.map(|at| (0..round.len()).filter_map(|sequence| token(sequence, at)).collect()).collect(),
        };
        whole.iter().flat_map(|tokens| tokens.chunks(self.piece).map(<[Token]>::to_vec)).collect()
    }
}

/// Experts of a layer that memory holds.
///
/// # Errors
/// Fewer than a token needs.
fn slots(moe: &Moe, memory: Budget) -> Result<usize> {
    let slots = match memory {
        Budget::Experts(experts) => experts.min(moe.experts),
        Budget::Bytes { bytes, .. } => {
            let one: u64 = (0..moe.layers.len()).map(|layer| moe.expert_bytes(layer)).sum();
            usize::try_from(bytes / one.max(1)).unwrap_or(usize::MAX).min(moe.experts)
        }
    };
    if slots < moe.k {
        let k = moe.k;
        return Err(Error::usage(format!("expected memory for {k} experts of every layer, found {slots}")));
    }
    Ok(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_of_one_text_and_of_several() {
        let turn = |length: u32| (0..length).map(|id| (id, id == 0)).collect::<Turn>();
        let found = |sequences: usize, piece: usize, round: &[Turn]| -> Vec<Vec<(usize, usize)>> {
            let passes = Width { slots: 8, sequences, asked: piece, piece }.passes(round);
            let places = |pass: &Vec<Token>| pass.iter().map(|token| (token.sequence, token.position)).collect();
            passes.iter().map(places).collect()
        };
        assert_eq!(found(1, 2, &[turn(3)]), [vec![(0, 0), (0, 1)], vec![(0, 2)]]);
        // The second is shorter.
        let round = [turn(2), turn(1), turn(2)];
        assert_eq!(found(3, 3, &round), [vec![(0, 0), (1, 0), (2, 0)], vec![(0, 1), (2, 1)]]);
        assert_eq!(found(3, 2, &round), [vec![(0, 0), (1, 0)], vec![(2, 0)], vec![(0, 1), (2, 1)]]);
        // The last round may have fewer.
        assert_eq!(found(2, 2, &[turn(2)]), [vec![(0, 0)], vec![(0, 1)]]);
    }
}
