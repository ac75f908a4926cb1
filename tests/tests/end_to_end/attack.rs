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
    ] {
        let said = folder.refusal(line);
        assert!(said.contains(expected), "{line}: {said}");
    }
}
