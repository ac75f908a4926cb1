//! `cptr eval` on a tiny checkpoint with random weights, whose vocabulary is letters.

use std::fs;
use std::path::Path;

use crate::command::Folder;

fn folder() -> Folder {
    let folder = Folder::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/model/tests/golden/olmoe");
    for file in fs::read_dir(golden).unwrap() {
        let file = file.unwrap();
        folder.file(&format!("model/{}", file.file_name().to_string_lossy()), fs::read(file.path()).unwrap());
    }
    for (domain, step) in [("prose", 7), ("verse", 11)] {
        for part in 0..3_u32 {
            let letters = (0..200).map(|i: u32| char::from(b'a' + ((i * i + part) * step % 26) as u8));
            folder.file(&format!("text/{domain}/{part}.txt"), letters.collect::<String>());
        }
    }
    folder
}

fn number(row: &serde_json::Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("{key} in {row}"))
}

#[test]
fn what_changes_nothing_costs_nothing_to_the_last_bit() {
    let folder = folder();
    let printed = folder.json("eval model --text text --policy raw,cptr:eps=0 --placement lru,tracked --json");
    let rows = printed.as_array().unwrap();
    assert_eq!(rows.len(), 4);
    let perplexity = number(&rows[0], "perplexity");
    for row in rows {
        assert_eq!((number(row, "perplexity"), number(row, "perplexity_change")), (perplexity, 0.0), "{row}");
        assert_eq!((number(row, "divergence_nats"), number(row, "mass_loss")), (0.0, 0.0));
        assert_eq!(row["by_domain"].as_array().unwrap().len(), 2);
    }
    // With all experts resident any bound leaves the choice as it is, once they are loaded.
    let experts = folder.json("capture model --text text/prose/0.txt --out t.safetensors --json")["experts"].clone();
    let all = folder.json(&format!("eval model --text text --policy cptr:eps=0.5 --cache {experts} --json"));
    assert!(number(&all[1], "miss_rate") < 0.1);
}

#[test]
fn a_wider_bound_misses_less_and_changes_more() {
    let folder = folder();
    let printed = folder.json("eval model --text text --policy cptr:eps=0.05,cptr:eps=0.2,cptr:eps=0.5 --json");
    let rows = &printed.as_array().unwrap()[1..];
    for pair in rows.windows(2) {
        assert!(number(&pair[0], "miss_rate") >= number(&pair[1], "miss_rate"), "{printed}");
        assert!(number(&pair[0], "divergence_nats") <= number(&pair[1], "divergence_nats"), "{printed}");
    }
    assert!(number(&rows[2], "divergence_nats") > 0.0 && number(&rows[2], "mass_loss") <= 0.5);
}

#[test]
fn the_frontier_goes_to_table_csv_and_plot() {
    let folder = folder();
    let policies = "cache-prior:lambda=0.1,cache-prior:lambda=0.4,cptr:eps=0.1,cptr:eps=0.3";
    let ran = folder.run(&format!("eval model --text text --policy {policies} --csv f.csv --plot f.svg"));
    let table = ran.ok().stdout.clone();
    assert!(table.contains("cptr:eps=0.3") && table.contains("6 documents"), "{table}");
    let csv = String::from_utf8(folder.read("f.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 5);
    assert!(csv.starts_with("policy,placement,bits,cache,perplexity,"), "{csv}");
    let svg = String::from_utf8(folder.read("f.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("cptr:eps=0.3") && svg.trim_end().ends_with("</svg>"));
}

#[test]
fn fewer_bits_cost_more_and_the_selector_less_than_the_same_for_all() {
    let folder = folder();
    folder.run("quantize model --group 32 --calibration text --tokens 1000").ok();
    let run = |bits: &str| {
        let command = format!("eval model --text text --replicas model-low-bit --expert-bits {bits} --json");
        let printed = folder.json(&command);
        printed.as_array().unwrap()[1..].to_vec()
    };
    let uniform = run("4,3,2,1");
    let divergences: Vec<f64> = uniform.iter().map(|row| number(row, "divergence_nats")).collect();
    assert!(divergences[0] > 0.0 && divergences.is_sorted(), "{divergences:?}");
    let mean = run("mean:3,cold:3");
    assert_eq!((mean[0]["bits"].as_str(), number(&mean[0], "mean_bits")), (Some("mean:3"), 3.0));
    // Experts in fast memory run the model's own weights.
    assert!(number(&mean[1], "divergence_nats") < divergences[1], "{divergences:?} {mean:?}");
}

#[test]
fn refuses_with_one_sentence() {
    let folder = folder();
    for (arguments, part) in [
        ("eval model", "--text: expected files or folders"),
        ("eval model --text nowhere.txt", "nowhere.txt: "),
        ("eval model --text text --cache 0", "--cache: expected 1 to"),
        ("eval model --text text --expert-bits 3", "--replicas: expected the folder"),
        ("eval model --text text --expert-bits 7", "--expert-bits: expected own, 1 to 4"),
        ("eval model --text text --policy magic", "expected a policy"),
        ("eval nowhere --text text", "nowhere/config.json: "),
    ] {
        let refusal = folder.refusal(arguments);
        assert!(refusal.contains(part), "{arguments}: {refusal}");
    }
}
