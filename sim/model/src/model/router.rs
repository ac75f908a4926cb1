//! From raw router scores to the model's own choice and to mixing weights.

use cptr_trace::{Convention, MAX_EXPERTS, top_k::top_k};

/// A router's convention: softmax over all experts, the k largest, weights renormalised or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Router {
    /// Whether the weights of the chosen are divided by their sum, which is the softmax over the chosen alone. It is so
    /// for an altered choice too.
    pub renormalises: bool,
    /// Factor on the weights (DeepSeek-V2's `routed_scaling_factor`).
    pub scale: f32,
    /// Groups of experts of which the best take part in the choice.
    pub groups: Option<Groups>,
    /// Whether a bias belongs to the scores.
    pub(super) bias: bool,
}

/// Device-limited routing (arXiv 2405.04434, section 2.2.2): a group is as good as its best expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Number of groups; the experts of a group lie side by side.
    pub count: usize,
    /// Groups whose experts take part.
    pub kept: usize,
}

impl Router {
    pub(super) fn softmax(renormalises: bool) -> Self {
        Self { renormalises, scale: 1.0, groups: None, bias: false }
    }

    /// The convention in a trace's terms.
    pub fn convention(&self) -> Convention {
        if self.renormalises { Convention::SoftmaxSelected } else { Convention::SoftmaxAll }
    }

    /// The model's own choice for the scores `[E]` of one token, best first, into `wanted` `[k]`; of equal scores the
    /// lower id.
    ///
    /// # Panics
    /// If there are fewer scores than places in `wanted`.
    pub fn choose(&self, scores: &[f32], wanted: &mut [u16]) {
        let Some(groups) = self.groups else { return top_k(scores, wanted) };
        let size = scores.len() / groups.count;
        let best: Vec<f32> =
            scores.chunks(size).map(|group| group.iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect();
        let mut kept = vec![0; groups.kept];
        top_k(&best, &mut kept);
        let masked = scores
            .iter()
            .enumerate()
            .map(|(expert, &score)| if kept.contains(&((expert / size) as u16)) { score } else { f32::NEG_INFINITY });
        top_k(&masked.collect::<Vec<_>>(), wanted);
    }

    /// Routing mass of the `chosen` among the scores `[E]` of one token, in their order: the mixing weights before
    /// [`Self::scale`].
    ///
    /// # Panics
    /// If an id is not below E or the lengths of `chosen` and `mass` differ.
    pub fn mass(&self, scores: &[f32], chosen: &[u16], mass: &mut [f32]) {
        assert_eq!(chosen.len(), mass.len());
        debug_assert!(scores.len() <= MAX_EXPERTS);
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let part = |expert: u16| (scores[usize::from(expert)] - largest).exp();
        let total: f32 = if self.renormalises {
            // Relative to the best of the chosen, so that a choice far below the best expert does not vanish.
            return softmax_over(scores, chosen, mass);
        } else {
            (0..scores.len() as u16).map(part).sum()
        };
        for (mass, &expert) in mass.iter_mut().zip(chosen) {
            *mass = part(expert) / total;
        }
    }
}

fn softmax_over(scores: &[f32], chosen: &[u16], mass: &mut [f32]) {
    let score = |expert: &u16| scores[usize::from(*expert)];
    let largest = chosen.iter().map(score).fold(f32::NEG_INFINITY, f32::max);
    // Summed by id, so that the order of the choice does not show in the last bit.
    let mut ids: heapless::Vec<u16, { cptr_trace::MAX_TOP_K }> = chosen.iter().copied().collect();
    ids.sort_unstable();
    let total: f32 = ids.iter().map(|expert| (score(expert) - largest).exp()).sum();
    for (mass, expert) in mass.iter_mut().zip(chosen) {
        *mass = (score(expert) - largest).exp() / total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: [f32; 6] = [1.0, 3.0, 2.0, 0.0, 2.5, -1.0];

    fn choice(router: Router) -> Vec<u16> {
        let mut wanted = [0; 3];
        router.choose(&SCORES, &mut wanted);
        wanted.into()
    }

    #[test]
    fn groups_keep_their_experts_together() {
        assert_eq!(choice(Router::softmax(false)), [1, 4, 2]);
        let groups = Some(Groups { count: 3, kept: 2 });
        // The groups are as good as 3, 2 and 2.5: the middle one stays out.
        assert_eq!(choice(Router { groups, ..Router::softmax(false) }), [1, 4, 0]);
    }

    #[test]
    fn mass_is_a_softmax_over_all_or_over_the_chosen() {
        let exact = |ids: &[usize]| ids.iter().map(|&id| f64::from(SCORES[id]).exp()).sum::<f64>();
        for (renormalises, over) in [(false, exact(&[0, 1, 2, 3, 4, 5])), (true, exact(&[0, 4]))] {
            let mut mass = [0.0; 2];
            Router::softmax(renormalises).mass(&SCORES, &[4, 0], &mut mass);
            for (mass, id) in mass.iter().zip([4, 0]) {
                assert!((f64::from(*mass) - exact(&[id]) / over).abs() < 1e-6);
            }
        }
    }
}
