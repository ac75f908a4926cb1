//! Recordings that went wrong once, through the public interface. The files of `tests/cases` were built for this
//! project after public descriptions of the formats.

use std::path::{Path, PathBuf};

use cptr_trace::array::FloatArray;
use cptr_trace::counts::Counts;
use cptr_trace::error::{Kind, MAX_MESSAGE};
use cptr_trace::import::{Options, Recording, read};
use cptr_trace::statistics::{self, inspect};
use cptr_trace::{Evidence, Phase, Shape, Trace};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name)
}

fn trace_with(name: &str, options: &Options) -> Trace {
    match read(&case(name), options).unwrap_or_else(|error| panic!("{name}: {error}")) {
        Recording::Tokens(trace) => trace,
        Recording::Counts(_) => panic!("{name}: counts"),
    }
}

fn trace(name: &str) -> Trace {
    trace_with(name, &Options::default())
}

fn counts(name: &str) -> Counts {
    match read(&case(name), &Options::default()).unwrap_or_else(|error| panic!("{name}: {error}")) {
        Recording::Counts(counts) => counts,
        Recording::Tokens(_) => panic!("{name}: a trace"),
    }
}

fn has_note(trace: &Trace, part: &str) -> bool {
    trace.notes.iter().any(|note| note.contains(part))
}

/// Share of the choices that a cache with `slots` per layer misses.
fn lru_misses(trace: &Trace, slots: usize) -> f64 {
    let report = inspect(trace, &statistics::Options { cache_sizes: vec![slots] });
    1.0 - report.cache[0].lru
}

#[test]
fn every_recording_is_read_as_what_it_is() {
    // Name, tokens, layers, experts, k, sequences, tokens of the prompt.
    let cases = [
        ("vllm_without_profiling.jsonl", 200, 1, 60, 4, 200, 200),
        ("vllm_profiling.jsonl", 200, 1, 60, 4, 200, 200),
        ("vllm_split.npz", 400, 4, 32, 4, 1, 100),
        ("vllm_unset.npz", 390, 4, 32, 4, 2, 390),
        ("vllm_response.json", 400, 4, 32, 4, 1, 100),
        ("sglang_response.json", 400, 4, 32, 4, 1, 100),
        ("expert_distribution_recorder_1700000000.5_0.pt", 400, 4, 32, 4, 1, 400),
        ("hf_LTE.npy", 400, 4, 32, 1, 1, 400),
        ("hf_router_logits.npz", 400, 4, 32, 1, 1, 400),
        ("perlayer12", 60, 12, 32, 1, 1, 60),
        ("moe_trace.csv", 400, 4, 32, 4, 1, 100),
        ("okuvshynov.csv", 400, 4, 32, 4, 1, 400),
        ("nemotron_super_ids.npz", 64, 3, 512, 22, 1, 64),
        ("neginf_masked.npy", 8, 4, 32, 1, 1, 8),
        ("bom.jsonl", 4, 1, 4, 2, 1, 0),
        ("deepseek_v2_grouped.safetensors", 200, 3, 16, 4, 2, 200),
        ("choice_not_top.safetensors", 2000, 1, 16, 2, 1, 2000),
        ("logits_sat.safetensors", 2000, 1, 16, 2, 1, 2000),
    ];
    for (name, tokens, layers, experts, k, sequences, prompt) in cases {
        let trace = trace(name);
        trace.validate().unwrap();
        let found = Shape { experts: trace.shape.experts.max(experts), ..trace.shape };
        assert_eq!(found, Shape { tokens, layers, experts, k }, "{name}: {:?} {:?}", trace.shape, trace.notes);
        assert!(trace.shape.experts + 2 >= experts, "{name}: {}", trace.shape.experts);
        let starts = (0..tokens).filter(|&token| trace.starts_sequence(token)).count();
        assert_eq!(starts, sequences, "{name}");
        assert_eq!(trace.phase.iter().filter(|&&phase| phase == Phase::Prefill).count(), prompt, "{name}");
    }
}

