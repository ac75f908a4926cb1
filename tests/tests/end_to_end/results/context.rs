//! Domains joined in turn: what placements do when the context changes, and what detectors see of it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{RESULTS, again, by_row, mended, none_differs, run, sentence};
use crate::command::{Folder, finish};
use crate::plan::table;
use crate::shared;
use crate::traces::number;

pub(super) const QWEN3: &str = "qwen3-30b-a3b-domains";
pub(super) const DEEPSEEK: &str = "deepseek-v2-lite-esft";
/// A quarter of the experts of Qwen3 in GPU memory, behind a prompt.
const QUARTER: &str = "--system ndp --prefill 512 --resident 32";

/// A set, or one of its domains, as `cptr gen --join` names it.
fn part(set: &str, domain: &str) -> String {
    let set = shared::sets().join(set);
    if domain.is_empty() { set.display().to_string() } else { format!("{}#{domain}", set.display()) }
}

/// Domains in turn, as a trace of its own.
pub(super) fn joined(folder: &Folder, parts: &[(&str, &str)], options: &str) -> PathBuf {
    let parts: Vec<String> = parts.iter().map(|(set, domain)| part(set, domain)).collect();
    let files = std::fs::read_dir(folder.path()).expect("a folder").count();
    let name = format!("joined{files}.safetensors");
    finish(folder.command(&format!("gen {name} {options} --join")).arg(parts.join(","))).ok();
    folder.path().join(name)
}

/// The three domains of Qwen3 in turn, 24 segments.
pub(super) fn three_in_turn(folder: &Folder) -> PathBuf {
    joined(folder, &["code", "general", "math"].map(|domain| (QWEN3, domain)), "--segment 1000")
}

