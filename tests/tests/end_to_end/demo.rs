//! `cptr demo`: its table, its report, and figures that do not change unnoticed.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::command::Folder;

const POLICIES: [&str; 8] =
    ["raw", "smoothing", "hysteresis", "max-rank", "cumulative", "substitute", "cache-prior", "cptr"];
const PLACEMENTS: [&str; 5] = ["lru", "lfu", "tracked", "pinned", "belady"];

/// Set to write the figures of today into `tests/golden`, after a change that is meant to change them.
const BLESS: &str = "CPTR_BLESS";

#[test]
fn prints_a_row_for_every_policy_and_writes_a_report() {
    let folder = Folder::new();
    let output = folder.run("demo").ok();
    assert_eq!(output.stderr, "");
    let rows: Vec<Vec<&str>> = output.stdout.lines().filter(|line| line.starts_with("| ")).map(cells).collect();
    for policy in POLICIES {
        assert!(rows.iter().any(|row| row[0] == policy || row[0].starts_with(&format!("{policy}:"))), "{policy}");
    }
    for placement in PLACEMENTS {
        assert!(rows.iter().any(|row| row[1].trim_end_matches([' ', '*']) == placement), "{placement}");
    }
    for scheme in ["on-demand", "hobbit", "monde", "ctx-aware", "periodic", "cptr", "oracle"] {
        assert!(rows.iter().any(|row| row[0].trim_end_matches([' ', '*']) == scheme), "{scheme}");
    }
    let files: Vec<_> = folder.contents().into_keys().collect();
    assert_eq!(files, [folder.path().join("report.html")]);
    assert_self_contained(&String::from_utf8(folder.read("report.html")).unwrap());
    assert!(output.stdout.contains("report.html") && output.stdout.contains("modelled"));
}

fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
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
    let parts = folder.json("demo --json --report deep.html");
    assert!(folder.path().join("deep.html").exists() && !folder.path().join("report.html").exists());
    let (systems, parts) = parts.as_array().unwrap().split_last().unwrap();
    for part in parts {
        for key in ["title", "trace", "system", "time_method", "model", "cache", "rows", "skipped", "context"] {
            assert!(part.get(key).is_some(), "{key}");
        }
    }
    let found: Value = parts.iter().map(figures).chain([system_figures(systems)]).collect();
    let path = golden("demo.json");
    if std::env::var_os(BLESS).is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("{:#}\n", found)).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let expected: Value = serde_json::from_str(&text).unwrap();
    for (found, expected) in rows(&found).zip(rows(&expected)) {
        assert_eq!(found, expected, "set {BLESS}=1 if this is meant to change");
    }
    assert_eq!(found, expected, "set {BLESS}=1 if this is meant to change");
}

/// The main figures of the comparison of systems, to six digits.
fn system_figures(part: &Value) -> Value {
    let row = |row: &Value| {
        let figure = |key: &str| row[key].as_f64().map(|value| format!("{value:.5e}"));
        json!({
            "scheme": row["scheme"],
            "tokens_per_s": figure("tokens_per_s"),
            "full_precision": figure("full_precision"),
            "token_time_p99_us": figure("token_time_p99_us"),
            "hidden_copies": figure("hidden_copies"),
        })
    };
    let rows: Vec<Value> = part["systems"]["rows"].as_array().unwrap().iter().map(row).collect();
    json!({ "title": part["title"], "rows": rows })
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn rows(parts: &Value) -> impl Iterator<Item = &Value> {
    parts.as_array().unwrap().iter().flat_map(|part| part["rows"].as_array().unwrap())
}

/// The main figures of a part, to six digits.
fn figures(part: &Value) -> Value {
    let row = |row: &Value| {
        let figure = |key: &str| row[key].as_f64().map(|value| format!("{value:.5e}"));
        json!({
            "policy": row["policy"],
            "placement": row["placement"],
            "switch_rate": figure("switch_rate"),
            "miss_rate": figure("miss_rate"),
            "mass_loss": figure("mass_loss"),
            "agreement": figure("agreement"),
            "loads_per_token": figure("loads_per_token"),
            "token_time_us": figure("token_time_us"),
            "ratio_to_raw": figure("ratio_to_raw"),
            "controller_us": figure("controller_us"),
            "energy_uj_per_token": figure("energy_uj_per_token"),
        })
    };
    let skipped: Vec<&Value> = part["skipped"].as_array().unwrap().iter().map(|row| &row["policy"]).collect();
    json!({
        "title": part["title"],
        "tokens": part["trace"]["tokens"],
        "system": part["system"],
        "cache": part["cache"],
        "rows": part["rows"].as_array().unwrap().iter().map(row).collect::<Vec<_>>(),
        "skipped": skipped,
        "changes": part["context"]["changes"],
    })
}
