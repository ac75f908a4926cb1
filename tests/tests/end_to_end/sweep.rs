//! `cptr sweep` and `cptr merge`.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use crate::command::{Folder, Output, finish};
use crate::plan::compare_blocks;
use crate::traces::bundled;

/// Strategies with and without a parameter of their own, two machines of which one cannot run all, two traces.
const GRID: &str = r#"
[run]
source = "{trace}"
domain-tokens = 200
strategy = "{policy}"
resident = "{memory}"
system = "{machine}"
hidden = 256
expert-inner = 512

[parameters]
trace = ["tiny-moe-8m.safetensors", "gpt-oss-20b.safetensors"]
policy = ["lru", "bounded:eps={eps}+lru", "once+in-place+uniform:bits=2"]
eps = { from = 0.02, to = 0.1, steps = 3 }
memory = [8, 16]
machine = ["offload", "ndp:link.gt_s={rate}"]
rate = [16, 32]

[pareto]
token_time_us = "min"
mass_loss = "min"
"#;

/// Points of it that differ: 2 traces x (1 + 3 + 1) policies x 2 memories x 3 machines.
const POINTS: usize = 60;

fn folder() -> Folder {
    let folder = bundled();
    folder.file("grid.toml", GRID);
    folder
}

type Row = BTreeMap<String, String>;

/// Rows of a file in CSV, by the names of its columns.
fn rows(text: &[u8]) -> Vec<Row> {
    let text = std::str::from_utf8(text).unwrap();
    let mut lines = text.lines().map(cells);
    let names = lines.next().unwrap();
    lines.map(|cells| names.iter().cloned().zip(cells).collect()).collect()
}

/// Cells of a line in CSV; none of these has a line break.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.last_mut().unwrap().push(c),
        }
    }
    cells
}

#[test]
fn a_row_is_that_of_cptr_run() {
    let folder = folder();
    let said = folder.run("sweep grid.toml").ok().stdout;
    assert!(said.contains("60 points of grid.toml, a grid of 144") && said.contains("On the front: "), "{said}");
    let (text, found) = (folder.read("grid.csv"), rows(&folder.read("grid.csv")));
    assert_eq!(found.len(), POINTS);
    let (mut refused, mut front) = (0, 0);
    for row in &found {
        let arguments = row["command"].strip_prefix("cptr ").unwrap();
        front += usize::from(row["pareto"] == "true");
        if !row["refusal"].is_empty() {
            refused += 1;
            assert_eq!(folder.refusal(arguments), row["refusal"]);
            assert!(row["stall_rate"].is_empty() && row["pareto"] == "false");
            continue;
        }
        let run = rows(folder.run(&format!("{arguments} --csv -")).ok().stdout.as_bytes()).remove(0);
        assert!(run.iter().all(|(name, cell)| &row[name] == cell), "{arguments}");
        assert_eq!(row["parameter_eps"].is_empty(), !row["parameter_policy"].contains("eps"));
    }
    // Nothing runs near the data on a machine without a device, and one of the traces has no logits.
    assert_eq!(refused, 4 + 18);
    assert!(front > 0 && front < POINTS);
    parquet_has(&folder, "grid.parquet", &found);
    // Done is done: nothing runs again, and the same comes out.
    let again = folder.run("sweep grid.toml").ok();
    assert_eq!((again.stdout, again.stderr, folder.read("grid.csv")), (said, String::new(), text));
}

/// The same rows, texts as texts, numbers to the last bit.
fn parquet_has(folder: &Folder, name: &str, rows: &[Row]) {
    let reader = SerializedFileReader::new(std::fs::File::open(folder.path().join(name)).unwrap()).unwrap();
    let mut count = 0;
    for (found, row) in reader.get_row_iter(None).unwrap().zip(rows) {
        for (name, field) in found.unwrap().get_column_iter() {
            let cell = match field {
                Field::Null => String::new(),
                Field::Str(text) => text.clone(),
                Field::Bool(flag) => flag.to_string(),
                Field::Double(number) => {
                    assert_eq!(row[name].parse::<f64>().unwrap().to_bits(), number.to_bits(), "{name}");
                    continue;
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(row[name], cell, "{name}");
        }
        count += 1;
    }
    assert_eq!(count, rows.len());
    assert_eq!(reader.metadata().file_metadata().schema_descr().num_columns(), rows[0].len());
}

#[test]
fn what_the_chapter_shows_is_what_is_printed() {
    assert!(compare_blocks(include_str!("../../../docs/sweep.md")) >= 1);
}

#[test]
fn goes_on_after_a_kill_with_no_point_twice_and_none_lost() {
    let folder = folder();
    folder.run("sweep grid.toml --out whole").ok();
    let mut kills = 0;
    loop {
        let mut command = folder.command("sweep grid.toml --out killed");
        let mut child =
            command.env("RAYON_NUM_THREADS", "1").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let before = lines(&folder, "killed.journal");
        let start = Instant::now();
        // As soon as a few points more are there.
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break true;
            }
            if lines(&folder, "killed.journal") > before + 7 {
                child.kill().unwrap();
                child.wait().unwrap();
                break false;
            }
            assert!(start.elapsed() < Duration::from_secs(600));
            std::thread::sleep(Duration::from_millis(1));
        };
        if ended {
            break;
        }
        kills += 1;
        assert!(!folder.path().join("killed.csv").exists());
        // A kill may come within a line as well.
        let journal = folder.read("killed.journal");
        folder.file("killed.journal", &journal[..journal.len() - kills]);
    }
    assert!(kills >= 2, "{kills}");
    assert_eq!(folder.read("killed.csv"), folder.read("whole.csv"));
    assert_eq!(folder.read("killed.parquet"), folder.read("whole.parquet"));
    assert_eq!(lines(&folder, "killed.journal"), POINTS + 1);
    let left: Vec<_> = folder.contents().into_keys().filter(|path| path.to_string_lossy().contains("killed")).collect();
    assert!(left.len() <= 4, "{left:?}");
}

