//! Many runs from one file: which points there are, who does which, and what has been done.
//!
//! A sweep is a command line with holes, and what goes into them:
//!
//! ```
//! use cptr_sim::sweep::Sweep;
//!
//! let sweep = Sweep::parse(r#"
//!     [run]
//!     source = "trace.safetensors"
//!     strategy = "{policy}"
//!     resident = "{memory}"
//!
//!     [parameters]
//!     policy = ["lru", "bounded:eps={eps}"]
//!     eps = { from = 0.0, to = 0.1, steps = 3 }
//!     memory = [8, 16]
//!
//!     [pareto]
//!     stall_rate = "min"
//!     mass_loss = "min"
//! "#)?;
//! // Parameters are in the order of their names. lru has no eps: all its draws are one point.
//! assert_eq!((sweep.draws(), sweep.names().collect::<Vec<_>>()), (12, vec!["eps", "memory", "policy"]));
//! let point = sweep.point(1);
//! assert_eq!(point.options[2], ("strategy".into(), vec!["bounded:eps=0".into()]));
//! assert_eq!(sweep.point(0).values[0], None);
//! # Ok::<(), cptr_trace::Error>(())
//! ```
//!
//! Points are kept in a [`Journal`], one for each [`Shard`], as they are done; [`Joined`] reads them in order.

mod journal;
mod pareto;
mod shard;
mod space;
mod template;

use std::collections::BTreeMap;

use cptr_trace::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use journal::{Cell, Column, Header, Joined, Journal, Kind};
pub use pareto::{MOST_OBJECTIVES, front};
pub use shard::Shard;
pub use space::Method;
use space::{Draws, Parameter, Search, Values};
use template::Template;

/// Points that a sweep may have.
pub const MOST_POINTS: usize = 1_000_000;

/// The file of a sweep.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    run: BTreeMap<String, Value>,
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
    #[serde(default = "grid")]
    search: Search,
    #[serde(default)]
    pareto: BTreeMap<String, Goal>,
}

fn grid() -> Search {
    Search { method: Method::Grid, points: None, seed: 0 }
}

/// Which end of a column is the good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// As little as possible.
    Min,
    /// As much as possible.
    Max,
}

/// What a front is looked for in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objective {
    /// Column of the rows.
    pub column: String,
    /// Its good end.
    pub goal: Goal,
}

impl Objective {
    /// The number, so that less is better.
    #[must_use]
    pub fn cost(&self, number: f64) -> f64 {
        if self.goal == Goal::Min { number } else { -number }
    }
}

/// A sweep as its file has it.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Values of each option.
    run: Vec<(String, Vec<Template>)>,
    parameters: Vec<Parameter>,
    draws: Draws,
    /// How points are chosen.
    pub method: Method,
    /// What to look for; may be none.
    pub objectives: Vec<Objective>,
}

/// A point of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The values of the parameters; `None` where nothing of the point depends on one.
    pub values: Vec<Option<Value>>,
    /// Options with their values, in the order of their names.
    pub options: Vec<(String, Vec<String>)>,
}

