//! Sequences that share fast memory, one of which wants all of it.

use std::fmt::Write;

use serde_json::Value;

use crate::command::Folder;
use crate::traces::{bundled, number};

/// Tokens of each sequence, those of its prompt included.
const TOKENS: usize = 1000;
const PROMPT: usize = 100;

/// A batch of two: the first sequence stays with its context of eight experts a layer for 250 tokens, the second one
/// wants others every 24 tokens.
fn shared() -> Folder {
    let mut state = 5u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut lines = String::new();
    for token in 0..2 * TOKENS {
        let (greedy, at) = (token >= TOKENS, token % TOKENS);
        for layer in 0..4 {
            let (first, size) = if greedy { (at / 24 * 7 + layer * 5, 6) } else { (at / 250 * 16 + layer * 3, 8) };
            let mut ids: Vec<usize> = Vec::new();
            while ids.len() < 4 {
                let id = (first + random(size)) % 64;
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
            let place = format!("\"token_position\": {at}, \"layer_id\": {layer}, \"expert_ids\": {ids:?}");
            let request = usize::from(greedy);
            writeln!(lines, "{{\"request_id\": {request}, \"phase\": \"decode\", {place}}}").unwrap();
        }
    }
    let folder = Folder::new();
    folder.file("both.jsonl", lines);
    folder
}

fn tenants(folder: &Folder, options: &str) -> [Value; 2] {
    let line = format!("run both.jsonl --system ndp --model qwen3-30b-a3b --resident 12 --prefill {PROMPT} --batch 2");
    let row = folder.rows(&format!("{line} {options}")).remove(0);
    let [first, second] = &row["tenants"].as_array().unwrap()[..] else { panic!("{row:#}") };
    [first.clone(), second.clone()]
}

/// The greedy one takes most of the copies, where that is not limited. With parts it has its half and is refused the
/// rest, every token is served, and the other one misses no more than before.
#[test]
fn no_sequence_takes_all_migrations_or_fetches() {
    let folder = shared();
    for (strategy, key) in
        [("migrate:rate=1:horizon=10000", "migrations_per_token"), ("transition:most=8", "fetches_per_token")]
    {
        // A limit that is never reached says who takes what without parts.
        let free = tenants(&folder, &format!("--strategy {strategy} --fair 10000"));
        let fair = tenants(&folder, &format!("--strategy {strategy} --fair 0.5"));
        let [own, others] = free.each_ref().map(|tenant| number(&tenant[key]));
        assert!(own > 0.0 && others > 1.3 * own, "{strategy}: {own} {others}");
        assert!(free.iter().all(|tenant| number(&tenant["refused_per_token"]) == 0.0), "{free:#?}");
        // Half of the limit each, and half of what is saved up at first.
        let most = 0.25 + 2.0 / (TOKENS - PROMPT) as f64;
        for tenant in &fair {
            assert!(number(&tenant[key]) <= most, "{strategy}: {tenant:#}");
        }
        assert!(number(&fair[1][key]) > 0.2 && number(&fair[1]["refused_per_token"]) > 0.0, "{strategy}: {fair:#?}");
        let [before, behind] = [&free, &fair].map(|tenants| number(&tenants[0]["miss_rate"]));
        assert!(behind < before + 0.01, "{strategy}: {before} {behind}");
    }
}

/// Nothing changes for who is alone, as long as the limit is not below what the strategy does; and no limit, no parts.
#[test]
fn a_sequence_alone_has_all_of_the_limit() {
    let folder = bundled();
    let line = "run gpt-oss-20b.safetensors --tokens 600 --system ndp --resident 8 --prefill 64";
    let run = |options: &str| folder.rows(&format!("{line} --strategy migrate:rate=2 {options}")).remove(0);
    let (free, mut fair) = (run(""), run("--fair 2"));
    assert!(number(&free["migration_rate"]) > 0.0 && free.get("tenants").is_none(), "{free:#}");
    let tenants = fair.as_object_mut().unwrap().remove("tenants").unwrap();
    assert_eq!(number(&tenants[0]["refused_per_token"]), 0.0, "{tenants:#}");
    assert_eq!(fair, free);
}

#[test]
fn limits_that_are_none_are_refused() {
    let folder = bundled();
    for (options, expected) in [
        ("run tiny-moe-8m.safetensors --fair=-1", "--fair: expected 0 to 10000 copies a step, found -1"),
        ("run tiny-moe-8m.safetensors --fair NaN", "--fair: expected 0 to 10000 copies a step, found NaN"),
        ("run tiny-moe-8m.safetensors --fair 20000", "--fair: expected 0 to 10000 copies a step, found 20000"),
    ] {
        let said = folder.refusal(options);
        assert!(said.contains(expected), "{options}: {said}");
    }
}
