use super::*;
use crate::Router;
use crate::num::Eps;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

/// What an engine has: memory of all sorts, and what lies in the slots.
struct Engine {
    shape: Shape,
    cache: Cache<'static, 2, 32>,
    contents: Vec<Vec<u16>>,
    /// Fetches that have not arrived.
    on_their_way: Vec<Load>,
}

impl Engine {
    fn new(shape: Shape) -> Self {
        let (experts, slots) = (usize::from(shape.experts), usize::from(shape.slots));
        let layer = |_| {
            Layer::new(
                vec![crate::ScaledLevels::ZERO; experts].leak(),
                vec![0; slots].leak(),
                vec![0; experts].leak(),
                vec![Level::ZERO; experts].leak(),
            )
        };
        let memory = Memory {
            layers: (0..shape.layers).map(layer).collect::<Vec<_>>().leak(),
            recall: vec![0; shape.recall_words(2)].leak(),
            companions: vec![0; shape.companions_words()].leak(),
            wanted: vec![0; shape.wanted()].leak(),
            forecasts: vec![Level::ZERO; 3 * experts].leak(),
            logits: vec![Logit::ZERO; shape.logits()].leak(),
        };
        let cache = Cache::new(&Config::default(), shape, memory).unwrap();
        let contents = vec![vec![NOTHING; slots]; shape.layers.into()];
        Self { shape, cache, contents, on_their_way: Vec::new() }
    }

    /// Runs a layer: loads are carried out wave by wave, and every choice must find its expert in its slot.
    fn run(&mut self, config: &Config, router: &Router<'_>, layer: u16, rows: &[Vec<Logit>]) -> (Vec<u16>, Counts) {
        let choices = rows.len() * usize::from(self.shape.k);
        let (mut ids, mut slots, mut waves) = (vec![0; choices], vec![0; choices], vec![0; choices]);
        let mut loads = Vec::new();
        let tokens = rows.len() as u16;
        let mut step = Step { layer, tokens, ids: &mut ids, slots: &mut slots, waves: &mut waves };
        let row = |token: u16, logits: &mut [Logit]| logits.copy_from_slice(&rows[usize::from(token)]);
        let counts = self.cache.step(config, router, &mut step, row, |load| loads.push(load)).unwrap();
        assert_eq!(loads.len(), counts.loads);
        for wave in 0..counts.waves as u16 {
            for load in loads.iter().filter(|load| load.wave == wave) {
                self.carry_out(layer, load);
            }
            for ((&id, &slot), _) in ids.iter().zip(&slots).zip(&waves).filter(|(_, runs)| **runs == wave) {
                if id != NOTHING && !router.is_null(id, self.shape.experts.into()) {
                    assert_eq!(self.contents[usize::from(layer)][usize::from(slot)], id);
                }
            }
        }
        assert!(waves.iter().all(|&wave| usize::from(wave) < counts.waves));
        (ids, counts)
    }

    fn carry_out(&mut self, layer: u16, load: &Load) {
        assert_eq!(load.layer, layer);
        let slot = &mut self.contents[usize::from(layer)][usize::from(load.slot)];
        if load.on_its_way {
            let known = |fetch: &Load| (fetch.layer, fetch.expert, fetch.slot) == (layer, load.expert, load.slot);
            assert!(self.on_their_way.iter().any(known));
            self.on_their_way.retain(|fetch| !known(fetch));
        } else {
            assert_eq!(*slot, load.victim);
            self.on_their_way.retain(|fetch| (fetch.layer, fetch.slot) != (layer, load.slot));
        }
        *slot = load.expert;
    }

    fn fetch(&mut self, config: &Config) -> usize {
        let mut loads = Vec::new();
        let fetched = self.cache.fetch(config, |load| loads.push(load));
        for load in &loads {
            self.carry_out(load.layer, load);
            self.on_their_way.push(*load);
        }
        fetched
    }
}

fn row(favourites: &[u16], experts: usize) -> Vec<Logit> {
    let mut row = vec![Logit::ZERO; experts];
    favourites.iter().zip(1..).for_each(|(&id, rank)| row[usize::from(id)] = Logit::from_num(9 - rank));
    row
}

