//! `cptr attack`.

use std::path::{Path, PathBuf};

use crate::command::Folder;
use crate::plan::compare_blocks;
use crate::traces::number;

#[test]
fn what_the_chapter_shows_is_what_is_printed() {
    assert!(compare_blocks(include_str!("../../../docs/attack.md")) >= 3);
    assert!(compare_blocks(include_str!("../../../docs/robustness.md")) >= 2);
    assert!(compare_blocks(include_str!("../../../docs/tutorial.md")) >= 3);
}

/// Programs that were found once.
fn kept() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("attacks");
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

/// What hurt `tracked` still does, and none of it hurts `safe` beyond its bound.
#[test]
fn what_was_found_is_judged_again() {
    let folder = Folder::new();
    let files = kept();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let judged = |line: &str| {
            let page = folder.json(&format!("attack {line} --tokens 1024 --replay {} --json", file.display()));
            let row = page["rows"][0].clone();
            (number(&row["own"]) * 1024.0, number(&row["best"]) * 1024.0, number(&row["share"]))
        };
        let (.., share) = judged("tracked --against lru,once,recall");
        assert!(share <= 0.9, "{}: {share}", file.display());
        let (own, best, _) = judged("safe --against lru,tracked,recall --hurt loads");
        // 16 experts resident, 8 a token, three shadows: docs/harmless.md.
        assert!(own <= 1.03 * best + 917.0, "{}: {own} against {best}", file.display());
    }
}

#[test]
fn what_is_found_is_kept_whole() {
    let folder = Folder::new();
    let line = "attack tracked --tries 24 --tokens 256 --seed 3";
    let found = folder.json(&format!("{line} --json --out worst.safetensors --keep worst.json"));
    let (row, tokens) = (&found["rows"][0], found["tokens"].as_u64().unwrap());
    let again = folder.json(&format!("attack tracked --tokens {tokens} --replay worst.json --json"));
    assert_eq!((&again["rows"][0]["own"], &again["rows"][0]["best"]), (&row["own"], &row["best"]));
    // As any trace.
    let run = folder.rows("run worst.safetensors --strategy tracked --resident 16 --prefill 0");
    let stalls = number(&run[0]["stall_rate"]) * 8.0;
    assert!((stalls - number(&row["own"])).abs() < 1e-9, "{stalls}: {row}");
}

#[test]
fn what_cannot_be_attacked_is_refused() {
    let folder = Folder::new();
    folder.file("none.json", "{\"sets\": [[1]]}");
    folder.file(
        "beyond.json",
        "{\"sets\": [[70]], \"parts\": [{\"set\": 0, \"tokens\": 1, \"stride\": 0}], \"lag\": 0, \"nearness\": 0}",
    );
    for (line, expected) in [
        ("attack", "<STRATEGY>"),
        (
            "attack lru --hurt misses",
            "expected one of loads, stalls, time, mass, switches, migrations, silence, found \"misses\"",
        ),
        ("attack lru --top-k 64 --experts 32", "expected at most 32 experts of a token"),
        ("attack lru --resident 65", "1 to 64 resident"),
        ("attack lru --turnover 2", "expected 0 to 1, found 2"),
        ("attack lru --replay none.json", "none.json: expected a kept program"),
        ("attack lru --replay beyond.json", "beyond.json: expected a program of parts with sets of experts below 64"),
        ("attack best-split --tries 8", "division fastest needs a machine, and there is none"),
        ("attack lru --tokens 1000000 --layers 256", "expected at most 67108864 scores"),
        ("attack lru --tries 0", "0"),
        ("attack bounded --hurt divergence", "--hurt divergence: expected a model that reads (--prompt), found none"),
        ("attack bounded --then 8", "--prompt"),
    ] {
        let said = folder.refusal(line);
        assert!(said.contains(expected), "{line}: {said}");
    }
}

/// With a model in the loop.
#[cfg(feature = "model")]
mod prompts {
    use super::{Folder, Path, number};

    const CHAPTER: &str = include_str!("../../../docs/attack.md");

