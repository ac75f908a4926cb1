//! `cptr report`: two runs side by side, from what their `--json` printed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::about::About;
use crate::columns::Format::{Change, Plain, Text};
use crate::columns::{Column, Format, Page, Section, Table, column, format, schema};
use crate::report::strips::{Look, Strip, Strips};
use cptr_trace::error::{Error, Result};
use cptr_trace::file;

/// Bytes of a report at most.
const MOST: u64 = 64 << 20;
/// Plots at most, and rows of one.
const MOST_PLOTS: usize = 3;
const MOST_STRIPS: usize = 40;
/// What most runs are about, the most important first.
const MAIN: [&str; 5] = ["token_time_us", "tokens_per_s", "stall_rate", "miss_rate", "mass_loss"];

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What --json printed of one run
    #[arg(value_name = "A.json")]
    a: PathBuf,
    /// The same of another run of the same command
    #[arg(value_name = "B.json")]
    b: PathBuf,
    /// Write an HTML page with tables and plots, as --report does
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
}

static COLUMNS: [Column; 9] = [
    column("row", "row", Text, ""),
    column("column", "column", Text, ""),
    column("key", "key", Text, "of the column").detail(),
    column("a", "A", Text, "value as machines read it").detail(),
    column("b", "B", Text, "likewise").detail(),
    column("said_a", "A", Text, ""),
    column("said_b", "B", Text, ""),
    column("difference", "B less A", Plain, "of numbers").detail(),
    column("change", "change", Change, "from A to B, of numbers"),
];

/// What people see of them.
const VIEW: &[&str] = &["row", "column", "said_a", "said_b", "change"];

static ASKED: [Column; 3] =
    [column("what", "asked or read", Text, ""), column("a", "A", Text, ""), column("b", "B", Text, "")];

static LONE: [Column; 2] = [column("row", "row", Text, ""), column("only", "only in", Text, "")];

pub(super) static ABOUT: About = About {
    rows: &[&COLUMNS],
    examples: &[("cptr report a.json b.json --out differences.html", "what changed between two runs of one command")],
};

pub(super) fn main(args: &Args) -> Result<Page> {
    let (a, b) = (Run::read(&args.a)?, Run::read(&args.b)?);
    if a.command != b.command {
        let (wanted, found) = (schema(&a.command), schema(&b.command));
        return Err(Error::in_file(&args.b, format!("expected schema {wanted}, as of the other run, found {found}")));
    }
    let pairs = Pairs::of(&a, &b);
    let columns = a.both_columns(&b);
    let rows: Vec<Value> =
        pairs.both.iter().flat_map(|&(i, j)| differences(&columns, &a.rows[i], &b.rows[j])).collect();
    let shown = |row: &&Value| columns.iter().any(|column| column.is_shown() && row["key"] == *column.key);
    let seen: Vec<Value> = rows.iter().filter(shown).cloned().collect();
    let asked = asked_differently(&a, &b);
    let lone = pairs.lone(&a, &b);
    let main = main_columns(&columns, &rows);
    let answer = answer(&rows, &pairs, main.first().copied());
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let facts = vec![
        format!("A: {} ({}, cptr {})", a.line, count(a.rows.len(), "row"), a.version),
        format!("B: {} ({}, cptr {})", b.line, count(b.rows.len(), "row"), b.version),
    ];
    let mut tables = Vec::new();
    if !asked.is_empty() {
        tables.push(Table::new(&ASKED, &asked).titled("What was asked, or read, differently"));
    }
    if !seen.is_empty() {
        tables.push(Table::new(&COLUMNS, &seen).viewed(VIEW).titled("Values that differ"));
    }
    if !lone.is_empty() {
        tables.push(Table::new(&LONE, &lone).titled("Rows that only one has"));
    }
    let mut remarks = vec![answer.clone()];
    if asked.is_empty() {
        remarks.push("Both were asked the same, of the same inputs, as far as they say.".into());
    }
    let figures = main.iter().map(|column| side_by_side(column, &pairs, &a, &b)).collect();
    let section = Section { facts, tables, remarks, figures, ..Section::default() };
    let page = Page::new(Table::new(&COLUMNS, &rows)).section(section).answered(answer);
    let page = page.beside("asked", &asked).beside("only", &lone).beside("compared", &a.command);
    Ok(match &args.out {
        Some(path) => page.reported(path.clone()),
        None => page,
    })
}

/// What `--json` printed.
struct Run {
    command: String,
    line: String,
    version: String,
    inputs: Map<String, Value>,
    files: Vec<Value>,
    columns: Vec<Column>,
    rows: Vec<Value>,
}

