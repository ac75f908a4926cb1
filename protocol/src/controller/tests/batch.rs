//! Several tokens in a request: decided as if they came one by one.

use super::*;

/// Most tokens of a request here.
const MOST: usize = 5;

fn batched() -> Engine<'static> {
    let answers = std::vec![0; 2 * wire::max_answer_of(E, MOST)].leak();
    let mut engine = Engine::new(std::vec![Layer::new(); LAYERS].leak(), answers, Untimed::default(), Uncounted);
    engine = engine.with_tokens(MOST).with_bias(std::vec![Logit::ZERO; 24].leak());
    let reset = frame(Head { kind: Command::Reset as u8, session: 1, ..Head::default() }, &[0; 4]);
    assert_eq!(answer(&mut engine, &reset).0, Status::Done);
    engine
}

/// Tokens one behind the other, each but the last filled up.
fn together(tokens: &[Vec<u8>]) -> Vec<u8> {
    let mut all = Vec::new();
    for token in tokens {
        all.resize(all.len().next_multiple_of(4), 0);
        all.extend(token);
    }
    all
}

/// The decisions of an answer.
fn decisions(mut bytes: &[u8]) -> Vec<(Decision, Vec<Run>, Vec<Load>)> {
    let mut all = Vec::new();
    while let Ok((head, _)) = Decision::read_from_prefix(bytes) {
        let length = size_of::<Decision>() + 8 * usize::from(head.runs) + 4 * usize::from(head.loads);
        let (this, rest) = bytes.split_at(length);
        all.push(decision(this));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    all
}

/// An engine that is configured and, where experts stay, placed.
fn ready(configure: &Configure, biases: &[Vec<Logit>; 2]) -> Engine<'static> {
    let mut engine = batched();
    assert_eq!(ask(&mut engine, Command::Configure, configure.as_bytes()).0, Status::Done);
    for (layer, bias) in (0u16..).zip(biases) {
        if configure.bias_place != 0 {
            assert_eq!(ask(&mut engine, Command::Bias, &bias_of(layer, bias)).0, Status::Done);
        }
        if configure.on_demand == 0 {
            let ids: Vec<U16> = [1, 4, 6, 9].map(U16::new).to_vec();
            let prefill = body(&Prefill { layer: layer.into(), count: 4, weighted: 0 }, ids.as_bytes());
            assert_eq!(ask(&mut engine, Command::Prefill, &prefill).0, Status::Done);
            let place = Place { layer: layer.into(), hot: 4.into(), alpha: 0.into(), split: [0.into(); 4] };
            assert_eq!(ask(&mut engine, Command::Place, place.as_bytes()).0, Status::Done);
        }
    }
    engine
}

/// One layer's policy as its engine has it, with loads that take until they are told: levels and residents are those of
/// the layer, whichever sequence a token is of.
struct Slow {
    policy: Policy,
    loading: Vec<u16>,
}

impl Slow {
    fn step(&mut self, router: &Router<'_>, logits: &[Logit], wanted: &[u16], loaded: &[u16]) -> (Vec<Run>, Vec<Load>) {
        let Policy { tracker, resident, .. } = &mut self.policy;
        loaded.iter().for_each(|&expert| _ = resident.insert(expert));
        self.loading.retain(|expert| !loaded.contains(expert));
        let bounds = Bounds::from(Eps::from_bits(1 << 28));
        let chosen = select::<16>(router, bounds, 1, logits, wanted, resident).unwrap().experts;
        let mut weights = [Gate::ZERO; 16];
        router.weights(logits, &chosen, &mut weights);
        let run = |(&expert, weight): (&u16, Gate)| Run {
            expert: expert.into(),
            bits: if resident.contains(expert) { 0 } else { 2 },
            stand_in: u8::from(!wanted.contains(&expert)),
            weight: weight.to_bits().into(),
        };
        let runs = chosen.iter().zip(weights).map(run).collect();
        let mut loads = Vec::new();
        for &expert in &chosen {
            if resident.contains(expert) || self.loading.contains(&expert) {
                continue;
            }
            let victim = if resident.len() + self.loading.len() < 5 {
                NOBODY
            } else if let Some(victim) = tracker.victim(resident, &chosen) {
                victim
            } else {
                continue;
            };
            resident.remove(victim);
            self.loading.push(expert);
            loads.push(Load { expert: expert.into(), victim: victim.into() });
        }
        tracker.update(&TrackerConfig::default(), wanted);
        (runs, loads)
    }
}

