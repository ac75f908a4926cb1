//! `cptr inspect --recall`: how much of a routing comes again.

use serde_json::Value;

use crate::traces::{bundled, number};

const TINY: &str = "tiny-moe-8m.safetensors";

#[test]
fn recall_by_everything() {
    let folder = bundled();
    let found = folder.json(&format!("inspect {TINY} --tokens 2400 --recall --json --report page.html"));
    assert_eq!((&found["schema"], &found["counted"]), (&"cptr.inspect/1".into(), &1200.into()));
    assert!((0.0..=1.0).contains(&number(&found["repeated"])));
    let rows = found["rows"].as_array().unwrap();
    let of = |by: &str| rows.iter().filter(|row| row["by"] == by).collect::<Vec<&Value>>();
    let at = |by: &str| of(by).iter().map(|row| row["at"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(at("lag"), ["1", "2", "4", "8"]);
    assert_eq!((at("window"), at("passages")), (vec!["4".to_owned()], vec!["all".to_owned(), "barred".to_owned()]));
    assert_eq!(at("layer"), ["0", "1", "2", "3"]);
    assert_eq!(at("memory"), ["64", "256", "1024", "2048", "4096"]);
    for row in rows {
        let pairs = [("recall_k", "recall_2k"), ("levels_k", "levels_2k"), ("ahead_k", "ahead_2k")];
        for (k, twice) in pairs.map(|(k, twice)| (&row[k], &row[twice])) {
            assert!(k.is_null() || number(k) <= number(twice) && (0.0..=1.0).contains(&number(twice)), "{row:#}");
        }
    }
    // On this model trajectories know more than levels, and the layers before more than the tokens before.
    let next = of("lag")[0];
    assert!(number(&next["recall_k"]) > 1.2 * number(&next["levels_k"]), "{next:#}");
    assert!(number(&next["ahead_k"]) > number(&next["recall_k"]), "{next:#}");
    // The exact search is what the core's comes to; a bar takes places away.
    let [all, barred] = of("passages")[..] else { panic!("{rows:#?}") };
    let usual = of("memory")[3];
    assert!((number(&all["recall_k"]) - number(&usual["recall_k"])).abs() < 0.04, "{all:#} {usual:#}");
    assert!(number(&barred["recall_k"]) <= number(&all["recall_k"]) + 0.01, "{barred:#} {all:#}");
    // As eviction: the exact search without forecast is `tracked` in floating point.
    let evicted = |by: &str| {
        let row = found["eviction"].as_array().unwrap().iter().find(|row| row["by"] == by).unwrap();
        (number(&row["miss_rate"]), row["gap"].as_f64())
    };
    assert!((evicted("levels").0 - evicted("tracked").0).abs() < 0.005, "{:#}", found["eviction"]);
    assert_eq!((evicted("tracked").1, evicted("belady").1), (None, Some(1.0)));
    assert!(evicted("all").1 > Some(0.0) && evicted("all").1 < evicted("recall").1.map(|gap| gap + 0.05));
    let page = String::from_utf8(folder.read("page.html")).unwrap();
    for title in ["by tokens ahead", "by layer", "by memory"] {
        assert!(page.contains(&format!("<h3>Choices that were forecast, {title}</h3>")), "{title}");
    }
    assert!(!page.contains("could not be drawn"));
    let text = folder.run(&format!("inspect {TINY} --tokens 2400 --recall")).ok().stdout;
    for part in ["1,200 of 2400 tokens counted", "By tokens ahead", "| 1 to 4 ", "| barred ", "layer ahead, k"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn refusals_of_recall() {
    let folder = bundled();
    for (arguments, part) in [
        (format!("inspect {TINY} --tokens 40 --recall"), "expected at least 64 tokens, found 40"),
        (format!("inspect {TINY} --recall --changes"), "--changes"),
        (format!("inspect {TINY} --recall --forecast"), "--forecast"),
    ] {
        let sentence = folder.refusal(&arguments);
        assert!(sentence.contains(part), "cptr {arguments}: {sentence}");
    }
}
