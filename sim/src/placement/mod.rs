//! Which experts are in fast memory. A new placement is one file and one line in [`KINDS`].

mod belady;
mod lfu;
mod lru;
mod pinned;
mod tracked;

pub use belady::next_use;
pub use pinned::ranking;
pub use tracked::boxed as boxed_tracker;

use cptr_core::{ExpertSet, Logit, Router, words_for};

use crate::spec::{self, Parameter, Values};
use cptr_trace::MAX_EXPERTS;

/// Resident experts of one layer.
pub type Resident = ExpertSet<{ words_for(MAX_EXPERTS) }>;

/// One token of one layer after the selection.
#[derive(Debug)]
pub struct Served<'a> {
    /// Index of the token in the trace.
    pub index: usize,
    /// What the model wanted, best first where the trace says so.
    pub wanted: &'a [u16],
    /// What runs.
    pub chosen: &'a [u16],
    /// Logits `[E]` in the controller's format. Empty where the trace has none.
    pub logits: &'a [Logit],
}

/// Keeps the resident experts of one layer.
pub trait Placement: Send {
    /// Updates `resident` after the selection; returns the number of experts copied into fast memory.
    fn serve(&mut self, token: &Served<'_>, resident: &mut Resident) -> u32;
}

/// What a placement is made for.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Routed experts E.
    pub experts: usize,
    /// Experts that fit in fast memory.
    pub capacity: usize,
    /// For every token and wanted expert `[T, k]` the next token that wants the same expert, `u32::MAX` for none. Only oracles look.
    pub next_use: &'a [u32],
    /// The router's convention, for mixing weights.
    pub router: Router<'a>,
}

/// A placement as the command line knows it.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Name on the command line.
    pub name: &'static str,
    /// One line for help.
    pub summary: &'static str,
    /// Its parameters.
    pub parameters: &'static [Parameter],
    /// Whether it sees the future: a bound and not a policy.
    pub oracle: bool,
    /// Makes the state for one layer.
    pub make: for<'a> fn(&Values, Layer<'a>) -> Box<dyn Placement + 'a>,
}

/// Name of the placement whose tracker the controller keeps up to date.
pub const TRACKED: &str = "tracked";
/// Name of the placement that the controller makes once, after the prompt.
pub const PINNED: &str = "pinned";

/// Every placement, in the order of tables.
pub const KINDS: &[&Kind] = &[&lru::KIND, &lfu::KIND, &tracked::KIND, &pinned::KIND, &belady::KIND];

/// A placement with its parameters.
pub type Choice = spec::Choice<Kind>;

impl spec::Kind for Kind {
    const WHAT: &'static str = "a placement";
    const SHOWS_FIRST: bool = false;

    fn all() -> &'static [&'static Self] {
        KINDS
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn parameters(&self) -> &'static [Parameter] {
        self.parameters
    }
}

impl Choice {
    /// Makes the state for one layer.
    pub fn make<'a>(&self, layer: Layer<'a>) -> Box<dyn Placement + 'a> {
        (self.kind.make)(&self.values, layer)
    }
}

