//! `cptr gen`, `decode`, `detect`, `predict` and `reproduce` from the outside.

use serde_json::Value;

use crate::command::Folder;
use crate::traces::{bundled, number};

const GPT_OSS: &str = "gpt-oss-20b.safetensors";
const TINY: &str = "tiny-moe-8m.safetensors";
const TINY_SIZES: &str = "--hidden 256 --expert-inner 512";

fn rows(outcome: &Value) -> &Vec<Value> {
    outcome["rows"].as_array().unwrap()
}

fn row<'a>(outcome: &'a Value, scheme: &str) -> &'a Value {
    let found = rows(outcome).iter().find(|row| row["scheme"].as_str().unwrap().split(':').next() == Some(scheme));
    found.unwrap_or_else(|| panic!("{scheme}: {outcome:#}"))
}

#[test]
fn every_scheme_decodes_a_recording_with_weights() {
    let folder = bundled();
    let outcome = folder.json(&format!("decode {GPT_OSS} --bits 4 --json"));
    let names =
        ["on-demand", "hobbit", "d2moe", "monde", "all-near", "best-split", "ctx-aware", "periodic", "cptr", "oracle"];
    assert_eq!(rows(&outcome).len(), names.len());
    for name in names {
        let row = row(&outcome, name);
        assert!(number(&row["tokens_per_s"]) > 0.0, "{row:#}");
        for share in ["full_precision", "coverage", "link_busy", "ndp_busy", "gpu_busy", "skipped_mass"] {
            assert!((0.0..=1.0 + 1e-9).contains(&number(&row[share])), "{share}: {row:#}");
        }
    }
    assert_eq!(number(&row(&outcome, "ctx-aware")["ratio_to_single"]), 1.0);
    assert_eq!(number(&row(&outcome, "ctx-aware")["hidden_copies"]), 0.0);
    assert!(number(&row(&outcome, "on-demand")["awaited_copies"]) > 1.0);
    assert!(number(&row(&outcome, "hobbit")["skipped_mass"]) > 0.0);
    assert_eq!(number(&row(&outcome, "best-split")["full_precision"]), 1.0);
    let text = folder.run(&format!("decode {GPT_OSS} --bits 4")).ok().stdout;
    assert!(text.contains("oracle *") && text.contains("sees the future"), "{text}");
}

#[test]
fn stand_ins_stay_within_eps() {
    let folder = bundled();
    let command = format!("decode {TINY} {TINY_SIZES} --scheme cptr:eps=0.04,cptr:eps=0,ctx-aware --json");
    let outcome = folder.json(&command);
    let found = &rows(&outcome)[0];
    assert!(number(&found["mass_loss"]) > 0.0 && number(&found["worst_mass_loss"]) <= 0.04 + 1e-6, "{found:#}");
    assert!(number(&found["coverage"]) > number(&rows(&outcome)[1]["coverage"]));
    assert_eq!(number(&rows(&outcome)[1]["mass_loss"]), 0.0);
}

#[test]
fn joined_domains_change_where_they_should() {
    let folder = bundled();
    folder.run(&format!("gen --join {TINY}#rust,{TINY}#kjv --segment 300 joined.safetensors")).ok();
    let seen = folder.json("detect joined.safetensors --threshold 20 --json");
    let changes: Vec<u64> = seen.as_array().unwrap().iter().map(|row| row["changes"].as_u64().unwrap()).collect();
    // 768 tokens of each in the bundled part: two segments of each.
    assert!(changes.iter().all(|&count| count == changes[0] && count >= 1), "{seen:#}");
    let outcome = folder.json(&format!(
        "decode joined.safetensors {TINY_SIZES} --prefill 200 --scheme ctx-aware,cptr,oracle --bits 4 --json"
    ));
    assert_eq!(outcome["first_change"], 100);
    assert!(row(&outcome, "cptr")["after_change"].is_object());
    folder.run(&format!("gen --join {TINY}#rust,{TINY}#kjv --segment 100 --segments 2 two.safetensors")).ok();
    assert_eq!(folder.json("inspect two.safetensors --json")["tokens"], 200);
}

#[test]
fn contexts_that_alternate_every_few_tokens_do_not_thrash() {
    let folder = bundled();
    for segment in [2, 7] {
        folder.run(&format!("gen --join {TINY}#rust,{TINY}#kjv --segment {segment} joined.safetensors")).ok();
        let outcome = folder.json(&format!(
            "decode joined.safetensors {TINY_SIZES} --prefill 128 --bits 4 --scheme cptr:rate=0.05:eps=0,all-near --json"
        ));
        let (ours, none) = (row(&outcome, "cptr"), row(&outcome, "all-near"));
        let steps = number(&outcome["steps"]);
        let limit = 0.05 + 0.5 * 8.0 * 4.0 / steps;
        assert!(number(&ours["hidden_copies"]) <= limit, "{ours:#}");
        assert!(number(&ours["tokens_per_s"]) >= number(&none["tokens_per_s"]), "{outcome:#}");
    }
}

