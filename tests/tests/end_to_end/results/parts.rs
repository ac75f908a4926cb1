//! What parts of strategies are worth, rotation among them, and signatures of something else than choices.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::context::{DEEPSEEK, QWEN3, pair, three_in_turn};
use super::{Both, Column, RESULTS, Way, again, by_row, mended, none_differs, of_strategies, run, run_on, sentence};

use crate::command::{Folder, finish};
use crate::plan::table;
use crate::shared;
use crate::traces::number;

const SWITCH: &str = "switch-base-32-decode-logits";

/// Recall by signatures of choices, of the routers' inputs, and of all logits, with rows by their bits.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder; a model reads for a minute"]
fn signatures() {
    const HEADING: &str = "| trace | choices | sketch | logits | fetching: choices | sketch | logits |";
    const WAYS: [[&[&str]; 3]; 3] = [
        [&["recall:bits=64"], &["recall:bits=64:signature=sketch"], &["recall:bits=64:signature=logits"]],
        [&["recall"], &["recall:signature=sketch"], &["recall:signature=logits"]],
        [&["recall:bits=256"], &["recall:bits=256:signature=sketch"], &["recall:bits=256:signature=logits"]],
    ];
    const FETCHING: [&str; 3] =
        ["recall-fetch:gain=off", "recall-fetch:signature=sketch:gain=off", "recall-fetch:signature=logits:gain=off"];
    let said = table(RESULTS, HEADING);
    assert_eq!(said.len(), 2 * WAYS.len());
    let folder = Folder::new();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/data");
    let mut capture = folder.command("capture --sketch 32 --out captured.safetensors");
    finish(capture.arg(data.join("model")).arg("--text").arg(data.join("held-out"))).ok();
    let traces = [shared::sets().join("tiny-moe-8m"), folder.path().join("captured.safetensors")];
    let runs = traces.iter().enumerate().map(|(at, trace)| {
        // Cells that are empty are of what the trace does not have.
        let has = |name: &&str| at == 1 || !name.contains("sketch");
        let strategies: Vec<&str> = WAYS.iter().flatten().map(|way| way[0]).chain(FETCHING).filter(has).collect();
        let strategies = [&strategies[..], &["tracked", "belady"]].concat();
        run_on(trace, "--tokens 12000 --prefill 6000 --resident 8", &strategies)
    });
    let runs: Vec<_> = runs.collect();
    let row = |(at, said): (usize, &Vec<&str>)| {
        let (of, bits) = (&runs[at / WAYS.len()], at % WAYS.len());
        let columns = WAYS[bits].map(Way).into_iter().chain(FETCHING.map(Both));
        let cell = |(cell, column): (&&str, Column)| {
            if cell.is_empty() { String::new() } else { again(cell, &column.numbers(of)) }
        };
        [said[0].to_owned()].into_iter().chain(said[1..].iter().zip(columns).map(cell)).collect()
    };
    let found: Vec<Vec<String>> = said.iter().enumerate().map(row).collect();
    let way = Way(&["recall:memory=128", "recall:memory=128:signature=logits"]);
    let switch = way.numbers(&run_on(&shared::sets().join(SWITCH), "--prefill 40", &way.strategies()));
    let switch = format!("{:.0} % with choices, {:.0} % with logits.", 100.0 * switch[0], 100.0 * switch[1]);
    none_differs([mended(HEADING, &said, &found), sentence(switch)]);
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn rotation() {
    // Behind the strategy stands what it is by default.
    let name = |row: &[&str]| format!("{}+lru", row[0].split(' ').next().expect("a name")).replace("lru+lru", "lru");
    let keys = ["switch_rate", "miss_rate", "mass_loss", "agreement"];
    let heading = "| strategy | switch | miss | mass loss | agree |";
    let options = "--tokens 12000 --prefill 6000 --resident 8";
    let (_, document) = RESULTS.split_once("\n## Rotation\n").expect("a section");
    let switch = run(&shared::sets().join(SWITCH), "--resident 8", &["lru", "rotate+lru"]);
    let [misses, rotated] = [0, 1].map(|at| 100.0 * number(&switch[at]["miss_rate"]));
    let lost = 100.0 * number(&switch[1]["mass_loss"]);
    let switch = format!("it loses {lost:.1} % of the mass and misses no less ({rotated:.1} against {misses:.1} %;");
    none_differs([of_strategies(document, heading, options, name, &keys), sentence(switch)]);
}

/// A bonus for the experts of each layer that the prompt wanted most, or a mask over those that it wanted least.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn a_vector_on_the_logits() {
    const PROMPT: usize = 6000;
    let set = shared::sets().join("tiny-moe-8m");
    let read = cptr_trace::import::read(&set, &cptr_trace::import::Options::default());
    let Ok(cptr_trace::import::Recording::Tokens(trace)) = read else { panic!("a trace of tokens") };
    let folder = Folder::new();
    let file = |name: &str, experts: usize, most: bool, bias: &str| {
        let mut lines = String::from("layer,expert,bias\n");
        for layer in 0..trace.shape.layers {
            let wanted = (0..PROMPT).flat_map(|token| trace.chosen(token, layer));
            let mut counts: Vec<(i64, usize)> = (0..trace.shape.experts).map(|expert| (0, expert)).collect();
            wanted.for_each(|&expert| counts[usize::from(expert)].0 += if most { -1 } else { 1 });
            counts.sort_unstable();
            let chosen: Vec<usize> = counts[..experts].iter().map(|&(_, expert)| expert).collect();
            for expert in 0..trace.shape.experts {
                let bias = if chosen.contains(&expert) { bias } else { "0" };
                writeln!(lines, "{layer},{expert},{bias}").expect("a string takes all");
            }
        }
        folder.file(name, lines);
        format!("bias:file={}+lru", folder.path().join(name).display())
    };
    let name = |row: &[&str]| match row[0] {
        "bias, the 4 least wanted masked" => file("masked.csv", 4, false, "-inf"),
        // The bonus stands behind the name, and what it is for behind the first of them.
        text if text.starts_with("bias, ") => {
            let bonus = text["bias, +".len()..].split(' ').next().expect("a bonus");
            file(&format!("bonus-{bonus}.csv"), 8, true, bonus)
        }
        text => format!("{}+lru", text.split(' ').next().expect("a name")).replace("lru+lru", "lru"),
    };
    let keys = ["switch_rate", "miss_rate", "mass_loss", "agreement"];
    let heading = "| strategy | switch | miss | mass loss | agree |";
    let options = "--tokens 12000 --prefill 6000 --resident 8";
    none_differs([of_strategies(RESULTS, heading, options, name, &keys)]);
}