    /// What hurts, of the prompt that was found, of the worst of ordinary text, and of its mean.
    fn harms(folder: &Folder, options: &str) -> [f64; 3] {
        let page = folder.json(&format!("attack {options} --json"));
        let hurt = options.split("--hurt ").nth(1).unwrap().split(' ').next().unwrap();
        let harm = |row: &serde_json::Value| match hurt {
            "silence" => 1.0 - number(&row["least_run"]),
            "mass" => number(&row["mass_loss"]),
            other => number(&row[other]),
        };
        let rows = page["rows"].as_array().unwrap();
        [harm(&rows[0]), harm(&rows[1]), harm(&rows[2])]
    }

    /// The table of the chapter: a kept prompt, options, and what comes of them.
    #[test]
    fn kept_prompts_do_what_the_chapter_says() {
        let folder = Folder::new();
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("prompts");
        let rows: Vec<Vec<&str>> = CHAPTER
            .lines()
            .filter(|line| line.starts_with("| `") && line.contains(".json`"))
            .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect())
            .collect();
        assert!(rows.len() >= 3, "{rows:?}");
        for row in rows {
            let [file, options, expected @ ..] = &row[..] else { panic!("{row:?}") };
            let found = harms(&folder, &format!("{options} --prompt --replay {}", kept.join(file).display()));
            for (found, expected) in found.iter().zip(expected) {
                let expected: f64 = expected.parse().unwrap();
                // Products of floating-point numbers are not summed in the same order everywhere.
                assert!((found - expected).abs() <= 0.02 + 0.05 * expected, "{file} {options}: {found} {expected}");
            }
        }
    }

    /// A search finds what it says, keeps it, and finds it again.
    #[test]
    fn a_prompt_is_found_and_kept() {
        let folder = Folder::new();
        let line = "attack bounded:eps=0.2:keep=0 --prompt --hurt mass --tries 16 --tokens 32 --resident 8";
        let found = folder.json(&format!("{line} --json --keep worst.json"));
        let [row, worst, mean] = &found["rows"].as_array().unwrap()[..] else { panic!("{found:#}") };
        assert!(number(&row["mass_loss"]) > number(&mean["mass_loss"]), "{found:#}");
        assert!(number(&row["mass_loss"]) <= 0.2 + 1e-6 && number(&worst["mass_loss"]) <= 0.2 + 1e-6, "{found:#}");
        let again = folder.json(&format!("{line} --json --replay worst.json"));
        assert_eq!((&again["rows"][0], &again["prompt"]), (row, &found["prompt"]));
        // The raw router gives up nothing, whatever it reads.
        let raw = folder.json("attack raw --prompt --hurt divergence --replay worst.json --tokens 32 --then 32 --json");
        let raw = &raw["rows"][0];
        assert_eq!(["divergence", "changed", "mass_loss"].map(|key| number(&raw[key])), [0.0; 3], "{raw:#}");
        assert_eq!((number(&raw["judged"]), number(&raw["least_run"])), (32.0, 1.0));
    }

    #[test]
    fn prompts_that_cannot_be_judged_are_refused() {
        let folder = Folder::new();
        folder.file("beyond.json", "{\"tokens\": [1, 4000000]}");
        folder.file("one.json", "{\"tokens\": [1]}");
        for (options, expected) in [
            ("--hurt loads", "expected --hurt mass, silence, divergence or changed, found loads"),
            ("", "expected --hurt mass, silence, divergence or changed, found stalls"),
            ("--hurt mass --against lru", "--against: expected routing, found --prompt"),
            ("--hurt mass --tokens 1", "expected 2 to 16384 tokens of prompt and what follows, found 1 + 0"),
            ("--hurt mass --tokens 4096", "expected a text of 4096 tokens or more, found none"),
            ("--hurt mass --resident 99", "--resident: expected 1 to 32 experts per layer, found 99"),
            ("--hurt mass --replay beyond.json", "beyond.json: expected 2 to 16384 token ids below"),
            ("--hurt mass --replay one.json", "one.json: expected 2 to 16384 token ids below"),
            ("--hurt mass --out trace.safetensors", "cannot be used with"),
        ] {
            let said = folder.refusal(&format!("attack bounded --prompt {options}"));
            assert!(said.contains(expected), "{options}: {said}");
        }
    }
}
