//! `cptr demo`: its table, its report, and figures that do not change unnoticed.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::command::Folder;

/// What the tables have a row for, by the start of its name.
const STRATEGIES: [&str; 24] = [
    "raw",
    "lfu",
    "lrfu",
    "tracked",
    "recall",
    "recall-fetch",
    "transition",
    "once",
    "periodic",
    "belady",
    "smoothing",
    "hysteresis",
    "max-rank",
    "cumulative",
    "substitute",
    "cache-prior",
    "bounded",
    "hobbit",
    "monde",
    "monde-resident",
    "ctx-aware",
    "ctx-aware-slack",
    "migrate",
    "foresight",
];

/// Set to write the figures of today into `tests/golden`, after a change that is meant to change them.
const BLESS: &str = "CPTR_BLESS";

#[test]
fn prints_a_row_for_every_strategy_and_writes_a_report() {
    let folder = Folder::new();
    let output = folder.run("demo").ok();
    assert_eq!(output.stderr, "");
    let names: Vec<&str> = output.stdout.lines().filter_map(first_cell).collect();
    for strategy in STRATEGIES {
        let is = |name: &&str| name.split([':', '+', ' ']).next() == Some(strategy);
        assert!(names.iter().any(is), "{strategy}: {names:?}");
    }
    let files: Vec<_> = folder.contents().into_keys().collect();
    assert_eq!(files, [folder.path().join("report.html")]);
    assert_self_contained(&String::from_utf8(folder.read("report.html")).unwrap());
    assert!(output.stdout.contains("report.html") && output.stdout.contains("modelled"));
    readme_says(&output.stdout);
}

/// The listing that the README shows of the demonstration is what it prints, to the digit.
fn readme_says(printed: &str) {
    let readme = include_str!("../../../README.md");
    let listing = readme.split("```").find(|block| block.trim_start().starts_with("Selection: ")).unwrap();
    let printed: Vec<&str> = printed.lines().collect();
    let lines: Vec<&str> = listing.lines().filter(|line| !line.is_empty()).collect();
    assert!(lines.len() > 20, "{listing}");
    for line in lines {
        assert!(printed.contains(&line), "README.md: {line}");
    }
}

fn first_cell(line: &str) -> Option<&str> {
    line.strip_prefix("| ")?.split('|').next().map(str::trim)
}

/// A page that needs no network: no address but the names of namespaces, which nobody fetches.
#[track_caller]
fn assert_self_contained(html: &str) {
    assert!(html.trim_start().to_ascii_lowercase().starts_with("<!doctype html>") && html.contains("</html>"));
    assert!(html.matches("<svg").count() >= 3);
    let without_namespaces = html.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "");
    for forbidden in ["http://", "https://", "<link", "<script src", "<img", "<iframe", "@import", "src=", "url("] {
        assert!(!without_namespaces.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn json_has_the_figures_of_the_snapshot() {
    let folder = Folder::new();
    let whole = folder.json("demo --json --report deep.html");
    assert!(folder.path().join("deep.html").exists() && !folder.path().join("report.html").exists());
    assert_eq!((&whole["schema"], &whole["command"]), (&"cptr.demo/1".into(), &"demo".into()));
    for part in whole["parts"].as_array().unwrap() {
        for key in ["title", "trace", "system", "time_method", "model", "resident", "prefill", "skipped", "context"] {
            assert!(part.get(key).is_some(), "{key}");
        }
        assert_eq!(part["skipped"], json!([]), "everything that the demonstration names runs");
    }
    let changes: Value =
        whole["parts"].as_array().unwrap().iter().map(|part| part["context"]["changes"].clone()).collect();
    let rows: Vec<Value> = whole["rows"].as_array().unwrap().iter().map(figures).collect();
    let found = json!({"rows": rows, "changes": changes});
    let path = golden("demo.json");
    if std::env::var_os(BLESS).is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("{:#}\n", found)).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let expected: Value = serde_json::from_str(&text).unwrap();
    for (found, expected) in rows.iter().zip(expected["rows"].as_array().unwrap()) {
        assert_eq!(found, expected, "set {BLESS}=1 if this is meant to change");
    }
    assert_eq!(found, expected, "set {BLESS}=1 if this is meant to change");
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// The main figures of a row, to six digits.
fn figures(row: &Value) -> Value {
    let mut figures = json!({"part": row["part"], "strategy": row["strategy"]});
    for key in [
        "switch_rate",
        "miss_rate",
        "stall_rate",
        "load_rate",
        "mass_loss",
        "agreement",
        "token_time_us",
        "token_time_p99_us",
        "ratio_to_raw",
        "controller_us",
        "energy_uj",
        "full_precision",
        "migration_rate",
    ] {
        figures[key] = row[key].as_f64().map(|value| format!("{value:.5e}")).into();
    }
    figures
}
