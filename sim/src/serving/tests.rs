use proptest::prelude::*;

use cptr_hw_model::{Model, System};

use cptr_trace::{Shape, Trace};

use super::*;
use crate::plan::{Misses, Place, Placed};

fn system() -> System {
    let mut system = System::find("offload").unwrap().clone();
    (system.gpu_bits, system.dense_bits) = (4.0, 8.0);
    system
}

fn on_gpu<'a>(system: &'a System, model: &'a Model) -> StepTimes<'a> {
    StepTimes::new(system, model, Placed::new(Place::Gpu, 1.0, &Misses::typical()))
}

fn qwen() -> &'static Model {
    Model::find("Qwen3-30B-A3B").unwrap()
}

/// One server, one request at a time, all of the same length: waiting as the formula of Pollaczek and Khinchine has it
/// for constant times, rho / (2 (1 - rho)) of a service.
#[test]
fn a_queue_of_one_waits_as_the_closed_form_says() {
    let system = system();
    let steps = on_gpu(&system, qwen());
    let limits = Limits { batch: 1, step_tokens: 64, ..Limits::default() };
    let load = |arrivals, requests| Load { arrivals, requests, prompt: 64, output: 20, seed: 7 };
    let service_us = run(&steps, &load(Arrivals::AtOnce, 1).requests(), &limits).unwrap().request_us.mean;
    for rho in [0.3, 0.6, 0.8] {
        let per_s = rho / service_us * 1e6;
        let served = run(&steps, &load(Arrivals::Poisson { per_s }, 60_000).requests(), &limits).unwrap();
        let expected = service_us * rho / (2.0 * (1.0 - rho));
        assert!((served.queue_us.mean / expected - 1.0).abs() < 0.05, "{rho}: {} {expected}", served.queue_us.mean);
        assert!((served.busy_share - rho).abs() < 0.02, "{rho}: {}", served.busy_share);
        assert!((served.mean_batch - 1.0).abs() < 1e-9);
    }
}

/// Requests in the system are arrivals per second times seconds in the system (Little), whatever the batch.
#[test]
fn littles_law() {
    let system = system();
    let steps = on_gpu(&system, qwen());
    let load = Load { arrivals: Arrivals::Poisson { per_s: 12.0 }, requests: 4000, prompt: 300, output: 60, seed: 3 };
    let served = run(&steps, &load.requests(), &Limits::default()).unwrap();
    let arriving = served.requests as f64 / served.time_s;
    let in_batch = arriving * (served.request_us.mean - served.queue_us.mean) / 1e6;
    assert!((served.mean_batch * served.busy_share / in_batch - 1.0).abs() < 0.01, "{served:?}");
}

#[test]
fn a_request_alone_is_its_prompt_and_its_tokens() {
    let system = system();
    let steps = on_gpu(&system, qwen());
    let load = Load { arrivals: Arrivals::AtOnce, requests: 1, prompt: 1000, output: 3, seed: 0 };
    let served = run(&steps, &load.requests(), &Limits { step_tokens: 600, ..Limits::default() }).unwrap();
    let first = steps.step_us(Step::read(600), 0.0) + steps.step_us(Step::read(400), 600.0);
    let rest = steps.step_us(Step::decode(1), 1001.0) + steps.step_us(Step::decode(1), 1002.0);
    assert!((served.first_token_us.p50 - first).abs() < 1e-6 && (served.request_us.p50 - first - rest).abs() < 1e-6);
    assert_eq!((served.steps, served.output_tokens), (4, 3));
}

