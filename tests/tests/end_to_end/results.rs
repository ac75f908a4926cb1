//! Tables of docs/results.md, printed again from the public data sets and compared, and two of docs/compare.md from
//! models. A table that does not hold is printed as it should be.

mod batches;
mod bounds;
mod context;
mod made;
mod models;
mod order;
mod others;
mod parts;
mod selector;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::command::{Folder, finish};
use crate::plan::table;
use crate::shared;
use crate::traces::number;

const RESULTS: &str = include_str!("../../../docs/results.md");

/// What is read from a recording.
struct Recording {
    /// As the tables name it, or the beginning of that.
    name: &'static str,
    /// Where it lies in the folder of data sets.
    set: &'static str,
    domain: &'static str,
    /// Half of them are the prompt.
    tokens: u32,
    experts: u32,
}

const fn recording(
    name: &'static str,
    set: &'static str,
    domain: &'static str,
    tokens: u32,
    experts: u32,
) -> Recording {
    Recording { name, set, domain, tokens, experts }
}

const RECORDINGS: [Recording; 7] = [
    recording("Qwen3 code", "qwen3-30b-a3b-domains", "--domain code", 6000, 128),
    recording("tiny-moe-8m", "tiny-moe-8m", "", 12_000, 32),
    recording("Qwen3 math", "qwen3-30b-a3b-domains", "--domain math", 6000, 128),
    recording("Qwen3 general", "qwen3-30b-a3b-domains", "--domain general", 6000, 128),
    recording("gpt-oss-20b", "gpt-oss-20b-decode", "", 6000, 32),
    recording("DeepSeek-V2-Lite", "deepseek-v2-lite-esft", "", 6000, 64),
    recording("sticky-moe", "sticky-moe-137m", "", 6000, 16),
];

impl Recording {
    /// Whether a row of a table is this one's, whatever is said of it behind its name.
    fn is_of(&self, row: &[&str]) -> bool {
        row[0].starts_with(self.name)
    }

    /// What a strategy does on it, with options beside those of all tables.
    fn run(&self, options: &str, strategies: &[&str]) -> BTreeMap<String, Value> {
        let (tokens, prompt) = (self.tokens, self.tokens / 2);
        let options = options.replace("HALF", &(self.experts / 2).to_string());
        let options = format!("{} --tokens {tokens} --prefill {prompt} {options}", self.domain);
        run_on(&shared::sets().join(self.set), &options, strategies)
    }
}

/// What strategies do on a trace, by their names.
fn run_on(trace: &Path, options: &str, strategies: &[&str]) -> BTreeMap<String, Value> {
    let names = strategies.iter().map(|&name| name.to_owned());
    names.zip(run(trace, options, strategies)).collect()
}

/// Strategies side by side, in the order in which they are asked for.
fn run(trace: &Path, options: &str, strategies: &[&str]) -> Vec<Value> {
    let arguments = format!("run --json {options} --strategy {}", strategies.join(","));
    let mut rows = shared::rows(&Folder::new(), &arguments, trace);
    // The raw router comes first, asked for or not.
    let extra = rows.len() - strategies.len();
    rows.split_off(extra)
}

/// A cell with other numbers in the place of its own, each with as many decimals; shares where it has a per cent sign.
#[track_caller]
fn again(cell: &str, numbers: &[f64]) -> String {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let (mut out, mut rest, mut numbers) = (String::new(), cell, numbers.iter());
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        let (old, after) = from.split_at(from.find(|c: char| !is_number(c)).unwrap_or(from.len()));
        let decimals = old.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let new = numbers.next().unwrap_or_else(|| panic!("{cell}: more numbers than there are"));
        let new = if cell.contains('%') { 100.0 * new } else { *new };
        let signed = before.ends_with(['+', '-']);
        out.push_str(before.trim_end_matches(['+', '-']));
        // No zero has a sign.
        let new = if format!("{:.decimals$}", new.abs()).parse() == Ok(0.0) { 0.0 } else { new };
        let written =
            if signed && new != 0.0 { write!(out, "{new:+.decimals$}") } else { write!(out, "{new:.decimals$}") };
        written.expect("a string takes all");
        rest = after;
    }
    assert!(numbers.next().is_none(), "{cell}: fewer numbers than there are");
    out + rest
}