/// An eviction rule: who goes when a missed expert comes.
trait Eviction: Send {
    /// The resident to give up, none of `keep`; `None` only if all are in `keep`.
    fn victim(&self, resident: &Resident, keep: &[u16]) -> Option<u16>;
    /// Learns what the token wanted and what ran, after its misses are served.
    fn observe(&mut self, token: &Served<'_>);
}

/// A cache filled on demand: every expert that runs and is not resident is loaded, as long as room can be made among the experts that
/// this token does not run.
struct OnDemand<V> {
    capacity: usize,
    eviction: V,
}

impl<V: Eviction> Placement for OnDemand<V> {
    fn serve(&mut self, token: &Served<'_>, resident: &mut Resident) -> u32 {
        let mut loads = 0;
        let mut room = self.capacity.saturating_sub(resident.len());
        for &expert in token.chosen {
            if resident.contains(expert) {
                continue;
            }
            if room > 0 {
                room -= 1;
            } else if let Some(victim) = self.eviction.victim(resident, token.chosen) {
                resident.remove(victim);
            } else {
                continue;
            }
            resident.insert(expert);
            loads += 1;
        }
        self.eviction.observe(token);
        loads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn misses(name: &str, tokens: &[Vec<u16>], capacity: usize) -> usize {
        let ids: Vec<u16> = tokens.concat();
        let next_use = next_use(&ids, tokens[0].len(), 16);
        let choice = Choice::parse(name).unwrap();
        let mut placement =
            choice.make(Layer { experts: 16, capacity, next_use: &next_use, router: Router::softmax_all(1) });
        let mut resident = Resident::new();
        let mut misses = 0;
        for (index, wanted) in tokens.iter().enumerate() {
            misses += wanted.iter().filter(|&&expert| !resident.contains(expert)).count();
            placement.serve(&Served { index, wanted, chosen: wanted, logits: &[] }, &mut resident);
            assert!(resident.len() <= capacity, "{name}");
        }
        misses
    }

    /// Fewest misses of any demand-filled cache, by trying every eviction.
    fn fewest(tokens: &[Vec<u16>], resident: &[u16], capacity: usize) -> usize {
        let Some((wanted, rest)) = tokens.split_first() else { return 0 };
        let missing: Vec<u16> = wanted.iter().copied().filter(|e| !resident.contains(e)).collect();
        let all: Vec<u16> = resident.iter().chain(&missing).copied().collect();
        let excess = all.len().saturating_sub(capacity);
        let free: Vec<u16> = all.iter().copied().filter(|e| !wanted.contains(e)).collect();
        (0u32..1 << free.len())
            .filter(|set| set.count_ones() as usize == excess)
            .map(|set| {
                let gone = |e: &u16| free.iter().position(|f| f == e).is_some_and(|i| set >> i & 1 != 0);
                let kept: Vec<u16> = all.iter().copied().filter(|e| !gone(e)).collect();
                missing.len() + fewest(rest, &kept, capacity)
            })
            .min()
            .unwrap()
    }

    fn tokens(
        k: usize,
        experts: u16,
        count: impl Into<prop::collection::SizeRange>,
    ) -> impl Strategy<Value = Vec<Vec<u16>>> {
        let token = prop::collection::hash_set(0..experts, k..=k).prop_map(|set| set.into_iter().collect());
        prop::collection::vec(token, count)
    }

    proptest! {
        #[test]
        fn belady_is_optimal(tokens in tokens(2, 6, 1..8), capacity in 2usize..4) {
            prop_assert_eq!(misses("belady", &tokens, capacity), fewest(&tokens, &[], capacity));
        }

        #[test]
        fn nothing_beats_belady(tokens in tokens(3, 16, 1..120), capacity in 3usize..12) {
            let bound = misses("belady", &tokens, capacity);
            for name in ["lru", "lfu", "tracked"] {
                prop_assert!(misses(name, &tokens, capacity) >= bound, "{name}");
            }
        }

        #[test]
        fn a_cache_for_all_experts_misses_each_once(tokens in tokens(3, 16, 1..120)) {
            let mut seen: Vec<u16> = tokens.concat();
            seen.sort_unstable();
            seen.dedup();
            for name in ["lru", "lfu", "tracked", "belady"] {
                prop_assert_eq!(misses(name, &tokens, 16), seen.len(), "{}", name);
            }
        }
    }

    #[test]
    fn a_cache_smaller_than_the_choice_serves_what_it_can() {
        let tokens = vec![vec![0, 1, 2], vec![0, 1, 2]];
        for name in ["lru", "lfu", "tracked", "belady"] {
            assert_eq!(misses(name, &tokens, 2), 4, "{name}");
            assert_eq!(misses(name, &tokens, 0), 6, "{name}");
        }
    }

    #[test]
    fn pinned_moves_once() {
        let mut tokens = vec![vec![0, 1]; 3];
        tokens.extend(vec![vec![2, 3]; 5]);
        // Three tokens cold, then 0 and 1 are pinned and nothing else ever is.
        assert_eq!(misses("pinned:tokens=3", &tokens, 2), 6 + 10);
        assert_eq!(misses("pinned:tokens=4", &tokens, 3), 6 + 2 + 4);
    }

    #[test]
    fn pinned_by_counts_or_by_weights() {
        // Expert 1 is wanted twice and weighs little, expert 2 once and weighs much.
        let tokens = [([0u16, 1], [4, 0, -9, -9]), ([0, 1], [4, 0, -9, -9]), ([2, 3], [-9, -9, 5, 4])];
        let resident = |name: &str| {
            let router = Router::softmax_selected(2);
            let layer = Layer { experts: 4, capacity: 2, next_use: &[], router };
            let (mut placement, mut resident) = (Choice::parse(name).unwrap().make(layer), Resident::new());
            for (index, (wanted, logits)) in tokens.iter().enumerate() {
                let logits = logits.map(Logit::from_num);
                placement.serve(&Served { index, wanted, chosen: wanted, logits: &logits }, &mut resident);
            }
            resident.iter().collect::<Vec<_>>()
        };
        assert_eq!(resident("pinned:tokens=3"), [0, 1]);
        assert_eq!(resident("pinned:tokens=3:alpha=0"), [0, 2]);
    }
}