const SHAPE: Shape = Shape { layers: 2, experts: 8, k: 2, slots: 3, tokens: 4, remembered: 64 };

#[test]
fn a_batch_that_needs_more_than_there_are_slots_runs_in_waves() {
    let (mut engine, config) = (Engine::new(SHAPE), Config::default());
    let router = Router::softmax_all(2);
    let rows = [[0, 1], [2, 3], [4, 0], [5, 1]].map(|ids| row(&ids, 8));
    let (ids, counts) = engine.run(&config, &router, 0, &rows);
    assert_eq!(ids, [0, 1, 2, 3, 4, 0, 5, 1]);
    assert_eq!((counts.loads, counts.waves), (6, 2));
    engine.run(&config, &router, 1, &rows);
    // Those that are there run first, whoever wants them.
    let there: Vec<u16> = engine.cache.layer(0).unwrap().resident().iter().collect();
    assert_eq!(there, [3, 4, 5]);
    let (_, counts) = engine.run(&config, &router, 0, &[row(&[0, 3], 8), row(&[4, 5], 8)]);
    assert_eq!((counts.loads, counts.waves), (1, 2));
}

#[test]
fn a_bound_saves_distinct_experts_of_a_batch() {
    let config = Config { bounds: Eps::from_num(0.5).into(), ..Config::default() };
    let (mut engine, router) = (Engine::new(Shape { slots: 8, ..SHAPE }), Router::softmax_all(2));
    // The second choices are as good as each other.
    let mut rows = [[0, 1], [0, 2], [0, 3]].map(|ids| row(&ids, 8));
    rows.iter_mut().for_each(|row| (1..4).for_each(|id| row[id] = Logit::from_num(7)));
    let (ids, counts) = engine.run(&config, &router, 0, &rows);
    assert_eq!(ids, [0, 1, 0, 1, 0, 1]);
    assert_eq!((counts.loads, counts.stand_ins), (2, 0));
}

/// Nothing behind the end of a table's list is run.
#[test]
fn a_list_of_a_table_ends_where_it_says() {
    let (mut engine, config) = (Engine::new(Shape { k: 3, ..SHAPE }), Config::default());
    let router = Router { table: true, ..Router::softmax_all(3) };
    for (layer, listed, runs) in [(0, [4, NOTHING, 6], [4, NOTHING, NOTHING]), (1, [2, 3, NOTHING], [2, 3, NOTHING])] {
        let (mut ids, mut slots, mut waves) = (listed, [0; 3], [0; 3]);
        let mut step = Step { layer, tokens: 1, ids: &mut ids, slots: &mut slots, waves: &mut waves };
        let counts = engine.cache.step(&config, &router, &mut step, |_, _| (), |_| ()).unwrap();
        let many = runs.iter().filter(|&&id| id != NOTHING).count();
        assert_eq!((ids, counts.loads), (runs, many));
        assert_eq!(slots[many..], [NOTHING; 3][many..]);
    }
}

#[test]
fn what_is_pinned_or_on_its_way_stays() {
    let (mut engine, config, router) = (Engine::new(SHAPE), Config::default(), Router::softmax_all(2));
    let token = |engine: &mut Engine, ids: [u16; 2]| {
        engine.run(&config, &router, 0, &[row(&ids, 8)]);
        engine.run(&config, &router, 1, &[row(&ids, 8)])
    };
    token(&mut engine, [0, 1]);
    assert_eq!(engine.cache.pin(0, 7, true), Err(CacheError::Expert));
    engine.cache.pin(0, 0, true).unwrap();
    for ids in [[2, 3], [4, 5], [6, 7]] {
        token(&mut engine, ids);
        assert!(engine.cache.layer(0).unwrap().resident().contains(0));
    }
    [6, 7].iter().for_each(|&id| engine.cache.pin(0, id, true).unwrap());
    let logits = row(&[1, 2], 8);
    let mut lists = ([0; 2], [0; 2], [0; 2]);
    let mut step = Step { layer: 0, tokens: 1, ids: &mut lists.0, slots: &mut lists.1, waves: &mut lists.2 };
    let fill = |_: u16, row: &mut [Logit]| row.copy_from_slice(&logits);
    assert_eq!(engine.cache.step(&config, &router, &mut step, fill, |_| ()), Err(CacheError::Pinned));
    engine.cache.pin(0, 6, false).unwrap();
    assert_eq!(engine.cache.step(&config, &router, &mut step, fill, |_| ()).unwrap().waves, 2);
    engine.cache.lost(0, 7).unwrap();
    assert_eq!(engine.cache.lost(0, 7), Err(CacheError::Expert));
    assert_eq!(engine.cache.loaded(0, 0), Err(CacheError::Expert));
}