/// Decoding one sequence is the token of a plan, where its misses make no distribution.
#[test]
fn one_token_is_that_of_a_plan() {
    let system = system();
    let question = crate::plan::Question {
        context: 2000,
        bits: vec![4.0],
        ..crate::plan::Question::new(qwen(), Misses::typical())
    };
    let way = question.ways(&system).unwrap().remove(0);
    let steps = on_gpu(&system, qwen());
    assert!(
        (steps.step_us(Step::decode(1), 2000.0) / way.token_us - 1.0).abs() < 1e-6,
        "{} {}",
        steps.step_us(Step::decode(1), 2000.0),
        way.token_us
    );
    // Layers with a window read no more.
    let model = Model::find("gpt-oss-20b").unwrap();
    let steps = on_gpu(&system, model);
    assert!(
        steps.step_us(Step::decode(1), steps.attended(4096)) - steps.step_us(Step::decode(1), 0.0)
            < 0.6 * (4096.0 * model.kv_bytes(1) * 24.0 / 2849.2e3)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// More tokens never take less time, and never more than one after the other; different experts grow to all.
    #[test]
    fn a_batch_shares_weights(tokens in 1_u64..600, more in 1_u64..300, share in 0.1f64..1.0, place in 0_usize..3) {
        let mut system = System::find("ndp").unwrap().clone();
        (system.gpu_bits, system.dense_bits, system.ndp_bits) = (4.0, 8.0, 4.0);
        let place = [Place::Gpu, Place::Copied, Place::NearData][place];
        let share = if place == Place::Gpu { 1.0 } else { share };
        let steps = StepTimes::new(&system, qwen(), Placed::new(place, share, &Misses::typical()));
        let of = |tokens| steps.step_us(Step::decode(tokens), 0.0);
        let (few, many) = (of(tokens), of(tokens + more));
        prop_assert!(many >= few * 0.999, "{few} {many}");
        // Arrays take four tokens of an expert at once: all experts together may need one pass more.
        let most = if place == Place::NearData { 2.0 } else { 1.05 };
        prop_assert!(many <= few + of(more) * most);
        let [there, away] = steps.experts(Step::decode(tokens));
        prop_assert!(there + away <= 128.000_001 && there + away >= 7.99);
    }

    /// Whatever arrives is served, each token once.
    #[test]
    fn all_are_served(
        arrivals in prop::collection::vec((0.0f64..1e6, 1_u64..300, 1_u64..20), 1..40), batch in 1_usize..8,
        preemption in 0_usize..3,
    ) {
        let system = system();
        let steps = on_gpu(&system, qwen());
        let mut arrival_us = 0.0;
        let request = |&(gap, prompt, output): &(f64, u64, u64)| {
            arrival_us += gap;
            Request { arrival_us, prompt, output }
        };
        let requests: Vec<Request> = arrivals.iter().map(request).collect();
        let preemption = [Preemption::Never, Preemption::Recompute, Preemption::Swap][preemption];
        let limits = Limits { batch, step_tokens: 100, kv_tokens: 500, preemption };
        let served = run(&steps, &requests, &limits).unwrap();
        let tokens: u64 = requests.iter().map(|request| request.output).sum();
        prop_assert_eq!(served.output_tokens, tokens);
        prop_assert!(served.mean_batch <= batch as f64 + 1e-9 && served.busy_share <= 1.0 + 1e-9);
        prop_assert!(served.request_us.p99 >= served.first_token_us.p50);
        prop_assert!(served.preemptions == 0 || preemption != Preemption::Never);
        prop_assert_eq!(served.swap_s > 0.0, preemption == Preemption::Swap && served.preemptions > 0);
        prop_assert!(served.recomputed_tokens == 0 || preemption == Preemption::Recompute);
    }
}

/// Two requests of 100 and 50 tokens, and room for 220 tokens: both write ten, then one goes until the other is done.
#[test]
fn a_full_memory_by_hand() {
    let system = system();
    let steps = on_gpu(&system, qwen());
    let load = Load { arrivals: Arrivals::AtOnce, requests: 2, prompt: 100, output: 50, seed: 0 };
    let at = |preemption, kv_tokens| {
        let limits = Limits { batch: 2, step_tokens: 512, kv_tokens, preemption };
        run(&steps, &load.requests(), &limits).unwrap()
    };
    let alone = |context: u64| steps.step_us(Step::decode(1), context as f64);
    let pair = |context: u64| steps.step_us(Step::decode(2), 2.0 * context as f64);
    // Both read their prompts in a step, and write nine tokens more, until 111 of each are wanted.
    let both = steps.step_us(Step { decoding: 0, parts: 2, read: 200 }, 0.0) + (101..=110).map(pair).sum::<f64>();
    let first: f64 = (111..=149).map(alone).sum();
    let rest: f64 = (112..=149).map(alone).sum();
    let recompute = at(Preemption::Recompute, 220);
    assert_eq!((recompute.preemptions, recompute.recomputed_tokens, recompute.swap_s), (1, 110, 0.0));
    let by_hand = both + first + steps.step_us(Step::read(111), 0.0) + rest;
    assert!((recompute.time_s * 1e6 / by_hand - 1.0).abs() < 1e-9, "{} {by_hand}", recompute.time_s * 1e6);
    // The one that had to wait waits for all of the other's tokens, which the percentiles hold.
    assert!(recompute.per_token_us.p99 > first && recompute.per_token_us.p50 < 2.0 * alone(110));
    let swap = at(Preemption::Swap, 220);
    // 111 tokens of 4 heads of 128, keys and values, two bytes each, in 48 layers, at 24.8 GB/s, there and back.
    let swap_us = 2.0 * (111.0 * 2048.0 * 48.0 / 24.8e3 + 1.0);
    assert_eq!((swap.preemptions, swap.recomputed_tokens), (1, 0));
    assert!((swap.swap_s * 1e6 / swap_us - 1.0).abs() < 0.01, "{} {swap_us}", swap.swap_s * 1e6);
    let by_hand = both + first + swap_us + alone(111) + rest;
    assert!((swap.time_s * 1e6 / by_hand - 1.0).abs() < 1e-3, "{} {by_hand}", swap.time_s * 1e6);
    // Where it is not allowed, the second waits outside.
    let never = at(Preemption::Never, 220);
    assert_eq!((never.preemptions, never.mean_batch.round()), (0, 1.0));
    assert!(never.queue_us.p99 > 0.0 && recompute.queue_us.p99 == 0.0);
    // With room for both it is never asked for.
    for preemption in [Preemption::Recompute, Preemption::Swap] {
        let (roomy, whole) = (at(preemption, 400), at(Preemption::Never, 400));
        assert_eq!(roomy, whole);
    }
}

/// Where memory holds a full batch nothing is preempted, below that something is.
#[test]
fn memory_for_a_batch_is_enough() {
    let system = system();
    let steps = on_gpu(&system, qwen());
    let load = Load { arrivals: Arrivals::Poisson { per_s: 14.0 }, requests: 400, prompt: 200, output: 200, seed: 5 };
    let at = |kv_tokens| run(&steps, &load.requests(), &Limits { kv_tokens, ..Limits::default() }).unwrap();
    let (little, enough) = (at(3200), at(16 * 400));
    assert!(little.preemptions > 0 && enough.preemptions == 0, "{} {}", little.preemptions, enough.preemptions);
    assert!(little.request_us.mean > enough.request_us.mean);
}

/// Experts that are drawn alike and independently give the formula of those that are.
#[test]
fn independent_tokens_of_a_recording_are_those_of_the_formula() {
    let system = system();
    let mut random = fastrand::Rng::with_seed(4);
    let drawn = |_| random.choose_multiple(0_u16..128, 8);
    let ids: Vec<u16> = (0..6000).flat_map(drawn).collect();
    let together = Together::of(&Trace::of_ids(Shape { tokens: 6000, layers: 1, experts: 128, k: 8 }, ids));
    for tokens in [1, 4, 16, 60] {
        for step in [Step::decode(tokens), Step::read(tokens)] {
            let formula = on_gpu(&system, qwen()).experts(step)[0];
            let counted = on_gpu(&system, qwen()).like(&together, Texts::AllKinds).experts(step)[0];
            assert!((counted / formula - 1.0).abs() < 0.02, "{step:?} {counted} {formula}");
        }
    }
    for row in together.rows() {
        assert!(row.all_kinds_off.is_none_or(|off| off.abs() < 0.03), "{row:?}");
    }
}

/// Two kinds of text, each with experts of its own, and within a text only half of these.
#[test]
fn a_recording_says_how_many_experts_a_batch_runs() {
    let system = system();
    let mut random = fastrand::Rng::with_seed(9);
    // Of 64 texts of 50 tokens the first half wants experts below 64, the second those above.
    let drawn = |token: u16| {
        let (kind, half) = (token / 1600, token / 50 % 2);
        let first = kind * 64 + half * 32;
        random.choose_multiple(first..first + 32, 8)
    };
    let ids: Vec<u16> = (0..3200).flat_map(drawn).collect();
    let mut trace = Trace::of_ids(Shape { tokens: 3200, layers: 1, experts: 128, k: 8 }, ids);
    trace.sequence = (0..3200).map(|token| token / 50).collect();
    trace.position = (0..3200).map(|token| token % 50).collect();
    trace.domain = (0..3200).map(|token| u8::from(token >= 1600)).collect();
    let together = Together::of(&trace);
    let experts = |texts, step| on_gpu(&system, qwen()).like(&together, texts).experts(step)[0];
    let expected = |of: f64, tokens: i32| of * (1.0 - (1.0 - 8.0 / of).powi(tokens));
    let close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 0.03, "{found} {expected}");
    // Tokens of a text share 32 experts.
    close(experts(Texts::AllKinds, Step::read(16)), expected(32.0, 16));
    // Those of different texts of one kind 64, and of all kinds all.
    close(experts(Texts::OneKind, Step::decode(1)), 8.0);
    assert!(experts(Texts::OneKind, Step::decode(16)) <= 64.0);
    assert!(experts(Texts::AllKinds, Step::decode(16)) > 1.4 * experts(Texts::OneKind, Step::decode(16)));
    let row = together.rows().into_iter().find(|row| row.tokens == 16).unwrap();
    let near = |off: Option<f64>, expected: f64| assert!((off.unwrap() - expected).abs() < 0.05, "{row:?}");
    close(row.independent, expected(128.0, 16));
    near(row.one_text_off, row.independent / row.one_text.unwrap() - 1.0);
    near(row.one_text_off, expected(128.0, 16) / expected(32.0, 16) - 1.0);
    // A step of both adds what they run independently of each other.
    let mixed = experts(Texts::OneKind, Step { decoding: 4, parts: 2, read: 20 });
    assert!(mixed > experts(Texts::OneKind, Step::decode(4)) && mixed > experts(Texts::OneKind, Step::read(10)));
    assert!(mixed <= 128.0);
    // Half of them there, an eighth of the choices missing.
    let placed = Placed { place: Place::Copied, resident_share: 0.5, miss_rate: 0.125, strategy: None };
    let [there, away] =
        StepTimes::new(&system, qwen(), placed).like(&together, Texts::AllKinds).experts(Step::decode(1));
    assert!((there - 7.0).abs() < 0.1 && (away - 1.0).abs() < 0.1, "{there} {away}");
}

#[test]
fn what_can_never_be_served_is_refused() {
    let system = system();
    let steps = on_gpu(&system, qwen());
    let one = [Request { arrival_us: 0.0, prompt: 100, output: 10 }];
    let refused = |limits: Limits| run(&steps, &one, &limits).unwrap_err().to_string();
    assert!(refused(Limits { kv_tokens: 100, ..Limits::default() }).contains("a request of 110 tokens"));
    assert!(refused(Limits { step_tokens: 8, ..Limits::default() }).contains("at least one for each of the 16"));
}

#[test]
fn arrivals_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("arrivals.csv");
    let at = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read(&path)
    };
    let found = at("arrival_s,prompt,output\n0,10,2\n0.5, 20, 3\n").unwrap();
    assert_eq!(found[1], Request { arrival_us: 5e5, prompt: 20, output: 3 });
    for (text, expected) in [
        ("", "found none"),
        ("a,b,c\n", "found none"),
        ("0,10\n", "line 1: expected seconds"),
        ("0,0,1\n", "line 1"),
        ("0,10,1\nnan,10,1\n", "line 2"),
        ("1,10,1\n0,10,1\n", "line 2: expected no earlier"),
        ("0,10,99999999999\n", "line 1"),
    ] {
        let error = at(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
