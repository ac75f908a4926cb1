//! Schemes against each other and against closed forms on small generated traces.
use super::*;
use cptr_trace::LossTable;
use cptr_trace::{Meta, Shape};
use proptest::prelude::*;

/// Two domains of disjoint experts, `segment` tokens each in turn; ids are a fixed shuffle inside the domain's half.
fn alternating(tokens: usize, segment: usize) -> Trace {
    let shape = Shape { tokens, layers: 3, experts: 16, k: 2 };
    let mut ids = Vec::new();
    for token in 0..tokens {
        for layer in 0..shape.layers {
            let half = if (token / segment).is_multiple_of(2) { 0 } else { 8 };
            let first = (token * 7 + layer * 3) % 4;
            let second = 4 + (token * 5 + layer) % 2;
            ids.extend([half + first as u16, half + second as u16]);
        }
    }
    Trace {
        meta: Meta { domains: vec!["a".into(), "b".into()], layer_ids: vec![0, 1, 2], ..Meta::default() },
        domain: (0..tokens).map(|token| (token / segment % 2) as u8).collect(),
        ..Trace::of_ids(shape, ids)
    }
}

fn qwen() -> &'static Model {
    Model::find("Qwen3-30B-A3B").unwrap()
}

fn plan(schemes: &[&str]) -> Plan<'static> {
    Plan {
        schemes: schemes.iter().map(|name| scheme::Named::parse(name).unwrap()).collect(),
        hot: 6,
        prefill: 64,
        batch: 1,
        bits: 4,
        system: System::find("ndp").unwrap(),
        model: qwen(),
        losses: None,
    }
}

fn all() -> Vec<&'static str> {
    scheme::KINDS.iter().map(|kind| kind.name).collect()
}

fn row<'a>(outcome: &'a Outcome, scheme: &str) -> &'a Row {
    outcome.rows.iter().find(|row| row.scheme.starts_with(scheme)).unwrap()
}

#[test]
fn all_near_is_the_closed_form() {
    let trace = alternating(100, 1000);
    let outcome = run(&trace, &plan(&["all-near"])).unwrap();
    let layer = qwen();
    let mut system = System::find("ndp").unwrap().clone();
    system.ndp_bits = 4.0;
    let counts = crate::layer::Counts { cold: 2, ..Default::default() };
    let total_ps = counts.on(&system, |work| system.layer_time(layer, work).total_ps);
    let expected = 1e12 / (3 * total_ps) as f64;
    assert!((outcome.rows[0].tokens_per_s / expected - 1.0).abs() < 1e-9);
    assert_eq!((outcome.rows[0].full_precision, outcome.rows[0].mean_near_bits), (0.0, 4.0));
}

#[test]
fn a_placement_that_covers_all_is_all_gpu_and_never_moves() {
    let trace = alternating(400, 1000);
    let outcome =
        run(&trace, &plan(&["on-demand", "ctx-aware", "cptr:slack=100", "periodic:slack=100", "oracle:slack=100"]))
            .unwrap();
    for row in &outcome.rows {
        assert_eq!((row.full_precision, row.coverage, row.awaited_copies), (1.0, 1.0, 0.0), "{}", row.scheme);
        // The periodic one may exchange experts that nobody wants.
        assert!(row.scheme.starts_with("periodic") || row.hidden_copies == 0.0, "{}", row.scheme);
    }
    let (first, rest) = outcome.rows.split_first().unwrap();
    assert!(rest.iter().all(|row| (row.tokens_per_s / first.tokens_per_s - 1.0).abs() < 0.05), "{:#?}", outcome.rows);
}

#[test]
fn after_a_change_only_those_that_move_recover() {
    let trace = alternating(1600, 800);
    let outcome =
        run(&trace, &plan(&["ctx-aware", "periodic:slack=0.6", "cptr:slack=0.6", "oracle:slack=0.6", "all-near"]))
            .unwrap();
    assert_eq!(outcome.first_change, Some(800 - 64));
    let after = |scheme: &str| row(&outcome, scheme).after_change.unwrap();
    assert_eq!(after("ctx-aware").full_precision, 0.0);
    assert!(after("cptr").full_precision > 0.8, "{:?}", after("cptr"));
    assert!(after("oracle").full_precision >= after("cptr").full_precision);
    assert!(after("cptr").full_precision > after("periodic").full_precision);
    assert!(after("cptr").tokens_per_s > 1.05 * after("ctx-aware").tokens_per_s);
    assert_eq!(row(&outcome, "ctx-aware").ratio_to_single, Some(1.0));
}

