//! The command from outside, on the bundled model: as `cptr run` has it, as llama.cpp has it, and on damaged files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value as Json;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Strategies whose figures must be those of `cptr run`: the raw router, bounds on the loss, and that on the error.
const STRATEGIES: &str = "raw,bounded:eps=0,bounded:eps=0.02,bounded:eps=0.04,bounded:eps=0.08,\
bounded:eps=0.3:error=0.04";

fn llama(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cptr-llama")).args(arguments).output().unwrap()
}

fn json(output: &Output) -> Json {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `cptr` with models: that of `CPTR`, or built here.
fn cptr() -> &'static Path {
    static CPTR: OnceLock<PathBuf> = OnceLock::new();
    CPTR.get_or_init(|| {
        if let Some(path) = std::env::var_os("CPTR") {
            return path.into();
        }
        let target = PathBuf::from(ROOT).join("target");
        let build = ["build", "--release", "--package", "cptr-cli", "--features", "model", "--target-dir"];
        // This workspace's flags are for llama.cpp.
        let status = Command::new(env!("CARGO")).args(build).arg(&target).current_dir(ROOT).status().unwrap();
        assert!(status.success());
        target.join("release/cptr")
    })
}

/// The bundled model as a GGUF file.
fn model() -> &'static str {
    static MODEL: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    let make = || {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("tiny.gguf").to_string_lossy().into_owned();
        json(&llama(&["convert", "--out", &path, "--json"]));
        (folder, path)
    };
    &MODEL.get_or_init(make).1
}

fn number(row: &Json, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("{key} in {row}"))
}

/// Perplexity to a millionth (two at the loosest bound) with f32 weights and cache, misses to a hundredth of a point,
/// for every strategy, over all of the held-out text.
#[test]
fn figures_are_those_of_cptr_run() {
    let ours = json(&llama(&["eval", model(), "--strategy", STRATEGIES, "--threads", "1", "--json"]));
    let theirs = Command::new(cptr()).args(["run", "--strategy", STRATEGIES, "--json"]).output().unwrap();
    let theirs = json(&theirs);
    let (ours, theirs) = (ours["rows"].as_array().unwrap(), theirs["rows"].as_array().unwrap());
    assert_eq!((ours.len(), theirs.len()), (6, 6));
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(ours["strategy"], theirs["strategy"]);
        let ratio = number(ours, "perplexity") / number(theirs, "perplexity");
        // Two programs round differently: a few of 720,288 choices fall on the other side of a tie, and what is
        // resident, and with this bound the text behind it, follows.
        let most = if ours["strategy"] == "bounded:eps=0.08" { 2e-6 } else { 1e-6 };
        assert!((ratio - 1.0).abs() < most, "{}: {ratio}", ours["strategy"]);
        for key in ["miss_rate", "stall_rate", "load_rate", "mass_loss"] {
            let difference = number(ours, key) - number(theirs, key);
            assert!(difference.abs() < 1e-4, "{} {key}: {difference}", ours["strategy"]);
        }
        let difference = number(ours, "divergence") - number(theirs, "divergence");
        assert!(difference.abs() < 1e-6, "{}: {difference}", ours["strategy"]);
    }
    // A test that cannot fail is none: the strategies are far from each other.
    assert!(number(&ours[0], "miss_rate") > 1.5 * number(&ours[4], "miss_rate"));
}

/// At a bound of 0 every memory gives the text of llama.cpp alone, greedy and drawn.
#[test]
fn nothing_lost_is_the_same_text() {
    for extra in [&["--temperature", "0"][..], &["--temperature", "1", "--seed", "3"]] {
        for resident in ["4", "8", "31"] {
            let arguments = ["generate", model(), "--strategy", "raw,bounded:eps=0,recall+recall-fetch", "--resident"];
            let more = [resident, "--tokens", "48", "--threads", "1", "--json", "--prompt", "The function returns"];
            let found = json(&llama(&[&arguments[..], &more, extra].concat()));
            let rows = found["rows"].as_array().unwrap();
            assert_eq!(rows.len(), 4);
            for row in &rows[1..] {
                assert_eq!(row["text"], rows[0]["text"], "{}", row["strategy"]);
                assert!(row["identical"] == true && number(row, "divergence") < 1e-9, "{row}");
            }
        }
    }
}