/// Two domains of a set, one change.
pub(super) fn pair(folder: &Folder, set: &str, from: &str, to: &str) -> PathBuf {
    joined(folder, &[(set, from), (set, to)], "--segment 1000 --segments 2")
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn placement_by_forecast() {
    const HEADING: &str = "| | tokens/s | full precision | covered | migrations per choice |";
    let folder = Folder::new();
    let trace = joined(&folder, &[(QWEN3, "code"), (QWEN3, "math")], "--segment 700 --segments 3");
    let said = table(RESULTS, HEADING);
    let names: Vec<&str> = said.iter().map(|row| row[0].trim_matches('`')).collect();
    let rows = run(&trace, QUARTER, &names);
    none_differs([by_row(HEADING, &said, |at, _| {
        let keys = ["tokens_per_s", "full_precision", "coverage", "migration_rate"];
        keys.map(|key| vec![number(&rows[at][key])]).into()
    })]);
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn one_change() {
    const HEADING: &str =
        "| bits | from, to | single: tokens/s, full precision | migrate | of foresight | more slack | of foresight |";
    /// By bits: what stands behind a strategy, and the slack that gives up more time for precision.
    const BITS: [(&str, &str, &str); 3] =
        [("4", "", ":slack=0.6"), ("3", ":bits=3", ":slack=0.3"), ("2", ":bits=2", ":slack=0.25")];
    let said = table(RESULTS, HEADING);
    let folder = Folder::new();
    let strategies = BITS.map(|(_, bits, slack)| {
        ["ctx-aware", "migrate", "foresight"]
            .map(|name| format!("{name}{bits}"))
            .into_iter()
            .chain(["migrate", "foresight"].map(|name| format!("{name}{bits}{slack}")))
            .collect::<Vec<_>>()
    });
    let all: Vec<&str> = strategies.iter().flatten().map(String::as_str).collect();
    // The first rows have every pair.
    let pairs: Vec<&str> = said.iter().filter(|row| row[0] == "4").map(|row| row[1]).collect();
    assert_eq!(said.len(), BITS.len() * pairs.len());
    let runs = pairs.iter().map(|&pair| {
        let (from, to) = pair.split_once(" to ").expect("two domains");
        let qwen3 = ["code", "general", "math"].contains(&from);
        let options = "--system ndp --prefill 512";
        let rows = if qwen3 {
            run(&self::pair(&folder, QWEN3, from, to), QUARTER, &all)
        } else {
            let options = format!("{options} --resident 16 --model DeepSeek-V2-Lite");
            run(&self::pair(&folder, DEEPSEEK, from, to), &options, &all)
        };
        println!("{pair}");
        (pair, rows)
    });
    let runs: Vec<(&str, Vec<Value>)> = runs.collect();
    let row = |said: &Vec<&str>| {
        let bits = BITS.iter().position(|(bits, ..)| *bits == said[0]).expect("bits");
        let (_, rows) = runs.iter().find(|(pair, _)| *pair == said[1]).expect("a pair");
        let each = strategies[0].len();
        let of = rows[bits * each..][..each].iter().map(|row| {
            let after = &row["after_change"];
            [number(&after["tokens_per_s"]), number(&after["full_precision"])]
        });
        let [single, migrate, foresight, slower, slower_foresight] = of.collect::<Vec<_>>().try_into().expect("five");
        let to = |of: [f64; 2], to: [f64; 2]| vec![of[0] / to[0], of[1] / to[1]];
        let numbers = [
            // Only the second number of the cell is a share.
            vec![single[0] / 100.0, single[1]],
            to(migrate, single),
            to(migrate, foresight),
            to(slower, single),
            to(slower, slower_foresight),
        ];
        let cells = said[2..].iter().zip(&numbers).map(|(cell, numbers)| again(cell, numbers));
        said[..2].iter().map(|&cell| cell.to_owned()).chain(cells).collect()
    };
    let found: Vec<Vec<String>> = said.iter().map(row).collect();
    none_differs([mended(HEADING, &said, &found)]);
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn three_domains_in_turn() {
    const HEADING: &str = "| strategy | tokens/s | to single | P50 | P95 | P99 | full precision | covered \
                           | migrations per token | link busy |";
    /// Choices of a token.
    const CHOICES: f64 = 48.0 * 8.0;
    let said = table(RESULTS, HEADING);
    let folder = Folder::new();
    let name = |row: &Vec<&'static str>| row[0].trim_matches('*').split(' ').next().expect("a name");
    let names: Vec<&str> = said.iter().map(name).collect();
    let rows = run(&three_in_turn(&folder), QUARTER, &names);
    let single = names.iter().position(|name| *name == "ctx-aware").expect("the single migration");
    let single = number(&rows[single]["tokens_per_s"]);
    none_differs([by_row(HEADING, &said, |at, _| {
        let of = |key: &str| number(&rows[at][key]);
        let ms = |key: &str| vec![of(key) / 1e3];
        vec![
            vec![of("tokens_per_s")],
            vec![of("tokens_per_s") / single],
            ms("token_time_p50_us"),
            ms("token_time_p95_us"),
            ms("token_time_p99_us"),
            vec![of("full_precision")],
            vec![of("coverage")],
            vec![CHOICES * of("migration_rate")],
            vec![of("link_us") / of("token_time_us")],
        ]
    })]);
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn one_context() {
    const HEADING: &str = "| trace | 4 bits | 3 bits | 2 bits |";
    const TRACES: [(&str, &str, &str); 6] = [
        ("Qwen3 code", QWEN3, "--domain code --resident 32"),
        ("Qwen3 general", QWEN3, "--domain general --resident 32"),
        ("Qwen3 math", QWEN3, "--domain math --resident 32"),
        ("DeepSeek-V2-Lite intent", DEEPSEEK, "--domain intent --resident 16 --model DeepSeek-V2-Lite"),
        ("DeepSeek-V2-Lite law", DEEPSEEK, "--domain law --resident 16 --model DeepSeek-V2-Lite"),
        ("gpt-oss-20b, decode", "gpt-oss-20b-decode", "--resident 8"),
    ];
    const BITS: [&str; 3] = ["", ":bits=3", ":bits=2"];
    let said = table(RESULTS, HEADING);
    assert_eq!(said.len(), TRACES.len());
    none_differs([by_row(HEADING, &said, |at, row| {
        let (name, set, options) = TRACES[at];
        assert_eq!(row[0], name);
        let strategies = BITS.map(|bits| ["ctx-aware", "migrate"].map(|name| format!("{name}{bits}"))).concat();
        let strategies: Vec<&str> = strategies.iter().map(String::as_str).collect();
        let rows = run(&shared::sets().join(set), &format!("--system ndp --prefill 512 {options}"), &strategies);
        let cell = |pair: &[Value]| {
            let [single, migrate] = [&pair[0], &pair[1]];
            // The first number of the cell is a ratio.
            let ratio = number(&migrate["tokens_per_s"]) / number(&single["tokens_per_s"]) / 100.0;
            vec![ratio, number(&single["full_precision"]), number(&migrate["full_precision"])]
        };
        rows.chunks(2).map(cell).collect()
    })]);
}

/// What is said below the table of three domains: with several sequences, with other sizes of memory, and with contexts
/// that alternate.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn around_three_domains() {
    let folder = Folder::new();
    let trace = three_in_turn(&folder);
    let of = |row: &Value, key: &str| number(&row[key]);
    let faster = |rows: &[Value], at: usize| of(&rows[1], "tokens_per_s") / of(&rows[at], "tokens_per_s");
    let single_and_moved = ["ctx-aware", "migrate"];
    let sequences = |count: u32| {
        let options = format!("--system ndp --resident 32 --batch {count} --prefill 100");
        let rows = run(&trace, &options, &single_and_moved);
        let [single, moved] = [0, 1].map(|at| 100.0 * of(&rows[at], "full_precision"));
        let named = if count == 4 { "4 sequences".to_owned() } else { format!("{count}:") };
        format!("{named} {:.2}×, {single:.1} and {moved:.1} %", faster(&rows, 0))
    };
    let memory = |experts: u32| {
        let rows = run(&trace, &format!("--system ndp --prefill 512 --resident {experts}"), &single_and_moved);
        format!("{:.2}×", faster(&rows, 0))
    };
    let [small, usual, large] = [16, 32, 48].map(memory);
    let alternating = [4, 40].map(|segment| {
        let trace = joined(&folder, &[(QWEN3, "code"), (QWEN3, "math")], &format!("--segment {segment}"));
        let bits = ["", ":bits=2"].map(|bits| {
            let names = ["ctx-aware", "migrate", "near-only"].map(|name| format!("{name}{bits}"));
            run(&trace, QUARTER, &names.each_ref().map(String::as_str))
        });
        let ratios = bits.each_ref().map(|rows| [0, 2].map(|other| format!("{:.2}×", faster(rows, other))));
        (ratios, 48.0 * 8.0 * of(&bits[0][1], "migration_rate"))
    });
    let [(ratios, often), (ratios_of_long, seldom)] = alternating;
    assert_eq!(ratios, ratios_of_long, "every 4 and every 40 tokens");
    let code = shared::sets().join(QWEN3);
    let half = run(&code, "--domain code --system ndp --prefill 512 --resident 16", &["d2moe", "migrate"]);
    let [nested, moved] = [&half[0], &half[1]];
    none_differs(
        [
            [4, 16, 64].map(sequences).join("; "),
            format!(
                "at 4 bits {} of the single migration and {} of no placement at all, at {often:.1} and {seldom:.1} \
                 copies a token of 4 allowed; at 2 bits {} and {}.",
                ratios[0][0], ratios[0][1], ratios[1][0], ratios[1][1]
            ),
            format!("Experts in GPU memory: 16 of 128 {small}, 32 {usual}, 48 {large}."),
            format!(
                "`d2moe` copies {:.0} times a token and decodes {:.0} tokens/s with a P99 of {:.1} ms, `migrate` {:.0} \
                 with {:.1} ms and {:.0} % at full precision",
                of(nested, "loads_per_token"),
                of(nested, "tokens_per_s"),
                of(nested, "token_time_p99_us") / 1e3,
                of(moved, "tokens_per_s"),
                of(moved, "token_time_p99_us") / 1e3,
                100.0 * of(moved, "full_precision")
            ),
        ]
        .map(sentence),
    );
}

/// Weights of counts against score sums.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn weight_of_counts() {
    let strategies = ["0", "0.25", "0.5", "0.75", "1"].map(|alpha| format!("ctx-aware:bits=2:alpha={alpha}"));
    let rows = run(
        &shared::sets().join("gpt-oss-20b-decode"),
        "--system ndp --prefill 512 --resident 8",
        &strategies.each_ref().map(String::as_str),
    );
    let shares: Vec<String> = rows.iter().map(|row| format!("{:.1}", 100.0 * number(&row["full_precision"]))).collect();
    let speeds: Vec<f64> = rows.iter().map(|row| number(&row["tokens_per_s"])).collect();
    let [slowest, fastest] = [f64::min, f64::max].map(|end| speeds.iter().copied().reduce(end).expect("rows"));
    none_differs([sentence(format!(
        "{} % at full precision at alpha 0, {} at 0.25, {} at 0.5, {} at 0.75, {} at 1; speed within {:.1} %",
        shares[0],
        shares[1],
        shares[2],
        shares[3],
        shares[4],
        100.0 * (fastest / slowest - 1.0)
    ))]);
}

/// The thresholds that are tried.
const THRESHOLDS: &str = "4,5,6,7,8,9,10,12,14,16,18,20,24,28,32";
/// As `cptr inspect --changes` names the detectors.
const DETECTORS: [&str; 3] = ["context and long run", "CUSUM of the mean cosine", "CUSUM of the match"];
/// Of what is a table's best threshold.
const MOST_FALSE: f64 = 4.0;

/// Rows of `cptr inspect --changes`, with the threshold of each.
fn detected(trace: &Path, options: &str) -> Vec<(u8, Value)> {
    let rows = shared::rows(&Folder::new(), &format!("inspect --json --changes {options}"), trace);
    let threshold = |row: &Value| {
        let (_, threshold) = row["detector"].as_str().and_then(|name| name.rsplit_once(' ')).expect("a threshold");
        threshold.parse().expect("a number")
    };
    rows.into_iter().map(|row| (threshold(&row), row)).collect()
}

/// False alarms per 10,000 tokens, median delay.
fn behind(row: &Value) -> String {
    let delay = row["median_delay"].as_f64().map_or("–".to_owned(), |delay| delay.to_string());
    format!("{:.1}, {delay}", number(&row["false_alarms_per_10k"]))
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn changes_seen() {
    const HEADING: &str =
        "| trace, segment | detector, threshold 20 | detector | CUSUM of the mean cosine | CUSUM of the match |";
    let said = table(RESULTS, HEADING);
    let gpt_oss = at_least_a_thousand("gpt-oss-20b-decode");
    assert_eq!(gpt_oss.len(), 8);
    let sets: [(&str, Vec<(&str, &str)>); 4] = [
        ("Qwen3", ["code", "general", "math"].map(|domain| (QWEN3, domain)).into()),
        ("tiny-moe-8m", vec![("tiny-moe-8m", "")]),
        ("gpt-oss-20b", gpt_oss.iter().map(|domain| ("gpt-oss-20b-decode", domain.as_str())).collect()),
        ("DeepSeek-V2-Lite", vec![(DEEPSEEK, "")]),
    ];
    let folder = Folder::new();
    let row = |said: &Vec<&str>| {
        let (set, segment) = said[0].split_once(", ").expect("a segment");
        let (_, parts) = sets.iter().find(|(name, _)| *name == set).expect("a set");
        let segment = segment.replace(',', "");
        let trace = joined(&folder, parts, &format!("--segment {segment}"));
        let rows = detected(&trace, &format!("--threshold {THRESHOLDS}"));
        let of = |detector: &'static str| {
            rows.iter().filter(move |(_, row)| row["detector"].as_str().is_some_and(|name| name.starts_with(detector)))
        };
        let (_, usual) = of(DETECTORS[0]).find(|(threshold, _)| *threshold == 20).expect("threshold 20");
        let first = format!("{} of {}, {}", usual["missed"], usual["changes"], behind(usual));
        let best = DETECTORS.map(|detector| {
            let few = of(detector).filter(|(_, row)| number(&row["false_alarms_per_10k"]) <= MOST_FALSE);
            // The first of those that miss as few: thresholds rise.
            let best = few.min_by_key(|(_, row)| row["missed"].as_u64());
            let (threshold, row) = best.expect("a threshold with few false alarms");
            let at = if row["median_delay"].is_null() { String::new() } else { format!(" @{threshold}") };
            format!("{}, {}{at}", row["missed"], behind(row))
        });
        [said[0].to_owned(), first].into_iter().chain(best).collect()
    };
    let found: Vec<Vec<String>> = said.iter().map(row).collect();
    let alone = ["code", "general", "math"].map(|domain| {
        let rows = detected(&shared::sets().join(QWEN3), &format!("--threshold 20 --domain {domain}"));
        [0, 1].map(|detector| format!("{:.1}", number(&rows[detector].1["false_alarms_per_10k"])))
    });
    let [ours, plain] = [0, 1].map(|at| format!("{}, {} and {}", alone[0][at], alone[1][at], alone[2][at]));
    none_differs([
        mended(HEADING, &said, &found),
        sentence(format!("it raises {ours} false alarms per 10,000 tokens, CUSUM at 20 raises {plain}")),
    ]);
}

/// Domains of a set with at least 1,000 tokens.
fn at_least_a_thousand(set: &str) -> Vec<String> {
    let read = cptr_trace::import::read(&shared::sets().join(set), &cptr_trace::import::Options::default());
    let Ok(cptr_trace::import::Recording::Tokens(trace)) = read else { panic!("{set}") };
    let tokens = |domain: usize| trace.domain.iter().filter(|&&other| usize::from(other) == domain).count();
    let domains = trace.meta.domains.iter().enumerate();
    domains.filter(|(domain, _)| tokens(*domain) >= 1000).map(|(_, name)| name.clone()).collect()
}
