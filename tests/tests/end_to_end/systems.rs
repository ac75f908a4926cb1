//! Whole systems: `cptr run` with a near-data device, `gen`, `inspect --changes` and `--forecast`, `devices` and
//! `reproduce`.

use serde_json::Value;

use crate::command::Folder;
use crate::traces::{bundled, number};

const GPT_OSS: &str = "gpt-oss-20b.safetensors";
const TINY: &str = "tiny-moe-8m.safetensors";
const TINY_SIZES: &str = "--hidden 256 --expert-inner 512";
/// A quarter of the experts in GPU memory, behind a prompt.
const QUARTER: &str = "--system ndp --prefill 512 --resident 8";

#[test]
fn every_system_decodes_a_recording_with_weights() {
    let folder = bundled();
    let names = [
        "raw",
        "hobbit",
        "hobbit-prefetch",
        "d2moe",
        "monde",
        "monde-resident",
        "near-only",
        "best-split",
        "best-split-slack",
        "ctx-aware",
        "ctx-aware-slack",
        "periodic",
        "migrate",
        "foresight",
    ];
    let line = format!("run {GPT_OSS} {QUARTER} --strategy {}", names.join(","));
    let rows = folder.rows(&line);
    let row = |name: &str| rows.iter().find(|row| row["strategy"] == name).unwrap();
    assert_eq!(rows.len(), names.len());
    for row in &rows {
        assert!(number(&row["tokens_per_s"]) > 0.0, "{row:#}");
        for share in ["full_precision", "coverage", "skipped_mass", "miss_rate", "agreement"] {
            assert!((0.0..=1.0 + 1e-9).contains(&number(&row[share])), "{share}: {row:#}");
        }
        let parts = ["stall_rate", "load_rate", "fetch_rate", "migration_rate"].map(|key| number(&row[key]));
        assert!(parts[1] + 1e-9 >= parts[2] + parts[3] && parts.iter().all(|rate| *rate >= 0.0), "{row:#}");
    }
    assert_eq!(number(&row("raw")["ratio_to_raw"]), 1.0);
    assert_eq!(number(&row("ctx-aware")["load_rate"]), 0.0);
    assert!(number(&row("raw")["stall_rate"]) > 0.1);
    assert!(number(&row("hobbit")["skipped_mass"]) > 0.0 && number(&row("hobbit-prefetch")["fetch_rate"]) > 0.0);
    assert_eq!(number(&row("best-split")["full_precision"]), 1.0);
    assert!(number(&row("migrate")["migration_rate"]) > 0.0);
    let text = folder.run(&line).ok().stdout;
    assert!(text.contains("foresight *") && text.contains("sees the future"), "{text}");
    assert!(text.contains("512 tokens of prompt, shown to every strategy alike"), "{text}");
}

#[test]
fn any_axis_goes_with_any_other() {
    let folder = bundled();
    let strategies = "bounded:eps=0.04+migrate+transition+slack+uniform,bounded:eps=0+migrate+transition+slack+uniform,\
                      cache-prior+lfu+previous+in-place+uniform:bits=2";
    let line = format!("run {TINY} {TINY_SIZES} --system ndp --prefill 200 --strategy {strategies}");
    let rows = folder.rows(&line);
    assert!(number(&rows[0]["mass_loss"]) > 0.0 && number(&rows[0]["worst_mass_loss"]) <= 0.04 + 1e-6, "{:#}", rows[0]);
    assert!(number(&rows[0]["coverage"]) > number(&rows[1]["coverage"]));
    assert_eq!(number(&rows[1]["mass_loss"]), 0.0);
    let parts = ["select", "residency", "prefetch", "division", "precision"].map(|key| rows[2][key].as_str().unwrap());
    assert_eq!(parts, ["cache-prior", "lfu", "previous", "in-place", "uniform:bits=2"]);
}