#[test]
fn start_up_rows_are_dropped_unless_asked_for() {
    let (with, without) = (trace("vllm_profiling.jsonl"), trace("vllm_without_profiling.jsonl"));
    assert!(has_note(&with, "The first 800 of 1000 tokens are identical start-up rows"), "{:?}", with.notes);
    assert_eq!(with.ids, without.ids);
    let kept = trace_with("vllm_profiling.jsonl", &Options { keep_startup: true, ..Options::default() });
    assert_eq!(kept.shape.tokens, 1000);
    // Tokens of a log have no order, so that their caches start anew: in one sequence they show what the rows did.
    let as_one = |trace: &Trace| {
        let mut one = trace.clone();
        one.sequence.fill(0);
        lru_misses(&one, 8)
    };
    assert!(as_one(&kept) < 0.4 * as_one(&with), "{} {}", as_one(&kept), as_one(&with));
    assert_eq!(as_one(&with), as_one(&without));
}

#[test]
fn two_records_of_one_request_agree() {
    // The same routing, written by five tools.
    let by_rows = trace("okuvshynov.csv");
    for name in ["moe_trace.csv", "sglang_response.json", "expert_distribution_recorder_1700000000.5_0.pt"] {
        assert_eq!(trace(name).ids, by_rows.ids, "{name}");
    }
    assert_eq!(by_rows.meta.layer_ids, [3, 4, 5, 6]);
    let (split, response) = (trace("vllm_split.npz"), trace("vllm_response.json"));
    assert_eq!(split.position[100..102], [100, 101]);
    assert_eq!(response.position[100..102], [100, 101]);
    let stacked = trace("hf_LTE.npy");
    assert!(has_note(&stacked, "[layers, tokens, experts]"), "{:?}", stacked.notes);
    let by_layer = trace("hf_router_logits.npz");
    let bytes = |trace: &Trace| trace.logits.as_ref().map(FloatArray::le_bytes).map(std::borrow::Cow::into_owned);
    assert_eq!(bytes(&stacked), bytes(&by_layer));
    assert_eq!(trace("perlayer12").meta.layer_ids, (0..12).collect::<Vec<u32>>());
}

#[test]
fn tokens_that_were_not_recorded_are_left_out() {
    let trace = trace("vllm_unset.npz");
    assert!(has_note(&trace, "10 tokens were not recorded (-1)"), "{:?}", trace.notes);
    assert_eq!((trace.position[49], trace.position[50], trace.sequence[50]), (49, 60, 1));
}

#[test]
fn counts_are_counts() {
    for (name, sum) in [
        ("eplb_LE.json", 6400),
        ("eplb_LE.pt", 6400),
        ("eplb_SLE.json", 6400),
        ("expert_distribution_recorder_1700000000.5.pt", 6400),
        ("imatrix.gguf", 6400),
    ] {
        let counts = counts(name);
        let table = &counts.tables[0];
        assert_eq!((counts.tables.len(), table.counts.len(), table.counts[0].len()), (1, 4, 32), "{name}");
        assert_eq!(table.counts.iter().flatten().sum::<u64>(), sum, "{name}");
        assert_eq!(table.counts, self::counts("eplb_LE.json").tables[0].counts, "{name}");
    }
}

#[test]
fn null_experts_are_no_experts() {
    let trace = trace_with("zero_experts.npz", &Options { experts: Some(32), ..Options::default() });
    assert_eq!((trace.shape.experts, trace.meta.router.null_experts, trace.scored()), (32, 16, 48));
    let null: usize =
        (0..400).map(|token| (0..4).map(|layer| 4 - trace.chosen(token, layer).len()).sum::<usize>()).sum();
    assert_eq!(null, 232);
    assert!(has_note(&trace, "null experts"), "{:?}", trace.notes);
    let report = inspect(&trace, &statistics::Options::default());
    assert!(report.switching.switch_rate.is_some_and(|rate| (0.0..1.0).contains(&rate)));
    // They survive the native format.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    cptr_trace::native::write(&trace, &path).unwrap();
    assert_eq!(cptr_trace::native::read(&path).unwrap().ids, trace.ids);
    // Without the number, they are experts like others.
    assert_eq!(self::trace("zero_experts.npz").shape.experts, 48);
}

