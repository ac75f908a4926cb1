//! `cptr reproduce PAPER --fit`: what papers do not say, fitted to what they publish. The numbers of
//! docs/reproduce.md are held against what the command prints.

use cptr_sim::reproduce::fit::{Setting, short};
use serde_json::Value;

use crate::command::Folder;
use crate::traces::number;

const DOCUMENT: &str = include_str!("../../../docs/reproduce.md");

/// Rows of a table of the document, by the name of its first column.
fn documented(first: &str) -> Vec<&'static str> {
    let table = DOCUMENT.lines().skip_while(|line| !line.starts_with(&format!("| {first} |")));
    table.skip(2).take_while(|line| line.starts_with('|')).collect()
}

#[track_caller]
fn compare(first: &str, printed: &[String]) {
    let documented = documented(first);
    assert!(!documented.is_empty(), "no table of {first}");
    assert!(documented == *printed, "docs/reproduce.md, table of {first}, should be\n{}", printed.join("\n"));
}

fn text(row: &Value, key: &str) -> String {
    match &row[key] {
        Value::Number(number) => short(number.as_f64().unwrap()),
        Value::String(text) => text.clone(),
        _ => String::new(),
    }
}

fn figure(row: &Value) -> String {
    let published = if row["published_low"] == row["published_high"] {
        number(&row["published_low"]).to_string()
    } else {
        format!("{} to {}", number(&row["published_low"]), number(&row["published_high"]))
    };
    let left_out =
        format!("{} ({} to {})", text(row, "left_out"), text(row, "left_out_low"), text(row, "left_out_high"));
    let left_out = if row["left_out"].is_null() { String::new() } else { left_out };
    let verdict = text(row, "verdict").replace('-', " ");
    let (name, shipped, fitted) = (text(row, "figure"), text(row, "unfitted"), text(row, "fitted"));
    format!("| {name} | {published} | {shipped} | {fitted} | {left_out} | {verdict} |").replace("  ", " ")
}

fn parameter(row: &Value) -> String {
    let interval = row["interval"].as_array().unwrap().iter().map(|value| match value {
        Value::Number(number) => Setting::Number(number.as_f64().unwrap()).to_string(),
        value => value.as_str().unwrap().into(),
    });
    let interval = interval.collect::<Vec<_>>().join(if row["listed"] == true { ", " } else { " to " });
    format!(
        "| {} | {} | {interval} | {} |",
        text(row, "name"),
        text(row, "best"),
        text(row, "verdict").replace('-', " ")
    )
}

/// The whole of the first paper: both points of Mixtral-8x22B within 2 %, every figure judged, every parameter with its
/// interval; and the document has what is printed.
#[test]
fn the_context_aware_paper_is_explained() {
    let folder = Folder::new();
    let all = folder.json("reproduce ctx-aware --fit --json");
    let list = |key: &str| all[key].as_array().unwrap().clone();
    let rows = list("rows");
    let of = |name: &str| rows.iter().find(|row| row["figure"] == name).unwrap();
    for name in ["8x22B, 3 bits: decode", "8x22B, 2 bits: decode"] {
        let row = of(name);
        assert!(number(&row["off"]).abs() < 0.02 && row["unit"] == "tokens/s" && row["verdict"] == "in", "{row:#}");
    }
    for row in &rows {
        let known = ["in", "out", "not-identifiable"].contains(&row["verdict"].as_str().unwrap());
        assert!(known && (row["left_out"].is_number() || row["reason"] != ""), "{row:#}");
        if row["left_out"].is_number() {
            let [low, best, high] = ["left_out_low", "left_out", "left_out_high"].map(|key| number(&row[key]));
            let [least, most] = ["reachable_low", "reachable_high"].map(|key| number(&row[key]));
            let order = [least, low, best, high, most];
            assert!(order.windows(2).all(|pair| pair[0] <= pair[1] * (1.0 + 1e-6)), "{row:#}");
        }
    }
    let parameters = list("parameters");
    let mapping = parameters.iter().find(|row| row["name"] == "ndp.memory.mapping").unwrap();
    assert_eq!((&mapping["best"], &mapping["verdict"]), (&"row-contiguous".into(), &"identified".into()));
    assert!(list("hypotheses")[0]["only"] == true && list("values").iter().any(|row| row["possible"] == false));
    let counted = |single| {
        let one = |row: &&Value| row["counted"] == true && (row["published_low"] == row["published_high"]) == single;
        rows.iter().filter(one).count()
    };
    assert_eq!((&all["fitted_values"], &all["fitted_ranges"]), (&counted(true).into(), &counted(false).into()));
    let freedom = counted(true) as i64 - all["used_parameters"].as_i64().unwrap();
    assert_eq!(all["degrees_of_freedom"], freedom);

    compare("figure", &rows.iter().map(figure).collect::<Vec<_>>());
    compare("parameter", &parameters.iter().map(parameter).collect::<Vec<_>>());
    let layer = |row: &Value| {
        let us = |key: &str| format!("{:.0}", number(&row[key]));
        let keys =
            ["published_us", "unfitted_us", "fitted_us", "machine_us", "dispatch_us", "copies_us", "constant_us"];
        format!("| {} | {} |", text(row, "figure"), keys.map(us).join(" | "))
    };
    compare("mean layer, us", &list("layers").iter().map(layer).collect::<Vec<_>>());
    let trade = |row: &Value| format!("| {} | {} |", text(row, "known"), text(row, "then"));
    compare("if known", &list("trade_offs").iter().map(trade).collect::<Vec<_>>());
    let slope = |key: &str| number(&list("layers")[0][key]) - number(&list("layers")[1][key]);
    let [published, unfitted, fitted] = ["published_us", "unfitted_us", "fitted_us"].map(slope);
    let without = number(&list("hypotheses")[0]["chi2_without"]);
    for sentence in [
        format!("{published:.0} us as published, {unfitted:.0} us unfitted, {fitted:.0} us row by row"),
        format!("the best has chi squared {without:.0}"),
    ] {
        assert!(DOCUMENT.contains(&sentence), "{sentence}");
    }
    let chi2 = format!("chi squared {:.1}", number(&all["chi2"]));
    assert!(
        DOCUMENT.contains(&chi2) && DOCUMENT.contains(&format!("{freedom} degrees of freedom")),
        "{chi2} {freedom}"
    );
}