/// Whole lines of a file that may not be there yet.
fn lines(folder: &Folder, name: &str) -> usize {
    let text = std::fs::read(folder.path().join(name)).unwrap_or_default();
    text.iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn parts_are_merged_to_what_one_machine_gives() {
    let folder = folder();
    folder.run("sweep grid.toml --out whole").ok();
    for part in 1..=3 {
        let said = folder.run(&format!("sweep grid.toml --out part --shard {part}/3")).ok().stdout;
        assert!(said.contains(&format!("part {part}/3, 20 points: part.{part}-of-3.journal")), "{said}");
        assert!(said.contains("cptr merge part.*-of-3.journal --out part"), "{said}");
    }
    let all = "part.3-of-3.journal part.1-of-3.journal part.2-of-3.journal";
    let said = folder.run(&format!("merge {all} --out part")).ok().stdout;
    assert!(said.contains("60 points of 3 parts"), "{said}");
    assert_eq!(folder.read("part.csv"), folder.read("whole.csv"));
    assert_eq!(folder.read("part.parquet"), folder.read("whole.parquet"));
    // What does not belong together.
    let text = String::from_utf8(folder.read("part.2-of-3.journal")).unwrap();
    let other = |from: &str, to: &str| folder.file("other.journal", text.replacen(from, to, 1));
    let merge = |parts: &str| folder.refusal(&format!("merge {parts} --out new"));
    assert_eq!(merge("part.1-of-3.journal part.3-of-3.journal"), "expected all 3 parts of the sweep, missing 2");
    let twice = merge(&format!("{all} part.1-of-3.journal"));
    assert!(twice.contains("part 1/3 is there twice: part.1-of-3.journal has it too"), "{twice}");
    let rest = "part.1-of-3.journal part.3-of-3.journal other.journal";
    other("\"version\":\"", "\"version\":\"9");
    assert!(merge(rest).contains("other.journal: expected points of cptr "));
    other("\"sweep\":\"", "\"sweep\":\"9");
    assert!(merge(rest).contains("other.journal: another sweep"));
    folder.file("other.journal", text.split_inclusive('\n').take(5).collect::<String>());
    assert!(merge(rest).contains("other.journal: 4 of 20 points: run part 2/3 of the sweep again"));
    folder.file("other.journal", "{}\n");
    assert!(merge(rest).contains("other.journal: line 1: no journal of a sweep"));
    assert!(merge("none.journal").contains("expected the journal of a sweep, found none"));
    assert!(folder.refusal(&format!("merge {all} --out no/such/name")).contains("expected a name in a folder"));
}

#[test]
fn tasks_of_slurm_take_their_parts() {
    let folder = folder();
    let task = |id: &str, count: &str| -> Output {
        let mut command = folder.command("sweep grid.toml --out task");
        command.envs([("SLURM_ARRAY_TASK_ID", id), ("SLURM_ARRAY_TASK_COUNT", count), ("SLURM_ARRAY_TASK_MIN", "4")]);
        finish(&mut command)
    };
    assert!(task("5", "30").ok().stdout.contains("part 2/30, 2 points"));
    let refused = task("99", "30");
    assert!(refused.code == 2 && refused.stderr.starts_with("cptr: --shard: expected an array"), "{refused:?}");
    let script = folder.run("sweep --job-script").ok().stdout;
    assert!(script.starts_with("#!/bin/sh\n") && script.contains("\n#SBATCH --array=1-8\n"), "{script}");
}

#[test]
fn what_cannot_be_swept_is_refused_and_nothing_written() {
    let folder = folder();
    let run = "[run]\nsource = \"tiny-moe-8m.safetensors\"\nstrategy = \"{a}\"\n";
    let steps = "{ from = 0, to = 1, steps = 1000 }";
    folder.file("counts.json", r#"{"logical_count": [[1, 2], [3, 4]]}"#);
    for (text, expected) in [
        (String::new(), "file.toml: line 1: missing field `run`"),
        (
            format!("{run}[parameters]\nb = [1]"),
            "file.toml: run.strategy: expected the name of a parameter, found \"a\"",
        ),
        (format!("{run}[parameters]\na = [\"bounde\"]"), "(bounded?)"),
        (format!("{run}resdent = 3\n[parameters]\na = [\"lru\"]"), "found \"resdent\" (resident?)"),
        (format!("{run}resident = \"x\"\n[parameters]\na = [\"lru\"]"), "expected experts per layer (16), or bytes"),
        (format!("{run}[parameters]\na = [\"lru\"]\n[pareto]\nmiss = \"min\""), "pareto: expected a column of numbers"),
        (
            format!(
                "{run}prefill = \"{{b}}{{c}}{{d}}\"\n[parameters]\na = [\"lru\"]\nb = {steps}\nc = {steps}\nd = {steps}"
            ),
            "expected at most 1000000 points, found 1 x 1000 x 1000 x 1000",
        ),
        (
            "[run]\nsource = \"counts.json\"\nstrategy = \"lru\"".into(),
            "counts.json: expected a trace of tokens for a sweep",
        ),
        ("[run]\nsource = \"none\"\nstrategy = \"lru\"".into(), "none: "),
    ] {
        folder.file("file.toml", &text);
        let found = folder.refusal("sweep file.toml");
        assert!(found.contains(expected), "{text}: {found}");
    }
    for (line, expected) in [
        ("sweep", "required arguments were not provided: <FILE.toml>"),
        ("sweep none.toml", "none.toml: "),
        ("sweep grid.toml --shard 9/8", "expected a part of all, such as 3/8"),
        ("sweep grid.toml --out no/such", "expected a name in a folder that there is"),
        ("merge --out x", "required arguments were not provided: <SHARD>"),
    ] {
        let found = folder.refusal(line);
        assert!(found.contains(expected), "cptr {line}: {found}");
    }
    // A journal of another sweep stays as it is.
    folder.file("small.toml", "[run]\nsource = \"tiny-moe-8m.safetensors\"\ntokens = 50\nstrategy = \"lru\"");
    folder.run("sweep small.toml").ok();
    folder.file("small.toml", "[run]\nsource = \"tiny-moe-8m.safetensors\"\ntokens = 60\nstrategy = \"lru\"");
    assert!(folder.refusal("sweep small.toml").contains("small.journal: another sweep"));
}

#[test]
fn two_processes_never_write_one_output() {
    let folder = folder();
    let mut first = folder.command("sweep grid.toml --out one");
    let mut first = first.env("RAYON_NUM_THREADS", "1").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while lines(&folder, "one.journal") < 2 {
        assert!(first.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = folder.run("sweep grid.toml --out one");
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(second.code, 2, "{second:?}");
    assert!(second.stderr.contains("one.journal: another process writes it"), "{second:?}");
    folder.run("sweep grid.toml --out one").ok();
    assert_eq!(rows(&folder.read("one.csv")).len(), POINTS);
}

#[test]
fn drawn_points_are_as_many_as_asked_for() {
    let folder = folder();
    let text = |method: &str| {
        format!(
            "[run]\nsource = \"tiny-moe-8m.safetensors\"\ntokens = 40\nstrategy = \"bounded:eps={{eps}}\"\n\
             [parameters]\neps = {{ from = 0.001, to = 0.5, log = true }}\n\
             [search]\nmethod = \"{method}\"\npoints = 12\nseed = 7"
        )
    };
    for method in ["random", "latin-hypercube"] {
        folder.file(&format!("{method}.toml"), text(method));
        folder.run(&format!("sweep {method}.toml")).ok();
        let mut values: Vec<f64> = rows(&folder.read(&format!("{method}.csv")))
            .iter()
            .map(|row| row["parameter_eps"].parse().unwrap())
            .collect();
        values.sort_by(f64::total_cmp);
        assert_eq!(values.len(), 12);
        if method == "latin-hypercube" {
            let part = |value: &f64| ((value / 0.001).ln() / 500f64.ln() * 12.0) as usize;
            assert_eq!(values.iter().map(part).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
        }
    }
}

#[cfg(feature = "model")]
#[test]
fn models_are_swept_too() {
    let folder = Folder::new();
    folder.file(
        "model.toml",
        "[run]\nlength = 32\nstrategy = \"bounded:eps={eps}\"\n[parameters]\neps = [0.02, 0.1]\n\
         [pareto]\nperplexity = \"min\"\nmiss_rate = \"min\"",
    );
    folder.run("sweep model.toml").ok();
    for row in rows(&folder.read("model.csv")) {
        let arguments = row["command"].strip_prefix("cptr ").unwrap();
        let run = rows(folder.run(&format!("{arguments} --csv -")).ok().stdout.as_bytes()).remove(0);
        assert!(!row["perplexity"].is_empty() && run.iter().all(|(name, cell)| &row[name] == cell), "{arguments}");
    }
}
