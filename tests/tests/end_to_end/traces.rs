//! `inspect`, `run` and `convert` on the bundled traces and on a recording of every format.

use std::path::Path;

use serde_json::{Value, json};

use crate::command::Folder;
use crate::samples::{self, EXPERTS, K, Keeps, LAYERS, Routing, SAMPLES, TOKENS};

/// Copies of the traces that come with the program.
pub(crate) const BUNDLED: [&str; 2] = ["tiny-moe-8m.safetensors", "gpt-oss-20b.safetensors"];

const INSPECT_KEYS: &[&str] = &[
    "tokens",
    "layers",
    "experts",
    "k",
    "switch_rate",
    "switch_rate_memoryless",
    "switch_rate_lowest",
    "switch_rate_highest",
    "switch_rate_by_layer",
    "overlap_by_lag",
    "reuse",
    "cache",
    "locality",
    "phases",
    "warnings",
    "notes",
];
/// What rows of `cptr run` are promised to have.
const RUN_KEYS: &[&str] = &[
    "strategy",
    "select",
    "residency",
    "prefetch",
    "division",
    "precision",
    "stall_rate",
    "miss_rate",
    "load_rate",
    "fetch_rate",
    "migration_rate",
    "switch_rate",
    "mass_loss",
    "worst_mass_loss",
    "agreement",
    "token_time_us",
    "token_time_p50_us",
    "token_time_p95_us",
    "token_time_p99_us",
    "tokens_per_s",
    "ratio_to_raw",
    "gpu_us",
    "link_us",
    "ndp_us",
    "controller_us",
    "energy_uj",
    "full_precision",
    "coverage",
    "mean_near_bits",
    "quantisation_loss",
    "skipped_mass",
    "bound",
    "sees_future",
    "by_layer",
];

pub(crate) fn bundled() -> Folder {
    let folder = Folder::new();
    for name in BUNDLED {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/data").join(name);
        folder.file(name, std::fs::read(path).unwrap());
    }
    folder
}

fn sampled() -> Folder {
    let folder = Folder::new();
    samples::write(&folder);
    folder
}

#[track_caller]
pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("expected a number, found {value}"))
}

#[track_caller]
fn assert_near(found: &Value, expected: f64, what: &str) {
    assert!((number(found) - expected).abs() < 1e-9, "{what}: expected {expected}, found {found}");
}

#[track_caller]
fn assert_keys(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value.get(key).is_some(), "no key {key} in {value}");
    }
}

/// Formats whose samples are files of the trace crate's tests.
const CASES: [(&str, &str); 5] = [
    ("flash-moe", "flash_moe.json"),
    ("sglang", "eplb_LE.json"),
    ("response", "vllm_response.json"),
    ("llama-csv", "moe_trace.csv"),
    ("imatrix", "imatrix.gguf"),
];

#[test]
fn there_is_a_sample_of_every_format() {
    for importer in cptr_trace::import::IMPORTERS {
        let sampled = SAMPLES.iter().any(|sample| sample.format == importer.name());
        let case = CASES.iter().find(|(format, _)| *format == importer.name());
        assert!(sampled || case.is_some(), "{}", importer.name());
        if let Some((format, file)) = case {
            let path = crate::recordings::case(file);
            Folder::new().run(&format!("inspect {} --format {format}", path.display())).ok();
        }
    }
}

