//! Tables that are neither of memories nor of placement: several devices, contexts that stand still in noise, and what
//! prompts say of answers.

use serde_json::Value;

use super::context::{QWEN3, pair};
use super::{RESULTS, again, by_row, mended, none_differs, sentence};
use crate::command::Folder;
use crate::plan::table;
use crate::shared;
use crate::traces::number;

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn several_devices() {
    const HEADING: &str =
        "| devices | layout | layer, us | P95 | to round-robin | most loaded over mean | experts stored |";
    let said = table(RESULTS, HEADING);
    let runs = ["4", "8"].map(|devices| {
        let arguments = format!("devices --json --domain code --devices {devices} --bits 4");
        (devices, shared::rows(&Folder::new(), &arguments, &shared::sets().join(QWEN3)))
    });
    let row = |said: &Vec<&str>| {
        let (_, rows) = runs.iter().find(|(devices, _)| *devices == said[0]).expect("devices");
        // Behind the name stands whose layout it is, and what it takes.
        let name = said[1].split([' ', ',']).next().expect("a name");
        let row = rows.iter().find(|row| row["layout"] == name).unwrap_or_else(|| panic!("{name}"));
        let keys = ["layer_us", "layer_p95_us", "ratio_to_first", "imbalance", "stored"];
        let cells = said[2..].iter().zip(keys).map(|(cell, key)| again(cell, &[number(&row[key])]));
        said[..2].iter().map(|&cell| cell.to_owned()).chain(cells).collect()
    };
    let found: Vec<Vec<String>> = said.iter().map(row).collect();
    let folder = Folder::new();
    let changed = pair(&folder, QWEN3, "code", "math");
    let changed = shared::rows(&folder, "devices --json --devices 4 --bits 4", &changed);
    let faster = |layout: &str| {
        let row = changed.iter().find(|row| row["layout"] == layout).expect("a layout");
        1.0 / number(&row["ratio_to_first"])
    };
    let worth = format!(
        "balance learned from the prompt is worth {:.2}× in speed, replicas {:.2}×.",
        faster("balanced"),
        faster("overflow")
    );
    none_differs([mended(HEADING, &said, &found), sentence(worth)]);
}

/// Both tables of `cptr reproduce cptr`.
#[test]
#[ignore = "takes ten seconds"]
fn contexts_that_stand_still() {
    const CHOICES: &str = "| context/noise | | lru | smoothing 0.3 | hysteresis | rotate | bounded 0.04 \
                           | the same, tracked | recall | belady |";
    const CHANGES: &str = "| context/noise | detector: missed, false per 10,000, median delay \
                           | CUSUM of the mean cosine | CUSUM of the match |";
    let all = Folder::new().json("reproduce cptr --json");
    let list = |key: &str| all[key].as_array().expect("rows").clone();
    let (rows, detections) = (list("rows"), list("detections"));
    let at = |rows: &[Value], decibels: &str| -> Vec<Value> {
        let ratio: f64 = decibels.trim_end_matches(" dB").parse().expect("a ratio");
        rows.iter().filter(|row| number(&row["snr_db"]) == ratio).cloned().collect()
    };
    let said = table(RESULTS, CHOICES);
    let choices = by_row(CHOICES, &said, |place, row| {
        // The name of a ratio stands in the first of its rows.
        let ratio = said[..=place].iter().rev().find(|row| !row[0].is_empty()).expect("a ratio")[0];
        let key = ["switch_rate", "hit_rate", "mass_loss"].into_iter().find(|key| key.starts_with(&row[1][..3]));
        let of = at(&rows, ratio);
        assert_eq!(of.len(), row.len() - 2);
        [vec![]].into_iter().chain(of.iter().map(|row| vec![number(&row[key.expect("a measure")])])).collect()
    });
    let said = table(RESULTS, CHANGES);
    let row = |said: &Vec<&str>| {
        let cell = |row: Value| match row["median_delay"].as_f64() {
            Some(delay) => {
                format!("{}, {:.1}, {delay}", row["missed"], number(&row["false_alarms_per_10k"]))
            }
            None => row["missed"].to_string(),
        };
        [said[0].to_owned()].into_iter().chain(at(&detections, said[0]).into_iter().map(cell)).collect()
    };
    let found: Vec<Vec<String>> = said.iter().map(row).collect();
    none_differs([choices, mended(CHANGES, &said, &found)]);
}

