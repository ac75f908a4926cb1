//! `cptr run --ablate`: what the parts of a strategy are worth.

use serde_json::Value;

use crate::traces::{bundled, number};

const TINY: &str = "tiny-moe-8m.safetensors";
const GPT_OSS: &str = "gpt-oss-20b.safetensors";

/// Every figure is the difference of two rows that `run` prints for the strategies it names.
#[test]
fn parts_are_differences_of_runs() {
    let folder = bundled();
    let line = |rest: &str| format!("run {TINY} --tokens 1200 --hidden 256 --expert-inner 512 {rest}");
    let whole = folder.json(&line("--strategy bounded:eps=0.02 --ablate --json"));
    assert_eq!(whole["schema"], "cptr.run/1");
    let rows = whole["rows"].as_array().unwrap();
    let parts: Vec<&str> = rows.iter().map(|row| row["part"].as_str().unwrap()).collect();
    let mechanisms = ["bounded:keep=1", "tracked", "tracked:fast=0.125", "tracked:reopened=0.05", "bounded:eps=0.02"];
    assert_eq!(parts[0], "bounded:eps=0.02");
    assert_eq!(parts[1..], mechanisms);
    for row in rows {
        for side in ["alone", "last"] {
            let names = ["with", "without"].map(|key| row[side][key].as_str().unwrap());
            let runs = folder.rows(&line(&format!("--strategy {}", names.join(","))));
            for key in ["stall_rate", "load_rate", "mass_loss", "full_precision"] {
                let difference = number(&runs[0][key]) - number(&runs[1][key]);
                assert!((number(&row[side][key]) - difference).abs() < 1e-12, "{key}: {row:#}");
            }
            let time = number(&runs[0]["token_time_us"]) / number(&runs[1]["token_time_us"]) - 1.0;
            assert!((number(&row[side]["token_time"]) - time).abs() < 1e-12, "{row:#}");
        }
    }
    // The whole is what all parts together are, both ways.
    assert_eq!(rows[5]["alone"], rows[5]["last"]);
    assert!(number(&rows[5]["last"]["stall_rate"]) < 0.0 && number(&rows[5]["last"]["mass_loss"]) > 0.0);
    let names: Vec<&Value> = whole["runs"].as_array().unwrap().iter().map(|run| &run["strategy"]).collect();
    assert!(names.len() >= 8 && names[0] == "raw", "{names:?}");
}

#[test]
fn shown_as_text_csv_and_page() {
    let folder = bundled();
    let line =
        format!("run {GPT_OSS} --tokens 900 --prefill 200 --system ndp --resident 8 --strategy migrate,lfu --ablate");
    let text = folder.run(&format!("{line} --report page.html --csv rows.csv")).ok().stdout;
    for part in [
        "What the parts of migrate are worth",
        "What the parts of lfu are worth",
        "All that ran",
        "| migrate:reopened=0.25 | reopened=0 ",
        "| slack:slack=0.15 ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let page = String::from_utf8(folder.read("page.html")).unwrap();
    assert!(page.contains("What the parts of migrate are worth") && page.contains("stalls per choice that it adds"));
    let csv = String::from_utf8(folder.read("rows.csv")).unwrap();
    assert!(csv.starts_with("strategy,axis,part,instead,alone_stall_rate,last_stall_rate,"), "{csv}");
    assert_eq!(csv.lines().filter(|line| line.starts_with("lfu,")).count(), 2, "{csv}");
}

#[test]
fn what_cannot_run_says_why() {
    let folder = bundled();
    // All experts fit at 4 bits and only at those: the residency alone does not run, nor the strategy without them.
    let rows = folder.rows(&format!("run {GPT_OSS} --tokens 300 --resident 12GB --strategy all-4bit --ablate"));
    assert!(rows[0]["alone"].is_null() && rows[0]["reason"].as_str().unwrap().contains("needs"), "{rows:#?}");
    for (arguments, part) in [
        (format!("run {TINY} --ablate"), "--strategy"),
        (format!("run {TINY} --ablate --strategy lru"), "expected a strategy that differs from raw+lru+none+gpu+full"),
        (format!("run {GPT_OSS} --ablate --strategy bounded"), "bounded: select bounded needs"),
        (format!("run {TINY} --ablate --strategy lfu --controller host"), "--controller"),
        ("run --ablate --strategy lfu".into(), "found a model"),
    ] {
        let sentence = folder.refusal(&arguments);
        assert!(sentence.contains(part), "cptr {arguments}: {sentence}");
    }
}