/// The same with experts that are read from the drive, or copied from host memory, in any memory.
#[cfg(target_os = "linux")]
#[test]
fn nothing_lost_is_the_same_text_in_bounded_memory() {
    for memory in [
        &["--offload", "4"][..],
        &["--offload", "13"],
        &["--offload", "3MB"],
        &["--gpu-memory", "4"],
        &["--gpu-memory", "13", "--link", "2.5"],
        &["--gpu-memory", "3MB", "--link", "0.5", "--readers", "3"],
    ] {
        let arguments = ["generate", model(), "--strategy", "raw,bounded:eps=0,recall+recall-fetch"];
        let more = ["--tokens", "48", "--threads", "1", "--json", "--prompt", "The function returns"];
        let found = json(&llama(&[&arguments[..], memory, &more].concat()));
        let rows = found["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 4);
        for row in &rows[1..] {
            assert!(row["identical"] == true && number(row, "read_mb") > 1.0, "{row}");
        }
    }
}

/// A file that shrinks under a run ends it with the reason: never wrong text, never a signal.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_shrinks_ends_the_run() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("shrinks.gguf");
    std::fs::copy(model(), &path).unwrap();
    let arguments = ["run", path.to_str().unwrap(), "--offload", "6", "--threads", "1"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_cptr-llama"));
    let command = command.args(arguments).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let maps = format!("/proc/{}/maps", child.id());
    let mapped = || std::fs::read_to_string(&maps).is_ok_and(|maps| maps.contains("shrinks.gguf"));
    // It is mapped when llama.cpp loads it, and no longer when its experts are in memory of their own.
    for wanted in [true, false] {
        while mapped() != wanted {
            assert!(child.try_wait().unwrap().is_none(), "ended before it was asked to");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(length / 3).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("shrinks.gguf: expected as many bytes as when it was opened"), "{text}");
    assert!(output.stdout.is_empty());
}

/// Drift shows where something is lost.
#[test]
fn a_loose_bound_drifts() {
    let arguments =
        ["generate", model(), "--strategy", "bounded:eps=0.3", "--tokens", "64", "--threads", "1", "--json"];
    let found = json(&llama(&arguments));
    let row = &found["rows"][1];
    assert!(number(row, "divergence") > 1e-3 && row["divergence_along"].as_array().unwrap().len() == 64, "{row}");
}

/// What the engine counts while llama.cpp runs in bounded memory is what `cptr run` counts on the trace that was
/// captured of the same text, to the last expert.
#[cfg(target_os = "linux")]
#[test]
fn counts_in_bounded_memory_are_those_of_the_captured_trace() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let trace = folder.path().join("t.safetensors").to_string_lossy().into_owned();
    let text = ["--documents", "3", "--length", "128", "--threads", "1", "--json"];
    json(&llama(&[&["capture", model(), "--f32", "--out", &trace][..], &text].concat()));
    // Without times of a machine, which are measured anew in every run.
    let strategies = "lru,lfu,recall+recall-fetch:gain=off,recall+recall-fetch:most=2:gain=off";
    let theirs = ["run", &trace, "--resident", "8", "--strategy", strategies, "--json"];
    let theirs = json(&Command::new(cptr()).args(theirs).output().unwrap());
    // From the drive, and from host memory.
    for memory in [&["--offload", "8"][..], &["--gpu-memory", "8", "--link", "4"]] {
        let ours = json(&llama(&[&["run", model(), "--strategy", strategies][..], memory, &text].concat()));
        let (ours, theirs) = (ours["rows"].as_array().unwrap(), theirs["rows"].as_array().unwrap());
        assert_eq!(ours.len(), 4);
        for (ours, theirs) in ours.iter().zip(theirs) {
            for key in ["strategy", "stall_rate", "miss_rate", "load_rate", "fetch_rate", "loads_per_token"] {
                assert_eq!(ours[key], theirs[key], "{} {key}", ours["strategy"]);
            }
            assert!(number(ours, "stalls") > 0.0 && number(ours, "held_mb") < 12.0, "{ours}");
        }
    }
}

/// Strategies that see the future are predicted on the machine that was measured, on the tokens that were counted.
#[cfg(target_os = "linux")]
#[test]
fn what_sees_the_future_is_predicted() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let trace = folder.path().join("t.safetensors").to_string_lossy().into_owned();
    let text = ["--documents", "1", "--length", "256", "--threads", "1", "--json"];
    json(&llama(&[&["capture", model(), "--out", &trace][..], &text].concat()));
    let run = ["run", model(), "--offload", "8", "--routing", &trace, "--skip", "64", "--block", "32", "--json"];
    let found = json(&llama(&[&run[..], &["--predict", "lru,belady,belady+perfect:accuracy=1"]].concat()));
    let [measured, lru, belady, perfect] = &found["rows"].as_array().unwrap()[..] else { panic!("{found}") };
    let [measured, own, least, none] = [measured, lru, belady, perfect].map(|row| number(row, "counted_stall_rate"));
    // The same tokens; what is resident before them may differ, as memory fills while the first ones run.
    assert!((own - measured).abs() < 0.01, "{own} {measured}");
    assert!(least < own && none < 0.01, "{least} {own} {none}");
    assert!(lru["tokens_per_s"].is_null() && number(lru, "to_first") == 1.0);
    // Fewer loads, or the same ones earlier, on whatever machine was measured.
    assert!(number(perfect, "to_first") >= number(belady, "to_first") && number(belady, "to_first") >= 1.0, "{found}");
}