#[test]
fn memory_in_bytes_is_for_all_layers() {
    let folder = bundled();
    // 24 layers of 8 experts of three matrices of 2880 x 2880 at 16 bits.
    let bytes = 24_u64 * 8 * 3 * 2880 * 2880 * 2;
    let run = |resident: &str| {
        folder.rows(&format!("run {GPT_OSS} --prefill 512 --strategy lru,tracked --resident {resident}"))
    };
    let (experts, megabytes) = (run("8"), run(&format!("{}MB", bytes as f64 / 1e6)));
    for (experts, megabytes) in experts.iter().zip(&megabytes) {
        assert_eq!(experts["miss_rate"], megabytes["miss_rate"]);
    }
    let global = run(&format!("{}MB:split=global", bytes as f64 / 1e6));
    assert!((0.0..1.0).contains(&number(&global[0]["miss_rate"])));
    let refusal = folder.refusal(&format!("run {GPT_OSS} --strategy lru --resident 8GB:split=global"));
    assert!(refusal.contains("--prefill"), "{refusal}");
}

#[test]
fn joined_domains_change_where_they_should() {
    let folder = bundled();
    folder.run(&format!("gen --join {TINY}#rust,{TINY}#kjv --segment 300 joined.safetensors")).ok();
    let seen = folder.rows("inspect joined.safetensors --changes --threshold 20");
    let changes: Vec<u64> = seen.iter().map(|row| row["changes"].as_u64().unwrap()).collect();
    // 768 tokens of each in the bundled part: two segments of each.
    assert!(changes.iter().all(|&count| count == changes[0] && count >= 1), "{seen:#?}");
    let line = format!(
        "run joined.safetensors {TINY_SIZES} --prefill 200 --system ndp --strategy ctx-aware,migrate,foresight"
    );
    for row in folder.rows(&line) {
        assert!(number(&row["after_change"]["tokens_per_s"]) > 0.0, "{row:#}");
    }
    folder.run(&format!("gen --join {TINY}#rust,{TINY}#kjv --segment 100 --segments 2 two.safetensors")).ok();
    assert_eq!(folder.row("inspect two.safetensors")["tokens"], 200);
}

#[test]
fn contexts_that_alternate_every_few_tokens_do_not_thrash() {
    let folder = bundled();
    for segment in [2, 7] {
        folder.run(&format!("gen --join {TINY}#rust,{TINY}#kjv --segment {segment} joined.safetensors")).ok();
        let rows = folder.rows(&format!(
            "run joined.safetensors {TINY_SIZES} --prefill 128 --system ndp --resident 8 --strategy migrate:rate=0.05,near-only"
        ));
        let steps = number(&folder.row("inspect joined.safetensors")["tokens"]) - 128.0;
        let limit = 0.05 + 0.5 * 8.0 * 4.0 / steps;
        assert!(number(&rows[0]["loads_per_token"]) <= limit, "{:#}", rows[0]);
        assert!(number(&rows[0]["tokens_per_s"]) >= number(&rows[1]["tokens_per_s"]), "{rows:#?}");
    }
}

#[test]
fn imitations_are_checked_against_what_is_published() {
    let folder = Folder::new();
    let checks = folder.rows("gen --like mixtral-8x7b --prefill 128 --tokens 4096 --seed 3 m.safetensors");
    assert_eq!(checks.len(), 32);
    for check in &checks {
        for (found, published) in [("same_first", "same_first_published"), ("shared", "shared_published")] {
            assert!((number(&check[found]) - number(&check[published])).abs() < 0.04, "{check}");
        }
    }
    let line = "run m.safetensors --prefill 128 --resident 4 --system ndp --strategy monde:hot=1,ctx-aware+mean:bits=3";
    let rows = folder.rows(line);
    assert!(number(&rows[1]["tokens_per_s"]) > number(&rows[0]["tokens_per_s"]));
    let predicted = folder.row("inspect m.safetensors --forecast --prefill 128 --resident 4");
    assert!((0.8..1.0).contains(&number(&predicted["cosine"])), "{predicted}");
}

