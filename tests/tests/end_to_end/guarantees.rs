//! What the command promises, whatever the trace.

use serde_json::Value;

use crate::command::finish;
use crate::traces::{bundled, number};

const LOGITS: &str = "tiny-moe-8m.safetensors";
const IDS: &str = "gpt-oss-20b.safetensors";

const RESIDENCIES: [&str; 5] = ["lru", "lfu", "lrfu", "tracked", "belady"];

/// Every residency with a selection.
fn with_residencies(select: &str) -> String {
    RESIDENCIES.map(|residency| format!("{select}+{residency}")).join(",")
}

#[test]
fn a_budget_of_nothing_is_the_raw_router() {
    let folder = bundled();
    let run = |select: &str| folder.rows(&format!("run {LOGITS} --strategy {}", with_residencies(select)));
    for (raw, bounded) in run("raw").into_iter().zip(run("bounded:eps=0")) {
        assert_eq!((number(&bounded["agreement"]), number(&bounded["mass_loss"])), (1.0, 0.0));
        let mut renamed = bounded.clone();
        for key in ["strategy", "select", "bound"] {
            renamed[key] = raw[key].clone();
        }
        // What it costs the controller to find that out is its own.
        let without_times = |mut row: Value| {
            row.as_object_mut().unwrap().retain(|key, _| !key.contains("controller"));
            row
        };
        assert_eq!(without_times(renamed), without_times(raw));
    }
}

#[test]
fn no_budget_is_overdrawn() {
    let folder = bundled();
    let budgets = [0.001, 0.01, 0.04, 0.2, 0.5, 1.0];
    for residency in ["lru", "tracked"] {
        let names: Vec<String> = budgets.iter().map(|eps| format!("bounded:eps={eps}:keep=0+{residency}")).collect();
        let names = names.join(",");
        let line = format!("run {LOGITS} --resident 6 --domain-tokens 384 --strategy raw+{residency},{names}");
        let rows = folder.rows(&line);
        for (row, eps) in rows[1..].iter().zip(budgets) {
            let by_layer = row["by_layer"].as_array().unwrap();
            let worst = number(&row["worst_mass_loss"]);
            for loss in by_layer.iter().chain([row]).map(|part| number(&part["mass_loss"])).chain([worst]) {
                assert!((0.0..=eps + 1e-7).contains(&loss), "{eps}: {loss}");
            }
            assert!(number(&row["agreement"]) < 1.0 && number(&row["mass_loss"]) > 0.0, "{eps} does something");
            assert!(number(&row["miss_rate"]) < number(&rows[0]["miss_rate"]), "{eps} misses less");
        }
    }
}

#[test]
fn who_loads_on_demand_does_not_beat_the_bound() {
    let folder = bundled();
    for (name, resident) in [(LOGITS, 4), (LOGITS, 7), (LOGITS, 24), (LOGITS, 32), (IDS, 8), (IDS, 16)] {
        let line =
            format!("run {name} --strategy {} --resident {resident} --domain-tokens 400", with_residencies("raw"));
        let rows = folder.rows(&line);
        let (bounds, others): (Vec<&Value>, Vec<&Value>) = rows.iter().partition(|row| row["bound"] == true);
        assert_eq!((bounds.len(), others.len()), (1, 4));
        for row in others {
            let parts = |row: &Value| row["by_layer"].as_array().unwrap().clone();
            for (bound, found) in parts(bounds[0]).iter().zip(parts(row)) {
                let [bound, found] = [bound, &found].map(|part| number(&part["miss_rate"]));
                let strategy = &row["strategy"];
                assert!(bound <= found + 1e-12, "{name}, {resident} resident: {found} of {strategy} is under {bound}");
            }
        }
    }
}

#[test]
fn scores_that_were_not_recorded_are_not_invented() {
    let folder = bundled();
    let output = folder.run(&format!("run {IDS} --json")).ok();
    let line = output.stderr.lines().find(|line| line.contains("all router logits")).unwrap().to_owned();
    for name in ["smoothing", "hysteresis", "max-rank", "cumulative", "substitute", "cache-prior", "bounded"] {
        assert!(line.contains("Not run: ") && line.contains(name), "{name}: {line}");
    }
    for row in output.json()["rows"].as_array().unwrap() {
        // What is left out needs the recorded weights alone.
        if row["select"] == "drop" {
            continue;
        }
        assert_eq!(row["select"], "raw");
        assert_eq!((number(&row["mass_loss"]), number(&row["agreement"])), (0.0, 1.0));
    }
    // What is asked for by name is refused.
    let refusal = folder.refusal(&format!("run {IDS} --strategy lru,bounded:eps=0.1"));
    assert!(refusal.starts_with("bounded:eps=0.1: select bounded needs all router logits"), "{refusal}");
    let refusal = folder.refusal(&format!("run {IDS} --strategy ctx-aware"));
    assert!(refusal.contains("division in-place needs a near-data device"), "{refusal}");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let folder = bundled();
    for arguments in [
        format!("run {LOGITS} --system ndp --json --domain-tokens 192"),
        format!("inspect {IDS} --json --domain-tokens 300"),
    ] {
        let [one, two] =
            ["1", "2"].map(|threads| finish(folder.command(&arguments).env("RAYON_NUM_THREADS", threads)).ok().stdout);
        assert!(one == two, "{arguments}");
    }
}
