//! The points of a sweep as command lines of `cptr run`: each once, all of them held to what that command takes.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use clap::{ArgAction, Args as _, CommandFactory, FromArgMatches};
use serde_json::Value;

use super::super::run::{self, columns::RUN};
use super::super::{Read, sentence};
use super::digest::{self, Digests};
use crate::columns::Format;
use cptr_sim::nearest::hint;
use cptr_sim::sweep::{Column, Kind, Point, Sweep};
use cptr_trace::error::{Error, Result};

/// The option that is no option of the command line, but its argument.
const SOURCE: &str = "source";

/// Options that a point cannot have: they write files, or give more or other rows than one.
const NOT_HERE: [&str; 5] = ["ablate", "controller", "image", "plot", "help"];

/// What comes before the name of a parameter in the name of its column.
const PARAMETER: &str = "parameter_";

/// The command line of a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// What it reads; `None`: a model, which reads for itself.
    pub(super) reading: Option<Vec<String>>,
    /// What it does with that, without the options of reading.
    pub(super) words: Vec<String>,
    /// All of it, as a shell takes it.
    pub(super) command: String,
}

/// The points of a sweep.
#[derive(Debug)]
pub(super) struct Points {
    /// Draws, and the digest of each.
    kept: Vec<(u32, String)>,
    /// Columns of the rows.
    pub(super) columns: Vec<Column>,
    /// Of all points and all that they read.
    pub(super) digest: String,
    options: Options,
}

/// What the options of `cptr run` are.
#[derive(Debug)]
struct Options {
    /// Those that say what is read.
    reading: Vec<String>,
    /// Those without a value.
    flags: Vec<String>,
}

impl Points {
    /// Goes through all draws; what comes out alike is one point.
    pub(super) fn of(sweep: &Sweep) -> Result<Self> {
        let mut command = run::Args::augment_args(clap::Command::new("run"));
        let options = Options::of(&command);
        options.check(sweep, &command)?;
        let columns = columns(sweep)?;
        let (mut digests, mut seen, mut kept) = (Digests::default(), HashSet::new(), Vec::new());
        for draw in 0..sweep.draws() {
            let point = sweep.point(draw);
            let line = options.line(&point)?;
            let digest = digest(&point, &line, &mut digests)?;
            if seen.insert(digest.clone()) {
                check(&mut command, &line)?;
                kept.push((draw as u32, digest));
            }
        }
        let names = columns.iter().map(|column| column.name.as_str());
        let digest = digest::of_texts(kept.iter().map(|(_, digest)| digest.as_str()).chain(names));
        Ok(Self { kept, columns, digest, options })
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// A point, its command line and its digest.
    pub(super) fn get(&self, sweep: &Sweep, index: usize) -> Result<(Point, Line, &str)> {
        let (draw, digest) = &self.kept[index];
        let point = sweep.point(*draw as usize);
        let line = self.options.line(&point)?;
        Ok((point, line, digest))
    }

    /// The cells of a point: a row of `cptr run`, or why there is none.
    pub(super) fn cells(
        &self,
        point: Point,
        line: &Line,
        digest: &str,
        row: std::result::Result<&Value, &Error>,
    ) -> Vec<Value> {
        let cells = [digest.into(), line.command.as_str().into()].into_iter();
        let cells = cells.chain(point.values.into_iter().map(Option::unwrap_or_default));
        let figures = RUN.iter().map(|column| row.map_or(Value::Null, |row| column.of(row).clone()));
        let refusal = row.err().map_or(Value::Null, |error| error.to_string().into());
        cells.chain(figures).chain([refusal]).collect()
    }
}

/// Columns of the rows: the point, its parameters, those of `cptr run`, why there is no row.
fn columns(sweep: &Sweep) -> Result<Vec<Column>> {
    let column = |name: String, kind| Column { name, kind };
    let parameters = sweep.names().zip(sweep.kinds());
    let parameters = parameters.map(|(name, kind)| column(format!("{PARAMETER}{}", name.replace('-', "_")), kind));
    let figures = RUN.iter().map(|figure| {
        let kind = match figure.format {
            Format::Text => Kind::Text,
            Format::Flag => Kind::Flag,
            _ => Kind::Number,
        };
        column(figure.key.replace('.', "_"), kind)
    });
    let text = |name: &str| column(name.into(), Kind::Text);
    let columns: Vec<Column> = [text("point"), text("command")]
        .into_iter()
        .chain(parameters)
        .chain(figures)
        .chain([text("refusal")])
        .collect();
    let mut seen = HashSet::new();
    if let Some(twice) = columns.iter().find(|column| !seen.insert(&column.name)) {
        return Err(Error::new(format!("parameters: expected names that differ, found two for {}", twice.name)));
    }
    for objective in &sweep.objectives {
        let numbers = || columns.iter().filter(|column| column.kind == Kind::Number).map(|column| column.name.as_str());
        if !numbers().any(|name| name == objective.column) {
            let (name, hint) = (&objective.column, hint(&objective.column, numbers()));
            return Err(Error::new(format!(
                "pareto: expected a column of numbers of cptr run --csv, found \"{name}\"{hint}"
            )));
        }
    }
    Ok(columns)
}

/// Of the command line, and of the files that it names.
fn digest(point: &Point, line: &Line, digests: &mut Digests) -> Result<String> {
    let mut texts = vec![line.command.clone()];
    for (name, values) in &point.options {
        for value in values {
            if name == SOURCE {
                texts.push(digests.of_source(value)?);
            } else {
                texts.extend(digests.of_value(value)?);
            }
        }
    }
    Ok(digest::of_texts(texts.iter().map(String::as_str)))
}

/// Holds a command line to what `cptr run` takes.
fn check(command: &mut clap::Command, line: &Line) -> Result<()> {
    let whole = std::iter::once("run".to_owned()).chain(line.words.iter().cloned());
    let wrong = |error: clap::Error| Error::usage(sentence(&error.to_string())).at("run");
    let matches = command.try_get_matches_from_mut(whole).map_err(wrong)?;
    let found = run::Args::from_arg_matches(&matches).map_err(wrong)?.strategies();
    if found != 1 {
        return Err(Error::usage(format!("expected one strategy at a point, found {found}")).at("run.strategy"));
    }
    if let Some(reading) = &line.reading {
        let whole = std::iter::once("read").chain(reading.iter().map(String::as_str));
        Read::command().try_get_matches_from(whole).map_err(wrong)?;
    }
    Ok(())
}

impl Options {
    fn of(command: &clap::Command) -> Self {
        let long = |argument: &clap::Arg| argument.get_long().map(str::to_owned);
        let flag = |argument: &&clap::Arg| matches!(argument.get_action(), ArgAction::SetTrue);
        let read = Read::command();
        Self {
            reading: read.get_arguments().filter_map(long).collect(),
            flags: command.get_arguments().filter(flag).filter_map(long).collect(),
        }
    }