/// Every format of cptr beside ggml's, and beside reading.
#[test]
fn kernels_are_timed() {
    let small = ["--rows", "64", "--columns", "256", "--memory", "1", "--turns", "1", "--json"];
    let found = json(&llama(&[&["kernels"][..], &small].concat()));
    let rows = found["rows"].as_array().unwrap();
    let own: Vec<_> = rows.iter().filter(|row| row["kernel"].as_str().unwrap().starts_with("cptr")).collect();
    assert_eq!(own.len(), 10, "{found}");
    for row in rows {
        assert!(["us", "gib_s", "of_reading", "to_plain"].iter().all(|key| number(row, key) > 0.0), "{row}");
    }
}

/// Advice from the model's own routing, and all that it was chosen from, measured behind it.
#[cfg(target_os = "linux")]
#[test]
fn advice_is_checked() {
    let text = ["--documents", "4", "--length", "128", "--threads", "1", "--check", "128", "--block", "32", "--json"];
    let page = json(&llama(&[&["advise", model(), "--offload", "8"][..], &text].concat()));
    let rows = page["rows"].as_array().unwrap();
    assert_eq!(rows.iter().filter(|row| row["advised"] == "yes").count(), 1);
    // With logits there are stand-ins, without a near-data device nothing runs there.
    assert_eq!(rows.len(), 7);
    for row in rows {
        assert!(number(row, "measured_tokens_per_s") > 0.0 && number(row, "error_bar") >= 0.0, "{row}");
    }
    let check = &page["check"];
    assert!(["right", "not told apart", "wrong"].contains(&check["verdict"].as_str().unwrap()), "{check}");
    assert!(number(check, "ratio") > 0.0 && number(check, "error_bar") >= 0.0, "{check}");
    let refusal = llama(&["advise", model(), "--offload", "8", "--documents", "1", "--length", "64", "--check", "64"]);
    assert_eq!(refusal.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refusal.stderr).contains("--check: expected fewer than the 64 tokens"));
}