impl Run {
    fn read(path: &Path) -> Result<Self> {
        let wrong = |found: &str| {
            let found: String = found.chars().take(60).collect();
            Error::in_file(path, format!("expected what --json prints, of schema {}, found {found}", schema("COMMAND")))
        };
        let text = file::text(path, MOST)?;
        let Ok(Value::Object(mut all)) = serde_json::from_str(&text) else { return Err(wrong("no JSON object")) };
        let said = |key: &str| all.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (command, found) = (said("command"), said("schema"));
        if command.is_empty() || found != schema(&command) {
            let found = if found.is_empty() { "none".into() } else { format!("schema {found}") };
            return Err(wrong(&found));
        }
        let (line, version) = (said("command_line"), said("version"));
        let mut list = |key: &str| match all.remove(key) {
            Some(Value::Array(list)) => Ok(list),
            _ => Err(wrong(&format!("no list of {key}"))),
        };
        let (rows, files, columns) = (list("rows")?, list("files")?, list("columns")?);
        let columns = columns.iter().map(Column::heard).collect::<Option<Vec<_>>>();
        let columns = columns.ok_or_else(|| wrong("columns that are none"))?;
        let Some(Value::Object(inputs)) = all.remove("inputs") else { return Err(wrong("no inputs")) };
        Ok(Self { command, line, version, inputs, files, columns, rows })
    }

    /// The columns of both runs: those of this one, then what the other has beside them.
    fn both_columns(&self, other: &Self) -> Vec<Column> {
        let more = other.columns.iter().filter(|column| self.columns.iter().all(|known| known.key != column.key));
        self.columns.iter().chain(more).cloned().collect()
    }

    /// What a row is called: its leading columns that are no results.
    fn identity(&self, row: &Value) -> String {
        let names = self.columns.iter().take_while(|column| matches!(column.format, Text | Plain | Format::Flag));
        let names = names.filter(|column| column.format != Format::Flag).map(|column| column.of(row).to_string());
        names.collect::<Vec<_>>().join("\n")
    }

    /// What a row is called first.
    fn first(&self, row: &Value) -> String {
        self.columns.first().map_or_else(String::new, |column| column.of(row).to_string())
    }

    /// What people call a row: its leading columns that they see.
    fn label(&self, row: &Value) -> String {
        label(&self.columns, row)
    }
}

fn label(columns: &[Column], row: &Value) -> String {
    let leading = columns.iter().take_while(|column| matches!(column.format, Text | Plain | Format::Flag));
    let seen = leading.filter(|column| column.is_shown() && column.format != Format::Flag);
    let words: Vec<String> = seen.filter(|column| !column.of(row).is_null()).map(|column| column.cell(row)).collect();
    if words.is_empty() {
        columns.first().map_or_else(String::new, |column| column.cell(row))
    } else {
        words.join(", ")
    }
}

/// Which row of one run is which of the other.
struct Pairs {
    both: Vec<(usize, usize)>,
    only_a: Vec<usize>,
    only_b: Vec<usize>,
}

impl Pairs {
    /// Rows of the same name, else of the same first column, in their order; else the one row of each.
    fn of(a: &Run, b: &Run) -> Self {
        let mut pairs =
            Self { both: Vec::new(), only_a: (0..a.rows.len()).collect(), only_b: (0..b.rows.len()).collect() };
        pairs.join(|i| a.identity(&a.rows[i]), |j| b.identity(&b.rows[j]));
        pairs.join(|i| a.first(&a.rows[i]), |j| b.first(&b.rows[j]));
        if (a.rows.len(), b.rows.len(), pairs.both.len()) == (1, 1, 0) {
            pairs = Self { both: vec![(0, 0)], only_a: Vec::new(), only_b: Vec::new() };
        }
        pairs.both.sort_unstable();
        pairs
    }

    fn join(&mut self, of_a: impl Fn(usize) -> String, of_b: impl Fn(usize) -> String) {
        let mut free: HashMap<String, Vec<usize>> = HashMap::new();
        for &j in self.only_b.iter().rev() {
            free.entry(of_b(j)).or_default().push(j);
        }
        let both = &mut self.both;
        self.only_a.retain(|&i| match free.get_mut(&of_a(i)).and_then(Vec::pop) {
            Some(j) => {
                both.push((i, j));
                false
            }
            None => true,
        });
        self.only_b = free.into_values().flatten().collect();
        self.only_b.sort_unstable();
    }

    fn lone(&self, a: &Run, b: &Run) -> Vec<Value> {
        let in_a = self.only_a.iter().map(|&i| json!({"row": a.label(&a.rows[i]), "only": "A"}));
        let in_b = self.only_b.iter().map(|&j| json!({"row": b.label(&b.rows[j]), "only": "B"}));
        in_a.chain(in_b).collect()
    }
}