impl Sweep {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is no such file, parameters that nothing uses or that nobody gives, more than [`MOST_POINTS`] points.
    pub fn parse(text: &str) -> Result<Self> {
        let at = |error: &toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            format!("line {line}")
        };
        let File { run, parameters, search, pareto } = toml::from_str(text).map_err(|error| {
            Error::new(error.message().split_whitespace().collect::<Vec<_>>().join(" ")).at(at(&error))
        })?;
        let parameters = parameters.into_iter().map(|(name, value)| Parameter::new(&name, value));
        let parameters = parameters.collect::<Result<Vec<_>>>()?;
        let draws = Draws::new(search, &parameters)?;
        let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        let option = |(name, value): (String, Value)| {
            let place = format!("run.{name}");
            let values = match value {
                Value::Array(values) => values,
                one => vec![one],
            };
            if let Some(other) = values.iter().find(|value| value.is_array() || value.is_object()) {
                return Err(Error::new(format!("{place}: expected a value or a list of them, found {other}")));
            }
            let values = values.iter().map(|value| Template::parse(&plain(value), &names, &place));
            Ok((name, values.collect::<Result<_>>()?))
        };
        let run: Vec<(String, Vec<Template>)> = run.into_iter().map(option).collect::<Result<_>>()?;
        check_use(&run, &parameters, &names)?;
        if pareto.len() > MOST_OBJECTIVES {
            let found = pareto.len();
            return Err(Error::new(format!("pareto: expected at most {MOST_OBJECTIVES} columns, found {found}")));
        }
        let objectives = pareto.into_iter().map(|(column, goal)| Objective { column, goal }).collect();
        Ok(Self { run, parameters, draws, method: search.method, objectives })
    }

    /// The names of the options of the command line, in their order.
    pub fn options(&self) -> impl Iterator<Item = &str> {
        self.run.iter().map(|(name, _)| name.as_str())
    }

    /// The names of the parameters, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|parameter| parameter.name.as_str())
    }

    /// What the values of each parameter are.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.parameters.iter().map(|parameter| match &parameter.values {
            Values::List(list) if list.iter().all(Value::is_boolean) => Kind::Flag,
            Values::List(list) if !list.iter().all(Value::is_number) => Kind::Text,
            _ => Kind::Number,
        })
    }

    /// How many points are drawn, those that come out alike among them.
    #[must_use]
    pub fn draws(&self) -> usize {
        self.draws.count
    }

    /// The point of a draw below [`Self::draws`].
    #[must_use]
    pub fn point(&self, draw: usize) -> Point {
        let drawn = self.draws.values(draw, &self.parameters);
        let mut used = vec![false; drawn.len()];
        let mut option = |(name, values): &(String, Vec<Template>)| {
            let fill = |value: &Template| value.fill(&mut |hole| self.text(hole, &drawn, &mut used));
            (name.clone(), values.iter().map(fill).collect())
        };
        let options = self.run.iter().map(&mut option).collect();
        let values = drawn.into_iter().zip(used).map(|(value, used)| used.then_some(value)).collect();
        Point { values, options }
    }

    /// What a parameter puts into a hole.
    fn text(&self, parameter: usize, drawn: &[Value], used: &mut [bool]) -> String {
        used[parameter] = true;
        let text = plain(&drawn[parameter]);
        if !text.contains('{') {
            return text;
        }
        let names: Vec<&str> = self.names().collect();
        // All texts were read once, and no parameter leads back to itself.
        match Template::parse(&text, &names, "") {
            Ok(inner) => inner.fill(&mut |hole| self.text(hole, drawn, used)),
            Err(_) => text,
        }
    }
}

/// A value as an option of the command line takes it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => number.as_f64().unwrap_or(f64::NAN).to_string(),
        other => other.to_string(),
    }
}