#[test]
fn cells_keep_all_but_their_numbers() {
    assert_eq!(again("**-5**, +0.1 % (old)", &[0.031, -0.002]), "**+3**, -0.2 % (old)");
    assert_eq!(again("0.217 / 0.284", &[0.2, 1.0]), "0.200 / 1.000");
    assert_eq!(again("+0.04, 12", &[-0.001, 11.6]), "0.00, 12");
}

/// What a table should say, if that is not what it says.
fn mended(heading: &str, said: &[Vec<&str>], found: &[Vec<String>]) -> Option<String> {
    assert_eq!(said.len(), found.len(), "{heading}");
    let differ = said.iter().zip(found).any(|(said, found)| said.iter().ne(found));
    let lines = found.iter().map(|row| format!("| {} |\n", row.join(" | ")));
    differ.then(|| format!("{heading}\n{}", lines.collect::<String>()))
}

/// The same of a table whose rows have a name, and behind it what `numbers` makes of a row, a list for each cell.
fn by_row(heading: &str, said: &[Vec<&str>], numbers: impl Fn(usize, &[&str]) -> Vec<Vec<f64>>) -> Option<String> {
    let row = |(at, row): (usize, &Vec<&str>)| {
        let cells = row[1..].iter().zip(numbers(at, row)).map(|(cell, numbers)| again(cell, &numbers));
        [row[0].to_owned()].into_iter().chain(cells).collect()
    };
    mended(heading, said, &said.iter().enumerate().map(row).collect::<Vec<_>>())
}

/// The same of a table that has a row for each recording.
fn by_recording(heading: &str, numbers: impl Fn(&Recording) -> Vec<Vec<f64>>) -> Option<String> {
    let said = table(RESULTS, heading);
    assert_eq!(said.len(), RECORDINGS.len(), "{heading}");
    by_row(heading, &said, |at, row| {
        let recording = &RECORDINGS[at];
        assert!(recording.is_of(row), "{} is no {}", row[0], recording.name);
        numbers(recording)
    })
}

/// A sentence of the document's prose, or a part of one, if it does not say that.
fn sentence(text: String) -> Option<String> {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!words(RESULTS).contains(&words(&text))).then_some(text)
}

#[track_caller]
fn none_differs(mended: impl IntoIterator<Item = Option<String>>) {
    let mended: Vec<String> = mended.into_iter().flatten().collect();
    assert!(mended.is_empty(), "the document should say\n\n{}", mended.join("\n"));
}