#[test]
fn a_text_that_comes_again_is_fetched_before_it_is_wanted() {
    let shape = Shape { layers: 2, experts: 32, k: 2, slots: 6, tokens: 1, remembered: 256 };
    let (mut engine, config, router) = (Engine::new(shape), Config::default(), Router::softmax_all(2));
    let (mut waited, mut fetched) = ([0; 2], 0);
    for token in 0..600u16 {
        for layer in 0..2 {
            let at = token % 40;
            let ids = [(at * 7 + layer) % 32, (at * 11 + 5 + layer) % 32];
            let ids = if ids[0] == ids[1] { [ids[0], (ids[0] + 1) % 32] } else { ids };
            let (_, counts) = engine.run(&config, &router, layer, &[row(&ids, 32)]);
            waited[usize::from(token >= 300)] += counts.loads;
            let before = engine.on_their_way.len();
            fetched += engine.fetch(&config);
            let arrived: Vec<Load> = engine.on_their_way.drain(before..).collect();
            arrived.iter().for_each(|load| engine.cache.loaded(load.layer, load.expert).unwrap());
        }
    }
    assert!(fetched > 300, "{fetched}");
    assert!(waited[1] * 5 < waited[0], "{waited:?}");
}

#[test]
fn what_was_saved_is_remembered_by_another() {
    let shape = Shape { layers: 1, experts: 16, k: 2, slots: 4, tokens: 1, remembered: 64 };
    let (config, router) = (Config::default(), Router::softmax_all(2));
    let token = |engine: &mut Engine, at: u16| {
        let ids = [at * 5 % 16, (at * 3 + 1) % 16];
        let ids = if ids[0] == ids[1] { [ids[0], (ids[0] + 1) % 16] } else { ids };
        engine.run(&config, &router, 0, &[row(&ids, 16)]);
    };
    let (mut one, mut other) = (Engine::new(shape), Engine::new(shape));
    (0..100).for_each(|at| token(&mut one, at % 20));
    let mut words = vec![0; Cache::<2, 32>::saved_words(shape)];
    assert_eq!(one.cache.save(7, &mut words[1..]), Err(CacheError::Memory));
    one.cache.save(7, &mut words).unwrap();
    assert_eq!(other.cache.restore(&config, 8, &words), Err(CacheError::Saved));
    other.cache.restore(&config, 7, &words).unwrap();
    assert_eq!(other.cache.recall().phase(), Some(20));
    let shares = |engine: &Engine| {
        let mut shares = [Level::ZERO; 16];
        engine.cache.recall().forecast(0, 1, &mut shares).unwrap();
        shares
    };
    assert_eq!(shares(&one), shares(&other));
}

