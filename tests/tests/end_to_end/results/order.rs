//! Recall by the size of what it remembers, along a trace, and of tokens in random order; what fetching saves behind a
//! serial link.

use std::path::PathBuf;

use cptr_trace::import::{Options, Recording as Read};
use cptr_trace::{Shape, Trace, native};

use super::{
    Both, Column, RECORDINGS, RESULTS, Recording, Stalls, Way, by_recording, by_row, none_differs, run_on, stalls,
};
use crate::command::Folder;
use crate::plan::table;
use crate::shared;
use crate::traces::number;

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn recall_by_size() {
    const HEADING: &str = "| | Qwen3 code | Qwen3 general | gpt-oss-20b |";
    const ROWS: [Column; 4] = [
        Way(&["recall:memory=64", "recall:memory=256", "recall:memory=1024"]),
        Way(&["recall", "recall:memory=4096"]),
        Way(&["recall:bits=64", "recall", "recall:bits=256"]),
        Way(&["recall:places=32", "recall", "recall:places=128"]),
    ];
    let mut strategies: Vec<&str> = ROWS.iter().flat_map(Column::strategies).collect();
    strategies.sort_unstable();
    strategies.dedup();
    let runs = [0, 3, 4].map(|at| RECORDINGS[at].run("", &strategies));
    let said = table(RESULTS, HEADING);
    assert_eq!(said.len(), ROWS.len());
    none_differs([by_row(HEADING, &said, |at, _| runs.iter().map(|of| ROWS[at].numbers(of)).collect())]);
}

/// The way from `tracked` to Belady in every thousand tokens that count.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn recall_along_the_traces() {
    const HEADING: &str = "| trace | gap closed in each block |";
    none_differs([by_recording(HEADING, |recording| {
        let blocks = recording.tokens as usize / 2 / 1000;
        let of = recording.run("", &["tracked", "recall", "belady"]);
        let misses = |name: &str| {
            let timeline: Vec<f64> =
                of[name]["miss_rate_timeline"].as_array().expect("parts").iter().map(number).collect();
            timeline.chunks(timeline.len() / blocks).map(|block| block.iter().sum::<f64>()).collect::<Vec<_>>()
        };
        let [tracked, recall, belady] = ["tracked", "recall", "belady"].map(misses);
        vec![(0..blocks).map(|at| (tracked[at] - recall[at]) / (tracked[at] - belady[at])).collect()]
    })]);
}

/// The ids of a recording's first tokens in an order drawn at random, as a native trace of one sequence.
fn shuffled(recording: &Recording, folder: &Folder) -> PathBuf {
    let set = shared::sets().join(recording.set);
    let Ok(Read::Tokens(trace)) = cptr_trace::import::read(&set, &Options::default()) else {
        panic!("{}", set.display())
    };
    let domain = recording.domain.trim_start_matches("--domain ");
    let domain = trace.meta.domains.iter().position(|name| name == domain).filter(|_| !domain.is_empty());
    let kept = |token: &usize| domain.is_none_or(|domain| usize::from(trace.domain[*token]) == domain);
    let mut order: Vec<usize> = (0..trace.shape.tokens).filter(kept).take(recording.tokens as usize).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut order);
    let Shape { layers, k, .. } = trace.shape;
    let ids =
        order.iter().flat_map(|token| &trace.ids[token * layers * k..(token + 1) * layers * k]).copied().collect();
    let mut drawn = Trace::of_ids(Shape { tokens: order.len(), ..trace.shape }, ids);
    drawn.meta.router = trace.meta.router;
    let path = folder.path().join("shuffled.safetensors");
    native::write(&drawn, &path).expect("a trace is written");
    path
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn tokens_in_random_order() {
    const HEADING: &str = "| trace | LRU | tracked | recall | tracked+recall-fetch:gain=off | recall-fetch:gain=off |";
    const COLUMNS: [Column; 5] = [
        Stalls("lru"),
        Stalls("tracked"),
        Stalls("recall"),
        Both("tracked+recall-fetch:gain=off"),
        Both("recall-fetch:gain=off"),
    ];
    let strategies: Vec<&str> = COLUMNS.iter().flat_map(Column::strategies).collect();
    none_differs([by_recording(HEADING, |recording| {
        let folder = Folder::new();
        let options = format!("--tokens {} --prefill {}", recording.tokens, recording.tokens / 2);
        let of = run_on(&shuffled(recording, &folder), &options, &strategies);
        println!("{}: {:.4}", recording.name, stalls(&of["recall"]));
        COLUMNS.iter().map(|column| column.numbers(&of)).collect()
    })]);
}

/// Time of a token behind a serial link, by how long a layer computes for a copy, with the tokens as they were recorded
/// and in random order.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn fetching_behind_a_serial_link() {
    const HEADING: &str = "| trace | 8:1 | 4:1 | 2:1 | 1:1 | 1:2 | 1:4 | 1:8 | 1:16 |";
    const RATIOS: [f64; 8] = [8.0, 4.0, 2.0, 1.0, 1.0 / 2.0, 1.0 / 4.0, 1.0 / 8.0, 1.0 / 16.0];
    let (first, rest) = RESULTS.split_once(HEADING).expect("a table");
    let second = &RESULTS[first.len() + 1..];
    assert!(rest.contains(HEADING), "the second table");
    let folder = Folder::new();
    for (at, ratio) in RATIOS.iter().enumerate() {
        folder.file(&format!("serial{at}.toml"), serial(*ratio));
    }
    let tables = [(RESULTS, false), (second, true)].map(|(document, random)| {
        let said = table(document, HEADING);
        assert_eq!(said.len(), RECORDINGS.len());
        by_row(HEADING, &said, |at, row| {
            let recording = &RECORDINGS[at];
            assert!(recording.name.starts_with(row[0]), "{}", row[0]);
            let (set, domain) = if random {
                (shuffled(recording, &folder), "")
            } else {
                (shared::sets().join(recording.set), recording.domain)
            };
            let cell = |at: usize| {
                let machine = folder.path().join(format!("serial{at}.toml"));
                let options = format!(
                    "{domain} --tokens {} --prefill {} --system {} --hidden 4096 --expert-inner 4 --layers-only",
                    recording.tokens,
                    recording.tokens / 2,
                    machine.display()
                );
                let of = run_on(&set, &options, &["lru", "recall", "recall-fetch"]);
                let time = |name: &str| number(&of[name]["token_time_us"]);
                ["recall", "lru"].map(|rival| 100.0 * time("recall-fetch") / time(rival)).into()
            };
            (0..RATIOS.len()).map(cell).collect()
        })
    });
    none_differs(tables);
}

/// A machine that computes a layer `ratio` times as long as a copy takes, as docs/results.md makes it of `offload`.
fn serial(ratio: f64) -> String {
    const OFFLOAD: &str = include_str!("../../../../hw-model/data/systems/offload.toml");
    let changes = [
        ("tflop_s = 989.4", 42.5 / ratio),
        ("memory_gb_s = 3352.0", 1e6),
        ("copy_launch_ns = 1000.0", 0.0),
        ("kernel_launch_ns = 1300.0", 0.0),
    ];
    changes.iter().fold(OFFLOAD.to_owned(), |text, (line, value)| {
        assert_eq!(text.matches(&format!("\n{line}")).count(), 1, "{line}");
        let key = line.split(" = ").next().expect("a key");
        text.replace(&format!("\n{line}"), &format!("\n{key} = {value:?}"))
    })
}
