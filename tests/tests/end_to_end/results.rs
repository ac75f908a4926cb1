//! Tables of docs/results.md, printed again from the public data sets and compared.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::command::Folder;
use crate::plan::table;
use crate::shared;
use crate::traces::number;

const RESULTS: &str = include_str!("../../../docs/results.md");

/// The traces as the tables name them, where they lie in the folder of data sets, which of their domains is meant, and
/// how many tokens: half of them are the prompt.
const TRACES: [(&str, &str, &str, u32); 7] = [
    ("Qwen3 code", "qwen3-30b-a3b-domains", "--domain code", 6000),
    ("tiny-moe-8m", "tiny-moe-8m", "", 12_000),
    ("Qwen3 math", "qwen3-30b-a3b-domains", "--domain math", 6000),
    ("Qwen3 general", "qwen3-30b-a3b-domains", "--domain general", 6000),
    ("gpt-oss-20b", "gpt-oss-20b-decode", "", 6000),
    ("DeepSeek-V2-Lite", "deepseek-v2-lite-esft", "", 6000),
    ("sticky-moe", "sticky-moe-137m", "", 6000),
];

/// Strategies side by side, in the order in which they are asked for.
fn run(set: &str, options: &str, strategies: &[&str]) -> Vec<Value> {
    let arguments = format!("run --json {options} --strategy {}", strategies.join(","));
    let mut rows = shared::rows(&Folder::new(), &arguments, &shared::sets().join(set));
    // The raw router comes first, asked for or not.
    let extra = rows.len() - strategies.len();
    rows.split_off(extra)
}

/// A cell as it would be printed with as many decimals.
#[track_caller]
fn agree(cell: &str, found: f64, what: &str) {
    let said = cell.trim_matches(|c: char| c == '*' || c == ' ');
    let (said, found) = match said.strip_suffix('%') {
        Some(percent) => (percent.trim(), 100.0 * found),
        None => (said, found),
    };
    let decimals = said.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    assert_eq!(said, format!("{found:.decimals$}"), "{what}");
}

/// The row of a trace in a table, whatever is said of it behind its name.
fn of_trace<'a>(rows: &'a [Vec<&'a str>], trace: &str) -> &'a [&'a str] {
    let of = |row: &&Vec<&str>| row[0].starts_with(trace);
    &rows.iter().find(of).unwrap_or_else(|| panic!("no row of {trace}"))[1..]
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn price_against_gain() {
    let said = table(RESULTS, "| select | residency | switch | miss | mass loss | agree |");
    let part = |cell: &str| cell.trim_matches('*').split(' ').next().unwrap().to_owned();
    let names: Vec<String> = said.iter().map(|row| format!("{}+{}", part(row[0]), part(row[1]))).collect();
    let names: Vec<&str> = names.iter().map(|name| name.trim_start_matches("raw+")).collect();
    assert_eq!(said.len(), 28);
    for (row, found) in said.iter().zip(run("tiny-moe-8m", "--resident 8", &names)) {
        for (cell, key) in row[2..].iter().zip(["switch_rate", "miss_rate", "mass_loss", "agreement"]) {
            agree(cell, number(&found[key]), &format!("{} {key}", row[0]));
        }
    }
}

/// Who stays, and what is fetched where it comes true, on every trace.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn recall_on_every_trace() {
    let said = table(RESULTS, "| trace | LRU | tracked | recall | Belady | gap | recall-fetch:gain=off |");
    let strategies = ["lru", "tracked", "recall", "belady", "recall-fetch:gain=off"];
    for (trace, set, domain, tokens) in TRACES {
        let found = run(set, &format!("{domain} --tokens {tokens} --prefill {}", tokens / 2), &strategies);
        let found: BTreeMap<&str, &Value> = strategies.into_iter().zip(&found).collect();
        let rate = |name: &str, rate: &str| number(&found[name][rate]);
        let row = of_trace(&said, trace);
        println!("{trace}: {:.4}", rate("recall", "stall_rate"));
        for (name, cell) in strategies[..4].iter().zip(row) {
            agree(cell, rate(name, "stall_rate"), &format!("{trace} {name}"));
        }
        let [tracked, recall, belady] = ["tracked", "recall", "belady"].map(|name| rate(name, "stall_rate"));
        agree(row[4], (tracked - recall) / (tracked - belady), trace);
        let (stalls, loads) = row[5].split_once(" / ").unwrap();
        agree(stalls, rate("recall-fetch:gain=off", "stall_rate"), trace);
        agree(loads, rate("recall-fetch:gain=off", "load_rate"), trace);
    }
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn routing_before_the_layers_turn() {
    let said = table(RESULTS, "| strategy | stalls | loads | mass loss |");
    // Behind the strategy stands what the reader should know.
    let names: Vec<&str> = said.iter().map(|row| row[0].split([' ', ',']).next().unwrap()).collect();
    let found = run("tiny-moe-8m", "--tokens 12000 --prefill 6000 --resident 8", &names);
    for (row, found) in said.iter().zip(found) {
        for (cell, key) in row[1..].iter().zip(["stall_rate", "load_rate", "mass_loss"]) {
            agree(cell, number(&found[key]), &format!("{} {key}", row[0]));
        }
    }
}