#[test]
fn copies_stay_under_the_limit_whatever_the_input() {
    for segment in [2, 5, 16, 60] {
        let trace = alternating(1500, segment);
        let outcome = run(&trace, &plan(&["cptr:rate=0.1:burst=0.5", "ctx-aware"])).unwrap();
        let most = 0.1 + 0.5 * 18.0 / outcome.steps as f64;
        assert!(row(&outcome, "cptr").hidden_copies <= most, "{segment}: {:?}", row(&outcome, "cptr"));
    }
}

#[test]
fn every_scheme_runs_any_batch() {
    let trace = alternating(1200, 100);
    for batch in [1, 3, 8] {
        let outcome = run(&trace, &Plan { batch, prefill: 30, ..plan(&all()) }).unwrap();
        assert_eq!(outcome.skipped.len(), 1, "hobbit needs weights");
        for row in &outcome.rows {
            assert!(row.tokens_per_s > 0.0 && row.tokens_per_s.is_finite(), "{}", row.scheme);
            assert!((0.0..=1.0).contains(&row.full_precision) && (0.0..=1.0).contains(&row.link_busy), "{row:?}");
            assert!(row.token_time_p50_us <= row.token_time_p95_us && row.token_time_p95_us <= row.token_time_p99_us);
        }
    }
}

#[test]
fn full_precision_everywhere_is_full_precision() {
    let trace = alternating(300, 50);
    let outcome =
        run(&trace, &Plan { bits: 16, ..plan(&["on-demand", "monde", "monde:hot=1", "best-split"]) }).unwrap();
    assert!(outcome.rows.iter().all(|row| row.full_precision == 1.0));
    // The best of all divisions is not slower than one of them.
    assert!(row(&outcome, "best-split").tokens_per_s >= row(&outcome, "on-demand").tokens_per_s);
}

#[test]
fn refuses_with_the_numbers() {
    let trace = alternating(300, 50);
    let refusal = |plan: Plan<'_>| run(&trace, &plan).unwrap_err().to_string();
    let plan = || plan(&["ctx-aware"]);
    assert!(refusal(Plan { hot: 16, ..plan() }).contains("expected 1 to 15 experts per layer, found 16"));
    assert!(refusal(Plan { bits: 5, ..plan() }).contains("expected 1 to 4, or 16, found 5"));
    assert!(refusal(Plan { prefill: 300, ..plan() }).contains("expected 1 to 299 tokens"));
    let offload = System::find("offload").unwrap();
    assert!(refusal(Plan { system: offload, ..plan() }).contains("expected a machine with a near-data device"));
    let huge = Model::new("huge", 1 << 15, 1 << 17);
    let text = refusal(Plan { model: &huge, ..plan() });
    assert!(text.contains("fit the 80 GB of H100") && text.contains("GB for 6 of 16"), "{text}");
    let wide = Model::new("wide", 1 << 14, 1 << 17);
    let text = refusal(Plan { model: &wide, hot: 1, ..plan() });
    assert!(text.contains("expected a device for") && text.contains("found 512.0 GB"), "{text}");
    let table = |layers: usize, bits: &[u8]| {
        let losses = (0..layers * 16).flat_map(|_| bits.iter().map(|&bits| 0.25_f64.powi(bits.into()))).collect();
        LossTable::new(layers, 16, bits, losses).unwrap()
    };
    let losses = table(2, &[1, 2, 3, 4]);
    assert!(refusal(Plan { losses: Some(&losses), ..plan() }).contains("expected 3 layers of 16 experts"));
    let losses = table(3, &[2, 3, 4]);
    assert!(refusal(Plan { losses: Some(&losses), ..plan() }).contains("at 1, 2, 3 and 4 bits, found [2, 3, 4]"));
}