/// What a column of a table has of the strategies, a row for each recording.
enum Column {
    Stalls(&'static str),
    /// Stalls, loads.
    Both(&'static str),
    /// Mean of stalls and loads.
    Mean(&'static str),
    /// Share of the way from `tracked` to Belady.
    Way(&'static [&'static str]),
    /// Time of a token in milliseconds.
    Time(&'static str),
    /// Of what the best of some saves over LRU, the share that the first gives up, by stalls or by `Mean`.
    GivenUp(fn(&Value) -> f64, &'static [&'static str]),
}

fn stalls(row: &Value) -> f64 {
    number(&row["stall_rate"])
}

fn loads(row: &Value) -> f64 {
    number(&row["load_rate"])
}

fn mean(row: &Value) -> f64 {
    (stalls(row) + loads(row)) / 2.0
}

impl Column {
    fn strategies(&self) -> Vec<&'static str> {
        match self {
            Self::Stalls(name) | Self::Both(name) | Self::Mean(name) | Self::Time(name) => vec![name],
            Self::Way(names) => [*names, &["tracked", "belady"]].concat(),
            Self::GivenUp(_, names) => [*names, &["lru"]].concat(),
        }
    }

    fn numbers(&self, of: &BTreeMap<String, Value>) -> Vec<f64> {
        match self {
            Self::Stalls(name) => vec![stalls(&of[*name])],
            Self::Both(name) => vec![stalls(&of[*name]), loads(&of[*name])],
            Self::Mean(name) => vec![mean(&of[*name])],
            Self::Time(name) => vec![number(&of[*name]["token_time_us"]) / 1e3],
            Self::Way(names) => {
                let [tracked, belady] = ["tracked", "belady"].map(|name| stalls(&of[name]));
                names.iter().map(|name| (tracked - stalls(&of[*name])) / (tracked - belady)).collect()
            }
            Self::GivenUp(cost, names) => {
                let best = names.iter().map(|name| cost(&of[*name])).fold(f64::INFINITY, f64::min);
                vec![(cost(&of[names[0]]) - best) / (cost(&of["lru"]) - best)]
            }
        }
    }
}

use Column::{Both, GivenUp, Mean, Stalls, Time, Way};

/// A table with a row for each recording: its heading, and what stands in the columns behind the names.
type Table = (&'static str, &'static [Column]);

/// Tables of runs without further options.
const TABLES: [Table; 9] = [
    (
        "| trace | LRU | tracked | recall | Belady | gap | recall-fetch:gain=off |",
        &[
            Stalls("lru"),
            Stalls("tracked"),
            Stalls("recall"),
            Stalls("belady"),
            Way(&["recall"]),
            Both("recall-fetch:gain=off"),
        ],
    ),
    (
        "| trace | LRU | tracked | recall | Belady | tracked+recall-fetch | recall-fetch |",
        &[
            Time("lru"),
            Time("tracked"),
            Time("recall"),
            Time("belady"),
            Time("tracked+recall-fetch"),
            Time("recall-fetch"),
        ],
    ),
    (
        "| trace | neither (tracked) | eviction alone | fetching alone (tracked+recall-fetch:gain=off) | both |",
        &[Stalls("tracked"), Stalls("recall"), Both("tracked+recall-fetch:gain=off"), Both("recall-fetch:gain=off")],
    ),
    (
        "| trace | LRU | LFU | lrfu | tracked | arc | s3-fifo | sieve |",
        &[
            Stalls("lru"),
            Stalls("lfu"),
            Stalls("lrfu"),
            Stalls("tracked"),
            Stalls("arc"),
            Stalls("s3-fifo"),
            Stalls("sieve"),
        ],
    ),
    (
        "| trace | tracked | successor | moe-infinity | finemoe | recall | Belady |",
        &[
            Stalls("tracked"),
            Stalls("successor"),
            Stalls("moe-infinity"),
            Stalls("finemoe"),
            Stalls("recall"),
            Stalls("belady"),
        ],
    ),
    (
        "| trace | lru+transition | tracked+transition | tracked+successor | moe-infinity | finemoe | recall |",
        &[
            Both("lru+transition"),
            Both("tracked+transition"),
            Both("tracked+successor-fetch:gain=off"),
            Both("moe-infinity-fetch:gain=off"),
            Both("finemoe-fetch:gain=off"),
            Both("recall-fetch:gain=off:most=1:sure=0.5"),
        ],
    ),
    (
        "| trace | recall | sure=0.65 | sure=0.6 | finemoe |",
        &[
            Both("recall-fetch:gain=off"),
            Both("recall-fetch:gain=off:sure=0.65"),
            Both("recall-fetch:gain=off:sure=0.6"),
            Both("finemoe-fetch:gain=off:most=8:sure=0.68"),
        ],
    ),
    (
        "| trace | LRU | recall | safe | given up | recall-fetch | safe-fetch | given up \
         | its stalls / loads |",
        &[
            Stalls("lru"),
            Stalls("recall"),
            Stalls("safe"),
            GivenUp(stalls, &["safe", "tracked", "recall"]),
            Mean("recall-fetch:gain=off"),
            Mean("safe-fetch:gain=off:load=50"),
            GivenUp(mean, &["safe-fetch:gain=off:load=50", "tracked", "recall", "recall-fetch:gain=off"]),
            Both("safe-fetch:gain=off:load=50"),
        ],
    ),
    (
        "| trace | LRU | tracked | recall | safe | recall-fetch | safe-fetch |",
        &[Time("lru"), Time("tracked"), Time("recall"), Time("safe"), Time("recall-fetch"), Time("safe-fetch")],
    ),
];

/// Rows of tables, of one recording each, by what ran on it.
fn rows(recording: &Recording, table: &Table, of: &BTreeMap<String, Value>) -> Option<(usize, Vec<String>)> {
    let (heading, columns) = table;
    let said = self::table(RESULTS, heading);
    let at = said.iter().position(|row| recording.is_of(row))?;
    let cells = said[at][1..].iter().zip(*columns).map(|(cell, column)| again(cell, &column.numbers(of)));
    Some((at, [said[at][0].to_owned()].into_iter().chain(cells).collect()))
}

/// Who stays, what is fetched, and who else does that, on every recording.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn strategies_on_every_recording() {
    let mut strategies: Vec<&str> =
        TABLES.iter().flat_map(|(_, columns)| *columns).flat_map(Column::strategies).collect();
    strategies.sort_unstable();
    strategies.dedup();
    let mut found: [BTreeMap<usize, Vec<String>>; TABLES.len()] = Default::default();
    for recording in &RECORDINGS {
        let of = recording.run("", &strategies);
        println!("{}: {:.4}", recording.name, stalls(&of["recall"]));
        for (table, found) in TABLES.iter().zip(&mut found) {
            found.extend(rows(recording, table, &of));
        }
    }
    none_differs(TABLES.iter().zip(found).map(|((heading, _), found)| {
        mended(heading, &table(RESULTS, heading), &found.into_values().collect::<Vec<_>>())
    }));
}