/// What prompts say of answers, of the same domain and of others.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn prompts_and_answers() {
    const HEADING: &str = "| trace | same domain: cosine | covered | best fixed set | other domain: cosine | covered |";
    const SETS: [&str; 4] = ["qwen3-30b-a3b-domains", "deepseek-v2-lite-esft", "tiny-moe-8m", "sticky-moe-137m"];
    let said = table(RESULTS, HEADING);
    assert_eq!(said.len(), SETS.len());
    let row = |(said, set): (&Vec<&str>, &str)| {
        let rows = shared::rows(&Folder::new(), "inspect --json --forecast", &shared::sets().join(set));
        let range = |same: bool, key: &str| {
            let of = rows.iter().filter(|row| (row["prompt"] == row["answer"]) == same);
            let numbers: Vec<f64> = of.map(|row| number(&row[key])).collect();
            let end = |fold: fn(f64, f64) -> f64| numbers.iter().copied().reduce(fold);
            // A share, or a cosine.
            let text =
                |number: f64| if key == "cosine" { format!("{number:.2}") } else { format!("{:.0}", 100.0 * number) };
            match [end(f64::min), end(f64::max)].map(|end| end.map(text)) {
                [Some(low), Some(high)] if low == high => low,
                [Some(low), Some(high)] => format!("{low} to {high}"),
                _ => "-".to_owned(),
            }
        };
        let share = |range: String| if range == "-" { range } else { format!("{range} %") };
        [
            said[0].to_owned(),
            range(true, "cosine"),
            share(range(true, "coverage")),
            share(range(true, "best_coverage")),
            range(false, "cosine"),
            share(range(false, "coverage")),
        ]
        .into()
    };
    let found: Vec<Vec<String>> = said.iter().zip(SETS).map(row).collect();
    none_differs([mended(HEADING, &said, &found)]);
}

/// Both tables of `cptr reproduce ctx-aware`.
#[test]
#[ignore = "takes two minutes"]
fn the_published_evaluation() {
    const FIGURES: &str = "| model | figure | published | baseline copies | baseline stays | copies, fixed rate |";
    const SHARES: &str = "| | neither | placement only | precision only | both | without selector |";
    let all = Folder::new().json("reproduce ctx-aware --json");
    let [figures, shares] = ["rows", "shares"].map(|key| all[key].as_array().expect("rows").clone());
    let named = |row: &Value| format!("{}, {} bits", row["model"].as_str().expect("a model"), row["bits"]);
    let said = table(RESULTS, FIGURES);
    assert_eq!(said.len(), figures.len());
    let row = |(said, found): (&Vec<&str>, &Value)| {
        let published = [0, 1].map(|end| number(&found["published"][end]));
        let published = if published[0] == published[1] { &published[..1] } else { &published };
        let ways = ["moves", "stays", "moves_fixed_rate"].map(|way| {
            let holds = if found[format!("{way}_holds")] == true { "in" } else { "out" };
            format!("{:.2} {holds}", number(&found[way]))
        });
        let figure = found["figure"].as_str().expect("a figure").to_owned();
        [named(found), figure, again(said[2], published)].into_iter().chain(ways).collect()
    };
    let found: Vec<Vec<String>> = said.iter().zip(&figures).map(row).collect();
    let apart = table(RESULTS, SHARES);
    let rates = by_row(SHARES, &apart, |at, row| {
        assert_eq!(row[0], named(&shares[at]));
        let keys = ["neither", "placement", "precision", "both", "without_selector"];
        keys.map(|key| vec![number(&shares[at][key])]).into()
    });
    none_differs([mended(FIGURES, &said, &found), rates]);
}