/// The document's own example: a paper is a file.
#[test]
fn a_paper_of_ones_own() {
    let example = DOCUMENT.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = Folder::new();
    folder.file("two-points.toml", example);
    let all = folder.json("reproduce two-points.toml --fit --json");
    let rows = all["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| number(&row["off"]).abs() < 0.02 && row["verdict"] == "in"), "{rows:#?}");
    compare("two points", &rows.iter().map(figure).collect::<Vec<_>>());
    let parameters = all["parameters"].as_array().unwrap();
    compare("of the two points", &parameters.iter().map(parameter).collect::<Vec<_>>());
    let printed = folder.run("reproduce two-points.toml --fit").ok().stdout;
    for part in
        ["the only value that the figures allow", "A bit more costs a layer 263 us as published", "2 figures: 2 in"]
    {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    // What is wrong with one ends with a sentence.
    for (from, to, expected) in [
        ("name = \"layer_us\"", "name = \"magic_us\"", "paper.toml: free magic_us: expected batch, scale_bits"),
        (
            "from = 0.0\nto = 1000.0",
            "from = 9.0\nto = 3.0",
            "paper.toml: free layer_us: expected from below to, found 9 and 3",
        ),
        ("bits = 3", "bits = 9", "paper.toml: figure \"3 bits\": bits: expected 1 to 4, or 16"),
        ("value = 15.321", "low = 16.0\nhigh = 15.0", "a range above 0 that rises, found 16 to 15"),
        ("holds = 1.0", "holds = 0.1", "strategy ours: holds 0 experts of Mixtral-8x22B: expected 1 to 8"),
        ("[[figure]]", "[[figure", "paper.toml: line "),
    ] {
        assert!(example.contains(from), "{from}");
        folder.file("paper.toml", example.replacen(from, to, 1));
        let sentence = folder.refusal("reproduce paper.toml --fit");
        assert!(sentence.contains(expected), "{to}: {sentence}");
    }
}

/// What the others publish and this model has a quantity for.
#[test]
fn the_other_papers_are_judged() {
    let folder = Folder::new();
    for (paper, figures) in [("monde", 4), ("dynande", 5), ("cxl-pnm", 5)] {
        let rows = folder.rows(&format!("reproduce {paper} --fit"));
        assert_eq!(rows.len(), figures, "{paper}");
        let judged =
            |row: &Value| row["verdict"] == "in" || row["verdict"] == "not-identifiable" && row["reason"] != "";
        assert!(rows.iter().all(judged), "{rows:#?}");
    }
    let parameters = |paper: &str| {
        let all = folder.json(&format!("reproduce {paper} --fit --json"));
        all["parameters"].as_array().unwrap().iter().map(parameter).collect::<Vec<_>>()
    };
    let all: Vec<String> = ["monde", "dynande", "cxl-pnm"].into_iter().flat_map(parameters).collect();
    compare("of the others", &all);
}

#[test]
fn wrong_names_are_refused() {
    let folder = Folder::new();
    for (arguments, expected) in [
        ("reproduce nothing", "expected ctx-aware or cptr, found \"nothing\""),
        (
            "reproduce nothing --fit",
            "--fit: expected one of ctx-aware, monde, dynande, cxl-pnm, or a file ending in .toml",
        ),
        ("reproduce monde", "monde: expected --fit"),
        ("reproduce none.toml --fit", "none.toml: "),
    ] {
        let sentence = folder.refusal(arguments);
        assert!(sentence.contains(expected), "cptr {arguments}: {sentence}");
    }
}