#[test]
fn measured_losses_give_a_column() {
    let folder = bundled();
    let lines = (0..24 * 32 * 4).map(|i| {
        let (expert, bits) = (i / 4, i % 4 + 1);
        format!("{},{},{bits},{}\n", expert / 32, expert % 32, 0.25_f64.powi(bits))
    });
    folder.file("alike.csv", "layer,expert,bits,loss\n".to_owned() + &lines.collect::<String>());
    let run = |losses: &str| {
        folder.rows(&format!("run {GPT_OSS} {QUARTER} --strategy ctx-aware+uniform:bits=3,near-only:bits=3 {losses}"))
    };
    assert_eq!(run("")[0]["quantisation_loss"], Value::Null);
    // What is not at full precision runs at 3 bits, where every expert loses the same.
    for row in run("--losses alike.csv") {
        let expected = (1.0 - number(&row["full_precision"])) * 0.25_f64.powi(3);
        assert!((number(&row["quantisation_loss"]) - expected).abs() < 1e-6, "{row:#}");
    }
}

#[test]
fn replicas_balance_several_devices() {
    let folder = bundled();
    let rows = folder.rows(&format!("devices {GPT_OSS} --devices 4"));
    let layer_us = |layout: &str| {
        let row = rows.iter().find(|row| row["layout"] == layout).unwrap();
        number(&row["layer_us"])
    };
    assert!(layer_us("overflow") < layer_us("balanced") && layer_us("balanced") <= layer_us("round-robin") * 1.05);
    assert!(folder.run(&format!("devices {GPT_OSS} --homes affinity")).ok().stdout.contains("affinity"));
}

#[test]
fn refusals_have_the_numbers() {
    let folder = bundled();
    for (arguments, part) in [
        (format!("run {GPT_OSS} --resident 33"), "expected 1 to 32 experts per layer, found 33"),
        (format!("run {GPT_OSS} --batch 5000"), "expected 1 to 1024 sequences, found 5000"),
        (format!("run {GPT_OSS} --prefill 100000"), "--prefill: expected at most"),
        (
            format!("run {GPT_OSS} --strategy migrate"),
            "residency migrate needs a near-data device, and machine offload has none",
        ),
        (format!("run {GPT_OSS} --strategy best"), "expected a strategy (raw, lru, "),
        (format!("run {GPT_OSS} --strategy migrate:rate=-1"), "found \"-1\""),
        (format!("run {GPT_OSS} --losses {TINY}"), TINY),
        (format!("run {GPT_OSS} --losses none.csv"), "none.csv: "),
        (format!("devices {GPT_OSS} --devices 33"), "expected 1 to 32, found 33"),
        (format!("devices {GPT_OSS} --homes nowhere"), "expected a layout (round-robin"),
        (format!("devices {GPT_OSS} --model nameless"), "expected one whose sizes are known"),
        (format!("gen --join {TINY}#rust out.safetensors"), "expected at least two traces"),
        (format!("gen --join {TINY}#rust,{TINY}#none out.safetensors"), "found \"none\""),
        (
            format!("gen --join {TINY}#rust,{GPT_OSS} --segment 100 out.safetensors"),
            "expected 4 layers x 32 experts, top-4",
        ),
        ("gen out.safetensors".into(), "--join"),
        ("gen --like llama out.safetensors".into(), "expected one of mixtral-8x7b, mixtral-8x22b"),
        (format!("inspect {GPT_OSS} --forecast --resident 40"), "expected 1 to 32 experts per layer, found 40"),
        ("reproduce nothing".into(), "expected ctx-aware or cptr, found \"nothing\""),
    ] {
        let sentence = folder.refusal(&arguments);
        assert!(sentence.contains(part), "cptr {arguments}: {sentence}");
    }
}