    /// Whether all options are such of `cptr run`, and those there that a point needs.
    fn check(&self, sweep: &Sweep, command: &clap::Command) -> Result<()> {
        let options = command.get_arguments().filter_map(clap::Arg::get_long);
        let known: Vec<&str> = options.filter(|name| !NOT_HERE.contains(name)).chain([SOURCE]).collect();
        for name in sweep.options() {
            if !known.contains(&name) {
                let hint = hint(name, known.iter().copied());
                let why = if NOT_HERE.contains(&name) { " that gives one row and writes nothing" } else { "" };
                return Err(Error::new(format!(
                    "run.{name}: expected an option of cptr run{why}, found \"{name}\"{hint}"
                )));
            }
        }
        match sweep.options().any(|name| name == "strategy") {
            true => Ok(()),
            false => Err(Error::new("run: expected strategy, found none")),
        }
    }

    /// The command line of a point.
    fn line(&self, point: &Point) -> Result<Line> {
        let (mut source, mut reading, mut words, mut text) = (None, Vec::new(), Vec::new(), false);
        for (name, values) in &point.options {
            let wrong =
                |expected: &str| Error::new(format!("run.{name}: expected {expected}, found \"{}\"", values.join(" ")));
            if name == SOURCE {
                let one = values.first().filter(|name| values.len() == 1 && !name.starts_with('-') && !name.is_empty());
                source = Some(one.ok_or_else(|| wrong("a file or folder"))?.clone());
                continue;
            }
            text |= name == "text";
            let to = if self.reading.contains(name) { &mut reading } else { &mut words };
            if !self.flags.contains(name) {
                to.extend(values.iter().map(|value| format!("--{name}={value}")));
                continue;
            }
            match values.as_slice() {
                [on] if on == "true" => to.push(format!("--{name}")),
                [off] if off == "false" => {}
                _ => return Err(wrong("true or false")),
            }
        }
        let all = source.iter().chain(&reading).chain(&words).map(|word| quoted(word));
        let command = ["cptr".into(), "run".into()].into_iter().chain(all).collect::<Vec<_>>().join(" ");
        match source {
            Some(source) if !text && !Path::new(&source).join("config.json").exists() => {
                words.insert(0, source.clone());
                reading.insert(0, source);
                Ok(Line { reading: Some(reading), words, command })
            }
            model => {
                words.extend(reading);
                if let Some(model) = model {
                    words.insert(0, model);
                }
                Ok(Line { reading: None, words, command })
            }
        }
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+:,./%@".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// Points by what they read, in the order of the first of each.
pub(super) fn by_reading(lines: impl Iterator<Item = (usize, Line)>) -> Vec<(Option<Vec<String>>, Vec<usize>)> {
    let mut groups: Vec<(Option<Vec<String>>, Vec<usize>)> = Vec::new();
    let mut places: HashMap<Option<Vec<String>>, usize> = HashMap::new();
    for (index, line) in lines {
        let place = *places.entry(line.reading.clone()).or_insert(groups.len());
        if place == groups.len() {
            groups.push((line.reading, Vec::new()));
        }
        groups[place].1.push(index);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/tiny-moe-8m.safetensors");

    fn points(rest: &str) -> Result<(Sweep, Points)> {
        let sweep = Sweep::parse(&format!("[run]\nsource = \"{TRACE}\"\n{rest}"))?;
        let points = Points::of(&sweep)?;
        Ok((sweep, points))
    }

    #[test]
    fn what_comes_out_alike_is_one_point() {
        let text = "strategy = \"{policy}\"\ntokens = 50\nlayers-only = \"{flag}\"\n[parameters]\n\
                    policy = [\"lru\", \"bounded:eps={eps}\"]\neps = [0.01, 0.02, 0.01]\nflag = [true, false]";
        let (sweep, points) = points(text).unwrap();
        assert_eq!((sweep.draws(), points.len()), (12, 6));
        let (point, line, digest) = points.get(&sweep, 0).unwrap();
        assert_eq!(point.values[0], None);
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(line.reading, Some(words(&[TRACE, "--tokens=50"])));
        assert_eq!(line.words, words(&[TRACE, "--layers-only", "--strategy=lru"]));
        assert_eq!(line.command, format!("cptr run {TRACE} --tokens=50 --layers-only --strategy=lru"));
        let error = Error::new("no");
        let cells = points.cells(point, &line, digest, Err(&error));
        assert_eq!((cells.len(), &cells[cells.len() - 1]), (points.columns.len(), &Value::from("no")));
        let groups = by_reading((0..points.len()).map(|index| (index, points.get(&sweep, index).unwrap().1)));
        assert_eq!((groups.len(), groups[0].1.len()), (1, 6));
    }

    #[test]
    fn what_cptr_run_does_not_take_is_refused_with_the_nearest_name() {
        for (text, expected) in [
            ("strateg = \"lru\"", "run.strateg: expected an option of cptr run, found \"strateg\" (strategy?)"),
            (
                "strategy = \"lru\"\nablate = true",
                "expected an option of cptr run that gives one row and writes nothing",
            ),
            ("strategy = \"lru\"\njson = true", "run.json: expected an option of cptr run, found \"json\""),
            ("resident = 8", "run: expected strategy, found none"),
            ("strategy = \"lru,lfu\"", "run.strategy: expected one strategy at a point, found 2"),
            ("strategy = \"bounde\"", "(bounded?)"),
            ("strategy = \"bounded:epss=0.1\"", "(eps?)"),
            ("strategy = \"bounded:eps=much\"", "bounded: expected eps as a share from 0 to 1, found \"much\""),
            ("strategy = \"lru\"\nresident = \"some\"", "expected experts per layer (16), or bytes"),
            ("strategy = \"lru\"\nbatch = 1.5", "invalid value '1.5' for '--batch <N>'"),
            ("strategy = \"lru\"\ntokens = \"x\"", "invalid value 'x' for '--tokens <TOKENS>'"),
            ("strategy = \"lru\"\nlayers-only = 1", "run.layers-only: expected true or false, found \"1\""),
            ("strategy = \"lru\"\nsystem = \"npd\"", "(ndp?)"),
            ("strategy = \"lru\"\nsystem = \"ndp:gpu.memory=2\"", "(gpu.memory_gb?)"),
            ("strategy = \"lru\"\n[pareto]\nstal_rate = \"min\"", "found \"stal_rate\" (stall_rate?)"),
            ("strategy = \"lru\"\n[pareto]\ncommand = \"min\"", "pareto: expected a column of numbers"),
            ("strategy = \"{a-b}{a_b}\"\n[parameters]\na-b = [1]\na_b = [2]", "found two for parameter_a_b"),
        ] {
            let found = points(text).unwrap_err().to_string();
            assert!(found.contains(expected), "{text}: {found}");
        }
        let missing = Sweep::parse("[run]\nsource = \"no/such\"\nstrategy = \"lru\"").unwrap();
        assert!(Points::of(&missing).unwrap_err().to_string().starts_with("no/such: "));
        let stdin = Sweep::parse("[run]\nsource = \"-\"\nstrategy = \"lru\"").unwrap();
        assert!(Points::of(&stdin).unwrap_err().to_string().starts_with("run.source: expected a file or folder"));
    }

    #[test]
    fn words_of_a_shell() {
        assert_eq!(quoted("--eps=0.1"), "--eps=0.1");
        assert_eq!(quoted("a b'c"), r"'a b'\''c'");
        assert_eq!(quoted(""), "''");
    }
}
