//! `cptr advise`.

use crate::plan::compare_blocks;
use crate::traces::{bundled, number};

#[test]
fn what_the_chapter_shows_is_what_is_printed() {
    assert!(compare_blocks(include_str!("../../../docs/advise.md")) >= 2);
}

/// What is advised is as fast as the best that loses nothing, to the share that is taken to be the same; times are
/// those of `cptr run`.
#[test]
fn the_advice_follows_from_what_runs() {
    let folder = bundled();
    for line in ["gpt-oss-20b.safetensors --system laptop", "tiny-moe-8m.safetensors --tokens 2000"] {
        let page = folder.json(&format!("advise {line} --json"));
        let rows = page["rows"].as_array().unwrap();
        let lossless = || rows.iter().filter(|row| row["kind"] != "substitute");
        let fastest = lossless().map(|row| number(&row["token_us"])).fold(f64::INFINITY, f64::min);
        let advised = rows.iter().find(|row| row["advised"] == true).unwrap();
        assert!(number(&advised["token_us"]) <= fastest * 1.02 + 1e-9, "{page:#}");
        assert!(page["advice"].as_array().unwrap().len() >= 3 && page["sure"].is_boolean());
        let tokens = if line.contains("tiny") { 2000 } else { 3884 };
        let strategy = advised["strategy"].as_str().unwrap();
        let run = folder.rows(&format!("run {line} --prefill {} --strategy {strategy}", tokens / 4));
        let found = run.iter().find(|row| row["strategy"] == strategy).unwrap_or(&run[0]);
        assert!((number(&found["token_time_us"]) / number(&advised["token_us"]) - 1.0).abs() < 1e-9);
    }
}

pub(crate) fn data(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/data").join(name);
    path.to_string_lossy().into_owned()
}

/// A checkpoint is run on the text, and what is advised is what its recording says.
#[test]
fn a_checkpoint_reads_ones_own_text() {
    let folder = bundled();
    let [model, text] = ["model", "held-out/c/00-libtest-lib1564-c.txt"].map(data);
    let page = folder.json(&format!("advise {model} --text {text} --context 256 --json"));
    folder.run(&format!("capture {model} --text {text} --context 256 --out t.safetensors")).ok();
    let again = folder.json(&format!("advise t.safetensors --config {model}/config.json --json"));
    assert_eq!((&page["rows"], &page["advice"]), (&again["rows"], &again["advice"]));
}

/// The rate is within a band, which is wider the less is known; more misses on a slower link are the slower machine's.
#[test]
fn every_rate_has_the_band_of_the_plan() {
    let folder = bundled();
    for system in ["offload", "workstation"] {
        let page = folder.json(&format!("advise gpt-oss-20b.safetensors --resident 8 --system {system} --json"));
        for row in page["rows"].as_array().unwrap() {
            let [low, rate, high] =
                ["low_tokens_per_s", "tokens_per_s", "high_tokens_per_s"].map(|name| number(&row[name]));
            assert!(0.0 < low && low < 0.95 * rate && high > 1.01 * rate, "{row}");
        }
        let advised = page["rows"].as_array().unwrap().iter().find(|row| row["advised"] == true).unwrap();
        let band = ["low_tokens_per_s", "high_tokens_per_s"].map(|name| format!("{:.1}", number(&advised[name])));
        assert!(page["advice"][0].as_str().unwrap().ends_with(&format!("({} to {}).", band[0], band[1])), "{page:#}");
    }
}

/// With experts on a drive, which is measured, times are those of a link that copies as fast.
#[cfg(target_os = "linux")]
#[test]
fn a_drive_is_measured_where_that_is_asked_for() {
    let (folder, weights) = (bundled(), data("model"));
    let line = "tiny-moe-8m.safetensors --tokens 400 --resident 8";
    // Whether this file system has direct reads is not for the command to say.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECT;
    if rustix::fs::open(data("model/model.safetensors"), flags, rustix::fs::Mode::empty()).is_err() {
        let said = folder.refusal(&format!("advise {line} --measure {weights}"));
        assert!(said.contains("expected a file that can be read directly"), "{said}");
        return;
    }
    let page = folder.json(&format!("advise {line} --measure {weights} --json"));
    let drive = &page["drive"];
    assert!(drive["file"].as_str().unwrap().ends_with("model.safetensors"), "{drive}");
    let [low, rate, high, share] =
        ["low_gb_s", "gb_s", "high_gb_s", "copy_efficiency"].map(|name| number(&drive[name]));
    assert!(0.0 < low && low <= rate && rate <= high && number(&drive["reads"]) >= 12.0, "{drive}");
    // 16 GT/s, 16 lanes, 128 of 130 bits; no drive is faster than copies over that.
    let expected = (rate / (16.0 * 16.0 / 8.0 * 128.0 / 130.0)).min(0.787);
    assert!((share / expected - 1.0).abs() < 1e-12, "{drive}");
    for row in page["rows"].as_array().unwrap().iter().filter(|row| row["kind"] != "substitute") {
        let strategy = row["strategy"].as_str().unwrap();
        let system = format!("offload:link.copy_efficiency={share}");
        let run = folder.rows(&format!("run {line} --prefill 100 --strategy {strategy} --system {system}"));
        let found = run.iter().find(|found| found["strategy"] == strategy).unwrap_or(&run[0]);
        assert!((number(&found["token_time_us"]) / number(&row["token_us"]) - 1.0).abs() < 1e-9, "{row}");
    }
}

#[test]
fn what_cannot_be_advised_is_refused() {
    let folder = bundled();
    let said = folder.refusal(&format!("advise {}", data("model")));
    assert!(said.ends_with("model: expected --text for a checkpoint, found none"), "{said}");
    for (line, expected) in [
        ("advise", "<TRACE|CHECKPOINT>"),
        ("advise gpt-oss-20b.safetensors --text held-out/c", "expected no --text for a recording, found some"),
        ("advise none.npz", "none.npz"),
        ("advise gpt-oss-20b.safetensors --tokens 10", "expected 16 tokens at least, found 10"),
        ("advise gpt-oss-20b.safetensors --resident 99", "expected 1 to 32 experts per layer, found 99"),
        ("advise gpt-oss-20b.safetensors --system moon", "expected a file ending in .toml"),
        ("advise gpt-oss-20b.safetensors --measure", "--measure: expected a file of weights beside a recording"),
        ("advise gpt-oss-20b.safetensors --measure none.gguf", "none.gguf"),
        ("advise gpt-oss-20b.safetensors --system ndp --measure none.gguf", "that copies experts to its GPU"),
    ] {
        let found = folder.refusal(line);
        assert!(found.contains(expected), "cptr {line}: {found}");
    }
}