/// A layer, logits, whether its choice is given, the sequence that it is of, and whether the request ends behind it.
fn tokens() -> impl Strategy<Value = Vec<(u16, Vec<Logit>, bool, usize, bool)>> {
    prop::collection::vec((0u16..2, logits(), any::<bool>(), 0usize..3, any::<bool>()), 1..80)
}

proptest! {
    #[test]
    fn tokens_together_are_decided_as_one_by_one(
        tokens in tokens(),
        (_, configure) in any_router(),
        biases in [logits(), logits()],
        on_demand: bool,
    ) {
        let configure = Configure { on_demand: on_demand.into(), capacity: 5.into(), ..configure };
        let (mut one, mut many) = (ready(&configure, &biases), ready(&configure, &biases));
        let (mut seen, mut request, mut expected) = ([false; 3], Vec::new(), Vec::new());
        for (number, (layer, logits, given, sequence, ends)) in tokens.iter().enumerate() {
            let router = one.configuration.unwrap().router;
            let bias = if configure.bias_place == 0 { &[][..] } else { &biases[usize::from(*layer)] };
            let wanted = Router { bias, ..router }.top_k::<16>(logits).unwrap();
            let list: &[u16] = if *given { &wanted } else { &[] };
            // What was asked for is there when the next request comes.
            let on_way: Vec<u16> = match request.is_empty() {
                true => (0..12).filter(|&e| many.layers[usize::from(*layer)].loading.contains(e)).collect(),
                false => Vec::new(),
            };
            let starts = !std::mem::replace(&mut seen[*sequence], true);
            let token = after_loads(*layer, logits, list, starts, &on_way, &[]);
            let (status, bytes) = ask(&mut one, Command::Token, &token);
            prop_assert_eq!(status, Status::Done);
            expected.push(decision(&bytes));
            request.push(token);
            if *ends || request.len() == MOST || number + 1 == tokens.len() {
                let (status, bytes) = ask(&mut many, Command::Token, &together(&request));
                prop_assert_eq!(status, Status::Done);
                prop_assert_eq!(decisions(&bytes), take(&mut expected));
                request.clear();
            }
        }
        prop_assert!(known(&mut one) == known(&mut many));
        prop_assert_eq!(one.turn, many.turn);
    }

    #[test]
    fn sequences_side_by_side_are_decided_as_by_the_core(tokens in tokens()) {
        let mut engine = ready(&configuration(), &[Vec::new(), Vec::new()]);
        let router = Router::softmax_selected(K);
        let mut layers = [0; 2].map(|_: u8| Slow { policy: Policy::new(), loading: Vec::new() });
        let (mut seen, mut request, mut expected) = ([false; 3], Vec::new(), Vec::new());
        for (number, (layer, logits, given, sequence, ends)) in tokens.iter().enumerate() {
            let policy = &mut layers[usize::from(*layer)];
            let wanted = router.top_k::<16>(logits).unwrap();
            let list: &[u16] = if *given { &wanted } else { &[] };
            let loaded = if request.is_empty() { policy.loading.clone() } else { Vec::new() };
            let starts = !std::mem::replace(&mut seen[*sequence], true);
            request.push(after_loads(*layer, logits, list, starts, &loaded, &[]));
            expected.push(policy.step(&router, logits, &wanted, &loaded));
            if *ends || request.len() == MOST || number + 1 == tokens.len() {
                let (status, bytes) = ask(&mut engine, Command::Token, &together(&request));
                prop_assert_eq!(status, Status::Done);
                let found: Vec<_> = decisions(&bytes).into_iter().map(|(_, runs, loads)| (runs, loads)).collect();
                prop_assert_eq!(found, take(&mut expected));
                request.clear();
            }
        }
    }
}

fn plain(layer: u16, first: i32) -> Vec<u8> {
    let logits: Vec<Logit> = (0..12).map(|expert| Logit::from_num((expert + first) % 12)).collect();
    token(layer, &logits, &[], false)
}