#[test]
fn bundled_traces_are_inspected_run_and_converted() {
    let folder = bundled();
    for (name, shape) in BUNDLED.iter().zip([[4, 32, 4], [24, 32, 4]]) {
        let report = folder.row(&format!("inspect {name}"));
        assert_keys(&report, INSPECT_KEYS);
        assert_eq!(["layers", "experts", "k"].map(|key| report[key].as_u64().unwrap()), shape);
        assert!(number(&report["switch_rate"]) < number(&report["switch_rate_memoryless"]), "{name}");
        let line = "--strategy raw,tracked,belady";
        let whole = folder.json(&format!("run {name} {line} --json"));
        assert_keys(&whole, &["schema", "command", "inputs", "rows", "notes"]);
        assert_eq!((&whole["schema"], &whole["command"]), (&"cptr.run/1".into(), &"run".into()));
        assert_eq!(whole["inputs"]["strategy"], json!(["raw", "tracked", "belady"]));
        let rows = whole["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 3);
        rows.iter().for_each(|row| assert_keys(row, RUN_KEYS));
        // Both count the same switches.
        assert_near(&rows[0]["switch_rate"], number(&report["switch_rate"]), name);
        folder.run(&format!("convert {name} again.safetensors")).ok();
        assert_eq!(&folder.rows(&format!("run again.safetensors {line}")), rows, "{name}");
        for text in [folder.run(&format!("inspect {name}")), folder.run(&format!("run {name} --strategy raw"))] {
            assert!(text.ok().stdout.contains('%'));
        }
    }
}

#[test]
fn every_format_says_the_same_of_the_same_routing() {
    let (folder, routing) = (sampled(), Routing::new());
    for sample in SAMPLES.iter().filter(|sample| sample.has_tokens()) {
        let name = sample.source;
        let report = folder.row(&format!("inspect {name} --cache 4"));
        assert_keys(&report, INSPECT_KEYS);
        let shape = ["tokens", "layers", "experts", "k"].map(|key| report[key].as_u64().unwrap() as usize);
        assert_eq!(shape, [TOKENS, LAYERS, EXPERTS, K], "{name}");
        match sample.keeps {
            Keeps::Tokens { starts, .. } => {
                assert_near(&report["switch_rate"], routing.switch_rate(starts), name);
                assert_eq!(report["sequences"], starts.len(), "{name}");
            }
            _ => assert_eq!(report["switch_rate"], Value::Null, "{name}"),
        }
        let row = folder.row(&format!("run {name} --strategy raw --resident 4"));
        assert_eq!(row["agreement"].as_f64(), Some(1.0), "{name}");
        assert_near(&row["miss_rate"], routing.lru_miss_rate(4), name);
        let memoryless = routing.counts(0..TOKENS).iter().map(|layer| memoryless(layer)).sum::<f64>() / LAYERS as f64;
        assert_near(&report["switch_rate_memoryless"], memoryless, name);
        folder.run(&format!("inspect {name}")).ok();
        folder.run(&format!("run {name}")).ok();
    }
}

/// Switch rate of independent draws with the same frequencies.
fn memoryless(layer: &[u64]) -> f64 {
    1.0 - layer.iter().map(|&count| (count as f64 / TOKENS as f64).powi(2)).sum::<f64>() / K as f64
}

#[test]
fn counts_say_what_can_be_said_of_counts() {
    let (folder, routing) = (sampled(), Routing::new());
    for sample in SAMPLES {
        let Keeps::Counts { starts } = sample.keeps else { continue };
        let name = sample.source;
        let report = folder.json(&format!("inspect {name} --json"));
        assert_keys(&report, &["source", "rows", "models", "pairs", "notes", "warnings"]);
        assert_eq!(report["rows"].as_array().unwrap().len(), starts.len(), "{name}");
        let output = folder.run(&format!("run {name} --resident 4 --json")).ok();
        assert!(output.stderr.contains("counts have no token order"), "{name}: {}", output.stderr);
        let rows = output.json()["rows"].as_array().unwrap().clone();
        assert_eq!(rows.len(), starts.len(), "{name}");
        let ends = starts[1..].iter().chain([&TOKENS]);
        for (row, (&start, &end)) in rows.iter().zip(starts.iter().zip(ends)) {
            assert_keys(row, &["table", "select", "residency", "resident", "miss_rate", "miss_rate_uniform"]);
            assert_near(&row["miss_rate"], static_miss_rate(&routing.counts(start..end), 4), name);
            assert_near(&row["miss_rate_uniform"], 0.75, name);
        }
        folder.run(&format!("inspect {name}")).ok();
        folder.run(&format!("run {name}")).ok();
        let message = folder.refusal(&format!("run {name} --domain toy"));
        assert!(message.contains("counts"), "{message}");
    }
}

/// Share of the choices outside the `cache` most frequent experts, mean over layers.
fn static_miss_rate(counts: &[Vec<u64>], cache: usize) -> f64 {
    let missed = counts.iter().map(|layer| {
        let mut sorted = layer.clone();
        sorted.sort_by(|a, b| b.cmp(a));
        sorted[cache..].iter().sum::<u64>() as f64 / sorted.iter().sum::<u64>() as f64
    });
    missed.sum::<f64>() / counts.len() as f64
}

#[test]
fn converted_recordings_run_like_the_originals() {
    let folder = sampled();
    for sample in SAMPLES {
        let name = sample.source;
        let output = folder.run(&format!("convert {name} converted.safetensors")).ok();
        assert!(output.stdout.contains("converted.safetensors"), "{name}: {}", output.stdout);
        let [before, after] =
            [name, "converted.safetensors"].map(|name| folder.rows(&format!("run {name} --resident 4")));
        assert_eq!(before, after, "{name}");
        let [before, after] = [name, "converted.safetensors"].map(|name| {
            let mut rows = folder.rows(&format!("inspect {name}"));
            // Remarks are about the file, and may be more of the original; so is whether the choice was made from
            // logits.
            for key in ["notes", "warnings", "evidence"] {
                rows[0].as_object_mut().unwrap().remove(key);
            }
            rows
        });
        assert_eq!(before, after, "{name}");
        // The native format is a fixed point, and a second run replaces the first file.
        folder.run("convert converted.safetensors again.safetensors").ok();
        assert!(folder.read("converted.safetensors") == folder.read("again.safetensors"), "{name}");
    }
    let known: Vec<_> = folder.contents().into_keys().map(|path| path.file_name().unwrap().to_owned()).collect();
    let written = known.iter().filter(|name| ["converted.safetensors", "again.safetensors"].iter().any(|n| n == name));
    assert_eq!(written.count(), 2);
    assert!(known.iter().all(|name| !name.to_string_lossy().contains(".tmp")), "{known:?}");
}

#[test]
fn models_of_known_size_have_times_and_others_say_what_is_missing() {
    let folder = sampled();
    let output = folder.run("run native.safetensors --strategy raw --json").ok();
    assert!(output.stderr.contains("--hidden and --expert-inner"), "{}", output.stderr);
    assert_eq!(output.json()["rows"][0]["token_time_us"], Value::Null);
    let row = folder.row("run native.safetensors --strategy raw --model gpt-oss-20b");
    assert!(number(&row["token_time_us"]) > 0.0);
    assert_eq!(row["ratio_to_raw"], json!(1.0));
}

/// Every command that has rows says the same in all of its forms.
#[test]
fn rows_are_the_same_in_every_form() {
    let folder = bundled();
    for arguments in [
        "run gpt-oss-20b.safetensors --strategy raw,tracked,ctx-aware --system ndp --tokens 600",
        "inspect tiny-moe-8m.safetensors",
        "inspect tiny-moe-8m.safetensors --changes --threshold 20",
        "inspect tiny-moe-8m.safetensors --forecast --prefill 100",
        "devices gpt-oss-20b.safetensors --tokens 600",
        "layer",
        "budget --bits 2",
    ] {
        let whole = folder.json(&format!("{arguments} --json"));
        let command = arguments.split(' ').next().unwrap();
        assert_eq!((&whole["command"], &whole["schema"]), (&command.into(), &format!("cptr.{command}/1").into()));
        let rows = whole["rows"].as_array().unwrap();
        let csv = folder.run(&format!("{arguments} --csv -")).ok().stdout;
        let csv: Vec<&str> = csv.lines().collect();
        assert_eq!(csv.len(), 1 + rows.len(), "{arguments}");
        // The first column is a name, which is in all forms.
        let key = csv[0].split(',').next().unwrap();
        let text = folder.run(&format!("{arguments} --csv rows.csv --report page.html")).ok().stdout;
        assert_eq!(String::from_utf8(folder.read("rows.csv")).unwrap().lines().collect::<Vec<_>>(), csv);
        let page = String::from_utf8(folder.read("page.html")).unwrap();
        for row in rows {
            let name = row[key].as_str().unwrap_or_else(|| panic!("{arguments}: {key} in {row}"));
            assert!(text.contains(name) && page.contains(name), "{arguments}: {name}");
        }
    }
}