/// A table of successors beside recall, and joined to it, with memories of two sizes.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn successors_by_memory() {
    const HEADING: &str = "| trace | 2k | half of the experts |";
    const WAY: Column = Way(&["successor", "recall", "recall:successors=on"]);
    none_differs([by_recording(HEADING, |recording| {
        ["", "--resident HALF"].map(|options| WAY.numbers(&recording.run(options, &WAY.strategies()))).into()
    })]);
}

/// How much of the next tokens a forecast knows, by memory and by an exact search, and what that is worth as eviction.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn how_much_comes_again() {
    const HEADINGS: [&str; 3] = [
        "| trace | next token: levels | recall | recall, layer ahead | recall at k, 2, 4, 8 tokens ahead \
         | levels, 8 ahead |",
        "| trace | memory of 64, 256, 1,024, 2,048, 4,096: at k | exact search | with the bar | repeated |",
        "| trace | recall | exact search | with the bar |",
    ];
    let said = HEADINGS.map(|heading| table(RESULTS, heading));
    let mut found: [Vec<Vec<String>>; 3] = Default::default();
    for (at, recording) in RECORDINGS.iter().enumerate() {
        let arguments = format!("inspect --json --recall {} --tokens {}", recording.domain, recording.tokens);
        let set = shared::sets().join(recording.set);
        let folder = Folder::new();
        let found_here = finish(folder.command(&arguments).arg(set)).json();
        let of = |by: &str, at: &str, key: &str| {
            let row = found_here["rows"]
                .as_array()
                .and_then(|rows| rows.iter().find(|row| row["by"] == by && row["at"] == at));
            100.0 * number(&row.unwrap_or_else(|| panic!("no {by} of {at}"))[key])
        };
        let way = |by: &str| {
            let row = found_here["eviction"].as_array().and_then(|rows| rows.iter().find(|row| row["by"] == by));
            100.0 * number(&row.expect("eviction")["gap"])
        };
        let memories = ["64", "256", "1024", "2048", "4096"].map(|tokens| of("memory", tokens, "recall_k"));
        let rows: [Vec<Vec<f64>>; 3] = [
            vec![
                ["levels_k", "levels_2k"].map(|key| of("lag", "1", key)).into(),
                ["recall_k", "recall_2k"].map(|key| of("lag", "1", key)).into(),
                ["ahead_k", "ahead_2k"].map(|key| of("lag", "1", key)).into(),
                ["2", "4", "8"].map(|lag| of("lag", lag, "recall_k")).into(),
                vec![of("lag", "8", "levels_k")],
            ],
            vec![
                memories.into(),
                ["recall_k", "recall_2k"].map(|key| of("passages", "all", key)).into(),
                ["recall_k", "recall_2k"].map(|key| of("passages", "barred", key)).into(),
                vec![number(&found_here["repeated"])],
            ],
            ["recall", "all", "barred"].map(|by| vec![way(by)]).into(),
        ];
        for ((said, rows), found) in said.iter().zip(&rows).zip(&mut found) {
            assert!(recording.is_of(&said[at]), "{}", said[at][0]);
            let cells = said[at][1..].iter().zip(rows).map(|(cell, numbers)| again(cell, numbers));
            found.push([said[at][0].to_owned()].into_iter().chain(cells).collect());
        }
    }
    none_differs(HEADINGS.iter().zip(&said).zip(&found).map(|((heading, said), found)| mended(heading, said, found)));
}