#[test]
fn hostile_calls_change_nothing() {
    let (mut engine, config, router) = (Engine::new(SHAPE), Config::default(), Router::softmax_all(2));
    engine.run(&config, &router, 0, &[row(&[0, 1], 8)]);
    let before = std::format!("{:?}", engine.cache);
    let mut refused = |layer, tokens, router: &Router<'_>, choices: usize| {
        let (mut ids, mut slots, mut waves) = (vec![0; choices], vec![0; choices], vec![0; choices]);
        let mut step = Step { layer, tokens, ids: &mut ids, slots: &mut slots, waves: &mut waves };
        let asked = |_: u16, _: &mut [Logit]| panic!("asked");
        let error = engine.cache.step(&config, router, &mut step, asked, |_| ()).unwrap_err();
        assert_eq!(std::format!("{:?}", engine.cache), before);
        error
    };
    assert_eq!(refused(0, 1, &router, 2), CacheError::Layer);
    assert_eq!(refused(1, 2, &router, 4), CacheError::Layer);
    assert_eq!(refused(u16::MAX, 1, &router, 2), CacheError::Layer);
    assert_eq!(refused(1, 1, &router, 1), CacheError::Step);
    assert_eq!(refused(1, 1, &Router::softmax_all(3), 2), CacheError::Router);
    assert_eq!(refused(1, 1, &Router::softmax_all(0), 2), CacheError::Router);
    // A table's list that is none: an id is repeated.
    assert_eq!(refused(1, 1, &Router { table: true, ..router }, 2), CacheError::Step);
    for wrong in [
        Shape { slots: 0, ..SHAPE },
        Shape { slots: 9, ..SHAPE },
        Shape { k: 0, ..SHAPE },
        Shape { k: 65, ..SHAPE },
        Shape { tokens: 0, ..SHAPE },
        Shape { layers: 3, ..SHAPE },
        Shape { remembered: 63, ..SHAPE },
    ] {
        let experts = 8;
        let layer = |_| {
            Layer::new(
                vec![crate::ScaledLevels::ZERO; experts].leak(),
                vec![0; SHAPE.slots.into()].leak(),
                vec![0; experts].leak(),
                vec![Level::ZERO; experts].leak(),
            )
        };
        let memory = Memory {
            layers: (0..SHAPE.layers).map(layer).collect::<Vec<_>>().leak(),
            recall: vec![0; 1 << 16].leak(),
            companions: &mut [],
            wanted: vec![0; 1 << 16].leak(),
            forecasts: vec![Level::ZERO; 24].leak(),
            logits: vec![Logit::ZERO; 8].leak(),
        };
        let made = Cache::<2, 32>::new(&Config::default(), wrong, memory);
        assert_eq!(made.err(), Some(CacheError::Shape), "{wrong:?}");
    }
}

proptest! {
    /// Whatever is asked for, every choice finds its expert in its slot when it runs (`Engine::run`), and the bound on
    /// the loss is held.
    #[test]
    fn every_choice_is_where_it_is_said_to_be(
        steps in prop::collection::vec((1usize..=4, any::<u64>(), any::<bool>(), any::<bool>()), 1..60),
        slots in 1u16..=8,
        k in 1u16..=3,
        null_experts in 0usize..=2,
        eps in prop_oneof![Just(0.0), 0.0..1.0f64],
    ) {
        let shape = Shape { slots, k, ..SHAPE };
        let bounds = Eps::from_num(eps).into();
        let config = Config { bounds, keep_top: 0, sure: Level::from_num(0.1), ..Config::default() };
        let router = Router { null_experts, ..Router::softmax_all(k.into()) };
        let mut engine = Engine::new(shape);
        for (tokens, seed, fetches, arrives) in steps {
            for layer in 0..shape.layers {
                let mut state = seed ^ u64::from(layer);
                let mut draw = || {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    Logit::from_bits((state >> 45) as i32)
                };
                let rows: Vec<Vec<Logit>> = (0..tokens).map(|_| (0..8).map(|_| draw()).collect()).collect();
                let (ids, _) = engine.run(&config, &router, layer, &rows);
                for (row, ids) in rows.iter().zip(ids.chunks(k.into())) {
                    let wanted = router.top_k::<8>(row).unwrap();
                    let largest = *row.iter().max().unwrap();
                    let mass = |ids: &[u16]| {
                        ids.iter().map(|&id| router.mass(row[usize::from(id)], largest).to_num::<f64>()).sum::<f64>()
                    };
                    prop_assert!(mass(ids) >= (1.0 - eps) * mass(&wanted) - 1e-6);
                }
                if fetches {
                    engine.fetch(&config);
                }
                if arrives {
                    for load in std::mem::take(&mut engine.on_their_way) {
                        engine.cache.loaded(load.layer, load.expert).unwrap();
                    }
                }
            }
        }
    }
}
