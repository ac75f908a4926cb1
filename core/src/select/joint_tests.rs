//! Choices of batches against their definition, against choices in turn, and against the fewest that there can be.

use super::any::{Layer, squared_error};
use super::pairs::Unbounded;
use super::tests::{Any, E, K, any_layer};
use super::*;
use crate::num::Level;
use crate::set::ExpertSet;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec as StdVec;

/// Lists of `k` with nothing behind the last.
fn padded(lists: &[StdVec<u16>], k: usize) -> StdVec<u16> {
    let list =
        |list: &StdVec<u16>| list.iter().copied().chain(core::iter::repeat(NOTHING)).take(k).collect::<StdVec<_>>();
    lists.iter().flat_map(list).collect()
}

struct Given<'a, const W: usize> {
    router: Router<'a>,
    bounds: Bounds,
    keep_top: usize,
    rows: &'a [StdVec<Logit>],
    wanted: &'a [StdVec<u16>],
    k: usize,
    resident: ExpertSet<W>,
}

impl<const W: usize> Given<'_, W> {
    fn choose(&self, joint: bool) -> Result<(StdVec<StdVec<u16>>, usize), SelectError> {
        let mut experts = padded(self.wanted, self.k);
        let mut choices = vec![7; experts.len()];
        let mut worth = vec![Level::ONE; self.rows[0].len()];
        let logits = self.rows.concat();
        let mut batch =
            Batch { logits: &logits, experts: &mut experts, k: self.k, choices: &mut choices, worth: &mut worth };
        let (bounds, keep_top) = (self.bounds, self.keep_top);
        let stand_ins = if joint {
            select_jointly(&self.router, bounds, keep_top, &mut batch, &self.resident)
        } else {
            select_in_turn(&self.router, bounds, keep_top, &mut batch, &self.resident)
        }?;
        Ok((experts.chunks(self.k).map(|list| real(list).to_vec()).collect(), stand_ins))
    }

    /// Different experts of some lists that have to be loaded.
    fn loads(&self, lists: &[StdVec<u16>]) -> usize {
        let experts = self.rows[0].len();
        let mut all: StdVec<u16> = lists.concat();
        all.sort_unstable();
        all.dedup();
        all.iter().filter(|&&expert| !self.resident.contains(expert) && !self.router.is_null(expert, experts)).count()
    }

    /// What a token chooses if these are near at hand.
    fn alone(&self, token: usize, near: &ExpertSet<W>) -> StdVec<u16> {
        let mut experts = self.wanted[token].clone();
        select_in_place(&self.router, self.bounds, self.keep_top, &self.rows[token], &mut experts, near).unwrap();
        experts
    }

    /// The definition of a choice in turn.
    fn one_by_one(&self) -> StdVec<StdVec<u16>> {
        let mut near = self.resident;
        let token = |token| {
            let experts = self.alone(token, &near);
            experts.iter().for_each(|&expert| _ = near.insert(expert));
            experts
        };
        (0..self.rows.len()).map(token).collect()
    }

    /// The fewest loads of all sets with which every token can do.
    fn fewest(&self) -> usize {
        let experts = self.rows[0].len();
        let enough = |set: &u32| {
            let mut near = self.resident;
            (0..experts as u16).filter(|expert| set >> expert & 1 != 0).for_each(|expert| _ = near.insert(expert));
            (0..self.rows.len()).all(|token| self.alone(token, &near).iter().all(|&expert| near.contains(expert)))
        };
        let missing =
            |set: u32| (0..experts as u16).filter(|e| set >> e & 1 != 0 && !self.resident.contains(*e)).count();
        (0u32..1 << experts).filter(enough).map(missing).min().unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    /// Of every router: each token keeps its bounds, its first experts and its groups; no more is loaded than in turn;
    /// nothing is altered without a bound; one token chooses as ever.
    #[test]
    fn each_token_keeps_its_bound_and_no_more_is_loaded(
        layers in prop::collection::vec(any_layer(), 1..=6), error in prop::option::of(0u32..1 << 30),
    ) {
        let first = layers[0].clone();
        let layers: StdVec<Any> = layers
            .into_iter()
            .map(|layer| Any { logits: layer.logits, table: layer.table, ..first.clone() })
            .collect();
        let rows: StdVec<_> = layers.iter().map(|layer| layer.logits.clone()).collect();
        let wanted: StdVec<_> = layers.iter().map(Any::wanted).collect();
        let (router, error) = (first.router(), error.map(Eps::from_bits));
        let given = Given {
            router,
            bounds: Bounds { mass: first.eps, error },
            keep_top: first.keep_top,
            rows: &rows,
            wanted: &wanted,
            k: K,
            resident: first.resident,
        };
        let (found, stand_ins) = given.choose(true)?;
        let (in_turn, _) = given.choose(false)?;
        prop_assert_eq!(&in_turn, &given.one_by_one());
        prop_assert!(given.loads(&found) <= given.loads(&in_turn));
        if layers.len() == 1 {
            prop_assert_eq!(&found[0], &given.alone(0, &given.resident));
        }
        if first.eps == Eps::ZERO || error == Some(Eps::ZERO) {
            prop_assert_eq!(&found, &wanted);
        }
        let mut replaced = 0;
        for ((layer, wanted), found) in layers.iter().zip(&wanted).zip(&found) {
            prop_assert!(Router::check_ids(found, E).is_ok());
            prop_assert_eq!(found.len(), wanted.len());
            let open = router.open_groups(&layer.logits);
            let of = Layer::new(&router, 0, &layer.logits, &layer.resident, &[], Unbounded);
            let greatest = wanted.iter().map(|&e| router.logit(&layer.logits, e)).max().unwrap();
            let largest = router.unit(of.with_gains(greatest));
            let mass = |expert: u16| router.mass(router.logit(&layer.logits, expert), largest).to_bits();
            let sum = |experts: &[u16]| experts.iter().map(|&expert| u64::from(mass(expert))).sum::<u64>();
            let share = |whole: u64, eps: Eps| ((u128::from(whole) * u128::from(eps.to_bits())) >> 32) as u64;
            let mut spent = 0u128;
            for (rank, (&new, &old)) in found.iter().zip(wanted).enumerate().filter(|(_, (new, old))| new != old) {
                prop_assert!(rank >= layer.keep_top && open.contains(new) && !wanted.contains(&new));
                spent += u128::from(squared_error(mass(old), mass(new)));
                replaced += 1;
            }
            let (kept, all) = match error {
                Some(_) => (sum(found), sum(wanted)),
                None => (layer.mass(wanted, found), layer.mass(wanted, wanted)),
            };
            prop_assert!(all.saturating_sub(kept) <= share(all, layer.eps), "{} of {}", kept, all);
            if let Some(error) = error {
                let total = router.total_mass(&layer.logits, sum(wanted), largest);
                prop_assert!(spent <= u128::from(share(total, error).min(u64::from(u32::MAX))).pow(2));
            }
        }
        prop_assert_eq!(stand_ins, replaced);
    }
}