#[test]
fn imitations_are_checked_against_what_is_published() {
    let folder = Folder::new();
    let checks = folder.json("gen --like mixtral-8x7b --prefill 128 --tokens 4096 --seed 3 m.safetensors --json");
    let checks = checks.as_array().unwrap();
    assert_eq!(checks.len(), 32);
    for check in checks {
        for (found, published) in [("same_first", "same_first_published"), ("shared", "shared_published")] {
            assert!((number(&check[found]) - number(&check[published])).abs() < 0.04, "{check}");
        }
    }
    let outcome =
        folder.json("decode m.safetensors --prefill 128 --hot 4 --bits 3 --scheme monde:hot=1,ctx-aware --json");
    assert!(number(&row(&outcome, "ctx-aware")["tokens_per_s"]) > number(&row(&outcome, "monde")["tokens_per_s"]));
    let predicted = folder.json("predict m.safetensors --prefill 128 --hot 4 --json");
    assert!((0.8..1.0).contains(&number(&predicted[0]["cosine"])), "{predicted}");
}

#[test]
fn measured_losses_give_a_column() {
    let folder = bundled();
    let lines = (0..24 * 32 * 4).map(|i| {
        let (expert, bits) = (i / 4, i % 4 + 1);
        format!("{},{},{bits},{}\n", expert / 32, expert % 32, 0.25_f64.powi(bits))
    });
    folder.file("alike.csv", "layer,expert,bits,loss\n".to_owned() + &lines.collect::<String>());
    let decode = |losses: &str| {
        folder.json(&format!("decode {GPT_OSS} --bits 3 --scheme ctx-aware:selector=0,all-near --json {losses}"))
    };
    assert_eq!(row(&decode(""), "all-near")["loss"].as_f64(), None);
    let outcome = decode("--losses alike.csv");
    // What is not at full precision runs at 3 bits, where every expert loses the same.
    for scheme in ["ctx-aware", "all-near"] {
        let row = row(&outcome, scheme);
        let expected = (1.0 - number(&row["full_precision"])) * 0.25_f64.powi(3);
        assert!((number(&row["loss"]) - expected).abs() < 1e-6, "{row:#}");
    }
}

#[test]
fn replicas_balance_several_devices() {
    let folder = bundled();
    let rows = folder.json(&format!("devices {GPT_OSS} --devices 4 --json"));
    let layer_us = |layout: &str| {
        let row = rows.as_array().unwrap().iter().find(|row| row["layout"] == layout).unwrap();
        number(&row["layer_us"])
    };
    assert!(layer_us("overflow") < layer_us("balanced") && layer_us("balanced") <= layer_us("round-robin") * 1.05);
    assert!(folder.run(&format!("devices {GPT_OSS} --homes affinity")).ok().stdout.contains("affinity"));
}

#[test]
fn refusals_have_the_numbers() {
    let folder = bundled();
    for (arguments, part) in [
        (format!("decode {GPT_OSS} --hot 32"), "expected 1 to 31 experts per layer, found 32"),
        (format!("decode {GPT_OSS} --bits 5"), "expected 1 to 4, or 16, found 5"),
        (format!("decode {GPT_OSS} --batch 5000"), "expected 1 to 1024 sequences, found 5000"),
        (format!("decode {GPT_OSS} --system offload"), "expected a machine with a near-data device, found offload"),
        (format!("decode {GPT_OSS} --scheme best"), "expected a scheme (on-demand, hobbit"),
        (format!("decode {GPT_OSS} --scheme cptr:rate=-1"), "expected rate from 0 to 10000, found \"-1\""),
        (format!("decode {GPT_OSS} --losses {TINY}"), TINY),
        (format!("decode {GPT_OSS} --losses none.csv"), "none.csv: "),
        (format!("devices {GPT_OSS} --devices 33"), "expected 1 to 32, found 33"),
        (format!("devices {GPT_OSS} --homes nowhere"), "expected a layout (round-robin"),
        (format!("decode {GPT_OSS} --model nameless"), "expected one whose sizes are known"),
        (format!("gen --join {TINY}#rust out.safetensors"), "expected at least two traces"),
        (format!("gen --join {TINY}#rust,{TINY}#none out.safetensors"), "found \"none\""),
        (
            format!("gen --join {TINY}#rust,{GPT_OSS} --segment 100 out.safetensors"),
            "expected 4 layers x 32 experts, top-4",
        ),
        ("gen out.safetensors".into(), "--join"),
        ("gen --like llama out.safetensors".into(), "expected one of mixtral-8x7b, mixtral-8x22b"),
        (format!("predict {GPT_OSS} --hot 40"), "expected 1 to 32 experts per layer, found 40"),
        ("reproduce nothing".into(), "invalid value 'nothing'"),
    ] {
        let sentence = folder.refusal(&arguments);
        assert!(sentence.contains(part), "cptr {arguments}: {sentence}");
    }
}