/// Several tokens in one pass with experts in bounded memory: the model's own choice predicts what llama.cpp predicts
/// at the same batches, to the last bit; tokens that choose together load no more than in turn.
#[cfg(target_os = "linux")]
#[test]
fn batches_in_bounded_memory() {
    let text = ["--documents", "2", "--length", "64", "--warm", "0", "--threads", "1", "--compare", "--json"];
    // Memory for 8 experts has room for two tokens in any case.
    for (from, memory, batch, piece) in [
        ("--offload", "8", "2", 2),
        ("--offload", "16", "4", 4),
        ("--offload", "32", "8", 8),
        ("--offload", "8", "16", 2),
        ("--gpu-memory", "16", "4", 4),
    ] {
        let arguments = ["run", model(), from, memory, "--batch", batch, "--eps", "0.08"];
        let found = json(&llama(&[&arguments[..], &text].concat()));
        let [raw, in_turn, joint] = &found["rows"].as_array().unwrap()[..] else { panic!("{found}") };
        assert_eq!((&raw["choice"], &raw["piece"]), (&"raw".into(), &piece.into()));
        assert_eq!((number(raw, "divergence"), number(raw, "mass_loss")), (0.0, 0.0), "{raw}");
        for key in ["distinct", "loads"] {
            assert!(number(joint, key) < number(in_turn, key) && number(in_turn, key) < number(raw, key), "{found}");
        }
        assert!(number(joint, "divergence") > 0.0 && number(joint, "mass_loss") <= 0.08, "{joint}");
        // Four layers of experts of 0.22 MB, and pages that two of them share.
        let held: f64 = memory.parse().unwrap();
        assert!(number(joint, "held_mb") <= 4.0 * (held + 2.0) * 0.23, "{joint}");
    }
    let refused = llama(&["run", model(), "--offload", "3", "--batch", "2"]);
    let sentence = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2));
    assert!(sentence.contains("expected memory for 4 experts of every layer, found 3"), "{sentence}");
}

/// Texts that are read side by side do not see each other, and the model's own choice predicts what llama.cpp predicts
/// of them in the same passes, to the last bit.
#[cfg(target_os = "linux")]
#[test]
fn texts_side_by_side_in_bounded_memory() {
    let text = ["--documents", "3", "--length", "48", "--warm", "0", "--threads", "1", "--compare", "--json"];
    let run = |arguments: &[&str]| json(&llama(&[&["run", model()][..], arguments, &text].concat()));
    let alone = run(&["--offload", "16", "--batch", "1"]);
    // Memory for 8 experts has room for two of the three tokens in any case.
    for (from, memory, piece) in [("--offload", "16", 3), ("--gpu-memory", "12", 3), ("--offload", "8", 2)] {
        let found = run(&[from, memory, "--sequences", "3", "--eps", "0.08"]);
        let [raw, in_turn, joint] = &found["rows"].as_array().unwrap()[..] else { panic!("{found}") };
        assert_eq!((&raw["piece"], number(raw, "tokens")), (&piece.into(), 3.0 * 48.0));
        assert_eq!((number(raw, "divergence"), number(raw, "mass_loss")), (0.0, 0.0), "{raw}");
        let ratio = number(raw, "perplexity") / number(&alone["rows"][0], "perplexity");
        assert!((ratio - 1.0).abs() < 1e-5, "{ratio}");
        for key in ["distinct", "loads"] {
            assert!(number(joint, key) < number(raw, key) && number(in_turn, key) < number(raw, key), "{found}");
        }
        assert!(number(joint, "divergence") > 0.0 && number(joint, "mass_loss") <= 0.08, "{joint}");
    }
}

/// The text that was read is no other one in bounded memory: the same perplexity, to the last bit.
#[cfg(target_os = "linux")]
#[test]
fn bounded_memory_changes_no_bit() {
    let text = ["--documents", "2", "--length", "96", "--threads", "1", "--json"];
    let strategies = ["--strategy", "lru,bounded:eps=0.08,recall+recall-fetch"];
    for memory in ["4", "9"] {
        let found = json(&llama(&[&["run", model(), "--offload", memory][..], &strategies, &text].concat()));
        let resident = ["eval", model(), "--resident", memory];
        let expected = json(&llama(&[&resident[..], &strategies, &text].concat()));
        let (rows, expected) = (found["rows"].as_array().unwrap(), expected["rows"].as_array().unwrap());
        // Token by token and many at a time differ by the rounding of other products.
        for (row, expected) in rows.iter().zip(expected) {
            let ratio = number(row, "perplexity") / number(expected, "perplexity");
            assert!((ratio - 1.0).abs() < 1e-6, "{}: {ratio}", row["strategy"]);
        }
        assert_eq!(rows[0]["perplexity"], rows[2]["perplexity"]);
    }
}