/// Random layers: as many loads as there have to be, together, in turn, and by the choice.
fn near_the_fewest(experts: u16, tokens: usize, k: usize, eps: f64, residents: u16) -> [usize; 3] {
    let mut state = 17u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The sum of two is more like what routers give.
        Logit::from_bits((state >> 47) as i32 + (state << 17 >> 47) as i32)
    };
    let mut counts = [0; 3];
    for case in 0..60u16 {
        let rows: StdVec<StdVec<Logit>> = (0..tokens).map(|_| (0..experts).map(|_| draw()).collect()).collect();
        let router = Router::softmax_selected(k);
        let wanted: StdVec<StdVec<u16>> = rows.iter().map(|row| router.top_k::<8>(row).unwrap().to_vec()).collect();
        let mut resident = ExpertSet::<1>::new();
        (0..residents).for_each(|at| _ = resident.insert((case + at * 5) % experts));
        let bounds = Eps::from_num(eps).into();
        let given = Given { router, bounds, keep_top: 1, rows: &rows, wanted: &wanted, k, resident };
        let loads = |joint| given.loads(&given.choose(joint).unwrap().0);
        counts[0] += given.fewest();
        counts[1] += loads(true);
        counts[2] += loads(false);
    }
    counts
}

#[test]
fn choices_are_near_the_fewest_there_can_be() {
    let mut all = [0; 3];
    for (experts, tokens, k, eps, residents) in [
        (8, 2, 2, 0.1, 0),
        (8, 2, 3, 0.2, 0),
        (8, 4, 2, 0.1, 2),
        (8, 6, 2, 0.2, 0),
        (12, 4, 3, 0.1, 0),
        (12, 4, 4, 0.1, 0),
        (12, 4, 4, 0.2, 4),
        (12, 6, 4, 0.2, 0),
    ] {
        let counts = near_the_fewest(experts, tokens, k, eps, residents);
        std::println!("{tokens} tokens, {k} of {experts}, eps {eps}, {residents} resident: {counts:?}");
        all.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
    }
    let [fewest, joint, in_turn] = all;
    std::println!("fewest {fewest}, joint {joint}, in turn {in_turn}");
    assert!(joint >= fewest && joint * 100 <= fewest * 103 && joint * 100 <= in_turn * 97);
}

#[test]
fn wrong_batches_are_refused() {
    let rows = [[2, 1, 0, 0], [0, 0, 2, 1]].map(|row| row.map(Logit::from_num).to_vec());
    let wanted = [vec![0, 1], vec![2, 3]];
    let run = |experts: &[u16], k: usize, choices: usize, layer: usize, logits: usize| {
        let mut list = experts.to_vec();
        let mut batch = Batch {
            logits: &rows.concat()[..logits],
            experts: &mut list,
            k,
            choices: &mut vec![0; choices],
            worth: &mut vec![Level::ZERO; layer],
        };
        let nothing = ExpertSet::<1>::new();
        let found = select_jointly(&Router::softmax_selected(2), Eps::MAX, 0, &mut batch, &nothing);
        assert!(found.is_ok() || list == experts);
        found
    };
    let right = padded(&wanted, 2);
    assert!(run(&right, 2, 4, 4, 8).is_ok());
    assert_eq!(run(&right, 0, 4, 4, 8), Err(SelectError::Batch));
    assert_eq!(run(&right, 3, 4, 4, 8), Err(SelectError::Batch));
    assert_eq!(run(&right, 2, 3, 4, 8), Err(SelectError::Batch));
    assert_eq!(run(&right, 2, 4, 0, 8), Err(SelectError::Batch));
    assert_eq!(run(&right, 2, 4, 4, 7), Err(SelectError::Batch));
    assert_eq!(run(&[], 2, 0, 4, 0), Err(SelectError::Batch));
    assert_eq!(run(&[0, 1, 2, 2], 2, 4, 4, 8), Err(SelectError::Id));
    assert_eq!(run(&[0, 1, 2, 4], 2, 4, 4, 8), Err(SelectError::Id));
    // Lists with an end, and empty ones.
    assert!(run(&[0, NOTHING, NOTHING, 3], 2, 4, 4, 8).is_ok());
}