/// What each part is worth, alone and last.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn parts_on_every_recording() {
    const PARTS: &str = "| trace | `recall` for `lru`: stalls | loads | `recall-fetch` for `none`: stalls | loads |";
    const INSIDE: &str = "| trace | forecast in eviction (`weight`): stalls | fast level (`fast`): stalls | \
                          confidence (`sure`): stalls | loads |";
    let tables: [(&str, [(&str, &str); 4]); 2] = [
        (
            PARTS,
            [
                ("recall", "stall_rate"),
                ("recall", "load_rate"),
                ("recall-fetch:gain=off", "stall_rate"),
                ("recall-fetch:gain=off", "load_rate"),
            ],
        ),
        (INSIDE, [("weight", "stall_rate"), ("fast", "stall_rate"), ("sure", "stall_rate"), ("sure", "load_rate")]),
    ];
    let mut found = [Vec::new(), Vec::new()];
    for recording in &RECORDINGS {
        let (domain, tokens, prompt) = (recording.domain, recording.tokens, recording.tokens / 2);
        let arguments = format!(
            "run --json {domain} --tokens {tokens} --prefill {prompt} --strategy recall-fetch:gain=off --ablate"
        );
        let worth = shared::rows(&Folder::new(), &arguments, &shared::sets().join(recording.set));
        for ((heading, columns), found) in tables.iter().zip(&mut found) {
            let said = table(RESULTS, heading);
            let said = said.iter().find(|row| recording.is_of(row)).expect("a row");
            let cell = |(cell, (part, key)): (&&str, &(&str, &str))| {
                let is = |row: &&Value| {
                    row["part"].as_str().is_some_and(|name| name == *part || name.contains(&format!(":{part}=")))
                };
                let row = worth.iter().find(is).unwrap_or_else(|| panic!("{part}"));
                again(cell, &["alone", "last"].map(|when| 100.0 * number(&row[when][*key])))
            };
            let cells = said[1..].iter().zip(columns).map(cell);
            found.push([said[0].to_owned()].into_iter().chain(cells).collect());
        }
    }
    none_differs(
        tables.iter().zip(&found).map(|((heading, _), found)| mended(heading, &table(RESULTS, heading), found)),
    );
}