#[test]
fn stats_count_all_choices() {
    let found = json(&llama(&["stats", model(), "--documents", "2", "--length", "100", "--threads", "1", "--json"]));
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    for row in rows {
        let uses: u64 = row["uses"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(uses, 2 * 100 * 4);
    }
}

/// Bad input is one sentence and exit code 2, and nothing is left half-written.
#[test]
fn bad_input_is_one_sentence() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_string_lossy().into_owned()
    };
    let good = std::fs::read(model()).unwrap();
    let at = |needle: &[u8]| good.windows(needle.len()).position(|part| part == needle).unwrap();
    // The key of the number of experts under another name; a tensor of a type that nobody knows.
    let mut without = good.clone();
    without[at(b"olmoe.expert_count")..][..18].copy_from_slice(b"olmoe.expert_xount");
    let mut unknown = good.clone();
    unknown[at(b"token_embd.weight") + 17 + 4 + 16..][..4].copy_from_slice(&99_u32.to_le_bytes());
    let (model, out) = (model(), folder.path().join("out.safetensors").to_string_lossy().into_owned());
    for (arguments, says) in [
        (vec!["eval", "nothing.gguf"], "No such file"),
        (vec!["eval", &file("a.gguf", b"")], "GGUF"),
        (vec!["eval", &file("b.gguf", b"GGUF and then text")], "GGUF"),
        (vec!["eval", &file("c.gguf", &good[..1000])], "GGUF"),
        (vec!["eval", &file("d.gguf", &good[..good.len() / 2])], "truncated"),
        (vec!["capture", &file("e.gguf", &good[..good.len() - 40]), "--out", &out], "truncated"),
        (vec!["eval", &file("f.gguf", &without)], "expected a model with experts"),
        (vec!["eval", &file("g.gguf", &unknown)], "type"),
        (vec!["eval", model, "--strategy", "nothing"], "nothing"),
        (vec!["eval", model, "--strategy", "drop"], "as many experts"),
        (vec!["eval", model, "--strategy", "belady"], "belady"),
        (vec!["eval", model, "--resident", "33"], "expected 1 to 32 experts"),
        (vec!["eval", model, "--text", "nothing.txt"], "No such file"),
        (vec!["generate", model, "--temperature=-1"], "--temperature"),
        (vec!["make", "--like", "nothing", "--out", &out], "expected one of"),
        (vec!["convert", "nothing", "--out", &out], "No such file"),
        (vec!["capture", model, "--documents", "1", "--out", "/proc/nothing/x"], "/proc/nothing/x"),
        #[cfg(target_os = "linux")]
        (vec!["run", model], "--gpu-memory"),
        #[cfg(target_os = "linux")]
        (vec!["run", model, "--offload", "8", "--predict", "belady"], "--routing"),
        #[cfg(target_os = "linux")]
        (vec!["run", model, "--offload", "8", "--gpu-memory", "4"], "cannot be used with"),
        #[cfg(target_os = "linux")]
        (vec!["run", model, "--offload", "8", "--link", "4"], "--gpu-memory"),
        #[cfg(target_os = "linux")]
        (vec!["run", model, "--gpu-memory", "33"], "expected 1 to 32 experts"),
        (vec!["generate", model, "--gpu-memory", "4", "--link", "0"], "expected GB/s"),
        (vec!["generate", model, "--gpu-memory", "4", "--resident", "4"], "cannot be used with"),
    ] {
        let output = llama(&arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.starts_with("cptr-llama: ") && text.contains(says), "{arguments:?}: {text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        assert!(output.stdout.is_empty());
    }
    assert!(!Path::new(&out).exists());
}