/// One row for each column in which two rows differ.
fn differences<'a>(columns: &'a [Column], a: &'a Value, b: &'a Value) -> impl Iterator<Item = Value> + 'a {
    let name = label(columns, a);
    columns.iter().filter(move |column| column.of(a) != column.of(b)).map(move |column| {
        let (from, to) = (column.of(a), column.of(b));
        let numbers = from.as_f64().zip(to.as_f64());
        let change = numbers.map(|(from, to)| to / from - 1.0).filter(|change| change.is_finite());
        let head = if column.name.is_empty() { &column.key } else { &column.name };
        json!({
            "row": name, "column": head, "key": column.key, "a": from, "b": to, "said_a": column.cell(a),
            "said_b": column.cell(b), "difference": numbers.map(|(from, to)| to - from), "change": change,
        })
    })
}

/// Arguments, files and versions that are not the same.
fn asked_differently(a: &Run, b: &Run) -> Vec<Value> {
    let said = |value: Option<&Value>| match value {
        None | Some(Value::Null) => format::NONE.to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) => list.iter().map(said_one).collect::<Vec<_>>().join(", "),
        Some(other) => other.to_string(),
    };
    let keys = a.inputs.keys().chain(b.inputs.keys().filter(|key| !a.inputs.contains_key(*key)));
    let inputs =
        keys.map(|key| (format!("--{}", key.replace('_', "-")), said(a.inputs.get(key)), said(b.inputs.get(key))));
    let contents = |run: &Run, argument: &Value| {
        let files = run.files.iter().filter(|file| file["argument"] == *argument).map(|file| match &file["sha256"] {
            Value::String(hash) => format!("SHA-256 {}…", hash.chars().take(12).collect::<String>()),
            _ => format!("{} bytes", file["bytes"]),
        });
        let files: Vec<String> = files.collect();
        if files.is_empty() { format::NONE.into() } else { files.join(", ") }
    };
    let mut arguments: Vec<&Value> = a.files.iter().chain(&b.files).map(|file| &file["argument"]).collect();
    arguments.dedup();
    let files = arguments.into_iter().map(|argument| {
        let what = format!("contents of {}", argument.as_str().unwrap_or_default());
        (what, contents(a, argument), contents(b, argument))
    });
    let version = std::iter::once(("version of cptr".to_owned(), a.version.clone(), b.version.clone()));
    let all = inputs.chain(files).chain(version).filter(|(_, a, b)| a != b);
    let mut rows: Vec<Value> = all.map(|(what, a, b)| json!({"what": what, "a": a, "b": b})).collect();
    rows.dedup();
    rows
}

fn said_one(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The numbers that people see and that differ, those that runs are about first.
fn main_columns<'a>(columns: &'a [Column], rows: &[Value]) -> Vec<&'a Column> {
    let differs = |column: &&Column| {
        let of = |row: &Value| row["key"] == *column.key && !row["difference"].is_null();
        column.is_shown() && column.format.is_number() && rows.iter().any(of)
    };
    let mut found: Vec<&Column> = columns.iter().filter(differs).collect();
    found.sort_by_key(|column| MAIN.iter().position(|main| column.key == *main).unwrap_or(MAIN.len()));
    found.truncate(MOST_PLOTS);
    found
}

/// How many rows differ, and the largest change of what matters most.
fn answer(rows: &[Value], pairs: &Pairs, main: Option<&Column>) -> String {
    let lone = match (pairs.only_a.len(), pairs.only_b.len()) {
        (0, 0) => String::new(),
        (a, b) => format!("; {a} more only in A, {b} only in B"),
    };
    let both = pairs.both.len();
    if rows.is_empty() {
        return format!("No value differs in the {both} rows that both have{lone}.");
    }
    let size = |row: &Value| row["change"].as_f64().unwrap_or(f64::INFINITY).abs();
    let of_main = main
        .into_iter()
        .flat_map(|main| rows.iter().filter(move |row| row["key"] == *main.key && !row["difference"].is_null()));
    let largest = of_main.max_by(|a, b| size(a).total_cmp(&size(b))).map(|row| {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let change = row["change"].as_f64().map_or(String::new(), |change| format!(" ({})", format::change(change)));
        format!(
            "; the largest change of \"{}\" is that of {}: {} in A, {} in B{change}",
            text("column"),
            text("row"),
            text("said_a"),
            text("said_b")
        )
    });
    let mut keys: Vec<&Value> = rows.iter().map(|row| &row["row"]).collect();
    keys.dedup();
    format!("{} of {both} rows that both have differ{}{lone}.", keys.len(), largest.unwrap_or_default())
}