#[test]
fn masked_experts_are_never_chosen() {
    let trace = trace_with("neginf_masked.npy", &Options { top_k: Some(4), ..Options::default() });
    let mut row = [0.0; 32];
    for token in 0..8 {
        trace.logits.as_ref().unwrap().read_row(token, 0, &mut row);
        assert!(trace.chosen(token, 0).iter().all(|&id| row[usize::from(id)].is_finite()));
    }
    let report = inspect(&trace, &statistics::Options::default());
    assert!(report.logits.is_some_and(|logits| logits.standard_deviation.is_finite()));
}

#[test]
fn groups_are_found_out() {
    let trace = trace("deepseek_v2_grouped.safetensors");
    let Evidence { router, stated, inferred, explained, total, .. } = trace.evidence.unwrap();
    assert_eq!((router.to_string().as_str(), stated.to_string().as_str()), ("softmax-all:4:2", "softmax-all"));
    assert!(inferred && trace.bound_promised(), "{:?}", trace.evidence);
    assert_eq!((explained, total), (600, 600));
    assert_eq!(trace.meta.router, router);
    assert!(has_note(
        &trace,
        "The convention softmax-all:4:2 explains all of 600 sets; it is inferred, softmax-all was stated."
    ));
}

#[test]
fn a_choice_that_nothing_explains_has_no_bound() {
    let trace = trace("choice_not_top.safetensors");
    assert!(!trace.bound_promised());
    let evidence = trace.evidence.unwrap();
    assert!(evidence.share() < 0.5 && !evidence.inferred, "{evidence}");
    assert!(has_note(&trace, "no bound on the loss can be promised"), "{:?}", trace.notes);
}

#[test]
fn large_logits_are_brought_into_range() {
    let trace = trace("logits_sat.safetensors");
    assert!(has_note(&trace, "beyond the controller's numbers"), "{:?}", trace.notes);
    let mut row = [0.0; 16];
    trace.logits.as_ref().unwrap().read_row(0, 0, &mut row);
    assert_eq!(row.iter().copied().fold(f32::MIN, f32::max), 0.0);
    assert_eq!((row[0] * 1e6).round(), ((49_518.586_f32 - 79_825.8) * 1e6).round());
    assert_eq!(trace.chosen(0, 0)[0], 10);
}

#[test]
fn foreign_text_is_shown_not_obeyed() {
    let trace = trace("esc.safetensors");
    let meta = &trace.meta;
    let texts = [&meta.model, &meta.source, &meta.domains[0], &trace.notes[0]];
    assert!(texts.iter().all(|text| !text.contains(char::is_control)), "{texts:?}");
    assert!(meta.model.contains("\\u{1b}[2J") && meta.domains[0].contains("red"));
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let options = Options { memory: Some(1 << 28), ..Options::default() };
    for (name, part) in [
        ("lfs.npy", "found a Git LFS pointer"),
        ("zero_axis_L.npy", "at least one value along every axis, found shape [0, 281474976710655, 1]"),
        ("zero_axis_f.npy", "at least one value along every axis"),
        ("bomb_small.npz", "expected arrays that become at most"),
        ("counts_max.safetensors", "expected at most 64 experts per token"),
    ] {
        for options in [&options, &Options::default()] {
            let error = read(&case(name), options).err().unwrap_or_else(|| panic!("{name} is read"));
            assert!(error.to_string().contains(part), "{error}");
            assert!(error.to_string().chars().count() <= MAX_MESSAGE);
            assert_eq!(error.kind(), Kind::Input, "{error}");
        }
    }
}