#[test]
fn what_is_not_made_of_tokens_is_refused_and_changes_nothing() {
    let mut engine = ready(&configuration(), &[Vec::new(), Vec::new()]);
    let (a, b) = (plain(0, 0), plain(1, 3));
    let mut odd = token(0, &[Logit::ZERO; 12], &[], false);
    odd[6] = 1;
    odd.extend([0, 0]);
    let mut filled = together(&[odd.clone(), b.clone()]);
    filled[odd.len()] = 1;
    for (request, expected) in [
        (together(&[a.clone(), b[..b.len() - 1].to_vec()]), Status::Length),
        (together(&[a.clone(), std::vec![0; 4]]), Status::Length),
        ([&a[..], &[0]].concat(), Status::Length),
        (together(&std::vec![a.clone(); MOST + 1]), Status::Length),
        (Vec::new(), Status::Length),
        (filled, Status::Value),
    ] {
        let before = state(&mut engine);
        assert_eq!(ask(&mut engine, Command::Token, &request).0, expected);
        assert!(state(&mut engine) == before);
    }
    let identity = ask(&mut engine, Command::Identify, &[]).1;
    assert_eq!(usize::from(Identity::read_from_bytes(&identity).unwrap().tokens), MOST);
    // One that was not told takes one token.
    let mut one = super::engine(Untimed::default());
    assert_eq!(ask(&mut one, Command::Configure, configuration().as_bytes()).0, Status::Done);
    assert_eq!(ask(&mut one, Command::Token, &together(&[a.clone(), b])).0, Status::Length);
    assert_eq!(ask(&mut one, Command::Token, &a).0, Status::Done);
}

#[test]
fn tokens_are_done_up_to_the_first_that_cannot_be() {
    let mut engine = ready(&configuration(), &[Vec::new(), Vec::new()]);
    // There is no layer 7; nobody loads expert 3.
    let bad = after_loads(1, &[Logit::ZERO; 12], &[], false, &[3], &[]);
    for (bad, status) in [(plain(7, 0), Status::Layer), (bad, Status::Id)] {
        let request = together(&[plain(0, 1), plain(1, 2), bad.clone(), plain(0, 5)]);
        let (done, bytes) = ask(&mut engine, Command::Token, &request);
        assert_eq!((done, decisions(&bytes).len()), (Status::Done, 2));
        let before = state(&mut engine);
        assert_eq!(ask(&mut engine, Command::Token, &together(&[bad, plain(0, 5)])).0, status);
        assert!(state(&mut engine) == before);
        let (done, bytes) = ask(&mut engine, Command::Token, &plain(0, 5));
        assert_eq!((done, decisions(&bytes).len()), (Status::Done, 1));
        ask(&mut engine, Command::Reset, &[0; 4]);
        ask(&mut engine, Command::Configure, configuration().as_bytes());
    }
}

#[test]
fn a_request_that_comes_again_gets_all_of_its_decisions_again() {
    let mut engine = ready(&configuration(), &[Vec::new(), Vec::new()]);
    let request = frame(next(&engine, Command::Token as u8), &together(&[plain(0, 1), plain(1, 2), plain(0, 3)]));
    let first = answer(&mut engine, &request);
    let before = known(&mut engine);
    assert_eq!(answer(&mut engine, &request), first);
    assert!(known(&mut engine) == before);
    assert_eq!((decisions(&first.1).len(), engine.repeated), (3, 1));
}

#[test]
fn tokens_whose_jobs_nobody_takes_wait() {
    /// Units that are never free.
    struct Never;

    impl ExecutionUnits for Never {
        fn submit(&mut self, _: &Job) -> Result<(), Busy> {
            Err(Busy)
        }

        fn poll(&mut self) -> Option<Job> {
            None
        }
    }

    impl Units for Never {}

    let answers = std::vec![0; wire::max_answer_of(E, 16)].leak();
    let mut engine = Engine::new(std::vec![Layer::new(); LAYERS].leak(), answers, Never, Uncounted).with_tokens(99);
    ask(&mut engine, Command::Reset, &[0; 4]);
    ask(&mut engine, Command::Configure, configuration().as_bytes());
    // Four jobs each, all cold.
    let all = std::vec![plain(0, 1); 16];
    let mut left = QUEUE / K - 3;
    while left > 0 {
        let request = together(&all[..left.min(16)]);
        left -= decisions(&ask(&mut engine, Command::Token, &request).1).len();
    }
    assert_eq!(decisions(&ask(&mut engine, Command::Token, &together(&all)).1).len(), 3);
    assert_eq!(ask(&mut engine, Command::Token, &plain(0, 1)).0, Status::Busy);
}