/// The curve of thresholds, on two recordings.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn stalls_over_loads() {
    const HEADING: &str = "| | Qwen3 code | gpt-oss-20b |";
    const STRATEGIES: [&str; 12] = [
        "recall",
        "recall-fetch:gain=off:sure=0.9",
        "recall-fetch:gain=off:sure=0.8",
        "recall-fetch:gain=off",
        "recall-fetch:gain=off:sure=0.6",
        "recall-fetch:gain=off:sure=0.5",
        "recall-fetch:gain=off:most=1",
        "recall+transition:most=8:sure=0.5",
        "recall+transition:most=8:sure=0.3",
        "lru+transition:most=8:sure=0.5",
        "lru+transition:most=8:sure=0.3",
        "belady",
    ];
    let said = table(RESULTS, HEADING);
    assert_eq!(said.len(), STRATEGIES.len());
    let runs = [&RECORDINGS[0], &RECORDINGS[4]].map(|recording| recording.run("", &STRATEGIES));
    none_differs([by_row(HEADING, &said, |at, _| runs.iter().map(|of| Both(STRATEGIES[at]).numbers(of)).collect())]);
}

/// A table whose rows are strategies on tiny-moe-8m, with what the columns have of them.
fn of_strategies(
    document: &'static str,
    heading: &str,
    options: &str,
    name: impl Fn(&[&str]) -> String,
    keys: &[&str],
) -> Option<String> {
    let said = table(document, heading);
    let names: Vec<String> = said.iter().map(|row| name(row)).collect();
    let found =
        run(&shared::sets().join("tiny-moe-8m"), options, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let row = |(said, found): (&Vec<&str>, &Value)| {
        let (named, cells) = said.split_at(said.len() - keys.len());
        let cells = cells.iter().zip(keys).map(|(cell, key)| again(cell, &[number(&found[*key])]));
        named.iter().map(|&cell| cell.to_owned()).chain(cells).collect()
    };
    let found: Vec<Vec<String>> = said.iter().zip(&found).map(row).collect();
    mended(heading, &said, &found)
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn price_against_gain() {
    let name = |row: &[&str]| {
        let part = |cell: &str| cell.trim_matches('*').split(' ').next().expect("a name").to_owned();
        format!("{}+{}", part(row[0]), part(row[1])).trim_start_matches("raw+").to_owned()
    };
    let keys = ["switch_rate", "miss_rate", "mass_loss", "agreement"];
    let heading = "| select | residency | switch | miss | mass loss | agree |";
    none_differs([of_strategies(RESULTS, heading, "--resident 8", name, &keys)]);
}

#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn routing_before_the_layers_turn() {
    // Behind the strategy stands what the reader should know.
    let name = |row: &[&str]| row[0].split([' ', ',']).next().expect("a name").to_owned();
    let keys = ["stall_rate", "load_rate", "mass_loss"];
    let heading = "| strategy | stalls | loads | mass loss |";
    none_differs([of_strategies(RESULTS, heading, "--tokens 12000 --prefill 6000 --resident 8", name, &keys)]);
}

/// What bounds leave of stalls and loads, and what they give up, with three ways to have experts at hand.
#[test]
#[ignore = "needs the public data sets: CPTR_TRACES names their folder"]
fn bounds_beside_residency() {
    const HEADING: &str = "| | tracked | recall | recall+recall-fetch:most=2:sure=0.4:gain=off, with loads |";
    let said = table(RESULTS, HEADING);
    let at_hand = ["tracked", "recall", "recall+recall-fetch:most=2:sure=0.4:gain=off"];
    none_differs([by_row(HEADING, &said, |_, row| {
        let names = at_hand.map(|at_hand| format!("bounded:{}+{at_hand}", row[0]));
        let of = RECORDINGS[1].run("", &names.each_ref().map(String::as_str));
        let cell = |name: &String| {
            let (row, fetches) = (&of[name], name.contains("fetch"));
            // Of a cell with a per cent sign only the last number is a share.
            let rates = [stalls(row) / 100.0].into_iter().chain(fetches.then(|| loads(row) / 100.0));
            rates.chain([number(&row["mass_loss"])]).collect()
        };
        names.iter().map(cell).collect()
    })]);
}
