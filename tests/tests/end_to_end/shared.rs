//! Public data sets with published statistics, where `CPTR_TRACES` names the folder that holds them; they are too large
//! to come along.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::{Folder, finish};
use crate::traces::number;

/// Names the folder with the sets.
const VARIABLE: &str = "CPTR_TRACES";
/// Published figures have three decimals.
const TOLERANCE: f64 = 0.001;

/// Published statistics of one recording.
struct Published {
    /// File or folder in the set's folder.
    source: &'static str,
    /// Part of it; empty: the whole.
    domain: &'static str,
    shape: [u64; 4],
    switch_rate: f64,
    memoryless: f64,
    /// Rate and the layer's number, where it is published.
    lowest: (f64, Option<u64>),
    highest: (f64, Option<u64>),
}

const fn published(
    source: &'static str,
    domain: &'static str,
    shape: [u64; 4],
    rates: [f64; 2],
    lowest: (f64, Option<u64>),
    highest: (f64, Option<u64>),
) -> Published {
    Published { source, domain, shape, switch_rate: rates[0], memoryless: rates[1], lowest, highest }
}

/// Tokens, layers, experts, k; switch rate, memoryless; lowest and highest layer.
const PUBLISHED: &[Published] = &[
    published("gpt-oss-20b-decode", "", [18_768, 24, 32, 4], [0.560, 0.813], (0.411, Some(13)), (0.800, Some(0))),
    published(
        "qwen3-30b-a3b-domains",
        "code",
        [8_000, 48, 128, 8],
        [0.525, 0.724],
        (0.386, Some(30)),
        (0.882, Some(0)),
    ),
    published(
        "qwen3-30b-a3b-domains",
        "general",
        [8_000, 48, 128, 8],
        [0.553, 0.810],
        (0.340, Some(31)),
        (0.860, Some(0)),
    ),
    published("qwen3-30b-a3b-domains", "math", [8_000, 48, 128, 8], [0.604, 0.804], (0.428, Some(7)), (0.858, Some(0))),
    published(
        "deepseek-v2-lite-esft",
        "intent",
        [8_222, 26, 64, 6],
        [0.738, 0.847],
        (0.669, Some(11)),
        (0.840, Some(1)),
    ),
    published("deepseek-v2-lite-esft", "law", [8_327, 26, 64, 6], [0.710, 0.869], (0.653, Some(24)), (0.843, Some(1))),
    published("tiny-moe-8m", "", [17_280, 4, 32, 4], [0.685, 0.855], (0.607, Some(3)), (0.764, Some(0))),
    published("switch-base-32-decode-logits", "", [135, 6, 32, 1], [0.991, 0.857], (0.977, None), (1.000, None)),
    published("sticky-moe-137m", "", [499_712, 8, 16, 2], [0.594, 0.822], (0.538, Some(7)), (0.659, Some(1))),
];

/// Sets without token order.
const COUNTS: &[&str] = &["olmoe-mixtral-domain-counts", "mixtral-popularity-fiddler", "colibri-olmoe-usage"];

/// The folder with the sets.
pub(crate) fn sets() -> PathBuf {
    let folder = std::env::var_os(VARIABLE).map(PathBuf::from);
    folder.unwrap_or_else(|| panic!("{VARIABLE} does not name a folder with the public data sets"))
}

pub(crate) fn rows(folder: &Folder, arguments: &str, set: &Path) -> Vec<Value> {
    finish(folder.command(arguments).arg(set)).json()["rows"].as_array().unwrap().clone()
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn statistics_are_the_published_ones() {
    let sets = sets();
    let folder = Folder::new();
    for expected in PUBLISHED {
        let domain = if expected.domain.is_empty() { String::new() } else { format!("--domain {}", expected.domain) };
        let report = rows(&folder, &format!("inspect --json {domain}"), &sets.join(expected.source)).swap_remove(0);
        let rate = |end: &str| (number(&report[end]["switch_rate"]), report[end]["layer"].as_u64());
        let (lowest, highest) = (rate("switch_rate_lowest"), rate("switch_rate_highest"));
        let [switch, memoryless] = ["switch_rate", "switch_rate_memoryless"].map(|key| number(&report[key]));
        println!(
            "{:<28} {:<8} switch {switch:.4} memoryless {memoryless:.4} lowest {:.4} (L{}) highest {:.4} (L{})",
            expected.source,
            expected.domain,
            lowest.0,
            lowest.1.unwrap_or_default(),
            highest.0,
            highest.1.unwrap_or_default(),
        );
        let shape = ["tokens", "layers", "experts", "k"].map(|key| report[key].as_u64().unwrap());
        assert_eq!(shape, expected.shape, "{}", expected.source);
        for (what, found, expected) in [
            ("switch rate", switch, expected.switch_rate),
            ("memoryless", memoryless, expected.memoryless),
            ("lowest", lowest.0, expected.lowest.0),
            ("highest", highest.0, expected.highest.0),
        ] {
            assert!((found - expected).abs() <= TOLERANCE, "{what}: expected {expected}, found {found}");
        }
        for (found, expected) in [(lowest.1, expected.lowest.1), (highest.1, expected.highest.1)] {
            assert!(expected.is_none() || found == expected, "expected layer {expected:?}, found {found:?}");
        }
    }
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn every_set_runs() {
    let sets = sets();
    let folder = Folder::new();
    let mut names: Vec<&str> = PUBLISHED.iter().map(|set| set.source).chain(COUNTS.iter().copied()).collect();
    names.dedup();
    for name in names {
        let rows = rows(&folder, "run --json", &sets.join(name));
        assert!(!rows.is_empty() && rows.iter().all(|row| (0.0..=1.0).contains(&number(&row["miss_rate"]))), "{name}");
        println!("{name}: {} rows", rows.len());
    }
    let loads = rows(&folder, "inspect --json", &sets.join("colibri-olmoe-usage"));
    assert!((number(&loads[0]["max_over_mean_load"]) - 3.1).abs() < 0.05);
}