/// Every parameter is used, what its values name are parameters, and none leads back to itself.
fn check_use(run: &[(String, Vec<Template>)], parameters: &[Parameter], names: &[&str]) -> Result<()> {
    let inner = |parameter: &Parameter| -> Result<Vec<usize>> {
        let Values::List(list) = &parameter.values else { return Ok(Vec::new()) };
        let place = format!("parameters.{}", parameter.name);
        let holes = |value: &Value| -> Result<Vec<usize>> {
            let template = Template::parse(&plain(value), names, &place)?;
            Ok(template.holes().collect())
        };
        Ok(list.iter().filter(|value| value.is_string()).map(holes).collect::<Result<Vec<_>>>()?.concat())
    };
    let inner: Vec<Vec<usize>> = parameters.iter().map(inner).collect::<Result<_>>()?;
    // Parameters that nothing names any more are taken away one by one; in a circle everyone is named.
    let mut named: Vec<usize> = vec![0; parameters.len()];
    inner.iter().flatten().for_each(|&hole| named[hole] += 1);
    let mut free: Vec<usize> = (0..parameters.len()).filter(|&parameter| named[parameter] == 0).collect();
    let mut gone = 0;
    while let Some(parameter) = free.pop() {
        gone += 1;
        for &hole in &inner[parameter] {
            named[hole] -= 1;
            free.extend((named[hole] == 0).then_some(hole));
        }
    }
    if gone < parameters.len() {
        let circle = named.iter().position(|&count| count > 0).map_or("", |at| names[at]);
        return Err(Error::new(format!("parameters.{circle}: its values lead back to it")));
    }
    let mut used = vec![false; parameters.len()];
    let mut reached: Vec<usize> = run.iter().flat_map(|(_, values)| values.iter().flat_map(Template::holes)).collect();
    while let Some(parameter) = reached.pop() {
        if !std::mem::replace(&mut used[parameter], true) {
            reached.extend(&inner[parameter]);
        }
    }
    match used.iter().position(|used| !used) {
        Some(unused) => {
            let name = names[unused];
            Err(Error::new(format!(
                "parameters.{name}: expected {{{name}}} under [run] or in another parameter's value"
            )))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(text: &str) -> String {
        Sweep::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_sweep_is_refused() {
        let run = "[run]\nstrategy = \"{a}\"\n";
        for (text, expected) in [
            ("", "missing field `run`"),
            ("[run]\nx = 1\n[serach]\nmethod = \"grid\"", "line 3: unknown field `serach`"),
            ("[run\n", "line 1: "),
            (&format!("{run}[parameters]\na = 3"), "parameters.a: expected a list of values"),
            (&format!("{run}[parameters]\nb = [1]"), "run.strategy: expected the name of a parameter, found \"a\""),
            (&format!("{run}[parameters]\na = [1]\nb = [2]"), "parameters.b: expected {b} under [run]"),
            (&format!("{run}[parameters]\na = [\"{{b}}\"]\nb = [\"{{a}}\"]"), "its values lead back to it"),
            (&format!("{run}[parameters]\na = [\"{{a}}\"]"), "parameters.a: its values lead back to it"),
            (&format!("{run}[parameters]\na = [\"{{c}}\"]"), "parameters.a: expected the name of a parameter"),
            (&format!("{run}[parameters]\na = [1]\n[search]\nmethod = \"gird\""), "line 6: unknown variant `gird`"),
            (&format!("{run}[parameters]\na = [1]\n[search]\nmethod = \"random\""), "search.points: expected"),
            ("[run]\nstrategy = { a = 1 }", "run.strategy: expected a value or a list of them"),
            ("[run]\nx = 1\n[pareto]\na = \"least\"", "unknown variant `least`"),
            (
                "[run]\nx = 1\n[pareto]\na = \"min\"\nb = \"min\"\nc = \"min\"\nd = \"min\"",
                "at most 3 columns, found 4",
            ),
        ] {
            let found = refusal(text);
            assert!(found.contains(expected), "{text}: {found}");
        }
    }

    #[test]
    fn values_are_as_an_option_takes_them() {
        let text = r#"
            run = { a = "{flag}", b = ["{number}", 2, "x"], c = 0.5 }
            parameters = { flag = [true, false], number = [1e-7, 3], }
        "#;
        let sweep = Sweep::parse(text).unwrap();
        assert_eq!(sweep.kinds().collect::<Vec<_>>(), [Kind::Flag, Kind::Number]);
        let point = sweep.point(0);
        assert_eq!(point.values, [Some(json!(true)), Some(json!(1e-7))]);
        let option = |name: &str, values: &[&str]| (name.to_owned(), values.iter().map(|v| (*v).to_owned()).collect());
        let expected = [option("a", &["true"]), option("b", &["0.0000001", "2", "x"]), option("c", &["0.5"])];
        assert_eq!(point.options, expected);
        assert_eq!(sweep.point(3).options[1].1[0], "3");
    }
}