/// Parts of one strategy, as `cptr run --ablate` has them.
fn ablated(trace: &Path, options: &str, strategy: &str) -> Vec<Value> {
    shared::rows(&Folder::new(), &format!("run --json {options} --strategy {strategy} --ablate"), trace)
}

/// The part, and what takes its place, as the document writes them: without the name of what a parameter is of.
fn short(row: &Value) -> [String; 2] {
    if row["axis"] == "all" {
        return ["all", ""].map(str::to_owned);
    }
    let part = row["part"].as_str().expect("a part");
    let (_, part) = part.split_once(':').unwrap_or(("", part));
    let instead = row["instead"].as_str().expect("what takes its place");
    [part, instead].map(str::to_owned)
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn parts_with_a_bound() {
    const HEADING: &str = "| part | instead | stalls | loads | mass loss | time of a token |";
    let options = "--tokens 12000 --prefill 6000";
    let worth = ablated(&shared::sets().join("tiny-moe-8m"), options, "bounded+recall+recall-fetch");
    let said = table(RESULTS, HEADING);
    let row = |(said, worth): (&Vec<&str>, &Value)| {
        let [part, instead] = short(worth);
        let named = if part == "all" { [part, String::new()] } else { [part, instead].map(|name| format!("`{name}`")) };
        let sides: &[&str] = if worth["axis"] == "all" { &["last"] } else { &["alone", "last"] };
        let keys = ["stall_rate", "load_rate", "mass_loss", "token_time"];
        let cell = |(cell, key): (&&str, &str)| {
            let scale = if cell.contains('%') { 1.0 } else { 100.0 };
            again(cell, &sides.iter().map(|side| scale * number(&worth[side][key])).collect::<Vec<_>>())
        };
        named.into_iter().chain(said[2..].iter().zip(keys).map(cell)).collect()
    };
    let found: Vec<Vec<String>> = said.iter().zip(&worth).map(row).collect();
    assert_eq!(worth.len(), said.len(), "{:?}", worth.iter().map(short).collect::<Vec<_>>());
    none_differs([mended(HEADING, &said, &found)]);
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn parts_of_a_placement() {
    const HEADING: &str = "| part | instead | Qwen3, three domains in turn | Qwen3, code to math \
                           | DeepSeek-V2-Lite, intent to law |";
    let folder = Folder::new();
    let traces = [
        (three_in_turn(&folder), "--resident 32"),
        (pair(&folder, QWEN3, "code", "math"), "--resident 32"),
        (pair(&folder, DEEPSEEK, "intent", "law"), "--resident 16 --model DeepSeek-V2-Lite"),
    ];
    let worth =
        traces.map(|(trace, options)| ablated(&trace, &format!("--system ndp --prefill 512 {options}"), "migrate"));
    let said = table(RESULTS, HEADING);
    none_differs([by_row(HEADING, &said, |_, row| {
        let numbers = |rows: &Vec<Value>| {
            let name = row[0].trim_matches('`').split('`').next().expect("a part");
            let found = rows.iter().find(|found| short(found)[0] == name).unwrap_or_else(|| panic!("{name}"));
            vec![100.0 * number(&found["last"]["token_time"]), 100.0 * number(&found["last"]["full_precision"])]
        };
        let cells = worth.iter().map(numbers);
        // What takes its place has no number of its own.
        [instead(row[1])].into_iter().chain(cells).collect()
    })]);
}

/// The numbers of a cell, to be written again as they are.
fn instead(cell: &str) -> Vec<f64> {
    cell.split(|c: char| !c.is_ascii_digit() && c != '.').filter_map(|part| part.parse().ok()).collect()
}
