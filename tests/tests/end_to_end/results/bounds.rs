//! What eviction alone earns, and what bounds on errors cost, of a recording and of a model that reads.

use std::path::PathBuf;

use serde_json::Value;

use super::context::{DEEPSEEK, QWEN3};
use super::{RESULTS, again, by_row, loads, mended, none_differs, run, stalls};
use crate::command::{Folder, finish};
use crate::plan::table;
use crate::shared;
use crate::traces::number;

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn eviction_without_touching_the_choice() {
    const HEADING: &str = "| trace | LRU | LFU | lrfu | tracked | once, after 512 tokens | Belady \
                           | tracked, LRU to Belady |";
    const STRATEGIES: [&str; 6] = ["lru", "lfu", "lrfu", "tracked", "once", "belady"];
    const TRACES: [(&str, &str, &str); 5] = [
        ("tiny-moe-8m", "tiny-moe-8m", ""),
        ("gpt-oss-20b, decode", "gpt-oss-20b-decode", ""),
        ("DeepSeek-V2-Lite, two tasks", DEEPSEEK, ""),
        ("Qwen3-30B-A3B, code", QWEN3, "--domain code"),
        ("sticky-moe, code", "sticky-moe-137m", ""),
    ];
    let said = table(RESULTS, HEADING);
    assert_eq!(said.len(), TRACES.len());
    none_differs([by_row(HEADING, &said, |at, row| {
        let (name, set, options) = TRACES[at];
        assert_eq!(row[0], name);
        let missed = run(&shared::sets().join(set), options, &STRATEGIES).iter().map(stalls).collect::<Vec<_>>();
        let [lru, .., tracked, _, belady] = missed[..] else { panic!("six strategies") };
        let way = (lru - tracked) / (lru - belady);
        missed.iter().chain([&way]).map(|&share| vec![share]).collect()
    })]);
}

/// Held-out documents whose names begin with a 0 and one of these digits, in every domain.
fn documents(digits: &str) -> Vec<PathBuf> {
    let held_out = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../sim/data/held-out"));
    let entries =
        |folder: PathBuf| std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("one").path());
    let domains = entries(held_out).filter(|path| path.is_dir());
    let of = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy();
        name.strip_prefix('0').is_some_and(|name| name.starts_with(|digit| digits.contains(digit)))
    };
    // As a shell lists them: by their names.
    let mut documents: Vec<PathBuf> = domains.flat_map(entries).filter(of).collect();
    documents.sort_unstable();
    documents
}

/// Strategies while the bundled model reads.
fn read(documents: &[PathBuf], strategies: &[String]) -> Vec<Value> {
    let folder = Folder::new();
    let mut command = folder.command(&format!("run --json --strategy {}", strategies.join(",")));
    let mut rows = finish(command.arg("--text").args(documents)).json()["rows"].as_array().expect("rows").clone();
    // The raw router comes first, asked for or not.
    rows.split_off(rows.len() - strategies.len())
}

fn of(row: &Value, key: &str) -> f64 {
    number(&row[key])
}

#[test]
#[ignore = "a model reads for minutes; needs the public data sets: CPTR_TRACES names their folder"]
fn which_missing_expert_is_replaced() {
    const READ: &str = "| bound | stalls | mass loss | divergence | bound on tokens, at that divergence |";
    const RECORDED: &str = "| | tracked | recall | recall+recall-fetch:most=2:sure=0.4:gain=off, with loads |";
    let said = table(RESULTS, READ);
    let names: Vec<String> = said.iter().map(|row| format!("bounded:eps=0.3:{}+tracked", row[0])).collect();
    let rows = read(&documents("048"), &names);
    let on_tokens: Vec<[f64; 2]> = rows
        .iter()
        .zip(&names)
        .filter(|(_, name)| name.contains("error="))
        .map(|(row, _)| [of(row, "divergence"), stalls(row)])
        .collect();
    let line = |divergence: f64| {
        let after = on_tokens.iter().position(|point| point[0] > divergence).expect("a wider bound");
        let [[low, more], [high, fewer]] = [on_tokens[after - 1], on_tokens[after]];
        more + (fewer - more) * (divergence - low) / (high - low)
    };
    let model = by_row(READ, &said, |at, cells| {
        let row = &rows[at];
        let beside = if cells[4].is_empty() { vec![] } else { vec![line(of(row, "divergence"))] };
        vec![vec![stalls(row)], vec![of(row, "mass_loss")], vec![of(row, "divergence")], beside]
    });
    let said = table(RESULTS, RECORDED);
    let beside = ["tracked", "recall", "recall+recall-fetch:most=2:sure=0.4:gain=off"];
    let names = said.iter().flat_map(|row| beside.map(|beside| format!("bounded:{}+{beside}", row[0])));
    let names: Vec<String> = names.collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let options = "--tokens 12000 --prefill 6000 --resident 8";
    let rows = run(&shared::sets().join("tiny-moe-8m"), options, &names);
    let recorded = by_row(RECORDED, &said, |at, _| {
        // Only the last number of a cell is a share.
        let cell = |row: &Value| vec![stalls(row) / 100.0, of(row, "mass_loss")];
        let [tracked, recall, fetching] = [0, 1, 2].map(|way| &rows[beside.len() * at + way]);
        vec![
            cell(tracked),
            cell(recall),
            vec![stalls(fetching) / 100.0, loads(fetching) / 100.0, of(fetching, "mass_loss")],
        ]
    });
    none_differs([model, recorded]);
}

#[test]
#[ignore = "a model reads for minutes"]
fn recall_with_the_model_in_the_loop() {
    const HEADING: &str =
        "| strategy | stalls | loads | perplexity, 95 % | divergence | even documents: stalls, perplexity |";
    let said = table(RESULTS, HEADING);
    let strategy = |row: &Vec<&str>| {
        let name = row[0].replace("raw, LRU", "lru").replace(", ", "+");
        name.replace(" F", "+recall+recall-fetch:most=2:sure=0.4:gain=off")
            .replace(" G", "+recall+gate-ahead:most=2:sure=0.4")
    };
    let names: Vec<String> = said.iter().map(strategy).collect();
    let [odd, even] = ["13579", "02468"].map(|digits| read(&documents(digits), &names));
    let row = |(at, said): (usize, &Vec<&str>)| {
        let (odd, even) = (&odd[at], &even[at]);
        let change = of(odd, "perplexity_change");
        let perplexity = if said[3] == "0" {
            vec![change]
        } else {
            vec![change, of(odd, "perplexity_change_low"), of(odd, "perplexity_change_high")]
        };
        let others = match said[5].matches('%').count() {
            0 => vec![],
            1 => vec![stalls(even)],
            _ => vec![stalls(even), of(even, "perplexity_change")],
        };
        let numbers = [vec![stalls(odd)], vec![loads(odd)], perplexity, vec![of(odd, "divergence")], others];
        let cells = said[1..].iter().zip(numbers).map(|(cell, numbers)| again(cell, &numbers));
        [said[0].to_owned()].into_iter().chain(cells).collect()
    };
    let found: Vec<Vec<String>> = said.iter().enumerate().map(row).collect();
    none_differs([mended(HEADING, &said, &found)]);
}
