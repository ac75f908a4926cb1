//! What the command promises, whatever the trace.

use serde_json::Value;

use crate::command::{Folder, finish};
use crate::traces::{bundled, number};

const LOGITS: &str = "tiny-moe-8m.safetensors";
const IDS: &str = "gpt-oss-20b.safetensors";

fn rows(folder: &Folder, arguments: &str) -> Vec<Value> {
    folder.json(&format!("run {arguments} --json")).as_array().unwrap().clone()
}

/// The rows of a policy, as it is printed.
fn of<'a>(rows: &'a [Value], policy: &str) -> Vec<&'a Value> {
    let found: Vec<_> = rows.iter().filter(|row| row["policy"] == policy).collect();
    assert!(!found.is_empty(), "{policy}");
    found
}

#[test]
fn a_budget_of_nothing_is_the_raw_router() {
    let folder = bundled();
    let rows = rows(&folder, &format!("{LOGITS} --policy raw,cptr:eps=0 --placement lru,lfu,tracked,belady"));
    let (raw, cptr) = (of(&rows, "raw"), of(&rows, "cptr:eps=0"));
    assert_eq!((raw.len(), cptr.len()), (4, 4));
    for (raw, cptr) in raw.into_iter().zip(cptr) {
        assert_eq!((number(&cptr["agreement"]), number(&cptr["mass_loss"])), (1.0, 0.0));
        let mut renamed = cptr.clone();
        renamed["policy"] = raw["policy"].clone();
        assert_eq!(&renamed, raw);
    }
}

#[test]
fn no_budget_is_overdrawn() {
    let folder = bundled();
    let budgets = [0.001, 0.01, 0.04, 0.2, 0.5, 1.0];
    let names: Vec<String> = budgets.iter().map(|eps| format!("cptr:eps={eps}:keep=0")).collect();
    let line = format!("{LOGITS} --cache 6 --domain-tokens 384 --placement lru,tracked --policy {}", names.join(","));
    let rows = rows(&folder, &line);
    for (name, eps) in names.iter().zip(budgets) {
        for row in of(&rows, name) {
            let by_layer = row["by_layer"].as_array().unwrap();
            for loss in by_layer.iter().chain([row]).map(|part| number(&part["mass_loss"])) {
                assert!((0.0..=eps + 1e-7).contains(&loss), "{name}: {loss}");
            }
            assert!(number(&row["agreement"]) < 1.0 && number(&row["mass_loss"]) > 0.0, "{name} does something");
            let raw = rows.iter().find(|raw| raw["policy"] == "raw" && raw["placement"] == row["placement"]);
            if let Some(raw) = raw {
                assert!(number(&row["miss_rate"]) < number(&raw["miss_rate"]), "{name} misses less");
            }
        }
    }
}

#[test]
fn no_demand_placement_beats_the_oracle() {
    let folder = bundled();
    for (name, cache) in [(LOGITS, 4), (LOGITS, 7), (LOGITS, 24), (LOGITS, 32), (IDS, 8), (IDS, 16)] {
        let line =
            format!("{name} --policy raw --placement lru,lfu,tracked,belady --cache {cache} --domain-tokens 400");
        let rows = rows(&folder, &line);
        let (oracles, others): (Vec<&Value>, Vec<&Value>) = rows.iter().partition(|row| row["oracle"] == true);
        assert_eq!((oracles.len(), others.len()), (1, 3));
        for row in others {
            let parts = |row: &Value| row["by_layer"].as_array().unwrap().clone();
            for (bound, found) in parts(oracles[0]).iter().zip(parts(row)) {
                let [bound, found] = [bound, &found].map(|part| number(&part["miss_rate"]));
                assert!(
                    bound <= found + 1e-12,
                    "{name}, cache {cache}: {found} of {} is under {bound}",
                    row["placement"]
                );
            }
        }
    }
}

#[test]
fn scores_that_were_not_recorded_are_not_invented() {
    let folder = bundled();
    let output = folder.run(&format!("run {IDS} --json")).ok();
    let rows: Value = serde_json::from_str(&output.stdout).unwrap();
    for row in rows.as_array().unwrap() {
        assert_eq!(row["policy"], "raw");
        assert_eq!((number(&row["mass_loss"]), number(&row["agreement"])), (0.0, 1.0));
    }
    let line = output.stderr.lines().find(|line| line.contains("Not run:")).unwrap();
    for policy in ["smoothing", "hysteresis", "max-rank", "cumulative", "substitute", "cache-prior", "cptr"] {
        assert!(line.contains(policy), "{policy}: {line}");
    }
    assert!(line.contains("all router logits"), "{line}");
    // Also where it is asked for by name.
    let output = folder.run(&format!("run {IDS} --policy cptr:eps=0.1 --json")).ok();
    assert!(output.stderr.contains("Not run: cptr:eps=0.1"), "{}", output.stderr);
    assert!(!output.stdout.contains("cptr:eps"));
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let folder = bundled();
    for arguments in
        [format!("run {LOGITS} --json --domain-tokens 192"), format!("inspect {IDS} --json --domain-tokens 300")]
    {
        let [one, two] =
            ["1", "2"].map(|threads| finish(folder.command(&arguments).env("RAYON_NUM_THREADS", threads)).ok().stdout);
        assert!(one == two, "{arguments}");
    }
}