#[test]
fn the_selector_loses_less_and_a_wrong_table_makes_it_lose_more() {
    // Four experts are wanted by a quarter of the tokens each and lose a thousand times as much as the twelve others.
    let ids = (0..600 * 3).flat_map(|i| [i / 3 % 4, 4 + i / 3 % 12]).collect();
    let trace = Trace::of_ids(Shape { tokens: 600, layers: 3, experts: 16, k: 2 }, ids);
    let table = |weight: fn(u32) -> f64| {
        let losses = (0..48).flat_map(|i| (1..5).map(move |bits| weight(i % 16) * 0.25_f64.powi(bits)));
        LossTable::new(3, 16, &[1, 2, 3, 4], losses.collect()).unwrap()
    };
    let table = table(|expert| if expert < 4 { 1000.0 } else { 1.0 });
    let schemes = ["ctx-aware", "ctx-aware:selector=0", "ctx-aware:noise=3", "all-near"];
    let outcome = run(&trace, &Plan { hot: 1, bits: 2, losses: Some(&table), ..plan(&schemes) }).unwrap();
    let loss: Vec<f64> = outcome.rows.iter().map(|row| row.loss.unwrap()).collect();
    assert!(loss[0] < loss[1] / 4.0 && loss[0] < loss[2] && loss[1] < loss[3], "{loss:?}");
    // One of a token's two choices is lost a thousand times as much: the closed form of two bits for all.
    assert!((loss[3] - (1000.0 + 1.0) / 2.0 / 16.0).abs() < 1e-9, "{loss:?}");
}

#[test]
fn nested_bits_copy_only_what_is_missing() {
    // Six experts of 16 bits are 96 planes: all 16 experts at 4 bits and 32 planes to spare.
    let trace = alternating(400, 50);
    let schemes = ["d2moe", "d2moe:low=4"];
    let outcome = run(&trace, &plan(&schemes)).unwrap();
    assert!(outcome.rows.iter().all(|row| row.full_precision == 0.0 && row.coverage == 1.0));
    assert!(outcome.rows.iter().all(|row| row.awaited_copies == 0.0), "all fit");
    let tight = run(&trace, &Plan { hot: 1, ..plan(&schemes) }).unwrap();
    assert!(tight.rows.iter().all(|row| row.awaited_copies > 0.0));
    // Copying the planes that are missing takes less time than copying whole experts at the most bits.
    assert!(tight.rows[0].tokens_per_s > tight.rows[1].tokens_per_s);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever the trace: shares are shares, nobody beats running everything that is covered, and the single migration never moves.
    #[test]
    fn sums_are_consistent(seed in prop::collection::vec(0u16..16, 120), hot in 1usize..16, bits in 1u8..5) {
        let mut trace = alternating(120, 1000);
        for (token, &shift) in seed.iter().enumerate() {
            for layer in 0..3 {
                let first = (token * 3 + layer) * 2;
                trace.ids[first] = shift;
                trace.ids[first + 1] = (shift + 1 + (token % 7) as u16) % 16;
            }
        }
        let schemes = ["on-demand", "all-near", "ctx-aware", "periodic:interval=20", "cptr", "oracle"];
        let outcome = run(&trace, &Plan { hot, bits, prefill: 16, ..plan(&schemes) }).unwrap();
        for row in &outcome.rows {
            prop_assert!(row.full_precision <= 1.0 + 1e-9 && row.coverage <= 1.0 + 1e-9);
            prop_assert!(row.gpu_busy <= 1.0 && row.ndp_busy <= 1.0, "{row:?}");
            if row.scheme != "on-demand" {
                prop_assert!(row.full_precision <= row.coverage + 1e-9, "{row:?}");
                prop_assert_eq!(row.awaited_copies, 0.0);
            }
        }
        prop_assert_eq!(row(&outcome, "ctx-aware").hidden_copies, 0.0);
        prop_assert!(row(&outcome, "ctx-aware").mean_near_bits <= 4.0);
    }
}