/// Both values of a column, row by row.
fn side_by_side(column: &Column, pairs: &Pairs, a: &Run, b: &Run) -> String {
    let strip = |&(i, j): &(usize, usize)| {
        let values = [&a.rows[i], &b.rows[j]].map(|row| column.of(row).as_f64().unwrap_or(f64::NAN));
        let change = values[1] / values[0] - 1.0;
        let label = if change.is_finite() && change != 0.0 { format::change(change) } else { String::new() };
        Strip { name: a.label(&a.rows[i]), values: values.into(), label, strong: false }
    };
    let left_out = match pairs.both.len().saturating_sub(MOST_STRIPS) {
        0 => String::new(),
        more => format!(" The table has {more} rows more."),
    };
    Strips {
        title: &format!("{}: A beside B", column.name),
        caption: &format!("Beside each row the change from A to B, where there is one.{left_out}"),
        series: &["A", "B"],
        look: Look::Marks,
        tick: column.format.tick(),
        rows: pairs.both.iter().take(MOST_STRIPS).map(strip).collect(),
    }
    .figure()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rows: Value) -> Value {
        let columns: Vec<Value> = [
            column("name", "name", Text, ""),
            column("time_us", "time", Format::Microseconds, ""),
            column("seed", "seed", Plain, "").detail(),
        ]
        .iter()
        .map(Column::said)
        .collect();
        json!({
            "schema": schema("run"), "command": "run", "version": "0.1.0", "command_line": "cptr run a",
            "inputs": {"source": "a", "bits": [1, 2]}, "columns": columns, "rows": rows,
            "files": [{"argument": "source", "name": "a", "bytes": 3, "sha256": "0123456789abcdef"}],
        })
    }

    fn compare(a: &Value, b: &Value) -> Result<Page> {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["a.json", "b.json"].map(|name| folder.path().join(name));
        std::fs::write(&first, a.to_string()).unwrap();
        std::fs::write(&second, b.to_string()).unwrap();
        main(&Args { a: first, b: second, out: None })
    }

    #[test]
    fn rows_are_matched_by_name_and_differences_said() {
        let a =
            run(json!([{"name": "lru", "time_us": 10.0, "seed": 1}, {"name": "belady", "time_us": 5.0, "seed": 1}]));
        let mut b = run(json!([{"name": "new", "time_us": 1.0, "seed": 1}, {"name": "lru", "time_us": 8.0, "seed": 2},
            {"name": "belady", "time_us": 5.0, "seed": 1}]));
        b["inputs"]["bits"] = json!([3]);
        b["files"][0]["sha256"] = "ffffffffffffffff".into();
        let page = compare(&a, &b).unwrap();
        assert_eq!(
            page.answer.as_deref(),
            Some(
                "1 of 2 rows that both have differ; the largest change of \"time\" is that of lru: 10.0 µs in A, 8.00 µs \
                  in B (-20.00%); 0 more only in A, 1 only in B."
            )
        );
        let keys: Vec<&str> = page.rows().iter().map(|row| row["key"].as_str().unwrap()).collect();
        assert_eq!(keys, ["time_us", "seed"]);
        let text = page.text();
        for part in ["--bits", "| 1, 2 ", "SHA-256 0123456789ab…", "| new ", "-20.00%"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("seed"), "a detail\n{text}");
        assert!(page.sections[0].figures[0].contains("lru: A 10.0 µs, B 8.00 µs (-20.00%)"));
    }

    #[test]
    fn the_same_run_does_not_differ() {
        let a = run(json!([{"name": "lru", "time_us": null, "seed": 1}]));
        let page = compare(&a, &a).unwrap();
        assert_eq!(page.answer.as_deref(), Some("No value differs in the 1 rows that both have."));
        assert!(page.text().contains("Both were asked the same"));
        // A single row is compared whatever it is called; what is no number has no change.
        let page = compare(&a, &run(json!([{"name": "fifo", "time_us": 1.0, "seed": 1}]))).unwrap();
        assert_eq!(page.rows().len(), 2);
    }

    #[test]
    fn what_is_no_report_is_one_sentence() {
        let good = run(json!([]));
        let with = |key: &str, value: Value| {
            let mut changed = good.clone();
            changed[key] = value;
            changed
        };
        for (other, part) in [
            (json!(7), "found no JSON object"),
            (json!({}), "found none"),
            (with("schema", "cptr.run/2".into()), "found schema cptr.run/2"),
            (with("schema", "x".repeat(5000).into()), "found schema xxx"),
            (with("rows", json!({})), "no list of rows"),
            (with("columns", json!([1])), "columns that are none"),
            (with("inputs", json!(null)), "no inputs"),
        ] {
            for (a, b) in [(&good, &other), (&other, &good)] {
                let error = compare(a, b).unwrap_err().to_string();
                assert!(error.contains(part) && error.chars().count() <= 300, "{error}");
            }
        }
        let mut plan = with("command", "plan".into());
        plan["schema"] = schema("plan").into();
        let error = compare(&good, &plan).unwrap_err().to_string();
        assert!(error.contains("expected schema cptr.run/1, as of the other run, found cptr.plan/1"), "{error}");
    }
}
